"""The memory of each stage: what lies there all the time, and what its passes add, the largest of which is the peak."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from kit.config import Config, OnlineSettings, Stage
from kit.models.plan import memory
from kit.models.plan.memory import Arithmetic, gpu_arithmetic
from kit.models.plan.shape import Shape

ROLLOUT_STAGES = ("ppo", "rloo", "grpo")
_MOST_ANSWERS = 256  # of the comparison at once
_AUTO_TOKENS = 4096  # `micro_batch_size: auto` asks for no more tokens at once: a larger batch is hardly faster


@dataclass(frozen=True)
class Sizes:
    """What a stage has in memory at once: rows of a training pass, responses sampled, responses scored."""

    micro: int
    rollout: int = 0
    scoring: int = 0


@dataclass(frozen=True)
class StageMemory:
    """A stage's bytes: `static` items all the time, and the items of each of its `passes`."""

    stage: Stage
    sizes: Sizes
    static: dict[str, int]
    passes: dict[str, dict[str, int]]
    context: bool

    @property
    def peak_pass(self) -> str:
        """The pass at which memory peaks."""
        return max(self.passes, key=lambda name: sum(self.passes[name].values()))

    @property
    def allocated(self) -> int:
        """Bytes of tensors at the peak: what torch counts."""
        return sum(self.static.values()) + sum(self.passes[self.peak_pass].values())

    @property
    def items(self) -> dict[str, int]:
        """All items at the peak, in bytes; they add up to `peak`."""
        found = self.static | self.passes[self.peak_pass]
        if self.context:
            allocated = self.allocated
            found |= {
                "CUDA context": memory.CONTEXT_BYTES,
                "allocator's slack": round((memory.SLACK - 1) * (allocated + memory.CONTEXT_BYTES)),
            }
        return found

    @property
    def peak(self) -> int:
        """Bytes of the card at the peak, context and slack included where they are counted."""
        return sum(self.items.values())


def stage_memory(
    config: Config, shape: Shape, stage: Stage, sizes: Sizes, how: Arithmetic | None = None
) -> StageMemory:
    """The predicted memory of one stage; `how` is by default what the stage does on a GPU.

    Rows are as long as data.max_prompt_tokens and data.max_response_tokens allow.
    """
    how = how or gpu_arithmetic(config, stage)
    return StageMemory(
        stage, sizes, _static(config, shape, stage, how), _passes(config, shape, stage, sizes, how), how.context
    )


def _static(config: Config, shape: Shape, stage: Stage, how: Arithmetic) -> dict[str, int]:
    """Base, adapters of all roles, heads, and what the trained ones need: gradients and AdamW's moments."""
    trained, frozen = _adapters(config, stage)
    adapter = shape.adapter(config.lora.rank, config.lora.targets)
    heads = {"ppo": 1, "reward": 1}.get(stage, 0)  # trained ones: the value head, the score head
    weights = trained * adapter + heads * shape.hidden
    fixed = shape.hidden * 4 * (stage in (*ROLLOUT_STAGES, "compare", "reward"))
    optim = "" if stage == "compare" else str(getattr(config, stage).trl.get("optim", ""))
    items = {
        "4-bit linears" if how.nf4 else "linears": memory.linear_bytes(shape, how),
        "embeddings, head, norms": memory.embedding_bytes(shape, how, head=stage != "reward"),
        f"adapters ({trained + frozen})": 4 * (trained + frozen) * adapter,
        "score and value heads": 4 * heads * shape.hidden + fixed,
    }
    if trained:
        items["optimizer"] = round(memory.adam_bytes_per_weight(optim) * weights)
    return {name: size for name, size in items.items() if size}


def _adapters(config: Config, stage: Stage) -> tuple[int, int]:
    """(trained, frozen) adapters on the base. The reference is a frozen copy, which TRL's trainers make."""
    if stage == "ppo":
        return (1 if config.ppo.critic == "shared" else 2), 2
    return {"sft": (1, 0), "reward": (1, 0), "dpo": (1, 1), "compare": (0, 3)}.get(stage, (1, 2))


def _passes(config: Config, shape: Shape, stage: Stage, sizes: Sizes, how: Arithmetic) -> dict[str, dict[str, int]]:
    prompt, response = config.data.max_prompt_tokens, config.data.max_response_tokens
    row = prompt + response
    passes = {} if stage == "compare" else {"training": _training(config, shape, stage, sizes, how)}
    if stage not in (*ROLLOUT_STAGES, "compare"):
        return passes
    autocast = stage == "ppo"  # TRL's own `generate`, and the comparison, run without
    unpacked = {"dequantised layer": memory.dequantised_bytes(shape, how)}
    merged = {"merged weights": memory.linear_bytes(shape, how)} if how.merges else {}
    if stage == "compare":
        scoring = memory.forward_bytes(shape, how, sizes.rollout, row, autocast)
        scoring += 2 * how.element * sizes.rollout * response * shape.hidden  # two policies' states of the responses
    else:
        scoring = memory.forward_bytes(shape, how, sizes.scoring, row, autocast)
    sampling = merged if stage in ("ppo", "compare") else {}  # `Roles.merged`
    return passes | {
        "prompts": memory.prompt_bytes(shape, how, sizes.rollout, prompt, autocast) | unpacked | sampling,
        "sampling": memory.decoding_bytes(shape, how, sizes.rollout, row) | unpacked | sampling,
        "scoring": {"scoring pass": scoring} | unpacked | merged,
    }


