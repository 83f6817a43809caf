"""What a comparison is made of (answers, arms), the numbers it yields, and the object that shows them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Self

from kit.compare.statistics import Interval, Scores, WinRate, mean_difference, mean_interval, verdict, win_rate
from kit.compare.table import cautions, plain_text, rows, verdict_sentence
from kit.errors import RunError

TRUTH, REWARD_MODEL = "truth", "reward_model"
BASELINE = "sft"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Answer:
    """One sampled answer. Rewards in their judge's units, None where unknown; the KL is the sequence's, from SFT."""

    text: str
    true_reward: float | None
    proxy_reward: float | None
    kl_nats: float
    response_tokens: int
    ended: bool


@dataclass(frozen=True)
class Arm:
    """One policy's answers: answers[i] belongs to prompts[i]."""

    name: str
    answers: list[Answer]
    train_seconds: float | None
    peak_bytes: int | None


def build_metrics(arms: Sequence[Arm], prompts: Sequence[Any], judge: str, seed: int) -> dict[str, Any]:
    """The contents of metrics.json; a number that is not known is null, never NaN.

    `judge` is "truth" (win rates by true_reward) or "reward_model" (by proxy_reward). The same seed resamples the
    same prompts for every arm, so that intervals belong together.
    """
    _check(arms, prompts, judge)
    by_name = {arm.name: arm for arm in arms}
    return {
        "judge": judge,
        "prompts": len(prompts),
        "seed": seed,
        "arms": {arm.name: _arm_metrics(arm, by_name.get(BASELINE), judge, seed) for arm in arms},
        "pairs": _pairs(by_name, judge, seed),
    }


def _check(arms: Sequence[Arm], prompts: Sequence[Any], judge: str) -> None:
    if judge not in (TRUTH, REWARD_MODEL):
        raise ValueError(f"judge must be {TRUTH!r} or {REWARD_MODEL!r}; got {judge!r}")
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise ValueError(f"arms must have names of their own; got {names}")
    for arm in arms:
        if len(arm.answers) != len(prompts):
            raise ValueError(f"arm {arm.name!r} has {len(arm.answers)} answers to {len(prompts)} prompts")


def _scores(arm: Arm, judge: str) -> Scores:
    return [answer.true_reward if judge == TRUTH else answer.proxy_reward for answer in arm.answers]


def _arm_metrics(arm: Arm, baseline: Arm | None, judge: str, seed: int) -> dict[str, Any]:
    answers = arm.answers
    tokens = mean_interval([answer.response_tokens for answer in answers], seed)
    against = None
    if baseline is not None and arm.name != BASELINE:
        against = win_rate(_scores(arm, judge), _scores(baseline, judge), seed)
    scored = mean_interval(_scores(arm, judge), seed)
    return {
        "true_reward": _mean(mean_interval([answer.true_reward for answer in answers], seed)),
        "proxy_reward": _mean(mean_interval([answer.proxy_reward for answer in answers], seed)),
        "kl_nats": _mean(mean_interval([answer.kl_nats for answer in answers], seed)),
        "response_tokens": None if tokens is None else {"mean": tokens.mean},
        "win_rate_vs_sft": None if against is None else {"mean": against.rate, "ci95": against.ci95},
        "train_seconds": finite(arm.train_seconds),
        "peak_bytes": finite(arm.peak_bytes),
        "ended_rate": sum(answer.ended for answer in answers) / len(answers) if answers else None,
        "scored": 0 if scored is None else scored.n,
    }


def _pairs(by_name: dict[str, Arm], judge: str, seed: int) -> dict[str, Any]:
    """PPO against DPO; nothing unless both are there and share a prompt that the judge scored."""
    if not {"ppo", "dpo"} <= by_name.keys():
        return {}
    ppo, dpo = _scores(by_name["ppo"], judge), _scores(by_name["dpo"], judge)
    wins = win_rate(ppo, dpo, seed)
    return {} if wins is None else {"ppo_vs_dpo": _pair(wins, mean_difference(ppo, dpo, seed))}


def _pair(wins: WinRate, difference: Interval | None) -> dict[str, Any]:
    return {
        "win_rate": wins.rate,
        "ci95": wins.ci95,
        "tie_rate": wins.tie_rate,
        "verdict": verdict(wins.ci95, "ppo", "dpo"),
        "prompts": wins.n,
        "score_difference": _mean(difference),
    }


def _mean(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {"mean": interval.mean, "ci95": interval.ci95}


def finite(value: float | None) -> float | None:
    """The number, or None where it is unknown, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


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
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be read ({error}). Delete the folder and compare again.") from error
        if not isinstance(metrics, dict) or not {"judge", "prompts", "arms", "pairs"} <= metrics.keys():
            raise RunError(f"{file}: not the metrics of a comparison. Delete the folder and compare again.")
        return cls(metrics, Path(folder))

    @property
    def report(self) -> Path:
        """The page to open in a browser."""
        return self.path / "report.html"

    def __str__(self) -> str:
        return plain_text(self.metrics)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Verdict, cautions and table; inherits its colours, so that it reads on light and on dark pages."""
        cell = "padding:.35em .9em;text-align:{};border-bottom:1px solid rgba(128,128,128,.3);background:transparent;"
        head, *body = rows(self.metrics)

        def line(tag: str, cells: Sequence[str]) -> str:
            sides = ["left"] + ["right"] * (len(cells) - 1)
            pairs = zip(sides, cells, strict=True)
            return "".join(f'<{tag} style="{cell.format(side)}">{escape(text)}</{tag}>' for side, text in pairs)

        lines = "".join(f"<tr>{line('td', cells)}</tr>" for cells in body)
        notes = "".join(f'<p style="margin:.4em 0;opacity:.8">{escape(note)}</p>' for note in cautions(self.metrics))
        return (
            '<div style="font-family:system-ui,sans-serif;color:inherit;background:transparent;overflow-x:auto">'
            f'<p style="font-size:1.15em;font-weight:600;margin:.4em 0">{escape(verdict_sentence(self.metrics))}</p>'
            f"{notes}"
            '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6em 0">'
            f"<thead><tr>{line('th', head)}</tr></thead>"
            f"<tbody>{lines}</tbody></table>"
            f'<p style="margin:.4em 0;opacity:.8">Full report: {escape(str(self.report))}</p></div>'
        )
