"""Means, win rates and their 95 % intervals over prompts; a verdict only where the interval allows one.

Notation: n prompts, s training seeds, d bootstrap draws. A score may be None or not finite: then it is unknown and
left out. Judges that score and judges that compare meet in *outcomes*: 1 where the first arm won the prompt, 0.5 for a
tie, 0 where it lost, None where there is no verdict; any number in between is a judge's probability. Where an arm was
trained with several seeds, there is one such list per seed.

The intervals say how far a result depends on *which prompts* were asked: a prompt is resampled with the answers of
all seeds. They say nothing about training luck; `seed_spread` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.statistics import share_interval

DRAWS = 2_000
TAIL = 0.025  # on each side of a 95 % interval
POWER = 0.8  # what `prompts_needed` plans for
MOST_PROMPTS_NEEDED = 1_000_000  # `prompts_needed` goes no further: the difference is then nil for any practice
FEWEST_FOR_VARIANCE = 10  # values from which a variance or a rank correlation is worth telling
NO_DIFFERENCE = "no difference"
_TIE = 1e-9  # scores nearer than this are equal: sums of the same terms in another order
_BLOCK = 2_000_000  # indices drawn at a time, so that many prompts do not take gigabytes

Scores = Sequence[float | None]
SeedScores = Scores | Sequence[Scores]  # of one training seed, or a list per seed
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


@dataclass(frozen=True)
class SeedSpread:
    """The mean of each training seed, and the standard deviation among them (divided by s - 1)."""

    values: list[float]
    sd: float


def as_floats(scores: Scores) -> Floats:
    """The scores as [n] floats, NaN where a score is None or not finite."""
    values = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def as_seeds(values: SeedScores) -> Floats:
    """The values as [s, n], NaN where unknown; one list is one seed."""
    several = len(values) > 0 and isinstance(values[0], Sequence | np.ndarray)
    rows: Sequence[Scores] = values if several else [values]  # type: ignore[assignment, list-item]
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"every seed must answer the same prompts; got {sorted(lengths)} of them")
    return np.stack([as_floats(row) for row in rows])


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


def outcomes_of(a: Scores, b: Scores) -> list[float | None]:
    """Per prompt: 1 where a scored higher, 0.5 where they tied, 0 where it scored lower, None where one is unknown."""
    _require_pairs(a, b)
    difference = as_floats(a) - as_floats(b)
    outcomes = np.where(np.abs(difference) <= _TIE, 0.5, (difference > 0).astype(np.float64))
    return [None if np.isnan(gap) else float(won) for gap, won in zip(difference, outcomes, strict=True)]


def paired_outcomes(a: Scores, b: Scores) -> Floats:
    """`outcomes_of` a and b, only the prompts where both scores are known."""
    return as_floats([outcome for outcome in outcomes_of(a, b) if outcome is not None])


def win_rate(a: Scores, b: Scores, seed: int = 0, draws: int = DRAWS) -> WinRate | None:
    """Win rate of a over b where the judge scored each answer: `outcome_rate` of `outcomes_of`."""
    return outcome_rate(outcomes_of(a, b), seed, draws)


def outcome_rate(outcomes: SeedScores, seed: int = 0, draws: int = DRAWS) -> WinRate | None:
    """The mean outcome with its bootstrap interval over prompts; None if no outcome is known.

    `outcomes` is [n], or [s][n] with several training seeds; then the mean over a prompt's known seeds is resampled.
    The bootstrap alone is overconfident on few prompts: five wins of five would give [1, 1]. The interval is
    therefore never narrower than a small-sample one: where every prompt is won, tied or lost, the exact one of the
    sign test (`kit.statistics.share_interval`), which then gives [0.48, 1]; where they are fractions, `added_interval`.
    `tie_rate` counts the single outcomes. Raises ValueError for an outcome outside [0, 1].
    """
    seeds = as_seeds(outcomes)
    known = seeds[~np.isnan(seeds)]
    if not len(known):
        return None
    if known.min() < 0 or known.max() > 1:
        raise ValueError(f"an outcome is 1, 0.5, 0 or between; got {known.min():g} to {known.max():g}")
    values = _prompt_means(seeds)
    values = values[~np.isnan(values)]
    low, high = np.quantile(resampled_means(values, seed, draws), [TAIL, 1 - TAIL])
    decided = bool(np.isin(values, (0.0, 0.5, 1.0)).all())
    least_low, least_high = share_interval(values) if decided else added_interval(values)
    rate, tie_rate = float(values.mean()), float((known == 0.5).mean())
    return WinRate(rate, min(float(low), least_low), max(float(high), least_high), tie_rate, len(values))


def added_interval(values: Floats) -> tuple[float, float]:
    """95 % interval of the mean of values in [0, 1], held wide on few prompts. Shape: values [n].

    Student's t with n - 1 degrees of freedom, after one win and one loss were added to the values: the additions of
    Agresti and Caffo (2000, The American Statistician 54) keep it from shrinking to a point where all values agree.
    Five prompts won by every seed do not reject 0.5 and six do, as in the sign test. It is symmetric under swapping
    the arms and, at many prompts, the plain t interval.
    """
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return 0.0, 1.0
    more = np.append(values, [0.0, 1.0])
    middle, half = more.mean(), stdtrit(n - 1, 1 - TAIL) * more.std(ddof=1) / np.sqrt(n + 2)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def over_seeds(values: SeedScores) -> list[float | None]:
    """Each prompt's mean over the seeds whose value is known, [n] from [s][n]; None where none is. [n] stays."""
    return [None if np.isnan(value) else float(value) for value in _prompt_means(as_seeds(values))]


