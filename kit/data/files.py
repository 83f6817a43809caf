"""Rows of one file. What a file is, its content says before its name does: gzip, Parquet, Arrow, JSON, JSON Lines, CSV.

Rows are read one by one: a JSON Lines, CSV, Parquet or Arrow file is never held in memory as a whole.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from kit.data import catalogue, names
from kit.data.problems import Problems, excerpt, type_name
from kit.errors import DataError

_BOM = b"\xef\xbb\xbf"
_GZIP, _PARQUET, _ARROW_FILE, _ARROW_STREAM = b"\x1f\x8b", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
_WRAPPERS = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet)",
    b"\xfd7zXZ\x00": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
# An object with one of these is a row, whatever lists stand in it.
_ROW_NAMES = {"chosen", "rejected", "text", "completion", *names.PROMPTS, *names.MESSAGES}
_MAX_CELL = 2**31 - 1


class Row(NamedTuple):
    """One row as it stands in its source, and where that is."""

    where: str
    values: dict[str, Any]


def read_file(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of a JSON Lines, JSON, CSV, TSV, Parquet or Arrow file, gzipped or not.

    Malformed rows are added to `problems`; DataError if the file cannot be read or decoded.
    """
    name = path.name
    try:
        with path.open("rb") as plain:
            magic = plain.read(6)
            plain.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=plain) if magic.startswith(_GZIP) else plain  # type: ignore[assignment]
            if magic.startswith(_GZIP):
                magic = stream.read(6)
                stream.seek(0)
            yield from _read_stream(stream, magic, path, problems)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(catalogue.DAMAGED_GZIP.format(name=name, error=error)) from error
    except OSError as error:
        raise DataError(catalogue.UNREADABLE.format(path=path, error=error.strerror or error)) from error


def as_row(where: str, values: Any, problems: Problems) -> Iterator[Row]:
    """The row, or nothing and one problem more if it is no object of named values."""
    if isinstance(values, dict):
        yield Row(where, values)
    else:
        problems.add(where, catalogue.ROW_NO_OBJECT.format(found=type_name(values)))


def _read_stream(stream: IO[bytes], magic: bytes, path: Path, problems: Problems) -> Iterator[Row]:
    if magic.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM)):
        yield from _read_arrow(stream, magic, path.name)
        return
    for wrapper, what in _WRAPPERS.items():
        if magic.startswith(wrapper):
            raise DataError(catalogue.WRAPPED.format(path=path, what=what))
    lines = _lines(stream, path.name)
    start: list[str] = []  # up to the first line that is not blank
    for line in lines:
        start.append(line)
        if line.strip():
            break
    else:
        raise DataError(catalogue.EMPTY_FILE.format(path=path))
    yield from _read_text(start, lines, path.name, problems)


def _lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """The lines of a UTF-8 file without its byte order mark; nothing is ever replaced to make it decode."""
    offset = 0
    for number, raw in enumerate(stream, 1):
        bom = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
        try:
            line = raw[bom:].decode("utf-8")
        except UnicodeDecodeError as error:
            guess = "UTF-16" if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
            at = error.start + bom
            raise DataError(
                catalogue.NOT_UTF8.format(name=name, byte=raw[at], offset=offset + at, guess=guess)
            ) from error
        if "\x00" in line:
            raise DataError(catalogue.NUL_BYTE.format(name=name, line=number))
        offset += len(raw)
        yield line


def _read_text(start: list[str], lines: Iterator[str], name: str, problems: Problems) -> Iterator[Row]:
    """The rows of a text whose first line that is not blank is the last of `start`."""
    first = start[-1].strip()
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    if first[0] not in "[{" and (suffix in (".csv", ".tsv") or _has_known_header(first)):
        yield from _read_csv(start, lines, name, problems)
        return
    if first[0] == "{" and _is_json(first):
        for line in lines:
            start.append(line)
            if line.strip():  # a second row: JSON Lines; else the file is one object, the rows perhaps inside it
                yield from _read_json_lines(enumerate(chain(start, lines), 1), name, problems)
                return
    text = "".join(chain(start, lines))
    array = _json_array(text, name) if first[0] == "[" else _wrapped_array(text) if first[0] == "{" else None
    if array is not None:
        for number, values in enumerate(array, 1):
            yield from as_row(f"{name} row {number}", values, problems)
    else:
        yield from _read_json_lines(enumerate(text.split("\n"), 1), name, problems)


