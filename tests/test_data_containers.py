"""The same rows give the same data, whatever file they stand in."""

import csv
import gzip
import io
import json

import pytest

from kit.config import DataSettings
from kit.data import load_data
from kit.data.sources import read_source
from kit.errors import DataError

FORMS = {
    "rankings": [{"prompt": f"{n}?", "responses": ["a", "b, c", 'd "e"'], "ranks": [2, 1, 3]} for n in range(12)],
    "ratings": [{"prompt": f"{n // 3}?", "response": f"line\nbreak {n}", "rating": n % 3} for n in range(12)],
    "votes": [
        {"instruction": f"{n}?", "input": "", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 1}
        for n in range(12)
    ],
    "thumbs": [{"prompt": f"{n // 2}?", "completion": f"a{n}", "label": bool(n % 2)} for n in range(12)],
    "messages of a tree": [
        {"message_id": f"m{n}", "parent_id": None if n % 3 == 0 else f"m{n - n % 3}", "text": f"t{n}", "rank": n % 3}
        | {"role": "assistant" if n % 3 else "prompter", "deleted": n == 11}
        for n in range(12)
    ],
    "conversations": [
        {
            side: [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": side}]
            for side in ("chosen", "rejected")
        }
        for n in range(12)
    ],
}


def table(rows, delimiter) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([json.dumps(value) if isinstance(value, list) else value for value in row.values()])
    return text.getvalue().encode()


def columns(rows, kind) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    data, sink = pyarrow.Table.from_pylist(rows), pyarrow.BufferOutputStream()
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(data, sink)
    else:
        with pytest.importorskip("pyarrow.ipc").new_stream(sink, data.schema) as writer:
            writer.write_table(data)
    return sink.getvalue().to_pybytes()


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


CONTAINERS = {
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "json with a wrapper": lambda rows: json.dumps({"version": 2, "rows": rows}).encode(),
    "csv": lambda rows: table(rows, ","),
    "csv with semicolons": lambda rows: table(rows, ";"),
    "tsv": lambda rows: table(rows, "\t"),
    "parquet": lambda rows: columns(rows, "parquet"),
    "arrow": lambda rows: columns(rows, "arrow"),
    "gzip": lambda rows: gzip.compress(lines(rows)),
    "gzipped csv": lambda rows: gzip.compress(table(rows, ",")),
}


class TestContainers:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("container", CONTAINERS)
    def test_give_the_data_of_json_lines(self, tmp_path, form, container):
        fingerprints = set()
        for write in (lines, CONTAINERS[container]):
            (tmp_path / "rows").write_bytes(write(FORMS[form]))
            settings = DataSettings(preferences=str(tmp_path / "rows"), eval_fraction=0.2)
            fingerprints.add(load_data(settings, seed=0).fingerprint)
        assert len(fingerprints) == 1


ROWS = [{"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": "no"} for n in range(3)]


class TestOneObjectOfSeveralSplits:
    """{"train": [...], "test": [...]}, on one line or many."""

    @pytest.fixture(params=[None, 1], ids=["one line", "indented"])
    def file(self, tmp_path, request):
        whole = {"train": ROWS, "test": ROWS[:1], "about": "pairs"}
        path = tmp_path / "splits.json"
        path.write_text(json.dumps(whole, indent=request.param))
        return path

    def test_gives_train_and_says_what_else_there_is(self, file):
        source = read_source(str(file), "data.preferences", 0)
        assert [row.values for row in source.rows] == ROWS
        assert source.notes == ["splits.json: read the split train; not test (`split` beside the `path` names another)"]

    def test_gives_the_split_that_is_named(self, file):
        source = read_source({"path": str(file), "split": "test"}, "data.preferences", 0)
        assert list(source.rows) == [("splits.json test row 1", ROWS[0])] and source.notes == []

    def test_refuses_a_split_that_is_not_there(self, file):
        with pytest.raises(DataError, match=r"no split 'dev'; found \['test', 'train'\]\. Name one of them as `split`"):
            read_source({"path": str(file), "split": "dev"}, "data.preferences", 0)

    def test_asks_for_one_where_none_is_called_train(self, tmp_path):
        (tmp_path / "a.json").write_text(json.dumps({"easy": ROWS, "hard": ROWS}))
        with pytest.raises(DataError, match=r"no split 'train'; found \['easy', 'hard'\]"):
            read_source(str(tmp_path / "a.json"), "data.preferences", 0)


class TestOneObjectOfColumns:
    @pytest.mark.parametrize("indent", [None, 1])
    def test_is_read_row_by_row_and_said(self, tmp_path, indent):
        columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
        by_number = {name: {str(n): value for n, value in enumerate(values)} for name, values in columns.items()}
        for whole in (columns, by_number):
            (tmp_path / "a.json").write_text(json.dumps(whole, indent=indent))
            source = read_source(str(tmp_path / "a.json"), "data.preferences", 0)
            assert [row.values for row in source.rows] == ROWS
            assert source.notes == [f"a.json: one JSON object of columns ({', '.join(ROWS[0])}), read row by row"]

    def test_of_which_one_is_shorter_is_no_table(self, tmp_path):
        (tmp_path / "a.json").write_text(
            json.dumps({"prompt": ["a", "b"], "chosen": ["c"], "rejected": ["d"]}, indent=1)
        )
        assert len(list(read_source(str(tmp_path / "a.json"), "data.preferences", 0).rows)) == 1
