"""Where rows come from: memory, the demo world, a file, a saved folder or the hub. Every row keeps its origin."""

import difflib
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from kit.data import catalogue, names
from kit.data.files import Row, as_row, read_file
from kit.data.hub import read_folder, read_hub, rows_of_dataset
from kit.data.problems import Problems, type_name
from kit.errors import DataError
from kit.labels.project import is_project

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".gz", ".zip")


HEAD = 100  # rows looked at to recognise a form


@dataclass(frozen=True)
class Source:
    """The rows of one source as they are found, read once and one by one, and the first of them to look at."""

    name: str  # as messages and notes call it: "hh.jsonl.gz", "org/name", "data.preferences"
    rows: Iterable[Row]
    notes: list[str] = field(default_factory=list)
    head: list[Row] = field(default_factory=list)
    problems: Problems = field(default_factory=lambda: Problems(""))  # grow while the rows are read
    project: bool = False  # a labelling project: its rows are judgements, whatever columns others have


def read_source(value: Any, setting: str, seed: int) -> Source:
    """The rows of a source as the config names it; `setting` ("data.preferences") names rows in memory.

    Raises DataError if there is no such source, it cannot be read, or it holds no row; some of it only when the rows
    are read.
    """
    source = _read(value, setting, seed)
    rows = iter(source.rows)
    head = list(islice(rows, HEAD))
    if not head:
        source.problems.raise_if_any()
        raise DataError(catalogue.NO_ROWS.format(name=source.name))
    return replace(source, rows=chain(head, rows), head=head)


def renamed(source: Source, columns: Mapping[str, str]) -> Source:
    """The source with its columns under the kit's names: `columns` is the kit's name -> the source's.

    A name that is no column but a key within a list of objects is read there. Raises DataError for a name that the
    first rows do not hold, or where the kit's name is taken.
    """
    found, inside = _columns(source), _keys_within(source)
    require_known(source, columns)
    for ours, theirs in columns.items():
        if not has_column(source, theirs):
            raise DataError(absent_column(source, ours, theirs))
        if theirs in found and ours in found and ours != theirs and ours not in columns.values():
            raise DataError(catalogue.COLUMN_TWICE.format(name=source.name, ours=ours, theirs=theirs))

    def rename(values: dict[str, Any]) -> dict[str, Any]:
        taken = {theirs: ours for ours, theirs in columns.items()}
        new = {taken.get(str(name), str(name)): value for name, value in values.items()}
        for theirs, ours in taken.items():
            if theirs in found:
                continue
            if theirs not in inside:
                new |= _from_within(values, ours, theirs)
                continue
            for name, value in new.items():
                if isinstance(value, (list, tuple)):
                    new[name] = [
                        {**item, ours: item[theirs]} if isinstance(item, dict) and theirs in item else item
                        for item in value
                    ]
        return new

    def rows() -> Iterable[Row]:
        return (Row(where, rename(values)) for where, values in source.rows)

    head = [Row(where, rename(values)) for where, values in source.head]
    return replace(source, rows=rows(), head=head)


def require_known(source: Source, columns: Mapping[str, str]) -> None:
    """Raise DataError for a name on the left of `data.columns` that means nothing to the kit."""
    for ours, theirs in columns.items():
        if ours not in names.COLUMNS:
            hint = did_you_mean(ours, names.COLUMNS)
            swapped = catalogue.COLUMN_SWAPPED.format(ours=ours, theirs=theirs) if theirs in names.COLUMNS else ""
            raise DataError(catalogue.COLUMN_UNKNOWN_NAME.format(name=source.name, ours=ours, hint=hint + swapped))


def has_column(source: Source, name: str) -> bool:
    """Whether the first rows have such a column, a key of objects in a list, or a dotted path to a value."""
    return name in _columns(source) | _keys_within(source) or name.split(".")[0] in _columns(source)


def absent_column(source: Source, ours: str, theirs: str) -> str:
    """The text for a name of `data.columns` that is no column of the source."""
    found = _columns(source)
    listed = ", ".join(sorted(found)) or "none"
    return catalogue.COLUMN_NOT_FOUND.format(
        name=source.name, ours=ours, theirs=theirs, columns=listed, hint=did_you_mean(theirs, found)
    )


def _columns(source: Source) -> set[str]:
    return {str(name) for row in source.head for name in row.values}


def _keys_within(source: Source) -> set[str]:
    """The keys of objects that stand in lists, as answers with their scores do."""
    return {
        str(key)
        for row in source.head
        for value in row.values.values()
        if isinstance(value, (list, tuple))
        for item in value
        if isinstance(item, dict)
        for key in item
    }


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean X?", where X is close to the word; else nothing."""
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _from_within(values: dict[str, Any], ours: str, path: str) -> dict[str, Any]:
    """The value at a dotted path, `question.full_text`, under the kit's name; nothing where the path leads nowhere."""
    value: Any = values
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return {}
        value = value[key]
    return {ours: value}


