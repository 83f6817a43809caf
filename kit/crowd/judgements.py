"""What one person said of the answers to one item: the neutral form that every file of judgements is read into."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["rank", "pair", "rating"]
# What a file may leave out, in words; what it leaves out is told as unknown.
OPTIONAL = {
    "shown": "the order in which answers were shown",
    "seconds": "the time an item took",
    "time": "when items were judged",
    "group": "groups of annotators",
    "gold": "gold items",
    "lengths": "the lengths of answers",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """One person's judgement of one item: a rank of K answers, a choice of two, or a rating of a single answer.

    `values` stand in the order of `answers`; a higher value is better, equal values are a tie, None is no judgement.
    None elsewhere: the file does not say.
    """

    annotator: str
    item: str  # the prompt's name; for a planted repeat that of the item it repeats
    kind: Kind
    answers: tuple[str, ...]  # names, each once
    values: tuple[float | None, ...]
    where: str
    shown: tuple[str, ...] | None = None  # the same names in the order of the page, the first one on top or left
    seconds: float | None = None
    time: float | None = None  # seconds since 1970, UTC
    group: str | None = None
    gold: tuple[float | None, ...] | None = None  # the right values, of which only the order counts
    repeat: bool = False  # the person had judged this item before
    lengths: tuple[int, ...] | None = None  # characters of the answers
    text: str = ""  # the beginning of the prompt, to show


@dataclass(frozen=True, slots=True)
class Aside:
    """What one person said besides ranks: items skipped, items of which no answer was acceptable, comments written."""

    skipped: int = 0
    none_acceptable: int = 0
    comments: int = 0


@dataclass(frozen=True)
class Judgements:
    """All judgements of a source, and what reading it showed."""

    source: str
    form: str
    rows: list[Judgement]
    notes: list[str] = field(default_factory=list)
    asides: dict[str, Aside] = field(default_factory=dict)  # by annotator; empty where the source does not say

    @property
    def annotators(self) -> list[str]:
        """The annotators' names, in alphabetical order; numbers by their value."""
        return sorted({row.annotator for row in self.rows}, key=lambda name: name.zfill(12) if name.isdigit() else name)

    @property
    def unknown(self) -> list[str]:
        """What no judgement of the source says, by the names of the fields."""
        known = {name for row in self.rows for name in OPTIONAL if getattr(row, name) is not None}
        return [name for name in OPTIONAL if name not in known]


def kind_of(values: Sequence[Any]) -> Kind:
    """A judgement of one answer is a rating, of two a choice, of more a rank."""
    return "rating" if len(values) == 1 else "pair" if len(values) == 2 else "rank"
