"""The rows of a run, their texts on disk: what stays in memory is numbers, about a hundred bytes a pair.

Each text is known by its number, and so are prompts, rows and places. What is compared (duplicates, the prompts of two
sides, answers that won and lost) is compared by such numbers, of which equal texts have the same.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, overload

import numpy as np
from numpy.typing import NDArray

from kit.data.flaws import flaw_of
from kit.data.rows import Demonstration, Message, Pair, Prompt, Row, Split, answers_of, messages_of, prompt_key, quoted
from kit.data.spool import Spool

Numbers = NDArray[np.int32]
_ABSENT = -1  # in place of the number of an answer
_ANSWERS: dict[type, int] = {Pair: 2, Demonstration: 1, Prompt: 0}


class Kept:
    """All rows of a run, of all sources. A prompt's own answers follow it among the texts."""

    def __init__(self) -> None:
        self.texts = Spool()  # prompts and answers, as JSON
        self._digests = bytearray()  # of the texts: 16 bytes each
        self._starts = array("i")  # the text of each prompt
        self._keys = bytearray()  # of each prompt: its key, 32 bytes
        self._rows = array("i")  # of each row: its prompt, and the texts of chosen and rejected, or of the response
        self._margins = array("d")  # of each row; NaN where it has none
        self._places = Spool()  # of each row
        self.flaws: dict[int, str] = {}  # of the rows that teach nothing: why
        self._messages: list[Message] = []  # of the last prompt
        self._answers: dict[str, int] = {}  # to it

    def add(self, rows: Iterable[Row], kind: type[Row]) -> "Rows[Row]":
        """Keep rows of one kind, in their order. Neighbours that share their list of messages share their prompt."""
        first = len(self._margins)
        for row in rows:
            self._add(row)
        return Rows(self, kind, np.arange(first, len(self._margins), dtype=np.int32))

    def _add(self, row: Pair | Demonstration | Prompt) -> None:
        flaw = flaw_of(row)
        if flaw:
            self.flaws[len(self._margins)] = flaw
        messages = messages_of(row)
        if messages is not self._messages:
            self._messages, self._answers = messages, {}
            self._starts.append(len(self.texts))
            self._keys += bytes.fromhex(prompt_key(messages))
            self._add_text(messages_as_json(messages))
        numbers = []
        for text in answers_of(row):
            if text not in self._answers:
                self._answers[text] = self._add_text(quoted(text))
            numbers.append(self._answers[text])
        self._rows.extend((len(self._starts) - 1, *numbers, *[_ABSENT] * (2 - len(numbers))))
        margin = row.margin if isinstance(row, Pair) else None
        self._margins.append(np.nan if margin is None else margin)
        self._places.add(row.where.encode("utf-8", "surrogatepass"))

    def _add_text(self, text: str) -> int:
        encoded = text.encode()
        self._digests += blake2b(encoded, digest_size=16).digest()
        return self.texts.add(encoded)

    @property
    def prompts(self) -> int:
        """How many prompts there are; some may be equal."""
        return len(self._starts)

    def text_of(self, prompt: int) -> int:
        """The number of a prompt's text; those of its answers follow, up to the text of the next prompt."""
        return self._starts[prompt] if prompt < len(self._starts) else len(self.texts)

    def messages(self, prompt: int) -> list[Message]:
        """The conversation of a prompt."""
        turns = json.loads(self.texts[self._starts[prompt]].decode())
        return [{"role": turn["role"], "content": turn["content"]} for turn in turns]

    def text(self, number: int) -> str:
        """An answer, by the number of its text."""
        return json.loads(self.texts[number].decode())

    def numbers(self, row: int) -> tuple[int, int, int]:
        """A row's prompt, and the texts of its answers; -1 where it has none."""
        return tuple(self._rows[3 * row : 3 * row + 3])  # type: ignore[return-value]

    def margins(self) -> NDArray[np.float64]:
        """The margin of every row; NaN where it has none."""
        return np.array(self._margins)

    def margin(self, row: int) -> float | None:
        """By how much people rated a pair's chosen answer higher; None where the data do not say."""
        margin = self._margins[row]
        return None if margin != margin else margin

    def where(self, row: int) -> str:
        """Where a row stands in its source."""
        return self._places[row].decode("utf-8", "surrogatepass")

    def first_row_of(self, prompt: int) -> str:
        """Where the first row stands that has a prompt."""
        return self.where(int(np.argmax(self.table()[:, 0] == prompt)))

    def table(self) -> Numbers:
        """The numbers of all rows, as `numbers` gives them. Shape: [rows, 3]."""
        return np.array(self._rows, dtype=np.int32).reshape(-1, 3)

    def keys(self, prompts: Numbers) -> "Keys":
        """The `prompt_key` of each of these prompts."""
        return Keys(self._keys, prompts)

    def same_prompts(self) -> Numbers:
        """For each prompt the first one with its key: one number for all prompts that are one to the split."""
        return first_of(_digests(self._keys, 32))

    def same_texts(self) -> Numbers:
        """For each text the first one that is equal to it."""
        return first_of(_digests(self._digests, 16))

    def starts(self) -> Numbers:
        """The text of each prompt."""
        return np.array(self._starts, dtype=np.int32)


