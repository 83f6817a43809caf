"""Conversations as they are found: roles, HH-RLHF transcripts, and whatever hostile rows hold."""

import contextlib
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import assistant, demonstrations, pair, pairs, prompts, refusal, system, user

from kit.config import DataSettings
from kit.data import Demonstration, Pair, load_data
from kit.errors import DataError

HH_FILE = Path(__file__).resolve().parents[1] / "../shared/data/hh-rlhf-harmless-test.jsonl.gz"


class TestRoles:
    def one(self, *messages):
        return demonstrations({"messages": list(messages)})

    @pytest.mark.parametrize("human", ["human", "usr", "Prompter", "USER"])
    @pytest.mark.parametrize("bot", ["gpt", "bot", "Assistant", "model"])
    def test_known_aliases_are_mapped(self, human, bot):
        messages = [{"role": human, "content": "Hi"}, {"role": bot, "content": "Hello"}]
        assert self.one(*messages).rows == [Demonstration([user("Hi")], "Hello", "a.jsonl:1")]

    def test_a_mapped_role_is_noted_with_its_count(self):
        conversation = [{"role": "human", "content": "Hi"}, assistant("Hello")]
        converted = demonstrations({"messages": conversation}, {"messages": conversation})
        assert converted.notes[1:] == ["a.jsonl: read the role 'human' as 'user' (2 times)"]

    def test_neighbours_of_one_role_are_merged_with_a_note(self):
        converted = self.one(user("Hi"), user("you"), assistant("Hello"))
        assert converted.rows[0].prompt == [user("Hi\n\nyou")]
        assert converted.notes[1:] == ["a.jsonl: merged neighbouring turns of one role (1 time)"]

    @pytest.mark.parametrize(
        ("messages", "problem"),
        [
            ([{"role": "tool", "content": "x"}], "messages[0] has the unknown role 'tool'"),
            ([assistant("Hi")], "opens with the assistant"),
            ([user("Hi"), system("x"), assistant("Hello")], "a system turn after the first"),
            ([user("Hi")], "ends with the turn of the user"),
            ([system("x")], "ends with the turn of the system"),
            ([], "an empty list"),
            (["Hi"], "messages[0] is text, an object"),
            ([{"role": "user"}], "messages[0] has the keys ['role']"),
            ([user("Hi"), assistant(None)], "messages[1].content is null"),
            ([{"role": 3, "content": "x"}], "messages[0].role is a number"),
            ({"role": "user"}, "messages is an object"),
            (None, "messages is null"),
        ],
    )
    def test_what_is_no_conversation_is_a_problem_with_its_line(self, messages, problem):
        text = refusal(demonstrations, {"messages": messages})
        assert "a.jsonl:1: " in text
        assert problem in text


class TestTranscripts:
    START = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 2+2?"

    def row(self, chosen, rejected):
        return {"chosen": self.START + chosen, "rejected": self.START + rejected}

    def test_all_turns_but_the_last_are_the_prompt(self):
        row = self.row("\n\nAssistant: 4\n\nreally", "\n\nAssistant: 5")
        assert pair(row) == Pair([user("Hi"), assistant("Hello"), user("2+2?")], "4\n\nreally", "5", "a.jsonl:1")

    def test_they_are_recognised_by_their_content(self):
        assert "recognised as HH-RLHF transcripts" in pairs(self.row("\n\nAssistant: 4", "\n\nAssistant: 5")).notes[0]

    @pytest.mark.parametrize("last", ["", "\n\nAssistant: 4\n\nHuman: Why?"])
    def test_one_that_ends_with_the_human_is_dropped(self, last):
        good = self.row("\n\nAssistant: 4", "\n\nAssistant: 5")
        assert pairs(good, self.row("\n\nAssistant: 4", last)).drops == [
            ("a transcript ends with the human", "a.jsonl:2")
        ]

    def test_transcripts_that_part_early_are_dropped(self):
        row = self.row("\n\nAssistant: 4\n\nHuman: Sure?\n\nAssistant: Yes", "\n\nAssistant: 5")
        assert pairs(row).drops[0].reason == "chosen and rejected part before the last turn"

    def test_one_in_which_a_speaker_comes_twice_is_dropped(self):
        row = self.row("\n\nAssistant: 4\n\nAssistant: or 3", "\n\nAssistant: 5")
        assert pairs(row).drops[0].reason == "a speaker has two turns in a row in the transcript"

    def test_a_text_among_them_that_is_no_transcript_is_dropped(self):
        good = self.row("\n\nAssistant: 4", "\n\nAssistant: 5")
        converted = pairs(good, good | {"chosen": "Four."})
        assert len(converted.rows) == 1
        assert "not a transcript" in converted.drops[0].reason

    def test_null_among_them_is_a_problem(self):
        good = self.row("\n\nAssistant: 4", "\n\nAssistant: 5")
        assert "a.jsonl:2: chosen is null" in refusal(pairs, good, good | {"chosen": None})

    def test_the_words_human_and_assistant_inside_a_turn_part_nothing(self):
        row = self.row("\n\nAssistant: The Human: a history\nAssistant: no", "\n\nAssistant: 5")
        assert pair(row).chosen == "The Human: a history\nAssistant: no"