def seed_spread(values: SeedScores) -> SeedSpread | None:
    """How far the seeds' means lie apart: outcomes or scores as [s][n]. None if fewer than two seeds have a mean."""
    means = [float(np.nanmean(row)) for row in as_seeds(values) if not np.isnan(row).all()]
    return SeedSpread(means, float(np.std(means, ddof=1))) if len(means) > 1 else None


def prompts_needed(outcomes: SeedScores) -> int | None:
    """How many prompts tell a difference such as the observed one from 0.5, with 80 % power at 5 % two-sided.

    (z_0.975 + z_0.8)^2 variance / (rate - 0.5)^2, from the mean and the variance of the outcomes ([n] or [s][n]) as
    if they were the truth: a plan for a repetition, no verdict. At least 6, where the sign test begins to reject; at
    most MOST_PROMPTS_NEEDED, which reads "or more". None if the rate is exactly 0.5, or with fewer than 10 prompts.
    """
    from scipy.special import ndtri

    values = _prompt_means(as_seeds(outcomes))
    values = values[~np.isnan(values)]
    if len(values) < FEWEST_FOR_VARIANCE or abs(values.mean() - 0.5) <= _TIE:
        return None
    needed = (ndtri(1 - TAIL) + ndtri(POWER)) ** 2 * values.var(ddof=1) / (values.mean() - 0.5) ** 2
    return int(min(max(np.ceil(needed), 6), MOST_PROMPTS_NEEDED))


def verdict(ci95: Sequence[float], first: str, second: str) -> str:
    """`first` or `second`, whichever won more often; "no difference" if the interval holds 0.5, its ends included."""
    low, high = ci95
    if low > 0.5:
        return first
    return second if high < 0.5 else NO_DIFFERENCE


def _prompt_means(seeds: Floats) -> Floats:
    """Mean over the known seeds, [n] from [s, n]; NaN where none is known."""
    known = ~np.isnan(seeds)
    counts = known.sum(axis=0)
    sums = np.where(known, seeds, 0.0).sum(axis=0)
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _require_pairs(a: Scores, b: Scores) -> None:
    if len(a) != len(b):
        raise ValueError(f"paired scores must belong to the same prompts; got {len(a)} and {len(b)}")
