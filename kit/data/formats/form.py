"""What a recognised form is: its name, and how its rows become opinions, demonstrations or prompts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kit.data.opinions import Opinion
from kit.data.turns import Remarks

Read = TypeVar("Read")


def _nothing_more() -> Sequence[Any]:
    return ()


@dataclass(frozen=True)
class Form(Generic[Read]):
    """A recognised form of rows.

    `read` gives what one row holds. A form whose rows only make sense together (a flat tree) keeps them, and gives
    all of it from `rest` once the last row was read.
    """

    name: str  # as the notes say it: "HH-RLHF transcripts"
    read: Callable[[dict[str, Any], str, Remarks], Iterable[Read]]
    rest: Callable[[], Iterable[Read]] = _nothing_more


@dataclass(frozen=True)
class OpinionForm(Form[Opinion]):
    """A form of preferences."""

    single: bool = False  # a row is the rating of one answer: those of a prompt belong together
    labelled: bool = False  # values are 1.0 for liked, 0.0 for not
    voted: bool = False  # several people judged one pair of answers
    generated: bool = False  # the answers are a model's samples, of which some may be empty
    ranked: bool = False  # pairs are expanded from K answers: each prompt is to weigh the same
    rated: bool = False  # differences of the values mean something: data.min_margin applies
    shown_in_order: bool = False  # the first answer of an opinion was shown first
    judgements: bool = False  # of named people on named items: how far they agree is the margin of a settled pair
