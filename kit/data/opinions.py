"""What people said of answers to a prompt, and the ordered pairs that follow from it.

Every form of preferences is read into `Opinion`s: a prompt and answers, each with a value; the higher, the better.
One opinion orders its answers among themselves. Opinions of several people on one pair of answers are votes.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

from kit.data import catalogue
from kit.data.rows import Demonstration, Message, Pair, prompt_key


class Answer(NamedTuple):
    """An answer, and how good it was found: a higher value is better, None is no judgement."""

    text: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one person, or one row, says of the answers to a prompt."""

    prompt: list[Message]
    answers: tuple[Answer, ...]
    where: str
    annotator: str | None = None
    margin: float | None = None  # of its one pair, where the data say it themselves
    none_acceptable: bool = False  # the best of them is better than the others, and no example to follow


class Rules(NamedTuple):
    """How pairs follow from opinions: `data.votes`, `data.min_margin` and `data.standardize_ratings`."""

    votes: str = "auto"
    min_margin: float = 0.0
    standardize: bool = False
    rated: bool = False  # a difference of two values is the margin of their pair


def pairs_of(opinions: Iterable[Opinion], rules: Rules, counts: Counter[str]) -> Iterator[Pair]:
    """All ordered pairs of answers of which one is better by more than `min_margin`, opinion by opinion.

    Ties make no pair. `counts` learns how often that, and whatever else is worth a note, came about; a count of 0 marks
    a fact that has no number.
    """
    for opinion in opinions:
        judged = [answer for answer in opinion.answers if answer.value is not None]
        if len(judged) < len(opinion.answers):
            counts[catalogue.UNJUDGED] += len(opinion.answers) - len(judged)
        for first, second in combinations(judged, 2):
            difference = float(first.value) - float(second.value)  # type: ignore[arg-type]
            better, worse = (first, second) if difference > 0 else (second, first)
            if difference == 0:
                counts[catalogue.TIES] += 1
            elif abs(difference) < rules.min_margin:
                counts[catalogue.BELOW_MARGIN.format(margin=rules.min_margin)] += 1
            else:
                margin = abs(difference) if rules.rated else opinion.margin
                yield Pair(opinion.prompt, better.text, worse.text, opinion.where, margin)


def without_empty(opinions: Iterable[Opinion], places: dict[str, None]) -> Iterator[Opinion]:
    """The opinions without answers of no text, which teach nothing; `places` learns where the rows stand that held one.

    An opinion that had two answers or more and has one left is left out.
    """
    for opinion in opinions:
        full = tuple(answer for answer in opinion.answers if answer.text.strip())
        if len(full) == len(opinion.answers):
            yield opinion
            continue
        places[opinion.where] = None
        if len(full) > 1:
            yield replace(opinion, answers=full)


