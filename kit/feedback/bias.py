"""What else an annotator goes by: the place where an answer was shown, and its length.

For every person a logistic regression of their votes on pairs of answers:

    logit P(first answer) = b x + g s + h l

x: the log-odds that the other people's votes give (kit.crowd.model), so that a taste which all share is no bias; s: 1
or -1, the first answer was shown earlier or later; l: log of the lengths' ratio, in units of its root mean square over
all votes. g and h are in logits: 0.7 at an even pair is 2 : 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.crowd.model import Crowd
from kit.crowd.votes import Votes

Floats = NDArray[np.float64]
BAND = 0.5  # logits from what is usual that are nobody's fault ...
SHARE = 0.5  # ... nor is half of what the others' votes count for with the person: those who are sure lean steeply
FEWEST = 20  # votes that others voted on, too: fewer say nothing about a person
_RIDGE = 0.02
_AGREED = (0.02, 0.98)  # the others' votes are never surer than this


@dataclass(frozen=True)
class Lean:
    """A person's coefficient, what is usual (the median over people), and p of leaning no more than is allowed."""

    logits: float
    usual: float
    p: float


def leans(votes: Votes, crowd: Crowd) -> dict[str, dict[int, Lean]]:
    """ "position" and "length" -> annotator's number -> Lean; nobody stands there where the file does not say."""
    x = np.log(clipped(crowd.expected) / (1 - clipped(crowd.expected)))
    known = votes.length[np.isfinite(votes.length)]
    scale = float(np.sqrt((known**2).mean())) if len(known) and np.any(known) else 1.0
    columns = {"position": votes.position, "length": votes.length / scale}
    mine = [(votes.who == who) & (votes.scale == 0) for who in range(len(votes.people))]
    found: dict[str, dict[int, Lean]] = {name: {} for name in columns}
    for at, name in enumerate(columns, 1):
        table = np.stack([x, *columns.values()], axis=1)
        fitted = {}
        for who, rows in enumerate(mine):
            use = rows & np.isfinite(columns[name])
            if crowd.overlap[who] < FEWEST or use.sum() < FEWEST or np.ptp(columns[name][use]) == 0:
                continue
            here = np.nan_to_num(table[use])
            fitted[who] = here, votes.value[use], votes.weight[use]
        free = {who: logistic(*each) for who, each in fitted.items()}
        usual = float(np.median([b[at] for b, _ in free.values()])) if len(free) > 3 else 0.0
        for who, (b, best) in free.items():
            away = b[at] - usual
            p = 1.0
            allowed = max(BAND, SHARE * abs(float(b[0])) * float(fitted[who][0][:, 0].std()))
            if abs(away) > allowed:
                edge = usual + np.sign(away) * allowed
                p = _tail(best - logistic(*fitted[who], fixed={at: edge})[1])
            found[name][who] = Lean(float(b[at]), usual, p)
    return found


def logistic(
    table: Floats, value: Floats, weight: Floats, fixed: dict[int, float] | None = None
) -> tuple[Floats, float]:
    """(coefficients [c], weighted log-likelihood less a small ridge) of values [n] in 0 to 1 on a table [n, c].

    By Newton's method with halved steps; coefficients in `fixed` stay as they are.
    """
    b = np.zeros(table.shape[1])
    for column, at in (fixed or {}).items():
        b[column] = at
    free = [column for column in range(table.shape[1]) if column not in (fixed or {})]

    def height(at: Floats) -> float:
        z = table @ at
        told = weight * (value * z - np.logaddexp(0, z))
        return float(told.sum() - _RIDGE / 2 * (at**2).sum())

    now = height(b)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(table @ b, -30, 30)))
        slope = (table.T @ (weight * (value - p)) - _RIDGE * b)[free]
        curve = (table.T * (weight * p * (1 - p))) @ table + _RIDGE * np.eye(len(b))
        step = np.zeros(len(b))
        step[free] = np.linalg.solve(curve[np.ix_(free, free)], slope)
        while (then := height(b + step)) < now and np.abs(step).max() > 1e-9:
            step /= 2
        b = b + step
        if then - now < 1e-9:
            break
        now = then
    return b, now


def clipped(share: Floats) -> Floats:
    """Shares kept from 0 and 1."""
    return np.clip(share, *_AGREED)


def _tail(lost: float) -> float:
    """The one-sided p-value of a likelihood ratio."""
    from scipy.stats import norm

    return float(norm.sf(np.sqrt(2 * max(lost, 0.0))))
