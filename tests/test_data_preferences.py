"""The forms of preferences beside chosen and rejected: each is recognised by its content and read into pairs."""

import json

import pytest
from rows import assistant, demonstrations, judged, pair, pairs, prompts, refusal, system, user

from kit.config import DataSettings
from kit.data import Demonstration, Pair, load_data


def note(*rows, **settings):
    """What the rows were recognised as."""
    return pairs(*rows, **settings).notes[0]


def notes(*rows, **settings):
    return "\n".join(pairs(*rows, **settings).notes)


class TestPromptsUnderOtherNames:
    @pytest.mark.parametrize("name", ["instruction", "question", "query"])
    def test_are_read_beside_chosen_and_rejected(self, name):
        assert pair({name: "2+2?", "chosen": "4", "rejected": "5"}) == Pair([user("2+2?")], "4", "5", "a.jsonl:1")
        assert f"recognised as {name}, chosen and rejected" in note({name: "2+2?", "chosen": "4", "rejected": "5"})

    def test_alpacas_input_follows_the_instruction(self):
        row = {"instruction": "Add.", "input": "2+2", "chosen": "4", "rejected": "5"}
        assert pair(row).prompt == [user("Add.\n\n2+2")]
        assert pair(row | {"input": ""}).prompt == [user("Add.")]
        assert pair(row | {"input": None}).prompt == [user("Add.")]

    def test_a_system_column_beside_a_question_is_the_system_turn(self):
        row = {"system": "Be brief.", "question": "2+2?", "chosen": "4", "rejected": "5"}
        assert pair(row).prompt == [system("Be brief."), user("2+2?")]
        assert "took the column system as the system turn (1 time)" in notes(row)

    def test_alpacas_history_comes_before(self):
        row = {"instruction": "Sure?", "history": [["2+2?", "4"]], "chosen": "Yes", "rejected": "No"}
        assert pair(row).prompt == [user("2+2?"), assistant("4"), user("Sure?")]
        assert "history[0] is text" in refusal(pairs, row | {"history": ["2+2?"]})

    def test_sharegpts_pairs_have_one_message_a_side(self):
        row = {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        }
        assert pair(row) == Pair([user("2+2?")], "4", "5", "a.jsonl:1")

    def test_a_conversation_in_full_is_read_whatever_stands_beside_it(self):
        turns = [user("Hi"), assistant("Hello"), user("2+2?")]
        row = {"prompt": "2+2?", "chosen": [*turns, assistant("4")], "rejected": [*turns, assistant("5")]}
        row |= {"messages": row["chosen"], "score_chosen": 8.0, "score_rejected": 3.0, "question": "no"}
        assert pair(row) == Pair(turns, "4", "5", "a.jsonl:1", margin=5.0)

    def test_scores_that_say_the_opposite_of_the_columns_are_told(self):
        row = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "score_chosen": 2.0, "score_rejected": 7.0}
        assert "score_chosen is below score_rejected: the columns may be swapped (1 time)" in notes(row)

    def test_several_rejected_answers_make_a_pair_each(self):
        assert judged({"prompt": "2+2?", "chosen": "4", "rejected": ["5", "6"]}) == [("4", "5"), ("4", "6")]


def margins(*rows, **settings):
    return [pair.margin for pair in pairs(*rows, **settings).rows]


PLAIN = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}


class TestMargins:
    """By how much the better answer was rated higher: `reward.margin` takes it."""

    def test_of_rated_answers_are_the_differences_of_their_ratings(self):
        rows = [{"prompt": "2+2?", "response": str(n), "rating": n / 2} for n in (1, 2, 4)]
        assert sorted(margins(*rows)) == [0.5, 1.0, 1.5]

    def test_of_several_peoples_ratings_are_those_of_the_means(self):
        given = [("4", 5, "ann"), ("4", 4, "bo"), ("5", 1, "ann"), ("5", 2, "bo")]
        rows = [{"prompt": "2+2?", "response": text, "rating": n, "annotator": who} for text, n, who in given]
        assert margins(*rows) == [3.0]

    def test_of_ranks_are_places(self):
        assert sorted(margins({"prompt": "2+2?", "responses": ["4", "5", "6"], "ranks": [1, 2, 4]})) == [1.0, 2.0, 3.0]

    def test_of_two_scores_beside_chosen_and_rejected_are_their_difference(self):
        assert margins(PLAIN | {"score_chosen": 8, "score_rejected": 6.5}) == [1.5]

    def test_of_scores_that_say_the_opposite_are_none(self):
        assert margins(PLAIN | {"score_chosen": 2, "score_rejected": 6.5}) == [0.0]

    def test_may_stand_in_a_column(self):
        assert margins(PLAIN | {"margin": 2}) == [2.0]
        renamed = DataSettings(
            preferences=[PLAIN | {"gap": 3, "prompt": f"{n}?"} for n in "ab"], columns={"margin": "gap"}
        )
        assert [pair.margin for pair in load_data(renamed, 0).pairs.train] == [3.0]
        assert "margin is -1; by how much" in refusal(pairs, PLAIN | {"margin": -1})

    def test_are_unknown_where_people_only_chose(self):
        battle = {"prompt": "?", "response_a": "a", "response_b": "b", "winner": "a"}
        assert margins(PLAIN) == margins(battle) == margins(PANDALM | {"annotator1": 1}) == [None]

    def test_belong_to_the_fingerprint_where_there_are_any(self):
        rows = [[PLAIN | {"prompt": f"{n}?"} | more for n in range(9)] for more in ({}, {"margin": 1}, {"margin": 2})]
        assert len({load_data(DataSettings(preferences=some), 0).fingerprint for some in rows}) == 3