def _training(config: Config, shape: Shape, stage: Stage, sizes: Sizes, how: Arithmetic) -> dict[str, int]:
    """The items of a training pass; reward and DPO send a pair through as two rows."""
    rows = sizes.micro * (2 if stage in ("reward", "dpo") else 1)
    prompt, response = config.data.max_prompt_tokens, config.data.max_response_tokens
    adapter, (trained, _) = shape.adapter(config.lora.rank, config.lora.targets), _adapters(config, stage)
    of_head = {"ppo": memory.kit_head_bytes, "reward": None}.get(stage, memory.trl_head_bytes)
    head = of_head(shape, how, rows, prompt + response, response) if of_head else 0
    dropout = config.lora.dropout if stage == "sft" else 0.0
    items = memory.training_bytes(shape, how, rows, prompt + response, head, config.lora.rank, dropout)
    items["gradients"] = 4 * trained * adapter
    if how.autocast:
        items["16-bit copies of the adapter"] = 2 * adapter
    return items


# --- how much fits -----------------------------------------------------------------------------------------------


def chosen_sizes(config: Config, shape: Shape, stage: Stage, free_bytes: int, how: Arithmetic | None = None) -> Sizes:
    """What the settings ask for; an `auto` becomes the largest that fits, or 1 where nothing does."""
    if stage == "compare":
        return Sizes(0, rollout=config.compare.batch_size)
    asked = getattr(config, stage).micro_batch_size
    micro = asked if asked != "auto" else max(1, largest_micro_batch(config, shape, stage, free_bytes, how))
    if stage not in ROLLOUT_STAGES:
        return Sizes(micro)
    if isinstance(getattr(config, stage), OnlineSettings):  # TRL samples a whole rollout at once
        return Sizes(micro, rollout=getattr(config, stage).batch_size, scoring=micro)
    rollout, scoring = config.ppo.rollout_batch_size, config.ppo.scoring_batch_size
    if rollout == "auto":
        rollout = max(1, largest_rollout_batch(config, shape, stage, free_bytes, how))
    return Sizes(micro, rollout=rollout, scoring=micro if scoring == "auto" else scoring)


def largest_micro_batch(
    config: Config,
    shape: Shape,
    stage: Stage,
    free_bytes: int,
    how: Arithmetic | None = None,
    row_tokens: int | None = None,
) -> int:
    """The largest divisor of the stage's batch_size whose training pass fits into `free_bytes`; 0 where 1 does not.

    At most so many rows as make 4,096 tokens, but at least one. `row_tokens` is the longest row where the data is
    known; else what data.max_prompt_tokens and data.max_response_tokens allow.
    """
    batch = getattr(config, stage).batch_size
    config = _of_length(config, row_tokens)
    length = (config.data.max_prompt_tokens + config.data.max_response_tokens) * (
        2 if stage in ("reward", "dpo") else 1
    )
    most = max(1, _AUTO_TOKENS // length)
    divisors = [size for size in range(1, min(batch, most) + 1) if batch % size == 0]
    return _largest(
        divisors, lambda size: _pass_fits(config, shape, stage, Sizes(size, 0, size), free_bytes, how, sampling=False)
    )


def largest_rollout_batch(
    config: Config, shape: Shape, stage: Stage, free_bytes: int, how: Arithmetic | None = None
) -> int:
    """The most responses that can be sampled at once in `free_bytes`, at most a whole rollout; 0 where 1 does not fit.

    In the comparison at most 256, and they are scored together too.
    """
    if stage == "compare":
        whole = _MOST_ANSWERS
    else:
        whole = config.ppo.rollout_size if stage == "ppo" else getattr(config, stage).batch_size
    return _largest(
        list(range(1, whole + 1)),
        lambda size: _pass_fits(config, shape, stage, Sizes(1, size, 1), free_bytes, how, sampling=True),
    )


def _largest(sizes: list[int], fits: Callable[[int], bool]) -> int:
    """The largest of the ascending sizes that fits, as the first ones do; 0 where none does."""
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(sizes[middle - 1]) else (low, middle - 1)
    return sizes[low - 1] if low else 0


def _pass_fits(
    config: Config, shape: Shape, stage: Stage, sizes: Sizes, free_bytes: int, how: Arithmetic | None, sampling: bool
) -> bool:
    """Whether the passes of one kind fit beside what lies there all the time."""
    whole = stage_memory(config, shape, stage, sizes, how)
    kinds = (
        ("prompts", "sampling", *(("scoring",) if stage == "compare" else ())) if sampling else ("training", "scoring")
    )
    passes = {name: items for name, items in whole.passes.items() if name in kinds}
    return replace(whole, passes=passes).peak <= free_bytes


def _of_length(config: Config, row_tokens: int | None) -> Config:
    if row_tokens is None:
        return config
    response = min(config.data.max_response_tokens, max(1, row_tokens - 8))
    data = config.data.model_copy(
        update={"max_prompt_tokens": max(8, row_tokens - response), "max_response_tokens": response}
    )
    return config.model_copy(update={"data": data})
