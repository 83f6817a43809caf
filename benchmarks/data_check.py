"""`kit check` on a large file of preferences: seconds and peak memory beside their goals.

    python benchmarks/data_check.py [--rows 160000] [--file pairs.jsonl] [--base demo] [--runs 1]

Writes a file of conversations as HH-RLHF has them (its lengths and turns, words of no meaning) and runs `kit check` on
it, as a user does, in a process of its own. CPU seconds hold on a busy machine too; of several runs the best wall clock
counts. Exits with 1 where a goal is missed.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
GOAL_SECONDS, GOAL_BYTES, GOAL_ROWS = 60.0, 2 * 10**9, 160_000
SYLLABLES = [c + v + e for c in "bdfghklmnprstvw" for v in "aeiou" for e in ("", "n", "s", "t")]


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Pairs of transcripts: 1 to 4 questions, answers of about 40 words, as in HH-RLHF's harmless-base."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.choice((1, 1, 2, 2, 3)))) for _ in range(20_000)]
    weights = [1 / (rank + 2) for rank in range(len(words))]
    stock = draw.choices(words, weights, k=2_000_000)

    def said(mean: int) -> str:
        start = draw.randrange(len(stock) - 400)
        return " ".join(stock[start : start + max(2, int(draw.expovariate(1 / mean)))]).capitalize() + "."

    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            turns = "".join(
                f"\n\nHuman: {said(16)}\n\nAssistant: {said(32)}" for _ in range(draw.choice((0, 1, 1, 2, 3)))
            )
            prompt = f"{turns}\n\nHuman: {said(16)} ({number})\n\nAssistant: "
            file.write(json.dumps({"chosen": prompt + said(36), "rejected": prompt + said(36)}) + "\n")


class Cost(NamedTuple):
    """What one run of `kit check` took; peak_bytes is that of the largest run so far."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def check(path: Path, base: str, folder: Path) -> Cost:
    """The cost of `kit check` on a file of pairs; CalledProcessError where it finds what would stop a run."""
    config = folder / "config.yaml"
    settings = {"name": "bench", "output_dir": str(folder), "model": {"base": base}, "data": {"preferences": str(path)}}
    config.write_text(json.dumps(settings))  # JSON is YAML too
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "kit.cli", "check", str(config), "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, cpu, after.ru_maxrss * 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=GOAL_ROWS)
    parser.add_argument("--file", type=Path, help="check this file of pairs instead of writing one")
    parser.add_argument("--base", default="demo", help="the model whose tokenizer reads the texts")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = options.file or folder / "rows.jsonl"
        if not options.file:
            write_rows(path, options.rows)
        size = path.stat().st_size
        runs = [check(path.resolve(), options.base, folder) for _ in range(options.runs)]
    seconds, cpu = min(run.seconds for run in runs), min(run.cpu_seconds for run in runs)
    gigabytes = runs[-1].peak_bytes / 1e9
    print(f"{size / 1e6:,.0f} MB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, best of {len(runs)}")
    print(f"{'seconds, wall clock':22} {seconds:7.1f}    goal {GOAL_SECONDS:4.0f}   {verdict(seconds, GOAL_SECONDS)}")
    print(f"{'seconds, all cores':22} {cpu:7.1f}")
    print(f"{'peak GB':22} {gigabytes:7.2f}    goal {GOAL_BYTES / 1e9:4.0f}   {verdict(gigabytes, GOAL_BYTES / 1e9)}")
    return int(seconds > GOAL_SECONDS or gigabytes > GOAL_BYTES / 1e9)


def verdict(found: float, goal: float) -> str:
    return "ok" if found <= goal else "missed"


if __name__ == "__main__":
    sys.exit(main())