class Keys(Sequence[str]):
    """The keys of some prompts, each written out when it is asked for."""

    def __init__(self, joined: bytearray, prompts: Numbers) -> None:
        self._joined, self._prompts = joined, prompts

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: Any) -> Any:
        at = 32 * int(self._prompts[index])
        return self._joined[at : at + 32].hex()


class Rows(Sequence[Row], Generic[Row]):
    """Some of the kept rows, seen as rows of one kind, each made when it is asked for; reads like a list."""

    def __init__(self, kept: Kept, kind: type[Row], numbers: Numbers) -> None:
        self.kept, self.numbers = kept, numbers
        self.kind: type[Row] = kind

    def seen_as(self, kind: type[Any]) -> "Rows[Any]":
        """The same rows as another kind: pairs as demonstrations of the chosen side, or either as prompts."""
        return Rows(self.kept, kind, self.numbers)

    def picked(self, which: Any) -> "Rows[Row]":
        """The rows at some positions, or those that a mask marks."""
        which = np.asarray(which)
        return Rows(self.kept, self.kind, self.numbers[which if which.size else []])

    @property
    def answers(self) -> int:
        """How many answers a row has: 2, 1 or 0."""
        return _ANSWERS[self.kind]

    def table(self) -> Numbers:
        """The numbers of prompts and of the texts of answers. Shape: [rows, 1 + answers]."""
        return self.kept.table()[self.numbers, : 1 + self.answers]

    def texts(self) -> Numbers:
        """The numbers of all texts, the prompt's among them. Shape: [rows, 1 + answers]."""
        table = self.table()
        table[:, 0] = self.kept.starts()[table[:, 0]]
        return table

    def same_prompts(self) -> Numbers:
        """The first prompt of the key that each row's prompt has: what the split goes by."""
        return self.kept.same_prompts()[self.table()[:, 0]]

    def same_texts(self) -> Numbers:
        """The texts of each row, prompt and answers, by the first text that is equal. Shape: [rows, 1 + answers]."""
        return self.kept.same_texts()[self.texts()]

    def without_margin(self) -> int:
        """How many of the rows have no margin."""
        return int(np.isnan(self.kept.margins()[self.numbers]).sum())

    def where(self, index: int) -> str:
        """Where a row stands in its source."""
        return self.kept.where(int(self.numbers[index]))

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self._row(int(number)) for number in self.numbers[index]]
        return self._row(int(self.numbers[index]))

    def __iter__(self) -> Iterator[Row]:
        return (self._row(int(number)) for number in self.numbers)

    def _row(self, number: int) -> Any:
        kept = self.kept
        prompt, first, second = kept.numbers(number)
        messages, where = kept.messages(prompt), kept.where(number)
        if self.kind is Prompt:
            return Prompt(messages, where)
        if self.kind is Demonstration:
            return Demonstration(messages, kept.text(first), where)
        return Pair(messages, kept.text(first), kept.text(second), where, kept.margin(number))

    def lines(self) -> Iterator[bytes]:
        """What `json` writes of [messages, answers] and the margin, keys sorted: what a fingerprint is taken of."""
        kept, answers = self.kept, self.answers
        texts = kept.texts
        for number in map(int, self.numbers):
            prompt, *own = kept.numbers(number)[: 1 + answers]
            margin = kept.margin(number) if answers == 2 else None
            tail = b"" if margin is None else f", {margin!r}".encode()
            said = b", ".join(texts[text] for text in own)
            yield b"[%b, [%b]%b]\n" % (texts[kept.text_of(prompt)], said, tail)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class KeptSplit(Split[Row]):
    """Kept rows to train on, and kept rows held out of all training."""

    train: Rows[Row]
    held_out: Rows[Row]


def joined(parts: Sequence[Rows[Row]]) -> Rows[Row]:
    """The rows of all parts, one part after the other."""
    first = parts[0]
    return Rows(first.kept, first.kind, np.concatenate([part.numbers for part in parts]))


def messages_as_json(messages: Sequence[Message]) -> str:
    """What `json` writes of a conversation with sorted keys, put together here in a third of the time."""
    turns = [f'{{"content": {quoted(m["content"])}, "role": {quoted(m["role"])}}}' for m in messages]
    return f"[{', '.join(turns)}]"


def first_of(values: NDArray[Any]) -> Numbers:
    """For each value, or each row of a table, the place of the first one that is equal to it."""
    size = values.itemsize * int(np.prod(values.shape[1:]))
    whole = np.ascontiguousarray(values).view(np.dtype((np.void, size))).ravel()
    _, first, which = np.unique(whole, return_index=True, return_inverse=True)
    return first.astype(np.int32)[which]


def repeated(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each value, or each row of a table, stands before."""
    return first_of(values) != np.arange(len(values))


def _digests(joined: bytearray, size: int) -> NDArray[Any]:
    return np.frombuffer(bytes(joined), dtype=np.dtype((np.void, size)))
