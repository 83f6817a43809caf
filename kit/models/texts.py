"""Every distinct text of the data, read once: prompts that fit, and the answers to them, as token ids."""

from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from kit.config import DataSettings
from kit.data import catalogue
from kit.data.rows import Demonstration, Message, Pair, Prompt, answers_of, messages_of
from kit.errors import DataError
from kit.models.codec import Answer, Codec, Opened
from kit.models.id_rows import Glance, Store

_AT_ONCE = 256  # prompts rendered and tokenized in one call
_NONE = -1  # in place of a sequence's number
_REWRITTEN, _OPENED_OTHERWISE, _SPECIAL = 1, 2, 4  # marks of an answer


@dataclass(slots=True)
class ReadPrompt:
    """A prompt as it is used, its number in the store, and those of the answers to it."""

    messages: list[Message]  # oldest turns perhaps left out
    where: str  # the first row that asks it
    answers: dict[str, int]
    number: int = _NONE
    whole_tokens: int | None = None  # with all its turns; None where the tokenizer cannot read it as plain words
    lost: tuple[str, ...] = ()  # roles of the turns that the template leaves out or rewrites
    last_lost: bool = False
    special: bool = False  # a special token is written out in it

    @property
    def fits(self) -> bool:
        """Whether it is used at all: the last turn alone is not too long."""
        return self.number != _NONE


class _Read(NamedTuple):
    """What became of a prompt and its answers in one part of the data."""

    whole_tokens: int | None
    lost: list[int]
    special: bool
    messages: list[Message]
    ids: "array[int] | None"  # None where the last turn alone is too long, or nothing could be read
    answers: list[tuple["array[int]", int, int] | None]  # ids that are used, tokens in whole, marks


