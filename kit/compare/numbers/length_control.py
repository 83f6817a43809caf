"""Win rates as they would be if both answers were equally long: one model of all comparisons that a judge made.

Judges like long answers, so a policy that only learned to write more wins. The model takes the judge's taste for
length out of the win rate. Notation: c comparisons of two arms (a, b), s training seeds, n prompts.

    logit P(a beats b on prompt x) = theta_c + phi_c * tanh((length_a - length_b) / unit) + psi_c * gamma_x
    length-controlled win rate of c = mean over its prompts of sigmoid(theta_c + psi_c * gamma_x)

theta is the advantage at equal length, phi the judge's taste for length, gamma_x how easily the baseline is beaten on
prompt x. The form is that of Dubois et al. 2024 (arXiv:2404.04475) and of AlpacaEval's glm_winrate.py. What differs:

- They fit every model for itself and take gamma_x from a fit on their 805 prompts, which no other prompts have. Here
  all comparisons are fitted at once and gamma_x with them, as a random effect N(beta m_x, sigma^2); sigma maximises
  Laplace's approximation of the likelihood over five values. m_x is the prompt's mean tanh against the baseline: where
  the baseline is short *because* the prompt is hard for it, a random effect of mean 0 would book part of that on phi
  (Mundlak 1978, Econometrica 46); in a simulation of that, the error of three models fell from 5 points to 2.
- psi_c ~ N(1, 0.2^2) against the baseline, N(-1, 0.2^2) where the baseline stands first, N(0, 0.2^2) head to head,
  where gamma_x cancels between two arms that both face the baseline. With fewer than two comparisons against the
  baseline, gamma_x could not be told from luck and is left out.
- phi_c ~ N(phi, 0.4^2): the taste is the judge's, so comparisons borrow it from one another. The more prompts, the
  less: one phi for all was off by 1.5 points at 2,000 simulated prompts, since random effects estimated from two or
  three verdicts weaken the phi that goes with them. 0.4 and 0.2 are the spread of phi (about 1.6 in size) and of psi
  (about 0.9) among the weights that AlpacaEval publishes for its models.
- A phi that comparisons share wants one unit of length: the standard deviation of the length differences within a
  comparison, pooled over comparisons. Theirs is each comparison's own. A judge whose taste saturates elsewhere than
  the tanh leaves a point or so.
- Theirs is L1-regularised logistic regression, its strength chosen by five-fold cross-validation. Here phi ~ N(0, 3^2),
  twice the size of the taste found there, and theta is free but for a trace: the fitted rate at the observed lengths
  is then the raw one, and where length tells nothing the length-controlled rate is the raw one.
- Theirs adds rows of answers written on purpose to be short or long. Where lengths hardly overlap, the rate at equal
  length is an extrapolation by the tanh; there it is withheld here.

Outcomes may be any number in [0, 1]; a tie counts as half a win and half a loss. The priors' penalties and Newton's
method are in length_fit.py. Intervals: bootstrap over prompts, each draw fitted anew; sigma and the unit stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kit.compare.numbers.length_fit import Cells, best_fit, equal_length_rates, fit
from kit.compare.numbers.statistics import TAIL, Floats, Interval, SeedScores, WinRate, as_seeds

DRAWS = 500
NEAR = 0.25  # of the mean length: what a reader still takes for equally long
LEAST_NEAR_SHARE = 0.1
LEAST_PROMPTS = 50  # with fewer, an interval from 2 + c parameters would be false precision
LEAST_LOSSES = 5.0  # wins or losses, whichever are fewer: below, theta_c runs off in many draws

Pair = tuple[str, str]


@dataclass(frozen=True)
class LengthControl:
    """`rates[a, b]`: how often a beats b at equal length, with its 95 % interval, in the units of WinRate.

    A comparison is either in `rates` or in `withheld`, which says why in words. `near_equal_share` is the share of its
    answers whose lengths are within a quarter of the mean length. `phi` is what an answer gains in log-odds by being
    much longer (tanh = 1), None where it could not be told; `length_unit` is the difference of one unit, as given.
    """

    rates: dict[Pair, WinRate]
    phi: Interval | None
    near_equal_share: dict[Pair, float]
    withheld: dict[Pair, str]
    length_unit: float
    draws: int


def length_control(
    outcomes: Mapping[Pair, SeedScores],
    lengths: Mapping[str, SeedScores],
    baseline: str = "sft",
    seed: int = 0,
    draws: int = DRAWS,
    least_near_share: float = LEAST_NEAR_SHARE,
) -> LengthControl:
    """Length-controlled win rates of all comparisons, fitted together; see the top of this file for the model.

    `outcomes[a, b]` is [n], or [s][n] with several training seeds, 1 to 0, None where unknown; `lengths[arm]` likewise,
    in any one unit (tokens, characters); an arm with one list meets all seeds of another. Raises ValueError where
    shapes do not fit or an arm has no lengths.

    Published annotations in AlpacaEval's form: bring every model's rows into one order of instructions. Then
    `outcomes[model, reference]` is `preference - 1` (preference runs from 1, the reference won, to 2), None where it is
    missing and 0.5 where it is 0; its mean (`outcome_rate`) is their raw win rate. `lengths` are `len(output)`, and
    `baseline` is the reference's name (generator_1, output_1). Fit all models at once, for their difficulty of the
    prompts comes from all; fifty models on 805 prompts take half a second, and 30 ms more for each draw.
    `least_near_share=0` shows the rates that would be withheld for lengths that hardly overlap, too.
    """
    pairs = list(outcomes)
    if not pairs:
        return LengthControl({}, None, {}, {}, 1.0, draws)
    results, first, second = _gather(outcomes, lengths)
    known = ~np.isnan(results + first + second)
    unit = _length_unit(first - second, known)
    near = {pair: _near_share(*row) for pair, *row in zip(pairs, first, second, known, strict=True)}
    facing = np.array([(b == baseline) - (a == baseline) for a, b in pairs], dtype=np.float64)
    if np.abs(facing).sum() < 2:
        facing[:] = 0.0
    cells = Cells(
        np.where(known, results, 0.0),
        known.astype(np.float64),
        np.where(known, np.tanh((first - second) / unit), 0.0),
        facing,
    )
    counts = [int(row.any(axis=0).sum()) for row in known]
    separated = _separated(cells)
    withheld = {}
    for i, pair in enumerate(pairs):
        reason = _reason(results[i][known[i]], counts[i], near[pair], least_near_share, separated)
        if reason is not None:
            withheld[pair] = reason
    if len(withheld) == len(pairs):
        return LengthControl({}, None, near, withheld, unit, draws)
    rates, ends, phi = _bootstrap(cells, seed, draws)
    shown = {
        pair: WinRate(rates[i], ends[i][0], ends[i][1], float((results[i][known[i]] == 0.5).mean()), counts[i])
        for i, pair in enumerate(pairs)
        if pair not in withheld
    }
    return LengthControl(shown, phi, near, withheld, unit, draws)


def _bootstrap(cells: Cells, seed: int, draws: int) -> tuple[list[float], list[list[float]], Interval]:
    """(rate of each comparison, its interval's ends, the mean phi)."""
    found, sigma = best_fit(cells)
    rng, n = np.random.default_rng(seed), len(found.gamma)
    drawn = np.empty((draws, len(cells.facing) + 1))
    for row in drawn:
        times = np.bincount(rng.integers(0, n, size=n), minlength=n).astype(np.float64)
        again = fit(cells, sigma, times, found)
        row[:-1], row[-1] = equal_length_rates(cells, again, times), again.weights[1].mean()
    ends = np.quantile(drawn, [TAIL, 1 - TAIL], axis=0).T.tolist()
    phi = Interval(float(found.weights[1].mean()), ends[-1][0], ends[-1][1], n)
    return equal_length_rates(cells, found).tolist(), ends[:-1], phi


def _gather(outcomes: Mapping[Pair, SeedScores], lengths: Mapping[str, SeedScores]) -> tuple[Floats, Floats, Floats]:
    """Outcomes and both arms' lengths as [c, s, n], NaN where unknown."""
    rows = []
    for a, b in outcomes:
        missing = sorted({a, b} - lengths.keys())
        if missing:
            raise ValueError(f"no lengths for {missing} of the comparison {(a, b)}; got those of {sorted(lengths)}")
        rows.append([as_seeds(outcomes[a, b]), as_seeds(lengths[a]), as_seeds(lengths[b])])
    shapes = sorted({values.shape for row in rows for values in row})
    seeds, prompts = {s for s, _ in shapes} - {1}, {n for _, n in shapes}
    if len(seeds) > 1 or len(prompts) > 1:
        raise ValueError(
            f"outcomes and lengths must belong to the same prompts and seeds; got [seeds, prompts] {shapes}"
        )
    shape = (max(s for s, _ in shapes), prompts.pop())
    # A comparison of two arms without seeds of their own is one observation, not one per seed.
    widest = [max(len(values) for values in row) for row in rows]
    alone = [np.arange(shape[0])[:, None] < (wide if wide > 1 else 1) for wide in widest]
    results, first, second = (
        np.stack(
            [np.where(mask, np.broadcast_to(row[i], shape), np.nan) for row, mask in zip(rows, alone, strict=True)]
        )
        for i in range(3)
    )
    results = np.where((results >= 0) & (results <= 1) | np.isnan(results), results, np.inf)
    if np.isinf(results).any():
        raise ValueError("an outcome is 1, 0.5, 0 or between; found one outside [0, 1]")
    return results, first, second


def _length_unit(differences: Floats, known: np.ndarray) -> float:
    """Standard deviation of the length differences within a comparison, pooled over comparisons; 1 if it is 0."""
    variances = [float(row[mask].var()) for row, mask in zip(differences, known, strict=True) if mask.any()]
    return float(np.sqrt(np.mean(variances))) or 1.0 if variances else 1.0


def _near_share(first: Floats, second: Floats, known: np.ndarray) -> float:
    first, second = first[known], second[known]
    if not len(first):
        return 0.0
    return float((np.abs(first - second) <= NEAR * (first.mean() + second.mean()) / 2).mean())


def _separated(cells: Cells) -> bool:
    """Whether some threshold of length tells every win from every loss, so that phi has no finite best value."""
    if not cells.tanh.any():
        return False
    for sign in (1, -1):
        gaps = []
        for outcomes, known, tanh in zip(cells.outcomes, cells.known > 0, sign * cells.tanh, strict=True):
            won, lost = tanh[known & (outcomes > 0)], tanh[known & (outcomes < 1)]
            if len(won) and len(lost):
                gaps.append(won.min() - lost.max())
        if gaps and min(gaps) >= 0 and max(gaps) > 0:
            return True
    return False


def _reason(outcomes: Floats, prompts: int, near: float, least_near: float, separated: bool) -> str | None:
    """Why the rate at equal length cannot be told from these known outcomes; None if it can."""
    if prompts < LEAST_PROMPTS:
        return f"only {prompts} prompts have a verdict and both lengths; {LEAST_PROMPTS} are needed"
    if near < least_near:
        return (
            f"the lengths hardly overlap: {near:.0%} of the answers are within a quarter of the mean length of one "
            f"another, {least_near:.0%} are needed; at equal length the rate would be a guess"
        )
    fewer = min(outcomes.sum(), (1 - outcomes).sum())
    if fewer < LEAST_LOSSES:
        return (
            f"one arm won nearly always: the other has {fewer:g} wins of {len(outcomes)}, {LEAST_LOSSES:g} are needed"
        )
    if separated:
        return "the longer answer, or the shorter one, won every time: length and quality cannot be told apart"
    return None
