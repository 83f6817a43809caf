"""Text to tokens, in one place for every stage: a sequence is prompt ids + response ids, always.

SFT, reward, DPO, PPO and the comparison all see the same ids for the same text. The prompt is the chat template with
its generation prompt; the response is what the template writes after it, cut after the end-of-turn token. So the
prompt is a prefix by construction, EOS is learnt, no BOS stands twice, and the reward model reads its score where
PPO puts it (TRL issues #1702, #5338; a template that writes a newline after the end of turn moves TRL's score to it).
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from kit import notices
from kit.config import DataSettings
from kit.data import catalogue
from kit.data.cycles import search_of_new
from kit.data.found import Stops
from kit.data.rows import Data, Demonstration, Message, Pair, Prompt, Split, answers_of
from kit.errors import DataError
from kit.models.codec import Codec
from kit.models.id_rows import Glance, Rows
from kit.models.measured import Measured, require_lengths
from kit.models.texts import Texts

IGNORE = -100  # label of a token the loss does not see
_READ_BACK = 256  # answers of each kind that are decoded again, to see whether their tokens hold their text
_MANY_LOST = 0.5  # share of those


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt that fits: its messages (oldest turns perhaps left out) and their ids."""

    messages: list[Message]
    ids: list[int]


@dataclass(frozen=True)
class Encoded:
    """All data as ids. Each part reads like a list of plain dicts that TRL's collators take as they are.

    sft: {input_ids, labels}; pairs: {prompt_ids, chosen_ids, rejected_ids}, the responses without the prompt, and
    margin where people rated both answers.
    """

    sft: Split[dict]
    pairs: Split[dict]
    prompts: Split[EncodedPrompt]
    notes: list[str]
    judge: Split[dict]  # its own training pairs; the held-out pairs are everyone's
    measured: dict[str, Measured] = field(default_factory=dict)  # of each list: lengths, and what was left out


@search_of_new()
def encode_data(data: Data, codec: Codec, settings: DataSettings, stops: Stops | None = None) -> Encoded:
    """Every row as ids within the configured lengths; what was shortened, cut or dropped is counted in the notes.

    Raises DataError where too much of the data is lost to the lengths (which `stops` may gather), where a part has
    nothing left, where the chat template refuses a row (some know no system turn), or where the tokens of most
    answers do not hold their text.
    """
    stops = stops or Stops()
    _read_back(data.pairs, "pairs", codec)
    _read_back(data.demonstrations, "demonstrations", codec)
    texts = Texts(codec, settings)
    judge: Split[Pair] = Split(list(data.judge), [])
    for part in (data.pairs, data.demonstrations, data.prompts, judge):
        for row in chain[Any](part.train, part.held_out):
            texts.take(row)
    texts.read()
    used = _Used(texts, settings)
    notes: list[str] = []
    measured: dict[str, Measured] = {}

    def look(place: int, *numbers: int) -> Glance:
        return texts.look(place, *numbers[:2])  # the third is that of a margin

    def encode(rows: Split, what: str, numbers_of: Callable[[Any, Measured], Any], make: Callable[..., Any]) -> Split:
        seen = measured[what] = Measured(len(rows.train) + len(rows.held_out))

        def kept(part: Sequence) -> Iterator[tuple[int, ...]]:
            for row in part:
                numbers = numbers_of(row, seen)
                if numbers is not None:
                    seen.kept.append(row.where)
                    yield numbers

        out: Split = Split(Rows(make, kept(rows.train), look), Rows(make, kept(rows.held_out), look))
        notes.extend(seen.notes(what))
        if rows.train and not out.train:
            why = "; ".join(f"{len(places):,} {reason}" for reason, places in seen.places.items())
            text = catalogue.NONE_LEFT.format(what=what, why=why, limit=settings.max_prompt_tokens)
            raise DataError(text + (catalogue.OTHER_TEMPLATE if "template" in why else ""))
        require_lengths(what, seen, settings, stops)
        return out

    store = texts.store

    def pair(place: int, chosen: int, rejected: int, margin: int) -> dict:
        ids = {"prompt_ids": texts.prompt_ids(place), "chosen_ids": store[chosen], "rejected_ids": store[rejected]}
        return ids if margin < 0 else ids | {"margin": used.margins[margin]}

    def sequence(place: int, answer: int) -> dict:
        start, ids = texts.prompt_ids(place), store[answer]
        return {"input_ids": start + ids, "labels": [IGNORE] * len(start) + ids}

    def bare(place: int) -> EncodedPrompt:
        return EncodedPrompt(texts.prompt(place).messages, texts.prompt_ids(place))

    pairs = encode(data.pairs, "pairs", used.pair, pair)
    return Encoded(
        sft=encode(data.demonstrations, "demonstrations", used.demonstration, sequence),
        pairs=pairs,
        prompts=encode(data.prompts, "prompts", used.sampled, bare),
        judge=Split(encode(judge, "the judge's pairs", used.pair, pair).train, pairs.held_out),
        notes=notes,
        measured=measured,
    )


