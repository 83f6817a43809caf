"""Rows as the Dataset that trainers take, in a mapped file where they are many: as Arrow a token takes eight bytes."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from datasets.table import InMemoryTable

from kit.data.spool import room_for_rows

_AT_ONCE = 10_000  # rows; no more of them are in memory at once


def dataset_of(rows: Sequence[dict]) -> Dataset:
    """What `Dataset.from_list` makes of the rows. Many are read from a file that is gone by then, but for its content.

    Raises MachineError where the disk is full.
    """
    if len(rows) <= _AT_ONCE:
        return Dataset.from_list(rows[:])
    import pyarrow

    columns, features = list(rows[0]), None
    with room_for_rows() as folder, tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
        path = str(Path(own, "rows.arrow"))
        with pyarrow.OSFile(path, "wb") as file:
            writer = None
            for start in range(0, len(rows), _AT_ONCE):
                some = [{name: row.get(name) for name in columns} for row in rows[start : start + _AT_ONCE]]
                part = Dataset.from_list(some, features=features)
                features = part.features
                writer = writer or pyarrow.ipc.new_stream(file, part.data.table.schema)
                writer.write_table(part.data.table)
            assert writer is not None
            writer.close()
        table = pyarrow.ipc.open_stream(pyarrow.memory_map(path)).read_all()
    return Dataset(InMemoryTable(table))  # as the library has it, so that it writes no files beside one that is gone
