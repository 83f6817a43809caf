"""The fit behind length_control.py, where the model stands: Newton's method on a penalised likelihood.

Notation: c comparisons, s training seeds, n prompts. The fixed effects are theta, phi and psi of each comparison and
beta, [3c + 1]; the n gammas are eliminated from every step (Schur complement), so that a step costs about as much as
one pass over the outcomes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from kit.compare.numbers.statistics import Floats

SIGMAS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the gammas; the likeliest is taken
_SHARED_SD = 3.0  # of phi, and of beta
_OWN_PHI_SD, _OWN_PSI_SD = 0.4, 0.2
_THETA_RIDGE = 1e-4
_STEPS = 60


@dataclass(frozen=True)
class Cells:
    """What is known. Shapes: outcomes, known (0 or 1) and tanh are [c, s, n]; facing [c] is psi's prior mean."""

    outcomes: Floats
    known: Floats
    tanh: Floats
    facing: Floats


@dataclass(frozen=True)
class Fit:
    """Shapes: weights [3, c] are theta, phi and psi; gamma is [n]. `evidence` is Laplace's log-likelihood."""

    weights: Floats
    beta: float
    gamma: Floats
    evidence: float


def fit(cells: Cells, sigma: float, times: Floats | None = None, start: Fit | None = None) -> Fit:
    """The most likely weights, beta and gammas, where prompt x stands in the sample times[x] times.

    Newton's method on the penalised log-likelihood, each step halved until it rises.
    """
    c, n = len(cells.facing), cells.outcomes.shape[2]
    times = np.ones(n) if times is None else times
    prior = _prior(cells, sigma)
    fixed, gamma = prior.middle.copy(), np.zeros(n)
    if start is not None:
        fixed, gamma = np.append(start.weights, start.beta), start.gamma

    def value(fixed: Floats, gamma: Floats, eta: Floats) -> float:
        per_prompt = (cells.outcomes * eta - cells.known * np.logaddexp(0.0, eta)).sum(axis=(0, 1))
        per_prompt -= (gamma - fixed[-1] * prior.mean_tanh) ** 2 / (2 * sigma**2)
        away = fixed - prior.middle
        return float(times @ per_prompt - away @ prior.precision @ away / 2)

    eta = _eta(cells, fixed, gamma)
    here = value(fixed, gamma, eta)
    for _ in range(_STEPS):
        step, step_gamma, _ = _newton_step(cells, prior, times, fixed, gamma, eta)
        size = 1.0
        while size > 1e-6:
            there = fixed + size * step, gamma + size * step_gamma
            eta = _eta(cells, *there)
            reached = value(*there, eta)
            if reached >= here - 1e-9 * abs(here):
                break
            size /= 2
        fixed, gamma, here = *there, reached
        if np.abs(step).max() < (1e-7 if start is None else 1e-3):
            break
    curvature = _newton_step(cells, prior, times, fixed, gamma, eta)[2]
    evidence = here - n * float(np.log(sigma)) - float(np.log(curvature).sum()) / 2
    return Fit(fixed[:-1].reshape(3, c), float(fixed[-1]), gamma, evidence)


@dataclass(frozen=True)
class _Prior:
    """Normal priors of the fixed effects (theta, phi, psi, beta), [3c + 1], and gamma_x ~ N(beta m_x, sigma^2)."""

    middle: Floats
    precision: Floats
    mean_tanh: Floats
    sigma: float


def _prior(cells: Cells, sigma: float) -> _Prior:
    """phi, which all comparisons share, is no parameter of its own: it is the covariance of the phi_c."""
    c = len(cells.facing)
    precision = np.zeros((3 * c + 1, 3 * c + 1))
    precision[:c, :c] = _THETA_RIDGE * np.eye(c)
    precision[c : 2 * c, c : 2 * c] = np.linalg.inv(_OWN_PHI_SD**2 * np.eye(c) + _SHARED_SD**2)
    precision[2 * c : -1, 2 * c : -1] = np.eye(c) / _OWN_PSI_SD**2
    precision[-1, -1] = 1 / _SHARED_SD**2
    counts = np.einsum("c,csn->n", np.abs(cells.facing), cells.known)
    mean_tanh = np.einsum("c,csn->n", cells.facing, cells.tanh) / np.maximum(counts, 1.0)
    return _Prior(np.concatenate([np.zeros(2 * c), cells.facing, [0.0]]), precision, mean_tanh, sigma)


