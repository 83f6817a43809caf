"""Byte strings that need not fit into memory: beyond a few MiB they lie in a file without a name."""

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, overload

import numpy as np
from numpy.typing import NDArray

from kit.data import catalogue
from kit.errors import MachineError

_IN_MEMORY = 2**22  # bytes that wait to be written; what is no longer than this never touches the disk
_READ_AHEAD = 2**16  # bytes


class Spool(Sequence[bytes]):
    """Byte strings, each known by its number; in memory are eight bytes of each, and the last few MiB.

    The file has no name: whatever ends the process, nothing of it is left. Raises MachineError where the disk is full.
    """

    def __init__(self) -> None:
        self._ends = array("q", [0])
        self._recent = bytearray()
        self._file: IO[bytes] | None = None
        self._written = 0  # bytes of the file
        self._ahead = (0, b"")  # what was read last, and where in the file it begins

    def add(self, text: bytes) -> int:
        """Keep a byte string; its number."""
        self._recent += text
        self._ends.append(self._written + len(self._recent))
        if len(self._recent) > _IN_MEMORY:
            self._write()
        return len(self._ends) - 2

    def __len__(self) -> int:
        return len(self._ends) - 1

    def sizes(self) -> NDArray[np.int64]:
        """The bytes of every string."""
        ends = np.array(self._ends, dtype=np.int64)
        return ends[1:] - ends[:-1]

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        start, end = self._ends[index], self._ends[index + 1]
        if start >= self._written:
            return bytes(self._recent[start - self._written : end - self._written])
        begins, ahead = self._ahead
        if not begins <= start <= end <= begins + len(ahead):
            assert self._file is not None
            self._file.seek(start)
            self._ahead = begins, ahead = start, self._file.read(max(end - start, _READ_AHEAD))
        return ahead[start - begins : end - begins]

    def _write(self) -> None:
        with room_for_rows() as folder:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed with this object
                weakref.finalize(self, self._file.close)
            self._file.seek(self._written)
            rest = memoryview(self._recent)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._written += len(self._recent)
        self._recent = bytearray()


@contextmanager
def room_for_rows() -> Iterator[str]:
    """The folder where rows may lie for a while: TMPDIR, or else /var/tmp, for /tmp is memory on many machines.

    Raises MachineError where the block cannot write there.
    """
    set_by_user = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    folder = tempfile.gettempdir() if set_by_user or not Path("/var/tmp").is_dir() else "/var/tmp"
    try:
        yield folder
    except OSError as error:
        why = error.strerror or error
        raise MachineError(catalogue.NO_ROOM_FOR_ROWS.format(folder=folder, error=why)) from error
