"""Kill a run with SIGKILL at random moments, resume it, and compare with the run that nobody killed.

    python tests/kill_and_resume.py [--seeds 40] [--first 0]

The run is the quickstart at toy size: every stage, LoRA dropout on, the comparison. Of each seed, the run is killed one
to three times, at a random moment or right before a random one of its operations on files (a file opened for writing,
renamed, removed, a folder made: the moments between files included), then run to its end. What has to hold: every
adapter, log, snapshot and answer is that of the unbroken run to the byte (but for clocks), the ledger says so, nothing
half-written is left, and none was ever taken for a whole one.

Each attempt is a forked copy of this process, which has imported everything: a kill costs no start-up.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOY = {
    "seed": 0,
    "lora": {"rank": 4, "dropout": 0.1},
    "data": {"preferences": "demo", "eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 32},
    "sft": {"max_steps": 6, "batch_size": 8},
    "reward": {"max_steps": 6, "batch_size": 8},
    "dpo": {"max_steps": 6, "batch_size": 8, "snapshots": 2},
    # A reward model of so few steps is at chance, where PPO would not start; an untrained model ends no turn.
    "ppo": {
        "episodes": 48, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 2, "snapshots": 2, "force": True,
        "guards_off": ["eos", "length", "critic"],
    },
    "compare": {"prompts": 8, "validation_prompts": 6, "best_of": 2},
}  # fmt: skip
_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile"}
_CLOCKS = re.compile(r'"(seconds/\w+|step_time|eval_runtime|eval_\w+_second|(train_)?seconds|peak_bytes)": [^,}\]]+')


class Attempt:
    """A forked process that runs the toy in `folder`, and is killed at the `write`-th operation on files of the run, or
    after `seconds`. `writes` is how many there were; `status` the exit status, None where it was killed."""

    def __init__(self, folder: Path, write: int | None = None, seconds: float | None = None) -> None:
        counted, told = os.pipe()
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _run(folder, write, seconds, told)
        os.close(told)
        with os.fdopen(counted, "rb") as pipe:
            self.writes = len(pipe.read())
        _, status = os.waitpid(child, 0)
        self.seconds = time.monotonic() - started
        self.status = os.waitstatus_to_exitcode(status)
        self.killed = self.status == -signal.SIGKILL


def _run(folder: Path, write: int | None, seconds: float | None, told: int) -> None:
    """In the forked process: the run, and the end of it."""
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    inside, count = str(folder / "runs"), 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        opened = event == "open" and isinstance(arguments[1], str) and not set(arguments[1]).isdisjoint("wax+")
        if not (opened or event in _WRITES) or not str(arguments[0]).startswith(inside):
            return
        count += 1
        if count == write:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(told, b".")

    sys.addaudithook(watch)
    if seconds is not None:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    code = 1
    try:
        from toy import base_folder

        import kit

        kit.run_pipeline(TOY, model={"base": str(base_folder())}, output_dir=inside, name="toy")
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def state(folder: Path) -> dict[str, str]:
    """Every file of a run: its SHA-256, with what a clock measured left out of JSON."""
    run, found = folder / "runs" / "toy", {}
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        if not file.is_file() or name in (".lock", "compare/report.html", "compare/report.md", "config.yaml"):
            continue  # these hold the seconds of a run, or its place
        content = file.read_bytes()
        if file.suffix in (".json", ".jsonl"):
            content = _CLOCKS.sub("", content.decode()).replace(str(folder), "").encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def one(seed: int, whole: dict[str, str], writes: int, seconds: float, place: Path) -> list[str]:
    """What differs, in lines, after the run of a seed was killed and resumed; none is as it should be."""
    folder, draw = place / f"seed-{seed}", random.Random(seed)
    folder.mkdir()
    said = []
    for _ in range(draw.choice([1, 1, 2, 3])):
        left = 1 - len(said) / 3  # of the run, about, after the kills before
        if draw.random() < 0.6:
            moment = {"write": draw.randint(1, round(writes * left))}
        else:
            moment = {"seconds": draw.uniform(0.05, seconds * left)}
        attempt = Attempt(folder, **moment)
        what = ", ".join(f"{name} {at:.4g}" for name, at in moment.items())
        said.append(what + ("" if attempt.killed else " (came too late)"))
        if not attempt.killed:
            break
    last = Attempt(folder)
    log = (folder / "log.txt").read_text(errors="replace")
    problems = []
    if last.status:
        problems.append(f"the last run ended with {last.status}:\n{log[-1500:]}")
    else:
        here = state(folder)
        problems += [f"{name} differs" for name in whole if here.get(name) != whole[name]]
        problems += [f"{name} is left over" for name in here if name not in whole]
        problems += [f"looked whole and was not: {line}" for line in log.splitlines() if "damaged" in line]
    print(f"seed {seed:3}: killed at {'; '.join(said)}: {'; '.join(problems) or 'identical'}", flush=True)
    if not problems:
        shutil.rmtree(folder)
    return problems


def prepare() -> None:
    """Import what a run imports, in one thread, so that the forks need not."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import torch
    import trl  # noqa: F401
    from toy import base_folder

    torch.set_num_threads(1)
    base_folder()


def kill_and_resume(seeds: list[int]) -> list[str]:
    """Run all seeds; what differed, in lines."""
    prepare()
    with tempfile.TemporaryDirectory(prefix="kit-kill-") as made:
        place = Path(made).resolve()
        (place / "whole").mkdir()
        unbroken = Attempt(place / "whole")
        if unbroken.status:
            return [f"the unbroken run failed:\n{(place / 'whole' / 'log.txt').read_text()[-3000:]}"]
        print(f"unbroken: {unbroken.seconds:.1f} s, {unbroken.writes} operations on files", flush=True)
        whole = state(place / "whole")
        problems = []
        for seed in seeds:
            problems += [f"seed {seed}: {text}" for text in one(seed, whole, unbroken.writes, unbroken.seconds, place)]
        return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    arguments = parser.parse_args()
    problems = kill_and_resume(list(range(arguments.first, arguments.first + arguments.seeds)))
    print(f"{arguments.seeds} seeds, {len(problems)} problems")
    for text in problems:
        print(text)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
