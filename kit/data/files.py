"""Rows of one file. What a file is, its content says before its name does: gzip, Parquet, Arrow, JSON, JSON Lines, CSV.

Rows are read one by one: a file is never held in memory as a whole, but for a JSON object that wraps a list. What a
row, and what an archive unpacks to, has a limit, so that a hostile file ends in a message.
"""

import codecs
import csv
import gzip
import io
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from kit.data import catalogue, names
from kit.data.json_array import MAX_ROW_BYTES, JsonArray, decode
from kit.data.json_object import rows_of_object
from kit.data.problems import Problems, excerpt, type_name
from kit.errors import DataError

_BOM = b"\xef\xbb\xbf"
_GZIP, _PARQUET, _ARROW_FILE, _ARROW_STREAM = b"\x1f\x8b", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
_WRAPPERS = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet)",
    b"SQLite format 3\x00": "a SQLite database (of a labelling project, name the folder)",
    b"\xfd7zXZ\x00": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    _GZIP: "a gzip archive within a gzip archive",
}
_NO_DATA = {
    "version https://git-lfs": catalogue.LFS_POINTER,
    "<!doctype html": catalogue.WEB_PAGE,
    "<html": catalogue.WEB_PAGE,
}
_MAX_WHOLE_CHARACTERS = 2**28  # of a JSON object that wraps a list
_MAX_EXPANSION = 200  # times an archive's own size; text packs 3 to 20 times, and deflate 1,032 times at most
_MAX_BLANK_LINES = 100_000
_SUSPICIOUS_BYTES = 2**26  # up to here an archive may expand as it likes


class Row(NamedTuple):
    """One row as it stands in its source, and where that is."""

    where: str
    values: dict[str, Any]


def read_file(
    path: Path, problems: Problems, split: str | None = None, notes: list[str] | None = None
) -> Iterator[Row]:
    """The rows of a JSON Lines, JSON, CSV, TSV, Parquet or Arrow file, gzipped or not.

    `split` names one of several lists of rows in a JSON object (else train, with a note). Malformed rows are added to
    `problems`; DataError if the file cannot be read or decoded.
    """
    name = path.name
    try:
        with path.open("rb") as plain:
            before = os.fstat(plain.fileno())
            magic = plain.read(6)
            plain.seek(0)
            stream: IO[bytes] = plain
            if magic.startswith(_GZIP):
                stream = io.BufferedReader(_Unpacked(plain, name), 2**16)
                magic = stream.peek(6)[:6]
            yield from _read_stream(stream, magic, path, problems, split, [] if notes is None else notes)
            after = os.fstat(plain.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DataError(catalogue.CHANGED.format(name=name))
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


class _Unpacked(io.RawIOBase):
    """What a gzip archive holds; DataError once it is far more than the archive's size explains."""

    def __init__(self, packed: IO[bytes], name: str) -> None:
        self._packed, self._name = packed, name
        self._content = gzip.GzipFile(fileobj=packed)
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._content.read(len(buffer))
        buffer[: len(content)] = content
        self._bytes += len(content)
        if self._bytes > max(_SUSPICIOUS_BYTES, _MAX_EXPANSION * self._packed.tell()):
            raise DataError(catalogue.BOMB.format(name=self._name, times=_MAX_EXPANSION))
        return len(content)


def _read_stream(
    stream: IO[bytes], magic: bytes, path: Path, problems: Problems, split: str | None, notes: list[str]
) -> Iterator[Row]:
    if magic.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM)):
        _refuse_split(split, path.name)
        with tempfile.TemporaryFile() as unpacked:
            if not stream.seekable():  # these are read from their end
                for piece in iter(lambda: stream.read(2**20), b""):
                    unpacked.write(piece)
                unpacked.seek(0)
                stream = unpacked
            yield from _read_arrow(stream, magic, path.name)
        return
    start_bytes = stream.peek(2**12)  # type: ignore[attr-defined]  # both streams are buffered
    for wrapper, what in _WRAPPERS.items():
        if start_bytes.startswith(wrapper):
            raise DataError(catalogue.WRAPPED.format(path=path, what=what))
    first = start_bytes.removeprefix(_BOM).lstrip()
    if first.startswith(b"["):
        _refuse_split(split, path.name)
        for number, values in enumerate(JsonArray(_pieces(stream, path.name), path.name).items(problems), 1):
            yield from as_row(f"{path.name} row {number}", values, problems)
        return
    lines = _lines(stream, path.name)
    start: list[str] = []  # up to the first line that is not blank
    for line in lines:
        start.append(line)
        if line.strip():
            break
    else:
        raise DataError(catalogue.EMPTY_FILE.format(path=path))
    yield from _read_text(start, lines, path.name, problems, split, notes)


