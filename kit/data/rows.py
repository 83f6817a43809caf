"""What the data layer hands on: pairs, demonstrations and prompts, split by prompt, each row with its origin."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Generic, TypeVar

from kit.data.found import SourceFound

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
T = TypeVar("T")
_quoted = json.encoder.encode_basestring  # a text as JSON, its characters as they are


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


@dataclass(frozen=True)
class Data:
    """All data of a run. No prompt of any held_out list stands in any train list."""

    pairs: Split[Pair]
    demonstrations: Split[Demonstration]
    prompts: Split[Prompt]
    notes: list[str]  # what a person wants to know about the data, one fact a line
    sources: tuple[SourceFound, ...] = ()  # what each of them held; no part of the data
    judge: tuple[Pair, ...] = ()  # pairs for a judge alone: no prompt of them stands in any train or held_out list
    keys: dict[int, str] = field(default_factory=dict, compare=False, repr=False)  # `prompt_keys` of these very rows

    @cached_property
    def fingerprint(self) -> str:
        """The sha256, in hex, over all rows and their sides; origins (`where`) do not count."""
        judge = [Split(self.judge, ())] if self.judge else []
        return fingerprint_of(self.pairs, self.demonstrations, self.prompts, *judge)


Row = TypeVar("Row", Pair, Demonstration, Prompt)


def prompt_key(messages: Sequence[Message]) -> str:
    """The sha256 of a prompt, in hex: roles and words count, runs of whitespace do not. Splits go by it."""
    turns = [f"[{_quoted(m['role'])}, {_quoted(' '.join(m['content'].split()))}]" for m in messages]
    return _sha256([f"[{', '.join(turns)}]"])


def prompt_keys(rows: Iterable["Pair | Demonstration | Prompt"], known: dict[int, str] | None = None) -> list[str]:
    """The key of each row's prompt. Pairs of one ranking share their prompt, whose key is taken once.

    `known` carries keys from call to call, by the id of the list of messages, while the rows live.
    """
    keys = {} if known is None else known
    found = []
    for messages in map(messages_of, rows):
        if id(messages) not in keys:
            keys[id(messages)] = prompt_key(messages)
        found.append(keys[id(messages)])
    return found


def messages_of(row: Pair | Demonstration | Prompt) -> list[Message]:
    """The prompt of any row."""
    return row.messages if isinstance(row, Prompt) else row.prompt


def answers_of(row: Pair | Demonstration | Prompt) -> tuple[str, ...]:
    """The answers of any row: chosen and rejected, the response, or none."""
    if isinstance(row, Pair):
        return row.chosen, row.rejected
    return (row.response,) if isinstance(row, Demonstration) else ()


def fingerprint_of(*splits: Split) -> str:
    """The sha256, in hex, over all rows of the splits, their order and their sides; the same in every process."""
    return _sha256(
        _as_json(row) if row is not None else "null"  # ends a side
        for split in splits
        for side in (split.train, split.held_out)
        for row in chain(side, [None])
    )


def _as_json(row: Pair | Demonstration | Prompt) -> str:
    """What `json` writes of [messages, answers] with sorted keys, put together here in a third of the time."""
    turns = [f'{{"content": {_quoted(m["content"])}, "role": {_quoted(m["role"])}}}' for m in messages_of(row)]
    margin = f", {row.margin!r}" if isinstance(row, Pair) and row.margin is not None else ""
    return f"[[{', '.join(turns)}], [{', '.join(map(_quoted, answers_of(row)))}]{margin}]"


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
