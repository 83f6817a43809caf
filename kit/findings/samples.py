"""Training rows decoded token by token, so that a person sees which tokens are learnt."""

from collections.abc import Sequence
from typing import Any

from kit.compare.report.text import visible
from kit.findings.findings import Piece, Sample
from kit.models.codec import Codec
from kit.models.encoding import IGNORE, Encoded

_BEFORE, _AFTER = 24, 96  # tokens shown of the beginning and the end of a long prompt or answer
_LONGEST_CHARACTER = 4  # tokens; UTF-8 writes a character in four bytes at most
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"


def samples_of(encoded: Encoded, codec: Codec) -> list[Sample]:
    """The first demonstration and the first pair of the training rows that fit on a screen and are whole."""
    found = []
    if encoded.sft.train:
        at = _first(encoded.sft.train, lambda row: [row["input_ids"]], codec)
        row = encoded.sft.train[at]
        pieces = learnt_pieces(codec, row["input_ids"], [label != IGNORE for label in row["labels"]])
        found.append(Sample("A demonstration, as SFT learns it", _where(encoded, "demonstrations", at), [("", pieces)]))
    if encoded.pairs.train:
        at = _first(
            encoded.pairs.train,
            lambda row: [row["prompt_ids"] + row[f"{s}_ids"] for s in ("chosen", "rejected")],
            codec,
        )
        row = encoded.pairs.train[at]
        prompt = learnt_pieces(codec, row["prompt_ids"], [False] * len(row["prompt_ids"]))
        sides = [
            (s, learnt_pieces(codec, row[f"{s}_ids"], [True] * len(row[f"{s}_ids"]))) for s in ("chosen", "rejected")
        ]
        found.append(
            Sample(
                "A pair, as the reward model and DPO compare it",
                _where(encoded, "pairs", at),
                [("prompt", prompt), *sides],
            )
        )
    return found


def learnt_pieces(codec: Codec, ids: Sequence[int], learnt: Sequence[bool]) -> list[Piece]:
    """The tokens as text, in order; of long stretches the beginning and the end."""
    pieces: list[Piece] = []
    start = 0
    while start < len(ids):
        end = next((n for n in range(start, len(ids)) if learnt[n] != learnt[start]), len(ids))
        stretch = list(ids[start:end])
        if len(stretch) > _BEFORE + _AFTER:
            pieces += _pieces(codec, stretch[:_BEFORE], learnt[start])
            pieces.append(Piece("", learnt[start], left_out=len(stretch) - _BEFORE - _AFTER))
            stretch = stretch[-_AFTER:]
        pieces += _pieces(codec, stretch, learnt[start])
        start = end
    return pieces


def _pieces(codec: Codec, ids: list[int], learnt: bool) -> list[Piece]:
    """The tokens of one stretch: each is what it adds to the text before it, so that spaces stand where they belong."""
    pieces, said, waiting = [], "", 0
    for n, token in enumerate(ids):
        text = _decode(codec.tokenizer, ids[: n + 1])
        waiting += 1
        unfinished = text.endswith(_UNREADABLE) and waiting < _LONGEST_CHARACTER and n + 1 < len(ids)
        if unfinished and token not in codec.stops:
            continue
        pieces.append(Piece(visible(text[len(said) :]), learnt, ends=learnt and token in codec.stops))
        said, waiting = text, 0
    return pieces


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _first(rows: Sequence[dict], sequences: Any, codec: Codec) -> int:
    """The first row that is whole and fits on a screen; the first of all, if none is."""
    return next(
        (
            n
            for n, row in enumerate(rows)
            if all(len(ids) <= _BEFORE + _AFTER and ids[-1] in codec.stops for ids in sequences(row))
        ),
        0,
    )


def _where(encoded: Encoded, what: str, at: int) -> str:
    return encoded.measured[what].where(at)
