"""The forms rows come in: recognised by content, read into pairs, demonstrations and prompts."""

import pytest
from rows import assistant, demonstrations, pair, pairs, prompts, refusal, system, user

from kit.data import Demonstration, Pair, Prompt


class TestStandardPreferences:
    def test_a_text_prompt_is_one_user_turn(self):
        assert pair({"prompt": "2+2?", "chosen": "4", "rejected": "5"}) == Pair([user("2+2?")], "4", "5", "a.jsonl:1")

    def test_whitespace_around_texts_is_removed(self):
        assert pair({"prompt": " 2+2?\n", "chosen": " 4", "rejected": "5 "}) == Pair(
            [user("2+2?")], "4", "5", "a.jsonl:1"
        )

    def test_a_prompt_written_as_a_transcript_is_parsed(self):
        row = {
            "prompt": "\n\nHuman: 2+2?\n\nAssistant: 4\n\nHuman: Sure?\n\nAssistant:",
            "chosen": " Yes",
            "rejected": " No",
        }
        assert pair(row).prompt == [user("2+2?"), assistant("4"), user("Sure?")]

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (None, "null"),
            (4, "a number"),
            (True, "a boolean"),
            ([], "a list"),
            ({"a": 1}, "an object"),
            (b"4", "binary data"),
        ],
    )
    @pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
    def test_what_is_no_text_is_a_problem_with_line_and_type(self, column, value, found):
        good = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
        text = refusal(pairs, good, good | {column: value})
        assert f"a.jsonl:2: {column} is" in text
        assert found in text or "an empty list" in text

    def test_half_a_surrogate_pair_is_a_problem(self):
        assert "surrogate" in refusal(pairs, {"prompt": "\ud800", "chosen": "4", "rejected": "5"})


class TestConversationalPreferences:
    def test_answers_after_a_prompt_column(self):
        row = {"prompt": [system("Be brief."), user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]}
        assert pair(row) == Pair([system("Be brief."), user("2+2?")], "4", "5", "a.jsonl:1")

    def test_the_common_turns_of_whole_conversations_are_the_prompt(self):
        start = [user("Hi"), assistant("Hello"), user("2+2?")]
        row = {"chosen": [*start, assistant("4")], "rejected": [*start, assistant("5")]}
        assert pair(row) == Pair(start, "4", "5", "a.jsonl:1")

    def test_a_prompt_column_may_repeat_what_the_conversations_hold(self):
        row = {"prompt": "2+2?", "chosen": [user("2+2?"), assistant("4")], "rejected": [user("2+2?"), assistant("5")]}
        assert pair(row) == Pair([user("2+2?")], "4", "5", "a.jsonl:1")

    def test_a_prompt_column_that_says_something_else_is_a_problem(self):
        row = {"prompt": "3+3?", "chosen": [user("2+2?"), assistant("4")], "rejected": [user("2+2?"), assistant("5")]}
        assert "the prompt does not stand in them" in refusal(pairs, row)

    def test_conversations_that_part_early_are_dropped_with_a_reason(self):
        row = {
            "chosen": [user("Hi"), assistant("Hello"), user("2+2?"), assistant("4")],
            "rejected": [user("Hi"), assistant("What?"), user("2+2?"), assistant("4")],
        }
        assert pairs(row).drops == [("chosen and rejected part before the last turn", "a.jsonl:1")]

    def test_answers_without_any_prompt_are_a_problem(self):
        assert "no 'prompt'" in refusal(pairs, {"chosen": [assistant("4")], "rejected": [assistant("5")]})


class TestTextsWithoutPrompt:
    def test_the_prompt_ends_at_the_last_common_line_break(self):
        row = {"chosen": "Name a pet.\nA dog", "rejected": "Name a pet.\nA cat"}
        assert pair(row) == Pair([user("Name a pet.")], "A dog", "A cat", "a.jsonl:1")

    def test_the_prompt_never_ends_inside_a_word(self):
        row = {"chosen": "The sky is blue", "rejected": "The sky is black"}
        assert pair(row) == Pair([user("The sky is")], "blue", "black", "a.jsonl:1")

    def test_without_a_common_beginning_the_pair_is_dropped(self):
        row = {"chosen": "Yes", "rejected": "No"}
        assert pairs(row).drops[0].reason == "chosen and rejected have no common beginning to take as the prompt"

    def test_the_guess_is_said(self):
        assert "guessed" in pairs({"chosen": "a b", "rejected": "a c"}).notes[0]


class TestDemonstrations:
    @pytest.mark.parametrize(
        "row",
        [
            {"prompt": "2+2?", "completion": "4"},
            {"prompt": [user("2+2?")], "completion": [assistant("4")]},
            {"messages": [user("2+2?"), assistant("4")]},
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
            {"text": "\n\nHuman: 2+2?\n\nAssistant: 4"},
            {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
            {"prompt": "2+2?", "chosen": "4", "rejected": "5", "messages": [user("other"), assistant("other")]},
        ],
    )
    def test_every_form_gives_the_same_demonstration(self, row):
        assert demonstrations(row).rows == [Demonstration([user("2+2?")], "4", "a.jsonl:1")]

    def test_plain_text_is_refused_because_it_has_no_prompt(self):
        assert "where the prompt ends" in refusal(demonstrations, {"text": "Once upon a time"})

    def test_a_transcript_that_ends_with_the_human_is_dropped(self):
        text = "\n\nHuman: 2+2?\n\nAssistant: 4\n\nHuman: Sure?"
        assert demonstrations({"text": text}).drops == [("a transcript ends with the human", "a.jsonl:1")]


class TestPrompts:
    @pytest.mark.parametrize(
        "row",
        [
            {"prompt": "2+2?"},
            {"prompt": [user("2+2?")]},
            {"text": "2+2?"},
            {"text": "\n\nHuman: 2+2?\n\nAssistant:"},
            {"messages": [user("2+2?")]},
            {"messages": [user("2+2?"), assistant("4")]},
            {"prompt": "2+2?", "completion": "4"},
            {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"},
        ],
    )
    def test_every_form_gives_the_same_prompt(self, row):
        assert prompts(row).rows == [Prompt([user("2+2?")], "a.jsonl:1")]

    def test_a_prompt_that_ends_with_the_assistant_is_a_problem(self):
        assert "a user turn is wanted" in refusal(prompts, {"prompt": [user("Hi"), assistant("Hello")]})

    def test_messages_of_the_system_alone_are_a_problem(self):
        assert "no user turn" in refusal(prompts, {"messages": [system("x")]})


class TestMissingColumns:
    def test_found_wanted_and_known_forms_are_said(self):
        text = refusal(pairs, {"question": "2+2?", "chosen": "4"})
        assert "missing rejected" in text
        assert "found the columns chosen, question" in text
        assert "chosen + rejected, with prompt" in text

    def test_a_rename_is_proposed_for_a_known_other_name(self):
        assert "data.columns: {chosen: winner, rejected: loser}" in refusal(pairs, {"winner": "4", "loser": "5"})

    def test_a_rename_of_an_answer_is_proposed_too(self):
        text = refusal(demonstrations, {"context": "2+2?", "solution": "4"})
        assert "data.columns: {completion: solution, prompt: context}" in text

    def test_a_column_missing_from_one_row_is_a_problem_of_that_row(self):
        text = refusal(pairs, {"prompt": "2+2?", "chosen": "4", "rejected": "5"}, {"prompt": "2+2?", "chosen": "4"})
        assert "a.jsonl:2: no 'rejected'; found prompt, chosen" in text

    def test_rows_of_no_columns_are_refused(self):
        assert "found the columns none" in refusal(prompts, {})
