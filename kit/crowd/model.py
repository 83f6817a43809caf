"""How reliable each annotator is: a crowd Bradley-Terry model, which knows careless people and adversaries.

After Chen, Bennett, Collins-Thompson and Horvitz 2013, "Pairwise ranking aggregation in a crowdsourced setting" (WSDM):
annotator j votes for the first of two answers with probability eta_j s(d) + (1 - eta_j) s(-d), d the difference
of the answers' scores and s the logistic function. eta 1: reads and judges; 0.5: as by dice; 0: the other way round.

Departures. (a) d of each unit is integrated out under N(mu, tau^2), not fitted: two or three votes cannot tell d, and a
fitted d follows each vote, also a careless one. mu (0 for pairs) and tau are fitted. (b) Pairs of one ranking are units
of their own (a composite likelihood; over a person's pairs it is weighted as votes.py says). (c) Of ratings, what is
drawn by dice has the person's own base rate m instead of 1/2: c r + (1 - c) m, c = |2 eta - 1|, r = s(d) above 0.5 and
s(-d) below; with m = 1/2 that is theirs. (d) eta has a weak prior, Beta(4, 1.5) by default: most people read; tests and
intervals do without it.

Shapes: n votes, u units, q nodes of the integral, g values of eta, j annotators.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.crowd.votes import Votes

Floats = NDArray[np.float64]
GRID = np.linspace(0.0, 1.0, 101)  # values of eta
_TINY = 1e-9
_NODES = 21
_HALF_NODES, _REACH = 20, 5.0  # on either side of 0; standard deviations
_ROUNDS = 40
_SETTLED = 0.01  # change of any eta that ends the fit
_TAU = (0.5, 6.0)  # logits
PRIOR = (4.0, 1.5)
CHI2_95 = 1.9207  # half the 95 % quantile of chi-squared with one degree of freedom


@dataclass(frozen=True)
class Crowd:
    """The fitted model. `expected` [n] is P(first answer | the other people's votes on the unit) without dice."""

    eta: Floats  # [j]
    ci95: Floats  # [j, 2], by profile likelihood
    loglik: Floats  # [j, g] of eta on GRID, given the others
    habit: Floats  # [j, scales], the base rates m
    expected: Floats  # [n]
    overlap: NDArray[np.intp]  # [j] votes on units that others voted on, too
    mu: Floats  # [scales]
    tau: float

    def against(self, bound: float, below: bool) -> Floats:
        """One-sided p-values [j] of the hypothesis that eta is at least (`below`) or at most the bound.

        By the likelihood ratio, 2 log L ~ chi-squared (Wilks 1938). 1 where the data lie on the hypothesis' side.
        """
        from scipy.stats import norm

        allowed = self.loglik[:, bound - 1e-9 <= GRID] if below else self.loglik[:, bound + 1e-9 >= GRID]
        lost = np.maximum(self.loglik.max(1) - allowed.max(1), 0.0)
        return np.where(lost > 1e-12, norm.sf(np.sqrt(2 * lost)), 1.0)


def fit(votes: Votes, prior: tuple[float, float] = PRIOR) -> Crowd:
    """Fit the model: in turn every eta given the other people's votes, and mu and tau given all; until eta settles."""
    j, u = len(votes.people), len(votes.units)
    scales = int(votes.scale.max(initial=0)) + 1
    scale_of = np.zeros(u, dtype=np.intp)
    scale_of[votes.unit] = votes.scale
    habit = _habits(votes, j, scales)
    m = habit[votes.who, votes.scale]
    nodes, mass = np.polynomial.hermite_e.hermegauss(_NODES)
    log_mass = np.log(mass / mass.sum())
    pull = (prior[0] - 1) * np.log(GRID + _TINY) + (prior[1] - 1) * np.log(1 - GRID + _TINY)
    eta, mu, tau = np.full(j, 0.85), np.zeros(scales), 2.0
    voters = np.bincount(votes.unit, minlength=u)
    loglik, expected = np.zeros((j, len(GRID))), np.full(len(m), 0.5)
    for _ in range(_ROUNDS):
        d = mu[scale_of][:, None] + tau * nodes  # [u, q]
        read = 1 / (1 + np.exp(-d))
        said = _log_votes(votes.value, eta[votes.who], m, read[votes.unit])  # [n, q]
        total = _by_unit(votes, said, u) + log_mass
        expected = (_normalised(total[votes.unit] - said) * read[votes.unit]).sum(1)
        loglik = _by_person(votes, expected, m, j)
        best = GRID[(loglik + pull).argmax(1)]
        shared = voters > 1
        if shared.any():
            after = _normalised(total[shared])
            mean, square = (after * d[shared]).sum(1), (after * d[shared] ** 2).sum(1)
            for scale in range(1, scales):  # pairs have no side of their own
                mine = scale_of[shared] == scale
                mu[scale] = mean[mine].mean() if mine.any() else 0.0
            centre = mu[scale_of[shared]]
            tau = float(np.clip(np.sqrt((square - 2 * centre * mean + centre**2).mean()), *_TAU))
        moved = np.abs(best - eta).max(initial=0.0)
        eta = (eta + best) / 2  # half a step: two people who only have each other would swing
        if moved <= _SETTLED:
            break
    eta = GRID[(loglik + pull).argmax(1)]
    inside = loglik >= loglik.max(1, keepdims=True) - CHI2_95
    ends = np.stack([GRID[inside.argmax(1)], GRID[len(GRID) - 1 - inside[:, ::-1].argmax(1)]], axis=1)
    ends = np.stack([np.minimum(ends[:, 0], eta), np.maximum(ends[:, 1], eta)], axis=1)  # the prior may pull it out
    overlap = np.bincount(votes.who, voters[votes.unit] > 1, minlength=j).astype(np.intp)
    return Crowd(eta, ends, loglik, habit, expected, overlap, mu, tau)


def chance(eta: Floats, m: Floats, read: Floats) -> Floats:
    """P(vote for the first answer) by people of such eta and base rate m; `read` is without dice. Never 0 or 1."""
    told = np.where(eta >= 0.5, read, 1 - read)
    c = np.abs(2 * eta - 1)
    return np.clip(c * told + (1 - c) * m, _TINY, 1 - _TINY)


def predict(votes: Votes, crowd: Crowd, new: Votes) -> Floats:
    """P(value 1) of votes that the fit did not see, from all votes it saw on their units. Shape: [votes of `new`]."""
    u = len(votes.units)
    nodes, mass = np.polynomial.hermite_e.hermegauss(_NODES)
    scale_of = np.zeros(u, dtype=np.intp)
    for one in (votes, new):
        scale_of[one.unit] = one.scale
    read = 1 / (1 + np.exp(-(crowd.mu[scale_of][:, None] + crowd.tau * nodes)))
    m = crowd.habit[votes.who, votes.scale]
    said = _log_votes(votes.value, crowd.eta[votes.who], m, read[votes.unit])
    total = _by_unit(votes, said, u) + np.log(mass / mass.sum())
    expected = (_normalised(total) * read).sum(1)[new.unit]
    return chance(crowd.eta[new.who], crowd.habit[new.who, new.scale], expected)


def likelier(votes: Votes, crowd: Crowd) -> Floats:
    """P(d > 0) of each unit [u]: that its first answer is the better one, given all votes on it and everybody's eta."""
    u = len(votes.units)
    x, width = np.polynomial.legendre.leggauss(_HALF_NODES)
    x = _REACH * (x + 1) / 2
    nodes = np.concatenate([-x[::-1], x])  # each half on its own: the answer jumps at 0
    mass = np.concatenate([width[::-1], width]) * np.exp(-(nodes**2) / 2)
    scale_of = np.zeros(u, dtype=np.intp)
    scale_of[votes.unit] = votes.scale
    d = crowd.mu[scale_of][:, None] + crowd.tau * nodes  # [u, q]
    m = crowd.habit[votes.who, votes.scale]
    said = _log_votes(votes.value, crowd.eta[votes.who], m, (1 / (1 + np.exp(-d)))[votes.unit])
    return (_normalised(_by_unit(votes, said, u) + np.log(mass / mass.sum())) * (d > 0)).sum(1)


def _habits(votes: Votes, j: int, scales: int) -> Floats:
    """Base rates [j, scales]: 1/2 for pairs; of ratings the person's own, drawn to everybody's by ten votes' worth."""
    habit = np.full((j, scales), 0.5)
    for scale in range(1, scales):
        mine = votes.scale == scale
        if mine.any():
            rate = votes.value[mine].mean()
            ones = np.bincount(votes.who[mine], votes.value[mine], minlength=j)
            habit[:, scale] = (ones + 10 * rate) / (np.bincount(votes.who[mine], minlength=j) + 10)
    return habit


def _log_votes(value: Floats, eta: Floats, m: Floats, read: Floats) -> Floats:
    """Log-probabilities [n, q] of the votes; a tie is half a vote for either side."""
    p = chance(eta[:, None], m[:, None], read)
    v = value[:, None]
    return v * np.log(p) + (1 - v) * np.log(1 - p)


def _by_person(votes: Votes, expected: Floats, m: Floats, j: int) -> Floats:
    """Log-likelihood [j, g] of each eta on the grid: by annotator the sum over the votes. A tie is two halves."""
    tied = votes.value == 0.5
    first = votes.value == 1
    who = np.concatenate([votes.who, votes.who[tied]])
    weight = np.concatenate([np.where(tied, 0.5, 1.0) * votes.weight, 0.5 * votes.weight[tied]])
    read = np.concatenate([np.where(first, expected, 1 - expected), expected[tied]])  # of what was said
    base = np.concatenate([np.where(first, m, 1 - m), m[tied]])
    found = np.zeros((j, len(GRID)))
    for at, eta in enumerate(GRID):
        c = abs(2 * eta - 1)
        p = c * (read if eta >= 0.5 else 1 - read) + (1 - c) * base
        found[:, at] = np.bincount(who, weight * np.log(np.clip(p, _TINY, 1 - _TINY)), minlength=j)
    return found


def _by_unit(votes: Votes, said: Floats, u: int) -> Floats:
    """Sums [u, q] of the votes' rows [n, q]."""
    from scipy.sparse import csr_array

    n = len(votes.unit)
    return csr_array((np.ones(n), (votes.unit, np.arange(n))), shape=(u, n)) @ said


def _normalised(logs: Floats) -> Floats:
    """Rows [.., q] of log-weights as probabilities."""
    shifted = np.exp(logs - logs.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
