"""Judgements taken apart into votes: who put which of two answers first, or a rating above or below a step.

Shapes: n votes on u units by j annotators. A unit is what people can agree on: a pair of answers of one item, or, of
a rating, one answer and one step of the scale ("at least 1"). A rating of a scale of V values makes V - 1 votes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kit.crowd.judgements import Judgement, Judgements

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
MOST_STEPS = 10  # of a rating scale; finer ones are cut at quantiles


@dataclass(frozen=True)
class Votes:
    """All first votes of each person on each unit, as columns [n]; repeats stand in `again`."""

    people: list[str]
    items: list[str]
    who: Ints
    item: Ints
    unit: Ints  # 0 .. u - 1
    scale: Ints  # 0 for pairs, 1 .. for the steps of ratings: units of one scale have one base rate
    judgement: Ints  # index into the judgements
    value: Floats  # 1: the first answer, or at least the step; 0: the other, or below; 0.5: a tie
    weight: Floats
    position: Floats  # 1: the first answer was shown earlier, -1: later, NaN: unknown
    length: Floats  # log of the first answer's length over the other's; NaN: unknown
    units: list[tuple[str, str, str]]  # item and two answers; of ratings item, answer and step
    again: list[tuple[int, float, float]]  # (annotator, first value, later value) on one unit, of repeats

    def of(self, keep: NDArray[np.bool_]) -> "Votes":
        """The votes that `keep` [n] marks; people, items and units stay as they are numbered."""
        columns = ("who", "item", "unit", "scale", "judgement", "value", "weight", "position", "length")
        return replace(self, **{name: getattr(self, name)[keep] for name in columns})


def votes_of(found: Judgements) -> Votes:
    """All votes of the judgements.

    The K(K-1)/2 pairs of a ranking depend on each other: each weighs 9 / (2K + 5), so that a ranking counts as many
    independent choices as the variance of Kendall's tau says, 18 K(K-1) / (4 (2K + 5)): 1 of K = 2, 2.5 of 3, 6 of 5
    (Kendall 1938, Biometrika 30). The steps of one rating weigh 1 in all.
    """
    people = {name: number for number, name in enumerate(found.annotators)}
    items: dict[str, int] = {}
    units: dict[tuple[str, str, str], int] = {}
    first: dict[tuple[int, int], float] = {}
    order: dict[tuple[str, str], int] = {}  # (item, answer): the order in which the file names them
    rows: list[tuple[float, ...]] = []
    again = []
    steps = steps_of(found.rows)
    for number, row in enumerate(found.rows):
        who, item = people[row.annotator], items.setdefault(row.item, len(items))
        for answer in row.answers:
            order.setdefault((row.item, answer), len(order))
        made = _rating(row, steps) if row.kind == "rating" else _pairs(row, order)
        for key, scale, value, weight, position, length in made:
            unit = units.setdefault(key, len(units))
            if (who, unit) in first or row.repeat:
                if (who, unit) in first:
                    again.append((who, first[who, unit], value))
                continue
            first[who, unit] = value
            rows.append((who, item, unit, scale, number, value, weight, position, length))
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 9)
    who_, item_, unit_, scale_, judgement_ = (table[:, column].astype(np.intp) for column in range(5))
    value_, weight_, position_, length_ = (table[:, column] for column in range(5, 9))
    return Votes(
        list(people), list(items), who_, item_, unit_, scale_, judgement_, value_, weight_, position_, length_,
        list(units), again,
    )  # fmt: skip


def steps_of(rows: Sequence[Judgement]) -> Floats:
    """The upper values of the steps of the ratings' scale: each value but the lowest; of many, quantiles."""
    values = np.unique([row.values[0] for row in rows if row.kind == "rating" and row.values[0] is not None])
    if len(values) > MOST_STEPS + 1:
        values = np.unique(np.quantile(values, np.linspace(0, 1, MOST_STEPS + 1)))
    return values[1:].astype(np.float64)


Vote = tuple[tuple[str, str, str], int, float, float, float, float]


def _pairs(row: Judgement, order: dict[tuple[str, str], int]) -> list[Vote]:
    """The votes of a rank or a choice: each pair of judged answers, in the order in which the file names them."""
    judged = [at for at, value in enumerate(row.values) if value is not None]
    judged.sort(key=lambda at: order[row.item, row.answers[at]])
    weight = 9 / (2 * len(judged) + 5)
    place = {name: at for at, name in enumerate(row.shown)} if row.shown else None
    made: list[Vote] = []
    for index, one in enumerate(judged):
        for two in judged[index + 1 :]:
            a, b = row.answers[one], row.answers[two]
            difference = float(row.values[one]) - float(row.values[two])  # type: ignore[arg-type]
            position = np.nan if place is None else 1.0 if place[a] < place[b] else -1.0
            length = np.nan
            if row.lengths:
                length = float(np.log((row.lengths[one] + 1) / (row.lengths[two] + 1)))
            made.append(((row.item, a, b), 0, 0.5 + 0.5 * float(np.sign(difference)), weight, position, length))
    return made


def _rating(row: Judgement, steps: Floats) -> list[Vote]:
    """The votes of a rating: whether it reaches each step."""
    value = row.values[0]
    if value is None:
        return []
    return [
        ((row.item, row.answers[0], f">= {step:g}"), at, float(value >= step), 1 / len(steps), np.nan, np.nan)
        for at, step in enumerate(steps, 1)
    ]
