"""Four answers of a policy that was just trained: does it say something, and does it come to an end?

A loss looks healthy where the end of a turn is not learnt, or where the pad token ends every answer at once
(huggingface/transformers#48016: a benchmark fell from 76 % to 0 %, the loss was fine). Answers show it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import notices
from kit.config import Config
from kit.models.base import Base
from kit.models.encoding import Encoded, EncodedPrompt
from kit.models.generation import sample
from kit.models.roles import Roles
from kit.runs.files import write_text

PROMPTS = 4
_TOKENS = 64  # of an answer at most: seconds on a large model
_UNLIKELY = 0.01  # how rarely no answer ends by chance, for a warning to be due
_REPEATED = 4  # tokens from which an answer of one token only is no answer


def smoke_test(
    stage: str, config: Config, data: Encoded, base: Base, roles: Roles, out: Path
) -> tuple[dict[str, Any], str]:
    """(figures for the ledger, words for the stage's line) of four answers, which lie in `smoke.jsonl`.

    To held-out prompts where there are any, sampled at temperature 1. Training goes on as if this had not been: random
    state, weights and flags are left as they were. Warns where the answers are empty, one token over and over, or,
    though the demonstrations do, do not end.
    """
    prompts = (data.prompts.held_out or data.prompts.train)[:PROMPTS]
    tokens = min(config.data.max_response_tokens, _TOKENS)
    answers = sample(roles, "policy", [prompt.ids for prompt in prompts], tokens, 1.0, config.seed, PROMPTS)
    rows = [_row(prompt, ids, base) for prompt, ids in zip(prompts, answers, strict=True)]
    write_text(out / "smoke.jsonl", "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    ended, empty, repeated = (sum(row[name] for row in rows) for name in ("ended", "empty", "repeated"))
    for text in _weaknesses(rows, _share_that_ends(data.sft.train, base, tokens), tokens):
        notices.warn(f"{stage}: {text}; see {stage}/smoke.jsonl")
    figures = {"answers": len(rows), "ended": ended / len(rows), "empty": empty, "repeated": repeated}
    return {"smoke": figures | {"max_tokens": tokens}}, f"{ended} of {len(rows)} sampled answers end"


def _row(prompt: EncodedPrompt, ids: list[int], base: Base) -> dict[str, Any]:
    ended = ids[-1] in base.codec.stops
    said = ids[:-1] if ended else ids
    return {
        "prompt": prompt.messages,
        "response": base.codec.text(ids),
        "response_tokens": len(ids),
        "ended": ended,
        "empty": not base.codec.text(ids),
        "repeated": len(said) >= _REPEATED and len(set(said)) == 1,
    }


def _share_that_ends(demonstrations: Sequence[dict], base: Base, tokens: int) -> float:
    """The share of the demonstrations whose answer comes to its end within so many tokens."""
    lengths = [
        sum(label >= 0 for label in row["labels"]) if row["labels"][-1] in base.codec.stops else tokens + 1
        for row in demonstrations
    ]
    return sum(length <= tokens for length in lengths) / max(len(lengths), 1)


def _weaknesses(rows: Sequence[dict], share_that_ends: float, tokens: int) -> list[str]:
    """What a person should look at; one bad answer of four may be chance, half of them is not."""
    found = []
    if not any(row["ended"] for row in rows) and (1 - share_that_ends) ** len(rows) < _UNLIKELY:
        found.append(
            f"none of {len(rows)} sampled answers ends within {tokens} tokens, though {share_that_ends:.0%} of the "
            "demonstrations do: the end of a turn is not learnt"
        )
    for name, what in (("empty", "empty"), ("repeated", "one token over and over")):
        count = sum(row[name] for row in rows)
        if 2 * count >= len(rows):
            found.append(f"{count} of {len(rows)} sampled answers are {what}: the policy is broken")
    return found
