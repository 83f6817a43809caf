"""Text to tokens, in one place for every stage: a sequence is prompt ids + response ids, always.

SFT, reward, DPO, PPO and the comparison all see the same ids for the same text. The prompt is the chat template with
its generation prompt; the response is what the template writes after it, cut after the end-of-turn token. So the
prompt is a prefix by construction, EOS is learnt, no BOS stands twice, and the reward model reads its score where
PPO puts it (TRL issues #1702, #5338; a template that writes a newline after the end of turn moves TRL's score to it).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit import notices
from kit.config import DataSettings
from kit.data import catalogue
from kit.data.cycles import search_of_new
from kit.data.data import Data
from kit.data.found import Stops
from kit.data.kept import KeptSplit, Numbers, joined
from kit.data.kept import Rows as KeptRows
from kit.data.rows import Message, Prompt, Split, answers_of
from kit.errors import DataError
from kit.models.codec import Codec
from kit.models.id_rows import Rows, Store
from kit.models.measured import Measured, require_lengths
from kit.models.texts import (
    FITS,
    LOST,
    LOST_LAST,
    LOST_SYSTEM,
    OPENED_OTHERWISE,
    REWRITTEN,
    SPECIAL,
    UNREAD,
    Texts,
)

Mask = NDArray[np.bool_]

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
    splits: list[KeptSplit] = [data.pairs, data.demonstrations, data.prompts]
    kept = data.pairs.train.kept
    texts = Texts(
        kept, [data.judge, *(side for split in splits for side in (split.train, split.held_out))], codec, settings
    )
    notes: list[str] = []
    measured: dict[str, Measured] = {}
    store = texts.store

    def encode(rows: KeptSplit, what: str, make: Callable[..., Any]) -> Split:
        seen = measured[what] = _measured(joined([rows.train, rows.held_out]), texts, settings)
        notes.extend(seen.notes(what))
        numbers = np.column_stack([seen.rows.texts(), seen.rows.numbers])[seen.encoded]
        train = int(np.searchsorted(seen.encoded, len(rows.train)))
        if rows.train and not train:
            why = "; ".join(f"{len(places):,} {reason}" for reason, places in seen.places.items())
            text = catalogue.NONE_LEFT.format(what=what, why=why, limit=settings.max_prompt_tokens)
            raise DataError(text + (catalogue.OTHER_TEMPLATE if "template" in why else ""))
        require_lengths(what, seen, settings, stops)
        return Split(Rows(make, numbers[:train], store), Rows(make, numbers[train:], store))

    def pair(prompt: int, chosen: int, rejected: int, row: int) -> dict:
        ids = {"prompt_ids": store[prompt], "chosen_ids": store[chosen], "rejected_ids": store[rejected]}
        margin = kept.margin(row)
        return ids if margin is None else ids | {"margin": margin}

    def sequence(prompt: int, answer: int, _row: int) -> dict:
        start, ids = store[prompt], store[answer]
        return {"input_ids": start + ids, "labels": [IGNORE] * len(start) + ids}

    def bare(prompt: int, row: int) -> EncodedPrompt:
        return EncodedPrompt(texts.messages(kept.numbers(row)[0]), store[prompt])

    pairs = encode(data.pairs, "pairs", pair)
    return Encoded(
        sft=encode(data.demonstrations, "demonstrations", sequence),
        pairs=pairs,
        prompts=encode(data.prompts, "prompts", bare),
        judge=Split(
            encode(KeptSplit(data.judge, data.judge.picked([])), "the judge's pairs", pair).train, pairs.held_out
        ),
        notes=notes,
        measured=measured,
    )


def _measured(rows: KeptRows, texts: Texts, settings: DataSettings) -> Measured:
    """Which rows are used, how long their texts are, and what was done to them."""
    numbers = rows.texts()
    prompts, answers = numbers[:, 0], numbers[:, 1:]
    tokens, marks = texts.tokens[prompts], texts.marks[prompts]
    used = np.ones(len(rows), dtype=bool)
    found: dict[str, Mask] = {}

    def told(reason: str, those: Any) -> None:
        """Note the reason of those rows that are still used."""
        found[reason] = found.get(reason, np.zeros(len(rows), dtype=bool)) | (those & used)

    def lost(reason: str, those: Any) -> None:
        told(reason, those)
        used[those] = False

    if rows.kind is Prompt:  # trainers read its messages themselves, special tokens and all
        lost(catalogue.SPECIAL_TOKEN_SAMPLED, marks & SPECIAL > 0)
    lost(catalogue.SPECIAL_TOKEN, tokens == UNREAD)
    lost(catalogue.LAST_TURN_REWRITTEN, marks & LOST_LAST > 0)
    whose = ((0, "an earlier turn"), (LOST_SYSTEM, "the system's turn"))
    for mark, turn in whose:
        told(catalogue.TURN_REWRITTEN.format(whose=turn), marks & (LOST | LOST_SYSTEM) == LOST | mark)
    seen = Measured(rows, prompt_tokens=tokens[used])
    limit = settings.max_prompt_tokens
    fits = marks & FITS > 0
    told(catalogue.SHORTENED.format(limit=limit), fits & (tokens > limit))
    lost(catalogue.LAST_TURN_TOO_LONG.format(limit=limit), ~fits)
    if rows.answers:
        limit = settings.max_response_tokens
        tokens, marks = texts.tokens[answers], texts.marks[answers]
        lost(catalogue.SPECIAL_TOKEN, (tokens == UNREAD).any(axis=1))
        lost(catalogue.ANSWER_REWRITTEN, (marks & REWRITTEN > 0).any(axis=1))
        lost(catalogue.NOTHING_LEFT_OF_ANSWER, (tokens == 1).any(axis=1))
        told(catalogue.OPENED_OTHERWISE, (marks & OPENED_OTHERWISE > 0).any(axis=1))
        sides = ("chosen", "rejected") if rows.answers == 2 else ("response",)
        seen.response_tokens = {side: tokens[used, column] for column, side in enumerate(sides) if used.any()}
        told(catalogue.CUT.format(limit=limit), (tokens > limit).any(axis=1))
        told(catalogue.SPECIAL_TOKEN_AS_WORDS, (texts.marks[numbers] & SPECIAL > 0).any(axis=1))
        if rows.answers == 2:
            lost(catalogue.EQUAL_AS_USED, _equal_as_used(answers, used, texts.store))
    firsts = {reason: int(np.argmax(those)) for reason, those in found.items() if those.any()}
    for reason in sorted(firsts, key=firsts.__getitem__):  # in the order in which the rows tell them
        seen.places[reason] = [rows.where(at) for at in map(int, np.flatnonzero(found[reason]))]
    seen.encoded = np.flatnonzero(used).astype(np.int32)
    return seen


def _equal_as_used(answers: Numbers, used: Mask, store: Store) -> Mask:
    """The pairs whose two answers are the same tokens, of those that are used."""
    lengths = store.lengths()[answers]
    equal = used & (lengths[:, 0] == lengths[:, 1])
    for at in map(int, np.flatnonzero(equal)):
        chosen, rejected = map(int, answers[at])
        equal[at] = store.look(chosen) == store.look(rejected)
    return equal


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
