"""`load_data` cleans each source and tells a person what became of it."""

import json
import tracemalloc

import pytest

from kit.config import DataSettings
from kit.data import load_data
from kit.data.files import Row
from kit.data.sources import read_source
from kit.errors import DataError

ROWS = [{"prompt": f"Question {number}?", "chosen": "good", "rejected": "bad"} for number in range(100)]
NAME = "data.preferences"


def load(preferences):
    return load_data(DataSettings(demonstrations=None, preferences=preferences, prompts=None, eval_fraction=0.2), 0)


class TestCleaning:
    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (ROWS[0] | {"chosen": " "}, "chosen empty"),
            (ROWS[0] | {"chosen": "bad"}, "chosen equals rejected"),
            (ROWS[0], "exact duplicates"),
        ],
    )
    def test_a_useless_row_is_dropped_and_noted(self, row, reason):
        data = load([*ROWS, row])
        assert len(data.pairs.train) + len(data.pairs.held_out) == len(ROWS)
        assert f"dropped 1 row: {reason} (first: {NAME} row 101)" in data.notes

    def test_a_source_that_is_mostly_useless_is_refused(self):
        with pytest.raises(DataError, match="101 of 110 rows cannot be used"):
            load([*ROWS[:9], *[row | {"chosen": "bad"} for row in [*ROWS, ROWS[0]]]])

    def test_problems_stop_before_anything_is_dropped(self):
        with pytest.raises(DataError, match=r"data\.preferences row 101: chosen is null"):
            load([*ROWS, ROWS[0] | {"chosen": None}])


class TestNotes:
    def test_the_recognised_form_and_the_number_of_rows_come_first(self):
        assert load(ROWS).notes[0] == f"{NAME}: recognised as prompt, chosen and rejected; 100 pairs"

    def test_what_was_put_right_is_noted(self):
        rows = [row | {"prompt": [{"role": "human", "content": row["prompt"]}]} for row in ROWS]
        assert f"{NAME}: read the role 'human' as 'user' (100 times)" in load(rows).notes

    def test_what_the_source_has_to_say_is_noted(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        rows = [Row(f"org/name row {number}", row) for number, row in enumerate(ROWS, 1)]
        monkeypatch.setattr("kit.data.sources.read_hub", lambda *_: (rows, ["org/name: from the cache"]))
        assert "org/name: from the cache" in load("org/name").notes

    def test_the_sizes_of_all_splits_are_noted(self):
        assert load(ROWS).notes[-3:] == [
            f"{name}: 80 to train on, 20 held out" for name in ("pairs", "demonstrations", "prompts")
        ]


class TestMemory:
    def test_a_file_is_read_row_by_row(self, tmp_path):
        """The rows that were read are gone while the next ones come: a file of 40 MB never stands in memory."""
        text = "x" * 40_000
        path = tmp_path / "large.jsonl"
        with path.open("w") as file:
            for number in range(1000):
                file.write(json.dumps({"prompt": f"{number}?", "unused": text}) + "\n")
        tracemalloc.start()
        try:
            rows = sum(1 for _ in read_source(str(path), "data.prompts", seed=0).rows)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert rows == 1000 and peak < 10_000_000
