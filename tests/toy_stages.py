"""Stages on the toy base: a few encoded rows, a config of toy size, and a training whose trainer can be looked at."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from toy import LORA, QUESTIONS, adapters, base_folder, toy_base
from toy import rows as ids_rows

import kit.stages.dpo
import kit.stages.online
import kit.stages.ppo
import kit.stages.reward
import kit.stages.sft
from kit.config import Config
from kit.data.rows import Split
from kit.models.encoding import IGNORE, Encoded, EncodedPrompt
from kit.runs.checkpoints import Checkpoints
from kit.stages.result import StageResult


def toy_config(**sections: Any) -> Config:
    """Toy lengths; `sections` are the settings of the stages."""
    data = {"max_prompt_tokens": 64, "max_response_tokens": 6}
    return Config(model={"base": str(base_folder())}, lora=LORA, data=data, seed=3, **sections)


def toy_encoded(count: int = 7) -> Encoded:
    """Rows of different lengths, `count` of each kind."""
    codec = toy_base().codec
    texts = [f"{QUESTIONS[i % len(QUESTIONS)]} ({i})" for i in range(count)]
    prompts = [EncodedPrompt(m, codec.prompt(m)) for m in ([{"role": "user", "content": text}] for text in texts)]
    lengths = [range(3 + side, 3 + side + 2 * count, 2) for side in range(2)]
    chosen, rejected = (ids_rows(*lengths[side], seed=side) for side in range(2))
    pairs = [
        {"prompt_ids": p.ids, "chosen_ids": c, "rejected_ids": r}
        for p, c, r in zip(prompts, chosen, rejected, strict=True)
    ]
    sft = [{"input_ids": p.ids + c, "labels": [IGNORE] * len(p.ids) + c} for p, c in zip(prompts, chosen, strict=True)]
    return Encoded(Split(sft, []), Split(pairs, []), Split(prompts, []), [], Split([], []))


def weights(model: Any) -> dict:
    """A copy of every weight by its name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


STAGES = {
    "sft": (kit.stages.sft, "train_sft"), "reward": (kit.stages.reward, "train_reward"),
    "dpo": (kit.stages.dpo, "train_dpo"), "ppo": (kit.stages.ppo, "train_ppo"),
    "rloo": (kit.stages.online, "train_rloo"), "grpo": (kit.stages.online, "train_grpo"),
}  # fmt: skip


def run_stage(
    stage: str, config: Config, out: Path, checkpoints: Checkpoints, data: Encoded | None = None,
    before: Callable[[Any], None] = lambda trainer: None, nf4: bool = False,
) -> StageResult:  # fmt: skip
    """The stage's result, written to `out`; `before(trainer)` is called before the first step."""
    module, function = STAGES[stage]
    sft, reward = adapters(nf4)
    places = {"sft": (), "reward": (sft,), "dpo": (sft,)}.get(stage, (sft, reward))
    rows, train = data or toy_encoded(), module.train_with_progress

    def watched(trainer: Any, *rest: Any) -> Any:
        before(trainer)
        return train(trainer, *rest)

    out.mkdir(parents=True, exist_ok=True)
    with patch.object(module, "train_with_progress", watched):
        pairs = rows.pairs if stage == "reward" else rows
        return getattr(module, function)(config, pairs, toy_base(nf4), out, *places, checkpoints)


class Watched:
    """A stage that was trained: its result, its trainer, and the weights before the first step."""

    def __init__(self, module: ModuleType, function: str, config: Config, out: Path, nf4: bool = False, **more: Any):
        """`before(trainer)` is called before the first step; `data` replaces the toy's, `checkpoints` their place."""
        before = more.get("before", lambda trainer: None)

        def watched(trainer: Any) -> None:
            before(trainer)
            self.trainer, self.weights = trainer, weights(trainer.model)

        checkpoints = Checkpoints(more.get("checkpoints", out.with_name(f"{out.name}-checkpoints")))
        stage = function.removeprefix("train_")
        self.result: StageResult = run_stage(stage, config, out, checkpoints, more.get("data"), watched, nf4)
        self.out = out
