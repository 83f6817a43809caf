"""Near-duplicates: answers of which people could only say that they are the same.

Two answers are near-duplicates where their sets of word 3-grams overlap by 0.9 or more (Jaccard: those in both by those
in either); upper and lower case and white space do not count. A text of fewer than three words is one gram. In scripts
without spaces between words each character counts as one.

One word replaced in the middle of n words changes three of n - 2 grams, so that (n - 5) of (n + 1) stay: 0.9 is reached
at 59 words. So in a short answer every word counts, as it may be the one that matters ("yes", "no"), and two long ones
that differ in a word or two are not worth a person's time. Corpora are cleaned more roughly, by 5-grams and 0.75 to 0.8
(Lee et al. 2022, arXiv:2107.06499; Penedo et al. 2024, arXiv:2406.17557), as there a lost text costs little.
"""

import re

GRAM = 3  # words
LIKE = 0.9
_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Thai, Lao, Khmer, CJK
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")

Grams = frozenset[tuple[str, ...]]


def grams_of(text: str) -> Grams:
    """The word 3-grams of a text; of a shorter one all its words as one gram, of an empty one none."""
    words = _WORD.findall(text.casefold())
    if len(words) < GRAM:
        return frozenset([tuple(words)] if words else [])
    return frozenset(zip(*(words[start:] for start in range(GRAM)), strict=False))


def are_near(one: Grams, other: Grams) -> bool:
    """Whether two texts with these grams are near-duplicates."""
    both = len(one & other)
    return both >= LIKE * (len(one) + len(other) - both)