class TestOpenAssistantTrees:
    @staticmethod
    def reply(text, rank=None, role="assistant", replies=(), **more):
        return {"text": text, "role": role, "rank": rank, "replies": list(replies), **more}

    def tree(self, *replies):
        return {"message_tree_id": "t", "prompt": self.reply("2+2?", role="prompter", replies=replies)}

    def test_the_reply_of_the_lowest_rank_is_best(self):
        row = self.tree(self.reply("five", 2), self.reply("4", 0), self.reply("four", 1))
        assert set(judged(row)) == {("4", "five"), ("4", "four"), ("four", "five")}
        assert note(row) == (
            "a.jsonl: recognised as OASST trees: sibling replies by rank (the lowest rank is best); "
            "1 rows, 1 prompts, 3 pairs"
        )

    def test_the_direction_of_ranks_can_be_turned_round(self):
        row = self.tree(self.reply("5", 1), self.reply("4", 0))
        assert judged(row, best_value="highest") == [("5", "4")]
        assert "the highest rank is best" in note(row, best_value="highest")

    def test_the_turns_before_are_the_prompt(self):
        deeper = self.reply("Sure?", role="prompter", replies=[self.reply("Yes", 0), self.reply("No", 1)])
        (found,) = pairs(self.tree(self.reply("4", replies=[deeper]))).rows
        assert found.prompt == [user("2+2?"), assistant("4"), user("Sure?")]

    def test_deleted_and_refused_replies_are_left_out_with_theirs(self):
        below = self.reply("x", role="prompter", replies=[self.reply("a", 0), self.reply("b", 1)])
        bad = [self.reply("spam", 0, review_result=False), self.reply("gone", 1, deleted=True, replies=[below])]
        row = self.tree(*bad, self.reply("4", 2), self.reply("5", 3))
        assert judged(row) == [("4", "5")]
        assert "left out a message that is deleted or failed its review, with all replies to it (2 times)" in notes(row)

    def test_replies_without_a_rank_are_left_out_and_counted(self):
        row = self.tree(self.reply("4", 0), self.reply("5", 1), self.reply("?", None))
        assert judged(row) == [("4", "5")]
        assert "left out an answer that nobody ranked or rated (1 time)" in notes(row)

    def test_equal_ranks_make_no_pair(self):
        row = self.tree(self.reply("4", 0), self.reply("four", 0), self.reply("5", 1))
        assert set(judged(row)) == {("4", "5"), ("four", "5")}

    @pytest.mark.parametrize(
        ("reply", "problem"),
        [
            ({"text": None, "role": "assistant"}, "prompt.replies[0].text is null"),
            ({"text": "4", "role": "tool"}, "the role of prompt.replies[0].text is 'tool'"),
            ({"text": "4"}, "the role of prompt.replies[0].text is null"),
            ("4", "prompt.replies[0] is text"),
            ({"text": "4", "role": "assistant", "rank": "first"}, "prompt.replies[0].rank is 'first'"),
            ({"text": "4", "role": "assistant", "replies": "none"}, "prompt.replies[0].replies is text"),
        ],
    )
    def test_what_is_no_message_is_a_problem(self, reply, problem):
        assert f"a.jsonl:1: {problem}" in refusal(pairs, self.tree(reply))

    def test_the_best_replies_are_demonstrations(self):
        row = self.tree(self.reply("5", 1), self.reply("4", 0))
        assert demonstrations(row).rows == [Demonstration([user("2+2?")], "4", "a.jsonl:1")]

    def test_deleted_may_be_written_as_a_word(self):
        row = self.tree(self.reply("4", 0, deleted="True"), self.reply("5", 1, deleted="False"), self.reply("6", 2))
        assert judged(row) == [("5", "6")]

    def test_messages_one_a_row_are_put_together(self):
        def message(name, parent, text, role, rank=None):
            return {"message_id": name, "parent_id": parent, "text": text, "role": role, "rank": rank, "lang": "en"}

        rows = [
            message("b", "a", "5", "assistant", 1.0),  # parents may come later
            message("a", None, "2+2?", "prompter"),
            message("c", "a", "4", "assistant", 0.0),
            message("d", "z", "lost", "assistant", 0.0),
        ]
        assert judged(*rows) == [("4", "5")]
        assert "left out a message whose parent is not in the file, with all replies to it (1 time)" in notes(*rows)
        assert "the message_id stands at a.jsonl:1 too" in refusal(pairs, *rows, rows[0])


