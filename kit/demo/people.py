"""The people of the demo world: writers of mixed skill, and annotators who rank what was written."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from kit.demo.scoring import is_courteous, kind_of_prompt, merit, words_of
from kit.demo.words import COURTESIES, FANCIES, FILLERS, LEADS, THINGS


@dataclass(frozen=True)
class Annotator:
    """How one person's impression of an answer differs from its merit, in score units."""

    name: str
    noise: float  # standard deviation
    per_word: float = 0.0  # added for every word of the answer
    per_courtesy: float = 0.0  # added to an answer that says a courtesy

    def impression(self, prompt: str, answer: str, rng: random.Random) -> float:
        """What this person feels `answer` is worth: its merit, the person's taste, and chance."""
        taste = self.per_word * len(words_of(answer)) + self.per_courtesy * is_courteous(answer)
        return merit(prompt, answer) + taste + rng.gauss(0, self.noise)


ANNOTATORS = (
    Annotator("Ada", noise=1.0),
    Annotator("Ben", noise=1.0, per_word=0.12),
    Annotator("Cleo", noise=1.0, per_courtesy=0.7),
    Annotator("Dan", noise=1.8),
    Annotator("Eve", noise=1.0, per_word=0.04),
)
INDIFFERENT = 0.2
"""Answers whose impressions are closer than this, in score units, share a rank."""

MADE_UP = 0.85
"""The share of wrong things that exist in no kind; the others belong to another kind."""


def write_answer(prompt: str, rng: random.Random, skill: float) -> str:
    """An answer as a writer of this `skill` (0 to 1) gives it: with mistakes, repeats, filler or no end.

    Writers have habits: the first of `words.LEADS` is what the skilled begin with, the last what the careless do.
    """
    kind = kind_of_prompt()[prompt]
    others = [other for other in THINGS if other != kind]
    count = 3 if rng.random() < 0.2 + 0.7 * skill else rng.choice((1, 2, 4, 5))
    named: list[str] = []
    for _ in range(count):
        if named and rng.random() < 0.3 * (1 - skill):
            named.append(rng.choice(named))
        elif rng.random() < 0.25 + 0.72 * skill:
            named.append(rng.choice([thing for thing in THINGS[kind] if thing not in named] or THINGS[kind]))
        else:
            named.append(rng.choice(FANCIES if rng.random() < MADE_UP else THINGS[rng.choice(others)]))
    habit = min(0.999, max(0.0, rng.gauss(1 - skill, 0.2)))
    sentence = f"{LEADS[int(habit * len(LEADS))]} {_in_words(named)}."
    courtesy = rng.choice(COURTESIES) + " " if rng.random() < 0.35 else ""
    fillers = rng.sample(FILLERS, rng.choices((0, 1, 2, 3), weights=(45, 30, 17, 8))[0])
    answer = " ".join([courtesy + sentence, *fillers])
    if rng.random() < 0.12 * (1 - skill):
        answer = " ".join(answer.split()[: -rng.randint(1, 3)]).rstrip(",.!")
    return answer


def rank(prompt: str, answers: Sequence[str], annotator: Annotator, rng: random.Random) -> list[int]:
    """The rank of each answer, 1 for the best; answers that feel the same share a rank (1, 2, 2, 3)."""
    felt = [annotator.impression(prompt, answer, rng) for answer in answers]
    ranks = [0] * len(answers)
    place, previous = 0, float("inf")
    for index in sorted(range(len(answers)), key=lambda index: -felt[index]):
        if previous - felt[index] > INDIFFERENT:
            place, previous = place + 1, felt[index]
        ranks[index] = place
    return ranks


def _in_words(things: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(things[:-1]), things[-1]]) if len(things) > 1 else things[0]
