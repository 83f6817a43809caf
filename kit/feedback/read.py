"""Judgements of several people from any file the kit reads: its own export, lists of ratings, preference data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from kit.crowd.judgements import Aside, Judgement, Judgements
from kit.data.files import Row
from kit.data.formats.head import Head, is_list, is_object
from kit.data.problems import RowProblem
from kit.data.sources import Source, read_source
from kit.errors import DataError
from kit.feedback.export import COLUMNS as EXPORTED
from kit.feedback.export import exported
from kit.feedback.opinions import Opinions
from kit.feedback.ratings import objectives_of, rated

_NOBODY = "{name}: {found} of {rows:,} judgements; agreement needs at least two people who are named. {advice}"
_NAMES = (
    "Say which column names them with `annotator`, or give every person a column, annotator1, annotator2, ...; "
    "docs/feedback.md has the forms"
)
_NO_OBJECTIVES = (
    "{name}: objective {objective!r}: read as {form}, which says one thing of each answer, while objectives are what "
    'was rated where rows hold ratings of several things (`prompts: {{objective: {{"human": [...]}}}}`). Leave it out '
    "(--objective), or name such a file; docs/feedback.md has the forms"
)
_MORE_PEOPLE = (
    "Add people with `kit label {name} --annotators ana,ben`. Of one person, repeated items tell self-consistency, and "
    "gold items how often they are right: sample the next project with them"
)


def read_judgements(source: Path | str | Sequence[dict[str, Any]], objective: str | None = None) -> Judgements:
    """All judgements of a file, a folder, a hub id or rows in memory, in the order in which they stand.

    `objective` names what was rated, where rows hold ratings of several things. Raises DataError where the source
    cannot be read, has none of the forms, holds no such objective, or names fewer than two people.
    """
    found = read_source(str(source) if isinstance(source, Path) else source, "the judgements", seed=0)
    head = Head(found.head)
    notes = list(found.notes)
    asides: dict[str, Aside] = {}
    chosen: str | None = None
    if head.columns >= EXPORTED:
        form = "a labelling project" if found.project else "judgements, one a line"
        found = replace(found, rows=_standing(found, notes) if "supersedes" in head.columns else found.rows)
        rows = _each(found, lambda row: _with_asides(row, asides))
    elif head.mostly("annotators", is_list) and head.mostly("prompts", is_object):
        chosen = _objective(found, head, objective)
        form = f"ratings by lists of annotators: {chosen}"
        rows = _each(found, lambda row: rated(row, chosen))
    else:
        opinions = Opinions(found, head)
        form = opinions.name
        rows = chain(_each(found, opinions.judgements), opinions.rest())
        notes += [opinions.note] * bool(opinions.note)
    if objective is not None and chosen is None:
        raise DataError(_NO_OBJECTIVES.format(name=found.name, objective=objective, form=form))
    judgements = list(rows)
    found.problems.raise_if_any(advice="Correct or remove these rows.")
    named = [row for row in judgements if row.annotator]
    if len(named) < len(judgements):
        notes.append(f"{len(judgements) - len(named):,} judgements that name nobody are left out")
    people = {row.annotator for row in named}
    named = _repeats_marked(named)
    if len(people) == 1 and any(row.repeat or row.gold is not None for row in named):
        notes.append("one person alone judged: agreement with others is unknown")
    elif len(people) < 2:
        only = "one person alone" if people else "nobody is named in any"
        advice = _MORE_PEOPLE.format(name=found.name) if found.project else _NAMES
        raise DataError(_NOBODY.format(name=found.name, found=only, rows=len(judgements), advice=advice))
    if found.project:  # where an item is, not who was the first to judge it
        named = [replace(row, where=row.where.removesuffix(f" by {row.annotator}")) for row in named]
    idle = sorted(asides.keys() - people)
    if idle:
        notes.append(f"skipped all that they were given: {', '.join(idle)}")
    return Judgements(found.name, form, named, notes, asides)


def _objective(found: Source, head: Head, objective: str | None) -> str:
    known = objectives_of(head)
    chosen = objective or ("overall" if "overall" in known else next(iter(known), None))
    if chosen is None or chosen not in known:
        listed = ", ".join(known) or "none"
        raise DataError(f"{found.name}: no ratings of {chosen or 'anything'}; rated were: {listed}. Name one of them")
    return chosen


def _with_asides(row: Row, asides: dict[str, Aside]) -> Iterator[Judgement]:
    """The judgement of a row of the kit's own form; what was said besides is counted. Rows without such keys say
    nothing."""
    yield from exported(row)
    values = row.values
    if values.keys() & {"skip", "none_acceptable", "comment"}:
        who = str(values["annotator"])
        one = asides.get(who, Aside())
        asides[who] = Aside(
            one.skipped + (values.get("ranks") is None),
            one.none_acceptable + (values.get("none_acceptable") is True),
            one.comments + bool(values.get("comment")),
        )


def _standing(found: Source, notes: list[str]) -> list[Row]:
    """The rows without those that a later one corrects."""
    rows = list(found.rows)
    corrected = {str(row.values["supersedes"]) for row in rows if row.values.get("supersedes") is not None}
    kept = [row for row in rows if str(row.values.get("id")) not in corrected]
    if len(kept) < len(rows):
        notes.append(f"left out what was corrected later: {len(rows) - len(kept):,}")
    return kept


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
