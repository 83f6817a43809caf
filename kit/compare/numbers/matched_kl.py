"""Two arms at the same distance from SFT: their scores between checkpoints, read off where both have the same KL.

The last checkpoints of two arms lie at different KLs, and whoever went further may have gained only by that. Each
arm's curve runs from SFT through its checkpoints; a checkpoint is (mean KL, mean score) over the prompts. Between
neighbours it is a straight line in sqrt(KL): in d = sqrt(KL), Gao, Schulman and Hilton 2022 (arXiv:2210.10760) found
the true reward d (alpha - beta d) or d (alpha - beta log d), hence near zero a line in d and infinitely steep in KL
itself. A KL that fell again during training is no fault: checkpoints are sorted by their mean KL, not by their step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from kit.compare.numbers.statistics import (
    DRAWS,
    FEWEST_FOR_VARIANCE,
    NO_DIFFERENCE,
    TAIL,
    Floats,
    Interval,
    Scores,
    as_floats,
)

_AT_START = 1e-6  # nats: a mean KL up to this is SFT's own
_BLOCK = 2_000_000  # counts drawn at a time

Curve = tuple[Floats, Floats]


@dataclass(frozen=True)
class Checkpoint:
    """One policy on n prompts: its KL from SFT in nats and its score, None where unknown; SFT's own KL is 0.

    The score is the judge's or, where judges compare, the outcome against SFT: 0.5 at SFT itself.
    """

    kl_nats: Scores
    scores: Scores


@dataclass(frozen=True)
class MatchedKL:
    """`difference`: the first arm's score less the second's, both at `kl_nats`, in the units of the scores.

    `kl_nats` is the smaller of the two arms' largest mean KLs, so that neither curve is continued beyond its end.
    `verdict` is an arm's name or "no difference".
    """

    kl_nats: float
    difference: Interval
    verdict: str


def matched_kl(
    first: Sequence[Checkpoint],
    second: Sequence[Checkpoint],
    names: tuple[str, str],
    seed: int = 0,
    draws: int = DRAWS,
) -> MatchedKL | None:
    """The two arms compared where they are equally far from SFT; None if one has no checkpoint with a KL above 0.

    The interval is a paired bootstrap over prompts: each draw takes the same prompts at every checkpoint of both
    arms and finds mean KLs, matched KL and scores anew. It is never narrower than Student's t would be with the
    bootstrap's standard deviation. A checkpoint whose KL and score are known together for fewer than 10 prompts is
    left out. Raises ValueError if the checkpoints are not of the same prompts, or an arm does not begin at SFT.
    """
    curves = [_known(first), _known(second)]
    if len({kl.shape[1] for kl, _ in curves if kl.size}) > 1:
        raise ValueError("every checkpoint must answer the same prompts; the two arms have different numbers of them")
    if any(not kl.size or np.nanmean(kl, axis=1).max() <= _AT_START for kl, _ in curves):
        return None
    for name, (kl, _) in zip(names, curves, strict=True):
        nearest = float(np.nanmean(kl, axis=1).min())
        if nearest > _AT_START:
            raise ValueError(f"{name}: the curve must begin at SFT, KL 0; its nearest checkpoint is at {nearest:.3g}")
    n = min(int((~np.isnan(kl)).sum(axis=1).min()) for kl, _ in curves)
    matched, (mean,) = _at_matched_kl(curves, np.ones((1, curves[0][0].shape[1])))
    drawn = _resampled(curves, seed, draws)
    low, high = np.quantile(drawn, [TAIL, 1 - TAIL])
    least = stdtrit(n - 1, 1 - TAIL) * drawn.std() * np.sqrt(n / (n - 1))
    interval = Interval(float(mean), float(min(low, mean - least)), float(max(high, mean + least)), n)
    winner = names[0] if interval.low > 0 else names[1] if interval.high < 0 else NO_DIFFERENCE
    return MatchedKL(float(matched[0]), interval, winner)


def _known(checkpoints: Sequence[Checkpoint]) -> Curve:
    """(KL, score), each [k, n], NaN in both where either is unknown; without the checkpoints hardly known at all."""
    if len({len(values) for point in checkpoints for values in (point.kl_nats, point.scores)}) > 1:
        raise ValueError("every checkpoint must answer the same prompts; got lists of different lengths")
    points = [np.stack([as_floats(point.kl_nats), as_floats(point.scores)]) for point in checkpoints]
    points = [np.where(np.isnan(both).any(axis=0), np.nan, both) for both in points]
    points = [both for both in points if (~np.isnan(both[0])).sum() >= FEWEST_FOR_VARIANCE]
    both = np.stack(points, axis=1) if points else np.empty((2, 0, 0))
    return both[0], both[1]


def _at_matched_kl(curves: Sequence[Curve], times: Floats) -> tuple[Floats, Floats]:
    """(matched KL [d], difference of the scores there [d]), where prompt x stands in draw i times[i, x] times."""
    means = [[_means(values, times) for values in curve] for curve in curves]  # [d, k] each
    matched = np.min([kl.max(axis=1) for kl, _ in means], axis=0)
    one, other = ([_interpolated(*row) for row in zip(matched, kl, score, strict=True)] for kl, score in means)
    return matched, np.array(one) - np.array(other)


def _means(values: Floats, times: Floats) -> Floats:
    """Mean of each checkpoint's known values in each draw, [d, k] from [k, n] and [d, n]."""
    known = ~np.isnan(values)
    return (times @ np.where(known, values, 0.0).T) / np.maximum(times @ known.T, 1.0)


def _interpolated(at_kl: float, kl: Floats, score: Floats) -> float:
    order = np.argsort(kl, kind="stable")
    roots = np.sqrt(np.maximum(kl[order], 0.0))  # an estimated KL may fall below 0
    return float(np.interp(np.sqrt(max(at_kl, 0.0)), roots, score[order]))


def _resampled(curves: Sequence[Curve], seed: int, draws: int) -> Floats:
    """The difference at matched KL in each draw of the prompts, [d]."""
    rng, n = np.random.default_rng(seed), curves[0][0].shape[1]
    rows = max(1, _BLOCK // n)
    blocks = [
        _at_matched_kl(curves, rng.multinomial(n, np.full(n, 1 / n), size=min(rows, draws - start)).astype(np.float64))
        for start in range(0, draws, rows)
    ]
    return np.concatenate([differences for _, differences in blocks])
