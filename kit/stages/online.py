"""RLOO and GRPO: two ways to learn from the reward model's score without a critic, by TRL's own trainers.

Both start where PPO starts, from a copy of the SFT adapter, answer the same prompts up to the same lengths, and are
scored by the same reward adapter. A group of responses to one prompt is the baseline of each of them.

What TRL does with a PeftModel: it lays a frozen copy of adapter `default` beside it, named `ref`, and that is the
reference; the bare base is not, and no second model is loaded. So all roles stand on one base, as in PPO.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOTrainer, RLOOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import RepeatSampler

from kit.config import Config, OnlineSettings, Stage
from kit.errors import TrainingStopped
from kit.models.adapters import keep_dtypes, keep_weights, load_policy, save_adapter
from kit.models.base import Base
from kit.models.decoding import sample_responses
from kit.models.encoding import Encoded
from kit.models.generation import score
from kit.models.id_rows import Rows
from kit.models.out_of_memory import AtOnce, HalvesMicroBatch
from kit.models.resumable import Resumable
from kit.models.roles import Roles
from kit.runs.checkpoints import Checkpoints
from kit.stages.arguments import build_arguments
from kit.stages.card import adapter_card
from kit.stages.checks import require_all_rows, require_same_prompts, warn_unless_learnt
from kit.stages.progress import train_with_progress
from kit.stages.result import StageResult
from kit.stages.rows import dataset_of
from kit.stages.sizes import choose_sizes
from kit.stages.smoke import smoke_test
from kit.stages.snapshots import SnapshotCallback

_COUNTS, _COUNTS_FILE = ("episodes", "prompt_tokens", "response_tokens"), "counts.json"
_FIRST_KL = 2e-3  # nats a token; in lower precision the passes with and without gradients differ by some 1e-4


def train_rloo(
    config: Config, data: Encoded, base: Base, out: Path, sft: Path, reward: Path, checkpoints: Checkpoints
) -> StageResult:
    """Train a copy of the SFT adapter with RLOO on the reward adapter's score; write it to `out`.

    Raises TrainingStopped where a score or the loss is not finite, or the first KL is not 0.
    """
    return _train("rloo", KitRLOOTrainer, config, data, base, out, sft, reward, checkpoints)


def train_grpo(
    config: Config, data: Encoded, base: Base, out: Path, sft: Path, reward: Path, checkpoints: Checkpoints
) -> StageResult:
    """Train a copy of the SFT adapter with GRPO on the reward adapter's score; write it to `out`.

    Raises TrainingStopped where a score or the loss is not finite, or the first KL is not 0.
    """
    return _train("grpo", KitGRPOTrainer, config, data, base, out, sft, reward, checkpoints)


class PromptOrder(RepeatSampler):
    """TRL's order of prompts, which a resumed run finds again: theirs begins with its first epoch in any epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Be where the sampler of an unbroken run is when this epoch begins."""
        self.generator.manual_seed(self.seed)
        for _ in range(epoch):
            torch.randperm(self.num_samples, generator=self.generator)