def one_a_person(ratings: Iterable[Opinion]) -> list[Opinion]:
    """Opinions of one answer each as one opinion a person and prompt; of several ratings of one answer the last counts.

    Those that name nobody, and answers that were not rated, are left out.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    first: dict[tuple[str, str], Opinion] = {}
    for rating in ratings:
        if rating.annotator is not None:
            key = prompt_key(rating.prompt), rating.annotator
            first.setdefault(key, rating)
            answers = found.setdefault(key, {})
            answers.update({text: value for text, value in rating.answers if value is not None})
    return [
        replace(first[key], answers=tuple(Answer(*both) for both in values.items())) for key, values in found.items()
    ]


def unfit_answers(opinions: Iterable[Opinion]) -> frozenset[tuple[str, str]]:
    """(prompt key, text) of the answers whose judges said that none is acceptable, at least half of them."""
    said: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for opinion in opinions:
        key = prompt_key(opinion.prompt)
        for answer in opinion.answers:
            said[key, answer.text].append(opinion.none_acceptable)
    return frozenset(answer for answer, votes in said.items() if 2 * sum(votes) >= len(votes) > 0 and any(votes))


def best_of(opinions: Iterable[Opinion]) -> Iterator[Demonstration]:
    """The best answer of every opinion; of equally good ones the first. The only one, if nobody judged it."""
    for opinion in opinions:
        judged = [answer for answer in opinion.answers if answer.value is not None]
        pool = judged or (opinion.answers if len(opinion.answers) == 1 else ())
        if pool:
            best = max(pool, key=lambda answer: answer.value or 0.0)
            yield Demonstration(opinion.prompt, best.text, opinion.where)


def one_a_prompt(ratings: Sequence[Opinion], rules: Rules, counts: Counter[str]) -> list[Opinion]:
    """Opinions of one answer each, put together: one opinion a prompt, an answer's value is the mean of its ratings.

    Of several ratings of one answer by one person the last one counts.
    """
    scale = _scales(ratings, counts) if rules.standardize else None
    if scale is None:
        _warn_of_mixed_scales(ratings, counts)
    prompts: dict[str, Opinion] = {}
    values: dict[str, dict[str, dict[str, float]]] = {}
    for number, rating in enumerate(ratings):
        key = prompt_key(rating.prompt)
        prompts.setdefault(key, rating)
        by = rating.annotator if rating.annotator is not None else f"row {number}"
        answers = values.setdefault(key, {})
        for text, value in rating.answers:
            people = answers.setdefault(text, {})
            if by in people:
                counts[catalogue.RATED_TWICE] += 1
            if value is not None:
                mean, spread = scale[by] if scale is not None and by in scale else (0.0, 1.0)
                people[by] = (value - mean) / spread
    return [
        Opinion(
            first.prompt,
            tuple(Answer(text, statistics.fmean(p.values()) if p else None) for text, p in values[key].items()),
            first.where,
        )
        for key, first in prompts.items()
    ]


def one_a_pair(opinions: Iterable[Opinion]) -> list[Opinion]:
    """Every opinion on K answers as opinions on two of them each; answers that were not judged are left out."""
    return [
        Opinion(opinion.prompt, two, opinion.where, opinion.annotator)
        for opinion in opinions
        for two in combinations([answer for answer in opinion.answers if answer.value is not None], 2)
    ]


def settle_votes(opinions: Sequence[Opinion], counts: Counter[str], margins: bool = False) -> list[Opinion]:
    """One opinion for each pair of answers of a prompt, by the verdict with the most votes; ties are votes too.

    Of several votes of one person on one pair of answers the last one counts. Without a verdict that has more votes
    than every other, the pair becomes a tie. With `margins` the opinion has that of its pair: the share of the votes by
    which the verdict leads its opposite, 1 where all agree.
    """
    cases: dict[tuple[str, str, str], dict[str, Opinion]] = {}
    for number, opinion in enumerate(opinions):
        texts = sorted(answer.text for answer in opinion.answers)
        people = cases.setdefault((prompt_key(opinion.prompt), *texts), {})  # type: ignore[arg-type]
        by = opinion.annotator if opinion.annotator is not None else f"row {number}"
        if by in people:
            counts[catalogue.VOTED_TWICE] += 1
        people[by] = opinion
    settled = []
    agreeing = compared = 0
    for (_, first, second), people in cases.items():
        verdicts = Counter(_verdict(opinion, first) for opinion in people.values())
        (verdict, most), *others = verdicts.most_common()
        votes = verdicts.total()
        compared += votes * (votes - 1) // 2
        agreeing += sum(n * (n - 1) // 2 for n in verdicts.values())
        if others and others[0][1] == most:
            counts[catalogue.NO_MAJORITY] += 1
            continue
        start = next(iter(people.values()))
        values = {1: (1.0, 0.0), -1: (0.0, 1.0), 0: (0.0, 0.0)}[verdict]
        answers = (Answer(first, values[0]), Answer(second, values[1]))
        net = (verdicts[verdict] - verdicts[-verdict]) / votes if margins and verdict else None
        settled.append(Opinion(start.prompt, answers, start.where, margin=net))
    if compared:
        share = agreeing / compared
        counts[catalogue.AGREEMENT.format(share=share, cases=len(cases))] = 0
    return settled


class SideBias:
    """How often the first of two shown answers won, counted while the opinions pass by; ties do not count."""

    def __init__(self) -> None:
        self.first = self.total = 0

    def watched(self, opinions: Iterable[Opinion]) -> Iterator[Opinion]:
        """The opinions, as they are."""
        for opinion in opinions:
            one, two = (answer.value or 0.0 for answer in opinion.answers[:2])
            self.first, self.total = self.first + (one > two), self.total + (one != two)
            yield opinion


def _verdict(opinion: Opinion, first: str) -> int:
    one, two = opinion.answers[:2] if opinion.answers[0].text == first else opinion.answers[1::-1]
    difference = (one.value or 0.0) - (two.value or 0.0)
    return (difference > 0) - (difference < 0)


def _values_by_person(ratings: Iterable[Opinion]) -> dict[str, list[float]]:
    by: defaultdict[str, list[float]] = defaultdict(list)
    for rating in ratings:
        if rating.annotator is not None:
            by[rating.annotator] += [value for _, value in rating.answers if value is not None]
    return {person: values for person, values in by.items() if values}


def _scales(ratings: Sequence[Opinion], counts: Counter[str]) -> dict[str, tuple[float, float]]:
    """Mean and deviation of each person's ratings; the deviation is 1 where a person gave one rating only."""
    by = _values_by_person(ratings)
    counts[catalogue.STANDARDIZED.format(people=len(by))] = 0
    return {who: (statistics.fmean(values), statistics.pstdev(values) or 1.0) for who, values in by.items()}


def _warn_of_mixed_scales(ratings: Sequence[Opinion], counts: Counter[str]) -> None:
    """Some people's highest rating is more than four times another's: 1-5 beside 0-100, say."""
    tops = {who: max(abs(v) for v in values) for who, values in _values_by_person(ratings).items() if len(values) >= 5}
    if tops and max(tops.values()) > 4 * max(min(tops.values()), 1e-9):
        low, high = min(tops, key=tops.__getitem__), max(tops, key=tops.__getitem__)
        counts[catalogue.MIXED_SCALES.format(low=low, low_top=tops[low], high=high, high_top=tops[high])] = 0
