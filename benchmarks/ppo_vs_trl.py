"""PPO's speed and memory beside TRL 1.12.0, the last release with a PPOTrainer: same model, prompts, batch and lengths.

    python benchmarks/ppo_vs_trl.py                            # CPU, float32 and NF4; a CUDA GPU where there is one
    python benchmarks/ppo_vs_trl.py --cases cpu-fp32 --rounds 5 --threads 2 --out build/speed.json
    python benchmarks/ppo_vs_trl.py --cases cuda-1.5b --memory-gib 24
    python benchmarks/ppo_vs_trl.py --toy                      # every code path at toy size on the CPU; 7 minutes

TRL 1.12.0 is put beside the current one (`pip install --no-deps --target build/trl-1.12.0`) and runs unmodified. Every
measurement is a process of its own (benchmarks/ppo_workers.py): one rollout with its update to warm up, then two that
count. The sides take turns (A B A B …), so that a noisy machine hits all alike, and ratios are taken round by round.

Prints for each case and side the median over the rounds: episodes per second, the seconds of a rollout with its update
split into generation, scoring, training and the rest (TRL's is garbage collection), the peak of memory above the idle
process (on a GPU: allocated; the JSON holds what was reserved as well). Below them the ratios of each round, their
median, and the target. `--out` writes it all as JSON. Exits with 1 where a target is missed, and stops where the
responses of two sides differ in length by more than 2 %.

Sides: `kit-adapter` and `kit-shared` are the kit with a critic of its own and with a value head on the policy. `trl` is
TRL 1.12 with a LoRA policy of the kit's shape; its value model is trained whole, as TRL does it. `trl-full` trains the
policy whole as well. On a 4-bit base TRL's value model keeps its linear layers frozen; so it trains less there.
On a GPU `trl` is tuned (bfloat16, the largest micro-batch that fits) and `trl-full` is its example as shipped (float32,
micro-batch 1, examples/scripts/ppo/ppo_tldr.py); `sft` is the kit's SFT stage, whose peak PPO's is compared with.
The goals on speed there are for the kit in bfloat16, as TRL is; its 4-bit ratios are printed beside. The base lies in
the temporary folder (TMPDIR) meanwhile, 15 GB for the 7B shape, as 4-bit weights can only be made from a file.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from ppo_cases import CPU_CASES, CUDA_CASES, TRL_VERSION, Case, Side, Target, at_toy_size

ROOT = Path(__file__).resolve().parents[1]
TRL_FOLDER = ROOT / "build" / f"trl-{TRL_VERSION}"
UPDATES = 2  # measured in each process, after one that is not
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
SPLIT = ("rollout", "scoring", "training", "rest")


# ---- measuring --------------------------------------------------------------------------------------------------


class Bench:
    """Runs one worker at a time, each in a process of its own, on the same threads and GPU memory."""

    def __init__(self, threads: int, memory_gib: float | None) -> None:
        self.threads, self.memory_gib = threads, memory_gib

    def worker(self, case: Case, folder: Path, side: Side | None = None, updates: int = UPDATES) -> dict:
        """What the worker found; without a side it makes the models of the case in `folder`."""
        task = {
            "case": asdict(replace(case, sides={}, targets=())), "side": side and asdict(side), "folder": str(folder),
            "updates": updates, "memory_gib": self.memory_gib,
        }  # fmt: skip
        paths = [str(TRL_FOLDER)] * (side is not None and side.trainer == "trl") + [str(ROOT)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1",
        }  # fmt: skip
        if case.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, str(ROOT / "benchmarks" / "ppo_workers.py"), json.dumps(task)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            tail = "\n".join(done.stderr.splitlines()[-25:])
            raise SystemExit(f"{case.name}: {side or 'making the models'} failed:\n{tail}")
        return json.loads(done.stdout.splitlines()[-1])

    def fitting(self, case: Case, folder: Path, side: Side) -> Side | None:
        """The side with the first micro-batch that fits, at the largest chunk with which one does; None: none does."""
        options = [
            replace(side, micro_batches=(micro,), chunks=(chunk,))
            for chunk in dict.fromkeys(side.chunks)
            for micro in dict.fromkeys(side.micro_batches)
        ]
        if len(options) == 1:
            return options[0]
        # Two updates: the optimizer's moments are there only from the second rollout on.
        return next((o for o in options if not self.worker(case, folder, o, updates=1).get("out_of_memory")), None)

    def measure(self, case: Case, rounds: int) -> tuple[dict[str, dict | None], list[dict[str, dict]]]:
        """The settings each side ran with (None: it does not fit), and what each round found for each side."""
        with tempfile.TemporaryDirectory(prefix="ppo-speed-") as name:
            folder = Path(name)
            self.worker(case, folder)
            fitted = {side: self.fitting(case, folder, how) for side, how in case.sides.items()}
            found = []
            for number in range(rounds):
                found.append({})
                for side, how in fitted.items():
                    if how is not None:
                        print(f"{case.name}: round {number + 1} of {rounds}, {side}", file=sys.stderr)
                        found[-1][side] = self.worker(case, folder, how)
        fits = {
            side: how and not any(r.get(side, {}).get("out_of_memory") for r in found) for side, how in fitted.items()
        }
        kept = [{side: result for side, result in a_round.items() if fits[side]} for a_round in found]
        return {side: asdict(how) if fits[side] else None for side, how in fitted.items()}, kept


def check_lengths(case: Case, rounds: list[dict[str, dict]]) -> None:
    """Stop where sides answered at different lengths: the ratios would compare different work."""
    lengths = [(r["response_tokens"], side) for found in rounds for side, r in found.items() if r["updates"]]
    if lengths and max(lengths)[0] > 1.02 * min(lengths)[0]:
        raise SystemExit(f"{case.name}: mean response tokens differ by more than 2 %: {min(lengths)}, {max(lengths)}")


# ---- the report -------------------------------------------------------------------------------------------------


def episodes_per_second(case: Case, result: dict) -> float:
    return case.rollout * len(result["updates"]) / sum(update["total"] for update in result["updates"])


def ratios(case: Case, rounds: list[dict[str, dict]], targets: tuple[Target, ...]) -> Iterator[dict]:
    """Each target with its ratio round by round, the median and a verdict."""
    for target in targets:
        pairs = [
            (found[target.side], found[target.beside])
            for found in rounds
            if {target.side, target.beside} <= found.keys()
        ]
        if target.measure == "speed":
            by_round = [episodes_per_second(case, a) / episodes_per_second(case, b) for a, b in pairs]
        else:
            by_round = [a["peak_bytes"] / b["peak_bytes"] for a, b in pairs]
        median = statistics.median(by_round) if by_round else None
        verdict = ""
        if target.goal is not None and median is not None:
            reached = median >= target.goal if target.measure == "speed" else median <= target.goal
            verdict = "ok" if reached else "missed"
        elif target.goal is not None and target.side not in rounds[0]:
            verdict = "missed"  # it does not fit
        yield {**asdict(target), "by_round": by_round, "median": median, "verdict": verdict}


def print_sides(case: Case, settings: dict[str, dict | None], rounds: list[dict[str, dict]]) -> None:
    """The case, and a line for each side: medians over the rounds."""
    shape, epochs = case.shape, f"{case.epochs} PPO epoch{'s' * (case.epochs > 1)}"
    print(
        f"\n{case.name}: hidden {shape.hidden} x {shape.layers} layers, vocabulary {shape.vocabulary:,}, "
        f"{case.prompt_tokens} + {case.response_tokens} tokens, {case.rollout} responses a rollout, {epochs}"
    )
    print(f"  {'side':17} {'episodes/s':>10}  " + "".join(f"{part:>9}" for part in SPLIT) + "  peak GiB  micro-batch")
    for side, how in settings.items():
        if how is None:
            print(f"  {side:17} does not fit")
            continue
        results = [found[side] for found in rounds]
        peak = statistics.median(result["peak_bytes"] for result in results) / 2**30
        if how["trainer"] == "sft":
            speed, parts = "-", ["-"] * len(SPLIT)
        else:
            speed = f"{statistics.median(episodes_per_second(case, result) for result in results):.3g}"
            updates = [update for result in results for update in result["updates"]]
            parts = [f"{statistics.median(update[part] for update in updates):.2f}" for part in SPLIT]
        print(
            f"  {side:17} {speed:>10}  "
            + "".join(f"{p:>9}" for p in parts)
            + f"  {peak:8.2f}  {how['micro_batches'][0]}"
        )
        notes = {note for result in results for note in result["notes"]}
        print("".join(f"    {note}\n" for note in sorted(notes)), end="")


def print_ratios(found: list[dict]) -> None:
    for row in found:
        name = f"{row['measure']} {row['side']} / {row['beside']}"
        if row["median"] is None:
            print(f"  {name:44} one of the two does not fit  {row['verdict']}".rstrip())
            continue
        sign = ">=" if row["measure"] == "speed" else "<="
        goal = f"{sign} {row['goal']:.2f}" if row["goal"] is not None else ""
        each = " ".join(f"{ratio:.2f}" for ratio in row["by_round"])
        print(f"  {name:44} {each}  median {row['median']:.2f}  {goal:8} {row['verdict']}".rstrip())


def about_this_run(threads: int) -> dict:
    """Date, machine and versions, for the JSON."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "system": platform.platform()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "trl_compared": TRL_VERSION,
        "commit": commit.stdout.strip() or None,
        "command": "python " + shlex.join(["benchmarks/ppo_vs_trl.py", *sys.argv[1:]]),
    }


