"""Where rows come from: memory, the demo world, a file, a saved folder or the hub. Every row keeps its origin."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.data.files import Row, as_row, read_file
from kit.data.hub import read_folder, read_hub, rows_of_dataset
from kit.data.problems import Problems, type_name
from kit.errors import DataError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".gz", ".zip")


@dataclass(frozen=True)
class Source:
    """The rows of one source, at least one, as they were found."""

    name: str  # as messages and notes call it: "hh.jsonl.gz", "org/name", "data.preferences"
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def read_source(value: Any, setting: str, seed: int) -> Source:
    """The rows of a source as the config names it; `setting` ("data.preferences") names rows in memory.

    Raises DataError if there is no such source, it cannot be read, or it holds no row.
    """
    source = _read(value, setting, seed)
    if not source.rows:
        raise DataError(f"{source.name}: 0 rows; at least one is wanted.")
    return source


def _read(value: Any, setting: str, seed: int) -> Source:
    if isinstance(value, (str, Path)):
        return _read_path(str(value), None, None, None, setting, seed)
    if hasattr(value, "column_names"):  # a Dataset or DatasetDict, known without importing the library
        return Source(setting, rows_of_dataset(value, setting, None))
    if isinstance(value, Mapping):
        options = {key: value.get(key) for key in ("name", "split", "revision")}
        return _read_path(str(value["path"]), **options, setting=setting, seed=seed)
    if isinstance(value, (list, tuple)):
        problems = Problems(setting)
        rows = [
            row for number, values in enumerate(value, 1) for row in as_row(f"{setting} row {number}", values, problems)
        ]
        problems.raise_if_any()
        return Source(setting, rows)
    raise DataError(
        f"{setting}: found {type_name(value)}; a path, a hub id, a Dataset or a list of rows (dict) is wanted."
    )


def _read_path(text: str, name: str | None, split: str | None, revision: str | None, setting: str, seed: int) -> Source:
    if text == "demo":
        _refuse_options(text, name=name, split=split, revision=revision)
        return Source("demo", _demo_rows(setting, seed))
    path = Path(text).expanduser()
    if path.is_dir():
        _refuse_options(text, name=name, revision=revision)
        return Source(path.name, read_folder(path, split))
    if path.exists():
        _refuse_options(text, name=name, split=split, revision=revision)
        return Source(path.name, read_file(path))
    near = _near_names(path)
    if near or not _HUB_ID.fullmatch(text) or text.lower().endswith(_FILE_SUFFIXES):
        raise DataError(f"{setting}: {_no_such_file(text, path, near)}")
    rows, notes = read_hub(text, name, split, revision)
    return Source(text, rows, notes)


def _demo_rows(setting: str, seed: int) -> list[Row]:
    from kit.demo import world

    values = world.demonstration_rows(seed) if setting == "data.demonstrations" else world.preference_rows(seed)
    return [Row(f"demo row {number}", row) for number, row in enumerate(values, 1)]


def _refuse_options(text: str, **options: str | None) -> None:
    given = [key for key, value in options.items() if value is not None]
    if given:
        raise DataError(f"{text}: {', '.join(given)} cannot be chosen for a local source; remove it from the config.")


def _near_names(path: Path) -> list[str]:
    """Files and folders beside the missing path whose names look like it."""
    try:
        beside = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return []
    return difflib.get_close_matches(path.name, beside, n=3)


def _no_such_file(text: str, path: Path, near: list[str]) -> str:
    if near:
        return f"no such file: {text}; did you mean {' or '.join(str(path.parent / name) for name in near)}?"
    if not path.parent.is_dir():
        return f"no such file: {text}; the folder {path.parent} does not exist either (looked from {Path.cwd()})."
    return f"no such file: {text} (looked in {path.parent.resolve()}). A hub data set is written org/name."
