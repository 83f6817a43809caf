"""What benchmarks/gpu_memory.py measures: models, sizes, cards and goals; their configs, and what the plan predicts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kit.config import Config
from kit.models.plan.advice import memories
from kit.models.plan.card import GIB
from kit.models.plan.shape import Shape, shape_of
from kit.models.plan.stages import StageMemory
from kit.models.plan.table import MODELS
from kit.ppo.guards import NAMES as GUARDS

STAGES = ("sft", "reward", "ppo", "dpo", "compare")
ONLINE = ("rloo", "grpo")  # only where they are asked for
STEPS = 2  # optimizer steps of SFT, reward model and DPO
ACCUMULATED = 2  # micro-batches of a step: while the second one runs, the gradients are all there
OUT_OF_MEMORY = "out of memory"
PPO_OVER_SFT, PREDICTION = 1.25, 0.10  # the goals that every case has
# What a lean case has that others have not, also in words: general settings, and TRL's of every stage that trains.
# Nothing else says so: a setting of the kit for it belongs into the first.
LEAN: tuple[dict[str, Any], dict[str, Any]] = ({"memory": "lean"}, {})
LEAN_IN_WORDS = "`memory: lean`"


@dataclass(frozen=True)
class Case:
    """A model with random weights at some sizes, on a card of `card_gib`; `goal_gib` is what its PPO may take of it.

    `micro` rows are trained on at once (half as many pairs), `rollout` responses sampled at once. `fields` are those of
    the model's config.json where the planner's table has none of that name; such a case is for a CPU.
    """

    name: str
    base: str
    micro: int
    rollout: int
    card_gib: float
    goal_gib: float | None
    lean: bool = False
    prompt_tokens: int = 512
    response_tokens: int = 512
    fields: dict[str, Any] | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether it is a toy."""
        return self.fields is not None

    @property
    def pairs(self) -> int:
        """Pairs that reward model and DPO train on at once."""
        return max(1, self.micro // 2)

    @property
    def answers(self) -> int:
        """Answers that the comparison samples and scores at once."""
        return 2 * self.micro

    @property
    def config_json(self) -> dict[str, Any]:
        """The fields of the model's config.json that decide bytes."""
        return self.fields or MODELS[self.base]


# The most telling first: a run that is cut off has measured these.
CASES = [
    Case("0.5B", "Qwen/Qwen2.5-0.5B", 4, 64, 4, 3.0),
    Case("1.5B", "Qwen/Qwen2.5-1.5B", 4, 64, 6, 5.0),
    Case("7B", "Qwen/Qwen2.5-7B", 4, 64, 12, 11.5),
    Case("7B-lean", "Qwen/Qwen2.5-7B", 1, 8, 8, 7.3, lean=True),
    Case("8B", "meta-llama/Llama-3.1-8B", 4, 16, 12, 11.5),
    Case("14B", "Qwen/Qwen3-14B", 1, 16, 16, 15.3),
    Case("24B", "mistralai/Mistral-Small-24B-Base-2501", 1, 16, 24, 22.5),
    Case("32B-lean", "Qwen/Qwen2.5-32B", 1, 8, 24, 23.0, lean=True),
]
_TOY: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 768, "vocab_size": 3000, "tie_word_embeddings": False,
}  # fmt: skip
TOYS = [
    Case("toy", "toy", 2, 4, 12, None, prompt_tokens=120, response_tokens=8, fields=_TOY),
    Case("toy-lean", "toy", 1, 4, 12, None, True, 60, 4, _TOY | {"model_type": "llama"}),
]


def config_of(case: Case, stages: Iterable[str] = STAGES) -> Config:
    """The fewest steps that reach each stage's peak, at the sizes of the case.

    Sizes and checkpointing are set, not `auto`: this card has more memory than the one that is emulated.
    """
    rows = {"batch_size": ACCUMULATED * case.micro, "micro_batch_size": case.micro, "max_steps": STEPS}
    pairs = {"batch_size": ACCUMULATED * case.pairs, "micro_batch_size": case.pairs, "max_steps": STEPS}
    rollout = {"batch_size": case.rollout, "episodes": case.rollout, "micro_batch_size": case.micro, "snapshots": 0}
    general, trl = LEAN if case.lean else ({}, {})
    trained = {"learning_rate": 1e-6, "trl": {"gradient_checkpointing": True, **trl}}
    ppo = {
        "rollout_batch_size": case.rollout, "num_mini_batches": 1, "num_ppo_epochs": 1, "force": True,
        "guards_off": list(GUARDS),  # a model of random weights ends no turn and has no taste
    }  # fmt: skip
    return Config(
        model={"base": case.base, "quantization": "nf4", "dtype": "float32" if case.on_cpu else "auto"},
        data={"max_prompt_tokens": case.prompt_tokens, "max_response_tokens": case.response_tokens},
        stages=[*STAGES, *(stage for stage in ONLINE if stage in stages)],
        sft={**rows, **trained},
        reward={**pairs, **trained},
        dpo={**pairs, **trained, "snapshots": 0},
        ppo={**rollout, **ppo, **trained},
        **{stage: {**rollout, **trained} for stage in ONLINE},
        compare={"prompts": case.answers, "batch_size": case.answers, "validation_prompts": 0, "best_of": 0},
        **general,
    )  # fmt: skip


def shape(case: Case) -> Shape:
    """The model's shape, as the planner reads it."""
    return shape_of(case.config_json, case.base)


def predicted(case: Case, stages: Iterable[str] = STAGES) -> dict[str, StageMemory]:
    """What the plan says of each stage on the case's card, on a GPU."""
    found = memories(config_of(case, stages), shape(case), round(case.card_gib * GIB))
    return {memory.stage: memory for memory in found if memory.stage in stages}