# ---- the command ------------------------------------------------------------------------------------------------


def install_trl() -> None:
    """TRL's last release with PPO, in a folder of its own: the environment keeps the TRL that the kit needs."""
    if not (TRL_FOLDER / "trl").is_dir():
        print(f"installing trl=={TRL_VERSION} into {TRL_FOLDER.relative_to(ROOT)}", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(TRL_FOLDER)]
        subprocess.run([*pip, f"trl=={TRL_VERSION}"], check=True)


def chosen_cases(arguments: argparse.Namespace) -> list[Case]:
    """The cases whose names begin as asked, or all that this machine can run, with the sides that were asked for."""
    cases = CPU_CASES + CUDA_CASES
    if arguments.cases:
        cases = [case for case in cases if case.name.startswith(tuple(arguments.cases))]
    elif not arguments.toy and not has_gpu():
        cases = CPU_CASES
    chosen = []
    for case in cases:
        case = at_toy_size(case) if arguments.toy else case
        default = [side for side in case.sides if case.device == "cuda" or arguments.toy or side != "trl-full"]
        sides = {name: side for name, side in case.sides.items() if name in (arguments.sides or default)}
        if arguments.micro_batch:
            sides = {name: at_micro_batch(side, arguments.micro_batch) for name, side in sides.items()}
        targets = tuple(t for t in case.targets if {t.side, t.beside} <= sides.keys())
        chosen.append(replace(case, sides=sides, targets=targets))
    return [case for case in chosen if case.sides]


