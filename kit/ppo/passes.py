"""Forward passes of the roles over a batch, each under its adapter and in the arithmetic that its numbers need.

Shapes: b responses of at most r tokens; n response tokens in all, row by row; h hidden units.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from trl.models.utils import disable_gradient_checkpointing

from kit.models.decoding import Sampled, pad_rows, sample_responses
from kit.models.out_of_memory import AtOnce
from kit.models.roles import Roles
from kit.ppo.config import PPOConfig
from kit.ppo.head import Head
from kit.ppo.rollout import in_place, response_places, trimmed


class Passes:
    """What policy, reference, reward and critic say of a batch (`kit.ppo.rollout.lay_out`)."""

    def __init__(self, roles: Roles, args: PPOConfig, accelerator: Any) -> None:
        self.roles, self.args, self.accelerator = roles, args, accelerator
        self.model = roles.model
        micro = args.per_device_train_batch_size
        self.sampling = AtOnce(args.rollout_batch_size or args.generation_batch_size, "ppo.rollout_batch_size")
        self.scoring = AtOnce(args.scoring_batch_size or micro, "ppo.scoring_batch_size")
        self.training = AtOnce(micro, "ppo.micro_batch_size")
        if self.quantized:
            self.model.get_base_model().enable_input_require_grads()  # see training_arithmetic

    @property
    def quantized(self) -> bool:
        """Whether the base is held in 4 bits."""
        return getattr(self.model.get_base_model(), "is_quantized", False)

    @property
    def float32(self) -> bool:
        """Whether sampling and training run the same arithmetic but for the order of sums."""
        return not self.quantized and self.accelerator.mixed_precision == "no" and self.model.dtype == torch.float32

    # --- one micro-batch, under the role in use -----------------------------------------------------------------

    def states(self, batch: dict[str, Tensor]) -> Tensor:
        """Hidden states [n, h] that predict each response token."""
        with self.accelerator.autocast():
            hidden = self.roles.hidden(batch["input_ids"], batch["attention_mask"])
        return hidden[response_places(batch)]

    def logps(self, batch: dict[str, Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [n] of the response tokens, in nats, at the sampling temperature."""
        rows, places = response_places(batch)
        head = Head.of(self.model.get_base_model(), self.args.temperature)
        with self.accelerator.autocast():
            return head.logps(states, batch["input_ids"][rows, places + 1])

    # --- a whole rollout, without gradients ---------------------------------------------------------------------

    def sample(self, prompts: list[list[int]]) -> Sampled:
        """A response to each prompt from the policy, `rollout_batch_size` at a time."""
        values = self.roles.values if self.roles.critic_is_shared else None
        more = {"cache_implementation": self.args.cache_implementation} if self.args.cache_implementation else {}
        with (
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            self.roles.merged("policy") as model,
            self.accelerator.autocast(),
        ):
            return self.sampling.run(
                lambda rows: sample_responses(
                    model, prompts, self.args.max_completion_length, rows, self.args.temperature, values, **more
                )
            )

    def policy_and_critic(self, batch: dict[str, Tensor], sampled: Sampled | None) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values [b, r] before any update.

        In float32 those that sampling saw are the training forward's but for rounding, and cost nothing. In lower
        precision they are not (TRL 1.12's ratio began at 1.004 in bfloat16), so the training forward computes them.
        """
        seen = sampled if self.float32 else None
        if seen is not None:
            logps = _laid_out(seen.logps, batch["mask"])
        else:
            logps = self._scored("policy", batch, lambda part, states: self.logps(part, states)[0])
        if seen is not None and seen.values is not None:
            return logps, _laid_out(seen.values, batch["mask"])
        owner = "policy" if self.roles.critic_is_shared else "critic"
        return logps, self._scored(owner, batch, lambda _, states: self.roles.values(states))

    def reference(self, batch: dict[str, Tensor]) -> Tensor:
        """Log-probabilities [b, r] under the SFT policy."""
        return self._scored("reference", batch, lambda part, states: self.logps(part, states)[0])

    def scores(self, rows: list[list[int]]) -> list[float]:
        """The reward role's score of each row of ids, in order of length, `scoring_batch_size` at a time."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        pad, device = self.model.generation_config.pad_token_id, self.accelerator.device

        def scores(size: int) -> list[float]:
            found = torch.empty(len(rows))
            for start in range(0, len(rows), size):
                part = order[start : start + size]
                ids, mask = pad_rows([rows[i] for i in part], pad)
                found[part] = self.roles.scores(ids.to(device), mask.to(device)).cpu()
            return found.tolist()

        with self.roles.merged("reward"), self.accelerator.autocast():
            return self.scoring.run(scores)

    def _scored(self, role: str, batch: dict[str, Tensor], function: Callable) -> Tensor:
        """`function(part, states)`, a number per response token of the rollout, as [b, r]; rows in order of length."""
        order = batch["attention_mask"].sum(1).argsort(stable=True)

        def numbers_of(size: int) -> Tensor:
            parts = (trimmed({k: v[i] for k, v in batch.items()}) for i in order.split(size))
            return torch.cat([function(part, self.states(part)).detach().float() for part in parts])

        with self.roles.merged(role), self.training_arithmetic() as at_once:
            numbers = at_once.run(numbers_of)
        return in_place(numbers, batch["mask"][order])[order.argsort()]

    @contextmanager
    def training_arithmetic(self) -> Iterator[AtOnce]:
        """Passes whose numbers are compared with those of training; yields how many rows to take at once.

        Without gradients bitsandbytes multiplies 4-bit layers by another kernel than in training (`needs_grad` in its
        `matmul_4bit`), so on a quantised base these passes run with gradients, and the graph is dropped.
        """
        if self.quantized:
            with torch.enable_grad():
                yield self.training
        else:
            checkpointing = self.args.gradient_checkpointing_kwargs
            with torch.no_grad(), disable_gradient_checkpointing(self.model, checkpointing):
                yield self.scoring


def _laid_out(rows: list[list[float]], mask: Tensor) -> Tensor:
    return in_place(torch.tensor([x for row in rows for x in row], device=mask.device), mask)
