"""What can be counted in the answers themselves: repetition, sameness, refusals, stock phrases.

Notation: n answers of one arm, answers[i] to prompt i. A number that an answer does not have is NaN.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Words = list[str]

MOST_COMPARED = 400  # answers of which each is compared with each
SELF_GRAM, OPENING_WORDS = 3, 3

# English only, and only whole phrases: an answer that refuses in other words is not counted.
REFUSALS = (
    "i can't help", "i cannot help", "i can't assist", "i cannot assist", "i can't provide", "i cannot provide",
    "i can't answer", "i cannot answer", "i can't do that", "i cannot do that", "i can't fulfill", "i cannot fulfill",
    "i can't comply", "i cannot comply", "i'm not able to", "i am not able to", "i'm unable to", "i am unable to",
    "i won't be able to", "i must decline", "i have to decline", "i'm sorry, but i", "i am sorry, but i",
    "i apologize, but i", "as an ai language model, i can", "i don't feel comfortable", "i do not feel comfortable",
)  # fmt: skip
# English only, at the start of an answer.
STOCK_OPENERS = (
    "as an ai", "as a language model", "sure!", "sure,", "sure thing", "certainly", "of course", "absolutely",
    "great question", "good question", "what a great question", "that's a great question", "thank you for",
    "thanks for asking", "i'd be happy to", "i would be happy to", "i'm happy to", "i'm glad you asked", "gladly",
    "with pleasure", "no problem", "here is", "here's", "here are",
)  # fmt: skip

# Scripts that are written without spaces, a character of which counts for a word: Thai to Burmese, Khmer, then kana,
# Han and its extensions. Elsewhere a word is a run of letters and digits, and every other sign is a word of its own;
# signs that combine with letters (Devanagari's vowels) cut words into pieces, in all arms alike.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+(?:['’](?:(?![{_UNSPACED}])\w)+)*|[^\w\s]")


def words(text: str) -> Words:
    """The words and signs of a text, in lower case."""
    return _WORD.findall(text.lower())


def distinct(answer: Words, n: int) -> float:
    """Distinct n-grams over all n-grams of one answer (Li et al. 2016, within an answer); NaN without an n-gram.

    Longer answers repeat more by themselves: read it beside the length.
    """
    grams = _grams(answer, n)
    return len(set(grams)) / len(grams) if grams else float("nan")


def repeated(answer: Words, n: int = 4) -> float:
    """The share of n-grams that the answer said before; 0 for an answer too short to have one."""
    grams = _grams(answer, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def refuses(text: str) -> float:
    """1 where the answer holds one of `REFUSALS`, else 0."""
    plain = _plain(text)
    return float(any(phrase in plain for phrase in REFUSALS))


def opens_stock(text: str) -> float:
    """1 where the answer starts with one of `STOCK_OPENERS`, else 0."""
    return float(_plain(text).startswith(STOCK_OPENERS))


def same_opening(answers: Sequence[Words]) -> tuple[Floats, str]:
    """[n], 1 where an answer starts with the arm's own most common first three words; and those words."""
    openings = [tuple(answer[:OPENING_WORDS]) for answer in answers]
    said = Counter(opening for opening in openings if opening)
    if not said:
        return np.zeros(len(answers)), ""
    most = min(said, key=lambda opening: (-said[opening], opening))
    return np.array([float(opening == most) for opening in openings]), " ".join(most)


def self_similarity(answers: Sequence[Words], seed: int = 0) -> Floats:
    """[n], how much of each answer stands in the answers to other prompts: the mean Jaccard overlap of 3-gram sets.

    An answer of fewer than three words is one gram. Of more than 400 answers, 400 drawn by the seed are compared
    among themselves; the others are NaN, and so is an answer without others.
    """
    from scipy.sparse import csr_array

    found = np.full(len(answers), np.nan)
    chosen = np.arange(len(answers))
    if len(answers) > MOST_COMPARED:
        chosen = np.sort(np.random.default_rng(seed).choice(len(answers), MOST_COMPARED, replace=False))
    if len(chosen) < 2:
        return found
    sets = [set(_grams(answers[i], SELF_GRAM)) or {tuple(answers[i])} for i in chosen.tolist()]
    number: dict[tuple[str, ...], int] = {}
    columns = [number.setdefault(gram, len(number)) for grams in sets for gram in grams]
    sizes = np.array([len(grams) for grams in sets])
    shape = (len(sets), len(number))
    held = csr_array((np.ones(len(columns)), columns, np.concatenate([[0], sizes.cumsum()])), shape=shape)
    shared = (held @ held.T).toarray()
    overlap = shared / (sizes[:, None] + sizes[None, :] - shared)
    found[chosen] = (overlap.sum(1) - 1) / (len(sets) - 1)  # less 1: its overlap with itself
    return found


def _grams(answer: Words, n: int) -> list[tuple[str, ...]]:
    return [tuple(answer[i : i + n]) for i in range(len(answer) - n + 1)]


def _plain(text: str) -> str:
    """Lower case, straight apostrophes, single spaces."""
    return " ".join(text.lower().replace("’", "'").split())
