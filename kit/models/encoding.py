"""Text to tokens, in one place for every stage: a sequence is prompt ids + response ids, always.

SFT, reward, DPO, PPO and the comparison all see the same ids for the same text. The prompt is the chat template with
its generation prompt; the response is what the template writes after it, cut after the end-of-turn token. So the
prompt is a prefix by construction, EOS is learnt, no BOS stands twice, and the reward model reads its score where
PPO puts it (TRL issues #1702, #5338; a template that writes a newline after the end of turn moves TRL's score to it).
"""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kit import notices
from kit.config import DataSettings
from kit.data import catalogue
from kit.data.found import Stops
from kit.data.rows import Data, Message, Pair, Prompt, Split, answers_of
from kit.errors import DataError, ModelError
from kit.models.measured import Measured, require_lengths
from kit.models.tokenizer import end_of_turn_id, end_of_turn_ids, special_texts

IGNORE = -100  # label of a token the loss does not see
_READ_BACK = 256  # answers of each kind that are decoded again, to see whether their tokens hold their text
_MANY_LOST = 0.5  # share of those


@dataclass(frozen=True)
class Answer:
    """An answer's ids, the end of turn last, and what the chat template did to it."""

    ids: list[int]
    rewritten: bool  # the template leaves out or rewrites words of it
    after_its_own_opening: bool  # the finished conversation begins like the prompt: what is learnt is what is asked


