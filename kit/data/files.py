"""Rows of one file. What a file is, its content says before its name does: gzip, Parquet, JSON, JSON Lines, CSV."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kit.data.problems import Problems, excerpt, type_name
from kit.errors import DataError

_BOM = b"\xef\xbb\xbf"
_WRAPPERS = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet)",
    b"\xfd7zXZ\x00": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
_COLUMNS = {"chosen", "rejected", "prompt", "completion", "messages", "conversations", "text"}


class Row(NamedTuple):
    """One row as it stands in its source, and where that is."""

    where: str
    values: dict[str, Any]


def read_file(path: Path) -> list[Row]:
    """The rows of a JSON Lines, JSON, CSV or Parquet file, gzipped or not.

    Raises DataError if the file cannot be read or decoded, or with the list of its malformed rows.
    """
    name = path.name
    try:
        raw = _unzipped(path.read_bytes(), name)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if raw[:4] == b"PAR1":
        return _read_parquet(raw, name)
    for magic, what in _WRAPPERS.items():
        if raw.startswith(magic):
            raise DataError(f"{path}: this is {what}; unpack it, or save it as JSON Lines, CSV or Parquet.")
    text = _decoded(raw, name)
    if not text.strip():
        raise DataError(f"{path}: the file is empty; at least one row is wanted.")
    problems = Problems(name)
    rows = list(_read_text(text, name, Path(name.removesuffix(".gz")).suffix.lower(), problems))
    problems.raise_if_any()
    return rows


def as_row(where: str, values: Any, problems: Problems) -> Iterator[Row]:
    """The row, or nothing and one problem more if it is no object of named values."""
    if isinstance(values, dict):
        yield Row(where, values)
    else:
        problems.add(where, f"the row is {type_name(values)}, an object with named values is wanted")


def _unzipped(raw: bytes, name: str) -> bytes:
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: the gzip archive is damaged ({error}); fetch or write it again.") from error


def _decoded(raw: bytes, name: str) -> str:
    """The text of a UTF-8 file without its byte order mark; nothing is ever replaced to make it decode."""
    bom = len(_BOM) if raw.startswith(_BOM) else 0
    try:
        text = raw[bom:].decode("utf-8")
    except UnicodeDecodeError as error:
        guess = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        raise DataError(
            f"{name}: not UTF-8: byte 0x{raw[error.start + bom]:02x} at byte offset {error.start + bom:,}; "
            f"perhaps {guess}. Convert it: iconv -f {guess} -t UTF-8 {name} > utf8-{name}"
        ) from error
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise DataError(f"{name}:{line}: holds a NUL byte: a binary file, or a damaged one. Write it again as text.")
    return text


def _read_text(text: str, name: str, suffix: str, problems: Problems) -> Iterator[Row]:
    start = text.lstrip()[0]
    array = _json_array(text, name) if start == "[" else _wrapped_array(text) if start == "{" else None
    if array is not None:
        for number, values in enumerate(array, 1):
            yield from as_row(f"{name} row {number}", values, problems)
    elif start not in "[{" and (suffix in (".csv", ".tsv") or _has_known_header(text)):
        yield from _read_csv(text, name, problems)
    else:
        yield from _read_json_lines(text, name, problems)


def _read_json_lines(text: str, name: str, problems: Problems) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also cut at U+2028 inside a string
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            problems.add(f"{name}:{number}:{error.colno}", f"no JSON ({error.msg}): {excerpt(line.rstrip())}")
        except (ValueError, RecursionError) as error:
            problems.add(f"{name}:{number}", f"no JSON this kit reads ({error}): {excerpt(line.rstrip())}")
        else:
            yield from as_row(f"{name}:{number}", values, problems)


def _json_array(text: str, name: str) -> list[Any] | None:
    """The items of a JSON array; None if more follows it, as in JSON Lines of arrays."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        line = text.split("\n")[error.lineno - 1].rstrip()
        where = f"{name}:{error.lineno}:{error.colno}"
        raise DataError(f"{where}: no JSON ({error.msg}): {excerpt(line)}. Correct the file there.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: no JSON this kit reads ({error}).") from error


def _wrapped_array(text: str) -> list[Any] | None:
    """The rows of a file that is one JSON object: its only list ({"data": [...]}), or itself; None if it is not."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1 and not _COLUMNS & whole.keys():
        return lists[0]
    return [whole] if "\n" in text.strip() else None  # one row on one line is JSON Lines


def _has_known_header(text: str) -> bool:
    header = text.lstrip().split("\n", 1)[0]
    return bool(_COLUMNS & {cell.strip(' \r"') for cell in header.split(_delimiter(text))})


def _delimiter(text: str) -> str:
    """What parts the names in the first line that is not blank."""
    return max(",;\t", key=text.lstrip("\r\n").split("\n", 1)[0].count)


def _read_csv(text: str, name: str, problems: Problems) -> Iterator[Row]:
    # newline="" keeps line breaks inside quoted cells; strict=True refuses stray quotes instead of guessing.
    limit = csv.field_size_limit(len(text) + 1)  # the default refuses cells over 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        header = [cell.strip() for cell in next(cells for cells in reader if cells)]
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise DataError(f"{name}:1: the column(s) {twice} stand twice in the header; every name must be unique.")
        number = reader.line_num + 1
        for cells in reader:
            where, number = f"{name}:{number}", reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                problems.add(where, f"{len(cells)} cells, {len(header)} are wanted (quote cells that hold commas)")
                continue
            yield Row(where, {column: _cell(cell, where, problems) for column, cell in zip(header, cells, strict=True)})
    except csv.Error as error:
        problems.add(f"{name}:{reader.line_num}", f"no CSV ({error}); quote cells, and double the quotes inside them")
    finally:
        csv.field_size_limit(limit)


def _cell(cell: str, where: str, problems: Problems) -> Any:
    """The text of a cell, or the list of messages written into it as JSON."""
    if not cell.startswith("[{"):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        problems.add(where, f"a cell looks like a list of messages but is no JSON: {excerpt(cell)}")
        return cell


def _read_parquet(raw: bytes, name: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        values = pyarrow.parquet.read_table(pyarrow.BufferReader(raw)).to_pylist()
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise DataError(f"{name}: a damaged Parquet file ({str(error).splitlines()[0]}); write it again.") from error
    return [Row(f"{name} row {number}", row) for number, row in enumerate(values, 1)]
