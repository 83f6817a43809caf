"""Means, win rates and their 95 % intervals over prompts; a verdict only where the interval allows one.

Notation: n prompts, d bootstrap draws. A score may be None or not finite: then it is unknown and left out.
The intervals say how far a result depends on *which prompts* were asked. They say nothing about training luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2_000
TAIL = 0.025  # on each side of a 95 % interval
NO_DIFFERENCE = "no difference"
_TIE = 1e-9  # scores nearer than this are equal: sums of the same terms in another order
_BLOCK = 2_000_000  # indices drawn at a time, so that many prompts do not take gigabytes

Scores = Sequence[float | None]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over `n` prompts and its 95 % interval, in the units of the values."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def ci95(self) -> list[float]:
        """The interval's two ends, as metrics.json holds them."""
        return [self.low, self.high]


@dataclass(frozen=True)
class WinRate:
    """How often A beat B (win 1, tie 0.5, loss 0) over `n` paired prompts, with its 95 % interval."""

    rate: float
    low: float
    high: float
    tie_rate: float
    n: int

    @property
    def ci95(self) -> list[float]:
        """The interval's two ends, as metrics.json holds them."""
        return [self.low, self.high]


def as_floats(scores: Scores) -> Floats:
    """The scores as [n] floats, NaN where a score is None or not finite."""
    values = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def resampled_means(values: Floats, seed: int, draws: int = DRAWS) -> Floats:
    """Means of `draws` resamples of the prompts, with replacement. Shapes: values [n], the result [d]."""
    rng, n = np.random.default_rng(seed), len(values)
    rows = max(1, _BLOCK // n)
    blocks = [
        values[rng.integers(0, n, size=(min(rows, draws - start), n))].mean(axis=1) for start in range(0, draws, rows)
    ]
    return np.concatenate(blocks)


def mean_interval(scores: Scores, seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """Mean of the known scores with its percentile bootstrap interval over prompts; None if none is known."""
    values = as_floats(scores)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(resampled_means(values, seed, draws), [TAIL, 1 - TAIL])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def mean_difference(a: Scores, b: Scores, seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """Mean of a - b over prompts where both are known, with its paired bootstrap interval."""
    _require_pairs(a, b)
    return mean_interval((as_floats(a) - as_floats(b)).tolist(), seed, draws)


def paired_outcomes(a: Scores, b: Scores) -> Floats:
    """1 where a won, 0.5 where they tied, 0 where it lost; only the prompts where both scores are known."""
    _require_pairs(a, b)
    difference = as_floats(a) - as_floats(b)
    difference = difference[~np.isnan(difference)]
    return np.where(np.abs(difference) <= _TIE, 0.5, (difference > 0).astype(np.float64))


def win_rate(a: Scores, b: Scores, seed: int = 0, draws: int = DRAWS) -> WinRate | None:
    """Win rate of a over b with its paired bootstrap interval over prompts; None if no prompt has both scores.

    The bootstrap alone is overconfident on few prompts: five wins of five would give [1, 1]. The interval is
    therefore never narrower than the exact one of the sign test (`sign_interval`), which then gives [0.48, 1].
    """
    outcomes = paired_outcomes(a, b)
    if not len(outcomes):
        return None
    low, high = np.quantile(resampled_means(outcomes, seed, draws), [TAIL, 1 - TAIL])
    exact_low, exact_high = sign_interval(outcomes)
    tie_rate = float((outcomes == 0.5).mean())
    rate = float(outcomes.mean())
    return WinRate(rate, min(float(low), exact_low), max(float(high), exact_high), tie_rate, len(outcomes))


def sign_interval(outcomes: Floats) -> tuple[float, float]:
    """Exact 95 % interval of the win rate, given how many prompts tied.

    The share q of wins among the decided prompts has the interval of Clopper and Pearson (1934); the win rate is
    ties / 2 + decided * q. It holds 0.5 exactly when the two-sided sign test does not reject at 5 %.
    """
    from scipy.special import betaincinv

    wins, losses = int((outcomes == 1).sum()), int((outcomes == 0).sum())
    low = float(betaincinv(wins, losses + 1, TAIL)) if wins else 0.0
    high = float(betaincinv(wins + 1, losses, 1 - TAIL)) if losses else 1.0
    ties = float((outcomes == 0.5).mean())
    return ties / 2 + (1 - ties) * low, ties / 2 + (1 - ties) * high


def verdict(ci95: Sequence[float], first: str, second: str) -> str:
    """`first` or `second`, whichever won more often; "no difference" if the interval holds 0.5, its ends included."""
    low, high = ci95
    if low > 0.5:
        return first
    return second if high < 0.5 else NO_DIFFERENCE


def _require_pairs(a: Scores, b: Scores) -> None:
    if len(a) != len(b):
        raise ValueError(f"paired scores must belong to the same prompts; got {len(a)} and {len(b)}")
