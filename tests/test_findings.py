"""What `kit check` finds, and how it shows it."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from toy_tokenizers import CHATML, byte_level

import kit
from kit.data import load_data
from kit.data.found import Stops, is_warning
from kit.data.kept import KeptSplit, joined
from kit.errors import DataError
from kit.findings import words
from kit.findings.findings import Findings
from kit.findings.gather import findings_of, longer_wins
from kit.findings.page import notebook, page
from kit.findings.samples import learnt_pieces
from kit.findings.terminal import print_findings
from kit.models.base import Base
from kit.models.device import choose_precision
from kit.models.encoding import Codec, encode_data
from kit.models.measured import at_most
from kit.stages.gate import judge_reward_model

CODEC = Codec(byte_level("<|im_start|>", "<pad>", eos_token="<|im_end|>", chat_template=CHATML))
SHORT, LONG = "No {}.", "A long answer, {}."  # the longer one is the chosen one in every other pair
ROWS = [
    {
        "prompt": f"Question {n}?",
        "chosen": (LONG, "Yes {}.")[n % 2].format(n),
        "rejected": (SHORT, LONG)[n % 2].format(n),
    }
    for n in range(40)
]
CUT = "pairs: 3 of 9 cut: a response is over 64 tokens, its end is not learnt"
EVIL = "<script>alert(1)</script> [bold]x[/bold] \u202eright to left \x1b[31mred"


def find(rows=ROWS, codec: Codec = CODEC, **data) -> Findings:
    """The findings on rows in memory, by the same way `kit check` goes, with a tokenizer of ours."""
    config = kit.Config(data={"preferences": rows, "eval_fraction": 0.25, **data}, stages=["sft", "reward", "dpo"])
    stops = Stops(gather=True)
    loaded = load_data(config.data, seed=0, stops=stops)
    base = Base(config.model, "toy", choose_precision(config.model), codec)
    encoded = encode_data(loaded, codec, config.data, stops)
    return findings_of(config, loaded, encoded, base, stops, {"sft": True, "reward": False}, "runs/toy")


def changed(at: int, **values) -> list[dict]:
    return [row | (values if n == at else {}) for n, row in enumerate(ROWS)]


def terminal(found: Findings, **options) -> str:
    file = io.StringIO()
    print_findings(found, Console(file=file, width=80, highlight=False, **options))
    return file.getvalue()


class TestRows:
    def test_are_counted_with_what_was_dropped_and_where(self):
        (source,) = find(changed(3, rejected="Yes 3.")).sources
        assert (source.rows, source.kept, source.malformed) == (40, 39, 0)
        assert source.dropped == {"chosen equals rejected": ["data.preferences row 4"]}

    def test_that_are_malformed_are_counted_apart(self):
        found = find(changed(3, chosen=None))
        (source,) = found.sources
        assert (source.rows, source.kept, source.malformed) == (39, 39, 1)
        assert found.stops[0].startswith("data.preferences: 1 problem:\n  data.preferences row 4: chosen is null")

    def test_are_told_apart_by_their_side(self):
        sizes = {one.what: (one.train, one.held_out) for one in find().sizes}
        assert sizes == {"demonstrations": (30, 10), "pairs": (30, 10), "prompts": (30, 10)}


class TestStops:
    def test_are_all_gathered_while_the_rest_is_read(self):
        rows = changed(3, chosen=None)
        rows[5:12] = [row | {"chosen": row["rejected"]} for row in rows[5:12]]
        rows[20] |= {"chosen": " "}
        found = find(rows)
        assert not found.ok
        first, second = found.stops
        assert "chosen is null" in first
        assert "a text is empty; more than 1% stops" in second and "chosen equals rejected; more than 10%" in second
        assert found.pairs is not None and found.pairs.longer_wins.cases > 0

    def test_that_leave_nothing_are_raised(self):
        with pytest.raises(DataError, match="none is left"):
            find([row | {"rejected": row["chosen"]} for row in ROWS])

    def test_are_none_for_good_rows(self):
        found = find()
        assert found.ok and found.warnings == [] and found.verdict() == "all good"


class TestLengths:
    def test_are_those_of_whole_texts_though_they_are_cut(self):
        rows = changed(3, chosen="word " * 80)
        short, long = (find(rows, max_response_tokens=limit) for limit in (64, 512))
        (before,), (after,) = ([one for one in found.lengths if one.part == "chosen"] for found in (short, long))
        assert (
            before.max == after.max == len(CODEC.response([{"role": "user", "content": "?"}], ("word " * 80).strip()))
        )
        assert (before.over, after.over) == (1, 0)

    def test_are_those_of_whole_prompts_though_they_are_dropped(self):
        short, long = (find(changed(3, prompt="word " * 80), max_prompt_tokens=limit) for limit in (64, 512))
        before, after = ([one.max for one in found.lengths if one.part == "prompt"] for found in (short, long))
        assert before == after and min(before) > 160 and short.lengths[0].over == 1

    def test_percentiles_are_lengths_that_so_many_texts_do_not_exceed(self):
        (one,) = (one for one in find().lengths if (one.what, one.part) == ("pairs", "chosen"))
        tokens = sorted(len(CODEC.response([{"role": "user", "content": "?"}], row["chosen"])) for row in ROWS)
        assert (one.p50, one.p95, one.p99, one.max) == (tokens[19], tokens[37], tokens[39], tokens[39])

    @pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1, 100)])
    def test_of_a_hundred_are_one_each(self, share, value):
        assert at_most(range(100, 0, -1), share) == value and at_most([], share) == 0

    def test_histograms_hold_every_text(self):
        assert all(sum(one.histogram) == one.texts for one in find(changed(3, chosen="word " * 80)).lengths)

    def test_other_limits_say_what_they_would_cut(self):
        _, responses = find(changed(3, chosen="word " * 80), max_response_tokens=64).limits
        share = dict(responses.over)
        assert share[64] == share[128] == 2 / 120 and share[256] == 0.0
        assert responses.limit in share and responses.texts == 120


class TestPairs:
    def test_longer_wins_is_the_baseline_that_the_gate_takes(self):
        tokens = [(3, 1), (2, 2), (1, 5), (4, 1)]
        rows = [
            {"prompt": n, "chosen_score": 1.0 + n % 3, "rejected_score": 0.3 * n,
             "chosen_tokens": chosen, "rejected_tokens": rejected}
            for n, (chosen, rejected) in enumerate(tokens)
        ]  # fmt: skip
        assert longer_wins(*np.array(tokens).T).share == judge_reward_model(rows)["longer_wins"]["mean"] == 0.625

    def test_that_length_alone_tells_apart_are_worth_a_look(self):
        shorter = [row | {"chosen": SHORT.format(n), "rejected": LONG.format(n)} for n, row in enumerate(ROWS)]
        assert find(ROWS).warnings == []
        assert find(shorter).warnings == [
            "in 100% of 40 pairs the shorter answer is the chosen one: a reward model may learn length and nothing else"
        ]

    def test_first_wins_is_known_where_two_answers_were_shown(self):
        rows = [
            {"prompt": f"{n}?", "response_a": f"a {n}", "response_b": f"b {n}", "winner": "ab"[n % 4 == 0]}
            for n in range(40)
        ]
        pairs = find(rows).pairs
        assert pairs.first_wins.share == 0.75 and pairs.first_wins.cases == 40

    def test_first_wins_is_not_known_of_chosen_and_rejected(self):
        assert find().pairs.first_wins is None
        assert "not known: no source says which" in dict(words.pair_facts(find().pairs))["first wins"]

    def test_judged_both_ways_are_named(self):
        found = find([*ROWS, ROWS[7] | {"chosen": ROWS[7]["rejected"], "rejected": ROWS[7]["chosen"]}])
        assert found.pairs.both_ways == ["data.preferences row 41"] and found.pairs.both_ways_share == 1 / 41
        assert len(found.warnings) == 1 and "judged both ways" in found.warnings[0]

    def test_equal_as_read_and_equal_once_cut_are_told_apart(self):
        rows = changed(3, rejected="Yes 3.")
        rows[5] |= {"chosen": "word " * 80 + "yes", "rejected": "word " * 80 + "no"}
        pairs = find(rows, max_response_tokens=64).pairs
        assert pairs.equal == ["data.preferences row 4"] and pairs.equal_as_used == ["data.preferences row 6"]


class TestTheSplit:
    def test_has_no_prompt_on_both_sides(self):
        turns = find().turns
        assert (turns.on_both_sides, turns.meet_as_used, turns.conversations) == (0, [], 40)

    def test_is_found_out_where_shortened_prompts_meet(self):
        long = [
            {"role": "user", "content": "x " * 60}, {"role": "assistant", "content": "I see."},
            {"role": "user", "content": "And now?"},
        ]  # fmt: skip
        rows = [
            row | {"prompt": [long[0] | {"content": f"{n} {long[0]['content']}"}, *long[1:]]}
            for n, row in enumerate(ROWS)
        ]
        found = find(rows, max_prompt_tokens=64)
        held_out = load_data(kit.Config(data={"preferences": rows, "eval_fraction": 0.25}).data, 0).prompts.held_out
        assert found.turns.meet_as_used[0] in {row.where for row in held_out}
        assert found.turns.on_both_sides == 0 and len(found.turns.meet_as_used) == found.turns.held_out == 1
        assert found.warnings[-1].startswith(
            "1 of 1 held-out prompts stands in training too, once shortened to 64 tokens (first: data.preferences row "
        )

    def test_is_checked_and_not_taken_for_granted(self):
        config = kit.Config(data={"preferences": ROWS, "eval_fraction": 0.25})
        data = load_data(config.data, 0)
        prompts = KeptSplit(joined([data.prompts.train, data.prompts.held_out.picked([0])]), data.prompts.held_out)
        data = replace(data, prompts=prompts)
        base = Base(config.model, "toy", choose_precision(config.model), CODEC)
        encoded = encode_data(data, CODEC, config.data)
        assert findings_of(config, data, encoded, base, Stops(), {}, "").turns.on_both_sides == 1


class TestTurns:
    def test_are_counted_by_their_number_and_system_turns(self):
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
        rows = changed(3, prompt=[{"role": "system", "content": "Be kind."}, *turns, {"role": "user", "content": "?"}])
        found = find(rows).turns
        assert found.by_turns == {1: 39, 3: 1} and found.with_system == 1


class TestTheEndOfTurn:
    def test_is_learnt_in_every_answer_that_is_whole(self):
        end = find(changed(3, chosen="word " * 80), max_response_tokens=64).end_of_turn
        assert (end.token, end.answers, end.learnt, end.cut, end.doubled_bos) == ("<|im_end|>", 120, 118, 2, 0)

    def test_that_is_missing_from_the_ids_is_noticed(self, monkeypatch):
        ended = Codec._ended
        monkeypatch.setattr(Codec, "_ended", lambda *given: ended(*given)[:-1])
        assert find().end_of_turn.learnt == 0


class TestWhatLeavesNothingToGoOnWith:
    def test_is_told_after_the_problems_that_were_gathered_before_it(self, tmp_path):
        """Of two rows one is broken, and one is too few for a comparison; the second follows from the first."""
        good = {"prompt": "Name three birds.", "chosen": "Owls, gulls and wrens.", "rejected": "Spoons."}
        rows = [good, good | {"rejected": None}]
        with pytest.raises(kit.DataError, match=r"(?s)rejected is null.*compare: no held-out prompts"):
            kit.check({"output_dir": str(tmp_path), "data": {"preferences": rows}})


class TestSamples:
    def test_say_token_by_token_what_is_learnt(self):
        demonstration, pair = find().samples
        ((_, pieces),) = demonstration.parts
        learnt = "".join(piece.text for piece in pieces if piece.learnt)
        assert re.fullmatch(r"(A long answer,|Yes) \d+\.<\|im_end\|>", learnt)
        assert "".join(p.text for p in pieces if not p.learnt).endswith("<|im_start|>assistant\n")
        assert [piece.text for piece in pieces if piece.ends] == ["<|im_end|>"]
        assert [name for name, _ in pair.parts] == ["prompt", "chosen", "rejected"]

    def test_are_read_from_the_labels_that_the_trainer_gets(self):
        ids = CODEC.response([{"role": "user", "content": "?"}], "Yes.")
        pieces = learnt_pieces(CODEC, ids, [n > 1 for n in range(len(ids))])
        assert [piece.learnt for piece in pieces] == [False, False] + [True] * (len(ids) - 2)

    def test_put_the_bytes_of_one_character_together(self):
        ids = CODEC.tokenizer("é 你 😀", add_special_tokens=False)["input_ids"]
        assert len(ids) > 5
        pieces = [piece.text for piece in learnt_pieces(CODEC, ids, [True] * len(ids))]
        assert "".join(pieces) == "é 你 😀" and not any("\ufffd" in text for text in pieces)

    def test_leave_out_the_middle_of_a_long_text_and_say_so(self):
        ids = CODEC.response([{"role": "user", "content": "?"}], "word " * 200)
        pieces = learnt_pieces(CODEC, ids, [True] * len(ids))
        assert sum(piece.left_out for piece in pieces) == len(ids) - 120 and pieces[-1].ends

    def test_prefer_rows_that_are_whole(self):
        rows = [row | {"chosen": "word " * 80} if n < 5 else row for n, row in enumerate(ROWS)]
        assert all(
            any(piece.ends for piece in sample.parts[-1][1]) for sample in find(rows, max_response_tokens=64).samples
        )


class TestInATerminal:
    def test_nothing_is_wider_than_80_columns(self):
        rows = changed(3, prompt="word " * 60, chosen="word " * 80)
        text = terminal(find(rows, max_response_tokens=64), force_terminal=True, color_system=None)
        assert max(map(len, text.splitlines())) <= 80

    def test_learnt_tokens_are_marked_without_colour(self):
        text = terminal(find())
        assert re.search(r"assistant↵\s+\[A│.*│<\|im_end\|>\]", text, re.DOTALL), text

    def test_learnt_tokens_are_coloured_where_there_is_colour(self):
        text = terminal(find(), force_terminal=True, color_system="standard")
        assert "\x1b[1;30;42m<|im_end|>" in text and "│" not in text

    def test_the_verdict_stands_last(self):
        assert terminal(find()).splitlines()[-1] == "all good"
        stopped = terminal(find(changed(3, chosen=None))).splitlines()
        assert stopped[-1] == "1 thing would stop this run" and "Stops a run" in stopped
        assert "sft: would run" not in stopped

    def test_what_people_wrote_commands_nothing(self):
        text = terminal(find([row | {"chosen": f"{EVIL} {n}"} for n, row in enumerate(ROWS)]))
        assert "\x1b" not in text and "\u202e" not in text
        assert "⟨U+202E⟩" in text.replace("│", "") and "[bold]" in text.replace("│", "")

    def test_nor_does_what_they_called_their_files(self):
        text = terminal(replace(find(), notes=[EVIL], warnings=[f"{EVIL} {CUT}"], stops=[EVIL]))
        assert text.count("[bold]x[/bold] ⟨U+202E⟩") == 3 and "\x1b" not in text


class TestAsJson:
    def test_it_is_plain_and_whole(self):
        found = find(changed(3, chosen=None))
        values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
        assert values["ok"] is False and values["stops"] == found.stops
        assert values["pairs"]["longer_wins"] == {"share": found.pairs.longer_wins.share, "cases": 10}

    def test_every_key_is_documented(self):
        text = (Path(kit.__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
        _, _, table = text.partition("## What kit check says")

        def keys(value) -> set[str]:
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            named = set(value) if isinstance(value, dict) else set()
            return named.union(*map(keys, inner)) if inner else named

        values = find().as_dict()
        for source in values["sources"] + values["sizes"]:
            source["dropped"] = {}
        values["steps"], values["turns"]["by_turns"] = {}, {}
        assert {key for key in keys(values) if f"`{key}`" not in table} - {"share", "cases"} == set()


class TestThePage:
    def test_loads_nothing_and_runs_nothing(self):
        html = page(find())
        assert "<script" not in html and not re.search(r"(src|href)=\"(?!#)", html) and "url(" not in html
        assert "default-src 'none'" in html

    def test_escapes_what_people_wrote_and_shows_what_is_hidden(self):
        rows = [row | {"chosen": f"{EVIL} {n}"} for n, row in enumerate(ROWS)]
        rows[3] |= {"chosen": [{"role": "<b>evil</b>", "content": "x"}]}
        for html in (page(find(rows)), notebook(find(rows))):
            assert "<b>evil" not in html and "<script>alert" not in html
            assert "\u202e" not in html and "\x1b" not in html
        assert "⟨U+202E⟩" in re.sub(r"<[^>]*>", "", page(find(rows)))

    def test_marks_learnt_tokens_and_the_end_of_turn(self):
        assert '<span class="end">&lt;|im_end|&gt;</span>' in page(find())

    def test_says_first_what_stops_a_run(self):
        html = page(find(changed(3, chosen=None)))
        assert "<h1>1 thing would stop this run</h1>" in html and html.index("Stops a run") < html.index("Rows")


class TestInANotebook:
    def test_it_shows_verdict_and_facts(self):
        html = find()._repr_html_()
        assert "This run can start" in html and "longer wins" in html


class TestWords:
    @pytest.mark.parametrize(
        ("where", "text"),
        [
            (["a.jsonl:3", "a.jsonl:7", "b.jsonl:1"], "a.jsonl:3, :7, b.jsonl:1"),
            (["demo row 3", "demo row 9"], "demo row 3, 9"),
            (["a:1", "a:1", "a:2", "a:3", "a:4"], "a:1, :2, :3, …"),
        ],
    )
    def test_places_name_a_file_once(self, where, text):
        assert words.places(where) == text

    @pytest.mark.parametrize(
        ("share", "text"),
        [(0, "0 %"), (1, "100 %"), (0.0004, "< 0.1 %"), (0.9996, "> 99.9 %"), (0.595, "59.5 %")],
    )
    def test_percentages_say_none_and_all_only_where_it_is_so(self, share, text):
        assert words.percent(share).replace("\u00a0", " ") == text

    def test_a_warning_is_known_by_its_text_whatever_stands_in_it(self):
        assert is_warning(CUT)
        assert not is_warning("pairs: 3 to train on, 1 held out")
        assert not is_warning("a.jsonl: merged neighbouring turns of one role (2 times)")
