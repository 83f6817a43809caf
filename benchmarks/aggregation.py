"""How many true orders of two answers come out of the votes of people of whom some are careless or adversaries.

    python benchmarks/aggregation.py --files 20

Simulated annotators (benchmarks/simulated_annotators.py) judge items whose truth is known; the rows are read as
training reads them, with `data.votes: majority` and `reliability`. Of all pairs of answers that anybody judged: put as
the truth puts them, put the other way round, and left out. 95 % intervals of the difference are over files.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from simulated_annotators import simulate

from kit.config import DataSettings
from kit.data.convert import read_pairs
from kit.data.files import Row
from kit.data.sources import Source


@dataclass(frozen=True)
class Case:
    """Who judges, how many items, and how."""

    name: str
    kinds: tuple[str, ...]
    items: int
    k: int
    per_item: int


FIVE_OF_EIGHT = (*["honest"] * 5, "careless", "careless", "adversarial")
THREE_OF_FIVE = (*["honest"] * 3, "careless", "adversarial")
CASES = [
    Case("7 honest; pairs, 3 people an item", ("honest",) * 7, 300, 2, 3),
    Case("5 honest, 2 careless, 1 adversary; pairs, 3 an item", FIVE_OF_EIGHT, 300, 2, 3),
    Case("the same, 2 an item", FIVE_OF_EIGHT, 300, 2, 2),
    Case("the same; rankings of 4, 3 an item", FIVE_OF_EIGHT, 80, 4, 3),
    Case("3 honest, 1 careless, 1 adversary; rankings of 4, 5 an item", THREE_OF_FIVE, 60, 4, 5),
]


@dataclass(frozen=True)
class Outcome:
    """Shares of the pairs of answers that were judged."""

    right: float
    wrong: float
    left_out: float


def outcome(rows: list[dict], votes: str) -> Outcome:
    """What the pairs of a file of judgements say, held against the truth."""
    quality: dict[str, float] = {}
    units: set[tuple[str, str]] = set()
    told = []
    for number, row in enumerate(rows, 1):
        home = row.get("repeat_of", row["item"])
        texts = [f"{home} {name}" for name in row["answers"]]
        quality |= dict(zip(texts, row["quality"], strict=True))
        units |= {(one, two) for at, one in enumerate(texts) for two in texts[at + 1 :]}
        told.append(Row(f"simulated row {number}", row | {"texts": texts, "prompt": home}))
    pairs = read_pairs(Source("simulated", told, head=told[:100]), DataSettings(votes=votes)).rows
    right = sum(quality[pair.chosen] > quality[pair.rejected] for pair in pairs)
    return Outcome(right / len(units), (len(pairs) - right) / len(units), 1 - len(pairs) / len(units))


def main() -> None:
    """Print the table of docs/labels.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20, help="simulated files of each case")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(
        "| people | majority: right | wrong | left out | reliability: right | wrong | left out | right, more (95 %) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for case in CASES:
        found = []
        for file in range(asked.files):
            rows = simulate(
                case.kinds, case.items, case.k, case.per_item, seed=asked.seed + file, noise=(0.3, 0.9), truth=True
            )
            found.append([outcome(rows, votes) for votes in ("majority", "reliability")])
        more = np.array([weighed.right - plain.right for plain, weighed in found])
        half = 1.96 * more.std(ddof=1) / len(more) ** 0.5
        cells = [
            f"{100 * np.mean([getattr(both[at], name) for both in found]):.1f} %"
            for at in (0, 1)
            for name in ("right", "wrong", "left_out")
        ]
        print(f"| {case.name} | {' | '.join(cells)} | {100 * more.mean():+.1f} ± {100 * half:.1f} |", flush=True)


if __name__ == "__main__":
    main()