PANDALM = {"instruction": "Add.", "input": "2+2", "response1": "5", "response2": "4", "cmp_key": "a_b"}


class TestPandaLM:
    ROW = PANDALM

    def votes(self, *votes, **more):
        return self.ROW | {f"annotator{number}": vote for number, vote in enumerate(votes, 1)} | more

    def test_the_majority_of_the_annotators_decides(self):
        assert judged(self.votes(1, 2, 2)) == [("4", "5")]
        assert pairs(self.votes(1, 2, 2)).rows[0].prompt == [user("Add.\n\n2+2")]

    def test_is_named_with_what_became_of_it(self):
        assert note(self.votes(1, 2, 2)) == (
            "a.jsonl: recognised as PandaLM: instruction and input, response1 and response2, judged by 3 annotators "
            "(annotator1 to annotator3); 1 rows, 1 prompts, 1 pairs"
        )
        assert "two votes on the same of 1 pairs of answers agree in 33% of cases" in notes(self.votes(1, 2, 2))

    def test_a_tie_is_a_vote(self):
        assert judged(self.votes(0, 0, 1), self.votes(1, 1, 1, input="3")) == [("5", "4")]

    def test_without_a_majority_there_is_no_pair(self):
        rows = self.votes(0, 1, 2), self.votes(1, 1, 1, input="3")
        assert judged(*rows) == [("5", "4")]
        assert "the votes on a pair of answers have no majority; no pair (1 time)" in notes(*rows)

    def test_every_vote_can_be_a_pair(self):
        assert judged(self.votes(1, 2, 2), votes="each") == [("5", "4"), ("4", "5"), ("4", "5")]

    def test_whoever_did_not_judge_is_not_counted(self):
        assert judged(self.votes(None, 2, 2)) == [("4", "5")]
        assert "annotator1 did not judge a row (1 time)" in notes(self.votes(None, 2, 2))

    @pytest.mark.parametrize(("vote", "found"), [(3, "'3'"), ("x", "'x'"), ([1], "a list"), (1.5, "'1.5'")])
    def test_what_is_no_vote_is_a_problem(self, vote, found):
        assert f"annotator2 is {found}, 1 or 2, or 0 for a tie is wanted" in refusal(pairs, self.votes(1, vote, 1))

    def test_votes_may_be_written_as_text_or_with_a_point(self):
        assert judged(self.votes("1", "2", 2.0)) == [("4", "5")]

    def test_an_answer_true_is_read_as_a_text(self):
        assert judged(self.votes(1, 1, 1, response1=True)) == [("True", "4")]
        assert "read true or false as the text of an answer in response1 (1 time)" in notes(
            self.votes(1, 1, 1, response1=True)
        )


COMPARISON = {"prompt": "2+2?", "response_a": "4", "response_b": "5"}


