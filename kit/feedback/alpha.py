"""Krippendorff's alpha and Kendall's W, with bootstrap intervals over items.

alpha = 1 - observed / expected disagreement, 1 where all agree, 0 where they agree as by chance (Krippendorff 2011,
"Computing Krippendorff's Alpha-Reliability"). The library krippendorff has no bootstrap over items; the coincidences of
items add up, so that here a draw of items costs one product of matrices. Notation: i items, v values, d draws.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.crowd.judgements import Judgement
from kit.crowd.votes import MOST_STEPS, Votes
from kit.statistics import TAIL, mean_over_groups

Floats = NDArray[np.float64]
DRAWS = 1_000
_BLOCK = 4_000_000  # numbers in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval over items (None below two items), and how many items it rests on."""

    value: float
    ci95: tuple[float, float] | None
    items: int


def alpha_nominal(votes: Votes, keep: NDArray[np.bool_] | None = None, seed: int = 0) -> Estimate | None:
    """Alpha of the three verdicts (first, second, tie) on pairs of answers; of ratings see `alpha_ordinal`."""
    use = (votes.scale == 0) & (True if keep is None else keep)
    return _alpha(votes.item[use], votes.unit[use], votes.value[use], ordinal=False, seed=seed)


def alpha_ordinal(rows: Sequence[Judgement], seed: int = 0) -> Estimate | None:
    """Alpha of the ranks that answers got, or of their ratings; ordinal distances, tied ranks are mid-ranks.

    None where nothing was ranked (choices of two are nominal). First judgements count, repeats do not.
    """
    from scipy.stats import rankdata

    items: dict[str, int] = {}
    units: dict[tuple[str, str], int] = {}
    found: list[tuple[int, int, float]] = []
    for row in rows:
        if row.repeat or row.kind == "pair":
            continue
        judged = [(name, value) for name, value in zip(row.answers, row.values, strict=True) if value is not None]
        values = [value for _, value in judged]
        told = values if row.kind == "rating" else rankdata(values)
        for (name, _), value in zip(judged, told, strict=True):
            item = items.setdefault(row.item, len(items))
            found.append((item, units.setdefault((row.item, name), len(units)), float(value)))
    if not found:
        return None
    table = np.array(found, dtype=np.float64)
    home, unit, value = table[:, 0].astype(np.intp), table[:, 1].astype(np.intp), table[:, 2]
    if len(np.unique(value)) > 2 * MOST_STEPS:
        edges = np.unique(np.quantile(value, np.linspace(0, 1, MOST_STEPS + 1)))
        value = np.searchsorted(edges, value).astype(np.float64)
    return _alpha(home, unit, value, ordinal=True, seed=seed)


def kendalls_w(rows: Sequence[Judgement], seed: int = 0) -> Estimate | None:
    """Kendall's W of the people who ranked the same three answers or more of an item, mean over items.

    1: all rank alike; 1 / m among m people who rank by chance. None where no item has two such people.
    """
    ranked: defaultdict[tuple[str, frozenset[str]], dict[str, list[float]]] = defaultdict(dict)
    for row in rows:
        if row.kind == "rank" and not row.repeat and None not in row.values:
            told = dict(zip(row.answers, row.values, strict=True))
            ranked[row.item, frozenset(row.answers)].setdefault(row.annotator, [float(told[n]) for n in sorted(told)])  # type: ignore[arg-type]
    found = [(item, w) for (item, _), people in ranked.items() if (w := concordance(list(people.values()))) is not None]
    if not found:
        return None
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(item, len(numbers)) for item, _ in found]
    mean, low, high = mean_over_groups(np.array([w for _, w in found]), groups, seed)
    return Estimate(mean, (low, high) if len(numbers) > 1 else None, len(numbers))


def concordance(values: Sequence[Sequence[float]]) -> float | None:
    """Kendall's W of m people's values [m, k] of k answers, corrected for ties; None of one person or of ties only.

    W = 12 S / (m^2 (k^3 - k) - m T), S the squared deviations of the rank sums, T the sum of t^3 - t over groups of t
    tied ranks (Kendall and Babington Smith 1939).
    """
    from scipy.stats import rankdata

    table = np.array(values, dtype=np.float64)
    m, k = table.shape
    ranks = rankdata(table, axis=1)
    ties = sum(float((times**3 - times).sum()) for row in table for times in [np.unique(row, return_counts=True)[1]])
    below = m * m * (k**3 - k) - m * ties
    if m < 2 or below <= 0:
        return None
    sums = ranks.sum(0)
    return float(12 * ((sums - sums.mean()) ** 2).sum() / below)


def _alpha(item: NDArray, unit: NDArray, value: Floats, ordinal: bool, seed: int) -> Estimate | None:
    """Alpha of values [n] given to units [n] of items [n]; None where no unit has two, or all values are one."""
    if not len(value):
        return None
    levels, level = np.unique(value, return_inverse=True)
    units, at = np.unique(unit, return_inverse=True)
    counts = np.zeros((len(units), len(levels)))
    np.add.at(counts, (at, level), 1.0)
    home = np.zeros(len(units), dtype=np.intp)
    home[at] = item
    paired = counts.sum(1) > 1
    if not paired.any():
        return None
    counts, (_, home) = counts[paired], np.unique(home[paired], return_inverse=True)
    by_item = np.zeros((home.max() + 1, len(levels), len(levels)))
    each = counts[:, :, None] * counts[:, None, :]
    each[:, np.arange(len(levels)), np.arange(len(levels))] -= counts
    np.add.at(by_item, home, each / (counts.sum(1) - 1)[:, None, None])
    i = len(by_item)
    whole = float(alphas(by_item.sum(0)[None], ordinal)[0])
    if np.isnan(whole):
        return None
    rng, drawn = np.random.default_rng(seed), []
    flat, block = by_item.reshape(i, -1), max(1, _BLOCK // max(i, len(levels) ** 2))
    for start in range(0, DRAWS, block):
        times = rng.multinomial(i, np.full(i, 1 / i), size=min(block, DRAWS - start)).astype(np.float64)
        drawn.append(alphas((times @ flat).reshape(-1, len(levels), len(levels)), ordinal))
    low, high = np.nanquantile(np.concatenate(drawn), [TAIL, 1 - TAIL])
    return Estimate(whole, (float(low), float(high)) if i > 1 else None, i)


def alphas(coincidences: Floats, ordinal: bool) -> Floats:
    """Alpha [d] of matrices of coincidences [d, v, v], values in ascending order; NaN where all values are one.

    The ordinal distance of values c and k is (sum of their and all counts between them, less half of both ends')^2.
    """
    totals = coincidences.sum(2)
    n = totals.sum(1)
    if ordinal:
        below = np.cumsum(totals, axis=1) - totals / 2
        distance = (below[:, :, None] - below[:, None, :]) ** 2
    else:
        distance = 1.0 - np.eye(totals.shape[1])[None]
    observed = (coincidences * distance).sum((1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distance).sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan)
