"""Each annotator by plain counts: agreement with the rest and with gold, repeats, position, length, time."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.crowd.judgements import Judgement
from kit.crowd.votes import Votes
from kit.feedback.alpha import Estimate
from kit.statistics import share

Floats = NDArray[np.float64]
_VERDICTS = 3


@dataclass(frozen=True)
class Person:
    """What is counted of one annotator; None is unknown: the file does not say, or nobody else judged the same."""

    name: str
    group: str | None
    judgements: int
    agreement: Estimate | None  # share of others' votes on the same units that say the same
    gold: Estimate | None  # share of the gold's pairs put as the gold puts them, ties half
    consistency: Estimate | None  # share of the votes of repeats that say what the first ones said
    first_wins: Estimate | None  # share of pairs in which the answer shown earlier won, ties half
    longer_wins: Estimate | None
    seconds_median: float | None


def people_of(votes: Votes, rows: Sequence[Judgement]) -> list[Person]:
    """All annotators, in the order of their numbers."""
    same = matches(votes)
    by: defaultdict[str, list[Judgement]] = defaultdict(list)
    for row in rows:
        by[row.annotator].append(row)
    pairs = votes.scale == 0
    found = []
    for who, name in enumerate(votes.people):
        mine = votes.who == who
        seconds = [row.seconds for row in by[name] if row.seconds is not None]
        again = np.array([float(one == two) for person, one, two in votes.again if person == who])
        gold, homes = _gold(by[name])
        found.append(
            Person(
                name,
                next((row.group for row in by[name] if row.group is not None), None),
                len(by[name]),
                _estimate(same[mine], votes.item[mine]),
                _estimate(gold, homes),
                _estimate(again, np.arange(len(again))),
                _wins(votes, mine & pairs, votes.position),
                _wins(votes, mine & pairs, votes.length),
                float(np.median(seconds)) if seconds else None,
            )
        )
    return found


def matches(votes: Votes) -> Floats:
    """Of each vote the share of the other people's votes on its unit that say the same [n]; NaN where there is none."""
    verdict = np.rint(2 * votes.value).astype(np.intp)
    counts = np.zeros((len(votes.units), _VERDICTS))
    np.add.at(counts, (votes.unit, verdict), 1.0)
    others = counts.sum(1)[votes.unit] - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(others > 0, (counts[votes.unit, verdict] - 1) / others, np.nan)


def _wins(votes: Votes, mine: NDArray[np.bool_], side: Floats) -> Estimate | None:
    """How often the answer on the positive side (earlier, longer) won."""
    use = mine & np.isfinite(side) & (side != 0)
    return _estimate(np.where(side[use] > 0, votes.value[use], 1 - votes.value[use]), votes.item[use])


def _gold(rows: Sequence[Judgement]) -> tuple[Floats, NDArray[np.intp]]:
    """(how each pair that gold orders was put: 1, 0 or 0.5 for a tie; the number of its item)."""
    told, homes, items = [], [], dict[str, int]()
    for row in rows:
        if row.gold is None:
            continue
        known = [(v, g) for v, g in zip(row.values, row.gold, strict=True) if v is not None and g is not None]
        for index, (value, right) in enumerate(known):
            for other, other_right in known[index + 1 :]:
                if right != other_right:
                    told.append(0.5 + 0.5 * np.sign(value - other) * np.sign(right - other_right))
                    homes.append(items.setdefault(row.item, len(items)))
    return np.array(told, dtype=np.float64), np.array(homes, dtype=np.intp)


def _estimate(outcomes: Floats, items: NDArray) -> Estimate | None:
    """A share over outcomes, its interval over items, ignoring NaN."""
    known = np.isfinite(outcomes)
    if not known.any():
        return None
    homes = [int(item) for item in items[known]]
    mean, low, high = share(outcomes[known], homes)
    return Estimate(mean, (low, high) if len(set(homes)) > 1 else None, len(set(homes)))