def _read_json_lines(lines: Iterable[tuple[int, str]], name: str, problems: Problems) -> Iterator[Row]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line.rstrip("\r\n"))  # else an error at the end would be told of the next line
        except json.JSONDecodeError as error:
            problems.add(
                f"{name}:{number}:{error.colno}", catalogue.NO_JSON.format(why=error.msg, text=excerpt(line.rstrip()))
            )
        except (ValueError, RecursionError) as error:
            problems.add(f"{name}:{number}", catalogue.NO_JSON.format(why=error, text=excerpt(line.rstrip())))
        else:
            yield from as_row(f"{name}:{number}", values, problems)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_array(text: str, name: str) -> list[Any] | None:
    """The items of a JSON array; None if more follows it, as in JSON Lines of arrays."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        line = text.split("\n")[error.lineno - 1].rstrip()
        where = f"{name}:{error.lineno}:{error.colno}"
        raise DataError(catalogue.DAMAGED_JSON.format(where=where, why=error.msg, text=excerpt(line))) from error
    except (ValueError, RecursionError) as error:
        raise DataError(catalogue.UNREAD_JSON.format(name=name, error=error)) from error


def _wrapped_array(text: str) -> list[Any] | None:
    """The rows of a file that is one JSON object: its only list ({"data": [...]}), or itself; None if it is not."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1 and not _ROW_NAMES & whole.keys():
        return lists[0]
    return [whole] if "\n" in text.strip() else None  # one row on one line is JSON Lines


def _has_known_header(header: str) -> bool:
    return bool(names.COLUMNS & {cell.strip(' \r"') for cell in header.split(_delimiter(header))}) and (
        len(header.split(_delimiter(header))) > 1 or header.strip(' \r"') in names.COLUMNS
    )


def _delimiter(header: str) -> str:
    """What parts the names in the first line that is not blank."""
    return max(",;\t", key=header.count)


def _read_csv(start: list[str], lines: Iterator[str], name: str, problems: Problems) -> Iterator[Row]:
    # strict=True refuses stray quotes instead of guessing; the default limit refuses cells over 128 KiB.
    limit = csv.field_size_limit(_MAX_CELL)
    reader = csv.reader(chain(start, lines), delimiter=_delimiter(start[-1]), strict=True)
    try:
        header = [cell.strip() for cell in next(cells for cells in reader if cells)]
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise DataError(catalogue.COLUMN_STANDS_TWICE.format(name=name, columns=twice))
        number = reader.line_num + 1
        for cells in reader:
            where, number = f"{name}:{number}", reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                problems.add(where, catalogue.WRONG_CELLS.format(found=len(cells), wanted=len(header)))
                continue
            yield Row(where, {column: _cell(cell, where, problems) for column, cell in zip(header, cells, strict=True)})
    except csv.Error as error:
        problems.add(f"{name}:{reader.line_num}", catalogue.NO_CSV.format(error=error))
    finally:
        csv.field_size_limit(limit)


def _cell(cell: str, where: str, problems: Problems) -> Any:
    """The text of a cell, or the list of messages written into it as JSON."""
    if not cell.startswith("[{"):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        problems.add(where, catalogue.NO_MESSAGES_CELL.format(text=excerpt(cell)))
        return cell


def _read_arrow(stream: IO[bytes], magic: bytes, name: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    kind = "Parquet" if magic.startswith(_PARQUET) else "Arrow"
    try:
        if kind == "Parquet":
            batches = pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=1000)
        elif magic.startswith(_ARROW_FILE):
            file = pyarrow.ipc.open_file(stream)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            batches = iter(pyarrow.ipc.open_stream(stream))
        number = 0
        for batch in batches:
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{name} row {number}", values)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(catalogue.DAMAGED_ARROW.format(name=name, kind=kind, error=reason)) from error
