"""PPOTrainer: TRL's RLOOTrainer with a learned critic instead of the leave-one-out baseline.

TRL removed its PPOTrainer in 1.13 (huggingface/trl#7020); this one carries PPO on. Generation, reward functions with
weights, logging, accelerate and the fused LM head are inherited; the baseline, the losses and the checkpoints are ours.
Policy, reference, reward and critic are adapters on one base (`kit.models.roles`).

Where it differs from TRL 1.12's on purpose: old log-probabilities come from the same forward as the new ones, so the
ratio starts at 1; the score lies on the last real token; masks come from lengths, never from token ids; means are over
tokens, not padding; gradients are clipped; policy and critic back-propagate one after the other, so that one graph
lives at a time and checkpointed layers are recomputed under the adapter that ran them; checkpoints hold the critic.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from trl import RLOOTrainer
from trl.models.utils import disable_gradient_checkpointing

from kit.errors import DataError, TrainingStopped
from kit.models.adapters import keep_weights, load_training_state, save_training_state
from kit.models.generation import pad_rows
from kit.models.roles import Roles
from kit.ppo import math as ppo_math
from kit.ppo.config import PPOConfig
from kit.ppo.rollout import PromptOrder, Rollout, lay_out, response_labels


class PPOTrainer(RLOOTrainer):
    """Proximal policy optimisation of the `policy` role against the `reward` role, with the `critic` role as baseline.

    Args:
        roles: the four roles on one base (`kit.models.roles.policy_roles`); the reference is copied from the policy.
        args: a PPOConfig; gradient steps per rollout follow from its batch sizes.
        train_dataset: rows with a `prompt` (text or messages); other columns reach the reward functions.
        processing_class: the tokenizer; its pad token must end no response.
        reward_funcs: None for the reward role's score, or callables as RLOOTrainer takes them, weighted by
            `args.reward_weights`; `trainer.score_responses` is the reward role as such a callable.

    Raises DataError where there are fewer prompts than one rollout takes (TRL 1.12 waited for ever), and
    TrainingStopped, before the optimizer step, on a score, value or loss that is not finite.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "ppo"]
    _name = "PPO"

    def __init__(
        self,
        roles: Roles,
        args: PPOConfig,
        train_dataset: Dataset,
        processing_class: Any,
        reward_funcs: list[Callable] | None = None,
        callbacks: list | None = None,
    ) -> None:
        if args.max_steps <= 0:
            raise ValueError("PPO is measured in rollouts: set max_steps to rollouts x num_ppo_epochs x mini-batches")
        if len(train_dataset) < args.generation_batch_size:
            raise DataError(
                f"PPO: {len(train_dataset)} prompts, but one rollout takes {args.generation_batch_size}; give more "
                "prompts or lower ppo.batch_size x ppo.num_mini_batches"
            )
        self.roles = roles
        with keep_weights(roles.model):  # RLOOTrainer casts the adapters of a quantised base to bfloat16
            super().__init__(
                model=roles.model,
                reward_funcs=reward_funcs or [self.score_responses],
                args=args,
                train_dataset=train_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
            )
        if self._tokenizer.pad_token_id in self.eos_token_ids:
            raise DataError("PPO: the pad token also ends a turn; give the tokenizer a pad token of its own")
        self._rollout: Rollout | None = None
        self._slices: list[dict[str, Tensor]] = []

    @property
    def _steps_per_rollout(self) -> int:
        """Optimizer steps between two rollouts."""
        mini_batches = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        return self.args.num_ppo_epochs * mini_batches

    def _get_train_sampler(self, dataset: Dataset | None = None) -> PromptOrder:
        """The prompts of the whole run as one pass, so that a resumed run finds its place."""
        return PromptOrder(
            prompts=len(self.train_dataset if dataset is None else dataset),
            rollouts=-(-self.args.max_steps // self._steps_per_rollout),
            rollout_size=self.args.generation_batch_size,
            repeats=self.args.num_ppo_epochs * self.args.steps_per_generation,
            seed=self.args.seed,
        )

    # --- rollout: sample, score, estimate advantages ------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Tensor]:
        """The next micro-batch; a new rollout when the last one has had its `num_ppo_epochs` passes."""
        per_epoch = self.args.steps_per_generation
        if self._rollout is None or self._step % (per_epoch * self.args.num_ppo_epochs) == 0:
            self._rollout = self._generate_and_score_completions(generation_batch)
        if self._step % per_epoch == 0:
            self._slices = self._shuffled_micro_batches(self._rollout)
        return self._slices[self._step % per_epoch]

    def _shuffled_micro_batches(self, rollout: Rollout) -> list[dict[str, Tensor]]:
        """One pass over the rollout in a new order; each micro-batch knows the tokens of its mini-batch, so that the
        loss is a mean over the mini-batch's tokens however it is cut."""
        micro, accumulate = self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        order = torch.randperm(len(rollout.mask)).to(rollout.mask.device)
        slices = []
        for mini in order.split(micro * accumulate):
            tokens = rollout.mask[mini].sum()
            slices += [{**rollout.rows(index), "mini_batch_tokens": tokens} for index in mini.split(micro)]
        return slices

    def _generate_and_score_completions(self, inputs: list[dict]) -> Rollout:
        """Responses to the prompts with old and reference log-probabilities, values, advantages and returns."""
        prompts = [row["prompt"] for row in inputs]
        prompt_ids, response_ids, completions = self._generate(prompts)
        batch = lay_out(prompt_ids, response_ids, self._tokenizer.pad_token_id, self.accelerator.device)
        mask = batch["mask"]
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            logps, entropy = self._in_micro_batches(self._logps_and_entropy, batch)
            with self.roles.use("reference"):
                ref_logps, _ = self._in_micro_batches(self._logps_and_entropy, batch)
            with self.roles.use("critic"):
                (values,) = self._in_micro_batches(lambda part: (self._values(part),), batch)
            rows = [{**row, "prompt_ids": ids} for row, ids in zip(inputs, prompt_ids, strict=True)]
            by_function = self._calculate_rewards(rows, prompts, completions, response_ids)

        raw_scores = (by_function * self.reward_weights.to(by_function.device)).sum(1)
        ended = torch.tensor([ids[-1] in self.eos_token_ids for ids in response_ids], device=mask.device)
        scores = raw_scores
        if self.args.missing_eos_penalty is not None:
            scores = scores - self.args.missing_eos_penalty * ~ended
        self._stop_unless_finite("score", scores)
        self._stop_unless_finite("value", values)
        self._stop_unless_finite("log-probability", logps)

        rewards = ppo_math.token_rewards(scores, logps, ref_logps, mask, self.args.kl_coef)
        if self.args.whiten_rewards:
            rewards = ppo_math.masked_whiten(rewards, mask, shift_mean=False)
        advantages = ppo_math.advantages_gae(rewards, values, mask, self.args.gamma, self.args.lam)
        returns = advantages + values * mask
        self._note(
            {
                "objective/scores": raw_scores.mean(),
                "objective/rlhf_reward": rewards.sum(1).mean(),
                "objective/kl": ((logps - ref_logps) * mask).sum(1).mean(),
                "objective/entropy": ppo_math.masked_mean(entropy, mask),
                "val/explained_variance": ppo_math.explained_variance(values, returns, mask),
                "val/mean": ppo_math.masked_mean(values, mask),
                "lengths/mean": mask.sum(1).float().mean(),
                "eos_rate": ended.float().mean(),
                "episode": (self.state.global_step // self._steps_per_rollout + 1) * len(prompts),
            }
            | {f"rewards/{n}": by_function[:, i].mean() for i, n in enumerate(self.reward_func_names)}
        )
        return Rollout(
            **batch, logps=logps, ref_logps=ref_logps, values=values,
            advantages=ppo_math.masked_whiten(advantages, mask), returns=returns,
        )  # fmt: skip

    def _generate_single_turn(self, prompt_ids: list[list[int]], images: Any, fields: Any) -> list[list[int]]:
        """Response ids per prompt, generated `rollout_micro_batch_size` at a time."""
        size = self.args.rollout_micro_batch_size or len(prompt_ids)
        parts = [prompt_ids[start : start + size] for start in range(0, len(prompt_ids), size)]
        return [ids for part in parts for ids in super(PPOTrainer, self)._generate_single_turn(part, images, fields)]

    def score_responses(self, completion_ids: list[list[int]], prompt_ids: list[list[int]], **_: Any) -> list[float]:
        """The reward role's score of each response, read at its last real token, on the very ids that were sampled."""
        size = self.args.per_device_train_batch_size
        rows = [p + r for p, r in zip(prompt_ids, completion_ids, strict=True)]
        scores: list[float] = []
        for start in range(0, len(rows), size):
            ids, mask = pad_rows(rows[start : start + size], self._tokenizer.pad_token_id)
            device = self.accelerator.device
            with self.accelerator.autocast():
                scores += self.roles.scores(ids.to(device), mask.to(device)).tolist()
        return scores

    # --- losses -----------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The policy's loss; the critic's is back-propagated here, under its own adapter, before the policy runs.

        Both are means over the tokens of the mini-batch. The trainer divides what it gets by the number of
        accumulated micro-batches, so both are multiplied by it first.
        """
        mask, args = inputs["mask"], self.args
        share = self.current_gradient_accumulation_steps / inputs["mini_batch_tokens"]

        with self.roles.use("critic"):
            values = self._values(inputs)
            per_token = ppo_math.value_loss(values, inputs["values"], inputs["returns"], mask, args.cliprange_value)
            value_loss = per_token.sum() * share
            self._stop_unless_finite("value loss", value_loss)
            self.accelerator.backward(args.vf_coef * value_loss / self.current_gradient_accumulation_steps)

        logps, entropy = self._logps_and_entropy(inputs)
        per_token_policy = ppo_math.policy_loss(logps, inputs["logps"], inputs["advantages"], mask, args.cliprange)
        policy_loss = per_token_policy.sum() * share
        self._stop_unless_finite("policy loss", policy_loss)

        with torch.no_grad():
            log_ratio = (logps - inputs["logps"]) * mask
            self._note(
                {
                    "loss/policy": policy_loss,
                    "loss/value": value_loss,
                    "policy/approxkl": 0.5 * ppo_math.masked_mean(log_ratio.square(), mask),
                    "policy/clipfrac": ppo_math.masked_mean(
                        ((log_ratio.exp() - 1).abs() > args.cliprange).float(), mask
                    ),
                    "policy/ratio": ppo_math.masked_mean(log_ratio.exp(), mask),
                    "policy/max_log_ratio": log_ratio.abs().max(),
                    "policy/entropy": ppo_math.masked_mean(entropy, mask),
                    "val/clipfrac": ppo_math.masked_mean(
                        ((values - inputs["values"]).abs() > args.cliprange_value).float(), mask
                    ),
                }
            )
        return policy_loss

    def _logps_and_entropy(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probabilities [b, r] of the response tokens and entropies [b, r], in nats, under the role in use."""
        labels = response_labels(batch["input_ids"], batch["predictor"], batch["mask"])
        with self.accelerator.autocast():
            out = self.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, fused_lm_head=True
            )
        logps, entropy = (x.float().gather(1, batch["predictor"]) for x in (out.log_probs, out.entropy))
        return logps * batch["mask"], entropy * batch["mask"]

    def _values(self, batch: dict[str, Tensor]) -> Tensor:
        """The critic's value [b, r] before each response token, in score units; call it under `use("critic")`."""
        with self.accelerator.autocast():
            values = self.roles.values(batch["input_ids"], batch["attention_mask"])
        return values.gather(1, batch["predictor"]) * batch["mask"]

    def _in_micro_batches(self, function: Callable, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """`function` over the rollout, a micro-batch at a time."""
        size = self.args.per_device_train_batch_size
        count = len(batch["mask"])
        parts = [function({k: v[start : start + size] for k, v in batch.items()}) for start in range(0, count, size)]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    # --- guards, metrics, checkpoints ---------------------------------------------------------------------------

    def _stop_unless_finite(self, what: str, x: Tensor) -> None:
        finite = x.isfinite()
        if not finite.all():
            rows = (~finite.reshape(len(x), -1)).any(1).nonzero().flatten().tolist() if x.dim() else []
            where = f" in row(s) {rows[:5]} of the rollout" if rows else ""
            raise TrainingStopped(
                f"PPO stopped before optimizer step {self.state.global_step + 1}: {what} is not finite{where}. "
                "Lower ppo.learning_rate, raise ppo.kl_coef, and check the reward model's scores"
            )

    def _note(self, metrics: dict[str, Tensor | float]) -> None:
        """Add to the metrics of the next log line, which holds their means."""
        for name, value in metrics.items():
            self._metrics["train"][name].append(float(value))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One row per log in the field's names; RLOO's names for the same things are left out."""
        for name in [n for n in self._metrics["train"] if n.startswith("completions/") or n == "step_time"]:
            del self._metrics["train"][name]
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The policy as a PEFT folder, with critic and value head beside it; no pickled arguments."""
        save_training_state(self.roles, output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Policy, critic and value head back from a checkpoint, for `train(resume_from_checkpoint=...)`."""
        load_training_state(self.roles, resume_from_checkpoint)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint at a rollout boundary; elsewhere a resumed run would use half a rollout."""
        if self.state.global_step % self._steps_per_rollout:
            raise ValueError("save_steps must be a multiple of num_ppo_epochs x mini-batches per rollout")
        super(RLOOTrainer, self)._save_checkpoint(model, trial)  # past RLOO's model card, which every stage has anyway