class Codec:
    """A tokenizer with its end-of-turn ids (`also`: those of the base's generation config); encodes text.

    Raises ModelError where the chat template writes BOS twice.
    """

    def __init__(self, tokenizer: Any, also: int | list[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.end_of_turn = end_of_turn_id(tokenizer)
        self.stops = frozenset(end_of_turn_ids(tokenizer, also))
        self.special = special_texts(tokenizer)
        bos = tokenizer.bos_token_id
        if bos is not None and self.prompt([{"role": "user", "content": "a"}])[:2] == [bos, bos]:
            raise ModelError(
                f"the chat template writes {tokenizer.bos_token!r} (BOS) twice at the beginning, which no model has "
                "seen; correct chat_template in the base's tokenizer files"
            )

    def opening(self, messages: list[Message]) -> str:
        """The conversation so far as the template writes it, up to where the assistant's answer begins."""
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def prompt(self, messages: list[Message]) -> list[int]:
        """Ids of the conversation so far, up to where the assistant's answer begins."""
        return self.tokenizer(self.opening(messages), add_special_tokens=False)["input_ids"]

    def response(self, messages: list[Message], text: str) -> list[int]:
        """Ids of the answer, the end-of-turn token last."""
        return self.answer(messages, text).ids

    def answer(self, messages: list[Message], text: str) -> Answer:
        """The answer as it follows the prompt, and what the chat template did to it.

        Where the template writes a finished conversation otherwise than it opens one, the text itself follows.
        """
        before = self.opening(messages)
        turns = [*messages, {"role": "assistant", "content": text}]
        whole = self.tokenizer.apply_chat_template(turns, tokenize=False)
        fits = whole.startswith(before)
        tail = whole[len(before) :] if fits else text
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        end = next((i for i, token in enumerate(ids) if token in self.stops), len(ids))
        return Answer([*ids[:end], self.end_of_turn], _words(text) not in _words(tail), fits)

    def turns_lost(self, messages: list[Message]) -> list[Message]:
        """The turns whose words are not all in what the template writes."""
        written = _words(self.opening(messages))
        return [message for message in messages if _words(message["content"]) not in written]

    def gives_back(self, ids: list[int], text: str) -> bool:
        """Whether the ids hold the text; white space and the ways to write one letter (Unicode) do not count."""
        read = self.tokenizer.decode(ids, skip_special_tokens=True)
        return _words(unicodedata.normalize("NFKC", text)) in _words(unicodedata.normalize("NFKC", read))

    def text(self, ids: list[int]) -> str:
        """The answer a person reads: special tokens left out, outer white space stripped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def holds_special(self, *texts: str) -> bool:
        """Whether a text holds a special token written out, which would start or end turns of its own.

        In full-width letters too, which a tokenizer that normalises (NFKC) would read as the plain ones.
        """
        forms = {form for text in texts for form in (text, unicodedata.normalize("NFKC", text))}
        return any(token in form for token in self.special for form in forms)


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt that fits: its messages (oldest turns perhaps left out) and their ids."""

    messages: list[Message]
    ids: list[int]


@dataclass(frozen=True)
class Encoded:
    """All data as ids. Each list holds plain dicts that TRL's collators take as they are.

    sft: {input_ids, labels}; pairs: {prompt_ids, chosen_ids, rejected_ids}, the responses without the prompt.
    """

    sft: Split[dict]
    pairs: Split[dict]
    prompts: Split[EncodedPrompt]
    notes: list[str]
    judge: Split[dict]  # its own training pairs; the held-out pairs are everyone's
    measured: dict[str, Measured] = field(default_factory=dict)  # of each list: lengths, and what was left out


def encode_data(data: Data, codec: Codec, settings: DataSettings, stops: Stops | None = None) -> Encoded:
    """Every row as ids within the configured lengths; what was shortened, cut or dropped is counted in the notes.

    Raises DataError where too much of the data is lost to the lengths (which `stops` may gather), where a part has
    nothing left, where the chat template refuses a row (some know no system turn), or where the tokens of most
    answers do not hold their text.
    """
    from jinja2 import TemplateError

    stops = stops or Stops()
    notes: list[str] = []
    measured: dict[str, Measured] = {}
    # Pairs, demonstrations and prompts share the lists of messages that `data` holds: each is encoded once.
    prompts: dict[int, tuple[int, EncodedPrompt | None]] = {}  # id of the messages -> tokens in whole, as it is used
    answers: dict[tuple[int, str], Answer] = {}
    lost_turns: dict[int, list[Message]] = {}

    def encode(rows: Split, what: str, one: Callable[[Any, Measured], Any]) -> Split:
        seen = measured[what] = Measured(len(rows.train) + len(rows.held_out))

        def kept(part: list) -> Iterator[Any]:
            for row in part:
                try:
                    ids = one(row, seen)
                except TemplateError as error:
                    raise DataError(catalogue.TEMPLATE_REFUSES.format(where=row.where, why=error)) from None
                if ids is not None:
                    seen.kept.append(row.where)
                    yield ids

        out = Split(list(kept(rows.train)), list(kept(rows.held_out)))
        notes.extend(seen.notes(what))
        if rows.train and not out.train:
            why = "; ".join(f"{len(places):,} {reason}" for reason, places in seen.places.items())
            text = catalogue.NONE_LEFT.format(what=what, why=why, limit=settings.max_prompt_tokens)
            raise DataError(text + (catalogue.OTHER_TEMPLATE if "template" in why else ""))
        require_lengths(what, seen, settings, stops)
        return out

    def read_back(rows: Split, what: str) -> None:
        """Whether the first answers' tokens hold their text: a tokenizer may know no letter of a language."""
        answers = [(row, text) for row in rows.train[:_READ_BACK] for text in answers_of(row)]
        lost = [
            (row, text)
            for row, text in answers
            if not codec.holds_special(text)
            and not codec.gives_back(codec.tokenizer(text, add_special_tokens=False)["input_ids"], text)
        ]
        if not lost:
            return
        row, text = lost[0]
        read = codec.text(codec.tokenizer(text, add_special_tokens=False)["input_ids"])
        found = catalogue.NOT_GIVEN_BACK.format(
            what=what, count=len(lost), all=len(answers), where=row.where, text=repr(text[:60]), read=repr(read[:60])
        )
        if len(lost) > _MANY_LOST * len(answers):
            raise DataError(found + catalogue.OTHER_TOKENIZER)
        notices.warn(found)

    def prompt(messages: list[Message], seen: Measured, where: str, *texts: str) -> EncodedPrompt | None:
        if codec.holds_special(*texts, *(m["content"] for m in messages)):
            seen.count(catalogue.SPECIAL_TOKEN, where)
            return None
        if id(messages) not in lost_turns:
            lost_turns[id(messages)] = codec.turns_lost(messages)
        lost = lost_turns[id(messages)]
        if lost and lost[-1] is messages[-1]:
            seen.count(catalogue.LAST_TURN_REWRITTEN, where)
            return None
        if lost:
            seen.count(catalogue.TURN_REWRITTEN.format(whose=_whose(lost)), where)
        if id(messages) not in prompts:
            ids = codec.prompt(messages)
            fits = len(ids) <= settings.max_prompt_tokens
            start = EncodedPrompt(messages, ids) if fits else _shortened(messages, codec, settings.max_prompt_tokens)
            prompts[id(messages)] = len(ids), start
        whole_tokens, fitting = prompts[id(messages)]
        seen.prompt_tokens.append(whole_tokens)
        if whole_tokens <= settings.max_prompt_tokens:
            return fitting
        reason = catalogue.LAST_TURN_TOO_LONG if fitting is None else catalogue.SHORTENED
        seen.count(reason.format(limit=settings.max_prompt_tokens), where)
        return fitting

    def responses(start: EncodedPrompt, seen: Measured, where: str, **texts: str) -> list[list[int]] | None:
        written = {side: answer(start, text) for side, text in texts.items()}
        whole = {side: answer.ids for side, answer in written.items()}
        for reason, found in (
            (catalogue.ANSWER_REWRITTEN, any(answer.rewritten for answer in written.values())),
            (catalogue.NOTHING_LEFT_OF_ANSWER, any(len(ids) == 1 for ids in whole.values())),
        ):
            if found:
                seen.count(reason, where)
                return None
        if not all(answer.after_its_own_opening for answer in written.values()):
            seen.count(catalogue.OPENED_OTHERWISE, where)
        for side, ids in whole.items():
            seen.response_tokens.setdefault(side, []).append(len(ids))
        if any(len(ids) > settings.max_response_tokens for ids in whole.values()):
            seen.count(catalogue.CUT.format(limit=settings.max_response_tokens), where)
        return [ids[: settings.max_response_tokens] for ids in whole.values()]

    def answer(start: EncodedPrompt, text: str) -> Answer:
        key = id(start.messages), text
        if key not in answers:
            answers[key] = codec.answer(start.messages, text)
        return answers[key]

    def pair(row: Pair, seen: Measured) -> dict | None:
        start = prompt(row.prompt, seen, row.where, row.chosen, row.rejected)
        if start is None:
            return None
        both = responses(start, seen, row.where, chosen=row.chosen, rejected=row.rejected)
        if both is None:
            return None
        chosen, rejected = both
        if chosen == rejected:
            seen.count(catalogue.EQUAL_AS_USED, row.where)
            return None
        return {"prompt_ids": start.ids, "chosen_ids": chosen, "rejected_ids": rejected}

    def demonstration(row: Any, seen: Measured) -> dict | None:
        start = prompt(row.prompt, seen, row.where, row.response)
        if start is None:
            return None
        one = responses(start, seen, row.where, response=row.response)
        if one is None:
            return None
        (ids,) = one
        return {"input_ids": start.ids + ids, "labels": [IGNORE] * len(start.ids) + ids}

    def bare(row: Prompt, seen: Measured) -> EncodedPrompt | None:
        return prompt(row.messages, seen, row.where)

    read_back(data.pairs, "pairs")
    read_back(data.demonstrations, "demonstrations")
    pairs = encode(data.pairs, "pairs", pair)
    return Encoded(
        sft=encode(data.demonstrations, "demonstrations", demonstration),
        pairs=pairs,
        prompts=encode(data.prompts, "prompts", bare),
        judge=Split(encode(Split(list(data.judge), []), "the judge's pairs", pair).train, pairs.held_out),
        notes=notes,
        measured=measured,
    )


def _whose(lost: list[Message]) -> str:
    return "the system's turn" if lost[0]["role"] == "system" else "an earlier turn"


def _words(text: str) -> str:
    """A text without its white space, which templates trim and tokenizers merge."""
    return "".join(text.split())


def _shortened(messages: list[Message], codec: Codec, max_tokens: int) -> EncodedPrompt | None:
    """The prompt with as few of its oldest turns left out as fits, or None where the last turn alone is too long."""
    system = [m for m in messages if m["role"] == "system"]
    turns = [m for m in messages if m["role"] != "system"][2:]
    while turns:
        ids = codec.prompt([*system, *turns])
        if len(ids) <= max_tokens:
            return EncodedPrompt([*system, *turns], ids)
        turns = turns[2:]
    return None
