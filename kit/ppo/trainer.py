"""PPOTrainer: TRL's RLOOTrainer with a learned critic instead of the leave-one-out baseline.

TRL removed its PPOTrainer in 1.13 (huggingface/trl#7020); this one carries PPO on. Reward functions with weights,
logging, accelerate, vLLM and continuous batching are inherited; the rollout, the baseline, the losses and the
checkpoints are ours. Policy, reference, reward and critic are adapters on one base (`kit.models.roles`).

Where it differs from TRL 1.12's on purpose (tests/test_ppo_parity.py shows both numbers):
- the score lies on the last real token, not on the padding after it;
- masks come from lengths, never from token ids, so an EOS that equals the pad token keeps its place;
- losses and metrics are means over response tokens, not over padding; the value loss leaves the padding out too;
- gradients are clipped, policy and critic apart, and one that is not finite stops the run before the step;
- policy and critic back-propagate one after the other, so that one graph lives at a time and checkpointed layers are
  recomputed under the adapter that ran them;
- checkpoints hold the critic, the KL coefficient and all else that a resumed run needs.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from trl import RLOOTrainer

from kit import notices
from kit.errors import DataError, TrainingStopped
from kit.models.adapters import keep_dtypes, keep_weights, policy_weights
from kit.models.decoding import Sampled
from kit.models.out_of_memory import HalvesMicroBatch
from kit.models.resumable import Resumable
from kit.models.roles import Roles
from kit.ppo import math as ppo_math
from kit.ppo.carried import Carried
from kit.ppo.config import PPOConfig
from kit.ppo.passes import Passes
from kit.ppo.rollout import PromptOrder, Rollout, in_place, lay_out
from kit.ppo.samples import forget_samples, write_samples
from kit.runs import signals


class PPOTrainer(Resumable, HalvesMicroBatch, RLOOTrainer):
    """Proximal policy optimisation of the `policy` role against the `reward` role, with a critic as baseline.

    Args:
        roles: the roles on one base (`kit.models.roles.policy_roles`); the reference is copied from the policy.
        args: a PPOConfig; gradient steps per rollout follow from its batch sizes.
        train_dataset: rows with a `prompt` (text or messages); other columns reach the reward functions.
        processing_class: the tokenizer; its pad token must end no response.
        reward_funcs: "reward_model" for the reward role's score, and callables as RLOOTrainer takes them, weighted by
            `args.reward_weights`. Each is logged as `rewards/<name>`.

    Raises DataError where there are fewer prompts than one rollout takes (TRL 1.12 waited for ever), and
    TrainingStopped, before the optimizer step, on a score, value, loss or gradient that is not finite, and where a
    guard (`kit.ppo.guards`) has complained too often; `carried.best_policy` then holds the best policy so far.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "ppo"]
    _name = "PPO"

    def __init__(
        self,
        roles: Roles,
        args: PPOConfig,
        train_dataset: Dataset,
        processing_class: Any,
        reward_funcs: Sequence[Callable | str] = ("reward_model",),
        callbacks: list | None = None,
    ) -> None:
        if args.max_steps <= 0:
            raise ValueError("PPO is measured in rollouts: set max_steps to rollouts x num_ppo_epochs x mini-batches")
        if len(train_dataset) < args.generation_batch_size:
            raise DataError(
                f"PPO: {len(train_dataset)} prompts, but one rollout takes {args.generation_batch_size}; give more "
                "prompts or lower ppo.batch_size x ppo.num_mini_batches"
            )
        self.roles, self.carried = roles, Carried(args)
        with keep_weights(roles.model):  # RLOOTrainer casts the adapters of a quantised base to bfloat16
            super().__init__(
                model=roles.model,
                reward_funcs=[self.reward_model if func == "reward_model" else func for func in reward_funcs],
                args=args,
                train_dataset=train_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
            )
        if self._tokenizer.pad_token_id in self.eos_token_ids:
            raise DataError("PPO: the pad token also ends a turn; give the tokenizer a pad token of its own")
        self.passes = Passes(roles, args, self.accelerator)
        self._rollout: Rollout | None = None
        self._sampled: Sampled | None = None
        self._slices: list[dict[str, Tensor]] = []
        self._prompts: list[Any] = []
        self._has_samples = False
        self._token_sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._scored_at = time.perf_counter()

    @property
    def _steps_per_rollout(self) -> int:
        """Optimizer steps between two rollouts."""
        mini_batches = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        return self.args.num_ppo_epochs * mini_batches

    @property
    def _rollouts_done(self) -> int:
        return self.state.global_step // self._steps_per_rollout

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
            with self._given_up_if_asked():
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
        """Responses to the prompts, what the roles say of them, what the guards say of that, and the advantages."""
        self._prompts = prompts = [row["prompt"] for row in inputs]
        with self._timed("rollout"):
            prompt_ids, response_ids, completions = self._generate(prompts)
        batch = lay_out(prompt_ids, response_ids, self._tokenizer.pad_token_id, self.accelerator.device)
        mask = batch["mask"]
        with self._timed("scoring"):
            logps, values = self.passes.policy_and_critic(batch, self._sampled)
            ref_logps = self.passes.reference(batch)
            rows = [{**row, "prompt_ids": ids} for row, ids in zip(inputs, prompt_ids, strict=True)]
            by_function = self._calculate_rewards(rows, prompts, completions, response_ids)
        signals.stop_if_asked()  # the last moment: from here on the rollout leaves its marks
        self._sampled, self._scored_at = None, time.perf_counter()

        by_name = {name: by_function[:, i] for i, name in enumerate(self.reward_func_names)}
        raw_scores = self._weighted(by_function)
        ended = torch.tensor([ids[-1] in self.eos_token_ids for ids in response_ids], device=mask.device)
        found = {
            "score": raw_scores,
            "value": values,
            "log-probability": logps,
            "reference's log-probability": ref_logps,
        }
        for what, numbers in found.items():
            self._stop_unless_finite(what, numbers, batch["index"])
        scores, kl_coef = self._shaped(raw_scores, ended), self.carried.kl_coef
        kl = ppo_math.token_kl(logps, ref_logps, mask, self.args.kl_estimator)
        kl_nats, penalty = kl.sum(1), -kl_coef * kl.sum(1)
        advantages, returns = self._advantages_and_returns(scores, kl, values, mask)
        metrics = {
            "objective/scores": float(raw_scores.mean()),
            "objective/kl": float(kl_nats.mean()),
            "objective/entropy": float(-logps.sum(1).mean()),
            "objective/non_score_reward": float(penalty.mean()),
            "objective/rlhf_reward": float((scores + penalty).mean()),
            "policy/token_entropy": float(-ppo_math.masked_mean(logps, mask)),
            "val/explained_variance": float(ppo_math.explained_variance(values, returns, mask)),
            "val/mean": float(ppo_math.masked_mean(values, mask)),
            "lengths/mean": float(mask.sum(1).float().mean()),
            "lengths/max": float(mask.sum(1).max()),
            "eos_rate": float(ended.float().mean()),
            "kl_coef": kl_coef,
            "episode": float((self._rollouts_done + 1) * len(prompts)),
        }
        metrics |= {f"rewards/{name}": float(numbers.nanmean()) for name, numbers in by_name.items()}
        self._note(metrics)
        self._show(completions, by_name, advantages)
        columns = {"score": raw_scores, "kl_nats": kl_nats, "tokens": mask.sum(1), "ended": ended}
        if not self._has_samples:
            forget_samples(Path(self.args.output_dir), self._rollouts_done + 1)
            self._has_samples = True
        write_samples(Path(self.args.output_dir), self._rollouts_done + 1, prompts, completions, columns, by_name)
        self._look_after(metrics)
        if self.args.kl_control == "adaptive":
            self.carried.kl_coef = ppo_math.adapted_kl_coef(
                kl_coef, metrics["objective/kl"], self.args.target_kl, len(prompts), self.args.kl_horizon
            )
        whitened = ppo_math.masked_whiten(advantages, mask) if self.args.whiten_advantages else advantages
        return Rollout(
            **batch, logps=logps, ref_logps=ref_logps, values=values, advantages=whitened, returns=returns
        )  # fmt: skip

    def _advantages_and_returns(
        self, scores: Tensor, kl: Tensor, values: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """GAE of score [b] and KL penalty [b, r], and the value's targets; both [b, r], not whitened."""
        rewards = ppo_math.token_rewards(scores, kl, mask, self.carried.kl_coef)
        if self.args.whiten_rewards:
            rewards = ppo_math.masked_whiten(rewards, mask, shift_mean=False)
        advantages = ppo_math.advantages_gae(rewards, values, mask, self.args.gamma, self.args.lam)
        return advantages, advantages + values * mask

    def _generate_single_turn(self, prompt_ids: list[list[int]], images: Any, fields: Any) -> list[list[int]]:
        """Response ids per prompt; what sampling saw on the way is kept. vLLM and continuous batching are TRL's."""
        if self.use_vllm or self.use_transformers_continuous_batching:
            size = self.passes.sampling.rows
            parts = [prompt_ids[start : start + size] for start in range(0, len(prompt_ids), size)]
            of_trl = super()._generate_single_turn
            with keep_dtypes(self.roles.model):
                return [row for part in parts for row in of_trl(part, images, fields)]
        self._sampled = self.passes.sample(prompt_ids)
        return self._sampled.ids

    def reward_model(self, completion_ids: list[list[int]], prompt_ids: list[list[int]], **_: Any) -> list[float]:
        """The reward role's score of each response, read at its last real token, on the very ids that were sampled."""
        return self.passes.scores([p + r for p, r in zip(prompt_ids, completion_ids, strict=True)])

    def _weighted(self, by_function: Tensor) -> Tensor:
        """Weighted sum [b] of the rewards [b, functions]. As in TRL, None (NaN) from a function means that it does not
        apply to a response; it is no number where no function applies, or where the reward model's score is none."""
        columns = by_function * self.reward_weights.to(by_function.device)
        needed = torch.tensor([name == "reward_model" for name in self.reward_func_names], device=columns.device)
        broken = columns.isnan().all(1) | columns[:, needed].isnan().any(1)
        return columns.nansum(1).masked_fill(broken, math.nan)

    def _shaped(self, raw_scores: Tensor, ended: Tensor) -> Tensor:
        """Scores [b] normalised by all scores so far, clipped, and less the penalty of those that were cut off: the
        penalty comes last, so that no clip can hide it."""
        scores = raw_scores
        if self.args.normalize_rewards:
            self.carried.scores.add(raw_scores.double().tolist())
            scores = (scores - self.carried.scores.mean) / self.carried.scores.deviation
        if self.args.reward_clip_range is not None:
            scores = scores.clamp(*self.args.reward_clip_range)
        if self.args.missing_eos_penalty is not None:
            scores = scores - self.args.missing_eos_penalty * ~ended
        return scores

    # --- losses -----------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The policy's loss; a critic of its own back-propagates here, under its adapter, before the policy runs.

        Both are means over the tokens of the mini-batch. The trainer divides what it gets by the number of
        accumulated micro-batches, so both are multiplied by it first.
        """
        warming_up = self._rollouts_done < self.args.critic_warmup_rollouts
        accumulate = self.current_gradient_accumulation_steps
        share = accumulate / inputs["mini_batch_tokens"]
        if self.roles.critic_is_shared:
            states = self.passes.states(inputs)
            value_loss = self._value_loss(states.detach() if warming_up else states, inputs) * share
            if warming_up:
                return self.args.vf_coef * value_loss
            return self._policy_loss(states, inputs) * share + self.args.vf_coef * value_loss

        with self.roles.use("critic"):
            value_loss = self._value_loss(self.passes.states(inputs), inputs) * share
            self.accelerator.backward(self.args.vf_coef * value_loss / accumulate)
        if warming_up:
            return 0 * self.roles.value_head.weight.sum()  # the trainer wants something to back-propagate
        return self._policy_loss(self.passes.states(inputs), inputs) * share

    def _value_loss(self, states: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Sum of the value loss over the response tokens of a micro-batch."""
        mask, cliprange = inputs["mask"], self.args.cliprange_value
        values = in_place(self.roles.values(states), mask)
        per_token = ppo_math.value_loss(values, inputs["values"], inputs["returns"], mask, cliprange)
        self._stop_unless_finite("value loss", per_token, inputs["index"])
        clipped = (values - inputs["values"]).abs() > cliprange
        self._note_tokens(mask, {"loss/value": per_token, "val/clipfrac": clipped})
        return per_token.sum()

    def _policy_loss(self, states: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Sum of the policy loss over the response tokens of a micro-batch."""
        mask, cliprange = inputs["mask"], self.args.cliprange
        logps, entropy = (in_place(x, mask) for x in self.passes.logps(inputs, states))
        per_token = ppo_math.policy_loss(logps, inputs["logps"], inputs["advantages"], mask, cliprange)
        self._stop_unless_finite("policy loss", per_token, inputs["index"])
        log_ratio = (logps.detach() - inputs["logps"]) * mask
        ratio = log_ratio.exp()
        self._note_tokens(
            mask,
            {
                "loss/policy": per_token,
                "policy/approxkl": 0.5 * log_ratio.square(),
                "policy/clipfrac": (ratio - 1).abs() > cliprange,
                "policy/ratio": ratio,
                "policy/entropy": entropy,
            },
        )
        if self.state.global_step % self._steps_per_rollout == 0:  # no update since the rollout: it should be 0
            self._note({"policy/first_log_ratio": float(log_ratio.abs().max())})
        return per_token.sum()

    # --- optimizer --------------------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> Any:
        """TRL's optimizer with policy and critic in groups of their own, each at its learning rate; policy first."""
        optimizer = super().create_optimizer(model)
        rates = {"policy": self.args.learning_rate, "critic": self.args.critic_learning_rate or self.args.learning_rate}
        parts = {part: {id(p) for p in parameters} for part, parameters in self._trained_parts().items()}
        groups = list(optimizer.param_groups)
        optimizer.param_groups.clear()
        for part, own in parts.items():
            for group in groups:
                chosen = [p for p in group["params"] if id(p) in own]
                if chosen:
                    optimizer.add_param_group({**group, "params": chosen, "lr": rates[part]})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of `lr_scheduler_type`, counted in rollouts: all updates on a rollout have one learning rate, as
        in OpenAI's baselines and TRL 1.12, and the last rollout's is not 0."""
        per_rollout = self._steps_per_rollout
        scheduler = super().create_scheduler(num_training_steps // per_rollout, optimizer)
        if isinstance(scheduler, LambdaLR):  # the others follow the loss
            scheduler.lr_lambdas = [lambda step, f=f: f(step // per_rollout) for f in scheduler.lr_lambdas]
        return scheduler

    def _trained_parts(self) -> dict[str, list[nn.Parameter]]:
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        critic = [p for n, p in named if ".critic." in n or "value_head." in n]
        own = {id(p) for p in critic}
        return {"policy": [p for _, p in named if id(p) not in own], "critic": critic}

    def _clip_grad_norm(self, model: Any) -> float:
        """Clip the gradients of policy and critic, each to `max_grad_norm`."""
        return self._gradient_norms(self.args.max_grad_norm)

    def _get_grad_norm(self, model: Any, grad_norm: float | None = None) -> float:
        """The norm before clipping; it is checked also where nothing is clipped."""
        return self._gradient_norms(math.inf) if grad_norm is None else grad_norm

    def _gradient_norms(self, limit: float) -> float:
        """Clip to the limit, stop on a norm that is not finite; the norm of both parts together.

        Under fp16 an overflow is part of the gradient scaler's work: it skips the step and halves its scale. At a
        scale below 1 the scale is no longer what overflows, and a run that skipped on would learn nothing.
        """
        self.accelerator.unscale_gradients()
        scaler, norms = self.accelerator.scaler, {}
        for part, parameters in self._trained_parts().items():
            norms[part] = nn.utils.clip_grad_norm_(parameters, limit)
            if scaler is None or scaler.get_scale() < 1:
                self._stop_unless_finite(f"gradient of the {part}", norms[part], None)
            if norms[part].isfinite():
                self._note({f"grad_norm/{part}": float(norms[part])})
        if scaler is not None:
            self._note({"skipped_steps": float(not all(norm.isfinite() for norm in norms.values()))})
        return float(torch.stack(list(norms.values())).norm())

    # --- guards, metrics, checkpoints ---------------------------------------------------------------------------

    def _look_after(self, metrics: dict[str, float]) -> None:
        """Let the guards look at a rollout: warn, or stop; where none complains, the policy may be the best so far."""
        for finding in self.carried.guards.look(metrics):
            if finding.stop:
                raise TrainingStopped(f"PPO stopped at rollout {self._rollouts_done + 1}: {finding.text}")
            notices.warn(f"ppo, rollout {self._rollouts_done + 1}: {finding.text}")
        if self.carried.guards.content:
            policy = policy_weights(self.roles)
            self.carried.offer_best(self._rollouts_done, metrics["objective/rlhf_reward"], policy)

    def _stop_unless_finite(self, what: str, numbers: Tensor, index: Tensor | None) -> None:
        """Raise TrainingStopped where a number of [b, ...] is not finite, naming the rows of the rollout."""
        finite = numbers.isfinite()
        if finite.all():
            return
        where = ""
        if index is not None:
            bad = index[(~finite.reshape(len(finite), -1)).any(1)].tolist()
            where = f" in row(s) {bad[:5]} of the rollout; the first one's prompt: {str(self._prompts[bad[0]])[:200]!r}"
        raise TrainingStopped(
            f"PPO stopped before optimizer step {self.state.global_step + 1}: {what} is not finite{where}. "
            "Lower ppo.learning_rate, raise ppo.kl_coef, and check the reward model's scores"
            + ("; or, as float16 may have overflowed, set model.dtype=float32" if self.args.fp16 else "")
        )

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._note({f"seconds/{what}": time.perf_counter() - started})

    def _note(self, metrics: dict[str, float]) -> None:
        """Add to the metrics of the next log line, which holds their means."""
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def _note_tokens(self, mask: Tensor, metrics: dict[str, Tensor]) -> None:
        """Add numbers per token [b, r]; the next log line holds their means over tokens."""
        count = float(mask.sum())
        for name, numbers in metrics.items():
            sums = self._token_sums[name]
            sums[0] += float((numbers.detach() * mask).sum())
            sums[1] += count

    def _show(self, completions: list, rewards: dict[str, Tensor], advantages: Tensor) -> None:
        """The rollout for TRL's table of completions (`log_completions`), also in a tracker."""
        self._logs["prompt"].extend(self._prompts)
        self._logs["completion"].extend(completions)
        self._logs["advantages"].extend(advantages.sum(1).tolist())
        for name, values in rewards.items():
            self._logs["rewards"][name].extend(values.tolist())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One row per log in the field's names; RLOO's names for the same things are left out."""
        for name in [n for n in self._metrics["train"] if n.startswith("completions/") or n == "step_time"]:
            del self._metrics["train"][name]
        self._note({name: total / count for name, (total, count) in self._token_sums.items()})
        if self._token_sums:
            self._note({"seconds/training": time.perf_counter() - self._scored_at})
        self._token_sums.clear()
        super().log(logs, start_time)
