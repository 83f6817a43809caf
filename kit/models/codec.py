"""A tokenizer and its chat template: conversations to tokens and back, and what is lost on the way."""

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from kit.data.rows import Message
from kit.errors import DataError, ModelError
from kit.models.rendering import renderer
from kit.models.tokenizer import end_of_turn_id, end_of_turn_ids, special_texts
from kit.models.written_out import WrittenOut


class Opened(NamedTuple):
    """A conversation up to where the assistant's answer begins."""

    messages: list[Message]  # special tokens that are written out in them are broken
    text: str
    ids: Sequence[int] | None  # None where the tokenizer cannot read a text as plain words


class Answer(NamedTuple):
    """An answer's ids, the end of turn last, and what the chat template did to it."""

    ids: list[int] | None  # None where the tokenizer cannot read the text as plain words
    rewritten: bool  # the template leaves out or rewrites words of it
    after_its_own_opening: bool  # the finished conversation begins like the prompt: what is learnt is what is asked


class Codec:
    """A tokenizer with its end-of-turn ids (`also`: those of the base's generation config); encodes text.

    A special token written out in a message or an answer is read as the plain words it is.
    Raises ModelError where the chat template writes BOS twice.
    """

    def __init__(self, tokenizer: Any, also: int | list[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.end_of_turn = end_of_turn_id(tokenizer)
        self.stops = frozenset(end_of_turn_ids(tokenizer, also))
        self.special = special_texts(tokenizer)
        self._written_out = WrittenOut(tokenizer, self.special)
        self._render = renderer(tokenizer)
        bos = tokenizer.bos_token_id
        if bos is not None and self.prompt([{"role": "user", "content": "a"}])[:2] == [bos, bos]:
            raise ModelError(
                f"the chat template writes {tokenizer.bos_token!r} (BOS) twice at the beginning, which no model has "
                "seen; correct chat_template in the base's tokenizer files"
            )

    @property
    def waits_for_rust(self) -> bool:
        """Whether tokenizing is Rust's work more than Python's, so that something else can be done meanwhile."""
        return not self._written_out.by_words

    def prompt(self, messages: list[Message]) -> list[int]:
        """Ids of the conversation so far, up to where the assistant's answer begins.

        Special tokens in a message are left out where they cannot be read as plain words; DataError where that does
        not help.
        """
        (start,) = self.open([messages])
        if start.ids is None:
            (start,) = self.open([[m | {"content": self._written_out.removed(m["content"])} for m in messages]])
        if start.ids is None:
            raise DataError("a text holds a special token of the tokenizer in a spelling of its own; remove it")
        return list(start.ids)

    def response(self, messages: list[Message], text: str) -> list[int] | None:
        """Ids of the answer, the end-of-turn token last; None where it cannot be read as plain words."""
        (start,) = self.open([messages])
        return self.answers([(start, text)])[0].ids

    def open(self, conversations: Sequence[list[Message]]) -> list[Opened]:
        """Many conversations up to where the assistant's answer begins."""
        broken = [[self._written_out.broken_message(message) for message in messages] for messages in conversations]
        texts = [self._render(messages, True) for messages in broken]
        return list(map(Opened, broken, texts, self._written_out.ids(texts)))

    def answers(self, asked: Sequence[tuple[Opened, str]]) -> list[Answer]:
        """Many answers, each as it follows its prompt, and what the chat template did to it.

        Where the template writes a finished conversation otherwise than it opens one, the text itself follows.
        """
        texts = [self._written_out.broken(text) for _, text in asked]
        tails, fits = [], []
        for (start, _), text in zip(asked, texts, strict=True):
            whole = self._render([*start.messages, {"role": "assistant", "content": text}], False)
            fits.append(whole.startswith(start.text))
            tails.append(whole[len(start.text) :] if fits[-1] else text)
        return [
            Answer(None if ids is None else self._ended(list(ids)), not holds(tail, text), fit)
            for ids, tail, text, fit in zip(self._written_out.ids(tails), tails, texts, fits, strict=True)
        ]

    def turns_lost(self, start: Opened) -> list[int]:
        """The places of the turns whose words are not all in what the template writes."""
        return [place for place, turn in enumerate(start.messages) if not holds(start.text, turn["content"])]

    def gives_back(self, ids: list[int], text: str) -> bool:
        """Whether the ids hold the text; white space and the ways to write one letter (Unicode) do not count."""
        read = self.tokenizer.decode(ids, skip_special_tokens=True)
        return holds(unicodedata.normalize("NFKC", read), unicodedata.normalize("NFKC", text))

    def text(self, ids: list[int]) -> str:
        """The answer a person reads: special tokens left out, outer white space stripped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def holds_special(self, *texts: str) -> bool:
        """Whether a text holds a special token written out, in full-width letters too (`WrittenOut.stands_in`)."""
        return any(map(self._written_out.stands_in, texts))

    def _ended(self, ids: list[int]) -> list[int]:
        """The ids up to the end of turn, which comes last."""
        end = min((ids.index(stop) for stop in self.stops if stop in ids), default=len(ids))
        return [*ids[:end], self.end_of_turn]


def holds(text: str, part: str) -> bool:
    """Whether a text holds the words of a part of it; white space, which templates trim, does not count."""
    return part in text or "".join(part.split()) in "".join(text.split())