class TestComparisons:
    ROW = COMPARISON

    @pytest.mark.parametrize("winner", ["a", "A", "response_a", "model_a", 1, "1"])
    def test_the_winner_is_named_in_many_ways(self, winner):
        rows = self.ROW | {"winner": winner}, {**self.ROW, "prompt": "?", "winner": "b" if winner != 1 else 2}
        assert judged(*rows) == [("4", "5"), ("5", "4")]

    @pytest.mark.parametrize("tie", ["tie", "tie (bothbad)", "both", "neither", 0])
    def test_a_tie_makes_no_pair(self, tie):
        rows = self.ROW | {"winner": tie}, {**self.ROW, "prompt": "?", "winner": "b"}
        assert judged(*rows) == [("5", "4")]
        assert "a tie of two answers makes no pair (1 time)" in notes(*rows)

    def test_zero_and_one_beside_a_and_b_are_refused_as_unclear(self):
        rows = [self.ROW | {"winner": number} for number in (0, 1)]
        assert "does not say whether 1 means response_a" in refusal(pairs, *rows)

    def test_zero_and_one_beside_answers_0_and_1_name_them(self):
        rows = [{"prompt": f"{n}?", "response_0": "x", "response_1": "y", "better_response_id": n} for n in (0, 1)]
        assert judged(*rows) == [("x", "y"), ("y", "x")]

    def test_shps_label_one_means_the_first(self):
        row = {"prompt": "2+2?", "human_ref_A": "4", "human_ref_B": "5", "labels": 1, "score_A": 9, "score_B": 2}
        assert judged(row, {**row, "prompt": "?", "labels": 0}) == [("4", "5"), ("5", "4")]

    def test_counted_votes_compare_the_answers(self):
        assert judged({"prompt": "2+2?", "response_a": "4", "response_b": "5", "votes_a": 1, "votes_b": 3}) == [
            ("5", "4")
        ]

    def test_shps_history_is_the_prompt(self):
        row = {"history": "2+2?", "human_ref_A": "4", "human_ref_B": "5", "labels": 1}
        assert pair(row).prompt == [user("2+2?")]

    def test_two_scores_compare_the_answers_without_a_winner(self):
        row = {"question": {"full_text": "2+2?"}, "answer_0": "4", "answer_1": "5", "score_0": 0.5, "score_1": -0.5}
        assert pair(row) == Pair([user("2+2?")], "4", "5", "a.jsonl:1", margin=1.0)

    def test_whole_conversations_are_compared(self):
        row = {
            "conversation_a": [user("2+2?"), assistant("4")],
            "conversation_b": [user("2+2?"), assistant("5")],
            "winner": "model_b",
        }
        assert pair(row) == Pair([user("2+2?")], "5", "4", "a.jsonl:1")

    def test_rows_of_several_people_on_one_pair_are_votes(self):
        rows = [self.ROW | {"winner": w, "annotator": who} for who, w in (("ann", "a"), ("bo", "b"), ("cy", "a"))]
        assert judged(*rows) == [("4", "5")]
        assert "votes by annotator" in note(*rows)

    def test_the_order_in_which_answers_were_shown_does_not_part_votes(self):
        turned = {"prompt": "2+2?", "response_a": "5", "response_b": "4", "winner": "b", "annotator": "bo"}
        assert judged(self.ROW | {"winner": "a", "annotator": "ann"}, turned) == [("4", "5")]

    def test_of_two_votes_of_one_person_the_last_counts(self):
        rows = [self.ROW | {"winner": w, "annotator": "ann"} for w in "ab"]
        assert judged(*rows) == [("5", "4")]
        assert "one person voted twice on a pair of answers; the last vote counts (1 time)" in notes(*rows)

    def test_a_side_that_wins_too_often_is_told(self):
        rows = [{**self.ROW, "prompt": f"{n}?", "winner": "a"} for n in range(40)]
        assert "the first of the two answers won 100% of 40 verdicts" in notes(*rows)
        even = [{**self.ROW, "prompt": f"{n}?", "winner": "ab"[n % 2]} for n in range(40)]
        assert "the first of the two answers won" not in notes(*even)

    def test_votes_on_chosen_and_rejected_need_a_column_that_says_who(self):
        row, turned = ({"prompt": "2+2?", "chosen": a, "rejected": b} for a, b in (("4", "5"), ("5", "4")))
        people = [one | {"annotator": who} for one, who in ((row, "ann"), (row, "bo"), (turned, "cy"))]
        assert judged(*people) == [("4", "5")]
        assert judged(row, row, turned) == [("4", "5"), ("4", "5"), ("5", "4")]
        assert "1 pair of answers is judged both ways (first: a.jsonl:3)" in notes(row, row, turned)
        assert judged(row, row, turned, votes="majority") == [("4", "5")]


LIST = {"prompt": "2+2?", "responses": ["5", "4", "four"]}


ARENA = {"prompt": "2+2?", "response_a": "4", "response_b": "5"}
TURNS = {"prompt": ["2+2?", "Sure?"], "response_a": ["4", "Yes."], "response_b": ["4", "No."]}


def won(side):
    """The columns of the winner as LMSYS writes them."""
    return {name: int(name == f"winner_{side}") for name in ("winner_model_a", "winner_model_b", "winner_tie")}


class TestOneColumnForEachWinner:
    """LMSYS: winner_model_a, winner_model_b and winner_tie, of which one is 1."""

    def test_says_who_won(self):
        assert judged(ARENA | won("model_a")) == [("4", "5")] and judged(ARENA | won("model_b")) == [("5", "4")]
        assert "judged by winner_model_a and winner_model_b and winner_tie" in note(ARENA | won("model_a"))

    def test_says_so_in_words_and_text_too(self):
        for yes, no in ((True, False), ("1", "0"), ("True", "False"), (1.0, 0.0)):
            row = {"winner_model_a": no, "winner_model_b": yes, "winner_tie": no}
            assert judged(ARENA | row) == [("5", "4")]

    def test_without_one_for_ties_two_zeros_are_a_tie(self):
        rows = [ARENA | {"winner_a": 0, "winner_b": 0}, ARENA | {"winner_a": 0, "winner_b": 1}]
        assert judged(*rows) == [("5", "4")]
        assert "a tie of two answers makes no pair (1 time)" in notes(*rows)

    def test_a_tie_makes_no_pair(self):
        assert judged(ARENA | won("tie"), ARENA | won("model_a")) == [("4", "5")]

    @pytest.mark.parametrize("wrong", [{"winner_model_b": 1}, {"winner_model_a": 0}, {"winner_tie": None}])
    def test_none_or_two_of_them_are_a_problem(self, wrong):
        found = refusal(pairs, ARENA | won("model_a"), ARENA | won("model_a") | wrong)
        assert (
            "a.jsonl:2: exactly one of the columns of the winner must be 1, the others 0; found winner_model_a" in found
        )

    def test_beside_whole_conversations(self):
        sides = {f"conversation_{side}": [user("2+2?"), assistant(said)] for side, said in (("a", "4"), ("b", "5"))}
        assert judged(sides | won("model_b")) == [("5", "4")]

    def test_which_side_wins_too_often_is_told(self):
        rows = [ARENA | won("model_a") | {"prompt": f"{n}?"} for n in range(40)]
        assert "the first of the two answers won 100% of 40 verdicts" in notes(*rows)


