"""What `auto` becomes: the sizes and the arithmetic of a stage, for the memory that is free and what it is spent on.

fast       no checkpointing where a micro-batch of 1 fits without it; up to 16,384 tokens at once
balanced   no checkpointing where the micro-batch it would have fits without it; up to 4,096 tokens at once
lean       always checkpointing; AdamW's moments in 8 bits, paged; an untied input embedding stays on the host

What a stage's `trl:` mapping says of checkpointing and optimizer is taken as it stands.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from kit.config import Config, Stage
from kit.models.plan.memory import TOKENS_AT_ONCE, Arithmetic
from kit.models.plan.shape import Shape
from kit.models.plan.stages import ROLLOUT_STAGES, Sizes, StageMemory, row_tokens, stage_memory

LEAN_OPTIMIZER = "paged_adamw_8bit"
_MARGIN = 0.9  # of the free memory is what `auto` fills: as close as the plan hopes to be
_FAST_TOKENS = 4 * TOKENS_AT_ONCE
_MOST_ANSWERS = 256  # of the comparison at once


@dataclass(frozen=True)
class Choice:
    """How a stage goes about it: what it has in memory at once, and how it computes."""

    sizes: Sizes
    how: Arithmetic


def on_gpu(config: Config) -> Arithmetic:
    """The arithmetic of a GPU, as `choose_precision` settles it, without torch."""
    return Arithmetic(4 if config.model.dtype == "float32" else 2, config.model.quantization != "none", True)


def optimizer(config: Config, stage: Stage) -> str | None:
    """TRL's name of the optimizer where it is not the default."""
    given = trl_of(config, stage).get("optim")
    return str(given) if given else LEAN_OPTIMIZER if config.memory == "lean" else None


def embedding_on_host(config: Config) -> bool:
    """Whether an input embedding that is not also the head stays in the host's memory."""
    return config.memory == "lean"


def choose(
    config: Config, shape: Shape, stage: Stage, free_bytes: int, machine: Arithmetic, longest: int | None = None
) -> Choice:
    """What the settings ask for; `auto` becomes the most that fits into `free_bytes`, or 1 where nothing does.

    `machine` is where it runs (`on_gpu`); `longest` are the tokens of the longest row, by default what
    data.max_prompt_tokens and data.max_response_tokens allow.
    """
    how = _settled(config, stage, machine)
    fits = _Fits(config, shape, stage, free_bytes, longest)
    if stage == "compare":
        return Choice(Sizes(0, rollout=config.compare.batch_size), how)
    how = replace(how, checkpointing=_checkpointing(config, stage, how, fits))
    settings = getattr(config, stage)
    micro = settings.micro_batch_size
    micro = micro if micro != "auto" else max(1, fits.largest_micro_batch(how))
    if stage not in ROLLOUT_STAGES:
        return Choice(Sizes(micro), how)
    rollout = settings.rollout_batch_size
    rollout = rollout if rollout != "auto" else max(1, fits.largest_rollout_batch(how))
    scoring = micro
    if stage == "ppo" and config.ppo.scoring_batch_size != "auto":
        scoring = config.ppo.scoring_batch_size
    return Choice(Sizes(micro, rollout=rollout, scoring=scoring), how)


def largest_micro_batch(
    config: Config, shape: Shape, stage: Stage, free_bytes: int, how: Arithmetic, longest: int | None = None
) -> int:
    """The largest divisor of the stage's batch_size whose training pass fits into `free_bytes`; 0 where 1 does not.

    At most so many rows as make 4,096 tokens (16,384 where `memory` is fast), but at least one.
    """
    return _Fits(config, shape, stage, free_bytes, longest).largest_micro_batch(how)


def largest_rollout_batch(config: Config, shape: Shape, stage: Stage, free_bytes: int, how: Arithmetic) -> int:
    """The most responses that can be sampled at once in `free_bytes`, at most a whole rollout; 0 where 1 does not fit.

    In the comparison at most 256.
    """
    return _Fits(config, shape, stage, free_bytes, None).largest_rollout_batch(how)


def trl_of(config: Config, stage: Stage) -> dict[str, Any]:
    """The stage's `trl:` mapping."""
    return {} if stage == "compare" else getattr(config, stage).trl


