"""How long a person waits before anything happens: `import kit` and `kit --help`, each in a process of its own.

    python benchmarks/startup.py [--runs 7]

Prints the median of the runs beside its goal. The start of Python itself is part of it, and has a line of its own.
Exits with 1 where a goal is missed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {  # name: (command, goal in seconds or None)
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import kit": ([sys.executable, "-c", "import kit"], 0.3),
    "kit --help": ([sys.executable, "-m", "kit.cli", "--help"], 0.6),
}


def seconds_of(command: list[str]) -> float:
    """Wall-clock seconds of one run, from outside the process."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs", type=int, default=7, help="runs of each command; the first, uncounted, warms the disk"
    )
    runs = parser.parse_args().runs
    missed = 0
    print(f"{'':16}  median     min     max    goal   ({runs} runs, seconds)")
    for name, (command, goal) in COMMANDS.items():
        seconds_of(command)
        times = [seconds_of(command) for _ in range(runs)]
        median = statistics.median(times)
        verdict = "" if goal is None else "ok" if median <= goal else "missed"
        missed += verdict == "missed"
        wanted = "     -" if goal is None else f"{goal:6.2f}"
        print(f"{name:16}  {median:6.3f}  {min(times):6.3f}  {max(times):6.3f}  {wanted}   {verdict}".rstrip())
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