class TestConversationsInTwoLists:
    """LMSYS: `prompt` holds what the user said in all turns, `response_a` all answers; as lists or as JSON texts."""

    def test_are_put_together(self):
        found = pair(TURNS | won("model_a"))
        assert found == Pair([user("2+2?"), assistant("4"), user("Sure?")], "Yes.", "No.", "a.jsonl:1")

    def test_may_be_written_as_text(self):
        row = {name: json.dumps(turns) for name, turns in TURNS.items()}
        assert pair(row | won("model_a")) == pair(TURNS | won("model_a"))

    def test_that_part_before_the_last_turn_judge_no_single_answer(self):
        found = pairs(TURNS | won("model_a"), TURNS | won("model_a") | {"response_b": ["5", "No."]})
        assert len(found.rows) == 1 and "part before the last turn" in found.drops[0].reason

    def test_without_an_answer_to_each_turn_are_a_problem(self):
        found = refusal(pairs, TURNS | won("model_a"), TURNS | won("model_a") | {"response_b": ["4"]})
        assert "a.jsonl:2: prompt holds 2 turns but response_b 1; each turn needs an answer" in found

    def test_an_answer_that_is_null_is_an_empty_one(self):
        rows = [TURNS | won("model_a") | {"prompt": [f"{n}?", "Sure?"]} for n in range(20)]
        found = pairs(*rows, TURNS | won("model_a") | {"response_b": ["4", None]})
        assert len(found.rows) == 20 and "left out an empty answer in a row (1 time)" in "\n".join(found.notes)


