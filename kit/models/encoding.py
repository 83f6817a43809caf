"""Text to tokens, in one place for every stage: a sequence is prompt ids + response ids, always.

SFT, reward, DPO, PPO and the comparison all see the same ids for the same text. The prompt is the chat template with
its generation prompt; the response is what the template writes after it, cut after the end-of-turn token. So the
prompt is a prefix by construction, EOS is learnt, no BOS stands twice, and the reward model reads its score where
PPO puts it (TRL issues #1702, #5338; a template that writes a newline after the end of turn moves TRL's score to it).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kit.config import DataSettings
from kit.data import catalogue
from kit.data.found import Stops
from kit.data.rows import Data, Message, Pair, Prompt, Split
from kit.errors import DataError
from kit.models.measured import Measured, require_lengths
from kit.models.tokenizer import end_of_turn_id, end_of_turn_ids, special_texts

IGNORE = -100  # label of a token the loss does not see


class Codec:
    """A tokenizer with its end-of-turn ids (`also`: those of the base's generation config); encodes text."""

    def __init__(self, tokenizer: Any, also: int | list[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.end_of_turn = end_of_turn_id(tokenizer)
        self.stops = frozenset(end_of_turn_ids(tokenizer, also))
        self.special = special_texts(tokenizer)

    def prompt(self, messages: list[Message]) -> list[int]:
        """Ids of the conversation so far, up to where the assistant's answer begins."""
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]

    def response(self, messages: list[Message], text: str) -> list[int]:
        """Ids of the answer, the end-of-turn token last."""
        before = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        turns = [*messages, {"role": "assistant", "content": text}]
        whole = self.tokenizer.apply_chat_template(turns, tokenize=False)
        tail = whole[len(before) :] if whole.startswith(before) else text
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        end = next((i for i, token in enumerate(ids) if token in self.stops), len(ids))
        return [*ids[:end], self.end_of_turn]

    def text(self, ids: list[int]) -> str:
        """The answer a person reads: special tokens left out, outer white space stripped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def holds_special(self, *texts: str) -> bool:
        """Whether a text holds a special token written out, which would start or end turns of its own."""
        return any(token in text for token in self.special for text in texts)


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
    nothing left, or where the chat template refuses a row (some know no system turn).
    """
    from jinja2 import TemplateError

    stops = stops or Stops()
    notes: list[str] = []
    measured: dict[str, Measured] = {}
    # Pairs, demonstrations and prompts share the lists of messages that `data` holds: each is encoded once.
    prompts: dict[int, tuple[int, EncodedPrompt | None]] = {}  # id of the messages -> tokens in whole, as it is used
    answers: dict[tuple[int, str], list[int]] = {}

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
            raise DataError(catalogue.NONE_LEFT.format(what=what, why=why, limit=settings.max_prompt_tokens))
        require_lengths(what, seen, settings, stops)
        return out

    def prompt(messages: list[Message], seen: Measured, where: str, *texts: str) -> EncodedPrompt | None:
        if codec.holds_special(*texts, *(m["content"] for m in messages)):
            seen.count(catalogue.SPECIAL_TOKEN, where)
            return None
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

    def responses(start: EncodedPrompt, seen: Measured, where: str, **texts: str) -> list[list[int]]:
        whole = {side: response(start, text) for side, text in texts.items()}
        for side, ids in whole.items():
            seen.response_tokens.setdefault(side, []).append(len(ids))
        if any(len(ids) > settings.max_response_tokens for ids in whole.values()):
            seen.count(catalogue.CUT.format(limit=settings.max_response_tokens), where)
        return [ids[: settings.max_response_tokens] for ids in whole.values()]

    def response(start: EncodedPrompt, text: str) -> list[int]:
        key = id(start.messages), text
        if key not in answers:
            answers[key] = codec.response(start.messages, text)
        return answers[key]

    def pair(row: Pair, seen: Measured) -> dict | None:
        start = prompt(row.prompt, seen, row.where, row.chosen, row.rejected)
        if start is None:
            return None
        chosen, rejected = responses(start, seen, row.where, chosen=row.chosen, rejected=row.rejected)
        if chosen == rejected:
            seen.count(catalogue.EQUAL_AS_USED, row.where)
            return None
        return {"prompt_ids": start.ids, "chosen_ids": chosen, "rejected_ids": rejected}

    def demonstration(row: Any, seen: Measured) -> dict | None:
        start = prompt(row.prompt, seen, row.where, row.response)
        if start is None:
            return None
        (ids,) = responses(start, seen, row.where, response=row.response)
        return {"input_ids": start.ids + ids, "labels": [IGNORE] * len(start.ids) + ids}

    def bare(row: Prompt, seen: Measured) -> EncodedPrompt | None:
        return prompt(row.messages, seen, row.where)

    pairs = encode(data.pairs, "pairs", pair)
    return Encoded(
        sft=encode(data.demonstrations, "demonstrations", demonstration),
        pairs=pairs,
        prompts=encode(data.prompts, "prompts", bare),
        judge=Split(encode(Split(list(data.judge), []), "the judge's pairs", pair).train, pairs.held_out),
        notes=notes,
        measured=measured,
    )


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
