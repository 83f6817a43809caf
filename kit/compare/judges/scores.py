"""Judges that give each answer a score: the truth, a reward model, a function of the user's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kit.compare.verdicts import Outcomes, Verdicts

_TIE = 1e-9  # scores nearer than this are equal: sums of the same terms in another order

Arms = tuple[str, str]


def judge_by_scores(
    name: str,
    description: str,
    scores: Mapping[str, Sequence[float | None]],
    pairs: Sequence[Arms],
    facts: Mapping[str, Any] | None = None,
) -> Verdicts:
    """The higher score wins, scores within 1e-9 tie; None where one of the two is missing or not finite.

    `scores[arm][i]` belongs to prompt i; `facts` are what the judge says of itself, kept and added to.
    """
    known = {arm: [_finite(score) for score in column] for arm, column in scores.items()}
    outcomes = {(a, b): [_outcome(x, y) for x, y in zip(known[a], known[b], strict=True)] for a, b in pairs}
    return Verdicts(name, description, outcomes, known, {**(facts or {}), **outcome_facts(outcomes)})


def outcome_facts(outcomes: Mapping[Arms, Outcomes]) -> dict[str, Any]:
    """`tie_rate`, the share of ties among all outcomes, and `valid_prompts`: the fewest prompts with an outcome that
    any pair of arms has, of `prompts`."""
    valid = [outcome for column in outcomes.values() for outcome in column if outcome is not None]
    return {
        "tie_rate": sum(outcome == 0.5 for outcome in valid) / len(valid) if valid else None,
        "valid_prompts": min((sum(x is not None for x in column) for column in outcomes.values()), default=0),
        "prompts": max((len(column) for column in outcomes.values()), default=0),
    }


def _finite(score: float | None) -> float | None:
    return float(score) if score is not None and math.isfinite(score) else None


def _outcome(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 0.5 if abs(a - b) <= _TIE else float(a > b)
