"""What a stage hands back, and what it leaves in its folder beside the adapter."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StageResult:
    """`metrics` are the figures a person would ask for first; `headline` says them in a line."""

    metrics: dict[str, Any]
    headline: str
