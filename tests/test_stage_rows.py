"""Rows as the Dataset that trainers take: the same whether they are few, in memory, or many, in a file."""

import numpy as np
import pytest
from datasets import Dataset

from kit.errors import MachineError
from kit.models.id_rows import Rows
from kit.stages import rows as stage_rows
from kit.stages.rows import dataset_of


def row(number: int) -> dict:
    ids = {"prompt": [{"role": "user", "content": f"{number}?"}], "chosen_ids": [*range(number)]}
    return ids if number % 2 else ids | {"margin": number / 2}


ROWS = Rows(row, np.arange(10)[:, None])


@pytest.fixture
def few_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(stage_rows, "_AT_ONCE", 4)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


class TestDatasetOf:
    def test_many_rows_is_the_one_that_the_library_makes(self, few_at_once):
        found, wanted = dataset_of(ROWS), Dataset.from_list(list(ROWS))
        assert found.features == wanted.features and found.to_list() == wanted.to_list()
        assert found[7] == wanted[7] and len(found) == 10

    def test_many_rows_leaves_no_file_and_writes_none_later(self, few_at_once, tmp_path):
        found = dataset_of(ROWS)
        assert not found.cache_files and not [*tmp_path.iterdir()]
        assert found.map(lambda one: {"length": len(one["chosen_ids"])})["length"][-1] == 9
        assert found.select([3, 1]).to_list() == Dataset.from_list(list(ROWS)).select([3, 1]).to_list()

    def test_many_rows_on_a_full_disk_says_what_to_do(self, few_at_once, monkeypatch):
        monkeypatch.setattr("pyarrow.OSFile", lambda *_: open("/dev/full", "wb"))  # noqa: SIM115
        with pytest.raises(MachineError, match=r"No space left on device.*TMPDIR"):
            dataset_of(Rows(lambda n: {"ids": [n] * 10_000}, np.arange(10)[:, None]))

    def test_few_rows_is_made_in_memory(self):
        assert dataset_of(ROWS).to_list() == Dataset.from_list(list(ROWS)).to_list()