def checkpointing_asked(config: Config, stage: Stage) -> bool | None:
    """What the stage's `trl:` mapping says of gradient checkpointing; None where it says nothing."""
    given = trl_of(config, stage)
    asked = given.get("gradient_checkpointing", given.get("activation_checkpointing"))
    return None if asked is None else bool(asked)


def _settled(config: Config, stage: Stage, machine: Arithmetic) -> Arithmetic:
    """The machine's arithmetic with what does not depend on the memory that is free."""
    return replace(
        machine,
        trained=2 if config.lora.dtype == "bfloat16" else 4,
        optim_8bit="8bit" in (optimizer(config, stage) or ""),
        host_embedding=machine.cuda and embedding_on_host(config),
    )


def _checkpointing(config: Config, stage: Stage, how: Arithmetic, fits: "_Fits") -> bool:
    asked = checkpointing_asked(config, stage)
    if asked is not None:
        return asked
    if config.memory == "lean":
        return how.cuda  # a CPU's memory is not what this kit is short of
    set_to = getattr(config, stage).micro_batch_size
    wanted = set_to if set_to != "auto" else fits.largest_micro_batch(replace(how, checkpointing=True))
    if config.memory == "fast" and set_to == "auto":
        wanted = 1
    return not fits.micro_batch(wanted, replace(how, checkpointing=False))


class _Fits:
    """What of a stage fits into nine tenths of the memory that is free."""

    def __init__(self, config: Config, shape: Shape, stage: Stage, free_bytes: int, longest: int | None) -> None:
        self.config, self.shape, self.stage = _of_length(config, longest), shape, stage
        self.bytes = _MARGIN * free_bytes

    def micro_batch(self, size: int, how: Arithmetic) -> bool:
        """Whether a training pass of so many rows fits; none is no micro-batch."""
        return size > 0 and self._within(Sizes(size, 1, size), how, ("training", "scoring"))

    def largest_micro_batch(self, how: Arithmetic) -> int:
        batch = getattr(self.config, self.stage).batch_size
        tokens = _FAST_TOKENS if self.config.memory == "fast" else TOKENS_AT_ONCE
        most = max(1, tokens // row_tokens(self.config, self.stage))
        divisors = [size for size in range(1, min(batch, most) + 1) if batch % size == 0]
        return _largest(divisors, lambda size: self.micro_batch(size, how))

    def largest_rollout_batch(self, how: Arithmetic) -> int:
        sampled = {"compare": _MOST_ANSWERS, "ppo": self.config.ppo.rollout_size}
        whole = sampled[self.stage] if self.stage in sampled else getattr(self.config, self.stage).batch_size
        kinds = ("prompts", "sampling", *(("scoring",) if self.stage == "compare" else ()))
        return _largest(range(1, whole + 1), lambda size: self._within(Sizes(1, size, 1), how, kinds))

    def _within(self, sizes: Sizes, how: Arithmetic, kinds: Iterable[str]) -> bool:
        """Whether the passes of some kinds fit beside what lies there all the time."""
        whole = stage_memory(self.config, self.shape, self.stage, sizes, how)
        passes = {name: whole.passes[name] for name in kinds if name in whole.passes}
        return replace(whole, passes=passes).peak <= self.bytes


def planned(config: Config, shape: Shape, stage: Stage, free_bytes: int, machine: Arithmetic) -> StageMemory:
    """The memory of a stage as it would run in `free_bytes`."""
    choice = choose(config, shape, stage, free_bytes, machine)
    return stage_memory(config, shape, stage, choice.sizes, choice.how)


def _largest(sizes: Iterable[int], fits: Callable[[int], bool]) -> int:
    """The largest of the ascending sizes that fits, as the first ones do; 0 where none does."""
    sizes = list(sizes)
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(sizes[middle - 1]) else (low, middle - 1)
    return sizes[low - 1] if low else 0


def _of_length(config: Config, longest: int | None) -> Config:
    """The config with rows of so many tokens."""
    if longest is None:
        return config
    response = min(config.data.max_response_tokens, max(1, longest - 8))
    data = config.data.model_copy(
        update={"max_prompt_tokens": max(8, longest - response), "max_response_tokens": response}
    )
    return config.model_copy(update={"data": data})
