"""Shares, means and rank correlations with their 95 % intervals, for data that come in groups (pairs of one prompt).

Notation: n values in g groups, d bootstrap draws. Whole groups are drawn, because two pairs of one prompt share its
answers and say less than two pairs of two prompts. Without groups every value is a group of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2_000
TAIL = 0.025  # on each side of a 95 % interval
FEWEST = 10  # groups from which a bootstrap is believed: ten of ten on one side is p = 0.002
_ROUNDING = 1e-9  # a spread below this share of the mean is rounding
_RANKED = 10_000_000  # values ranked in all draws together
_BLOCK = 2_000_000  # numbers in memory at a time, so that many values do not take gigabytes

Floats = NDArray[np.float64]
Groups = Sequence[int]


def share_interval(outcomes: Floats, counts_for: float = 1.0) -> tuple[float, float]:
    """Exact 95 % interval of a share whose outcomes are 1, 0 or 0.5 (a tie counts half).

    The share of ones among the decided has the interval of Clopper and Pearson (1934); the whole is
    ties / 2 + decided * q. It holds 0.5 exactly when the two-sided sign test does not reject at 5 %. Each outcome
    counts for so many independent ones.
    """
    from scipy.special import betaincinv

    ones, zeros = (float((outcomes == each).sum()) * counts_for for each in (1, 0))
    low = float(betaincinv(ones, zeros + 1, TAIL)) if ones else 0.0
    high = float(betaincinv(ones + 1, zeros, 1 - TAIL)) if zeros else 1.0
    ties = float((outcomes == 0.5).mean())
    return ties / 2 + (1 - ties) * low, ties / 2 + (1 - ties) * high


def resampled_means(values: Floats, seed: int, draws: int = DRAWS, groups: Groups | None = None) -> Floats:
    """Means of `draws` resamples of the groups, with replacement. Shapes: values and groups [n], the result [d]."""
    group = _numbered(groups, len(values))
    sums, counts = np.bincount(group, values), np.bincount(group)
    return _resampled(group, seed, draws, len(sums), lambda weights: (weights @ sums) / (weights @ counts))


def share(outcomes: Floats, groups: Groups | None = None, seed: int = 0) -> tuple[float, float, float]:
    """(share, low, high): the bootstrap's interval over groups, never narrower than the exact one for as many outcomes.

    The exact interval takes the outcomes as independent; the bootstrap alone is overconfident on few of them. Where
    there are fewer than `FEWEST` groups, each group counts for one outcome.
    """
    mean, low, high = mean_over_groups(outcomes, groups, seed)
    many = len(outcomes) if groups is None else len(set(groups))
    exact_low, exact_high = share_interval(outcomes, many / len(outcomes) if many < FEWEST else 1.0)
    return mean, min(low, exact_low), max(high, exact_high)


def mean_over_groups(values: Floats, groups: Groups | None = None, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) with the percentile interval of `resampled_means`."""
    low, high = np.quantile(resampled_means(values, seed, groups=groups), [TAIL, 1 - TAIL])
    return float(values.mean()), float(low), float(high)