class SamplesAsPPO:
    """Responses from the pure softmax as PPO samples them: so many at once, in the arithmetic of training."""

    def sample(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        """A response to each prompt, in order."""
        args: Any = self.args  # type: ignore[attr-defined]
        roles: Roles = self.roles  # type: ignore[attr-defined]
        checkpointing = disable_gradient_checkpointing(roles.model, args.gradient_checkpointing_kwargs)
        with checkpointing, roles.merged("policy") as model, roles.autocast():
            return self.at_once.run(  # type: ignore[attr-defined]
                lambda rows: sample_responses(model, prompt_ids, args.max_completion_length, rows, args.temperature).ids
            )

    @property
    def _steps_per_rollout(self) -> int:
        """Optimizer steps between two rollouts."""
        args: Any = self.args  # type: ignore[attr-defined]
        return args.num_iterations * args.steps_per_generation // args.gradient_accumulation_steps

    def _get_train_sampler(self, dataset: Dataset | None = None) -> PromptOrder:
        sampler = super()._get_train_sampler(dataset)  # type: ignore[misc]
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        return PromptOrder(**{name: getattr(sampler, name) for name in names})

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The next micro-batch; a rollout that is being sampled is given up when the run is asked to end."""
        with self._given_up_if_asked():  # type: ignore[attr-defined]
            return super()._prepare_inputs(generation_batch)  # type: ignore[misc]

    @property
    def elsewhere(self) -> bool:
        """Whether vLLM or continuous batching samples, as TRL has it."""
        return self.use_vllm or self.use_transformers_continuous_batching  # type: ignore[attr-defined]


class KitRLOOTrainer(SamplesAsPPO, Resumable, HalvesMicroBatch, RLOOTrainer):
    """RLOOTrainer with PPO's sampling, which goes on in smaller parts where the GPU's memory runs out."""

    roles: Roles
    at_once: AtOnce

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any) -> Any:
        if not self.elsewhere:
            return self.sample(prompt_ids)
        with keep_dtypes(self.roles.model):
            return super()._generate_single_turn(prompt_ids, *rest)


class KitGRPOTrainer(SamplesAsPPO, Resumable, HalvesMicroBatch, GRPOTrainer):
    """GRPOTrainer with PPO's sampling, which goes on in smaller parts where the GPU's memory runs out."""

    roles: Roles
    at_once: AtOnce

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any, **more: Any) -> Any:
        if not self.elsewhere:
            return self.sample(prompt_ids), None  # of log-probabilities TRL wants those of vLLM alone
        with keep_dtypes(self.roles.model):
            return super()._generate_single_turn(prompt_ids, *rest, **more)


class GroupRewards:
    """The rewards of both trainers, under PPO's names in the log, and a count of the tokens they were given for."""

    def __init__(self, stage: str, roles: Roles, base: Base, settings: OnlineSettings, batch_size: int) -> None:
        self.stage, self.roles, self.stops, self.batch_size = stage, roles, base.codec.stops, batch_size
        self.penalty = settings.missing_eos_penalty or 0.0
        self.episodes = self.prompt_tokens = self.response_tokens = 0

    def reward_model(
        self, prompt_ids: list[list[int]], completion_ids: list[list[int]], log_metric: Any, **_: Any
    ) -> list[float]:
        """The reward role's score of each response, read at its last token, on the very ids that were sampled."""
        scores = score(self.roles, prompt_ids, completion_ids, self.batch_size, f"{self.stage}.micro_batch_size")
        if not all(map(math.isfinite, scores)):
            raise TrainingStopped(
                f"{self.stage} stopped: the score of a response is not finite. Check the reward model's scores"
            )
        rows = len(scores)
        self.episodes += rows
        self.prompt_tokens += sum(map(len, prompt_ids))
        self.response_tokens += sum(map(len, completion_ids))
        log_metric("objective/scores", sum(scores) / rows)
        log_metric("lengths/mean", sum(map(len, completion_ids)) / rows)
        log_metric("eos_rate", sum(ids[-1] in self.stops for ids in completion_ids) / rows)
        log_metric("episode", float(self.episodes))
        return scores

    def missing_eos(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        """Minus the penalty where a response was cut off, as PPO's score has it."""
        return [0.0 if ids[-1] in self.stops else -self.penalty for ids in completion_ids]

    def save(self, folder: Path) -> None:
        """Write the counts beside the weights of a checkpoint."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        (folder / _COUNTS_FILE).write_text(json.dumps(counts), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote."""
        vars(self).update(json.loads((folder / _COUNTS_FILE).read_text(encoding="utf-8")))


class OnlineChecks(TrainerCallback):
    """Stops on a loss that is not finite, and where the first KL is not 0: then the reference is not the SFT policy.

    Adds `objective/kl`, nats a response as in PPO's log, to TRL's `kl`, which is nats a token. GRPO's is the estimate
    k3, whose mean lives on rare tokens: a few responses mostly show less than the KL that the comparison measures.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        """Look at a log line before it is written; the first one's KL was measured before any update."""
        logs = logs if logs is not None else {}
        loss, kl = logs.get("loss"), logs.get("kl")
        if loss is not None and not math.isfinite(loss):
            raise TrainingStopped(
                f"{self.stage} stopped at step {state.global_step}: the loss is not finite. "
                f"Lower {self.stage}.learning_rate or raise {self.stage}.kl_coef"
            )
        if kl is None or "lengths/mean" not in logs:
            return
        logs["objective/kl"] = kl * logs["lengths/mean"]
        if state.global_step == 1 and not abs(kl) < _FIRST_KL:
            raise TrainingStopped(
                f"{self.stage} stopped: the first rollout's KL is {kl:.4f} nats a token, not 0, so the reference is "
                "not the SFT policy. This is a fault of the hand-over; please report it with the run's config.yaml"
            )


def _train(
    stage: Stage, trainer_class: type, config: Config, data: Encoded, base: Base, out: Path, sft: Path, reward: Path,
    checkpoints: Checkpoints,
) -> StageResult:  # fmt: skip
    settings: OnlineSettings = getattr(config, stage)
    prompts = data.prompts.train
    longest = max(len(prompt.ids) for prompt in prompts) + config.data.max_response_tokens
    choice = choose_sizes(config, stage, base, longest, checkpoints)
    args = build_arguments(config, stage, base.precision, checkpoints.path, choice, len(prompts))
    # TRL leaves out prompts that fill no rollout; with fewer than one rollout takes it would have none at all.
    copies = -(-settings.batch_size // settings.num_generations // len(prompts))

    def row(number: int) -> dict:
        prompt = prompts[number]
        return {"prompt": prompt.messages, "prompt_ids": prompt.ids}

    rows = Rows(row, np.tile(np.arange(len(prompts)), copies)[:, None])

    roles = Roles(load_policy(base.causal_lm(), sft))
    roles.add("reward", reward)
    rewards = GroupRewards(stage, roles, base, settings, args.per_device_train_batch_size)
    with keep_weights(roles.model):
        trainer = trainer_class(
            model=roles.model,
            reward_funcs=[rewards.reward_model, rewards.missing_eos],
            args=args,
            train_dataset=dataset_of(rows),
            processing_class=base.tokenizer,
            callbacks=[OnlineChecks(stage), SnapshotCallback(checkpoints.path, settings.snapshots)],
        )
    require_all_rows(trainer, stage, rows)
    require_same_prompts(trainer, stage, prompts)
    trainer.roles, trainer.at_once = roles, AtOnce(choice.sizes.rollout, f"{stage}.rollout_batch_size")
    trainer.carried = rewards
    log = train_with_progress(trainer, stage, checkpoints).rows
    warn_unless_learnt(roles.model, stage, sft)
    rollouts = [row for row in log if "objective/scores" in row]
    first, last = rollouts[0], rollouts[-1]
    metrics = {
        "prompts": len(prompts),
        "episodes": rewards.episodes,
        "score_first": first["objective/scores"],
        "score_last": last["objective/scores"],
        "kl_nats": last.get("objective/kl"),
        "response_tokens": last["lengths/mean"],
        "eos_rate": last["eos_rate"],
        "trained_tokens": (rewards.prompt_tokens + rewards.response_tokens) * settings.num_iterations,
        "generated_tokens": rewards.response_tokens,
    }
    checkpoints.hand_over(out)
    save_adapter(roles.model, out, base.tokenizer, adapter_card(stage, base))
    kl = "" if metrics["kl_nats"] is None else f" at KL {metrics['kl_nats']:.2f} nats"
    headline = (
        f"score {metrics['score_first']:.2f} -> {metrics['score_last']:.2f}{kl}, {metrics['episodes']:,} episodes"
    )
    smoke, ends = smoke_test(stage, config, data, base, roles, out)
    return StageResult(metrics | smoke, f"{headline}; {ends}")
