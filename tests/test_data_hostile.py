"""Files that are broken, or made to do harm: each ends in a message, in little memory and time, never in a traceback.

The large ones are read in a process of their own with a gibibyte of memory and half a minute of time.
"""

import contextlib
import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.config import DataSettings
from kit.data import files, load_data
from kit.data.json_array import JsonArray
from kit.data.problems import Problems
from kit.data.sources import read_source
from kit.errors import DataError, KitError, MachineError, printable

ROOT = Path(__file__).resolve().parents[1]
GOOD = [{"prompt": f"Question {n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(50)]
LINES = "".join(json.dumps(row) + "\n" for row in GOOD)
MEMORY_BYTES, SECONDS = 2**30, 30


def refusal(path) -> str:
    with pytest.raises(KitError) as caught:
        load_data(DataSettings(preferences=str(path)), seed=0)
    return str(caught.value).replace(f"{Path(path).parent}/", "")


@pytest.fixture
def stops(tmp_path):
    """The text that reading a file of this content ends with."""

    def stops(content: str | bytes, name: str = "a.jsonl") -> str:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return refusal(tmp_path / name)

    return stops


def refusal_within_limits(path: Path) -> str:
    """The same, in a process with little memory and time."""
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES},) * 2)\n"
        "from kit.config import DataSettings\nfrom kit.data import load_data\nfrom kit.errors import KitError\n"
        "try:\n    load_data(DataSettings(preferences=sys.argv[1]), seed=0)\n"
        "except KitError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def filled(path: Path, start: bytes, piece: bytes, mebibytes: int, end: bytes = b"", gzipped: bool = False) -> Path:
    """A file with a mebibyte of `piece` repeated in its middle."""
    with gzip.open(path, "wb", 6) if gzipped else path.open("wb") as file:
        file.write(start)
        for _ in range(mebibytes):
            file.write((piece * (2**20 // len(piece) + 1))[: 2**20])
        file.write(end)
    return path


class TestLongRows:
    LIMIT = "a row of over 16 MiB, which is the most this kit reads. Is it data? Write a row a line."

    @pytest.mark.parametrize("start", [b"", LINES.encode()], ids=["first", "later"])
    def test_a_line_of_a_gibibyte_is_not_read_whole(self, tmp_path, start):
        path = filled(tmp_path / "a.jsonl", start + b'{"prompt": "', b"x", 1024, b'"}\n')
        line = start.count(b"\n") + 1
        try:
            assert refusal_within_limits(path) == f"a.jsonl:{line}: {self.LIMIT}"
        finally:
            path.unlink()

    def test_an_item_of_a_list_has_the_same_limit(self, tmp_path):
        path = filled(tmp_path / "a.json", b'[{"prompt": "a"},\n{"prompt": "', b"x", 40, b'"}]')
        assert refusal_within_limits(path) == f"a.json:2: {self.LIMIT}"

    def test_a_quoted_cell_that_is_never_closed_has_it_too(self, tmp_path):
        path = filled(tmp_path / "a.csv", b'prompt,chosen,rejected\na,b,c\n"open', b"x" * 99 + b"\n", 40)
        assert "a.csv:3: no CSV: the quote of a cell that opens in this row is not closed" in refusal_within_limits(
            path
        )

    def test_an_object_over_many_lines_has_a_limit_of_its_own(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files, "_MAX_WHOLE_CHARACTERS", 2**20)
        path = filled(tmp_path / "a.json", b"{\n", b'"x": "y",\n', 2)
        assert refusal(path).startswith("a.json: its first line is no row of JSON Lines, and as one JSON object it has")

    def test_blank_lines_without_end_stop(self, tmp_path):
        path = filled(tmp_path / "a.jsonl", LINES.encode(), b"\n", 2)
        assert refusal(path) == "a.jsonl:100051: over 100,000 blank lines in a row. Is it data?"


class TestArchives:
    def test_a_bomb_is_told_by_its_size(self, tmp_path):
        path = filled(tmp_path / "a.jsonl.gz", LINES.encode(), json.dumps(GOOD[0]).encode() + b"\n", 70, gzipped=True)
        assert refusal(path) == (
            "a.jsonl.gz: the archive unpacks to over 200 times its size, as no text does. If it is yours, unpack it "
            "first."
        )

    def test_a_bomb_of_one_line_stops_at_the_line(self, tmp_path):
        path = filled(tmp_path / "a.jsonl.gz", b'{"prompt": "', b"x", 200, gzipped=True)
        assert refusal_within_limits(path).startswith("a.jsonl.gz:1: a row of over 16 MiB")

    @pytest.mark.parametrize("cut", [3, 12, 60, -9, -1])
    def test_one_that_is_cut_off_is_damaged(self, stops, cut):
        assert "the gzip archive is damaged" in stops(gzip.compress(LINES.encode())[:cut])

    def test_one_with_rubbish_behind_it_is_damaged(self, stops):
        assert "the gzip archive is damaged" in stops(gzip.compress(LINES.encode()) + b"rubbish")

    def test_one_within_another_is_named(self, stops):
        assert "a gzip archive within a gzip archive" in stops(gzip.compress(gzip.compress(LINES.encode())))

    def test_parquet_within_gzip_is_read(self, tmp_path):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(GOOD), tmp_path / "a.parquet")
        (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
        rows = read_source(str(tmp_path / "a.parquet.gz"), "data.preferences", seed=0).rows
        assert [row.values for row in rows] == GOOD


class TestJson:
    @pytest.mark.parametrize("line", ["[" * 10**6, '{"a":' * 10**6, '{"prompt":' + "[" * 10**5], ids=["[", "{", "in"])
    @pytest.mark.parametrize("before", ["", LINES], ids=["first", "later"])
    def test_nesting_without_end(self, stops, before, line):
        assert "recursion" in stops(before + line + "\n")

    def test_a_name_that_stands_twice(self, stops):
        text = stops(LINES + '{"prompt": "a", "chosen": "b", "chosen": "c", "rejected": "d"}\n')
        assert "a.jsonl:51: no JSON (the name 'chosen' stands twice in an object)" in text

    def test_a_name_that_stands_twice_in_a_list(self, stops):
        assert "the name 'a' stands twice" in stops('[{"a": 1, "a": 2}]')

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
    def test_a_number_that_is_none_where_text_is_wanted(self, stops, value):
        assert "a.jsonl:51: chosen is a number" in stops(
            LINES + f'{{"prompt": "a", "chosen": {value}, "rejected": "d"}}\n'
        )

    def test_a_number_of_ten_thousand_digits(self, stops):
        assert "a.jsonl:51: no JSON (Exceeds the limit" in stops(LINES + '{"prompt": ' + "9" * 10_000 + "}\n")

    def test_half_of_a_surrogate_pair(self, stops):
        row = '{"prompt": "\\ud800", "chosen": "b", "rejected": "d"}\n'
        assert "a.jsonl:51: prompt holds half of a surrogate pair" in stops(LINES + row)

    def test_a_nul_character_as_an_escape(self, stops):
        row = '{"prompt": "a\\u0000b", "chosen": "b", "rejected": "d"}\n'
        assert "a.jsonl:51: prompt holds a NUL character, which no text does; remove it" in stops(LINES + row)

    def test_more_text_after_a_list(self, stops):
        assert "a.jsonl:2: more text follows the end of the list" in stops(json.dumps(GOOD) + "\n[1]")

    @pytest.mark.parametrize("end", ["", "[", "[{", '[{"prompt": "a"', '[{"prompt": "a"}', '[{"prompt": "a"},', "[1,]"])
    def test_a_list_that_is_cut_off(self, stops, end):
        assert ": no JSON (" in stops(end, "a.json") or end == ""


def pieces_of(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class TestListsReadItemByItem:
    @given(
        values=st.lists(VALUES, max_size=6),
        size=st.integers(1, 40),
        indent=st.sampled_from([None, 1]),
        ascii=st.booleans(),
    )
    @settings(max_examples=200)
    def test_hold_what_json_reads_of_them_whole_however_they_are_cut(self, values, size, indent, ascii):
        text = " \n" + json.dumps(values, indent=indent, ensure_ascii=ascii) + "\n "
        assert list(JsonArray(pieces_of(text, size), "a.json").items(Problems("a.json"))) == values

    @given(values=st.lists(VALUES, min_size=1, max_size=4), size=st.integers(1, 40), data=st.data())
    @settings(max_examples=200)
    def test_are_refused_where_json_refuses_them(self, values, size, data):
        text = json.dumps(values, indent=1)
        at = data.draw(st.integers(1, len(text) - 1))
        broken = text[:at] + data.draw(st.sampled_from(['"', "}", "]", ",", ":", "x", ""])) + text[at + 1 :]
        problems = Problems("a.json")
        try:
            whole = json.loads(broken)
        except json.JSONDecodeError as error:
            try:
                list(JsonArray(pieces_of(broken, size), "a.json").items(problems))
            except DataError as refused:
                assert f"a.json:{error.lineno}:{error.colno}: " in str(refused) or "twice" in str(refused)
            else:
                assert problems.count == 1 and error.msg == "Extra data"
        else:
            try:
                assert list(JsonArray(pieces_of(broken, size), "a.json").items(problems)) == whole
            except DataError as refused:
                assert "twice" in str(refused)

    def test_are_never_in_memory_as_a_whole(self, tmp_path):
        path = tmp_path / "a.json"
        with path.open("w") as file:
            file.write(
                "[" + ",\n".join(json.dumps({"prompt": f"{n}?", "unused": "x" * 99_000}) for n in range(1400)) + "]"
            )
        code = (
            f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, ({120 * 2**20},) * 2)\n"
            "from kit.data.sources import read_source\n"
            f"print(sum(1 for _ in read_source({str(path)!r}, 'data.prompts', 0).rows))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.strip() == "1400", done.stderr


class TestEncodings:
    @pytest.mark.parametrize(
        ("encoding", "text"),
        [
            ("utf-16", "a.jsonl: not UTF-8: byte 0xff at byte offset 0; perhaps UTF-16."),
            ("utf-16-le", "a.jsonl: not UTF-8: it looks like UTF-16LE. Convert it: iconv -f UTF-16LE -t UTF-8"),
            ("utf-16-be", "a.jsonl: not UTF-8: it looks like UTF-16BE."),
            ("utf-32", "a.jsonl: not UTF-8: byte 0xff at byte offset 0; perhaps UTF-32."),
        ],
    )
    def test_are_named(self, stops, encoding, text):
        assert stops(LINES.encode(encoding)).startswith(text)
        assert stops(json.dumps(GOOD).encode(encoding)).startswith(text)

    def test_two_in_one_file_are_told_with_the_place(self, stops):
        bad = '{"prompt": "Größe"}'.encode("latin-1")
        at = len(LINES) + bad.index(b"\xf6")
        assert f"byte 0xf6 at byte offset {at:,}; perhaps WINDOWS-1252" in stops(LINES.encode() + bad)
        many = json.dumps(GOOD * 1000)[:-1].encode()
        assert f"byte 0xf6 at byte offset {len(many) + 2 + bad.index(bytes([0xF6])):,};" in stops(many + b", " + bad)

    def test_a_nul_byte_in_a_list_is_told_with_its_line(self, stops):
        assert stops('[{"a": 1},\n{"b": "\x00"}]').startswith("a.jsonl:2: holds a NUL byte")


class TestTables:
    def test_line_breaks_in_quotes_are_read_and_the_row_knows_where_it_begins(self, tmp_path):
        (tmp_path / "a.csv").write_text('prompt,chosen,rejected\n"a\n\n""b""",c,d\ne,f,g\n')
        rows = list(read_source(str(tmp_path / "a.csv"), "data.preferences", seed=0).rows)
        assert rows[0].values["prompt"] == 'a\n\n"b"' and [row.where for row in rows] == ["a.csv:2", "a.csv:5"]

    def test_a_quote_that_is_never_closed_is_told_where_it_opens(self, stops):
        text = stops("prompt,chosen,rejected\n" + "a,b,c\n" * 150 + '"a,b,c\n' + "d,e,f\n" * 50, "a.csv")
        assert (
            "a.csv:152: no CSV: the quote of a cell that opens in this row is not closed before the file's end" in text
        )

    def test_a_stray_quote_is_told(self, stops):
        assert "a.csv:2: no CSV" in stops('prompt,chosen,rejected\n"a"b,c,d\n', "a.csv")

    def test_columns_of_one_name_are_told_in_parquet_too(self, stops):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["chosen", "chosen"]), sink)
        assert "a.jsonl: the column(s) ['chosen'] stand twice" in stops(sink.getvalue().to_pybytes())

    @pytest.mark.parametrize("kind", ["parquet", "arrow"])
    def test_a_file_with_any_bytes_changed_ends_in_data_or_a_message(self, tmp_path, kind):
        pyarrow = pytest.importorskip("pyarrow")
        table, sink = pyarrow.Table.from_pylist(GOOD), pyarrow.BufferOutputStream()
        if kind == "parquet":
            pytest.importorskip("pyarrow.parquet").write_table(table, sink)
        else:
            with pytest.importorskip("pyarrow.ipc").new_file(sink, table.schema) as writer:
                writer.write_table(table)
        whole, draw = sink.getvalue().to_pybytes(), random.Random(0)
        for _ in range(60):
            at, length = draw.randrange(len(whole)), draw.randrange(1, 40)
            broken = whole[:at] if draw.random() < 0.3 else whole[:at] + draw.randbytes(length) + whole[at + length :]
            (tmp_path / "a").write_bytes(broken)
            with contextlib.suppress(KitError):
                load_data(DataSettings(preferences=str(tmp_path / "a")), seed=0)


class TestPaths:
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.jsonl")
        assert refusal(tmp_path / "a.jsonl").startswith("a.jsonl: a pipe, not a plain file.")

    def test_a_device_is_not_read(self):
        assert refusal("/dev/zero") == "zero: a device, not a plain file. Write the rows into a file, and name that."

    def test_a_loop_of_links_is_told(self, tmp_path):
        (tmp_path / "a.jsonl").symlink_to(tmp_path / "a.jsonl")
        assert "a.jsonl: cannot be read: Too many levels of symbolic links" in refusal(tmp_path / "a.jsonl")

    @pytest.mark.parametrize("name", ["a" * 5000, "a\0b.jsonl"])
    def test_a_name_that_is_none_is_told(self, name):
        assert "cannot be read" in refusal(name)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read_is_told(self, tmp_path):
        (tmp_path / "a.jsonl").touch(0)
        assert "Permission denied" in refusal(tmp_path / "a.jsonl")

    def test_a_file_that_is_written_while_it_is_read_is_told(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text(LINES * 10)
        rows = iter(read_source(str(path), "data.preferences", seed=0).rows)
        next(rows)
        with path.open("a") as file:
            file.write(LINES)
        with pytest.raises(DataError, match=r"a\.jsonl: the file was changed while it was read"):
            list(rows)

    def test_memory_that_does_not_suffice_is_told(self, tmp_path, monkeypatch):
        def fails(*_):
            raise MemoryError

        monkeypatch.setattr("kit.data.load.read_pairs", fails)
        (tmp_path / "a.jsonl").write_text(LINES)
        with pytest.raises(MachineError, match="does not hold its rows"):
            load_data(DataSettings(preferences=str(tmp_path / "a.jsonl")), seed=0)


class TestWhatReachesTheTerminal:
    HOSTILE = "\x1b[2J\x1b]0;title\x07\r\x9b\u202e\u2066\ufeff\ud800"

    def test_holds_no_control_character_of_the_data(self, stops):
        names = json.dumps({self.HOSTILE: "a", "p": "b"})
        text = stops(names + "\n")
        assert "\\x1b[2J\\x1b]0;title\\x07\\r\\x9b\\u202e\\u2066\\ufeff\\ud800" in text
        assert printable(text) == text and text.encode()

    def test_keeps_line_ends_tabs_and_letters(self):
        assert printable("a\tb\nÜ 你好 😀") == "a\tb\nÜ 你好 😀"

    def test_holds_no_line_that_a_name_in_the_data_forged(self):
        rows = [
            {"prompt": f"{n}?", "response": text, "rating": rating * scale, "annotator": who}
            for n in range(9)
            for text, rating in (("a", 1), ("b", 5))
            for who, scale in (("ann", 1), ("bo\nall good\x1b[0m", 20))
        ]
        (note,) = [note for note in load_data(DataSettings(preferences=rows), 0).notes if "different scales" in note]
        assert "bo\\nall good\\x1b[0m to 100" in note and "\n" not in note

    def test_is_clean_whoever_speaks(self, capsys):
        from kit import notices

        notices.say(self.HOSTILE)
        notices.warn(self.HOSTILE)
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err and "\\x1b[2J" in out and "\\x1b[2J" in err


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.jsonl", LINES + "[" * 10**5 + "\n", "recursion"),
        ("a.jsonl", LINES.encode("utf-16"), "perhaps UTF-16"),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:-20], "the gzip archive is damaged"),
        ("a.csv", 'prompt,chosen,rejected\n"a,b,c\n', "is not closed"),
        ("a.parquet", b"PAR1PAR1", "a damaged Parquet file"),
        ("a.jsonl", '{"\\u001b[31m": 1}\n', "\\x1b[31m"),
    ],
    ids=["nesting", "utf-16", "gzip", "csv", "parquet", "escapes"],
)
class TestTheCommandLine:
    @pytest.mark.parametrize("command", ["check", "run"])
    def test_ends_with_code_2_and_one_message(self, tmp_path, command, name, content, text):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        config = tmp_path / "c.yaml"
        config.write_text(
            f"name: x\noutput_dir: {tmp_path}\nmodel: {{base: demo}}\ndata: {{preferences: {tmp_path / name}}}\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "kit.cli", command, str(config)], capture_output=True, text=True, cwd=ROOT
        )
        told = " ".join((done.stdout + done.stderr).split())  # a report wraps its lines
        assert done.returncode == 2 and text in told and "Traceback" not in told and "\x1b[31m" not in done.stdout
        assert "Stops a run" in done.stdout or done.stderr.startswith("kit: error: ")
