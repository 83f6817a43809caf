"""The kit's own file of judgements, one a line, as a labelling project exports it; docs/feedback.md documents it."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from kit.crowd.judgements import Judgement, kind_of
from kit.data.files import Row
from kit.data.problems import RowProblem, type_name

COLUMNS = {"annotator", "item", "answers", "ranks"}
_MOST_ANSWERS = 100
_SHOWN = 120  # characters of a prompt


def exported(row: Row) -> Iterator[Judgement]:
    """The judgement of a line; nothing where its `ranks` are null: the person skipped the item."""
    values = row.values
    answers = _names(values, "answers")
    if not values.get("annotator") or values.get("item") in (None, ""):
        raise RowProblem("wanted a name in annotator and in item; one of them is empty")
    if values.get("ranks") is None:
        return
    shown = _names(values, "shown") if values.get("shown") is not None else None
    if shown is not None and sorted(shown) != sorted(answers):
        raise RowProblem("shown: wanted the names of answers in another order; found other names")
    repeats = values.get("repeat_of")
    yield Judgement(
        annotator=str(values["annotator"]),
        item=str(repeats if repeats is not None else values["item"]),
        kind=kind_of(answers),
        answers=answers,
        values=_ranks(values, "ranks", answers),
        where=row.where,
        shown=shown,
        seconds=_number(values, "seconds"),
        time=time_of(values.get("time"), "time"),
        group=None if values.get("group") in (None, "") else str(values["group"]),
        gold=_ranks(values, "gold", answers) if values.get("gold") is not None else None,
        repeat=repeats is not None,
        lengths=_lengths(values, answers),
        text=str(values.get("prompt") or "")[:_SHOWN],
    )


def time_of(value: Any, what: str) -> float | None:
    """Seconds since 1970 from a number or an ISO 8601 text; one without a time zone is taken as UTC.

    Numbers above 1e11 are milliseconds. None for null. RowProblem for anything else.
    """
    if value is None or value == "":
        return None
    try:
        if is_number(value):
            seconds = float(value) / 1000 if abs(value) > 1e11 else float(value)
        else:
            read = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
            seconds = (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
        datetime.fromtimestamp(seconds, UTC)  # a year from 1 to 9999, to be written down again
        return seconds
    except (ValueError, OverflowError, OSError):
        raise RowProblem(f"{what}: wanted ISO 8601 or seconds since 1970; found {str(value)[:30]!a}") from None


def is_number(value: Any) -> bool:
    """Whether a value is a number that others can reckon with: finite, no true or false, not of hundreds of digits."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _names(values: dict[str, Any], column: str) -> tuple[str, ...]:
    found = values.get(column)
    if not isinstance(found, (list, tuple)) or not 0 < len(found) <= _MOST_ANSWERS:
        raise RowProblem(f"{column}: wanted a list of 1 to {_MOST_ANSWERS} names; found {type_name(found)}")
    names = tuple(map(str, found))
    if len(set(names)) < len(names):
        raise RowProblem(f"{column}: a name stands twice")
    return names


def _ranks(values: dict[str, Any], column: str, answers: tuple[str, ...]) -> tuple[float | None, ...]:
    """Ranks, the lowest best, as values of which the highest is best."""
    found = values[column]
    if not isinstance(found, (list, tuple)) or len(found) != len(answers):
        raise RowProblem(f"{column}: wanted a list of {len(answers)} ranks, one an answer; found {type_name(found)}")
    for rank in found:
        if rank is None:
            continue
        if not is_number(rank):
            raise RowProblem(f"{column}: wanted finite numbers or null; found {type_name(rank)}")
    return tuple(None if rank is None else -float(rank) for rank in found)


def _number(values: dict[str, Any], column: str) -> float | None:
    found = values.get(column)
    if found is None:
        return None
    if not is_number(found) or found < 0:
        raise RowProblem(f"{column}: wanted a number from 0 up, or null; found {str(found)[:30]!a}")
    return float(found)


def _lengths(values: dict[str, Any], answers: tuple[str, ...]) -> tuple[int, ...] | None:
    """Characters of the answers: from `lengths`, else from `texts`; None where a line has neither."""
    found, texts = values.get("lengths"), values.get("texts")
    if found is None and isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts):
        found = [len(text) for text in texts]
    if found is None:
        return None
    if (
        not isinstance(found, (list, tuple))
        or len(found) != len(answers)
        or not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in found)
    ):
        raise RowProblem(f"lengths: wanted {len(answers)} counts of characters, one an answer")
    return tuple(found)
