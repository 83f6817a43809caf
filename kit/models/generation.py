"""Answers, and the exact distance between two policies on them.

Shapes: b sequences of s tokens, r response tokens, v vocabulary, h hidden units.
"""

import torch

from kit.models.decoding import pad_rows, sample_responses
from kit.models.roles import Roles, without_dropout

_KL_CHUNK_TOKENS = 64  # positions whose full distributions are in memory at once


def sample(
    roles: Roles, role: str, prompts: list[list[int]], max_tokens: int, temperature: float, seed: int, batch_size: int
) -> list[list[int]]:
    """One response per prompt under a role's adapter, end-of-turn token included where it came.

    Pure softmax at this temperature, greedy at 0. The global random state is left as it was found.
    """
    with roles.merged(role) as model, torch.random.fork_rng():
        torch.manual_seed(seed)
        without_dropout(model)
        return sample_responses(model, prompts, max_tokens, batch_size, temperature).ids


def score(roles: Roles, prompts: list[list[int]], responses: list[list[int]], batch_size: int) -> list[float]:
    """The reward adapter's score of each response, in score units."""
    rows = [p + r for p, r in zip(prompts, responses, strict=True)]
    pad, device = roles.model.generation_config.pad_token_id, roles.model.device
    scores: list[float] = []
    with roles.merged("reward"):
        for start in range(0, len(rows), batch_size):
            ids, mask = pad_rows(rows[start : start + batch_size], pad)
            scores += roles.scores(ids.to(device), mask.to(device)).tolist()
    return scores


def sequence_kl_nats(
    roles: Roles, role: str, reference: str, prompts: list[list[int]], responses: list[list[int]], batch_size: int
) -> list[float]:
    """KL(role || reference) of each response in nats: the exact sum over the vocabulary at each visited prefix,
    summed over the response's tokens. The full distributions exist for 64 positions at a time."""
    head, pad = roles.model.get_output_embeddings(), roles.model.generation_config.pad_token_id
    sums: list[float] = []
    for start in range(0, len(prompts), batch_size):
        part = list(zip(prompts[start : start + batch_size], responses[start : start + batch_size], strict=True))
        ids, mask = (x.to(roles.model.device) for x in pad_rows([p + r for p, r in part], pad))
        # The states that predict a response's tokens: from the prompt's last token to the response's last but one.
        owner = [row for row, (_, response) in enumerate(part) for _ in response]
        place = [len(prompt) - 1 + t for prompt, response in part for t in range(len(response))]
        states = []
        with torch.no_grad():
            for name in (role, reference):
                with roles.use(name):
                    without_dropout(roles.model)
                    states.append(roles.hidden(ids, mask)[owner, place])
            per_token = [
                (log_p.exp() * (log_p - log_q)).sum(-1)
                for chunk in zip(*(x.split(_KL_CHUNK_TOKENS) for x in states), strict=True)
                for log_p, log_q in [[torch.log_softmax(head(x).float(), -1) for x in chunk]]
            ]
        totals = torch.zeros(len(part), device=ids.device)
        totals.index_add_(0, torch.tensor(owner, device=ids.device), torch.cat(per_token))
        sums += totals.tolist()
    return sums