def rank_correlation(
    x: ArrayLike, y: ArrayLike, groups: Groups | None = None, seed: int = 0
) -> tuple[float, float, float] | None:
    """(Spearman's rho, low, high) with the bootstrap interval over groups; None where x or y is constant.

    Every draw ranks anew; of more than 5,000 values fewer draws are made, for time. Draws in which x or y is constant
    are left out of the interval.
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    group = _numbered(groups, len(first))
    rho = _weighted_spearman(np.ones((1, len(first))), first, second)[0]
    draws = int(np.clip(_RANKED // len(first), 200, DRAWS))
    drawn = _resampled(group, seed, draws, len(first), lambda w: _weighted_spearman(w[:, group], first, second))
    low, high = np.nanquantile(drawn, [TAIL, 1 - TAIL])
    return float(rho), float(low), float(high)


@dataclass(frozen=True)
class Joint:
    """A column's mean over `n` values, its own 95 % interval, and the one that holds jointly for all columns.

    The joint ends are None where there are fewer than `FEWEST` values.
    """

    mean: float
    ci95: tuple[float, float]
    ci95_joint: tuple[float, float] | None
    n: int


def joint_intervals(columns: Floats, seed: int = 0, draws: int = DRAWS) -> list[Joint | None]:
    """One `Joint` per column of [n, k], rows resampled together; NaN is unknown, a column without values gives None.

    Where no column has a mean other than 0, all k joint intervals hold 0 in 95 of 100 repetitions: they are
    mean +- c x standard error, c the 95 % quantile of the largest |drawn mean - mean| / standard error of a draw
    (max-T; Romano and Wolf 2005), taken to Student's t for few rows. Correlated columns cost less than Bonferroni's.
    """
    from scipy.stats import norm, t

    known = ~np.isnan(columns)
    n, filled = known.sum(0), np.where(known, columns, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = filled.sum(0) / n
        errors = np.sqrt((np.where(known, columns - means, 0.0) ** 2).sum(0) / (n - 1) / n)
        group = np.arange(len(columns))
        drawn = _resampled(
            group, seed, draws, 2 * columns.shape[1], lambda w: (w @ filled) / (w @ known.astype(np.float64))
        )
        tested = (n >= FEWEST) & (errors > _ROUNDING * np.abs(means))
        largest = np.nan_to_num(np.abs((drawn - means) / errors)[:, tested]).max(1, initial=0.0)
    tail = float(norm.sf(np.quantile(largest, 1 - 2 * TAIL)))
    found: list[Joint | None] = []
    for k in range(columns.shape[1]):
        if not n[k]:
            found.append(None)
            continue
        low, high = np.nanquantile(drawn[:, k], [TAIL, 1 - TAIL])
        width = float(t.isf(tail, n[k] - 1) * errors[k]) if tested[k] else 0.0
        mean = float(means[k])
        joint = (mean - width, mean + width) if n[k] >= FEWEST else None
        found.append(Joint(mean, (float(low), float(high)), joint, int(n[k])))
    return found


def _numbered(groups: Groups | None, n: int) -> NDArray[np.intp]:
    """The groups as [n] numbers 0 .. g - 1, in the order in which they first appear."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"every value needs its group; got {n} values and {len(groups)} groups")
    number: dict[int, int] = {}
    return np.array([number.setdefault(each, len(number)) for each in groups], dtype=np.intp)


def _resampled(
    group: NDArray[np.intp], seed: int, draws: int, width: int, statistic: Callable[[Floats], Floats]
) -> Floats:
    """`statistic` of the groups' weights [rows, g], how often each was drawn, for `draws` rows in blocks."""
    rng, g = np.random.default_rng(seed), int(group.max()) + 1
    block = max(1, _BLOCK // max(width, g))
    found = []
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        drawn = rng.integers(0, g, size=(rows, g)) + g * np.arange(rows)[:, None]
        found.append(statistic(np.bincount(drawn.ravel(), minlength=rows * g).reshape(rows, g).astype(np.float64)))
    return np.concatenate(found)


def _weighted_spearman(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Spearman's rho [d] of values [n] that occur weights [d, n] times; NaN where one of them is constant."""
    ranks = [_weighted_ranks(weights, values) for values in (x, y)]
    total = weights.sum(1, keepdims=True)
    a, b = (rank - (weights * rank).sum(1, keepdims=True) / total for rank in ranks)
    spread = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    with np.errstate(invalid="ignore"):
        return np.where(spread > 0, (weights * a * b).sum(1) / spread, np.nan)


def _weighted_ranks(weights: Floats, values: Floats) -> Floats:
    """Mid-ranks [d, n], ties sharing theirs, of values [n] that occur weights [d, n] times."""
    order = np.argsort(values, kind="stable")
    _, starts, tied = np.unique(values[order], return_index=True, return_inverse=True)
    times = np.add.reduceat(weights[:, order], starts, axis=1)
    place = np.empty(len(values), dtype=np.intp)
    place[order] = tied
    return (np.cumsum(times, axis=1) - times / 2)[:, place]
