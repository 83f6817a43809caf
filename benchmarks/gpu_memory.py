"""The kit's memory on a GPU beside what `kit plan` predicts: every stage, models of 0.5 to 32 B parameters, offline.

    python benchmarks/gpu_memory.py                                  # all cases, and docs/benchmarks.md anew
    python benchmarks/gpu_memory.py --cases 7B 8B --stages sft reward ppo --minutes 5 --out build/memory.json
    python benchmarks/gpu_memory.py --predict-only                   # no GPU: what the plan predicts, marked as such
    python benchmarks/gpu_memory.py --toy                            # every code path on the CPU; half a minute

Nothing is downloaded and no weights are written. The kit's own loader makes each model from its config.json alone: the
tensors are drawn at random on the device, one at a time, and quantised there as those of a checkpoint would be. Then
the kit's own stage functions run on rows of full length: two optimizer steps of two micro-batches of SFT, reward model
and DPO; one rollout of PPO, with AdamW's moments in memory from the start, as in all rollouts but the first; and a
comparison of SFT and PPO. `--stages` also takes rloo and grpo.

torch gets no more than the card of each case has, less CUDA's context: running out of memory is a result. A case is a
process of its own (benchmarks/gpu_memory_worker.py). The first case is alone on the device; where that is large enough
several of the others then run side by side, and take the first one's context for theirs. After each case the tables so
far are printed. After `--minutes` what still runs is stopped, and the rest is marked as not measured.

Prints for each stage bytes predicted and measured, the error, and the goals; `--out` writes all of it as JSON, and
`--from` takes such a file's numbers for what is not measured now. Exits with 1 where a goal is missed, and with 2 where
nothing could be measured.

How long it takes was estimated, not measured: a case 1 to 3 minutes, which go into sampling token by token, some 0.03 s
each for 28 layers, 512 for PPO and twice as many for the comparison. So about 17 minutes one by one, 7 minutes four at
once. `--response-tokens` shortens that, and then the goals, which are for 512, are not judged.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_memory_cases import CASES, ONLINE, STAGES, TOYS, Case
from gpu_memory_page import goals, page, rows, tables

from kit.models.plan.card import find_card

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
SIDE_BY_SIDE = 4
OUT_OF_TIME = "not measured: out of time"


class Bench:
    """Runs cases, each in a process of its own, until the minutes are over; `found` grows with every stage."""

    def __init__(self, stages: Sequence[str], minutes: float, memory_gib: float | None) -> None:
        self.stages, self.memory_gib = list(stages), memory_gib
        self.until = time.monotonic() + 60 * minutes
        self.found: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()

    def run(self, cases: Sequence[Case], at_once: int, told: Any) -> None:
        """Measure the cases, the first one alone; `told()` is called after each of them."""
        first = 0 if cases[0].on_cpu else 1
        for part, alone in ((cases[:first], True), (cases[first:], at_once == 1)):
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(lambda case, alone=alone: self._case(case, alone, told), part))

    def _case(self, case: Case, alone: bool, told: Any) -> None:
        stages: dict[str, dict] = {}
        with self.lock:
            self.found[case.name] = {"case": asdict(case), "stages": stages}
        with tempfile.TemporaryDirectory(prefix="gpu-memory-") as folder:
            why = self._worker(case, alone, Path(folder), stages)
        with self.lock:
            for stage in self.stages:
                stages.setdefault(stage, {"error": why})
            told()

    def _worker(self, case: Case, alone: bool, folder: Path, stages: dict[str, dict]) -> str:
        """Fill `stages` with what the process tells; why it told no more."""
        left = max(0.0, self.until - time.monotonic())
        task = {
            "case": asdict(case), "stages": self.stages, "folder": str(folder), "alone": alone,
            "card_gib": self.memory_gib,
        }  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if case.on_cpu:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "benchmarks" / "gpu_memory_worker.py"), json.dumps(task)]
        with (
            open(folder / "log", "w+", encoding="utf-8") as log,
            subprocess.Popen(
                command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
            ) as process,
        ):  # fmt: skip
            late = threading.Timer(left, process.kill)
            late.start()
            try:
                for line in process.stdout or ():
                    if line.startswith("{"):  # libraries below Python print what they like
                        self._note(case, json.loads(line), stages)
                code = process.wait()
            finally:
                late.cancel()
            log.seek(0)
            errors = log.read()
        if any(told.get("error") for told in stages.values()) or code:
            print(f"{case.name}: the end of its log:\n{errors[-3000:]}", file=sys.stderr)
        if code and time.monotonic() >= self.until:
            return OUT_OF_TIME
        return f"the process ended with code {code}"

    def _note(self, case: Case, told: dict[str, Any], stages: dict[str, dict]) -> None:
        stage = told.pop("stage", None)
        with self.lock:
            if stage is None:
                self.found[case.name] |= told
                return
            stages[stage] = told
        print(f"{case.name} {stage}: {told.get('error') or told['seconds']}", file=sys.stderr, flush=True)


def print_tables(cases: Sequence[Case], found: dict[str, Any], stages: Sequence[str]) -> None:
    table = rows([case for case in cases if case.name in found], found, stages)
    print("\nGiB", *tables(table), sep="\n\n", flush=True)


def about_this_run(found: dict[str, Any]) -> dict[str, Any]:
    """Date, device and versions."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    devices = dict.fromkeys(one["device"] for one in found.values() if "device" in one)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": ", ".join(devices),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "commit": commit.stdout.strip() or "unknown",
        "command": "python " + shlex.join(["benchmarks/gpu_memory.py", *_without_files(sys.argv[1:])]),
    }


