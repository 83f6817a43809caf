"""Answers, and the exact distance between two policies on them.

Shapes: b sequences of s tokens, t response tokens, v vocabulary, h hidden units.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kit.models.decoding import pad_rows, sample_responses
from kit.models.out_of_memory import AtOnce
from kit.models.plan.memory import rows_at_once
from kit.models.roles import Roles, without_dropout

_SETTING = "compare.batch_size"
_KL_CHUNK_TOKENS = 64  # positions whose full distributions are in memory at once


def sample(
    roles: Roles, role: str | None, prompts: list[list[int]], max_tokens: int, temperature: float, seed: int,
    batch_size: int, setting: str = _SETTING, told: Callable[[int], None] | None = None,
) -> list[list[int]]:  # fmt: skip
    """One response per prompt under a role's adapter (None: the base alone), end-of-turn token included where it came.

    Pure softmax at this temperature, greedy at 0. The global random state is left as it was found. `setting` is the
    name of `batch_size` in a message; `told` hears how many responses there are, batch by batch.
    """
    laid = roles.bare() if role is None else roles.merged(role)
    with laid as model, roles.autocast(), torch.random.fork_rng():
        torch.manual_seed(seed)
        without_dropout(model)
        return AtOnce(batch_size, setting).run(
            lambda rows: sample_responses(model, prompts, max_tokens, rows, temperature, told=told).ids
        )


def score(
    roles: Roles, prompts: list[list[int]], responses: list[list[int]], batch_size: int, setting: str = _SETTING
) -> list[float]:
    """The reward adapter's score of each response, in score units.

    At most `batch_size` at once, fewer where they are long; `setting` is its name in a message.
    """
    rows = [p + r for p, r in zip(prompts, responses, strict=True)]
    pad, device = roles.model.generation_config.pad_token_id, roles.model.device

    def scores(size: int) -> list[float]:
        found: list[float] = []
        for start in range(0, len(rows), size):
            ids, mask = pad_rows(rows[start : start + size], pad)
            found += roles.scores(ids.to(device), mask.to(device)).tolist()
        return found

    with roles.merged("reward"), roles.autocast():
        return AtOnce(rows_at_once(batch_size, _longest(rows)), setting).run(scores)


@dataclass(frozen=True)
class Distance:
    """One response: the sequence's KL from the reference in nats, and the role's mean entropy in nats per token."""

    kl_nats: float
    entropy_nats: float


def distances(
    roles: Roles, role: str, reference: str, prompts: list[list[int]], responses: list[list[int]], batch_size: int
) -> list[Distance]:
    """KL(role || reference) and the role's entropy on each response, exact over the vocabulary at each visited prefix.

    The KL is summed over the response's tokens, the entropy averaged; a response holds at least one token. The full
    distributions (pure softmax) exist for 64 positions at a time. A role that is its own reference is 0 away from it.
    """
    rows = list(zip(prompts, responses, strict=True))

    def all_of_them(size: int) -> list[Distance]:
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [distance for part in parts for distance in _distances(roles, role, reference, part)]

    longest = _longest([prompt + response for prompt, response in rows])
    with torch.no_grad(), roles.autocast():
        return AtOnce(rows_at_once(batch_size, longest), _SETTING).run(all_of_them)


def _distances(roles: Roles, role: str, reference: str, part: list[tuple[list[int], list[int]]]) -> list[Distance]:
    """The distances of a few responses."""
    head, pad = roles.model.get_output_embeddings(), roles.model.generation_config.pad_token_id
    ids, mask = (x.to(roles.model.device) for x in pad_rows([p + r for p, r in part], pad))
    # The states that predict a response's tokens: from the prompt's last token to the response's last but one.
    owner = [row for row, (_, response) in enumerate(part) for _ in response]
    place = [len(prompt) - 1 + t for prompt, response in part for t in range(len(response))]
    states = []
    for name in [role] if role == reference else [role, reference]:
        with roles.use(name):
            without_dropout(roles.model)
            states.append(roles.hidden(ids, mask)[owner, place])
    per_token = torch.cat(
        [
            _kl_and_entropy(*(torch.log_softmax(head(x).float(), -1) for x in chunk))
            for chunk in zip(*(x.split(_KL_CHUNK_TOKENS) for x in states), strict=True)
        ]
    )
    totals = torch.zeros(len(part), 2, device=ids.device)
    totals.index_add_(0, torch.tensor(owner, device=ids.device), per_token)
    return [
        Distance(kl, entropy / len(response))
        for (kl, entropy), (_, response) in zip(totals.tolist(), part, strict=True)
    ]


def _longest(rows: list[list[int]]) -> int:
    return max(map(len, rows), default=1)


def _kl_and_entropy(log_p: Tensor, log_q: Tensor | None = None) -> Tensor:
    """[t, 2] in nats: KL(p || q), 0 without a q, and the entropy of p. The log-probabilities are [t, v]."""
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)
    kl = torch.zeros_like(entropy) if log_q is None else (p * (log_p - log_q)).sum(-1)
    return torch.stack([kl, entropy], -1)
