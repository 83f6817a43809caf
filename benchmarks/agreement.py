"""How many simulated annotators with a fault `kit agreement` names rightly, and how many honest ones wrongly.

    python benchmarks/agreement.py                    # all cases, 30 files each: a quarter of an hour on one core
    python benchmarks/agreement.py --files 5 --cases "pairs, 100 each"

Each file of a case has as many honest people as it says, and one of each kind of fault (benchmarks/
simulated_annotators.py); half as many files more have honest people alone. Prints as a table, of each case: the share
of each kind that is named rightly ("named": rightly or as something else), how many days the change that was found is
from the true one (median), false names per honest annotator and per name given, and the share of files of honest
people alone that name anybody. Exits with 1 where a goal is missed: in the cases of 300 pairs each, and of 100 ranks of
5, each kind rightly in at least 80 %, false names at most 2 % of the honest, and 10 % of the honest files.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from simulated_annotators import DAY, KINDS, START, simulate

from kit.feedback.agreement import Agreement, agreement

NAMES = {"careless": "careless", "adversarial": "adversarial", "always-left": "position", "likes-long": "length",
         "drifting": "drifting"}  # fmt: skip
DRIFT_DAY = 10
GOAL_NAMED, GOAL_HONEST, GOAL_FILES = 0.8, 0.02, 0.1


@dataclass(frozen=True)
class Case:
    name: str
    honest: int
    each: int  # judgements an annotator, repeats left out
    k: int = 2
    per_item: int = 3
    goal: bool = True

    def rows(self, seed: int, faults: bool) -> list[dict]:
        kinds = ["honest"] * (self.honest + (0 if faults else len(KINDS))) + (list(KINDS) if faults else [])
        items = self.each * len(kinds) // self.per_item
        return simulate(kinds, items, self.k, self.per_item, drift_day=DRIFT_DAY, seed=seed)


CASES = [
    Case("pairs, 50 each", 15, 50, goal=False),
    Case("pairs, 100 each", 15, 100, goal=False),
    Case("pairs, 300 each", 15, 300),
    Case("pairs, 150 each, five people an item", 15, 150, per_item=5, goal=False),
    Case("pairs, 300 each, few honest", 7, 300, goal=False),
    Case("ranks of 5, 40 each", 15, 40, k=5, goal=False),
    Case("ranks of 5, 100 each", 15, 100, k=5),
    Case("pairs, 300 each, 50 people", 45, 300),
]


def kinds_of(found: Agreement) -> dict[str, str]:
    return {flag.annotator: flag.kind for flag in found.flags}


def run(case: Case, files: int, seed: int) -> bool:
    rightly, named, days = Counter(), Counter(), []
    honest = false = given = alarmed = alone = 0
    for number in range(files):
        found = agreement(case.rows(seed + number, faults=True))
        kinds = kinds_of(found)
        given += len(kinds)
        for person in found.people:
            kind = person.name.rsplit("-", 1)[0]
            if kind == "honest":
                honest, false = honest + 1, false + (person.name in kinds)
                continue
            named[kind] += person.name in kinds
            rightly[kind] += kinds.get(person.name) == NAMES[kind]
            change = found.reliability[person.name].change
            if kind == "drifting" and kinds.get(person.name) == "drifting" and change:
                days.append(abs(change.time - START - DRIFT_DAY * DAY) / DAY)
        if number % 2 == 0:
            kinds = kinds_of(agreement(case.rows(seed + 10_000 + number, faults=False)))
            alone, alarmed = alone + 1, alarmed + bool(kinds)
    cells = [f"{100 * rightly[kind] / files:.0f} % ({100 * named[kind] / files:.0f})" for kind in KINDS]
    day = f"{np.median(days):.1f}" if days else "-"
    share, of_names, of_files = false / honest, false / max(given, 1), alarmed / alone
    print(f"| {case.name} | {' | '.join(cells)} | {day} | {100 * share:.1f} % | {100 * of_names:.1f} % | "
          f"{100 * of_files:.0f} % |", flush=True)  # fmt: skip
    reached = all(rightly[kind] / files >= GOAL_NAMED for kind in KINDS)
    return not case.goal or (reached and share <= GOAL_HONEST and of_files <= GOAL_FILES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=30)
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    started = datetime.now()
    print("| case | " + " | ".join(f"{kind}: rightly (named)" for kind in KINDS)
          + " | days off | false, of honest | false, of names | honest files with a name |")  # fmt: skip
    print("|" + " --- |" * (len(KINDS) + 5))
    good = [run(case, asked.files, asked.seed) for case in CASES if case.name in asked.cases]
    print(f"\n{asked.files} files a case, {(datetime.now() - started).total_seconds():.0f} s")
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
