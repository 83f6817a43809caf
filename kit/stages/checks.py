"""What is asked of a trainer before it trains, and of what it trained: libraries say nothing where the answer is no."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit import notices
from kit.errors import TrainingStopped
from kit.models.adapters import has_moved
from kit.models.encoding import EncodedPrompt

_LOOKED_AT = 16  # prompts that are encoded again as the trainer encodes them


def require_all_rows(trainer: Any, stage: str, rows: Sequence, held_out: Sequence = ()) -> None:
    """Raise TrainingStopped where the trainer holds other rows than it was given: TRL leaves some out uncounted."""
    for what, given, kept in (
        ("rows", rows, trainer.train_dataset),
        ("held-out rows", held_out, trainer.eval_dataset),
    ):
        if kept is not None and len(kept) != len(given):
            raise TrainingStopped(
                f"{stage} not started: the trainer was given {len(given):,} {what} and holds {len(kept):,}. What is "
                f"left out has to be counted first; look at {stage}.trl, and report it if that is empty"
            )


def require_same_prompts(trainer: Any, stage: str, prompts: Sequence[EncodedPrompt]) -> None:
    """Raise TrainingStopped where the trainer reads prompts as other ids than those the SFT policy learnt to answer."""
    some = prompts[:_LOOKED_AT]
    found = trainer._tokenize_prompts([prompt.messages for prompt in some])[0]
    for prompt, ids in zip(some, found, strict=True):
        if list(ids) != prompt.ids:
            raise TrainingStopped(
                f"{stage} not started: the trainer reads a prompt as other tokens than SFT did: {ids[:8]}… and not "
                f"{prompt.ids[:8]}… . This is a fault of the hand-over; please report it with the run's config.yaml"
            )


def require_learnt(model: Any, stage: str, started_from: Path | None = None) -> None:
    """Raise TrainingStopped where training left the adapter, to the bit, what it was."""
    if not has_moved(model, started_from):
        raise TrainingStopped(
            f"{stage} stopped: after the training the adapter is, to the bit, what it was before. No gradient reached "
            f"it, or each was 0 or lost in rounding: look at grad_norm in the log, {stage}.learning_rate, {stage}.trl"
        )


def warn_unless_learnt(model: Any, stage: str, started_from: Path) -> None:
    """Warn where a policy that learns from scores is, to the bit, what it was: equal scores teach nothing."""
    if not has_moved(model, started_from):
        notices.warn(
            f"{stage}: the policy is, to the bit, the SFT policy: nothing was learnt. Are all scores equal "
            f"(metrics.jsonl), or is {stage}.learning_rate too small?"
        )


def require_finite(stage: str, measured: Mapping[str, float]) -> None:
    """Raise TrainingStopped where a figure of the held-out rows is no finite number."""
    broken = [name for name, value in measured.items() if isinstance(value, float) and not math.isfinite(value)]
    if broken:
        raise TrainingStopped(
            f"{stage} stopped: on the held-out rows {', '.join(broken)} is no finite number, so the training broke the "
            f"model. Lower {stage}.learning_rate"
        )