class TestLists:
    ROW = LIST

    def test_ranks_order_the_answers_the_lowest_best(self):
        row = self.ROW | {"ranks": [3, 1, 2]}
        assert set(judged(row)) == {("4", "5"), ("four", "5"), ("4", "four")}
        assert "rankings: prompt and responses, judged by ranks (the lowest rank is best)" in note(row)

    def test_ranks_may_begin_at_0_and_leave_gaps(self):
        assert set(judged(self.ROW | {"ranks": [9, 0, 4]})) == {("4", "5"), ("four", "5"), ("4", "four")}

    def test_scores_order_the_answers_the_highest_best(self):
        row = self.ROW | {"scores": [1, 9.5, 4]}
        assert set(judged(row)) == {("4", "5"), ("four", "5"), ("4", "four")}
        assert "(the highest value is best)" in note(row)

    @pytest.mark.parametrize("column", ["ranks", "scores"])
    def test_which_end_is_best_can_be_set(self, column):
        row = {"prompt": "2+2?", "responses": ["4", "5"], column: [1, 2]}
        assert judged(row, best_value="lowest") == [("4", "5")]
        assert judged(row, best_value="highest") == [("5", "4")]

    def test_ties_make_no_pair_and_are_counted(self):
        row = self.ROW | {"ranks": [2, 1, 1]}
        assert set(judged(row)) == {("4", "5"), ("four", "5")}
        assert "a tie of two answers makes no pair (1 time)" in notes(row)

    def test_answers_without_a_rank_are_left_out(self):
        row = self.ROW | {"ranks": [2, 1, None]}
        assert judged(row) == [("4", "5")]
        assert "left out an answer that nobody ranked or rated (1 time)" in notes(row)

    def test_ranks_written_as_text_are_read_with_a_note(self):
        row = self.ROW | {"ranks": ["3", "1", "2"]}
        assert len(judged(row)) == 3
        assert "read a number that is written as text in ranks (3 times)" in notes(row)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"ranks": [1, 2]}, "responses holds 3 answers but ranks 2 values"),
            ({"ranks": None}, "ranks is null, a list is wanted"),
            ({"ranks": 3}, "ranks is a number, a list is wanted"),
            ({"ranks": [1, 2, "4/5"]}, "ranks[2] is '4/5', a number is wanted"),
            ({"ranks": [1, 2, float("nan")]}, "ranks[2] is nan, a number is wanted"),
            ({"ranks": [1, 2, float("inf")]}, "ranks[2] is inf, a number is wanted"),
            ({"ranks": [1, 2, 10**400]}, "ranks[2] is inf, a number is wanted"),
            ({"ranks": [1, 2, [3]]}, "ranks[2] is a list, a number is wanted"),
            ({"ranks": [1, 2, True]}, "ranks[2] is a boolean, a number is wanted"),
            ({"responses": "4"}, "responses is text, a list is wanted"),
            ({"responses": ["4", None, "5"]}, "responses[1] is null"),
            ({"responses": ["4", 5, "6"]}, "responses[1] is a number"),
            ({"prompt": None}, "prompt is null"),
        ],
    )
    def test_what_is_no_ranking_is_a_problem_with_its_line(self, change, problem):
        good = self.ROW | {"ranks": [1, 2, 3]}
        assert f"a.jsonl:3: {problem}" in refusal(pairs, good, good, good | change)

    def test_answers_with_a_score_each(self):
        items = [{"model": "x", "response": text, "overall_score": score} for text, score in (("5", 2), ("4", 8.0))]
        row = {"instruction": "2+2?", "source": "s", "models": ["x", "y"], "completions": items}
        assert judged(row) == [("4", "5")]
        assert "answers with scores: instruction and completions, judged by overall_score" in note(row)

    def test_ultrafeedbacks_annotations_serve_where_there_is_no_overall_score(self):
        def item(text, *ratings):
            aspects = {f"aspect {n}": {"Rating": rating, "Rationale": "r"} for n, rating in enumerate(ratings)}
            return {"response": text, "annotations": aspects}

        row = {"instruction": "2+2?", "completions": [item("5", "1", "2"), item("4", "5", "N/A"), item("?", "N/A")]}
        assert judged(row) == [("4", "5")]

    def test_answers_with_a_rank_each(self):
        row = {"prompt": "2+2?", "answers": [{"answer": "5", "rank": 2.0}, {"answer": "4", "rank": 1.0}]}
        assert judged(row) == [("4", "5")]

    def test_answers_may_be_messages(self):
        row = {"prompt": [user("2+2?")], "responses": [[assistant("5")], assistant("4")], "scores": [1, 2]}
        assert judged(row) == [("4", "5")]

    def test_an_order_of_ids_the_first_best(self):
        items = [{"id": "x", "text": "5"}, {"id": "y", "text": "4"}, {"id": "z", "text": "?"}]
        assert judged({"prompt": "2+2?", "responses": items, "ranking": ["y", "x"]}) == [("4", "5")]

    def test_an_order_of_the_answers_themselves(self):
        assert judged({"prompt": "2+2?", "responses": ["five", "four"], "ranking": ["four", "five"]}) == [
            ("four", "five")
        ]

    @pytest.mark.parametrize(
        ("ranking", "problem"),
        [(["y", "q"], "ranking names 'q', which is none of the answers"), (["y", "y"], "ranking names 'y' twice")],
    )
    def test_unknown_and_repeated_ids_are_problems(self, ranking, problem):
        items = [{"id": "x", "text": "5"}, {"id": "y", "text": "4"}]
        assert problem in refusal(pairs, {"prompt": "2+2?", "responses": items, "ranking": ranking})

    def test_an_ordered_list_with_ties(self):
        row = {"prompt": "2+2?", "ranking": ["4", ["five", "5"]]}
        assert judged(row) == [("4", "five"), ("4", "5")]
        assert "rankings: prompt and ranking (the first is best)" in note(row)

    def test_of_several_people_the_majority_orders_each_two_answers(self):
        people = (("ann", [1, 2, 3]), ("bo", [2, 1, 3]), ("cy", [2, 1, 3]))
        rows = [self.ROW | {"ranks": ranks, "annotator": who} for who, ranks in people]
        assert set(judged(*rows)) == {("4", "5"), ("4", "four"), ("5", "four")}
        assert len(judged(*rows, votes="each")) == 9
        assert [d.response for d in demonstrations(*rows).rows] == ["4", "4"]

    def test_a_place_without_an_answer_and_a_score_is_passed_over(self):
        assert judged({"prompt": "2+2?", "responses": ["5", "4", None], "scores": [1, 2, None]}) == [("4", "5")]

    def test_keys_of_the_answers_are_told_where_none_is_known(self):
        items = [{"text": "4", "pm": 2}, {"text": "5", "pm": 1}]
        assert "The answers in answers hold pm, text." in refusal(pairs, {"prompt": "2+2?", "answers": items})

    def test_the_index_of_the_best(self):
        row = {"prompt": "2+2?", "responses": ["5", "4", "?"], "choice": 1}
        assert set(judged(row)) == {("4", "5"), ("4", "?")}
        assert "choice is 3.0, the index of an answer is wanted, 0 to 2" in refusal(pairs, row, row | {"choice": 3})

    def test_a_table_of_answers_side_by_side(self):
        row = {"prompt": "2+2?", "answer_1": "5", "answer_2": "4", "answer_3": "?", "rank_1": "2", "rank_2": "1"}
        first, second = row | {"rank_3": "3"}, row | {"prompt": "?", "answer_3": "", "rank_3": ""}
        assert judged(first, second) == [("4", "5"), ("5", "?"), ("4", "?"), ("4", "5")]
        assert "rankings: prompt and answer_1 to answer_3, judged by rank_1, ... (the lowest rank is best)" in note(
            first, second
        )

    def test_a_table_of_three_answers_is_never_read_as_two(self):
        row = {"prompt": "2+2?", "answer_a": "5", "answer_b": "4", "answer_c": "?"}
        assert len(judged(row | {"score_a": 2, "score_b": 3, "score_c": 1})) == 3
        assert "no preferences" in refusal(pairs, row | {"winner": "b"})

    @pytest.mark.parametrize(
        ("order", "best"),
        [("B > A > C", "4"), ("b > c = a", "4"), ("2 > 1 > 3", "4"), ("1 > 0 > 2", "4"), (["C", "A"], "?")],
    )
    def test_an_order_of_letters_or_numbers(self, order, best):
        found = judged({"prompt": "2+2?", "responses": ["five", "4", "?"], "ranking": order})
        assert best in {chosen for chosen, _ in found} and best not in {rejected for _, rejected in found}

    def test_numbers_that_may_count_from_0_or_1_are_a_problem(self):
        row = {"prompt": "2+2?", "responses": ["x", "y", "z"], "order": [2, 1]}
        assert "order does not say whether its numbers count the answers from 0 or from 1" in refusal(pairs, row)

    def test_answers_under_the_names_of_those_who_gave_them(self):
        row = {"prompt": "2+2?", "responses": {"gpt": "5", "llama": "4", "bloom": "?"}}
        assert set(judged(row | {"ranks": {"llama": 1, "gpt": 2}})) == {("4", "5")}
        assert set(judged(row | {"ranking": ["llama", "bloom"]})) == {("4", "?")}

    def test_an_object_of_lists_is_a_list_of_objects(self):
        row = {"prompt": "2+2?", "completions": {"response": ["5", "4"], "score": [1.0, 2.0]}}
        assert judged(row) == [("4", "5")]

    def test_lists_written_as_json_into_a_cell_are_read(self):
        assert judged({"prompt": "2+2?", "responses": '["5", "4"]', "ranks": "[2, 1]"}) == [("4", "5")]

    def test_answers_in_no_order_are_refused_with_a_way_out(self):
        assert "data.columns: {ranking: responses}" in refusal(pairs, self.ROW)

    def test_the_best_answer_is_the_demonstration(self):
        assert demonstrations(self.ROW | {"ranks": [3, 1, 2]}).rows == [Demonstration([user("2+2?")], "4", "a.jsonl:1")]

    def test_the_margin_means_nothing_where_nothing_was_rated(self):
        assert judged({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, min_margin=3) == [("4", "5")]
        assert judged(PANDALM | {"annotator1": 1}, min_margin=3) == [("5", "4")]

    def test_answers_closer_than_the_margin_make_no_pair(self):
        row = self.ROW | {"scores": [1, 9, 8.5]}
        assert set(judged(row, min_margin=1)) == {("4", "5"), ("four", "5")}
        assert "two answers less than 1 apart make no pair (data.min_margin) (1 time)" in notes(row, min_margin=1)


class TestRatings:
    @staticmethod
    def rows(*ratings, prompt="2+2?", **more):
        return [{"prompt": prompt, "response": text, "rating": rating, **more} for text, rating in ratings]

    def test_answers_of_one_prompt_are_compared(self):
        rows = self.rows(("5", 1), ("4", 5), ("four", 4))
        assert set(judged(*rows)) == {("4", "5"), ("four", "5"), ("4", "four")}
        assert "ratings: prompt and response, rated by rating (the highest value is best)" in note(*rows)

    def test_answers_of_different_prompts_are_not(self):
        rows = self.rows(("5", 1), ("4", 5)) + self.rows(("x", 3), prompt="3+3?")
        assert judged(*rows) == [("4", "5")]

    def test_the_mean_of_several_peoples_ratings_counts(self):
        rows = [
            *self.rows(("5", 3), ("4", 2), annotator="ann"),
            *self.rows(("5", 1), ("4", 5), annotator="bo"),
        ]
        assert judged(*rows) == [("4", "5")]

    def test_of_two_ratings_by_one_person_the_last_counts(self):
        rows = self.rows(("4", 1), ("5", 2), ("4", 5), annotator="ann")
        assert judged(*rows) == [("4", "5")]
        assert "one person rated an answer twice; the last rating counts (1 time)" in notes(*rows)

    def test_people_of_different_scales_are_told_and_can_be_put_on_one(self):
        said = {"x": (90, 80), "y": (1, 5), "z": (1, 5)}
        people = [
            {"prompt": f"{n}?", "response": text, "rating": rating, "annotator": who}
            for n in range(3)
            for who, ratings in said.items()
            for text, rating in zip("ab", ratings, strict=True)
        ]
        assert "ratings seem to have different scales: y goes to 5, x to 90" in notes(*people)
        assert set(judged(*people)) == {("a", "b")}
        assert set(judged(*people, standardize_ratings=True)) == {("b", "a")}

    def test_equal_ratings_everywhere_are_refused(self):
        text = refusal(pairs, *self.rows(("5", 3), ("4", 3)))
        assert "2 rows give no pair" in text and "All values are equal" in text

    def test_one_answer_a_prompt_is_refused(self):
        assert "Pairs need two answers to one prompt" in refusal(
            pairs, *self.rows(("5", 3)), *self.rows(("4", 1), prompt="3+3?")
        )

    @pytest.mark.parametrize("rating", ["4/5", "good", [4], float("nan"), True])
    def test_what_is_no_number_is_a_problem(self, rating):
        rows = self.rows(("5", 1), ("4", 5), ("four", rating))
        assert "a.jsonl:3: rating is" in refusal(pairs, *rows)

    def test_several_columns_of_numbers_need_a_choice(self):
        row = {"prompt": "2+2?", "response": "4", "helpfulness": 4, "coherence": 3}
        text = refusal(pairs, row)
        assert "Columns of numbers are coherence, helpfulness" in text
        assert "data.columns: {rating: coherence}" in text


class TestLabels:
    @staticmethod
    def rows(*labels, column="label", prompt="2+2?"):
        return [{"prompt": prompt, "completion": text, column: label} for text, label in labels]

    @pytest.mark.parametrize(
        ("good", "bad"),
        [(True, False), (1, 0), (1, -1), ("up", "down"), ("true", "false"), ("👍", "👎"), ("like", "dislike")],
    )
    def test_a_liked_answer_beats_a_disliked_one(self, good, bad):
        assert judged(*self.rows(("4", good), ("5", bad))) == [("4", "5")]

    def test_are_named(self):
        assert "binary labels: prompt and completion, label says whether it was liked" in note(
            *self.rows(("4", True), ("5", False))
        )

    def test_a_prompt_with_one_side_only_gives_no_pair(self):
        rows = self.rows(("4", True), ("5", False)) + self.rows(("6", True), prompt="3+3?")
        assert judged(*rows) == [("4", "5")]

    def test_without_any_prompt_with_both_sides_the_file_is_refused(self):
        rows = self.rows(("4", True)) + self.rows(("6", False), prompt="3+3?")
        assert "no prompt here has both" in refusal(pairs, *rows)

    @pytest.mark.parametrize("label", [None, 7, "perhaps", [True], {}])
    def test_what_is_no_label_is_a_problem(self, label):
        rows = self.rows(("4", True), ("5", False), ("6", True), ("7", label))
        assert "a.jsonl:4: label is" in refusal(pairs, *rows)

    def test_ratings_in_a_column_label_are_ratings(self):
        assert "rated by label" in note(*self.rows(("4", 5), ("5", 1), ("6", 0)))

    def test_disliked_answers_are_no_demonstrations(self):
        rows = self.rows(("4", True), ("5", False)) + self.rows(("6", False), prompt="3+3?")
        assert demonstrations(*rows).rows == [Demonstration([user("2+2?")], "4", "a.jsonl:1")]


LABELLED_AND_RATED = [
    {"prompt": "2+2?", "completion": "4", "label": True, "rating": 2},
    {"prompt": "2+2?", "completion": "5", "label": False, "rating": 4},
]


class TestTwoFormsAtOnce:
    ROWS = LABELLED_AND_RATED

    def test_are_refused_with_both_and_a_way_out(self):
        text = refusal(pairs, *self.ROWS)
        assert "more than one form of preferences fits the columns completion, label, prompt, rating" in text
        assert "labels: binary labels" in text and "ratings: ratings" in text
        assert "data.format: labels" in text

    def test_the_named_one_is_read(self):
        assert judged(*self.ROWS, format="labels") == [("4", "5")]
        assert judged(*self.ROWS, format="ratings") == [("5", "4")]

    def test_a_named_form_that_does_not_fit_is_refused(self):
        assert "no preferences of the form lists" in refusal(pairs, *self.ROWS, format="lists")

    def test_chosen_and_rejected_are_taken_at_their_word(self):
        assert judged(self.ROWS[0] | {"chosen": "x", "rejected": "y"}) == [("x", "y")]


class TestDemonstrationsUnderOtherNames:
    @pytest.mark.parametrize(
        ("row", "name"),
        [
            ({"instruction": "Add.", "input": "2+2", "output": "4"}, "Alpaca: instruction, input and output"),
            ({"prompt": "Add.\n\n2+2", "response": "4"}, "prompt and response"),
            ({"question": "Add.\n\n2+2", "answer": "4"}, "question and answer"),
            (
                {"conversations": [{"from": "human", "value": "Add.\n\n2+2"}, {"from": "gpt", "value": "4"}]},
                "ShareGPT conversations",
            ),
        ],
    )
    def test_are_recognised(self, row, name):
        converted = demonstrations(row)
        assert converted.rows == [Demonstration([user("Add.\n\n2+2")], "4", "a.jsonl:1")]
        assert converted.notes[0] == f"a.jsonl: recognised as {name}; 1 demonstrations"

    def test_sharegpts_system_column_counts(self):
        turns = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
        assert demonstrations({"system": "Be brief.", "conversations": turns}).rows[0].prompt[0] == system("Be brief.")

    def test_prompts_are_found_under_other_names(self):
        assert prompts({"instruction": "Add.", "input": "2+2", "output": "4"}).rows[0].messages == [user("Add.\n\n2+2")]
