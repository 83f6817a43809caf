"""Answers, and the exact distance between two policies on them.

Shapes: b sequences of s tokens, r response tokens, v vocabulary, h hidden units.
"""

import torch
from torch import Tensor

from kit.models.roles import Roles

_KL_CHUNK_TOKENS = 64  # positions whose full distributions are in memory at once


def sample(
    roles: Roles, role: str, prompts: list[list[int]], max_tokens: int, temperature: float, seed: int, batch_size: int
) -> list[list[int]]:
    """One response per prompt under a role's adapter, end-of-turn token included where it came.

    Pure softmax at this temperature, greedy at 0. The global random state is left as it was found.
    """
    model, pad = roles.model, roles.model.generation_config.pad_token_id
    stops = set(model.generation_config.eos_token_id)
    greedy = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    how = greedy if temperature == 0 else {"do_sample": True, "temperature": temperature}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    with roles.use(role), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model.eval()
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask = pad_rows([prompts[i] for i in rows], pad, left=True)
            ids, mask = ids.to(model.device), mask.to(model.device)
            out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, **how)
            for i, row in zip(rows, out[:, ids.shape[1] :].tolist(), strict=True):
                end = next((t for t, token in enumerate(row) if token in stops), len(row) - 1)
                answers[i] = row[: end + 1]
    return answers


def score(roles: Roles, prompts: list[list[int]], responses: list[list[int]], batch_size: int) -> list[float]:
    """The reward adapter's score of each response, in score units."""
    rows = [p + r for p, r in zip(prompts, responses, strict=True)]
    pad, device = roles.model.generation_config.pad_token_id, roles.model.device
    scores: list[float] = []
    for start in range(0, len(rows), batch_size):
        ids, mask = pad_rows(rows[start : start + batch_size], pad)
        scores += roles.scores(ids.to(device), mask.to(device)).tolist()
    return scores


def sequence_kl_nats(
    roles: Roles, role: str, reference: str, prompts: list[list[int]], responses: list[list[int]]
) -> list[float]:
    """KL(role || reference) of each response in nats: the exact sum over the vocabulary at each visited prefix,
    summed over the response's tokens. The full distributions exist for 64 positions at a time."""
    head = roles.model.get_output_embeddings()
    result = []
    with torch.no_grad():
        for prompt, response in zip(prompts, responses, strict=True):
            ids = torch.tensor([prompt + response], device=roles.model.device)
            states = []
            for name in (role, reference):
                with roles.use(name):
                    roles.model.eval()
                    states.append(roles.hidden(ids, torch.ones_like(ids))[0, len(prompt) - 1 : -1])
            total = 0.0
            for p, q in zip(states[0].split(_KL_CHUNK_TOKENS), states[1].split(_KL_CHUNK_TOKENS), strict=True):
                log_p, log_q = (torch.log_softmax(head(x).float(), -1) for x in (p, q))
                total += (log_p.exp() * (log_p - log_q)).sum().item()
            result.append(total)
    return result


def pad_rows(rows: list[list[int]], pad: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """(ids, attention mask), both [b, s]; the mask comes from the lengths, never from the ids."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row, dtype=torch.long), 1
    return ids, mask
