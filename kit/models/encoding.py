"""Text to tokens, in one place for every stage: a sequence is prompt ids + response ids, always.

SFT, reward, DPO, PPO and the comparison all see the same ids for the same text. The prompt is the chat template with
its generation prompt; the response is what the template writes after it, cut after the end-of-turn token. So the
prompt is a prefix by construction, EOS is learnt, no BOS stands twice, and the reward model reads its score where
PPO puts it (TRL issues #1702, #5338; a template that writes a newline after the end of turn moves TRL's score to it).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kit.config import DataSettings
from kit.data.rows import Data, Message, Pair, Prompt, Split
from kit.errors import DataError
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


def encode_data(data: Data, codec: Codec, settings: DataSettings) -> Encoded:
    """Every row as ids within the configured lengths; what was shortened, cut or dropped is counted in the notes.

    Raises DataError where a part of the data has nothing left, or where the chat template refuses a row (some know no
    system turn).
    """
    from jinja2 import TemplateError

    notes: list[str] = []

    def encode(rows: Split, what: str, one: Callable[[Any, Counter], Any]) -> Split:
        counts: Counter = Counter()

        def kept(part: list) -> Iterator[Any]:
            for row in part:
                try:
                    ids = one(row, counts)
                except TemplateError as error:
                    raise DataError(f"{row.where}: the model's chat template refuses this row: {error}") from None
                if ids is not None:
                    yield ids

        out = Split(list(kept(rows.train)), list(kept(rows.held_out)))
        total = len(rows.train) + len(rows.held_out)
        notes.extend(f"{what}: {n:,} of {total:,} {reason}" for reason, n in sorted(counts.items()))
        if rows.train and not out.train:
            why = "; ".join(f"{n:,} {reason}" for reason, n in counts.items())
            raise DataError(
                f"no {what} left to train on ({why}). Raise data.max_prompt_tokens (now {settings.max_prompt_tokens})"
            )
        return out

    def prompt(messages: list[Message], counts: Counter, *texts: str) -> EncodedPrompt | None:
        if codec.holds_special(*texts, *(m["content"] for m in messages)):
            counts["dropped: the text holds a special token of the tokenizer"] += 1
            return None
        fitting = _fit(messages, codec, settings.max_prompt_tokens)
        if fitting is None:
            counts[f"dropped: the last turn alone is over {settings.max_prompt_tokens} tokens"] += 1
        elif len(fitting.messages) < len(messages):
            counts[f"shortened: oldest turns left out to fit {settings.max_prompt_tokens} tokens"] += 1
        return fitting

    def responses(start: EncodedPrompt, counts: Counter, *texts: str) -> list[list[int]]:
        whole = [codec.response(start.messages, text) for text in texts]
        if any(len(ids) > settings.max_response_tokens for ids in whole):
            counts[f"cut: a response is over {settings.max_response_tokens} tokens, its end is not learnt"] += 1
        return [ids[: settings.max_response_tokens] for ids in whole]

    def pair(row: Pair, counts: Counter) -> dict | None:
        start = prompt(row.prompt, counts, row.chosen, row.rejected)
        if start is None:
            return None
        chosen, rejected = responses(start, counts, row.chosen, row.rejected)
        if chosen == rejected:
            counts["dropped: chosen equals rejected as far as they are used"] += 1
            return None
        return {"prompt_ids": start.ids, "chosen_ids": chosen, "rejected_ids": rejected}

    def demonstration(row: Any, counts: Counter) -> dict | None:
        start = prompt(row.prompt, counts, row.response)
        if start is None:
            return None
        (ids,) = responses(start, counts, row.response)
        return {"input_ids": start.ids + ids, "labels": [IGNORE] * len(start.ids) + ids}

    def bare(row: Prompt, counts: Counter) -> EncodedPrompt | None:
        return prompt(row.messages, counts)

    pairs = encode(data.pairs, "pairs", pair)
    return Encoded(
        sft=encode(data.demonstrations, "demonstrations", demonstration),
        pairs=pairs,
        prompts=encode(data.prompts, "prompts", bare),
        judge=Split(encode(Split(list(data.judge), []), "the judge's pairs", pair).train, pairs.held_out),
        notes=notes,
    )


def _fit(messages: list[Message], codec: Codec, max_tokens: int) -> EncodedPrompt | None:
    """The prompt with as few of its oldest turns left out as fits, or None where the last turn alone is too long."""
    system = [m for m in messages if m["role"] == "system"]
    turns = [m for m in messages if m["role"] != "system"]
    while turns:
        ids = codec.prompt([*system, *turns])
        if len(ids) <= max_tokens:
            return EncodedPrompt([*system, *turns], ids)
        turns = turns[2:]
    return None
