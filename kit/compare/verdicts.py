"""What a judge hands on: who won each prompt for each pair of arms, and what the judge says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Outcomes = list[float | None]


@dataclass(frozen=True)
class Verdicts:
    """`outcomes[a, b][i]` is 1 where a's answer to prompt i won, 0.5 for a tie, 0 where it lost, None where there is no
    valid verdict. `scores` holds each arm's score per prompt where the judge scores single answers, else None.

    `facts` are the judge's own figures, as `judge_facts` in metrics.json holds them.
    """

    judge: str
    description: str
    outcomes: Mapping[tuple[str, str], Outcomes]
    scores: Mapping[str, Outcomes] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