def _lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """The lines of a UTF-8 file without its byte order mark; nothing is ever replaced to make it decode."""
    offset = blank = 0
    for number, raw in enumerate(iter(lambda: stream.readline(MAX_ROW_BYTES + 1), b""), 1):
        if len(raw) > MAX_ROW_BYTES:
            raise DataError(catalogue.LONG_ROW.format(where=f"{name}:{number}", mib=MAX_ROW_BYTES // 2**20))
        bom = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
        try:
            line = raw[bom:].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(name, raw, error.start + bom, offset, number == 1) from error
        if "\x00" in line:
            raise _nul(name, raw, number)
        offset += len(raw)
        blank = blank + 1 if len(raw) < 3 and not line.strip() else 0
        if blank > _MAX_BLANK_LINES:
            raise DataError(catalogue.BLANK_LINES.format(where=f"{name}:{number}", lines=_MAX_BLANK_LINES))
        yield line


def _pieces(stream: IO[bytes], name: str) -> Iterator[str]:
    """A UTF-8 file in parts of a mebibyte, without its byte order mark."""
    decoder, offset, line = codecs.getincrementaldecoder("utf-8-sig")(), 0, 1
    while True:
        raw = stream.read(2**20)
        kept = decoder.getstate()[0]
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            start = offset == 0
            raise _not_utf8(name, error.object, error.start, offset - len(kept), start) from error
        if "\x00" in text:
            raise _nul(name, raw, line + text[: text.index("\x00")].count("\n"))
        if not raw:
            return
        offset, line = offset + len(raw), line + text.count("\n")
        yield text


def _not_utf8(name: str, raw: bytes, at: int, offset: int, first: bool) -> DataError:
    guess = "WINDOWS-1252"
    if first and raw.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        guess = "UTF-32"
    elif first and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        guess = "UTF-16"
    return DataError(catalogue.NOT_UTF8.format(name=name, byte=raw[at], offset=offset + at, guess=guess))


def _nul(name: str, raw: bytes, line: int) -> DataError:
    """What to say of a NUL byte: English in UTF-16 without its mark has one in every other place."""
    for guess, part in (("UTF-16LE", raw[1:1000:2]), ("UTF-16BE", raw[0:1000:2])):
        if line == 1 and part and part.count(0) > len(part) * 0.7:
            return DataError(catalogue.UTF16.format(name=name, guess=guess))
    return DataError(catalogue.NUL_BYTE.format(name=name, line=line))


def _read_text(
    start: list[str], lines: Iterator[str], name: str, problems: Problems, split: str | None, notes: list[str]
) -> Iterator[Row]:
    """The rows of a text whose first line that is not blank is the last of `start`."""
    first = start[-1].strip()
    for beginning, what in _NO_DATA.items():
        if first.lower().startswith(beginning):
            raise DataError(what.format(name=name))
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    if first[0] not in "[{" and (suffix in (".csv", ".tsv") or _has_known_header(first)):
        _refuse_split(split, name)
        yield from _read_csv(start, lines, name, problems)
        return
    if first[0] == "{" and _is_json(first):
        for line in lines:
            start.append(line)
            if line.strip():  # a second row: JSON Lines; else the file is one object, the rows perhaps inside it
                _refuse_split(split, name)
                yield from _read_json_lines(enumerate(chain(start, lines), 1), name, problems)
                return
    text = "".join(_no_more_than(_MAX_WHOLE_CHARACTERS, chain(start, lines), name))
    found = rows_of_object(text, name, split, notes) if first[0] == "{" else None
    if found is not None:
        within, array = found
        for number, values in enumerate(array, 1):
            yield from as_row(f"{name}{within} row {number}", values, problems)
    else:
        _refuse_split(split, name)
        yield from _read_json_lines(enumerate(text.split("\n"), 1), name, problems)


def _read_json_lines(lines: Iterable[tuple[int, str]], name: str, problems: Problems) -> Iterator[Row]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = decode(line.rstrip("\r\n"))  # else an error at the end would be told of the next line
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


def _no_more_than(characters: int, lines: Iterable[str], name: str) -> Iterator[str]:
    for line in lines:
        characters -= len(line)
        if characters < 0:
            raise DataError(catalogue.LONG_WHOLE.format(name=name, mib=_MAX_WHOLE_CHARACTERS // 2**20))
        yield line


def _refuse_split(split: str | None, name: str) -> None:
    """Raise DataError for a split of a file that has none."""
    if split:
        raise DataError(catalogue.NO_SPLITS.format(name=name, split=split))


def _has_known_header(header: str) -> bool:
    return bool(names.COLUMNS & {cell.strip(' \r"') for cell in header.split(_delimiter(header))}) and (
        len(header.split(_delimiter(header))) > 1 or header.strip(' \r"') in names.COLUMNS
    )


def _delimiter(header: str) -> str:
    """What parts the names in the first line that is not blank."""
    return max(",;\t", key=header.count)


def _read_csv(start: list[str], lines: Iterator[str], name: str, problems: Problems) -> Iterator[Row]:
    # strict=True refuses stray quotes instead of guessing; the default limit refuses cells over 128 KiB.
    limit = csv.field_size_limit(MAX_ROW_BYTES)
    number = 1
    reader = csv.reader(chain(start, lines), delimiter=_delimiter(start[-1]), strict=True)
    try:
        header = [cell.strip() for cell in next(cells for cells in reader if cells)]
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise DataError(catalogue.COLUMN_STANDS_TWICE.format(where=f"{name}:1", columns=twice))
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
        open_cell = "unexpected end" in str(error) or "field limit" in str(error)
        text = catalogue.OPEN_CELL.format(mib=MAX_ROW_BYTES // 2**20) if open_cell else catalogue.NO_CSV
        problems.add(f"{name}:{number}", text.format(error=error))
    finally:
        csv.field_size_limit(limit)


def _cell(cell: str, where: str, problems: Problems) -> Any:
    """The text of a cell, or the list of messages written into it as JSON."""
    if not cell.startswith("[{"):
        return cell
    try:
        return decode(cell)
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
            parquet = pyarrow.parquet.ParquetFile(stream)
            schema, batches = parquet.schema_arrow, parquet.iter_batches(batch_size=200)
        elif magic.startswith(_ARROW_FILE):
            file = pyarrow.ipc.open_file(stream)
            schema, batches = file.schema, (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            opened = pyarrow.ipc.open_stream(stream)
            schema, batches = opened.schema, iter(opened)
        twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
        if twice:
            raise DataError(catalogue.COLUMN_STANDS_TWICE.format(where=name, columns=twice))
        number = 0
        for batch in batches:
            batch.validate(full=True)  # offsets that lead outside the file crash Python where they are followed
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{name} row {number}", values)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(catalogue.DAMAGED_ARROW.format(name=name, kind=kind, error=reason)) from error