class Texts:
    """The prompts and answers of all rows that were taken, once each however many rows hold them."""

    def __init__(self, codec: Codec, settings: DataSettings) -> None:
        self.store = Store()
        self._codec = codec
        self._prompt_tokens, self._response_tokens = settings.max_prompt_tokens, settings.max_response_tokens
        self._prompts: list[ReadPrompt] = []
        self._places: dict[int, int] = {}  # id of a list of messages -> its place; the data outlive this
        self._whole_tokens = array("i")  # of each sequence of the store
        self._marks = bytearray()

    def take(self, row: Pair | Demonstration | Prompt) -> None:
        """Remember the texts of a row."""
        messages = messages_of(row)
        place = self._places.setdefault(id(messages), len(self._prompts))
        if place == len(self._prompts):
            self._prompts.append(ReadPrompt(messages, row.where, {}))
        answers = self._prompts[place].answers
        for text in answers_of(row):
            answers.setdefault(text, _NONE)

    def read(self) -> None:
        """Read all that was taken. Where tokenizing is Rust's work, another part is rendered by Python meanwhile.

        Raises DataError, with the place of the row, where the chat template refuses one.
        """
        parts = [self._prompts[at : at + _AT_ONCE] for at in range(0, len(self._prompts), _AT_ONCE)]
        with ThreadPoolExecutor(2) as pool:
            try:
                read_all = (pool.map if self._codec.waits_for_rust else map)(self._read_part, parts)
                for part, found in zip(parts, read_all, strict=True):
                    for prompt, read in zip(part, found, strict=True):
                        self._keep(prompt, read)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def place(self, row: Pair | Demonstration | Prompt) -> int:
        """The place of a row's prompt."""
        return self._places[id(messages_of(row))]

    def prompt(self, place: int) -> ReadPrompt:
        """The prompt at a place."""
        return self._prompts[place]

    def prompt_ids(self, place: int) -> list[int]:
        """The ids of the prompt at a place."""
        return self.store[self._prompts[place].number]

    def look(self, place: int, *answers: int) -> Glance:
        """A look at the ids of the prompt at a place, and at those of answers to it."""
        return Glance(self.store.look(self._prompts[place].number), tuple(map(self.store.look, answers)))

    def whole_tokens(self, answer: int) -> int:
        """The tokens of an answer before it was cut."""
        return self._whole_tokens[answer]

    def rewritten(self, answer: int) -> bool:
        """Whether the template leaves out or rewrites words of an answer."""
        return bool(self._marks[answer] & _REWRITTEN)

    def opened_otherwise(self, answer: int) -> bool:
        """Whether the template opens an answer otherwise than it writes it."""
        return bool(self._marks[answer] & _OPENED_OTHERWISE)

    def holds_special(self, answer: int) -> bool:
        """Whether a special token is written out in an answer."""
        return bool(self._marks[answer] & _SPECIAL)

    def _keep(self, prompt: ReadPrompt, read: _Read) -> None:
        prompt.whole_tokens, prompt.special = read.whole_tokens, read.special
        if read.lost:
            prompt.lost = tuple(prompt.messages[place]["role"] for place in read.lost)
            prompt.last_lost = read.lost[-1] == len(prompt.messages) - 1
        prompt.messages = read.messages
        if read.ids is None:
            return
        prompt.number = self._add(read.ids, len(read.ids), 0)
        for text, answer in zip(prompt.answers, read.answers, strict=True):
            if answer is not None:
                prompt.answers[text] = self._add(*answer)

    def _add(self, ids: "array[int]", whole_tokens: int, marks: int) -> int:
        self._whole_tokens.append(whole_tokens)
        self._marks.append(marks)
        return self.store.add(ids)

    def _read_part(self, part: list[ReadPrompt]) -> list[_Read]:
        from jinja2 import TemplateError

        try:
            return self._read_at_once(part)
        except TemplateError as error:
            if len(part) == 1:
                raise DataError(catalogue.TEMPLATE_REFUSES.format(where=part[0].where, why=error)) from None
            return [read for prompt in part for read in self._read_part([prompt])]  # to see which one it is

    def _read_at_once(self, part: list[ReadPrompt]) -> list[_Read]:
        whole = self._codec.open([prompt.messages for prompt in part])
        fitting = self._fitting([(prompt.messages, start) for prompt, start in zip(part, whole, strict=True)])
        asked = [
            (start, text)
            for prompt, (_, start) in zip(part, fitting, strict=True)
            if start is not None
            for text in prompt.answers
        ]
        answers = iter(self._codec.answers(asked))
        read = []
        for prompt, start, (messages, used) in zip(part, whole, fitting, strict=True):
            own = [self._used(text, next(answers)) for text in prompt.answers] if used is not None else []
            special = self._codec.holds_special(*(message["content"] for message in prompt.messages))
            tokens, lost = (None, []) if start.ids is None else (len(start.ids), self._codec.turns_lost(start))
            ids = None if used is None or used.ids is None else array("i", used.ids)
            read.append(_Read(tokens, lost, special, messages, ids, own))
        return read

    def _fitting(self, prompts: list[tuple[list[Message], Opened]]) -> list[tuple[list[Message], Opened | None]]:
        """Each prompt with as few of its oldest turns left out as fits; None where the last turn alone is too long, or
        where it cannot be read."""
        found: list[tuple[list[Message], Opened | None]] = [*prompts]
        left = dict(enumerate(prompts))
        while left:
            shorter: dict[int, list[Message]] = {}
            for place, (messages, start) in left.items():
                found[place] = (messages, start)
                if start.ids is None:
                    found[place] = (messages, None)
                elif len(start.ids) > self._prompt_tokens:
                    turns = [m for m in messages if m["role"] != "system"][2:]
                    found[place] = (messages, None)
                    if turns:
                        shorter[place] = [*(m for m in messages if m["role"] == "system"), *turns]
            opened = self._codec.open(list(shorter.values()))
            left = {place: (shorter[place], start) for place, start in zip(shorter, opened, strict=True)}
        return found

    def _used(self, text: str, answer: Answer) -> tuple["array[int]", int, int] | None:
        if answer.ids is None:
            return None
        marks = _REWRITTEN * answer.rewritten | _OPENED_OTHERWISE * (not answer.after_its_own_opening)
        marks |= _SPECIAL * self._codec.holds_special(text)
        return array("i", answer.ids[: self._response_tokens]), len(answer.ids), marks