class _Used:
    """Which rows are used, each as the numbers of its texts, and what was done to them."""

    def __init__(self, texts: Texts, settings: DataSettings) -> None:
        self._texts = texts
        self.margins = array("d")
        self._prompt_tokens, self._response_tokens = settings.max_prompt_tokens, settings.max_response_tokens

    def pair(self, row: Pair, seen: Measured) -> tuple[int, int, int, int] | None:
        """The numbers of a pair, the place of its margin last; -1 where it has none."""
        answers = self._answers(row, ("chosen", "rejected"), seen)
        if answers is None:
            return None
        chosen, rejected = answers
        if self._texts.store[chosen] == self._texts.store[rejected]:
            seen.count(catalogue.EQUAL_AS_USED, row.where)
            return None
        if row.margin is None:
            return self._texts.place(row), chosen, rejected, -1
        self.margins.append(row.margin)
        return self._texts.place(row), chosen, rejected, len(self.margins) - 1

    def demonstration(self, row: Demonstration, seen: Measured) -> tuple[int, int] | None:
        """The numbers of a demonstration."""
        answers = self._answers(row, ("response",), seen)
        return None if answers is None else (self._texts.place(row), answers[0])

    def sampled(self, row: Prompt, seen: Measured) -> tuple[int] | None:
        """The place of a prompt to sample from. Trainers read its messages themselves, special tokens and all."""
        if self._texts.prompt(self._texts.place(row)).special:
            seen.count(catalogue.SPECIAL_TOKEN_SAMPLED, row.where)
            return None
        return (self._texts.place(row),) if self._prompt_is_used(row, seen) else None

    def _prompt_is_used(self, row: Pair | Demonstration | Prompt, seen: Measured) -> bool:
        prompt = self._texts.prompt(self._texts.place(row))
        if prompt.whole_tokens is None:
            seen.count(catalogue.SPECIAL_TOKEN, row.where)
            return False
        if prompt.last_lost:
            seen.count(catalogue.LAST_TURN_REWRITTEN, row.where)
            return False
        if prompt.lost:
            whose = "the system's turn" if prompt.lost[0] == "system" else "an earlier turn"
            seen.count(catalogue.TURN_REWRITTEN.format(whose=whose), row.where)
        seen.prompt_tokens.append(prompt.whole_tokens)
        if prompt.whole_tokens > self._prompt_tokens:
            reason = catalogue.SHORTENED if prompt.fits else catalogue.LAST_TURN_TOO_LONG
            seen.count(reason.format(limit=self._prompt_tokens), row.where)
        return prompt.fits

    def _answers(self, row: Pair | Demonstration, sides: tuple[str, ...], seen: Measured) -> list[int] | None:
        """The numbers of a row's answers, where it can be used."""
        texts, where = self._texts, row.where
        if not self._prompt_is_used(row, seen):
            return None
        known = texts.prompt(texts.place(row)).answers
        numbers = [known[text] for text in answers_of(row)]
        if any(number < 0 for number in numbers):
            seen.count(catalogue.SPECIAL_TOKEN, where)
            return None
        if any(map(texts.rewritten, numbers)):
            seen.count(catalogue.ANSWER_REWRITTEN, where)
            return None
        tokens = [texts.whole_tokens(number) for number in numbers]
        if 1 in tokens:
            seen.count(catalogue.NOTHING_LEFT_OF_ANSWER, where)
            return None
        if any(map(texts.opened_otherwise, numbers)):
            seen.count(catalogue.OPENED_OTHERWISE, where)
        for side, count in zip(sides, tokens, strict=True):
            seen.response_tokens.setdefault(side, []).append(count)
        if max(tokens) > self._response_tokens:
            seen.count(catalogue.CUT.format(limit=self._response_tokens), where)
        if texts.prompt(texts.place(row)).special or any(map(texts.holds_special, numbers)):
            seen.count(catalogue.SPECIAL_TOKEN_AS_WORDS, where)
        return numbers


def _read_back(rows: Split, what: str, codec: Codec) -> None:
    """Whether the first answers' tokens hold their text: a tokenizer may know no letter of a language."""

    def ids_of(text: str) -> list[int]:
        return codec.tokenizer(text, add_special_tokens=False)["input_ids"]

    answers = [(row, text) for row in rows.train[:_READ_BACK] for text in answers_of(row)]
    lost = [
        (row, text)
        for row, text in answers
        if not codec.holds_special(text) and not codec.gives_back(ids_of(text), text)
    ]
    if not lost:
        return
    row, text = lost[0]
    read = codec.text(ids_of(text))
    found = catalogue.NOT_GIVEN_BACK.format(
        what=what, count=len(lost), all=len(answers), where=row.where, text=repr(text[:60]), read=repr(read[:60])
    )
    if len(lost) > _MANY_LOST * len(answers):
        raise DataError(found + catalogue.OTHER_TOKENIZER)
    notices.warn(found)
