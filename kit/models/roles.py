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
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from kit.models.adapters import add_adapter, autocast_dtype, load_policy, score_head

# PEFT's name of each role's adapter; TRL's trainers look for the first two by these very names.
ADAPTERS = {"policy": "default", "reference": "ref", "reward": "reward", "critic": "critic"}


class Roles:
    """Adapters on one base, and the two scalar heads that belong to reward and critic."""

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self.reward_head: nn.Linear | None = None
        self._merged: str | None = None

    @property
    def value_head(self) -> nn.Linear:
        """The critic's head; a submodule of the model, so that its optimizer and checkpoints include it."""
        return self.model.get_submodule("value_head")  # type: ignore[return-value]

    @property
    def critic_is_shared(self) -> bool:
        """Whether the value head reads the policy's hidden states, and there is no critic adapter."""
        return ADAPTERS["critic"] not in self.model.peft_config

    @contextmanager
    def use(self, role: str) -> Iterator[PeftModel]:
        """Run the block under one role's adapter; the flags `requires_grad` and `training` are those found at entry.

        They hold inside the block too, and are put back after it, also when the block raises.
        """
        name = ADAPTERS.get(role, role)
        if self._merged not in (None, name):
            raise RuntimeError(f"role {role}: adapter {self._merged} is merged into the base at the moment")
        before = self.model.active_adapter
        gradients = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            if before != name:  # PEFT would unmerge a merged adapter to set it
                self.model.set_adapter(name)
                _restore(gradients)
            yield self.model
        finally:
            if before != name:
                self.model.set_adapter(before)
            _restore(gradients)
            for module, training in modes:
                module.training = training

    @contextmanager
    def bare(self) -> Iterator[PeftModel]:
        """Run the block on the base alone, without any adapter; the flags are put back as `use` does."""
        gradients = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            with self.model.disable_adapter():
                _restore(gradients)
                yield self.model
        finally:
            _restore(gradients)
            for module, training in modes:
                module.training = training

    @contextmanager
    def merged(self, role: str) -> Iterator[PeftModel]:
        """Like `use`, for passes without gradients: on a float32 base the adapter is added to the weights meanwhile.

        That spares each linear layer two small products and two sums. The base's own tensors are kept and put back, to
        the bit. A base of lower precision, where the sum would be rounded, and a quantised one stay as they are.
        """
        name = ADAPTERS.get(role, role)
        with self.use(role) as model:
            layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
            if not all(_can_merge(layer, name) for layer in layers):
                yield model
                return
            self._merged = name
            kept = [(layer, layer.get_base_layer().weight.data) for layer in layers if name in layer.lora_A]
            try:
                with torch.no_grad():
                    for layer, weight in kept:
                        layer.get_base_layer().weight.data = weight + layer.get_delta_weight(name)
                        layer.merged_adapters.append(name)  # PEFT then runs the base layer alone
                yield model
            finally:
                for layer, weight in kept:
                    layer.get_base_layer().weight.data = weight
                    layer.merged_adapters.clear()
                self._merged = None

    def autocast(self) -> torch.autocast:
        """For passes outside of a trainer: the arithmetic that trainers have, 16 bits on a GPU (`Precision`)."""
        dtype = autocast_dtype(self.model)
        return torch.autocast(self.model.device.type, dtype=dtype, enabled=dtype is not None)

    def add(self, role: str, folder: Path) -> None:
        """Lay a further frozen adapter on the base; a reward adapter brings its head."""
        add_adapter(self.model, ADAPTERS.get(role, role), folder)
        if role == "reward":
            self.reward_head = _head(score_head(folder), self.model).requires_grad_(False)

    @contextmanager
    def borrowed(self, role: str, folder: Path) -> Iterator[None]:
        """A further frozen adapter for the block, gone after it: many policies take turns on one base."""
        self.add(role, folder)
        try:
            yield
        finally:
            self.model.delete_adapter(ADAPTERS.get(role, role))

    def add_critic(self, reward_folder: Path) -> None:
        """The trainable critic: adapter and value head start as the reward's (Ouyang et al. 2022, appendix C.4)."""
        add_adapter(self.model, ADAPTERS["critic"], reward_folder, trainable=True)
        self.model.add_module("value_head", _head(score_head(reward_folder), self.model))

    def add_shared_critic(self) -> None:
        """A value head alone, of zeros, on the policy's hidden states: cheaper than an adapter of its own."""
        width = self.model.config.get_text_config().hidden_size
        self.model.add_module("value_head", _head(torch.zeros(1, width), self.model))

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
        with torch.no_grad(), self.use("reward") as model:
            without_dropout(model)
            hidden = self.hidden(input_ids, attention_mask)
        last = attention_mask.sum(1) - 1
        final = hidden[torch.arange(len(hidden), device=hidden.device), last]
        with torch.autocast(final.device.type, enabled=False):
            return self.reward_head(final.to(self.reward_head.weight.dtype)).squeeze(-1).float()

    def values(self, hidden: Tensor) -> Tensor:
        """The critic's value [...], in score units, of hidden states [..., h] (the policy's where it is shared)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1).float()


def policy_roles(
    base: Any, sft: Path, reward: Path | None = None, trainable: bool = True, critic: str = "adapter"
) -> Roles:
    """The roles that PPO starts from: the SFT adapter as policy and, where given, the reward adapter and a critic.

    `critic` is `adapter` (its own, started from the reward model) or `shared` (a value head on the policy).
    """
    roles = Roles(load_policy(base, sft, trainable))
    if reward is not None:
        roles.add("reward", reward)
        if critic == "shared":
            roles.add_shared_critic()
        else:
            roles.add_critic(reward)
    return roles


def without_dropout(model: nn.Module) -> None:
    """`model.eval()` for all but 4-bit layers.

    On a CPU with bfloat16 instructions bitsandbytes repacks the weights of a 4-bit layer in eval mode, and unpacks them
    to slightly other ones in training: log-probabilities moved by up to 0.07 nats, and the ratio was not 1.
    """
    for module in model.modules():
        module.training = isinstance(module, Linear4bit) and module.training


def _can_merge(layer: LoraLinear, name: str) -> bool:
    plain = type(layer.get_base_layer()) is nn.Linear and not layer.merged and name not in layer.lora_variant
    return plain and layer.get_base_layer().weight.dtype == torch.float32


def _head(weight: Tensor, model: PeftModel) -> nn.Linear:
    """A float32 head h -> 1 with these weights, on the model's device."""
    head = nn.Linear(weight.shape[1], 1, bias=False)
    head.weight.data.copy_(weight)
    return head.to(model.device)


def _restore(gradients: list[tuple[nn.Parameter, bool]]) -> None:
    for parameter, requires_grad in gradients:
        parameter.requires_grad_(requires_grad)
