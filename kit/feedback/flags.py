"""Which annotators to look at, and for what: tests against what is usual, with few false alarms.

Each test's hypothesis is that the person is fine, within a margin that matters:

drifting        judgements go with the others' as they did before (drift.py), or eta changes by less than 0.25
position        leans to a place on the page by at most 0.5 logits more than people usually do, or half as much as they
                heed what the others see, too (bias.py)
length          the same, of length
adversarial     eta is at least 0.5 (kit.crowd.model)
careless        eta - 0.5 is at least 60 % of the typical person's
gold            puts at least 70 % of the gold items' pairs right, of eight items or more (binomial)

The p-values of all tests of all people go through Benjamini and Hochberg's procedure (1995) at 5 %: of those named, at
most one in twenty is expected to be named wrongly. Of several faults of one person the first in this order is the name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kit.crowd.model import Crowd
from kit.feedback.bias import FEWEST, Lean
from kit.feedback.drift import Change
from kit.feedback.people import Person

KINDS = ("drifting", "position", "length", "adversarial", "careless", "gold")
FALSE_SHARE = 0.05
_CHANGED = 0.25  # of eta
_READS = 0.6
_RIGHT, _GOLD_ITEMS = 0.7, 8


@dataclass(frozen=True)
class Flag:
    """A named fault of one annotator; `also` names others that were found, `p` is before the correction."""

    annotator: str
    kind: str
    p: float
    also: tuple[str, ...] = ()


def flags_of(
    people: Sequence[Person], crowd: Crowd, leans: Mapping[str, Mapping[int, Lean]], changes: Mapping[int, Change]
) -> list[Flag]:
    """The annotators with a fault, the surest first; who has fewer than 20 votes that others share: by gold alone."""
    tested = [who for who in range(len(people)) if crowd.overlap[who] >= FEWEST]
    p = {(who, "gold"): p for who, person in enumerate(people) if (p := _misses_gold(person)) is not None}
    adversarial = crowd.against(0.5, below=True)
    careless = crowd.against(careless_bound(crowd, tested), below=True) if tested else adversarial
    for who in tested:
        p[who, "adversarial"], p[who, "careless"] = float(adversarial[who]), float(careless[who])
        for name, found in leans.items():
            if who in found:
                p[who, name] = found[who].p
        if who in changes:
            p[who, "drifting"] = changes[who].p
    passed = benjamini_hochberg(p, FALSE_SHARE)
    flags = []
    for who in range(len(people)):
        kinds = [kind for kind in KINDS if (who, kind) in passed]
        if "drifting" in kinds and abs(changes[who].eta_before - changes[who].eta_after) < _CHANGED:
            kinds.remove("drifting")
        if kinds:
            flags.append(Flag(people[who].name, kinds[0], p[who, kinds[0]], tuple(kinds[1:])))
    return sorted(flags, key=lambda flag: flag.p)


def careless_bound(crowd: Crowd, tested: Sequence[int]) -> float:
    """60 % of the way from dice to the median annotator, each of whom weighs as much as they judged."""
    eta, weight = crowd.eta[list(tested)], crowd.overlap[list(tested)].astype(float)
    order = np.argsort(eta)
    middle = eta[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)]
    return 0.5 + _READS * max(float(middle) - 0.5, 0.0)


def _misses_gold(person: Person) -> float | None:
    """The p-value of putting no more of the gold items right; None of people with few."""
    from scipy.stats import binom

    if person.gold is None or person.gold.items < _GOLD_ITEMS:
        return None
    return float(binom.cdf(round(person.gold.value * person.gold.items), person.gold.items, _RIGHT))


def benjamini_hochberg(p: Mapping[tuple[int, str], float], share: float) -> set[tuple[int, str]]:
    """The keys of the hypotheses that are rejected: the k smallest p, k the largest with p_(k) <= share k / m."""
    ranked = sorted(p, key=p.__getitem__)
    passed = [k for k, key in enumerate(ranked, 1) if p[key] <= share * k / len(ranked)]
    return set(ranked[: max(passed, default=0)])