def _without_files(arguments: Sequence[str]) -> list[str]:
    """The arguments that decide what is measured; where the results go is nobody's business."""
    files = {"--out", "--page", "--from"}
    return [a for before, a in zip(["", *arguments], arguments, strict=False) if not {before, a} & files]


def measured(found: dict[str, Any]) -> bool:
    """Whether there is any number; a page without one would only lose those of an earlier run."""
    return any("tensor_bytes" in told for one in found.values() for told in one["stages"].values())


def write(file: Path | None, text: str) -> None:
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--stages", nargs="+", choices=[*STAGES, *ONLINE], default=STAGES, metavar="STAGE")
    parser.add_argument("--minutes", type=float, default=10, help="after which what is left is not measured")
    parser.add_argument("--at-once", type=int, help="cases side by side; default: at most 4, as the device has room")
    parser.add_argument("--memory-gib", type=float, help="of the card that is emulated; default: each case's own")
    parser.add_argument("--response-tokens", type=int, default=512, help="fewer are sampled faster")
    parser.add_argument("--predict-only", action="store_true", help="measure nothing; needs no GPU")
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU: tries the code; writes no page")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    parser.add_argument("--from", dest="before", type=Path, help="JSON of an earlier run, kept where nothing is new")
    parser.add_argument("--page", type=Path, help="write the page there; default: docs/benchmarks.md, of a toy nowhere")
    arguments = parser.parse_args()

    cases = TOYS if arguments.toy else [replace(case, response_tokens=arguments.response_tokens) for case in CASES]
    before = json.loads(arguments.before.read_text(encoding="utf-8")) if arguments.before else {}
    kept, about = before.get("cases", {}), before.get("about")
    stages = [stage for stage in (*STAGES[:-1], *ONLINE, STAGES[-1]) if stage in arguments.stages]
    place = arguments.page or (None if arguments.toy else PAGE)
    bench = Bench(stages, arguments.minutes, arguments.memory_gib)

    def told() -> None:
        found = kept | bench.found
        print_tables(cases, found, stages)
        report = {"about": about_this_run(found), "cases": found}
        write(arguments.out, json.dumps(report, indent=1) + "\n")
        if measured(bench.found):
            write(place, page(cases, found, report["about"]))

    if arguments.predict_only:
        print_tables(cases, {case.name: {"case": asdict(case), "stages": {}} for case in cases} | kept, stages)
        write(place, page(cases, kept, about))
        return 0
    card = find_card()
    room = int(card.gib // max(case.card_gib for case in cases)) if card else 1
    at_once = arguments.at_once or (len(TOYS) if arguments.toy else max(1, min(SIDE_BY_SIDE, room)))
    bench.run([case for case in cases if not arguments.cases or case.name in arguments.cases], at_once, told)
    if not measured(bench.found):
        return 2
    return int(any(goal.met is False for goal in goals(rows(cases, kept | bench.found, stages))))


if __name__ == "__main__":
    sys.exit(main())
