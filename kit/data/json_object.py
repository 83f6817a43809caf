"""The rows of a file that is one JSON object: a list in it, one of several splits, columns side by side, or itself."""

import json
from typing import Any

from kit.data import catalogue, names
from kit.data.json_array import decode
from kit.errors import DataError

# An object with one of these is a row, whatever lists stand in it.
_ROW_NAMES = {"chosen", "rejected", "text", "completion", *names.PROMPTS, *names.MESSAGES}


def rows_of_object(text: str, name: str, split: str | None, notes: list[str]) -> tuple[str, list[Any]] | None:
    """(what is said of their place, the rows); None if the text is not one object.

    Of several lists of rows `split` names one, else train is read and a note says so. DataError where there is no such
    split.
    """
    try:
        whole = decode(text)
    except (ValueError, RecursionError):
        if _is_several_objects(text):
            raise DataError(catalogue.SEVERAL_OBJECTS.format(name=name)) from None
        return None
    if not isinstance(whole, dict):
        return None
    lists = {key: value for key, value in whole.items() if isinstance(value, list) and _holds_rows(value)}
    if whole.get("train") == []:  # then the only other list is not taken for it
        lists["train"] = []
    if lists and not _ROW_NAMES & whole.keys():
        if len(lists) == 1 and split is None:
            return "", next(iter(lists.values()))
        return _of_split(lists, name, split, notes)
    if split:
        raise DataError(catalogue.NO_SPLITS.format(name=name, split=split))
    if len(whole) > 1 and all(isinstance(row, dict) and _ROW_NAMES & row.keys() for row in whole.values()):
        notes.append(catalogue.ROWS_BY_NAME.format(name=name, first=next(iter(whole))))
        return "", list(whole.values())
    columns = _columns(whole)
    if columns is not None:
        notes.append(catalogue.COLUMNS_READ.format(name=name, columns=", ".join(whole)))
        return "", columns
    return ("", [whole]) if "\n" in text.strip() else None  # one row on one line is JSON Lines


def _of_split(lists: dict[str, list[Any]], name: str, split: str | None, notes: list[str]) -> tuple[str, list[Any]]:
    wanted = split or "train"
    if wanted not in lists:
        raise DataError(catalogue.NO_SPLIT.format(name=name, wanted=wanted, found=sorted(lists)))
    others = [key for key in lists if key != wanted]
    if split is None:
        notes.append(catalogue.SPLIT_READ.format(name=name, split=wanted, others=", ".join(others)))
    return f" {wanted}", lists[wanted]


def _is_several_objects(text: str) -> bool:
    """Whether objects that go over many lines follow each other."""
    try:
        first, end = json.JSONDecoder().raw_decode(text.lstrip("\ufeff \r\n\t"))
    except (ValueError, RecursionError):
        return False
    rest = text.lstrip("\ufeff \r\n\t")[end:].lstrip(" \r\n\t,")
    return isinstance(first, dict) and rest.startswith("{") and "\n" in text.strip()[:end]


def _holds_rows(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict)


def _columns(whole: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of columns that stand side by side: lists of one length, or objects by row number, as pandas writes."""
    values = list(whole.values())
    if all(isinstance(value, dict) and value for value in values):
        numbers = list(values[0])
        if all(key.isdigit() for key in numbers) and all(list(value) == numbers for value in values):
            values = [list(value.values()) for value in values]
    if len(values) < 2 or not all(isinstance(value, list) and len(value) > 1 for value in values):
        return None
    texts = any(all(isinstance(item, str) for item in value) for value in values)
    if len({len(value) for value in values}) > 1 or not texts:
        return None
    return [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)]
