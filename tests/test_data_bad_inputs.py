"""What may be wrong with data, a test for each: stopped with a text that helps, put right with a notice, or told.

Every case goes through `load_data`, as a run does, and is held against the exact text.
"""

import gzip
import json

import pytest
from toy_tokenizers import CHATML, byte_level

from kit.config import DataSettings
from kit.data import catalogue, load_data
from kit.errors import DataError
from kit.models.encoding import Codec, encode_data

GOOD = [{"prompt": f"Question {n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(200)]
CODEC = Codec(byte_level("<|im_start|>", "<pad>", eos_token="<|im_end|>", chat_template=CHATML))
CORRECT = "Correct or remove these rows, or let the kit leave out so many: data.skip_bad_rows."


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def load(tmp_path):
    def load(content, name="a.jsonl", **settings):
        if not isinstance(content, list):
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
            content = str(tmp_path / name)
        return load_data(DataSettings(**{"preferences": content, "eval_fraction": 0.1, **settings}), seed=0)

    return load


@pytest.fixture
def stops(load, tmp_path):
    """The text a run stops with, without the test's own folder."""

    def stops(content, *args, **settings) -> str:
        with pytest.raises(DataError) as caught:
            load(content, *args, **settings)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return stops


@pytest.fixture
def stops_encoding(load):
    """The text a run stops with once the rows are tokens."""

    def stops_encoding(content, **lengths) -> str:
        with pytest.raises(DataError) as caught:
            encode_data(load(content), CODEC, DataSettings(**lengths))
        return str(caught.value)

    return stops_encoding


def changed(**values):
    """The good rows, the last of them changed."""
    return [*GOOD[:-1], GOOD[-1] | values]


class TestStops:
    def test_on_a_missing_column_with_the_columns_and_the_rename(self, stops):
        text = stops([{"prompt": "?", "accepted": "a", "worse": "b"}])
        assert text.startswith(
            "data.preferences: no preferences: missing chosen and rejected; found the columns accepted, prompt, worse. "
            "Forms this kit reads:\n  pairs         chosen + rejected, "
        )
        assert text.endswith("\nName your columns in the config: data.columns: {chosen: accepted, rejected: worse}.")

    def test_on_malformed_lines_all_at_once_with_line_and_column(self, stops):
        text = stops(lines(GOOD) + '{"prompt": oops}\n{"prompt": "x"}\n[1]\n')
        assert text == (
            "a.jsonl: 3 problems:\n"
            "  a.jsonl:201:12: no JSON (Expecting value): '{\"prompt\": oops}'\n"
            "  a.jsonl:202: no 'chosen'; found prompt\n"
            "  a.jsonl:203: the row is a list, an object with named values is wanted\n" + CORRECT
        )

    def test_on_a_line_that_was_cut_off_at_its_end(self, stops):
        assert "a.jsonl:201:17: no JSON (Expecting property name" in stops(lines(GOOD) + '{"prompt": "a", \n')

    def test_on_many_problems_with_the_first_twenty_and_the_count(self, stops):
        text = stops(lines(GOOD) + "{oops\n" * 30)
        assert text.startswith("a.jsonl: 30 problems, the first 20 are shown:\n") and text.count("no JSON") == 20

    def test_on_a_nul_byte(self, stops):
        assert stops(lines(GOOD[:3]) + "\x00\n") == (
            "a.jsonl:4: holds a NUL byte: a binary file, or a damaged one. Write it again as text."
        )

    def test_on_another_encoding_with_the_command_that_mends_it(self, stops):
        before = lines(GOOD[:1]).encode() + b'{"prompt": "Gr'
        assert stops(before + b'\xfc\xdfe"}\n') == (
            f"a.jsonl: not UTF-8: byte 0xfc at byte offset {len(before)}; perhaps WINDOWS-1252. "
            "Convert it: iconv -f WINDOWS-1252 -t UTF-8 a.jsonl > utf8-a.jsonl"
        )

    def test_on_an_empty_file(self, stops):
        assert stops("\n \n") == "a.jsonl: the file is empty; at least one row is wanted."

    def test_on_no_rows(self, stops):
        assert stops("[]") == "a.jsonl: 0 rows; at least one is wanted."

    def test_on_a_damaged_archive(self, stops):
        text = stops(gzip.compress(lines(GOOD).encode())[:-20], "a.jsonl.gz")
        assert text.startswith("a.jsonl.gz: the gzip archive is damaged (")

    def test_on_more_than_one_empty_text_in_a_hundred(self, stops):
        text = stops([*GOOD[:97], *[row | {"chosen": " "} for row in GOOD[97:100]]])
        assert text == (
            "data.preferences: 3 of 100 rows (3.0%): a text is empty; more than 1% stops a run. Correct or remove "
            "these rows: data.preferences row 98, data.preferences row 99, data.preferences row 100"
        )

    @pytest.mark.parametrize(
        ("value", "found"), [(None, "null"), (7, "a number"), ([], "a list"), (True, "a boolean"), ({}, "an object")]
    )
    def test_on_what_is_no_text(self, stops, value, found):
        assert stops(changed(rejected=value)) == (
            f"data.preferences: 1 problem:\n  data.preferences row 200: rejected is {found}, text or a list of one "
            f"assistant message is wanted\n{CORRECT}"
        )

    def test_on_more_than_one_equal_pair_in_ten(self, stops):
        text = stops([*GOOD[:80], *[row | {"chosen": row["rejected"]} for row in GOOD[80:100]]])
        assert text.startswith(
            "data.preferences: 20 of 100 rows (20.0%): chosen equals rejected; more than 10% stops a run."
        )

    def test_on_more_than_one_empty_sample_in_ten(self, stops):
        rows = [{"prompt": f"{n}?", "responses": ["a", "" if n < 3 else "b"], "ranks": [1, 2]} for n in range(20)]
        assert stops(rows) == (
            "data.preferences: 3 of 20 rows (15.0%): a text is empty; more than 10% stops a run. Correct or remove "
            "these rows: data.preferences row 1, data.preferences row 2, data.preferences row 3"
        )

    def test_on_an_unknown_role(self, stops):
        row = {"prompt": [{"role": "tool", "content": "x"}]}
        assert "data.preferences row 200: prompt[0] has the unknown role 'tool'; known are system, user" in stops(
            changed(**row)
        )

    def test_on_an_assistant_that_opens(self, stops):
        turns = [{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "?"}]
        assert "prompt opens with the assistant, a user turn is wanted first" in stops(changed(prompt=turns))

    @pytest.mark.parametrize(
        ("score", "found"), [("4/5", "'4/5'"), (float("nan"), "nan"), (float("inf"), "inf"), ("high", "'high'")]
    )
    def test_on_a_score_that_is_no_number(self, stops, score, found):
        rows = [{"prompt": f"{n}?", "responses": ["a", "b"], "scores": [n, n + 1]} for n in range(9)]
        rows.append({"prompt": "?", "responses": ["a", "b"], "scores": [1, score]})
        assert f"data.preferences row 10: scores[1] is {found}, a number is wanted" in stops(rows)

    def test_on_scores_that_are_all_equal(self, stops):
        rows = [{"prompt": f"{n}?", "responses": ["a", "b"], "scores": [3, 3]} for n in range(9)]
        assert stops(rows) == (
            "data.preferences: 9 rows give no pair of a better and a worse answer:\n"
            "  answers with scores: prompt and responses, judged by scores (the highest value is best)\n"
            "  data.preferences: a tie of two answers makes no pair (9 times)\n"
            "All values are equal, so nothing is preferred: is this the right column?"
        )

    def test_on_a_ranking_of_unknown_and_repeated_ids(self, stops):
        items = [{"id": "x", "text": "5"}, {"id": "y", "text": "4"}]
        rows = [{"prompt": "?", "responses": items, "ranking": ranking} for ranking in (["x", "z"], ["x", "x"])]
        text = stops(rows)
        assert "row 1: ranking names 'z', which is none of the answers ['x', 'y']" in text
        assert "row 2: ranking names 'x' twice" in text

    def test_on_pairs_that_contradict_one_another_more_than_once_in_four(self, stops):
        turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in GOOD]
        assert stops([*GOOD[:20], *turned[:12]]).startswith(
            "data.preferences: 12 of 32 pairs (37.5%) are judged the other way round by an earlier pair; more than 25% "
            "stops a run, as such pairs say nothing. Say who judged (data.columns: {annotator: ...}), or set "
            "data.votes: majority. The first: data.preferences row 21, data.preferences row 22, "
        )

    def test_on_prompts_that_are_too_long_for_more_than_one_row_in_twenty(self, stops_encoding):
        text = stops_encoding(
            [*GOOD[:30], *({**row, "prompt": "word " * 99} for row in GOOD[30:32])], max_prompt_tokens=64
        )
        assert text == (
            "pairs: 2 of 32 rows (6.2%): the last turn alone is over 64 tokens, so the row is dropped; more than 5% "
            "stops a run. 99 % of the prompts have at most 211 tokens: raise data.max_prompt_tokens, or remove these "
            "rows: data.preferences row 31, data.preferences row 32"
        )

    def test_on_more_than_three_responses_in_ten_that_are_cut(self, stops_encoding):
        rows = [*GOOD[:20], *({**row, "chosen": "word " * 99} for row in GOOD[20:30])]
        text = stops_encoding(rows, max_response_tokens=64)
        assert text.startswith(
            "pairs: 10 of 30 rows (33.3%): a response is over 64 tokens, so its end is not learnt; more than 30% stops "
            "a run. 99 % of the responses have at most 199 tokens: raise data.max_response_tokens, or remove these "
            "rows: data.preferences row 21, "
        )

    def test_on_more_than_one_pair_in_ten_that_is_equal_once_it_is_cut(self, stops_encoding):
        same = ({**row, "chosen": "word " * 99 + "yes", "rejected": "word " * 99 + "no"} for row in GOOD[20:23])
        text = stops_encoding([*GOOD[:20], *same], max_response_tokens=64)
        assert text.startswith(
            "pairs: 3 of 23 rows (13.0%): chosen equals rejected in the first 64 tokens, all that are used; more than "
            "10% stops a run. 99 % of the responses have at most "
        )


class TestPutsRight:
    def test_a_byte_order_mark_and_windows_line_ends(self, load):
        data = load(b"\xef\xbb\xbf" + lines(GOOD).replace("\n", "\r\n").encode())
        assert len(data.pairs.train) == 180

    @pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.txt", "a"])
    def test_a_suffix_that_says_something_else(self, load, name):
        assert len(load(lines(GOOD), name).pairs.train) == 180
        assert len(load(json.dumps(GOOD), name).pairs.train) == 180

    def test_roles_under_other_names(self, load):
        data = load(changed(prompt=[{"from": "human", "value": "x"}]))
        assert "data.preferences: read the role 'human' as 'user' (1 time)" in data.notes

    def test_neighbours_of_one_role(self, load):
        data = load(changed(prompt=[{"role": "user", "content": "x"}] * 2))
        assert "data.preferences: merged neighbouring turns of one role (1 time)" in data.notes

    def test_windows_line_ends_within_transcripts(self, load):
        rows = [
            {side: f"\r\n\r\nHuman: {n}?\r\n\r\nAssistant: {side}" for side in ("chosen", "rejected")} for n in range(9)
        ]
        data = load(rows)
        assert "data.preferences: read Windows line ends as plain ones in a transcript (18 times)" in data.notes
        assert data.pairs.train[0].chosen == "chosen"

    def test_scores_written_as_text(self, load):
        rows = [{"prompt": f"{n}?", "responses": ["a", "b"], "scores": ["9", "10"]} for n in range(9)]
        data = load(rows)
        assert "data.preferences: read a number that is written as text in scores (18 times)" in data.notes
        assert {pair.chosen for pair in data.pairs.train} == {"b"}


class TestDropsAndCounts:
    def test_a_few_empty_texts(self, load):
        assert "dropped 1 row: chosen empty (first: data.preferences row 200)" in load(changed(chosen="\n")).notes

    def test_a_few_equal_pairs_even_if_white_space_differs(self, load):
        notes = load(changed(chosen=" bad 199\n")).notes
        assert "dropped 1 row: chosen equals rejected (first: data.preferences row 200)" in notes

    def test_a_few_empty_samples_among_judged_answers(self, load):
        rows = [
            {"prompt": f"{n}?", "responses": ["a", "b", "" if n < 2 else "c"], "ranks": [1, 2, 3]} for n in range(20)
        ]
        data = load(rows, prompt_weights="pairs")
        assert "data.preferences: left out an empty answer in a row (2 times)" in data.notes
        assert len(data.pairs.train) + len(data.pairs.held_out) == 18 * 3 + 2

    def test_exact_duplicates(self, load):
        assert "dropped 1 row: exact duplicates (first: data.preferences row 201)" in load([*GOOD, GOOD[0]]).notes

    def test_ties_of_a_ranking(self, load):
        rows = [{"prompt": f"{n}?", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]} for n in range(9)]
        assert "data.preferences: a tie of two answers makes no pair (9 times)" in load(rows).notes

    def test_answers_that_a_ranking_leaves_out(self, load):
        rows = [{"prompt": f"{n}?", "responses": ["a", "b", "c"], "ranks": [1, 2, None]} for n in range(9)]
        assert "data.preferences: left out an answer that nobody ranked or rated (9 times)" in load(rows).notes

    def test_bad_rows_where_so_many_are_allowed(self, load):
        notes = load(changed(chosen=None), skip_bad_rows=3).notes
        assert (
            "data.preferences: skipped 1 bad row, as data.skip_bad_rows: 3 allows (first: data.preferences row 200)"
        ) in notes

    def test_a_second_vote_of_one_person(self, load):
        row = {"response_a": "a", "response_b": "b", "annotator": "ann"}
        rows = [row | {"prompt": f"{n}?", "winner": winner} for n in range(9) for winner in "ba"]
        data = load(rows)
        assert "data.preferences: one person voted twice on a pair of answers; the last vote counts (9 times)" in (
            data.notes
        )
        assert {pair.chosen for pair in data.pairs.train} == {"a"}


