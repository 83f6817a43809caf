"""Judgements of a project written to a file, and taken from one: the kit's own form, Argilla's, Label Studio's.

What comes in is matched to the project's items by name, or by the words of prompt and answers. All of a file comes in,
or nothing: every line that cannot is told with its place.
"""

import json
import sqlite3
import time
import uuid
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kit.data.problems import RowProblem
from kit.data.sources import Source, read_source
from kit.errors import ConfigError, DataError, RunError
from kit.labelling.forms import argilla, label_studio, own
from kit.labelling.forms.said import Items, Said
from kit.labels.links import is_name
from kit.labels.project import OWN_FILES, Project
from kit.labels.rows import check_store, judgement_rows, note_words
from kit.labels.store import Arriving, InTheWay, Store, is_client
from kit.runs.files import write_text
from kit.runs.lock import run_lock

Form = Literal["kit", "argilla", "label-studio"]
_IMPORTED = uuid.uuid5(uuid.NAMESPACE_URL, "rlhf-kit/imported")
_SERVED = "Stop it first: a page that is being served would not know of what comes in"
_NO_FORM = (
    "{name}: no form of judgements that the kit takes in; found the columns {columns}. Wanted: the kit's own "
    "({own}), Argilla's records ({argilla}), or Label Studio's tasks ({label_studio})"
)


@dataclass(frozen=True)
class Imported:
    """What came in: judgements stored, those that were there already, whose they are, and what is to be known."""

    judgements: int
    again: int
    annotators: list[str]
    notes: list[str] = field(default_factory=list)


def export_file(project: Project, file: Path, form: Form, everything: bool = False) -> int:
    """Write what stands, and with `everything` what was corrected, too; returns how many judgements those are.

    The file is replaced as a whole. Raises DataError where the form has no place for what was corrected, and
    ConfigError for a place that is no file's, or is one of the project's own.
    """
    if not file.name or file.is_dir():
        raise ConfigError(f"{file}: is a folder; name a file, e.g. {file / 'judgements.jsonl'}")
    if file.resolve().parent == project.path.resolve() and file.name in OWN_FILES:
        raise ConfigError(f"{file}: is the project's own, and would be written over; name another file")
    if everything and form != "kit":
        raise DataError(f"what was corrected has no place in {form}'s form; leave it out, or take the kit's own form")
    rows = list(judgement_rows(project, everything))
    if form == "kit":
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    else:
        made = argilla.records(project, rows) if form == "argilla" else label_studio.tasks(project, rows)
        text = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
    try:
        write_text(file, text)
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror or error}") from None
    return len(rows)


def import_file(project: Project, file: Path) -> Imported:
    """Take the judgements of a file into a project, each once however often the file comes.

    Raises DataError with every line that has no item here, is malformed, or contradicts what stands, and RunError
    while the project's page is served; then nothing came in.
    """
    source = read_source(str(file), "the judgements", seed=0)
    remarks: Counter[str] = Counter()
    found = list(_said(source, Items(project), remarks))
    source.problems.raise_if_any(advice="Correct or remove these rows; nothing was taken in.")
    notes = [*source.notes, *(f"{text} ({count:,} time{'s'[: count > 1]})" for text, count in remarks.items())]
    undated = sum(one.time is None for one in found)
    if undated:
        notes.append(f"{undated:,} judgements do not say when they were made; now is taken for it")
    unplaced = sum(not one.shown for one in found)
    if unplaced:
        notes.append(f"{unplaced:,} judgements do not say in which order the answers were shown; it stays unknown")
    arriving = _arriving(found, time.time())
    with ExitStack() as stack:
        try:
            stack.enter_context(run_lock(project.path, otherwise=_SERVED))
        except OSError as error:
            raise RunError(f"{project.path}: cannot be written: {error.strerror or error}") from None
        store = stack.enter_context(closing(Store(project.store)))
        check_store(project, store)
        note_words(project, store, time.time())
        try:
            stored = store.take_in(arriving)
        except InTheWay as error:
            where = found[error.number].where
            raise DataError(f"{where}: {error}; nothing was taken in") from None
        except sqlite3.Error as error:
            raise RunError(f"{project.store}: cannot be written: {error}; nothing was taken in") from None
    people = sorted({one.annotator for one in found})
    return Imported(stored, len(found) - stored, people, notes)


def _said(source: Source, items: Items, remarks: Counter[str]) -> list[Said]:
    """What the rows say; problems are left with the source, told together."""
    columns = {str(name) for row in source.head for name in row.values}
    form = next((one for one in (own, argilla, label_studio) if columns >= one.KEYS), None)
    if form is None:
        raise DataError(
            _NO_FORM.format(
                name=source.name,
                columns=", ".join(sorted(columns)) or "none",
                own=", ".join(sorted(own.KEYS)),
                argilla=", ".join(sorted(argilla.KEYS)),
                label_studio=", ".join(sorted(label_studio.KEYS)),
            )
        )
    found: list[Said] = []
    for row in source.rows:
        try:
            told = own.said(row, items) if form is own else form.said(row, items, remarks)  # type: ignore[attr-defined]
            for one in told:
                if not is_name(one.annotator):
                    raise RowProblem(f"annotator: {one.annotator[:40]!a} is no name of 64 characters at most")
                if one.group is not None and not is_name(one.group):
                    raise RowProblem(f"group: {one.group[:40]!a} is no name of 64 characters at most")
                found.append(one)
        except RowProblem as problem:
            source.problems.add(row.where, str(problem))
    return found


def _arriving(found: list[Said], now: float) -> list[Arriving]:
    """The judgements as the store takes them. Ids are the file's, or made of what was said: the same each time."""
    clients: dict[str, str] = {}
    made = []
    for one in found:
        content = [one.id, one.annotator, one.item.name, one.ranks, one.skip, one.none_acceptable, one.comment]
        client = one.id if one.id is not None and is_client(one.id) else str(uuid.uuid5(_IMPORTED, json.dumps(content)))
        if one.id is not None:
            clients[one.id] = client
        given = Arriving(
            annotator=one.annotator,
            group=one.group,
            item=one.item.name,
            shown=one.shown,
            client=client,
            ranks=one.ranks,
            skip=one.skip,
            none_acceptable=one.none_acceptable,
            comment=one.comment,
            seconds=one.seconds,
            guidelines=one.guidelines,
            time=now if one.time is None else one.time,
            supersedes=None if one.supersedes is None else clients.get(one.supersedes, one.supersedes),
        )
        made.append(given)
    return made