def _read(value: Any, setting: str, seed: int) -> Source:
    if isinstance(value, (str, Path)):
        return _read_path(str(value), None, None, None, setting, seed)
    if hasattr(value, "column_names"):  # a Dataset or DatasetDict, known without importing the library
        return Source(setting, rows_of_dataset(value, setting, None), problems=Problems(setting))
    if isinstance(value, Mapping):
        options = {key: value.get(key) for key in ("name", "split", "revision")}
        return _read_path(str(value["path"]), **options, setting=setting, seed=seed)
    if isinstance(value, (list, tuple)):
        problems = Problems(setting)
        rows = (
            row for number, values in enumerate(value, 1) for row in as_row(f"{setting} row {number}", values, problems)
        )
        return Source(setting, rows, problems=problems)
    raise DataError(catalogue.NO_SOURCE.format(setting=setting, found=type_name(value)))


def _read_path(text: str, name: str | None, split: str | None, revision: str | None, setting: str, seed: int) -> Source:
    if text == "demo":
        _refuse_options(text, name=name, split=split, revision=revision)
        return Source("demo", _demo_rows(setting, seed), problems=Problems("demo"))
    path = Path(text).expanduser()
    kind = _kind(path)
    if kind is not None and stat.S_ISDIR(kind) and is_project(path):
        _refuse_options(text, name=name, split=split, revision=revision)
        return read_project(path, setting)
    if kind is not None and stat.S_ISDIR(kind):
        _refuse_options(text, name=name, revision=revision)
        return Source(path.name, read_folder(path, split), problems=Problems(path.name))
    if kind is not None:
        if not stat.S_ISREG(kind):  # reading a pipe would wait for ever, a device may never end
            what = "a pipe" if stat.S_ISFIFO(kind) else "a socket" if stat.S_ISSOCK(kind) else "a device"
            raise DataError(catalogue.NO_PLAIN_FILE.format(path=path, what=what))
        _refuse_options(text, name=name, revision=revision)
        problems, notes = Problems(path.name), list[str]()
        return Source(path.name, read_file(path, problems, split, notes), notes, problems=problems)
    near = _near_names(path)
    if near or not _HUB_ID.fullmatch(text) or text.lower().endswith(_FILE_SUFFIXES):
        raise DataError(catalogue.NO_SUCH_SOURCE.format(setting=setting, why=_no_such_file(text, path, near)))
    if (others := projects_in(path.parent)) or text.startswith("labels/"):
        listed = f"there are {', '.join(others)}" if others else f"looked in {path.parent.resolve()}"
        raise DataError(catalogue.NO_PROJECT.format(setting=setting, text=text, found=listed))
    rows, notes = read_hub(text, name, split, revision)
    return Source(text, rows, notes, problems=Problems(text))


def read_project(path: Path, setting: str) -> Source:
    """What people said in a labelling project; DataError where nobody has said anything yet.

    Also while a server writes to it: what it holds when this is called.
    """
    from kit.labels.project import open_project
    from kit.labels.rows import judgement_rows

    full = path.resolve()
    name = f"{full.parent.name}/{full.name}"
    found = [
        Row(f"{name}: item {values['item']} by {values['annotator']}", values)
        for values in judgement_rows(open_project(full))
    ]
    if not found:
        use = "learn from" if setting.startswith("data.") else "measure"
        here = full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full
        raise DataError(catalogue.NOBODY_YET.format(name=name, use=use, path=here))
    return Source(name, found, problems=Problems(name), project=True)


def projects_in(folder: Path) -> list[str]:
    """The labelling projects that lie in a folder, by name."""
    try:
        return sorted(str(entry) for entry in folder.iterdir() if is_project(entry))
    except OSError:
        return []


def _kind(path: Path) -> int | None:
    """What a path leads to, as `stat` says it; None where there is nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a loop of links, a folder that may not be entered, a name too long
        why = getattr(error, "strerror", None) or error
        raise DataError(catalogue.UNREADABLE.format(path=path if len(str(path)) < 300 else "…", error=why)) from error


def _demo_rows(setting: str, seed: int) -> list[Row]:
    from kit.demo import world

    values = world.demonstration_rows(seed) if setting == "data.demonstrations" else world.preference_rows(seed)
    return [Row(f"demo row {number}", row) for number, row in enumerate(values, 1)]


def _refuse_options(text: str, **options: str | None) -> None:
    given = [key for key, value in options.items() if value is not None]
    if given:
        raise DataError(catalogue.NO_OPTIONS.format(text=text, options=", ".join(given)))


def _near_names(path: Path) -> list[str]:
    """Files and folders beside the missing path whose names look like it."""
    try:
        beside = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return []
    return difflib.get_close_matches(path.name, beside, n=3)


def _no_such_file(text: str, path: Path, near: list[str]) -> str:
    if near:
        return catalogue.NEAR_FILES.format(text=text, near=" or ".join(str(path.parent / name) for name in near))
    if not path.parent.is_dir():
        return catalogue.NO_FOLDER.format(text=text, folder=path.parent, here=Path.cwd())
    return catalogue.NO_FILE.format(text=text, folder=path.parent.resolve())
