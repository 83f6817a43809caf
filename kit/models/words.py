"""Text to ids by a memory of words: what a tokenizer of GPT-2's kind made of " the" once, it makes of it every time.

Such a tokenizer first parts a text by a pattern, and then reads each part by itself. At a single space between two
characters that are no white space every one of the patterns below begins a new part: a part goes on over a space only
where it is white space altogether. So a text may be cut there, and the ids of the pieces put together are those of the
text. Before all that, such a tokenizer takes out the tokens that were added to it, as those that end a turn, so a text
may be cut around them too. Most pieces are words that were met before, and asking a dictionary costs a tenth of asking
the tokenizer.
"""

import json
import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any

_CUT = re.compile(r" (?=\S)(?<=\S )")  # the space belongs to the piece that follows it
_OPENING = " "  # marks, among the known pieces, one that no space was cut from; the others are kept without theirs
_LONGEST_WORD = 20  # characters; longer pieces hardly come again
_MOST_KNOWN = 2**18  # pieces; more are forgotten and learnt again
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_REST}"
    for numbers in (r"\p{N}", r"\p{N}{1,3}")  # Qwen 2, 2.5 and 3; Llama 3
}
_PROBE = "It's  a b\tc\n d 12 e1 f, g\n\nh é i\u0301 ü\u00a0j 😀 k -l 'm n' s 3 o p"

Encode = Callable[[Sequence[str]], list[list[int]]]


class Words:
    """Reads texts as `encode` does, at less cost, for a tokenizer that `can_be_cut`; `tokens` were added to it."""

    def __init__(self, encode: Encode, tokens: Sequence[str] = ()) -> None:
        self._encode = encode
        self._tokens = re.compile(f"({'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True))) or '(?!)'})")
        self._known: dict[str, bytes] = {}

    def ids(self, texts: Sequence[str]) -> list["array[int]"]:
        """The ids of each text."""
        pieces = [self._pieces(text) for text in texts]
        known = self._known
        new = [*set().union(*pieces).difference(known)]
        if len(known) + len(new) > _MOST_KNOWN:
            known = self._known = {}  # another thread may still read from the one before
            new = [*set().union(*pieces)]
        read = self._encode([piece[1:] if piece.startswith(_OPENING) else f" {piece}" for piece in new])
        known.update((piece, array("i", ids).tobytes()) for piece, ids in zip(new, read, strict=True))
        found = [array("i", b"".join(map(known.__getitem__, own))) for own in pieces]
        for piece in new:
            if len(piece) > _LONGEST_WORD:
                known.pop(piece, None)
        return found

    def _pieces(self, text: str) -> list[str]:
        pieces: list[str] = []
        for place, part in enumerate(self._tokens.split(text)):
            if part:
                own = [part] if place % 2 else _cut(part)  # every other part is a token
                own[0] = _OPENING + own[0]
                pieces += own
        return pieces


def _cut(text: str) -> list[str]:
    spaced = text.split(" ")
    return spaced if spaced == text.split() else _CUT.split(text)  # the same, where no white space stands together


def added_tokens(tokenizer: Any) -> list[str]:
    """The tokens that a tokenizer of Rust's takes out of a text as it stands, before anything else."""
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if not token.normalized]


def can_be_cut(tokenizer: Any, encode: Encode) -> bool:
    """Whether a tokenizer of Rust's reads the pieces of a text as it reads the text."""
    from tokenizers.models import BPE
    from tokenizers.normalizers import NFC

    model, normalizer = tokenizer.model, tokenizer.normalizer
    if not isinstance(model, BPE) or model.dropout or not (normalizer is None or isinstance(normalizer, NFC)):
        return False
    if tokenizer.pre_tokenizer is None or not _parts_before_words(json.loads(tokenizer.pre_tokenizer.__getstate__())):
        return False
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.lstrip or token.rstrip or token.single_word or _CUT.search(f"x{token.content}a"):
            return False  # it reaches over its own edges, or a cut would part it
    return Words(encode).ids([_PROBE])[0].tolist() == encode([_PROBE])[0]


def _parts_before_words(state: dict[str, Any]) -> bool:
    """Whether what parts a text, as its own JSON tells it, begins a part at every place where we cut."""
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    parts = False
    for step in steps:
        if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            if step["pattern"].get("Regex") not in _PATTERNS:
                return False
            parts = True
        elif step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            parts = parts or step["use_regex"]  # its own pattern is GPT-2's
        elif step["type"] != "Digits":
            return False
    return parts
