"""What to change where a run does not fit, in order of least harm, and what each change saves.

First what costs time alone, then what changes rounding, then what changes what is learnt, and last the text that is
used. Each change is one that a config can make today.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kit.config import Config, Stage
from kit.models.plan.choice import (
    LEAN_OPTIMIZER,
    checkpointing_asked,
    choose,
    largest_micro_batch,
    largest_rollout_batch,
    on_gpu,
    optimizer,
    planned,
)
from kit.models.plan.shape import Shape
from kit.models.plan.stages import StageMemory

_SHORTEST = 128  # tokens of prompt and response below which nothing is proposed
_SMALLEST_RANK = 8


@dataclass(frozen=True)
class Change:
    """Settings to change (`key=value`, as `kit run` takes them), the bytes saved at the peak, and what it costs."""

    settings: tuple[str, ...]
    saves_bytes: int
    costs: str


def memories(config: Config, shape: Shape, free_bytes: int) -> list[StageMemory]:
    """The memory of every stage of the config on a card with so many bytes free."""
    return [planned(config, shape, stage, free_bytes, on_gpu(config)) for stage in config.stages]


def advise(config: Config, shape: Shape, free_bytes: int) -> tuple[list[Change], bool]:
    """The changes after which everything fits, and whether it does; without that, all changes there are."""
    changes: list[Change] = []
    for lever, costs in _LEVERS:
        over = [found for found in memories(config, shape, free_bytes) if found.peak > free_bytes]
        if not over:
            break
        settings = list(lever(config, shape, free_bytes, over))
        changed = _with(config, settings)
        before = {found.stage: found.peak for found in over}
        after = {found.stage: found.peak for found in memories(changed, shape, free_bytes)}
        saved = max((before[stage] - after[stage] for stage in before), default=0)
        if saved > 0:
            changes.append(Change(tuple(f"{key}={_yaml(value)}" for key, value in settings), saved, costs))
            config = changed
    return changes, all(found.peak <= free_bytes for found in memories(config, shape, free_bytes))


def leanest(config: Config, shape: Shape) -> list[StageMemory]:
    """The stages after every change that could be proposed: what the model needs at the least."""
    for lever, _ in _LEVERS:
        config = _with(config, list(lever(config, shape, 0, memories(config, shape, 0))))
    return memories(config, shape, 0)


Settings = Iterator[tuple[str, Any]]
Lever = Callable[[Config, Shape, int, list[StageMemory]], Settings]


def _sampling(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """Fewer responses at once."""
    for found in over:
        if found.sizes.rollout and found.peak_pass != "training":
            how = choose(config, shape, found.stage, free_bytes, on_gpu(config)).how
            size = max(1, largest_rollout_batch(config, shape, found.stage, free_bytes, how))
            if size < found.sizes.rollout:
                name = "batch_size" if found.stage == "compare" else "rollout_batch_size"
                yield f"{found.stage}.{name}", size


def _scoring(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """Fewer responses scored at once."""
    if any(found.stage == "ppo" and found.sizes.scoring > 1 for found in over):
        yield "ppo.scoring_batch_size", 1


def _micro(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """A smaller micro-batch."""
    for found in over:
        if found.stage != "compare":
            how = choose(config, shape, found.stage, free_bytes, on_gpu(config)).how
            size = max(1, largest_micro_batch(config, shape, found.stage, free_bytes, how))
            if size < found.sizes.micro:
                yield f"{found.stage}.micro_batch_size", size


def _checkpointing(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """Checkpointing where the config has switched it off."""
    for found in over:
        if checkpointing_asked(config, found.stage) is False:
            yield f"{found.stage}.trl.gradient_checkpointing", True


def _quantization(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """4 bits where the config has switched them off."""
    if config.model.quantization == "none":
        yield "model.quantization", "nf4"


def _lean(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """8-bit moments of AdamW, the input embedding on the host, checkpointing."""
    if config.memory != "lean":
        yield "memory", "lean"


def _optimizer(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """8-bit moments of AdamW where the config asks for another optimizer."""
    for found in over:
        if found.stage != "compare" and "8bit" not in (optimizer(config, found.stage) or ""):
            yield f"{found.stage}.trl.optim", LEAN_OPTIMIZER


def _critic(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """A critic that is a head on the policy."""
    if config.ppo.critic != "shared" and any(found.stage == "ppo" for found in over):
        yield "ppo.critic", "shared"


def _rank(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """Smaller adapters."""
    if config.lora.rank > _SMALLEST_RANK:
        yield "lora.rank", _SMALLEST_RANK


def _shorter(config: Config, shape: Shape, free_bytes: int, over: list[StageMemory]) -> Settings:
    """Half of the text."""
    for name in ("max_prompt_tokens", "max_response_tokens"):
        if getattr(config.data, name) > _SHORTEST:
            yield f"data.{name}", max(_SHORTEST, getattr(config.data, name) // 2)


_LEVERS: tuple[tuple[Lever, str], ...] = (
    (_sampling, "time alone (other samples are drawn)"),
    (_scoring, "time alone"),
    (_micro, "time alone"),
    (_checkpointing, "about a third more time in training"),
    (_lean, "some time, and rounding of AdamW's moments"),
    (_optimizer, "rounding of AdamW's moments"),
    (_quantization, "rounding of the base to 4 bits"),
    (_critic, "PPO's critic has no adapter of its own"),
    (_rank, "smaller adapters"),
    (_sampling, "time alone (other samples are drawn)"),
    (_shorter, "longer prompts and responses are cut"),
    (_shorter, "longer prompts and responses are cut"),
)


def _with(config: Config, settings: list[tuple[str, Any]]) -> Config:
    """The config with some settings replaced; `stage.trl.name` is one argument more."""
    for key, value in settings:
        if "." not in key:
            config = config.model_copy(update={key: value})
            continue
        section, name, *argument = key.split(".")
        inner = getattr(config, section)
        value = {**inner.trl, argument[0]: value} if argument else value
        config = config.model_copy(update={section: inner.model_copy(update={name: value})})
    return config


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def stages_over(found: list[StageMemory], free_bytes: int) -> list[Stage]:
    """The stages that do not fit."""
    return [memory.stage for memory in found if memory.peak > free_bytes]
