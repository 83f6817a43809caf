"""Exports as people have them that are none of the forms to the letter: read and said, or refused with the way out."""

import json

import pytest

from kit.config import DataSettings
from kit.data import catalogue, load_data
from kit.data.found import is_warning
from kit.errors import DataError

ROWS = [
    {"prompt": f"Name {n} birds.", "chosen": f"Owl and wren, {n} times.", "rejected": f"Spoon {n}."} for n in range(120)
]
INDENTED = "\n".join(json.dumps(row, indent=2) for row in ROWS)


@pytest.fixture
def load(tmp_path):
    def load(content, name="a.jsonl", **settings):
        if not isinstance(content, str):
            content = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_text(content)
        return load_data(DataSettings(preferences=str(tmp_path / name), **settings), 0)

    return load


@pytest.fixture
def refusal(load):
    def refusal(*args, **settings):
        with pytest.raises(DataError) as caught:
            load(*args, **settings)
        return str(caught.value)

    return refusal


def pairs(data):
    rows = [*data.pairs.train, *data.pairs.held_out]
    return {(row.prompt[-1]["content"], row.chosen, row.rejected) for row in rows}


GIVEN = {tuple(row.values()) for row in ROWS}


class TestAreRead:
    def test_an_object_of_rows_by_name(self, load):
        data = load(json.dumps({f"id{n}": row for n, row in enumerate(ROWS)}), "a.json")
        assert pairs(data) == GIVEN and data.notes[0].startswith("a.json: one JSON object of rows by name (id0, ...)")

    def test_messages_in_parts_of_text(self, load):
        def turns(role, text):
            return [{"role": role, "content": [{"type": "text", "text": text[:4]}, {"type": "text", "text": text[4:]}]}]

        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        data = load([{name: turns(roles[name], text) for name, text in row.items()} for row in ROWS])
        assert pairs(data) == GIVEN and f"a.jsonl: {catalogue.PARTS_JOINED} (360 times)" in data.notes

    def test_openais_preferences_once_their_columns_are_named(self, load, refusal):
        rows = [
            {
                "input": {"messages": [{"role": "user", "content": row["prompt"]}], "tools": []},
                "preferred_output": [{"role": "assistant", "content": row["chosen"]}],
                "non_preferred_output": [{"role": "assistant", "content": row["rejected"]}],
            }
            for row in ROWS
        ]
        names = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
        assert "data.columns: {chosen: preferred_output, rejected: non_preferred_output}" in refusal(rows)
        assert pairs(load(rows, columns=names)) == GIVEN

    def test_labels_called_chosen_and_rejected(self, load):
        rows = [
            {"prompt": row["prompt"], "completion": row[side], "label": side}
            for row in ROWS
            for side in ("chosen", "rejected")
        ]
        assert pairs(load(rows)) == GIVEN


class TestAreRefused:
    def test_names_in_capitals_with_the_rename(self, refusal):
        rows = [{name.capitalize(): text for name, text in row.items()} for row in ROWS]
        assert "data.columns: {chosen: Chosen, prompt: Prompt, rejected: Rejected}" in refusal(rows)

    def test_ratings_that_are_no_numbers_with_what_they_are(self, refusal):
        rows = [{"prompt": "?", "response": f"a{n}", "rating": f"{n} stars"} for n in range(5)]
        text = refusal(rows)
        assert "rating holds '0 stars', '1 stars', '2 stars', ...: write a rating as a number, or a label as" in text

    def test_parts_of_a_message_that_are_no_text(self, refusal):
        picture = {"role": "user", "content": [{"type": "image_url", "image_url": "x"}, {"type": "text", "text": "?"}]}
        text = refusal([row | {"prompt": [picture]} for row in ROWS])
        assert "a.jsonl:1: prompt[0].content[0] is 'image_url'; of a message in parts only parts of text" in text

    def test_a_part_that_is_null(self, refusal):
        rows = [row | {"prompt": [{"role": "user", "content": [None]}]} for row in ROWS]
        assert "prompt[0].content[0] is 'null'; of a message" in refusal(rows)

    @pytest.mark.parametrize("content", [INDENTED, INDENTED.replace("}\n{", "},\n{")], ids=["plain", "with commas"])
    def test_objects_over_many_lines_with_what_writes_them_on_one(self, refusal, content):
        text = refusal(content)
        assert text.startswith("a.jsonl: JSON objects that go over several lines follow each other") and "jq -c" in text

    def test_a_pointer_of_git_lfs_and_a_web_page(self, refusal):
        assert "`git lfs pull`" in refusal("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
        assert "a web page" in refusal("<!DOCTYPE html>\n<html><body>404</body></html>", "a.csv")

    def test_an_empty_train_beside_a_full_test(self, refusal):
        assert "0 rows; at least one is wanted" in refusal(json.dumps({"train": [], "test": ROWS}), "a.json")

    def test_texts_of_which_nothing_can_be_seen_count_as_empty(self, refusal, load):
        unseen = ROWS[0] | {"chosen": "\u200b\ufeff \u2060"}
        assert "120 rows (1.7%): a text is empty" in refusal([unseen, ROWS[0] | {"prompt": "\u200d"}, *ROWS[2:]])
        assert len(pairs(load([unseen, *ROWS[1:]]))) == 119

    def test_hundreds_of_columns_without_a_list_of_them_all(self, refusal):
        text = refusal([{f"c{n}": "x" for n in range(500)}])
        assert ", …. Forms this kit reads" in text and text.count("c1") < 50


class TestAreWarnedOf:
    def test_a_prompt_that_is_guessed(self, load):
        rows = [{side: f"Human: Hi {n}\nAssistant: {side} {n}" for side in ("chosen", "rejected")} for n in range(120)]
        assert is_warning(load(rows).notes[0])
