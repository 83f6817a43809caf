"""Judgements from the kit's forms of preference data, read by the very readers that training uses."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from kit.crowd.judgements import Judgement, kind_of
from kit.data.files import Row
from kit.data.formats.head import Head
from kit.data.formats.recognise import preferences_form
from kit.data.opinions import Opinion
from kit.data.problems import RowProblem, Unusable
from kit.data.rows import prompt_key
from kit.data.sources import Source
from kit.feedback.export import time_of

_SECONDS = ("seconds", "duration_seconds", "time_spent_seconds")
_TIMES = ("time", "timestamp", "tstamp", "created_at", "submitted_at")
_SHOWN = 120  # characters of a prompt


class Opinions:
    """Reads the rows of a source of preferences; what it takes for granted stands in `note`."""

    def __init__(self, source: Source, head: Head) -> None:
        self._form = preferences_form(head, source.name)
        self.name = self._form.name
        self._remarks: Counter[str] = Counter()
        self.note = (
            "the first of two answers is taken as the one shown first; where that is not so, the position figures say "
            "nothing"
            if self._form.shown_in_order
            else ""
        )

    def judgements(self, row: Row) -> Iterator[Judgement]:
        """The judgements of a row."""
        try:
            opinions = self._form.read(row.values, row.where, self._remarks)
            yield from self._of(opinions, row.values)
        except Unusable:
            return

    def rest(self) -> Iterator[Judgement]:
        """Those that only follow once all rows were read."""
        yield from self._of(self._form.rest(), {})

    def _of(self, opinions: Iterable[Opinion], values: dict[str, Any]) -> Iterator[Judgement]:
        for opinion in opinions:
            names = tuple(_name(answer.text) for answer in opinion.answers)
            if len(set(names)) < len(names):  # two equal answers are no choice
                continue
            yield Judgement(
                annotator=(opinion.annotator or "").removesuffix(f" of {opinion.where}"),
                item=prompt_key(opinion.prompt)[:12],
                kind=kind_of(names),
                answers=names,
                values=tuple(answer.value for answer in opinion.answers),
                where=opinion.where,
                shown=names if self._form.shown_in_order else None,
                seconds=_seconds(values),
                time=_time(values),
                group=None if values.get("group") in (None, "") else str(values["group"]),
                lengths=tuple(len(answer.text) for answer in opinion.answers),
                text=opinion.prompt[-1]["content"][:_SHOWN],
            )


def _name(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _seconds(values: dict[str, Any]) -> float | None:
    found = next((values[name] for name in _SECONDS if values.get(name) is not None), None)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) and found >= 0 else None


def _time(values: dict[str, Any]) -> float | None:
    """When a row was judged; a column of that name that holds something else is no reason to refuse the file."""
    for name in _TIMES:
        if values.get(name) is not None:
            try:
                return time_of(values[name], name)
            except RowProblem:
                return None
    return None
