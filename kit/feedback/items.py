"""The items people disagree on most: where the guidelines leave open what is better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.crowd.judgements import Judgement
from kit.crowd.votes import Votes

_DRAWN = 3.0  # person pairs' worth by which an item's share is drawn to the mean: two people who differ are no news


@dataclass(frozen=True)
class Item:
    """An item: the share of two people's votes on the same unit that differ, of how many annotators, and its text."""

    name: str
    disagreement: float
    annotators: int
    where: str
    text: str


def items_of(votes: Votes, rows: Sequence[Judgement], shown: int = 10) -> list[Item]:
    """The items with the most disagreement first, each drawn to the mean by its number of votes."""
    counts = np.zeros((len(votes.units), 3))
    np.add.at(counts, (votes.unit, np.rint(2 * votes.value).astype(np.intp)), 1.0)
    home = np.zeros(len(votes.units), dtype=np.intp)
    home[votes.unit] = votes.item
    n = counts.sum(1)
    compared = np.bincount(home, n * (n - 1) / 2, minlength=len(votes.items))
    alike = np.bincount(home, (counts * (counts - 1) / 2).sum(1), minlength=len(votes.items))
    if not compared.any():
        return []
    differ = compared - alike
    mean = differ.sum() / compared.sum()
    units = np.maximum(np.bincount(home[n > 1], minlength=len(votes.items)), 1)
    drawn = (differ / units + _DRAWN * mean) / (compared / units + _DRAWN)
    first: dict[str, Judgement] = {}
    for row in rows:
        first.setdefault(row.item, row)
    people = [set[int]() for _ in votes.items]
    for item, who in zip(votes.item, votes.who, strict=True):
        people[item].add(int(who))
    order = [at for at in np.lexsort((-compared, -drawn)) if differ[at] > 0][:shown]
    return [
        Item(
            votes.items[at],
            float(differ[at] / compared[at]),
            len(people[at]),
            first[votes.items[at]].where,
            first[votes.items[at]].text,
        )
        for at in order
    ]
