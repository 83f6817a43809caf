"""How far people agree: the files it is read from, what is told of it, and the command."""

import errno
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from labelled import Team, item, project
from rich.console import Console
from typer.testing import CliRunner

import kit
from kit.cli import app
from kit.errors import DataError
from kit.feedback import words
from kit.feedback.agreement import agreement
from kit.feedback.moments import span
from kit.feedback.page import notebook, page
from kit.feedback.plots import pictures
from kit.feedback.read import read_judgements
from kit.feedback.terminal import print_agreement


def line(annotator="ana", item="i1", **more):
    return {"annotator": annotator, "item": item, "answers": ["a", "b"], "ranks": [1, 2], **more}


class TestReading:
    def test_the_documented_line_with_every_key(self):
        row = line(
            item="i7", shown=["b", "a"], seconds=31.5, time="2026-03-02T10:00:00Z", group="de", gold=[1, 2],
            repeat_of="i1", lengths=[10, 20], prompt="Why?",
        )  # fmt: skip
        found = read_judgements([line(), row, line("ben")]).rows[1]
        assert (found.item, found.repeat, found.shown, found.seconds) == ("i1", True, ("b", "a"), 31.5)
        assert (found.time, found.group, found.gold, found.lengths) == (1772445600.0, "de", (-1, -2), (10, 20))

    def test_times_in_milliseconds_and_without_a_zone(self):
        rows = [line(time=1772445600_000), line("ben", time="2026-03-02 10:00:00"), line("cy", time=1772445600)]
        assert {row.time for row in read_judgements(rows).rows} == {1772445600.0}

    def test_names_what_a_file_does_not_say(self):
        assert read_judgements([line(), line("ben", seconds=3)]).unknown == [
            "shown",
            "time",
            "group",
            "gold",
            "lengths",
        ]

    def test_a_skipped_item_is_no_judgement(self):
        assert len(read_judgements([line(), line("ben"), line("cy", ranks=None)]).rows) == 2

    @pytest.mark.parametrize(
        "wrong",
        [
            {"answers": "ab"}, {"answers": ["a", "a"]}, {"ranks": [1]}, {"ranks": [1, "2"]}, {"ranks": [1, math.nan]},
            {"shown": ["a", "c"]}, {"seconds": -1}, {"time": "yesterday"}, {"lengths": [1.5, 2]}, {"annotator": ""},
        ],
    )  # fmt: skip
    def test_a_wrong_line_is_refused_with_its_place(self, wrong):
        with pytest.raises(DataError, match="row 2"):
            read_judgements([line(), line("ben") | wrong])

    def test_one_person_alone_is_refused(self):
        with pytest.raises(DataError, match="at least two people"):
            read_judgements([line(), line(item="i2")])

    def test_pairs_that_name_nobody_are_refused(self):
        with pytest.raises(DataError, match="nobody is named"):
            read_judgements([{"prompt": "p", "chosen": "a", "rejected": "b"}] * 3)

    def test_pandalms_columns_are_people(self):
        row = {"instruction": "Say a", "input": "", "response1": "a", "response2": "bb"}
        rows = [
            row | {"annotator1": 1, "annotator2": 2, "annotator3": 0},
            row | {"instruction": "Say b", "annotator1": 1},
        ]
        found = read_judgements(rows)
        assert found.annotators == ["annotator1", "annotator2", "annotator3"]
        assert [r.values for r in found.rows[:3]] == [(1, 0), (0, 1), (0, 0)] and found.rows[0].lengths == (1, 2)

    def test_rankings_of_the_kits_own_forms(self):
        row = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 3]}
        found = read_judgements([row | {"annotator": name, "time": 1772445600} for name in ("ana", "ben")])
        assert (
            found.rows[0].kind == "rank" and found.rows[0].values == (-2, -1, -3) and found.rows[0].time == 1772445600
        )

    def test_ratings_of_one_answer_a_row(self):
        rows = [{"prompt": "p", "completion": "a", "rating": n, "annotator": f"p{n}"} for n in (1, 5)]
        assert [r.kind for r in read_judgements(rows).rows] == ["rating"] * 2

    def test_lists_of_annotators_and_ratings_by_objective(self):
        asked = {"overall": {"human": [0, 1], "gold": 0.5}, "grammar": {"human": [1, 1]}}
        rows = [{"id": "d1", "system": "s1", "annotators": [3, 7], "prompts": asked}]
        assert [r.values[0] for r in read_judgements(rows).rows] == [0, 1]
        assert [r.values[0] for r in read_judgements(rows, "grammar").rows] == [1, 1]
        with pytest.raises(DataError, match="rated were: overall, grammar"):
            read_judgements(rows, "beauty")

    @pytest.mark.parametrize(
        "rows, form",
        [
            ([line(), line("ben")], "judgements, one a line"),
            ([{"prompt": "p", "chosen": "a", "rejected": "b", "annotator": who} for who in "xy"], "prompt, chosen"),
        ],
    )
    def test_an_objective_is_refused_where_nothing_was_rated_by_objective(self, rows, form):
        assert len(read_judgements(rows).rows) == 2
        with pytest.raises(DataError, match=f"objective 'grammar': read as {form}.*Leave it out"):
            read_judgements(rows, "grammar")

    def test_an_objective_is_refused_of_a_labelling_project(self, tmp_path):
        made = project(tmp_path / "hh", [item("p1")])
        with Team(made) as team:
            for who in ("ana", "ben"):
                team.judge(who, "p1", [1, 2, 3])
        with pytest.raises(DataError, match="hh: objective 'grammar': read as a labelling project"):
            agreement(made.path, "grammar")


