"""The kit's own file of judgements, one a line; docs/feedback.md has its keys. It carries everything."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kit.data.files import Row
from kit.data.formats.head import is_list
from kit.data.problems import RowProblem, type_name
from kit.feedback.export import COLUMNS, time_of
from kit.labelling.forms.said import Items, Said, comment_of, prompt_text, seconds_of

KEYS = COLUMNS


def said(row: Row, items: Items) -> Iterator[Said]:
    """The judgement of a line."""
    values = row.values
    names, texts = _names(values), values.get("texts")
    if texts is not None and (not is_list(texts) or len(texts) != len(names) or not all(map(_is_text, texts))):
        raise RowProblem(f"texts: wanted {len(names)} texts, one an answer; found {type_name(texts)}")
    if values.get("annotator") in (None, ""):
        raise RowProblem("annotator: wanted a name; found none")
    found = items.find(values.get("item"), _prompt(values), names, texts)
    skip = values.get("skip")
    ranks = values.get("ranks")
    if ranks is None and skip is None:
        skip = "no reason given"
    if ranks is not None and skip is not None:
        raise RowProblem("wanted either ranks or skip; found both")
    group = values.get("group")
    yield Said(
        where=row.where,
        annotator=str(values["annotator"]),
        item=found.item,
        ranks=None if ranks is None else found.ranks(ranks),
        skip=None if skip is None else comment_of(skip, "skip"),
        none_acceptable=values.get("none_acceptable") is True,
        comment=comment_of(values.get("comment")),
        shown=found.shown(values.get("shown")),
        seconds=seconds_of(values.get("seconds")),
        time=time_of(values.get("time"), "time"),
        group=None if group in (None, "") else str(group),
        guidelines=_sha256(values.get("guidelines_sha256")),
        id=None if values.get("id") is None else str(values["id"]),
        supersedes=None if values.get("supersedes") is None else str(values["supersedes"]),
    )


def _names(values: Mapping[str, Any]) -> list[str]:
    found = values.get("answers")
    if not isinstance(found, (list, tuple)) or len(set(map(str, found))) < len(found):
        raise RowProblem(f"answers: wanted a list of names, each once; found {type_name(found)}")
    return [str(name) for name in found]


def _sha256(value: Any) -> str:
    """The hash of the guidelines that were shown; empty where nobody knows."""
    if value in (None, ""):
        return ""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise RowProblem(f"guidelines_sha256: wanted 64 digits from 0 to f, or null; found {str(value)[:30]!a}")
    return value


def _prompt(values: Mapping[str, Any]) -> str | None:
    messages = values.get("messages")
    if isinstance(messages, (list, tuple)) and all(
        isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages
    ):
        return prompt_text([{"role": str(m["role"]), "content": str(m["content"])} for m in messages])
    return None if values.get("prompt") is None else str(values["prompt"])


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
