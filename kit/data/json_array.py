"""The items of a JSON array, read one by one: an array of any length never stands in memory as a whole."""

import json
import re
from collections.abc import Iterator
from typing import Any

from kit.data import catalogue
from kit.data.problems import Problems, excerpt
from kit.errors import DataError

MAX_ROW_BYTES = 16 * 2**20  # of one line, one cell or one item: a row of text that no tokenizer was made for
_SPACE = re.compile(r"[ \t\r\n]*")
_NEAR_THE_END = 16  # characters: an escape, a number or a literal may be cut by the end of what was read so far


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the pairs; ValueError where a name stands twice, of which `json` would keep the last in silence."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(catalogue.NAME_TWICE.format(name=next(name for name in names if names.count(name) > 1)))
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
decode = _DECODER.decode


class JsonArray:
    """Reads the array that a text opens with; `pieces` are the parts of the text, cut anywhere."""

    def __init__(self, pieces: Iterator[str], name: str) -> None:
        self._pieces, self._name = pieces, name
        self._text, self._at = "", 0
        self._line, self._column = 1, 0  # of the beginning of `_text`, in the file

    def items(self, problems: Problems) -> Iterator[Any]:
        """Each item; DataError, with line and column, where the text is no JSON or an item is too long."""
        self._next()
        self._at += 1  # the bracket
        separator = "["
        while separator != "]":
            if self._next() == "]" and separator == "[":
                break
            yield self._item()
            separator = self._next()
            if separator not in (",", "]"):
                raise self._damaged(self._at, "Expecting ',' delimiter")
            self._at += separator == ","
        self._at += 1
        if self._next():
            problems.add(f"{self._name}:{self._place(self._at)[0]}", catalogue.MORE_AFTER_LIST)

    def _item(self) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) - _NEAR_THE_END or not self._more():  # 0 may go on as 0.5
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_THE_END
                if not cut:
                    raise self._damaged(error.pos, error.msg) from error
                if len(self._text) - self._at > MAX_ROW_BYTES:
                    where = f"{self._name}:{self._place(self._at)[0]}"
                    raise DataError(catalogue.LONG_ROW.format(where=where, mib=MAX_ROW_BYTES // 2**20)) from error
                if not self._more():
                    raise self._damaged(error.pos, error.msg) from error
            except (ValueError, RecursionError) as error:
                raise DataError(catalogue.UNREAD_JSON.format(name=self._name, error=error)) from error

    def _next(self) -> str:
        """The next character that is no white space, where reading goes on; "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing too
            if self._at > MAX_ROW_BYTES // 16:  # what was read is let go
                line, column = self._place(self._at)
                self._line, self._column, self._text, self._at = line, column - 1, self._text[self._at :], 0
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        piece = next(self._pieces, None)
        self._text += piece or ""
        return piece is not None

    def _place(self, at: int) -> tuple[int, int]:
        """Line and column in the file, both from 1, of a character of the text at hand."""
        lines = self._text.count("\n", 0, at)
        column = at - self._text.rindex("\n", 0, at) if lines else self._column + at + 1
        return self._line + lines, column

    def _damaged(self, at: int, why: str) -> DataError:
        line, column = self._place(at)
        start = self._text.rfind("\n", 0, at) + 1
        text = excerpt(self._text[start : start + 200].split("\n")[0].rstrip())
        return DataError(catalogue.DAMAGED_JSON.format(where=f"{self._name}:{line}:{column}", why=why, text=text))
