"""Log-probabilities and entropies of sampled tokens, read off hidden states; the logits exist a tile at a time.

Shapes: n response tokens, h hidden units, v vocabulary.

On Triton devices TRL's kernel does it. Elsewhere that kernel would project every tile twice, once more in the backward
pass; here the gradient with respect to the hidden state is taken in the forward pass, while the tile is there: it is
the upstream gradient, one number a token, times a vector that does not depend on it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import is_triton_available
from trl.kernels import ChunkedLogProbFunction

_TILE_BYTES = 16 * 2**20  # the fastest of 4 to 64 MiB on two CPU cores: a tile stays near the cache
_TRL_TILE_COLUMNS = 32_768  # TRL's own choice


@dataclass(frozen=True)
class Head:
    """The language-model head and what its architecture does to the logits before the softmax."""

    weight: Tensor  # [v, h]
    bias: Tensor | None
    temperature: float
    scale: float
    softcap: float | None

    @classmethod
    def of(cls, model: Any, temperature: float) -> "Head":
        """The head of a causal model. The names of the scales are those that TRL's fused head looks for."""
        config = model.config.get_text_config()
        names = ("logit_scale", "output_multiplier", "lm_head_multiplier")
        scale = next((x for name in names if (x := getattr(config, name, None)) is not None), None)
        divisor = getattr(config, "logits_scaling", None)
        if scale is None and divisor is not None:
            scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
        linear = model.get_output_embeddings()
        softcap = getattr(config, "final_logit_softcapping", None)
        return cls(linear.weight, linear.bias, temperature, 1.0 if scale is None else scale, softcap)

    def logps(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probabilities [n] of the labels, entropies [n] without gradient), in nats, at the temperature.

        hidden is [n, h], labels [n]. Only hidden gets a gradient: the head is frozen.
        """
        hidden = hidden.to(self.weight.device)
        if _on_triton(hidden.device):
            logps, entropy, *_ = ChunkedLogProbFunction.apply(
                hidden, self.weight, self.bias, labels, self.temperature, _TRL_TILE_COLUMNS, self.softcap, self.scale,
                ("entropy",),
            )  # fmt: skip
            return logps, entropy.detach()
        logps, entropy = _LogProbs.apply(hidden, labels, self)
        return logps, entropy


def _on_triton(device: torch.device) -> bool:
    """Whether TRL's function would run as a kernel; elsewhere it computes the same with torch, and slower than ours."""
    return is_triton_available() and device.type in ("cuda", "xpu")


class _LogProbs(torch.autograd.Function):
    """Head.logps in tiles of rows, its gradient made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """For z = transform(W h): log p_y = z_y - log Z, and d log p_y / dh = (onehot_y - p) transform'(W h) W."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
        weight = head.weight.to(dtype)
        wanted = ctx.needs_input_grad[0]
        logps, entropy = hidden.new_empty(len(labels), dtype=torch.float32), hidden.new_empty(len(labels)).float()
        slope = torch.empty_like(hidden) if wanted else None
        rows = max(1, _TILE_BYTES // (4 * len(weight)))
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            label = labels[part, None]
            z = (hidden[part].to(dtype) @ weight.T).float()
            if head.bias is not None:
                z += head.bias
            if head.scale != 1:
                z *= head.scale
            bend = None
            if head.softcap is not None:
                z = torch.tanh(z / head.softcap)
                bend = 1 - z.square() if wanted else None
                z *= head.softcap
            if head.temperature != 1:
                z /= head.temperature
            z -= z.amax(-1, keepdim=True)
            target = z.gather(1, label)
            e = z.exp()
            total = e.sum(-1, keepdim=True)
            logps[part] = (target - total.log())[:, 0]
            entropy[part] = (total.log() - torch.linalg.vecdot(e, z)[:, None] / total)[:, 0]
            if slope is not None:  # (onehot - e / total) W, the sum over the vocabulary first: few passes over the tile
                at_label = weight[labels[part]]
                if bend is not None:
                    e *= bend
                    at_label = at_label * bend.gather(1, label).to(dtype)
                if dtype == torch.float16:  # the sum over a large vocabulary would pass 65,504
                    e, total = e / total.sqrt(), total.sqrt()
                rise = at_label.float() - (e.to(dtype) @ weight).float() / total
                slope[part] = (rise * (head.scale / head.temperature)).to(slope.dtype)
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """The upstream gradient of each token, times the vector kept for it."""
        (slope,) = ctx.saved_tensors
        return (gradient[:, None] * slope).to(slope.dtype), None, None
