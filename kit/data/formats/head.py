"""The first rows of a source: what forms are recognised by."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from kit.data.files import Row
from kit.data.turns import is_transcript


class Head:
    """The first rows of a source and the columns that stand in them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = [row.values for row in rows]
        self.columns: set[str] = {str(name) for row in self.rows for name in row}

    def first(self, names: Iterable[str], fits: Callable[[Any], bool] | None = None) -> str | None:
        """The first of the names that is a column, and whose values mostly fit; None if there is none."""
        return next((name for name in names if name in self.columns and (not fits or self.mostly(name, fits))), None)

    def found(self, column: str) -> list[Any]:
        """The values of a column that are not null."""
        return [row[column] for row in self.rows if row.get(column) is not None]

    def mostly(self, column: str, fits: Callable[[Any], bool]) -> bool:
        """Whether more than half of a column's values fit; rows may be damaged, so not all need to."""
        values = self.found(column)
        return bool(values) and 2 * sum(map(bool, map(fits, values))) > len(values)

    def kind(self, column: str) -> str:
        """What most of the rows hold in a column: text, transcript or messages; hostile values have no say."""
        kinds = Counter(
            "messages" if isinstance(value, (list, tuple, dict)) else "transcript" if is_transcript(value) else "text"
            for value in (row.get(column) for row in self.rows)
            if isinstance(value, (str, list, tuple, dict))
        )
        return kinds.most_common(1)[0][0] if kinds else "text"


def is_text(value: Any) -> bool:
    """A text."""
    return isinstance(value, str)


def is_list(value: Any) -> bool:
    """A list."""
    return isinstance(value, (list, tuple))


def is_text_list(value: Any) -> bool:
    """A list of texts, or a text that holds one as JSON; a place may be null."""
    value = as_list(value)
    return is_list(value) and any(map(is_text, value)) and all(item is None or is_text(item) for item in value)


def is_object(value: Any) -> bool:
    """An object of named values."""
    return isinstance(value, dict)


def is_number(value: Any) -> bool:
    """A number, or a text that is one; no boolean."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return False
    try:
        return isinstance(value, float) or math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def as_text(value: Any) -> str:
    """A value as text, without the whitespace around it."""
    try:
        return str(value).strip()
    except ValueError:  # an integer of more than 4,300 digits
        return ""


def word(value: Any) -> str:
    """A value as a word, whatever its case."""
    return as_text(value).lower()


def as_list(value: Any) -> Any:
    """The list that a text holds as JSON, as in a cell of a CSV file; the objects of an object of lists, as Parquet may
    hold them; anything else as it is."""
    if isinstance(value, dict) and value and all(isinstance(inner, (list, tuple)) for inner in value.values()):
        lengths = {len(inner) for inner in value.values()}
        if len(lengths) == 1:
            return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
