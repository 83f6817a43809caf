"""How far people agree who judged a labelling project."""

import io
import json

import pytest
from labelled import Team, item, project
from rich.console import Console
from typer.testing import CliRunner

import kit
from kit.cli import app
from kit.errors import DataError
from kit.feedback.page import page
from kit.feedback.read import read_judgements
from kit.feedback.terminal import print_agreement
from kit.labels.rows import judgement_rows


@pytest.fixture
def labels(tmp_path):
    """Twelve items, one of them gold and one repeated; ben differs from ana and cy on the last ones."""
    items = [item("g1", gold=(1, 2, 3)), *(item(f"p{n}") for n in range(1, 12))]
    again = item("p1.again", repeat_of="p1", prompt=items[1].prompt)
    made = project(tmp_path / "labels" / "hh", [*items, again])
    with Team(made) as team:
        for who in ("ana", "ben", "cy"):
            for n, one in enumerate(items):
                ranks = [3, 2, 1] if who == "ben" and n > 8 else [1, 2, 3]
                more = {"group": "x" if who == "ana" else "y", "comment": "hm" if n == 3 else ""}
                team.judge(who, one.name, ranks, seconds=10 + n, none_acceptable=n < 2, **more)
            team.judge(who, "p1.again", [1, 3, 2])
        team.judge("dee", "p1", skip="no idea")
    return made


class TestAProject:
    def test_is_read_with_all_that_it_knows(self, labels):
        told = kit.agreement(labels.path).as_dict()
        assert (told["source"], told["form"], told["items"]) == ("labels/hh", "a labelling project", 12)
        assert (told["judgements"], told["repeats"], told["unknown"]) == (39, 3, [])
        ana = told["annotators"]["ana"]
        assert (
            ana["gold"] == 1 and ana["consistency"] == pytest.approx(2 / 3, abs=1e-3) and ana["seconds_median"] == 15.5
        )
        assert ana["first_wins"] < 0.1 and set(told["groups"]) == {"x", "y"}

    def test_names_items_and_not_who_judged_them_first(self, labels):
        wanted = {f"labels/hh: item p{n}" for n in (9, 10, 11)}
        assert {one.where for one in kit.agreement(labels.path).disagreed} == wanted

    def test_counts_skips_none_acceptable_and_comments(self, labels):
        found = kit.agreement(labels.path)
        ben = found.as_dict()["annotators"]["ben"]
        assert (ben["skipped"], ben["none_acceptable"], ben["comments"]) == (0, 2, 1)
        assert "skipped all that they were given: dee" in found.notes
        console = Console(file=io.StringIO(), width=80)
        print_agreement(found, console)
        for told in (console.file.getvalue(), page(found)):
            assert "none acceptable in 2, 1 comment" in told and "skipped 1" in told

    def test_of_other_files_says_that_nobody_tells(self):
        rows = [{"annotator": who, "item": "i", "answers": ["a", "b"], "ranks": [1, 2]} for who in ("ana", "ben")]
        found = kit.agreement(rows)
        assert found.as_dict()["annotators"]["ana"]["skipped"] is None and "Besides ranks" not in page(found)

    def test_its_export_of_everything_counts_what_stands(self, labels):
        with Team(labels) as team:
            team.count = 500
            first = next(
                row["id"] for row in judgement_rows(labels) if (row["annotator"], row["item"]) == ("ben", "p11")
            )
            team.judge("ben", "p11", [1, 2, 3], supersedes=first)
        found = read_judgements(list(judgement_rows(labels, all_of_them=True)))
        standing = read_judgements(labels.path)
        assert [row.values for row in found.rows] == [row.values for row in standing.rows]
        assert [row.repeat for row in found.rows] == [row.repeat for row in standing.rows]
        assert "left out what was corrected later: 1" in found.notes

    def test_nobody_yet_says_what_to_do(self, tmp_path):
        made = project(tmp_path / "labels" / "new")
        with pytest.raises(
            DataError, match=r"nobody has judged anything yet, so there is nothing to measure.*kit label"
        ):
            kit.agreement(made.path)

    def test_through_the_command(self, labels):
        done = CliRunner().invoke(app, ["agreement", str(labels.path), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["source"] == "labels/hh"


class TestOnePersonAlone:
    def alone(self, tmp_path, *items):
        made = project(tmp_path / "labels" / "mine", list(items))
        with Team(made) as team:
            for one in items:
                team.judge("ana", one.name, [1, 2, 3])
        return made

    def test_is_told_self_consistency_and_gold(self, tmp_path):
        first = item("p1")
        made = self.alone(
            tmp_path, first, item("g1", gold=(1, 2, 3)), item("p1.again", repeat_of="p1", prompt=first.prompt)
        )
        found = kit.agreement(made.path)
        told = found.as_dict()
        assert told["alpha_nominal"] is None and told["annotators"]["ana"]["eta"] is None
        assert told["advice"] == [
            "One person alone judged (repeated items judged the same: 100 %; gold put right: 100 %): nobody can tell "
            "what of it is taste. Let a second judge a part, e.g. `kit label PROJECT --annotators ana,ben`."
        ]
        console = Console(file=io.StringIO(), width=80)
        print_agreement(found, console)
        assert "ana alone, 3 judgements of 2 items" in console.file.getvalue() and "ana alone" in page(found)

    def test_without_repeats_and_gold_is_told_how_to_add_people(self, tmp_path):
        made = self.alone(tmp_path, item("p1"), item("p2"))
        with pytest.raises(DataError, match=r"alone of 2 judgements.*kit label labels/mine --annotators ana,ben"):
            kit.agreement(made.path)
