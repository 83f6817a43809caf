"""What data are made of: pairs, demonstrations and prompts, each row with its origin."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
T = TypeVar("T")
quoted = json.encoder.encode_basestring  # a text as JSON, its characters as they are


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt; people preferred `chosen`. `prompt` ends with a user turn."""

    prompt: list[Message]
    chosen: str
    rejected: str
    where: str  # "hh.jsonl:12", or "prefs.parquet row 12" where a file has no lines; both count from 1
    margin: float | None = None  # by how much people rated `chosen` higher, above 0; None where the data do not say


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A good answer to a prompt. `prompt` ends with a user turn."""

    prompt: list[Message]
    response: str
    where: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for an answer: it ends with a user turn."""

    messages: list[Message]
    where: str


@dataclass(frozen=True)
class Split(Generic[T]):
    """Rows to train on and rows held out of all training, each in the order of its source."""

    train: Sequence[T]
    held_out: Sequence[T]


Row = TypeVar("Row", Pair, Demonstration, Prompt)


def prompt_key(messages: Sequence[Message]) -> str:
    """The sha256 of a prompt, in hex: roles and words count, runs of whitespace do not. Splits go by it."""
    turns = [f"[{quoted(m['role'])}, {quoted(' '.join(m['content'].split()))}]" for m in messages]
    return hashlib.sha256(f"[{', '.join(turns)}]\n".encode()).hexdigest()


def messages_of(row: Pair | Demonstration | Prompt) -> list[Message]:
    """The prompt of any row."""
    return row.messages if isinstance(row, Prompt) else row.prompt


def answers_of(row: Pair | Demonstration | Prompt) -> tuple[str, ...]:
    """The answers of any row: chosen and rejected, the response, or none."""
    if isinstance(row, Pair):
        return row.chosen, row.rejected
    return (row.response,) if isinstance(row, Demonstration) else ()