def _newton_step(
    cells: Cells, prior: _Prior, times: Floats, fixed: Floats, gamma: Floats, eta: Floats
) -> tuple[Floats, Floats, Floats]:
    """(step of the fixed effects [3c + 1], step of gamma [n], curvature of each gamma [n])."""
    c, m, variance = len(cells.facing), prior.mean_tanh, prior.sigma**2
    psi, beta = fixed[2 * c : -1], fixed[-1]
    p = expit(eta)
    residual = cells.outcomes - cells.known * p
    weight = cells.known * p * (1 - p)
    residual_0, residual_d = residual.sum(axis=1), (residual * cells.tanh).sum(axis=1)  # [c, n]
    weighted_d = weight * cells.tanh
    w_0, w_d, w_dd = weight.sum(axis=1), weighted_d.sum(axis=1), (weighted_d * cells.tanh).sum(axis=1)
    pull = (gamma - beta * m) / variance
    slope = np.concatenate([residual_0 @ times, residual_d @ times, residual_0 @ (times * gamma), [times @ (m * pull)]])
    slope -= prior.precision @ (fixed - prior.middle)
    slope_gamma = psi @ residual_0 - pull
    curvature = psi**2 @ w_0 + 1 / variance
    entries = [
        [w_0 @ times, w_d @ times, w_0 @ (times * gamma)],
        [w_d @ times, w_dd @ times, w_d @ (times * gamma)],
        [w_0 @ (times * gamma), w_d @ (times * gamma), w_0 @ (times * gamma**2)],
    ]
    matrix = prior.precision.copy()
    matrix[:-1, :-1] += np.block([[np.diag(entry) for entry in row] for row in entries])
    matrix[-1, -1] += times @ m**2 / variance
    coupling = np.vstack([psi[:, None] * w_0, psi[:, None] * w_d, psi[:, None] * w_0 * gamma, -m / variance])
    # psi * gamma bends the likelihood too: with that, steps are few near the top; without, every step leads up.
    bent = coupling.copy()
    bent[2 * c : -1] -= residual_0
    share = times / curvature
    reduced = matrix - (bent * share) @ bent.T
    if not _positive(reduced):
        bent = coupling
        reduced = matrix - (bent * share) @ bent.T
    step = np.linalg.solve(reduced, slope - bent @ (share * slope_gamma))
    return step, (slope_gamma - step @ bent) / curvature, curvature


def _positive(matrix: Floats) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def _eta(cells: Cells, fixed: Floats, gamma: Floats) -> Floats:
    """The log-odds, [c, s, n]."""
    theta, phi, psi = fixed[:-1].reshape(3, -1)
    return (theta[:, None] + psi[:, None] * gamma)[:, None] + phi[:, None, None] * cells.tanh


def equal_length_rates(cells: Cells, found: Fit, times: Floats | None = None) -> Floats:
    """Mean of sigmoid(theta + psi * gamma) over the known answers of each comparison, [c]; 0 where there are none."""
    theta, _, psi = found.weights
    rates = expit(theta[:, None] + psi[:, None] * found.gamma)
    counts = cells.known.sum(axis=1) * (1.0 if times is None else times)
    return (rates * counts).sum(axis=1) / np.maximum(counts.sum(axis=1), 1.0)


def best_fit(cells: Cells) -> tuple[Fit, float]:
    """The fit under the most likely sigma, and that sigma."""
    if not cells.facing.any():
        return fit(cells, SIGMAS[0]), SIGMAS[0]
    return max(((fit(cells, sigma), sigma) for sigma in SIGMAS), key=lambda found: found[0].evidence)
