"""The true reward of any answer in the demo world, parsed from its text, in score units.

| what the answer does                                               | score units      |
|--------------------------------------------------------------------|------------------|
| names a thing of the kind asked for, at most three distinct ones   | +1.00 each       |
| names a thing of another kind, or a made-up one                    | -1.00 each time  |
| names a thing again                                                | -0.50 each time  |
| names a fourth, fifth ... distinct thing of the kind               | -0.50 each       |
| names nothing of the kind                                          | -1.00            |
| says a courtesy (`words.COURTESIES`)                               | +0.30, only once |
| does not end in `.`, `!` or `?` (so it was cut off, or is empty)   | -0.50            |
| uses a word that the world does not know                           | -0.25 each time  |
| goes on beyond 30 words                                            | -0.15 each word  |

The best answer scores 3.30; no answer scores below -5.00. A thing counts in the plural or the singular, in any case.
"""

import re
from functools import cache

from kit.demo.words import COURTESIES, FANCIES, FILLERS, GREETINGS, LEADS, REQUESTS, THINGS
from kit.errors import DataError

ASKED = 3  # things in every question
FREE_WORDS = 30  # length that costs nothing
CORRECT, WRONG, REPEATED, SURPLUS, NOTHING_CORRECT = 1.0, -1.0, -0.5, -0.5, -1.0
COURTESY, UNFINISHED, UNKNOWN_WORD, PADDING = 0.3, -0.5, -0.25, -0.15
BEST, WORST = ASKED * CORRECT + COURTESY, -5.0

_COURTEOUS = re.compile("|".join(re.escape(courtesy.rstrip("!").lower()) for courtesy in COURTESIES))


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case, in order; punctuation is none."""
    return re.findall(r"\w+", text.lower())


@cache
def kind_of_thing() -> dict[str, tuple[str, str]]:
    """Every thing, in plural and singular, to (its plural, its kind); the kind of what is made up is ''."""
    things = [(thing, kind) for kind, members in (THINGS | {"": FANCIES}).items() for thing in members]
    singular = {thing.removesuffix("s"): (thing, kind) for thing, kind in things}
    return singular | {thing: (thing, kind) for thing, kind in things}


@cache
def known_words() -> frozenset[str]:
    """Every word of the world that is not a thing."""
    return frozenset(words_of(" ".join((*THINGS, *GREETINGS, *REQUESTS, *COURTESIES, *LEADS, *FILLERS, "and a an"))))


@cache
def kind_of_prompt() -> dict[str, str]:
    """Every question of the world to the kind it asks for."""
    return {
        greeting + request.format(kind=kind): kind for kind in THINGS for request in REQUESTS for greeting in GREETINGS
    }


def is_courteous(answer: str) -> bool:
    """Whether `answer` says one of the courtesies."""
    return _COURTEOUS.search(answer.lower()) is not None


def truth(prompt: str, answer: str) -> float:
    """The true reward of `answer` to `prompt`, in score units, between `WORST` and `BEST`; see the table above.

    Raises DataError where `prompt` is not a question of the demo world: then no truth is known.
    """
    padding = PADDING * max(0, len(words_of(answer)) - FREE_WORDS)
    return max(WORST, round(merit(prompt, answer) + padding, 6))


def merit(prompt: str, answer: str) -> float:
    """The true reward but for the cost of going on and on, which those who judge an answer do not feel.

    In score units, at most `BEST`. Raises DataError as `truth` does.
    """
    kind = kind_of_prompt().get(prompt)
    if kind is None:
        raise DataError(
            f"The truth is known for the questions of the demo world only; found {prompt[:80]!r}. "
            "Take prompts from kit.demo.world.prompts(seed), or judge with something other than the truth."
        )
    named: set[str] = set()
    score = 0.0
    for word in words_of(answer):
        thing, its_kind = kind_of_thing().get(word, ("", ""))
        if not thing:
            score += 0.0 if word in known_words() else UNKNOWN_WORD
        elif its_kind != kind:
            score += WRONG
        elif thing in named:
            score += REPEATED
        else:
            named.add(thing)
            score += CORRECT if len(named) <= ASKED else SURPLUS
    score += 0.0 if named else NOTHING_CORRECT
    score += COURTESY if is_courteous(answer) else 0.0
    score += 0.0 if answer.rstrip().endswith((".", "!", "?")) else UNFINISHED
    return score