class TestTells:
    TURNED = GOOD[7] | {"chosen": "bad 7", "rejected": "good 7"}
    BOTH_WAYS = (
        "data.preferences: 1 pair of answers is judged both ways (first: data.preferences row 201); all are kept "
        "(data.votes: majority settles them)"
    )

    def test_of_contradictory_pairs(self, load):
        assert self.BOTH_WAYS in load([*GOOD, self.TURNED]).notes

    def test_and_drops_them_where_the_majority_is_to_decide(self, load):
        data = load([*GOOD, self.TURNED], votes="majority")
        assert len(data.pairs.train) + len(data.pairs.held_out) == 199
        assert any("have no majority; no pair (1 time)" in note for note in data.notes)

    def test_of_responses_that_are_cut_and_pairs_that_are_equal_then(self, load):
        rows = changed(chosen="word " * 99 + "yes", rejected="word " * 99 + "no")
        assert encode_data(load(rows), CODEC, DataSettings(max_response_tokens=64)).notes == [
            "pairs: 1 of 200 cut: a response is over 64 tokens, its end is not learnt",
            "pairs: 1 of 200 dropped: chosen equals rejected as far as they are used",
            "demonstrations: 1 of 200 cut: a response is over 64 tokens, its end is not learnt",
        ]

    def test_of_prompts_that_are_dropped_for_their_length(self, load):
        notes = encode_data(load(changed(prompt="word " * 99)), CODEC, DataSettings(max_prompt_tokens=64)).notes
        assert "pairs: 1 of 200 dropped: the last turn alone is over 64 tokens" in notes

    def test_of_texts_that_hold_a_special_token(self, load):
        notes = encode_data(load(changed(chosen="Yes<|im_end|>")), CODEC, DataSettings()).notes
        assert f"pairs: 1 of 200 {catalogue.SPECIAL_TOKEN_AS_WORDS}" in notes

    def test_of_a_side_that_always_wins(self, load):
        rows = [{"prompt": f"{n}?", "response_a": "a", "response_b": f"b {n}", "winner": "a"} for n in range(50)]
        assert (
            "data.preferences: the first of the two answers won 100% of 50 verdicts: were they shown in random order?"
        ) in load(rows).notes

    def test_of_mixed_scales(self, load):
        rows = [
            {"prompt": f"{n}?", "response": text, "rating": rating * scale, "annotator": who}
            for n in range(9)
            for text, rating in (("a", 1), ("b", 5))
            for who, scale in (("ann", 1), ("bo", 20))
        ]
        assert (
            "data.preferences: ratings seem to have different scales: ann goes to 5, bo to 100; "
            "data.standardize_ratings: true puts each person's on one"
        ) in load(rows).notes

    def test_of_the_direction_of_ranks(self, load):
        rows = [{"prompt": f"{n}?", "responses": ["a", "b"], "ranks": [1, 2]} for n in range(9)]
        lowest, highest = (load(rows, best_value=best) for best in ("auto", "highest"))
        assert "judged by ranks (the lowest rank is best); 9 rows" in lowest.notes[0]
        assert "judged by ranks (the highest rank is best); 9 rows" in highest.notes[0]
        assert (lowest.pairs.train[0].chosen, highest.pairs.train[0].chosen) == ("a", "b")