@pytest.fixture(scope="module")
def found():
    """Five people: ana, ben, cy and dee judge as the truth is, eve by dice; a group, gold, times, and repeats."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(80):
        truth = [1, 2] if rng.random() < 0.5 else [2, 1]
        for name in ("ana", "ben", "cy", "dee", "eve"):
            ranks = truth if name != "eve" and rng.random() < 0.93 else [int(r) for r in rng.permutation(2) + 1]
            more = {"gold": truth} if i < 12 else {}
            rows.append(
                line(name, f"i{i}", **more | {
                    "ranks": ranks, "group": "x" if name < "c" else "y", "time": 1772445600 + 3600 * i,
                    "seconds": 2 if name == "eve" else 20, "prompt": "<img src=x onerror=alert(1)>\u202e prompt",
                    "shown": [["a", "b"], ["b", "a"]][int(rng.integers(2))],
                })
            )  # fmt: skip
        if i % 8 == 0:
            rows.append(rows[-5] | {"item": f"again-{i}", "repeat_of": f"i{i}"})  # ana's
    return agreement(rows)


class TestAgreement:
    def test_names_the_careless_one_and_nobody_else(self, found):
        assert [(flag.annotator, flag.kind) for flag in found.flags] in ([("eve", "careless")], [("eve", "gold")])

    def test_says_in_words_what_to_do(self, found):
        first = words.advice(found)[0]
        assert first.startswith("eve agrees with nobody: eta 0.") and "look at the last 30 judgements" in first
        assert "2 s an item, where 20 s are usual" in first

    def test_counts_gold_repeats_and_groups(self, found):
        ana, eve = found.people[0], found.people[-1]
        assert ana.gold.value > 0.85 > eve.gold.value and ana.consistency.value == 1 and found.repeats == 10
        assert [group.name for group in found.groups] == ["x", "y"]
        assert found.groups[1].alpha_without.value > found.alpha_nominal.value

    def test_is_plain_json_with_numbers_at_the_top(self, found):
        told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
        assert 0.4 < told["alpha_nominal"] < 0.8 and told["alpha_nominal_ci95"][0] < told["alpha_nominal"]
        assert told["alpha_ordinal"] is None and told["unknown"] == ["lengths"]
        assert told["annotators"]["eve"]["longer_wins"] is None and told["windows"]

    def test_every_key_is_documented(self, found):
        text = (Path(__file__).parents[1] / "docs" / "feedback.md").read_text(encoding="utf-8")
        told = found.as_dict()
        keys = {*told, *told["annotators"]["ana"], *told["groups"]["x"], *told["windows"][0], *told["disagreed"][0],
                *told["flags"][0], *told["annotators"]["ana"]["change"]}  # fmt: skip
        assert [key for key in keys if f"`{key.removesuffix('_ci95')}`" not in text] == []

    def test_the_items_of_two_who_differ_come_first(self, found):
        shares = [item.disagreement for item in found.disagreed]
        assert shares == sorted(shares, reverse=True) and shares[0] == pytest.approx(0.6)

    def test_people_without_shared_votes_are_told_and_not_named(self):
        rows = [line(name, f"i{i}") for i in range(5) for name in ("ana", "ben")] + [line("cy", "alone")]
        result = agreement(rows)
        assert result.flags == [] and "3 of 3 people have fewer than 20 votes" in " ".join(words.advice(result))

    def test_windows_of_one_day_are_told_apart_by_the_time_of_day(self):
        chance = np.random.default_rng(0)
        rows = [line(name, f"i{n}", ranks=[1, 2] if chance.random() < 0.8 else [2, 1], time=1772445600.0 + 45 * n)
                for n in range(120) for name in ("ana", "ben")]  # fmt: skip
        found = agreement(rows)
        console = Console(file=io.StringIO(), width=80)
        print_agreement(found, console)
        assert "2026-03-02 10:00 to 10:14" in console.file.getvalue() and "2026-03-02 10:00 to 10:14" in page(found)
        assert "from 03-02 10:00" in next(one for one in pictures(found) if "time" in one.title).description

    @pytest.mark.parametrize(
        "seconds, told",
        [(5, "2026-03-02 10:00:00 to 10:00:05"), (300, "2026-03-02 10:00 to 10:05"),
         (90_000, "2026-03-02 10:00 to 2026-03-03 11:00"), (1e300, f"2026-03-02 10:00:00 to {1e300:.0f}")],
    )  # fmt: skip
    def test_a_span_is_as_fine_as_it_has_to_be(self, seconds, told):
        assert span(1772445600.0, 1772445600.0 + seconds) == told

    def test_shows_itself_everywhere(self, found):
        console = Console(file=io.StringIO(), width=80)
        print_agreement(found, console)
        assert "eve agrees with nobody" in " ".join(console.file.getvalue().split())
        assert "eve agrees with nobody" in notebook(found) and found._repr_html_() == notebook(found)

    def test_the_page_shows_peoples_text_as_text_and_has_no_script(self, found):
        html = page(found)
        assert "<img" not in html and "&lt;img src=x onerror=alert(1)&gt;⟨U+202E⟩" in html
        assert "<script" not in html and "default-src 'none'" in html and "prefers-color-scheme: dark" in html
        assert len(pictures(found)) == 4 and html.count("<svg") == 4

    def test_a_hostile_name_harms_no_plot(self):
        names = ("$x^{$", "<b>&", "\u202eright\x1b[31m", "n" * 300)
        rows = [line(name, f"i{i}", ranks=[1 + i % 2, 2 - i % 2]) for i in range(25) for name in names]
        html = page(agreement(rows))
        assert "<b>&" not in html and "\u202e" not in html and "\x1b" not in html

    def test_is_public(self):
        assert kit.agreement([line(), line("ben")]).judgements == 2


class TestTheCommand:
    def run(self, *arguments):
        return CliRunner().invoke(app, ["agreement", *map(str, arguments)])

    def test_prints_json_alone_and_writes_the_page(self, tmp_path):
        file = tmp_path / "judged.jsonl"
        file.write_text("".join(json.dumps(line(n, f"i{i}")) + "\n" for i in range(4) for n in ("ana", "ben")))
        done = self.run(file, "--json", "--html", tmp_path / "page.html")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["judgements"] == 8 and "</html>" in (tmp_path / "page.html").read_text()

    def test_a_wrong_file_ends_with_code_2(self, tmp_path):
        assert self.run(tmp_path / "none.jsonl").exit_code == 2
        assert self.run(tmp_path / "none.jsonl", "--html", tmp_path).exit_code == 2

    def test_a_page_that_finds_no_room_is_told(self, tmp_path, monkeypatch):
        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        file = tmp_path / "judged.jsonl"
        file.write_text("".join(json.dumps(line(n, f"i{i}")) + "\n" for i in range(4) for n in ("ana", "ben")))
        monkeypatch.setattr(os, "fsync", full)
        done = self.run(file, "--html", tmp_path / "page.html")
        assert done.exit_code == 2 and "page.html: cannot be written: No space left on device" in done.output
