"""Kept rows read like lists, wherever they lie; what stays in memory is small, and nothing is left behind."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.config import DataSettings
from kit.data import Demonstration, Pair, Prompt, load_data, spool
from kit.data.checks import judged_both_ways
from kit.data.kept import Kept, first_of, joined, repeated
from kit.data.spool import Spool
from kit.errors import MachineError

REPOSITORY = Path(__file__).resolve().parents[1]
PROMPT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": 'A "pet",\n🐈?'}]
PAIRS = [Pair(PROMPT, f"cat {n}", "stone", f"a:{n}", None if n % 2 else n / 7) for n in range(9)]


@pytest.fixture(params=["in memory", "on disk"])
def place(request, monkeypatch):
    if request.param == "on disk":
        monkeypatch.setattr(spool, "_IN_MEMORY", 20)
        monkeypatch.setattr(spool, "_READ_AHEAD", 50)


class TestSpool:
    @given(texts=st.lists(st.binary(max_size=60)), order=st.randoms())
    def test_gives_back_what_was_added_in_any_order(self, texts, order):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spool, "_IN_MEMORY", 64)
            patch.setattr(spool, "_READ_AHEAD", 100)
            found = Spool()
            assert [found.add(text) for text in texts] == [*range(len(texts))]
            assert list(found) == texts
            for number in order.sample(range(len(texts)), len(texts)):
                assert found[number] == texts[number]
            assert found.sizes().tolist() == [*map(len, texts)]

    def test_can_be_added_to_after_it_was_read(self, place):
        found = Spool()
        for number in range(50):
            found.add(b"%d " % number * 9)
            assert found[0] == b"0 " * 9 and found[number] == b"%d " % number * 9

    def test_leaves_no_name_in_the_folder_that_the_user_set(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        found = Spool()
        found.add(bytes(spool._IN_MEMORY + 1))
        link = os.readlink(f"/proc/self/fd/{found._file.fileno()}")
        assert link.startswith(str(tmp_path)) and link.endswith("(deleted)") and not [*tmp_path.iterdir()]

    def test_that_fills_the_disk_says_where_and_what_to_do(self, monkeypatch):
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
        monkeypatch.setenv("TMPDIR", "/tmp")
        with pytest.raises(MachineError, match=r"/.*: No space left on device.*TMPDIR") as caught:
            Spool().add(bytes(spool._IN_MEMORY + 1))
        assert isinstance(caught.value.__cause__, OSError)


class TestKeptRows:
    def test_read_like_the_list_they_were(self, place):
        rows = Kept().add(PAIRS, Pair)
        assert rows == PAIRS and rows[2:4] == PAIRS[2:4] and rows[-1] == PAIRS[-1] and len(rows) == 9
        assert rows != PAIRS[:-1] and not Kept().add([], Pair)
        with pytest.raises(IndexError):
            rows[9]

    def test_of_several_kinds_stand_beside_each_other(self, place):
        kept = Kept()
        shown, asked = [Demonstration(PROMPT, "cat", "b:1")], [Prompt(PROMPT, "c:1"), Prompt(PROMPT[1:], "c:2")]
        rows = (kept.add(PAIRS, Pair), kept.add(shown, Demonstration), kept.add(asked, Prompt))
        assert rows == (PAIRS, shown, asked)

    def test_can_be_seen_as_the_chosen_sides_and_as_prompts(self):
        rows = Kept().add(PAIRS, Pair)
        assert rows.seen_as(Demonstration)[3] == Demonstration(PROMPT, "cat 3", "a:3")
        assert rows.seen_as(Prompt)[3] == Prompt(PROMPT, "a:3")

    def test_can_be_picked_repeated_and_joined(self):
        rows = Kept().add(PAIRS, Pair)
        assert joined([rows.picked([1, 1]), rows.picked(np.arange(9) == 5)]) == [PAIRS[1], PAIRS[1], PAIRS[5]]

    def test_share_the_texts_of_a_prompt_that_neighbours_share(self):
        kept = Kept()
        kept.add(PAIRS, Pair)
        assert kept.prompts == 1 and len(kept.texts) == 1 + 9 + 1

    def test_that_are_judged_both_ways_are_found_by_prompt_and_not_by_spacing(self):
        spaced = [*PROMPT[:1], {"role": "user", "content": 'A  "pet", 🐈?'}]
        others = [Pair(spaced, "stone", "cat 1", "b:1"), Pair(PROMPT[1:], "stone", "cat 2", "b:2")]
        assert judged_both_ways(Kept().add([*PAIRS, *others], Pair)) == ["b:1"]


class TestEqualNumbers:
    @given(values=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2))))
    def test_are_those_of_the_first_equal_one(self, values):
        table = np.array(values, dtype=np.int32).reshape(-1, 2)
        assert first_of(table).tolist() == [values.index(value) for value in values]
        assert repeated(table).tolist() == [value in values[:at] for at, value in enumerate(values)]


class TestMemory:
    def test_a_pair_costs_a_few_hundred_bytes_however_long_its_texts(self, tmp_path, monkeypatch):
        monkeypatch.setattr(spool, "_IN_MEMORY", 2**14)

        def held(pairs):
            path = tmp_path / f"{pairs}.jsonl"
            rows = ({"prompt": f"{n} " * 200, "chosen": f"{n}! " * 200, "rejected": "no " * 200} for n in range(pairs))
            path.write_text("\n".join(map(json.dumps, rows)))
            tracemalloc.start()
            data = load_data(DataSettings(preferences=str(path)), 0)
            found = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            assert len(data.pairs.train) == 0.9 * pairs
            return found

        held(100)  # what the first call leaves in memory is no pair's
        assert held(4000) - held(1000) < 3000 * 300

    def test_rows_that_do_not_fit_into_it_are_read(self, tmp_path):
        path = tmp_path / "a.jsonl"
        with path.open("w") as file:
            for n in range(2000):
                file.write(json.dumps({"prompt": f"{n}?", "chosen": "x" * 60_000, "rejected": "y" * 60_000}) + "\n")
        code = (
            f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, ({180 * 2**20},) * 2)\n"
            "from kit.config import DataSettings\nfrom kit.data import load_data\n"
            f"data = load_data(DataSettings(preferences={str(path)!r}), 0)\n"
            "print(len(data.fingerprint), sum(len(pair.chosen) for pair in data.pairs.train))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
        assert done.stdout.split() == ["64", str(1800 * 60_000)], done.stderr[-2000:]
