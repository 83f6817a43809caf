"""What is wrong with a source, gathered, so that one message shows it all instead of one mistake a run."""

from typing import Any

from kit.data import catalogue
from kit.errors import DataError

SHOWN = 20
_TYPE_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    bytes: "binary data",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}


class RowProblem(Exception):
    """A row that the user must put right; its text says what was found and what was wanted."""


class Unusable(Exception):
    """A well-formed row that holds nothing to learn from: it is dropped and counted. Its text is the reason."""


class NoForm(DataError):
    """The rows of a source have none of the known forms."""


class Problems:
    """The problems of one source: all are counted, the first `SHOWN` are kept for the message."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.count = 0
        self.first = ""  # where the first problem is
        self._first: list[str] = []

    def add(self, where: str, text: str) -> None:
        """Count one more problem; the first ones are kept to be shown."""
        self.count += 1
        self.first = self.first or where
        if len(self._first) < SHOWN:
            self._first.append(f"  {where}: {text}")

    def raise_if_any(self, allowed: int = 0, advice: str = catalogue.CORRECT_ROWS) -> None:
        """Do nothing, or raise one DataError that lists the problems with their places, if more than are allowed."""
        if self.count <= allowed:
            return
        shown = f", the first {SHOWN} are shown" if self.count > SHOWN else ""
        problems = "1 problem" if self.count == 1 else f"{self.count:,} problems"
        listed = "\n".join(self._first)
        raise DataError(
            catalogue.PROBLEMS.format(name=self.source, problems=problems, shown=shown, listed=listed, advice=advice)
        )


def type_name(value: Any) -> str:
    """What a value is, in words a person who reads JSON knows."""
    return _TYPE_NAMES.get(type(value), f"a {type(value).__name__}")


def excerpt(text: str, characters: int = 80) -> str:
    """The beginning of a text, quoted, safe to print on any terminal."""
    return ascii(text[:characters]) + ("…" if len(text) > characters else "")
