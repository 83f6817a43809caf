"""Which prompts a rollout takes, and how it lies in memory: each row is prompt and response, padded on the right.

With no padding before a token, its position is its index: log-probabilities do not depend on the padding, for any
kind of position embedding (TRL #6800: left-padded forwards without position ids).

Shapes: b responses, s tokens of prompt + response, r tokens of the longest response.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

_OF_ROWS = ("input_ids", "attention_mask")  # [b, s]; the others are [b, r]


@dataclass(frozen=True)
class Rollout:
    """Responses with all that PPO needs of them; log-probabilities and values are the old policy's and critic's.

    input_ids and attention_mask are [b, s], all else [b, r]. `predictor` is the index in the row of the token before
    each response token: where its log-probability and the value before it are read. `index` [b] numbers the rows.
    Nothing is inferred from token ids.
    """

    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    predictor: Tensor
    logps: Tensor
    ref_logps: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    index: Tensor

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        """Some of the rows, as a plain mapping for the trainer, without the padding that none of them needs."""
        return trimmed({f.name: getattr(self, f.name)[index] for f in fields(self)})


def lay_out(prompts: list[list[int]], responses: list[list[int]], pad: int, device: Any) -> dict[str, Tensor]:
    """input_ids [b, s], attention_mask [b, s], mask [b, r], predictor [b, r] and index [b] of prompts and responses."""
    width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    longest = max(map(len, responses))
    input_ids = torch.full((len(prompts), width), pad)
    attention_mask = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    starts = torch.tensor([len(p) for p in prompts])
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        row = prompt + response
        input_ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        attention_mask[i, : len(row)] = 1
        mask[i, : len(response)] = 1
    predictor = (starts[:, None] - 1 + torch.arange(longest)).clamp(max=width - 2)
    tensors = {
        "input_ids": input_ids, "attention_mask": attention_mask, "mask": mask, "predictor": predictor,
        "index": torch.arange(len(prompts)),
    }  # fmt: skip
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def trimmed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with as many columns as its longest row and its longest response need."""
    s, r = int(batch["attention_mask"].sum(1).max()), int(batch["mask"].sum(1).max())
    cut = {n: t if t.dim() == 1 else t[:, : s if n in _OF_ROWS else r] for n, t in batch.items()}
    return cut | {"predictor": cut["predictor"].clamp(max=max(s - 2, 0))}


def response_places(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(row, column) of the token before each response token, both [n]; n runs over all responses, row by row."""
    on = batch["mask"].bool()
    rows = torch.arange(len(on), device=on.device)[:, None].expand_as(on)
    return rows[on], batch["predictor"][on]


def in_place(numbers: Tensor, mask: Tensor) -> Tensor:
    """Numbers [n], one a response token, laid out as [b, r]; 0 outside the mask. Keeps the gradient."""
    return torch.zeros(mask.shape, dtype=numbers.dtype, device=numbers.device).masked_scatter(mask.bool(), numbers)


class PromptOrder(Sampler[int]):
    """Indices of the prompts of all rollouts of a run, in one pass: shuffled again whenever all have been used.

    The trainer draws a rollout's batch once for each of its micro-batches, so each rollout's indices are repeated. The
    order depends on the seed alone: a resumed run skips to its place and finds the prompts it would have had. (TRL's
    RepeatSampler begins its first epoch's order anew, and leaves out the remainder of every epoch.)
    """

    def __init__(self, prompts: int, rollouts: int, rollout_size: int, repeats: int, seed: int) -> None:
        self.prompts, self.rollouts, self.rollout_size, self.repeats = prompts, rollouts, rollout_size, repeats
        self.seed = seed

    def __len__(self) -> int:
        return self.rollouts * self.rollout_size * self.repeats

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        waiting: list[int] = []
        for _ in range(self.rollouts):
            while len(waiting) < self.rollout_size:
                waiting += torch.randperm(self.prompts, generator=generator).tolist()
            rollout, waiting = waiting[: self.rollout_size], waiting[self.rollout_size :]
            for _ in range(self.repeats):
                yield from rollout
