"""Special tokens written out in a text, such as "<|im_end|>": read as the plain words they are, never as the token.

A tokenizer finds its special tokens wherever they stand, so a text that holds one would end its turn and open another.
Here each such place is broken by a token of our own, which a copy of the tokenizer knows. The copy reads the rendered
conversation in one piece, the template's own tokens included, and our token is taken out of the ids again.
"""

import copy
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from kit.data.rows import Message
from kit.models.words import Words, added_tokens, can_be_cut

# No text of a person holds it: noncharacters, which Unicode keeps for a program's own use. It is broken where one does.
_BREAK = "\ufdd0\ufdd1"


class WrittenOut:
    """Finds special tokens in texts, breaks them, and reads what was rendered from broken texts."""

    def __init__(self, tokenizer: Any, special: list[str]) -> None:
        from transformers import PreTrainedTokenizerFast

        self._tokenizer = tokenizer
        self._copy: Any = None  # made when the first text needs it
        self._pattern = _any_of(special)
        self._breakable = _any_of([*special, _BREAK])
        self._beginnings = {token[:2] for token in special}
        self._anywhere = re.compile(f"(?={self._breakable.pattern})")  # finds overlapping ones too
        added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._control = added.keys() - {tokenizer.unk_token_id}
        # Where a special token is looked for after the text was normalised, another spelling may become one.
        self._by_other_spelling = any(token.normalized for token in added.values())
        own = type(tokenizer)._encode_plus if isinstance(tokenizer, PreTrainedTokenizerFast) else None
        self._in_rust = own is PreTrainedTokenizerFast._encode_plus
        rust = tokenizer.backend_tokenizer if self._in_rust else None
        cut = rust is not None and can_be_cut(rust, self._asked)
        self._words = Words(self._asked, added_tokens(rust)) if cut else None

    def stands_in(self, text: str) -> bool:
        """Whether the text holds a special token written out.

        In full-width letters too, which a tokenizer that normalises (NFKC) would read as the plain ones.
        """
        if not self._is_near(text):
            return False
        forms = (text,) if unicodedata.is_normalized("NFKC", text) else (text, unicodedata.normalize("NFKC", text))
        return any(self._pattern.search(form) for form in forms)

    def broken(self, text: str) -> str:
        """The text with a break after the first character of every special token written out in it; else as it is."""
        if not self._is_near(text) or not self._breakable.search(text):
            return text
        places = [match.start() + 1 for match in self._anywhere.finditer(text)]
        return _BREAK.join(text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True))

    def broken_message(self, message: Message) -> Message:
        """The message with its text broken; the same object where there is nothing to break."""
        text = self.broken(message["content"])
        return message if text is message["content"] else message | {"content": text}

    def _is_near(self, text: str) -> bool:
        """Whether a text may hold a special token: a cheap look, which most texts do not pass."""
        return not text.isascii() or any(map(text.__contains__, self._beginnings))

    def removed(self, text: str) -> str:
        """The text without any special token."""
        while self._pattern.search(text):
            text = self._pattern.sub("", text)
        return text

    def ids(self, rendered: Sequence[str]) -> list[Sequence[int] | None]:
        """The ids of texts rendered from broken ones, without the breaks; None where one cannot be read as plain words.

        A text can if the template wrote every special token of the ids, and the ids give the text back.
        """
        found: list[Sequence[int] | None] = [*self._tokenized(rendered)]
        for place, text in enumerate(rendered):
            if _BREAK in text:
                found[place] = self._without_breaks(text)
            elif self._by_other_spelling and not self._all_of_template(text, found[place] or []):
                found[place] = None
        return found

    @property
    def by_words(self) -> bool:
        """Whether most of a text is read from memory: Python's work then, which threads do not speed up."""
        return self._words is not None

    def _tokenized(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        return self._asked(texts) if self._words is None else self._words.ids(texts)

    def _asked(self, texts: Sequence[str]) -> list[list[int]]:
        """What `tokenizer(texts)` gives, at less cost where it would only ask its Rust part."""
        if not texts:
            return []
        if not self._in_rust:
            return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        self._tokenizer("", add_special_tokens=False)  # sets its Rust part as such a call has it: nothing cut or padded
        encode = self._tokenizer.backend_tokenizer.encode_batch_fast
        return [encoding.ids for encoding in encode(list(texts), add_special_tokens=False)]

    def _without_breaks(self, rendered: str) -> list[int] | None:
        if self._copy is None:
            self._copy = _with_break(self._tokenizer)
        breaks = self._copy.convert_tokens_to_ids(_BREAK)
        ids = [token for token in self._copy(rendered, add_special_tokens=False)["input_ids"] if token != breaks]
        read = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        faithful = "".join(read.split()) == "".join(rendered.replace(_BREAK, "").split())
        return ids if faithful and self._all_of_template(rendered, ids) else None

    def _all_of_template(self, rendered: str, ids: Sequence[int]) -> bool:
        """Whether the ids hold no more special tokens than the rendered text spells out, unbroken."""
        return sum(token in self._control for token in ids) <= len(self._pattern.findall(rendered))


def _any_of(texts: list[str]) -> re.Pattern[str]:
    """Matches each of the texts, the longest first; nothing where there is none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def _with_break(tokenizer: Any) -> Any:
    from transformers import AddedToken

    other = copy.deepcopy(tokenizer)
    other.add_tokens([AddedToken(_BREAK, special=True, normalized=False)], special_tokens=True)
    return other
