"""Whether judging changes with time: a change-point test for each annotator, and agreement by windows for all.

Each judgement has a mark of how it goes with the others' votes: the sum over its votes of w (r - m) (v - P), r what the
others' votes say, v the vote, P what the model gives a person of this eta. Where nothing changes, the marks' order is
arbitrary, whatever their distribution. The statistic is the largest standardised CUSUM over all days where a change
could have been (Page 1955; Hinkley 1971); its p-value is exact up to chance, by drawing orders (Good 2005).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kit.crowd.judgements import Judgement
from kit.crowd.model import GRID, Crowd, chance
from kit.crowd.votes import Votes
from kit.feedback.alpha import Estimate, alpha_nominal

Floats = NDArray[np.float64]
FEWEST = 20  # judgements in a sequence
_FIRST, _MORE = 400, 10_000  # orders drawn at first, and where the first ones leave it open
_BLOCK = 2_000_000
WINDOWS = 6


@dataclass(frozen=True)
class Change:
    """The likeliest change of one annotator: when, eta before and after, and the p-value against no change at all."""

    time: float  # seconds since 1970, of the first judgement after it
    eta_before: float
    eta_after: float
    after: int  # judgements since
    p: float


@dataclass(frozen=True)
class Window:
    """The judgements of one stretch of time: from the first to the last of them, how many, and alpha among them."""

    start: float
    end: float
    judgements: int
    alpha: Estimate | None


def change_of(votes: Votes, crowd: Crowd, rows: Sequence[Judgement], who: int, seed: int = 0) -> Change | None:
    """The change-point of one annotator; None where times are unknown or there are too few judgements."""
    mine = np.flatnonzero((votes.who == who) & (crowd.expected != 0.5))
    mine = mine[[rows[number].time is not None for number in votes.judgement[mine]]] if len(mine) else mine
    judged, at = np.unique(votes.judgement[mine], return_inverse=True)
    if len(judged) < FEWEST:
        return None
    times = np.array([rows[number].time for number in judged], dtype=np.float64)
    if np.ptp(times) == 0:
        return None
    m = crowd.habit[who, votes.scale[mine]]
    read = crowd.expected[mine]
    p = chance(np.full(len(mine), crowd.eta[who]), m, read)
    marks = np.bincount(at, votes.weight[mine] * (read - m) * (votes.value[mine] - p)).astype(np.float64)
    order = np.argsort(times, kind="stable")
    cut, p_value = change_point(marks[order], seed)
    late = np.isin(at, order[cut:])
    before, after = (_eta(votes, mine[side], m[side], read[side]) for side in (~late, late))
    return Change(float(times[order[cut]]), before, after, len(judged) - cut, p_value)


def change_point(marks: Floats, seed: int = 0) -> tuple[int, float]:
    """(index of the first mark after the likeliest change of the mean, p-value) of marks [n] in their order."""
    statistic = cusum(marks[None])[0]
    cut = margin(len(marks)) + int(statistic.argmax())
    rng, more, drawn = np.random.default_rng(seed), 0, 0
    for goal in (_FIRST, _MORE):
        while drawn < goal:
            rows = min(goal - drawn, max(1, _BLOCK // len(marks)))
            shuffled = rng.permuted(np.tile(marks, (rows, 1)), axis=1)
            more += int((cusum(shuffled).max(1) >= statistic.max() - 1e-12).sum())
            drawn += rows
        if more > 10:  # far from the ends of any list of p-values
            break
    return cut, (more + 1) / (drawn + 1)


def margin(n: int) -> int:
    """Marks at either end within which no change is looked for: an eighth, five at least."""
    return max(5, n // 8)


def cusum(marks: Floats) -> Floats:
    """|CUSUM| [d, k] of sequences [d, n], standardised at every cut that leaves `margin(n)` marks on either side."""
    n = marks.shape[1]
    least = margin(n)
    centred = marks - marks.mean(1, keepdims=True)
    sums = np.cumsum(centred, axis=1)[:, least - 1 : n - least]
    before = np.arange(least, n - least + 1)
    spread = np.sqrt((centred**2).mean(1, keepdims=True)) + 1e-12
    return np.abs(sums) / (spread * np.sqrt(before * (n - before) / n))


def windows(votes: Votes, rows: Sequence[Judgement]) -> list[Window]:
    """Alpha of the pairs in up to six stretches of time with as many judgements each; none where times are unknown."""
    times = np.array([np.nan if row.time is None else row.time for row in rows])
    known = times[np.isfinite(times)]
    if len(known) < 2 * FEWEST or np.ptp(known) == 0:
        return []
    edges = np.unique(np.quantile(known, np.linspace(0, 1, min(WINDOWS, len(known) // FEWEST) + 1)))
    found = []
    for at, (start, end) in enumerate(pairwise(edges)):
        last = at == len(edges) - 2
        inside = (times >= start) & ((times < end) | (last & (times <= end)))
        estimate = alpha_nominal(votes, inside[votes.judgement])
        found.append(Window(float(times[inside].min()), float(times[inside].max()), int(inside.sum()), estimate))
    return found


def _eta(votes: Votes, mine: NDArray[np.intp], m: Floats, read: Floats) -> float:
    """The likeliest eta of some votes of one person."""
    p = chance(GRID[:, None], m[None], read[None])
    value, weight = votes.value[mine], votes.weight[mine]
    return float(GRID[(weight * (value * np.log(p) + (1 - value) * np.log(1 - p))).sum(1).argmax()])
