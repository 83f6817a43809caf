"""What a comparison is made of (answers, arms), and the object that shows it."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kit.compare.report.table import plain_text
from kit.errors import RunError

METRICS_FILE = "metrics.json"
_AGAIN = "Delete the folder and compare again."
# The parts of the metrics that are reckoned with, and all that is no number in them.
_COUNTED = ("prompts", "seed", "seeds", "arms", "pairs", "curves", "judge_facts", "reward_model")
_TEXTS = ("checkpoint", "verdict", "unit", "description", "length_rule")


@dataclass(frozen=True)
class Answer:
    """One sampled answer. Rewards in their judge's units, None where unknown. KL from SFT over the whole answer and
    entropy per token, in nats; None where the answer was chosen among several, so that no policy is known for it."""

    text: str
    true_reward: float | None
    proxy_reward: float | None
    kl_nats: float | None
    response_tokens: int
    ended: bool
    entropy_nats: float | None = None
    judge_score: float | None = None
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One policy's answers: answers[i] belongs to prompts[i]."""

    name: str
    answers: list[Answer]


def finite(value: float | None) -> float | None:
    """The number, or None where it is unknown, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def _no_numbers(value: Any, at: str) -> Iterator[str]:
    """The places in a part of the metrics where something stands that nobody can reckon with, each in words."""
    name = at.rpartition(".")[2]
    if isinstance(value, str) and name not in _TEXTS:
        yield f"{at} is {value[:40]!r}, where a number is wanted"
    elif name == "ci95" and value is not None and not (isinstance(value, list) and len(value) == 2):
        yield f"{at} is {str(value)[:40]}, where an interval's two ends are wanted"
    elif isinstance(value, (dict, list)):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in inner:
            yield from _no_numbers(one, f"{at}.{key}")


def _damage(metrics: dict[str, Any]) -> str | None:
    """What in the metrics of a comparison nobody could have written there, in words; None where there is nothing."""
    for key in _COUNTED:
        for text in _no_numbers(metrics.get(key), key):
            return text
    if not isinstance(metrics["judge"], str):
        return f"judge is {metrics['judge']!r}, where a name is wanted"
    for key in ("arms", "pairs"):
        if not isinstance(metrics[key], dict) or not all(isinstance(part, dict) for part in metrics[key].values()):
            return f"{key} does not hold one object for each of them"
    return None


class Comparison:
    """A finished comparison: `.metrics` as in metrics.json, `.path` its folder; shows itself in a notebook."""

    def __init__(self, metrics: dict[str, Any], path: Path) -> None:
        self.metrics = metrics
        self.path = Path(path)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read back the comparison in `folder`; RunError if there is none, or it is damaged."""
        file = Path(folder) / METRICS_FILE
        try:
            metrics = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{file}: no comparison here yet. Add the stage `compare` to the run.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{file}: cannot be read ({error}). {_AGAIN}") from error
        if not isinstance(metrics, dict) or not {"judge", "prompts", "arms", "pairs"} <= metrics.keys():
            raise RunError(f"{file}: not the metrics of a comparison. {_AGAIN}")
        damage = _damage(metrics)
        if damage is not None:
            raise RunError(f"{file}: damaged, or changed by hand: {damage}. {_AGAIN}")
        return cls(metrics, Path(folder))

    @property
    def report(self) -> Path:
        """The page to open in a browser."""
        return self.path / "report.html"

    def __str__(self) -> str:
        return plain_text(self.metrics)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Verdict, cautions, figures and table; inherits its colours, so that it reads on light and on dark pages."""
        from kit.compare.report.show import notebook

        return notebook(self.metrics, self.report)
