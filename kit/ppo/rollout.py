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


@dataclass(frozen=True)
class Rollout:
    """Responses with all that PPO needs of them. Tensors are [b, s] or [b, r]; log-probabilities are the old policy's.

    `predictor` [b, r] is the index in the row of the token before each response token: where its log-probability
    and the value before it are read. Nothing is inferred from token ids.
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

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        """Some of the rows, as a plain mapping for the trainer."""
        return {f.name: getattr(self, f.name)[index] for f in fields(self)}


def lay_out(prompts: list[list[int]], responses: list[list[int]], pad: int, device: Any) -> dict[str, Tensor]:
    """input_ids [b, s], attention_mask [b, s], mask [b, r] and predictor [b, r] of prompt and response ids."""
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
    tensors = {"input_ids": input_ids, "attention_mask": attention_mask, "mask": mask, "predictor": predictor}
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def response_labels(input_ids: Tensor, predictor: Tensor, mask: Tensor) -> Tensor:
    """Labels [b, s] that hold the response's tokens and -100 elsewhere."""
    labels = torch.full_like(input_ids, -100)
    positions = (predictor + 1)[mask.bool()]
    rows = torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(predictor)[mask.bool()]
    labels[rows, positions] = input_ids[rows, positions]
    return labels


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
