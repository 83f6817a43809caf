"""The room that a stage needs on disk: its checkpoints while it runs, and what it leaves.

A checkpoint has the trained adapters, AdamW's two moments for each of their weights, and PPO's best policy so far. One
more than are kept is there while a new one is written.
"""

from dataclasses import dataclass

from kit.config import Config, Stage
from kit.models.plan.choice import optimizer
from kit.models.plan.shape import Shape
from kit.models.plan.stages import trained_adapters
from kit.runs.checkpoints import KEPT

_BESIDE = 50_000_000  # tokenizer, logs, state: a tokenizer.json of 200,000 tokens has some 20 MB


@dataclass(frozen=True)
class DiskNeed:
    """Bytes of one checkpoint, of all that are there at once, and of what the stage leaves."""

    checkpoint: int
    while_running: int
    left: int


def disk_need(config: Config, shape: Shape, stage: Stage) -> DiskNeed:
    """The bytes that a stage writes; the comparison, whose answers are text, counts as its few megabytes alone."""
    if stage == "compare":
        return DiskNeed(0, 0, _BESIDE)
    weights = shape.adapter(config.lora.rank, config.lora.targets)
    element = 2 if config.lora.dtype == "bfloat16" else 4
    moments = 2.1 if "8bit" in (optimizer(config, stage) or "") else 2 * element
    checkpoint = round(trained_adapters(config, stage) * weights * (element + moments))
    if stage == "ppo":
        checkpoint += weights * element
    snapshots = getattr(getattr(config, stage), "snapshots", 0) * weights * element
    return DiskNeed(checkpoint, (KEPT + 1) * checkpoint + snapshots, weights * element + snapshots + _BESIDE)
