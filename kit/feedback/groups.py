"""Agreement within and across groups of annotators, and what alpha is without each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.crowd.judgements import Judgement
from kit.crowd.votes import Votes
from kit.feedback.alpha import Estimate, alpha_nominal, alpha_ordinal
from kit.feedback.people import Person
from kit.statistics import mean_over_groups


@dataclass(frozen=True)
class Group:
    """One group: agreement (share of equal votes of two people) inside, with the others, and alpha without it."""

    name: str
    annotators: int
    within: Estimate | None
    across: Estimate | None
    alpha_without: Estimate | None


def groups_of(votes: Votes, rows: Sequence[Judgement], people: Sequence[Person]) -> list[Group]:
    """The groups by name; none where fewer than two are named. Alpha is nominal, of ratings ordinal."""
    names = sorted({person.group for person in people if person.group is not None})
    if len(names) < 2:
        return []
    of = {person.name: person.group for person in people}
    group = np.array([names.index(of[name]) if of[name] is not None else -1 for name in votes.people])[votes.who]  # type: ignore[arg-type]
    verdict = np.rint(2 * votes.value).astype(np.intp)
    found = []
    for number, name in enumerate(names):
        inside, outside = np.zeros((len(votes.units), 3)), np.zeros((len(votes.units), 3))
        np.add.at(inside, (votes.unit[group == number], verdict[group == number]), 1.0)
        other = (group != number) & (group >= 0)
        np.add.at(outside, (votes.unit[other], verdict[other]), 1.0)
        n, m = inside.sum(1), outside.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            within = (inside * (inside - 1)).sum(1) / (n * (n - 1))
            across = (inside * outside).sum(1) / (n * m)
        without = [row for row in rows if of[row.annotator] != name]
        alpha = alpha_nominal(votes, group != number) if (votes.scale == 0).any() else alpha_ordinal(without)
        count = sum(person.group == name for person in people)
        found.append(Group(name, count, _mean(within, votes), _mean(across, votes), alpha))
    return found


def _mean(shares: np.ndarray, votes: Votes) -> Estimate | None:
    """Mean of the units' shares, NaN left out, with its interval over items."""
    known = np.flatnonzero(np.isfinite(shares))
    if not len(known):
        return None
    home = np.zeros(len(votes.units), dtype=np.intp)
    home[votes.unit] = votes.item
    homes = [int(item) for item in home[known]]
    mean, low, high = mean_over_groups(shares[known], homes)
    return Estimate(mean, (low, high) if len(set(homes)) > 1 else None, len(set(homes)))
