"""Rows that teach nothing are dropped and counted; too many of them stop the run."""

import pytest

from kit.data import Demonstration, Pair, Prompt
from kit.data.checks import Drop, drop_duplicates, drop_flawed, require_enough, summary
from kit.data.kept import Kept
from kit.errors import DataError

PROMPT = [{"role": "user", "content": "2+2?"}]
GOOD = Pair(PROMPT, "4", "5", "a:1")


def kept(*rows):
    return Kept().add(rows, type(rows[0]))


class TestBlank:
    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (Pair(PROMPT, " ", "5", "a:2"), "chosen empty"),
            (Pair(PROMPT, "4", "", "a:2"), "rejected empty"),
            (Pair(PROMPT, "", "\n", "a:2"), "chosen and rejected empty"),
            (Pair([{"role": "user", "content": "\t"}], "4", "5", "a:2"), "a turn of the prompt is empty"),
            (Demonstration(PROMPT, "", "a:2"), "response empty"),
            (Prompt([{"role": "user", "content": ""}], "a:2"), "a turn of the prompt is empty"),
        ],
    )
    def test_a_blank_text_drops_the_row_with_its_reason(self, row, reason):
        assert drop_flawed(kept(row)) == ([], [Drop(reason, "a:2")])

    def test_full_rows_are_kept(self):
        assert drop_flawed(kept(GOOD)) == ([GOOD], [])

    def test_blank_rows_are_told_before_equal_ones(self):
        rows = kept(Pair(PROMPT, "4", "4", "a:1"), GOOD, Pair(PROMPT, "4", " ", "a:3"))
        found, drops = drop_flawed(rows)
        assert found == [GOOD] and [drop.where for drop in drops] == ["a:3", "a:1"]


class TestEqual:
    def test_equal_answers_are_dropped(self):
        drops = [Drop("chosen equals rejected", "a:2")]
        assert drop_flawed(kept(GOOD, Pair(PROMPT, "4", "4", "a:2"))) == ([GOOD], drops)

    def test_answers_that_differ_in_outer_whitespace_alone_are_equal(self):
        assert drop_flawed(kept(Pair(PROMPT, "4\n", " 4", "a:2")))[0] == []


class TestDuplicates:
    def test_the_first_of_equal_rows_is_kept(self):
        again = Pair([*PROMPT], "4", "5", "a:2")
        assert drop_duplicates(kept(GOOD, again)) == ([GOOD], [Drop("exact duplicates", "a:2")])

    def test_the_swapped_pair_is_no_duplicate(self):
        assert len(drop_duplicates(kept(GOOD, Pair(PROMPT, "5", "4", "a:2")))[0]) == 2

    def test_another_prompt_is_no_duplicate(self):
        assert len(drop_duplicates(kept(GOOD, Pair([*PROMPT, *PROMPT], "4", "5", "a:2")))[0]) == 2


class TestEnough:
    def test_half_dropped_is_enough(self):
        require_enough("a", 2, [Drop("a transcript ends with the human", "a:1")] * 2)

    def test_one_empty_text_in_a_hundred_rows_is_dropped_and_two_stop(self):
        require_enough("a", 99, [Drop("chosen empty", "a:1")])
        with pytest.raises(DataError, match=r"2 of 100 rows \(2\.0%\): a text is empty; more than 1% .*: a:1, a:9"):
            require_enough("a", 98, [Drop("chosen empty", "a:1"), Drop("a turn of the prompt is empty", "a:9")])

    def test_one_equal_pair_in_ten_is_dropped_and_two_stop(self):
        require_enough("a", 9, [Drop("chosen equals rejected", "a:1")])
        with pytest.raises(DataError, match=r"2 of 10 rows \(20\.0%\): chosen equals rejected; more than 10%"):
            require_enough("a", 8, [Drop("chosen equals rejected", "a:1")] * 2)

    def test_both_are_told_in_one_message(self):
        with pytest.raises(DataError, match=r"(?s)a text is empty.*chosen equals rejected"):
            require_enough("a", 6, [Drop("chosen equals rejected", "a:1")] * 2 + [Drop("chosen empty", "a:2")])

    def test_of_many_rows_twenty_are_named(self):
        with pytest.raises(DataError, match=r": (a:1, ){20}…$"):
            require_enough("a", 60, [Drop("chosen empty", "a:1")] * 30)

    def test_more_than_half_dropped_is_refused_with_the_reasons(self):
        with pytest.raises(
            DataError, match=r"(?s)3 of 5 rows cannot be used.*dropped 3 rows: chosen empty \(first: a:1\)"
        ):
            require_enough("a", 2, [Drop("chosen empty", "a:1")] * 3)

    def test_nothing_left_is_refused(self):
        with pytest.raises(DataError, match="none is left"):
            require_enough("a", 0, [Drop("chosen empty", "a:1")])

    def test_duplicates_do_not_count_as_lost(self):
        require_enough("a", 1, [Drop("exact duplicates", "a:1")] * 9)


class TestSummary:
    def test_one_line_a_reason_with_count_and_first_place(self):
        drops = [Drop("chosen empty", "a:3"), Drop("exact duplicates", "a:4"), Drop("chosen empty", "a:9")]
        assert summary(drops) == [
            "dropped 2 rows: chosen empty (first: a:3)",
            "dropped 1 row: exact duplicates (first: a:4)",
        ]
