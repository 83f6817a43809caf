"""Where rows come from: files of any form, memory, the demo world."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kit.data.sources import read_source
from kit.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = [{"prompt": "Say hi.", "chosen": "Hi!", "rejected": "No."}, {"prompt": "Ünd?", "chosen": "a", "rejected": "b"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(value, setting="data.preferences"):
    return whole(read_source(value, setting, seed=0))


def whole(source):
    """The source with its rows read; they are read once and one by one."""
    rows = list(source.rows)
    source.problems.raise_if_any()
    return replace(source, rows=rows)


def values(source):
    return [row.values for row in source.rows]


def places(source):
    return [row.where for row in source.rows]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def refusal(value, setting="data.preferences") -> str:
    with pytest.raises(DataError) as caught:
        read(value, setting)
    return str(caught.value)


class TestJsonLines:
    def test_each_line_is_a_row_that_knows_its_line(self, tmp_path):
        source = read(write(tmp_path / "a.jsonl", LINES))
        assert values(source) == ROWS
        assert places(source) == ["a.jsonl:1", "a.jsonl:2"]

    def test_blank_lines_count_as_lines_but_not_as_rows(self, tmp_path):
        assert places(read(write(tmp_path / "a.jsonl", "\n" + LINES.replace("\n", "\n\n")))) == [
            "a.jsonl:2",
            "a.jsonl:4",
        ]

    def test_a_single_line_is_json_lines_too(self, tmp_path):
        assert places(read(write(tmp_path / "a.jsonl", LINES.split("\n")[0]))) == ["a.jsonl:1"]

    def test_gzip_is_recognised_without_its_suffix(self, tmp_path):
        assert values(read(write(tmp_path / "a.jsonl", gzip.compress(LINES.encode())))) == ROWS

    def test_a_byte_order_mark_and_windows_line_ends_are_put_right(self, tmp_path):
        content = b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode()
        assert values(read(write(tmp_path / "a.jsonl", content))) == ROWS

    def test_a_line_separator_character_inside_a_text_ends_no_line(self, tmp_path):
        assert values(read(write(tmp_path / "a.jsonl", '{"text": "a\u2028b\u0085c"}\n'))) == [
            {"text": "a\u2028b\u0085c"}
        ]

    def test_a_malformed_line_is_shown_with_line_and_column(self, tmp_path):
        text = refusal(write(tmp_path / "a.jsonl", LINES + '{"prompt": "x", chosen: "y"}\n'))
        assert "a.jsonl:3:17: no JSON" in text
        assert 'chosen: "y"' in text

    def test_of_a_long_malformed_line_80_characters_are_shown(self, tmp_path):
        text = refusal(write(tmp_path / "a.jsonl", LINES + "{" + "x" * 500))
        assert "x" * 79 in text
        assert "x" * 80 not in text

    def test_all_malformed_lines_are_counted_and_the_first_twenty_shown(self, tmp_path):
        text = refusal(write(tmp_path / "a.jsonl", LINES + "{oops\n" * 30))
        assert "30 problems" in text
        assert "a.jsonl:22:" in text
        assert "a.jsonl:23:" not in text

    @pytest.mark.parametrize(
        ("line", "found"), [("[1]", "a list"), ("3", "a number"), ("null", "null"), ('"x"', "text")]
    )
    def test_a_row_that_is_no_object_is_a_problem(self, tmp_path, line, found):
        assert f"a.jsonl:3: the row is {found}" in refusal(write(tmp_path / "a.jsonl", LINES + line + "\n"))

    @pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' * 100_000, '{"a": ' + "9" * 10_000 + "}"])
    def test_hostile_json_is_a_problem_and_no_crash(self, tmp_path, line):
        assert "a.jsonl:3" in refusal(write(tmp_path / "a.jsonl", LINES + line + "\n"))


class TestOtherFileForms:
    def test_a_json_array_is_recognised_whatever_its_suffix(self, tmp_path):
        source = read(write(tmp_path / "a.jsonl", json.dumps(ROWS, indent=1)))
        assert values(source) == ROWS
        assert places(source) == ["a.jsonl row 1", "a.jsonl row 2"]

    def test_the_only_list_of_a_json_object_holds_the_rows(self, tmp_path):
        for wrapper in ({"version": 1, "data": ROWS}, {"id": 1, "label": "x", "answers": ROWS}):
            assert values(read(write(tmp_path / "a.json", json.dumps(wrapper)))) == ROWS

    def test_one_row_over_several_lines_is_one_row(self, tmp_path):
        row = {"messages": [{"role": "user", "content": "x"}]}
        assert values(read(write(tmp_path / "a.json", json.dumps(row, indent=2)))) == [row]

    def test_a_malformed_array_is_shown_with_line_and_column(self, tmp_path):
        assert "a.json:2:12: no JSON" in refusal(write(tmp_path / "a.json", '[{"prompt":\n "Hi", "a" "b"}]'))

    def test_csv_rows_know_the_line_they_begin_on(self, tmp_path):
        source = read(write(tmp_path / "a.csv", 'prompt,chosen,rejected\n"two\nlines",a,b\nx,y,z\n'))
        assert values(source)[0]["prompt"] == "two\nlines"
        assert places(source) == ["a.csv:2", "a.csv:4"]

    @pytest.mark.parametrize("delimiter", [";", "\t", ","])
    def test_csv_is_recognised_by_its_header_under_another_suffix(self, tmp_path, delimiter):
        content = f"prompt{delimiter}chosen{delimiter}rejected\r\na{delimiter}b{delimiter}c\r\n"
        assert values(read(write(tmp_path / "a.jsonl", content))) == [{"prompt": "a", "chosen": "b", "rejected": "c"}]

    def test_messages_written_as_json_into_a_csv_cell_are_read(self, tmp_path):
        cell = json.dumps([{"role": "user", "content": "x"}]).replace('"', '""')
        assert values(read(write(tmp_path / "a.csv", f'messages\n"{cell}"\n')))[0]["messages"][0]["content"] == "x"

    def test_messages_written_as_python_into_a_csv_cell_are_a_problem(self, tmp_path):
        assert "a.csv:2: a cell looks like a list" in refusal(
            write(tmp_path / "a.csv", "messages\n\"[{'role': 'user', 'content': 'x'}]\"\n")
        )

    def test_a_csv_row_with_too_many_cells_is_a_problem(self, tmp_path):
        text = refusal(write(tmp_path / "a.csv", "prompt,chosen,rejected\na,b,c\na,b,c,d\n"))
        assert "a.csv:3: 4 cells, 3 are wanted" in text

    def test_a_csv_cell_of_any_length_is_read(self, tmp_path):
        assert len(values(read(write(tmp_path / "a.csv", "text\n" + "x" * 200_000)))[0]["text"]) == 200_000

    def test_parquet_is_recognised_whatever_its_suffix(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.csv")
        source = read(str(tmp_path / "a.csv"))
        assert values(source) == ROWS
        assert places(source) == ["a.csv row 1", "a.csv row 2"]

    @pytest.mark.parametrize("kind", ["file", "stream"])
    @pytest.mark.parametrize("pack", [lambda raw: raw, gzip.compress])
    def test_arrow_is_recognised_whatever_its_suffix(self, tmp_path, kind, pack):
        pyarrow = pytest.importorskip("pyarrow")
        table, sink = pyarrow.Table.from_pylist(ROWS), pyarrow.BufferOutputStream()
        with getattr(pytest.importorskip("pyarrow.ipc"), f"new_{kind}")(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
        source = read(write(tmp_path / "a.bin", pack(sink.getvalue().to_pybytes())))
        assert values(source) == ROWS
        assert places(source) == ["a.bin row 1", "a.bin row 2"]

    def test_a_damaged_arrow_file_is_refused(self, tmp_path):
        assert "damaged Arrow" in refusal(write(tmp_path / "a.arrow", b"ARROW1\0\0 and nothing else"))

    def test_tsv_and_gzipped_csv_are_read(self, tmp_path):
        content = "prompt\tchosen\trejected\na, b\tb\tc\n"
        wanted = [{"prompt": "a, b", "chosen": "b", "rejected": "c"}]
        assert values(read(write(tmp_path / "a.tsv", content))) == wanted
        packed = gzip.compress(content.replace("\t", ";").encode())
        assert values(read(write(tmp_path / "a.csv.gz", packed))) == wanted

    def test_a_row_that_breaks_in_the_middle_of_a_csv_file_is_told_with_the_good_ones_read(self, tmp_path):
        content = "prompt,chosen,rejected\n" + "a,b,c\n" * 150 + "a,b\n" + "a,b,c\n" * 5
        assert "a.csv:152: 2 cells, 3 are wanted" in refusal(write(tmp_path / "a.csv", content))

    def test_a_damaged_parquet_file_is_refused(self, tmp_path):
        assert "damaged Parquet" in refusal(write(tmp_path / "a.parquet", b"PAR1 and nothing else"))


class TestUnreadableFiles:
    @pytest.mark.parametrize("content", [b"", b"  \n\n", b"\xef\xbb\xbf", "\u00a0".encode()])
    def test_an_empty_file_is_refused(self, tmp_path, content):
        assert "the file is empty" in refusal(write(tmp_path / "a.jsonl", content))

    @pytest.mark.parametrize(("name", "content"), [("a.json", "[]"), ("a.csv", "prompt,chosen,rejected\n")])
    def test_a_file_of_no_rows_is_refused(self, tmp_path, name, content):
        assert f"{name}: 0 rows" in refusal(write(tmp_path / name, content))

    def test_a_nul_byte_is_refused_with_its_line(self, tmp_path):
        assert "a.jsonl:2: holds a NUL byte" in refusal(write(tmp_path / "a.jsonl", '{"a": "b"}\n{"a": "\x00"}\n'))

    def test_text_that_is_not_utf8_is_refused_with_its_byte_offset(self, tmp_path):
        text = refusal(write(tmp_path / "a.jsonl", '{"prompt": "Gr\u00fc\u00dfe"}'.encode("cp1252")))
        assert "byte 0xfc at byte offset 14" in text
        assert "iconv -f WINDOWS-1252 -t UTF-8" in text

    def test_the_byte_offset_counts_from_the_start_of_the_file(self, tmp_path):
        content = "\ufeff" + '{"prompt": "x"}\n' * 3
        assert f"byte 0xfc at byte offset {len(content.encode()) + 5:,}" in refusal(
            write(tmp_path / "a.jsonl", content.encode() + b'{"a":\xfc"b"}')
        )

    def test_utf16_is_named(self, tmp_path):
        assert "UTF-16" in refusal(write(tmp_path / "a.jsonl", LINES.encode("utf-16")))

    def test_a_damaged_gzip_archive_is_refused(self, tmp_path):
        assert "gzip archive is damaged" in refusal(write(tmp_path / "a.gz", gzip.compress(LINES.encode())[:-12]))

    def test_a_zip_archive_is_named(self, tmp_path):
        database = write(tmp_path / "judgements.sqlite", b"SQLite format 3\x00\x10\x00\xb8")
        assert "a SQLite database (of a labelling project, name the folder)" in refusal(database)
        assert "a zip archive" in refusal(write(tmp_path / "a.jsonl", b"PK\x03\x04whatever"))

    def test_prose_is_refused(self, tmp_path):
        assert "a.txt:1:1: no JSON" in refusal(write(tmp_path / "a.txt", "Dear reader,\nthis is no data.\n"))


class TestMissingFiles:
    def test_near_names_are_listed(self, tmp_path):
        write(tmp_path / "prefs.jsonl", LINES)
        text = refusal(str(tmp_path / "pref.jsonl"))
        assert "no such file" in text
        assert str(tmp_path / "prefs.jsonl") in text

    def test_a_missing_folder_is_named(self, tmp_path):
        assert "the folder" in refusal(str(tmp_path / "nowhere" / "a.jsonl"))

    @pytest.mark.parametrize("name", ["data/prefs.jsonl", "prefs", "a/b/c", "../org/name", "org/name.csv.gz", "org/"])
    def test_what_cannot_be_a_hub_id_is_a_missing_file(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        assert "no such file" in refusal(name)

    def test_a_mistyped_local_path_is_never_looked_up_on_the_hub(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data").mkdir()
        write(tmp_path / "data" / "prefs.jsonl", LINES)
        assert "did you mean data/prefs.jsonl?" in refusal("data/prefs_jsonl")

    def test_the_home_folder_may_be_written_as_a_tilde(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        write(tmp_path / "a.jsonl", LINES)
        assert values(read("~/a.jsonl")) == ROWS

    def test_a_split_of_a_plain_file_is_refused(self, tmp_path):
        assert "`split: test` names nothing; remove it" in refusal(
            {"path": write(tmp_path / "a.jsonl", LINES), "split": "test"}
        )


class TestRowsInMemory:
    def test_each_row_knows_its_number(self):
        assert places(read(ROWS)) == ["data.preferences row 1", "data.preferences row 2"]

    def test_a_row_that_is_no_dict_is_a_problem(self):
        assert "data.prompts row 3: the row is text" in refusal([*ROWS, "Hi"], "data.prompts")

    def test_no_rows_are_refused(self):
        assert "data.preferences: 0 rows" in refusal([])

    def test_another_type_is_refused(self):
        assert "found a number" in refusal(7)


class TestDemo:
    @pytest.fixture(autouse=True)
    def _toy_world(self, monkeypatch):
        monkeypatch.setattr("kit.demo.world.preference_rows", lambda seed: [{"pairs of seed": seed}])
        monkeypatch.setattr("kit.demo.world.demonstration_rows", lambda seed: [{"demonstrations of seed": seed}])

    def test_preferences_and_prompts_are_the_pairs_of_the_world(self):
        assert values(whole(read_source("demo", "data.preferences", seed=3))) == [{"pairs of seed": 3}]
        assert values(whole(read_source({"path": "demo"}, "data.prompts", seed=3))) == [{"pairs of seed": 3}]

    def test_demonstrations_are_those_of_the_world(self):
        assert values(whole(read_source("demo", "data.demonstrations", seed=3))) == [{"demonstrations of seed": 3}]

    def test_each_row_knows_its_number(self):
        assert places(read("demo")) == ["demo row 1"]


class TestImport:
    def test_importing_the_data_layer_loads_no_heavy_library(self):
        heavy = ["torch", "transformers", "datasets", "pyarrow", "huggingface_hub"]
        code = f"import sys, kit.data; print([name for name in {heavy} if name in sys.modules])"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
        assert run.stdout.strip() == "[]"
