"""Every text of the data that is used, read once: prompts that fit, and the answers to them, as token ids."""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

from kit.config import DataSettings
from kit.data import catalogue
from kit.data.kept import Kept, Rows
from kit.data.rows import Message
from kit.errors import DataError
from kit.models.codec import Answer, Codec, Opened
from kit.models.id_rows import Store

Given = TypeVar("Given")
Made = TypeVar("Made")

_AT_ONCE = 256  # prompts rendered and tokenized in one call
_THREADS = 2
UNREAD = -1  # in place of the tokens of a text that the tokenizer cannot read as plain words
REWRITTEN, OPENED_OTHERWISE, SPECIAL, FITS, LOST, LOST_SYSTEM, LOST_LAST = (1 << bit for bit in range(7))  # marks


class _Asked(NamedTuple):
    """A prompt, and the answers to it that are used, with the numbers of their texts."""

    prompt: int
    messages: list[Message]
    answers: list[str]
    numbers: list[int]


class _Read(NamedTuple):
    """What became of a text."""

    whole_tokens: int = UNREAD
    marks: int = 0
    ids: "array[int]" = array("i")  # that are used; none where it cannot be
    turns_left_out: int = 0


class Texts:
    """The used prompts and answers of kept rows as token ids, each once however many rows have it.

    A text has the number in the store that it has among the kept texts.
    """

    def __init__(self, kept: Kept, used: Iterable[Rows], codec: Codec, settings: DataSettings) -> None:
        self.store = Store()
        self._kept, self._codec = kept, codec
        self._prompt_tokens, self._response_tokens = settings.max_prompt_tokens, settings.max_response_tokens
        self._used = np.zeros(len(kept.texts), dtype=bool)
        for rows in used:
            self._used[rows.texts()] = True
        self.tokens = np.full(len(kept.texts), UNREAD, dtype=np.int32)  # of each text in whole
        self.marks = np.zeros(len(kept.texts), dtype=np.uint8)
        self._turns_left_out = np.zeros(kept.prompts, dtype=np.int32)  # the system's turn is none of them
        self._read()

    def messages(self, prompt: int) -> list[Message]:
        """A prompt as it is used: oldest turns perhaps left out."""
        messages, left_out = self._kept.messages(prompt), int(self._turns_left_out[prompt])
        return _shortened(messages, left_out) if left_out else messages

    def _read(self) -> None:
        """Read all that is used. Where tokenizing is Rust's work, another part is rendered by Python meanwhile.

        Raises DataError, with the place of the row, where the chat template refuses one.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            read_all = partial(_few_at_once, pool) if self._codec.waits_for_rust else map
            try:
                for found in read_all(self._read_part, self._parts()):
                    for asked, prompt, answers in found:
                        self._turns_left_out[asked.prompt] = prompt.turns_left_out
                        self._keep(self._kept.text_of(asked.prompt), prompt)
                        for number, answer in zip(asked.numbers, answers, strict=False):
                            self._keep(number, answer)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._skip(len(self._used))

    def _keep(self, number: int, read: _Read) -> None:
        self._skip(number)
        self.tokens[number], self.marks[number] = read.whole_tokens, read.marks
        self.store.add(read.ids)

    def _skip(self, number: int) -> None:
        """Keep nothing for the texts up to a number."""
        while len(self.store) < number:
            self.store.add(_Read().ids)

    def _parts(self) -> Iterator[list[_Asked]]:
        asked = self._asked()
        return iter(lambda: list(islice(asked, _AT_ONCE)), [])

    def _asked(self) -> Iterator[_Asked]:
        kept = self._kept
        for prompt in range(kept.prompts):
            start, end = kept.text_of(prompt), kept.text_of(prompt + 1)
            if self._used[start]:
                numbers = [number for number in range(start + 1, end) if self._used[number]]
                yield _Asked(prompt, kept.messages(prompt), [kept.text(number) for number in numbers], numbers)

    def _read_part(self, part: list[_Asked]) -> list[tuple[_Asked, _Read, list[_Read]]]:
        from jinja2 import TemplateError

        try:
            return self._read_at_once(part)
        except TemplateError as error:
            if len(part) == 1:
                where = self._kept.first_row_of(part[0].prompt)
                raise DataError(catalogue.TEMPLATE_REFUSES.format(where=where, why=error)) from None
            return [read for asked in part for read in self._read_part([asked])]  # to see which one it is

    def _read_at_once(self, part: list[_Asked]) -> list[tuple[_Asked, _Read, list[_Read]]]:
        whole = self._codec.open([asked.messages for asked in part])
        fitting = self._fitting(part, whole)
        answered = [
            (start, text)
            for asked, (_, start) in zip(part, fitting, strict=True)
            if start is not None
            for text in asked.answers
        ]
        answers = iter(self._codec.answers(answered))
        read = []
        for asked, start, (left_out, used) in zip(part, whole, fitting, strict=True):
            own = [self._used_answer(text, next(answers)) for text in asked.answers] if used is not None else []
            marks = SPECIAL * self._codec.holds_special(*(message["content"] for message in asked.messages))
            if start.ids is not None:
                marks |= self._lost(asked.messages, start)
            if used is None or used.ids is None:
                prompt = _Read(UNREAD if start.ids is None else len(start.ids), marks)
            else:
                prompt = _Read(len(start.ids or ()), marks | FITS, array("i", used.ids), left_out)
            read.append((asked, prompt, own))
        return read

    def _lost(self, messages: list[Message], start: Opened) -> int:
        """Marks of the turns that the template leaves out or rewrites."""
        lost = self._codec.turns_lost(start)
        if not lost:
            return 0
        system = messages[lost[0]]["role"] == "system"
        return LOST | LOST_SYSTEM * system | LOST_LAST * (lost[-1] == len(messages) - 1)

    def _fitting(self, part: list[_Asked], whole: list[Opened]) -> list[tuple[int, Opened | None]]:
        """For each prompt how many of its oldest turns have to be left out so that it fits, and what is left.

        None where the last turn alone is too long, or where it cannot be read.
        """
        found: list[tuple[int, Opened | None]] = [(0, None)] * len(part)
        left = dict(enumerate(whole))
        turns = 0
        while left:
            shorter: dict[int, list[Message]] = {}
            for place, start in left.items():
                if start.ids is None:
                    continue
                if len(start.ids) <= self._prompt_tokens:
                    found[place] = (turns, start)
                elif sum(message["role"] != "system" for message in part[place].messages) > turns + 2:
                    shorter[place] = _shortened(part[place].messages, turns + 2)
            turns += 2
            opened = self._codec.open(list(shorter.values()))
            left = dict(zip(shorter, opened, strict=True))
        return found

    def _used_answer(self, text: str, answer: Answer) -> _Read:
        if answer.ids is None:
            return _Read()
        marks = REWRITTEN * answer.rewritten | OPENED_OTHERWISE * (not answer.after_its_own_opening)
        marks |= SPECIAL * self._codec.holds_special(text)
        return _Read(len(answer.ids), marks, array("i", answer.ids[: self._response_tokens]))


def _shortened(messages: list[Message], turns: int) -> list[Message]:
    """The messages without so many of the oldest turns; the system's stays."""
    said = [message for message in messages if message["role"] != "system"]
    return [*(message for message in messages if message["role"] == "system"), *said[turns:]]


def _few_at_once(
    pool: ThreadPoolExecutor, function: Callable[[Given], Made], values: Iterable[Given]
) -> Iterator[Made]:
    """The pool's `map`, but that it takes no more of the values than are worked on."""
    waiting: deque[Future[Made]] = deque()
    for value in values:
        waiting.append(pool.submit(function, value))
        if len(waiting) > _THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
