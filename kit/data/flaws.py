"""What makes a row, looked at by itself, teach nothing."""

import string

from kit.data import catalogue
from kit.data.rows import Demonstration, Pair, Prompt, answers_of, messages_of

_UNSEEN = string.whitespace + "\u00a0\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u3000\ufeff"


def flaw_of(row: Pair | Demonstration | Prompt) -> str | None:
    """Why a row is to be left out: a turn or an answer of nothing that can be seen (its loss would be 0.0), or a pair
    whose two answers are one (its loss would stay at ln 2 for ever). None for a sound row."""
    if any(_is_blank(message["content"]) for message in messages_of(row)):
        return catalogue.EMPTY_TURN
    names = ("chosen", "rejected") if isinstance(row, Pair) else ("response",)
    empty = [name for name, text in zip(names, answers_of(row), strict=False) if _is_blank(text)]
    if empty:
        return catalogue.EMPTY_ANSWER.format(names=" and ".join(empty))
    return catalogue.EQUAL if isinstance(row, Pair) and row.chosen.strip() == row.rejected.strip() else None


def _is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space, or characters of no width."""
    return not text.strip() or (not text.isascii() and not text.strip(_UNSEEN))
