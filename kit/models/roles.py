"""One base, four roles: policy, reference, reward and critic take turns as adapters on a base that is in memory once.

PEFT's `set_adapter` clears `requires_grad` of every other adapter, so a critic that shares the base stops learning
in silence after the first reference pass (TRL 1.12's `null_ref_context` did the same). `Roles.use` puts back what it
found, whatever happens inside.

Shapes: b sequences of s tokens, h hidden units.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from kit.models.adapters import add_adapter, load_policy, score_head

# PEFT's name of each role's adapter; TRL's trainers look for the first two by these very names.
ADAPTERS = {"policy": "default", "reference": "ref", "reward": "reward", "critic": "critic"}


class Roles:
    """Adapters on one base, and the two scalar heads that belong to reward and critic."""

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self.reward_head: nn.Linear | None = None

    @property
    def value_head(self) -> nn.Linear:
        """The critic's head; a submodule of the model, so that its optimizer and checkpoints include it."""
        return self.model.get_submodule("value_head")  # type: ignore[return-value]

    @contextmanager
    def use(self, role: str) -> Iterator[PeftModel]:
        """Run the block under one role's adapter; the flags `requires_grad` and `training` are those found at entry.

        They hold inside the block too, and are put back after it, also when the block raises.
        """
        name = ADAPTERS.get(role, role)
        before = self.model.active_adapter
        gradients = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            self.model.set_adapter(name)
            _restore(gradients)
            yield self.model
        finally:
            self.model.set_adapter(before)
            _restore(gradients)
            for module, training in modes:
                module.training = training

    def add(self, role: str, folder: Path) -> None:
        """Lay a further frozen adapter on the base; a reward adapter brings its head."""
        add_adapter(self.model, ADAPTERS.get(role, role), folder)
        if role == "reward":
            self.reward_head = _head(score_head(folder), self.model).requires_grad_(False)

    def add_critic(self, reward_folder: Path) -> None:
        """The trainable critic: adapter and value head start as the reward's (Ouyang et al. 2022, appendix C.4)."""
        add_adapter(self.model, ADAPTERS["critic"], reward_folder)
        self.model.set_requires_grad(ADAPTERS["critic"], True)
        self.model.add_module("value_head", _head(score_head(reward_folder), self.model))

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states [b, s, h] under the role in use; no cache, no logits."""
        backbone = self.model.get_base_model().base_model
        return backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The reward of each sequence [b], in score units, read at its last real token.

        The same number as `AutoPeftModelForSequenceClassification` on the reward folder. input_ids and
        attention_mask are [b, s], padded on the right.
        """
        if self.reward_head is None:
            raise RuntimeError("no reward adapter was added")
        with torch.no_grad(), self.use("reward"):
            hidden = self.hidden(input_ids, attention_mask)
        last = attention_mask.sum(1) - 1
        final = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return self.reward_head(final.to(self.reward_head.weight.dtype)).squeeze(-1).float()

    def values(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The critic's value [b, s] after each token, in score units. Call it under `use("critic")`."""
        hidden = self.hidden(input_ids, attention_mask)
        return self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1).float()


def policy_roles(base: Any, sft: Path, reward: Path | None = None, trainable: bool = True) -> Roles:
    """The roles that PPO starts from: the SFT adapter as policy and, where given, the reward adapter and its critic."""
    roles = Roles(load_policy(base, sft, trainable))
    if reward is not None:
        roles.add("reward", reward)
        roles.add_critic(reward)
    return roles


def _head(weight: Tensor, model: PeftModel) -> nn.Linear:
    """A float32 head h -> 1 with these weights, on the model's device."""
    head = nn.Linear(weight.shape[1], 1, bias=False)
    head.weight.data.copy_(weight)
    return head.to(model.device)


def _restore(gradients: list[tuple[nn.Parameter, bool]]) -> None:
    for parameter, requires_grad in gradients:
        parameter.requires_grad_(requires_grad)