@pytest.fixture(scope="module")
def data():
    sources = {"preferences": str(HH_FILE), "demonstrations": None, "prompts": None}
    return load_data(DataSettings(**sources, eval_fraction=0.1), seed=0)


@pytest.mark.skipif(not HH_FILE.exists(), reason="the HH-RLHF trial file is not here")
class TestRealTranscripts:
    def test_nearly_all_pairs_can_be_used(self, data):
        assert len(data.pairs.train) + len(data.pairs.held_out) == 2299

    def test_what_was_dropped_is_counted(self, data):
        assert f"{HH_FILE.name}: recognised as HH-RLHF transcripts; 2,312 pairs" in data.notes
        assert f"dropped 4 rows: chosen empty (first: {HH_FILE.name}:87)" in data.notes

    def test_no_tag_of_a_speaker_is_left_at_the_start_of_a_paragraph(self, data):
        texts = [text for pair in data.pairs.train for text in (pair.chosen, pair.rejected)]
        assert not any("\n\nHuman:" in text or "\n\nAssistant:" in text for text in texts)


KEYS = st.sampled_from(
    ["role", "content", "from", "value", "text", "replies", "rank", "score", "response", "id", "annotations"]
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
SAID = st.sampled_from(["user", "assistant", "a > b", "4/5", "1", "tie", "NaN", "\n\nHuman: a\n\nAssistant: b"])
JUNK = st.recursive(
    SCALAR | SAID,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
FORMS = st.sampled_from(
    [
        ("prompt", "chosen", "rejected", "annotator"),
        ("question", "chosen", "rejected", "system", "history"),
        ("prompt", "message_tree_id"),
        ("message_id", "parent_id", "text", "role", "rank", "deleted"),
        ("instruction", "input", "response1", "response2", "annotator1", "annotator2"),
        ("prompt", "response_a", "response_b", "winner", "annotator"),
        ("conversation_a", "conversation_b", "winner"),
        ("question", "answer_0", "answer_1", "score_0", "score_1"),
        ("prompt", "responses", "ranks"),
        ("prompt", "responses", "scores"),
        ("instruction", "completions"),
        ("prompt", "responses", "ranking"),
        ("prompt", "ranking"),
        ("prompt", "completion", "label", "annotator"),
        ("prompt", "response", "rating", "annotator"),
        ("conversations", "chosen", "rejected"),
        ("instruction", "input", "output", "history"),
        ("messages",),
        ("text",),
        tuple(string.ascii_lowercase[:3]),
    ]
)
ROWS = FORMS.flatmap(
    lambda columns: st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(columns, JUNK)), min_size=1, max_size=4)
)


class TestHostileRows:
    """Whatever stands in the columns of any form, nothing but a DataError comes of it."""

    @given(ROWS)
    @settings(max_examples=300, deadline=None)
    def test_no_row_ends_in_anything_but_a_data_error(self, rows):
        for read in (pairs, demonstrations, prompts):
            with contextlib.suppress(DataError):
                read(*rows)