def at_micro_batch(side: Side, size: int) -> Side:
    """The side at this micro-batch; TRL's on a GPU keep theirs, which is part of what they are."""
    return side if len(side.chunks) > 1 else replace(side, micro_batches=(size,))


def has_gpu() -> bool:
    """Asked in another process: a worker's peak resident memory begins at that of the process which starts it."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ", ".join(case.name for case in CPU_CASES + CUDA_CASES)
    parser.add_argument("--cases", nargs="+", help=f"names or how they begin: {names}; default: all that can run here")
    parser.add_argument("--sides", nargs="+", help="sides to run; default: all, on the CPU without trl-full")
    parser.add_argument("--rounds", type=int, default=3, help="how often every side is measured, in turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of each worker")
    parser.add_argument(
        "--micro-batch", type=int, help="responses in memory at once; TRL's on a GPU stay what they are"
    )
    parser.add_argument("--memory-gib", type=float, help="let each worker have this much of the GPU's memory")
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU: tries the code, measures nothing")
    parser.add_argument("--out", type=Path, help="write date, machine, versions and raw numbers as JSON")
    arguments = parser.parse_args()
    cases = chosen_cases(arguments)
    if not cases:
        parser.error(f"no such case or side; cases: {names}")

    install_trl()
    bench = Bench(arguments.threads, arguments.memory_gib)
    report = {**about_this_run(arguments.threads), "memory_gib": arguments.memory_gib, "cases": []}
    for case in cases:
        settings, rounds = bench.measure(case, arguments.rounds)
        check_lengths(case, rounds)
        found = list(ratios(case, rounds, case.targets))
        print_sides(case, settings, rounds)
        print_ratios(found)
        report["cases"].append({**asdict(case), "sides": settings, "rounds": rounds, "ratios": found})
        if arguments.out:  # after every case: a later one may take hours
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(row["verdict"] == "missed" for case in report["cases"] for row in case["ratios"]))


if __name__ == "__main__":
    sys.exit(main())
