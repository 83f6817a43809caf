"""The memory of each stage: what lies there all the time, and what its passes add, the largest of which is the peak."""

from dataclasses import dataclass

from kit.config import Config, Stage
from kit.models.plan import memory
from kit.models.plan.memory import Arithmetic
from kit.models.plan.shape import Shape

ROLLOUT_STAGES = ("ppo", "rloo", "grpo")
_PAIRED = ("reward", "dpo")  # a pair goes through as two rows


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


def row_tokens(config: Config, stage: Stage) -> int:
    """Tokens of the longest example: prompt and response, twice where an example is a pair."""
    return (config.data.max_prompt_tokens + config.data.max_response_tokens) * (2 if stage in _PAIRED else 1)


def stage_memory(config: Config, shape: Shape, stage: Stage, sizes: Sizes, how: Arithmetic) -> StageMemory:
    """The predicted memory of one stage.

    Rows are as long as data.max_prompt_tokens and data.max_response_tokens allow.
    """
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
    items = {
        "4-bit linears" if how.nf4 else "linears": memory.linear_bytes(shape, how),
        "embeddings, head, norms": memory.embedding_bytes(shape, how, head=stage != "reward"),
        f"adapters ({trained + frozen})": (how.trained * trained + how.frozen * frozen) * adapter,
        "score and value heads": 4 * heads * shape.hidden + fixed,
    }
    if trained:
        items["optimizer"] = round(memory.adam_bytes_per_weight(how) * weights)
    return {name: size for name, size in items.items() if size}


def trained_adapters(config: Config, stage: Stage) -> int:
    """How many adapters the stage trains."""
    return _adapters(config, stage)[0]


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
    unpacked = {"dequantised layer": memory.dequantised_bytes(shape, how)}
    merged = {"merged weights": memory.linear_bytes(shape, how)} if how.merges else {}
    if stage == "compare":
        rows = memory.rows_at_once(sizes.rollout, row)
        states = 2 * how.element * rows * response * shape.hidden  # two policies' of the responses
        of_scoring = {
            "scoring pass": memory.forward_bytes(shape, how, rows, row) + states,
            "distributions": memory.distribution_bytes(shape),
        }
    else:
        of_scoring = {"scoring pass": memory.forward_bytes(shape, how, sizes.scoring, row)}
    return passes | {
        "prompts": memory.prompt_bytes(shape, how, sizes.rollout, prompt) | unpacked | merged,
        "sampling": memory.decoding_bytes(shape, how, sizes.rollout, row) | unpacked | merged,
        "scoring": of_scoring | unpacked | merged,
    }


def _training(config: Config, shape: Shape, stage: Stage, sizes: Sizes, how: Arithmetic) -> dict[str, int]:
    """The items of a training pass."""
    rows = sizes.micro * (2 if stage in _PAIRED else 1)
    prompt, response = config.data.max_prompt_tokens, config.data.max_response_tokens
    adapter, (trained, _) = shape.adapter(config.lora.rank, config.lora.targets), _adapters(config, stage)
    of_head = {"ppo": memory.kit_head_bytes, "reward": None}.get(stage, memory.trl_head_bytes)
    head = of_head(shape, how, rows, prompt + response, response) if of_head else 0
    dropout = config.lora.dropout if stage == "sft" else 0.0
    items = memory.training_bytes(shape, how, rows, prompt + response, head, config.lora.rank, dropout)
    items["gradients"] = how.trained * trained * adapter
    if how.autocast and how.trained == 4:
        items["16-bit copies of the adapter"] = 2 * adapter
    return items
