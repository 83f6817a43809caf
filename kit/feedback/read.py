"""Judgements of several people from any file the kit reads: its own export, lists of ratings, preference data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from kit.crowd.judgements import Judgement, Judgements
from kit.data.files import Row
from kit.data.formats.head import Head, is_list, is_object
from kit.data.problems import RowProblem
from kit.data.sources import Source, read_source
from kit.errors import DataError
from kit.feedback.export import COLUMNS as EXPORTED
from kit.feedback.export import exported
from kit.feedback.opinions import Opinions
from kit.feedback.ratings import objectives_of, rated

_NOBODY = (
    "{name}: {found} of {rows:,} judgements; agreement needs at least two people who are named. Say which column names "
    "them with `annotator`, or give every person a column, annotator1, annotator2, ...; docs/feedback.md has the forms"
)


def read_judgements(source: Path | str | Sequence[dict[str, Any]], objective: str | None = None) -> Judgements:
    """All judgements of a file, a folder, a hub id or rows in memory, in the order in which they stand.

    `objective` names what was rated, where rows hold ratings of several things. Raises DataError where the source
    cannot be read, has none of the forms, or names fewer than two people.
    """
    found = read_source(str(source) if isinstance(source, Path) else source, "the judgements", seed=0)
    head = Head(found.head)
    notes = list(found.notes)
    if head.columns >= EXPORTED:
        form, rows = "judgements, one a line", _each(found, exported)
    elif head.mostly("annotators", is_list) and head.mostly("prompts", is_object):
        chosen = _objective(found, head, objective)
        form = f"ratings by lists of annotators: {chosen}"
        rows = _each(found, lambda row: rated(row, chosen))
    else:
        opinions = Opinions(found, head)
        form = opinions.name
        rows = chain(_each(found, opinions.judgements), opinions.rest())
        notes += [opinions.note] * bool(opinions.note)
    judgements = list(rows)
    found.problems.raise_if_any()
    named = [row for row in judgements if row.annotator]
    if len(named) < len(judgements):
        notes.append(f"{len(judgements) - len(named):,} judgements that name nobody are left out")
    people = {row.annotator for row in named}
    if len(people) < 2:
        only = "one person alone" if people else "nobody is named in any"
        raise DataError(_NOBODY.format(name=found.name, found=only, rows=len(judgements)))
    return Judgements(found.name, form, _repeats_marked(named), notes)


def _objective(found: Source, head: Head, objective: str | None) -> str:
    known = objectives_of(head)
    chosen = objective or ("overall" if "overall" in known else next(iter(known), None))
    if chosen is None or chosen not in known:
        listed = ", ".join(known) or "none"
        raise DataError(f"{found.name}: no ratings of {chosen or 'anything'}; rated were: {listed}. Name one of them")
    return chosen


def _each(found: Source, read: Callable[[Row], Iterator[Judgement]]) -> Iterator[Judgement]:
    """What each row gives; rows that are wrong go to the source's problems, which are told together."""
    for row in found.rows:
        try:
            yield from read(row)
        except RowProblem as problem:
            found.problems.add(row.where, str(problem))


def _repeats_marked(rows: Sequence[Judgement]) -> list[Judgement]:
    """The judgements; the later one of two by one person on the same answers of an item counts as a repeat."""
    seen: set[tuple[str, str, frozenset[str]]] = set()
    marked = []
    for row in rows:
        key = row.annotator, row.item, frozenset(row.answers)
        marked.append(replace(row, repeat=True) if key in seen and not row.repeat else row)
        seen.add(key)
    return marked
