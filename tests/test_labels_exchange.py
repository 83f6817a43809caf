"""Judgements out of a project and into one: the kit's own form, Argilla's records, Label Studio's tasks."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from labelled import Team, item, project

from kit.errors import ConfigError, DataError, RunError
from kit.feedback.agreement import agreement
from kit.labelling.exchange import export_file, import_file
from kit.labels.desk import Desk
from kit.labels.project import STORE_FILE, open_project
from kit.labels.rows import judgement_rows
from kit.labels.store import Store
from kit.runs.lock import run_lock

FORMS = ("kit", "argilla", "label-studio")
# What a form has no place for, and so comes back as unknown; every other key of a row comes back as it was.
LOST = {
    "kit": set(),
    "argilla": {"shown", "seconds", "time", "group", "guidelines_sha256", "id"},
    "label-studio": {"shown", "group", "guidelines_sha256", "id"},
}
TALK = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi\n\nthere"}]


@pytest.fixture
def made(tmp_path):
    """Four items, one of two answers, one repeated; ties, a skip, a correction, a comment, hostile words."""
    first = item("p1", prompt=TALK, gold=(1, 2, 3))
    items = [first, item("p2", ("<b>x</b>", "\u202ey")), item("p3", ("same", "same", "other")),
             item("p1.again", prompt=TALK, repeat_of="p1"), item("p4")]  # fmt: skip
    made = project(tmp_path / "labels" / "hh", items)
    with Team(made) as team:
        team.judge("ana", "p1", [1, 2, 2], group="north", seconds=12.5, comment='A "quote",\nand a line')
        wrong = team.judge("ben", "p1", [3, 2, 1], seconds=4)
        team.judge("ben", "p1", [1, 2, 3], seconds=40, supersedes=wrong)
        team.judge("ana", "p2", [2, 1], none_acceptable=True)
        team.judge("ana", "p1.again", [1, 2, 3])
        team.judge("ben", "p2", skip="no idea what x is")
        team.judge("ben", "p3", [1, 1, 1], none_acceptable=True)
    return made


def copy_of(made, tmp_path, name="copy"):
    """The project without its judgements."""
    folder = shutil.copytree(made.path, tmp_path / name)
    for file in folder.glob(f"{STORE_FILE}*"):
        file.unlink()
    return open_project(folder)


def rows(made, lost=(), everything=False):
    found = [{k: v for k, v in row.items() if k not in lost} for row in judgement_rows(made, everything)]
    return sorted(found, key=lambda row: (row["annotator"], row["item"], str(row["ranks"])))


@pytest.mark.parametrize("form", FORMS)
class TestThereAndBack:
    def test_gives_the_same_standing_judgements(self, made, tmp_path, form):
        file = tmp_path / "out.json"
        assert export_file(made, file, form) == 6
        copy = copy_of(made, tmp_path)
        found = import_file(copy, file)
        assert (found.judgements, found.again, found.annotators) == (6, 0, ["ana", "ben"])
        assert rows(copy, LOST[form]) == rows(made, LOST[form])
        assert {row["item"] for row in rows(made)} == {"p1", "p2", "p3", "p1.again"}

    def test_what_has_no_place_comes_back_as_unknown(self, made, tmp_path, form):
        export_file(made, tmp_path / "out.json", form)
        copy = copy_of(made, tmp_path)
        import_file(copy, tmp_path / "out.json")
        gone = {key for key in LOST[form] if key not in ("time", "id")}
        assert {row[key] for row in judgement_rows(copy) for key in gone} <= {None, ""}

    def test_twice_stores_once(self, made, tmp_path, form):
        export_file(made, tmp_path / "out.json", form)
        copy = copy_of(made, tmp_path)
        import_file(copy, tmp_path / "out.json")
        before = rows(copy)
        found = import_file(copy, tmp_path / "out.json")
        assert (found.judgements, found.again) == (0, 6) and rows(copy) == before

    def test_gives_the_same_ids_in_every_copy(self, made, tmp_path, form):
        export_file(made, tmp_path / "out.json", form)
        one, two = (copy_of(made, tmp_path, name) for name in ("one", "two"))
        for copy in (one, two):
            import_file(copy, tmp_path / "out.json")
        assert [row["id"] for row in rows(one)] == [row["id"] for row in rows(two)]

    def test_into_the_project_it_is_from_changes_nothing(self, made, tmp_path, form):
        before = rows(made, everything=True)
        export_file(made, tmp_path / "out.json", form)
        assert import_file(made, tmp_path / "out.json").again == 6 and rows(made, everything=True) == before

    def test_contradictions_are_refused_and_nothing_comes_in(self, made, tmp_path, form):
        export_file(made, tmp_path / "out.json", form)
        copy = copy_of(made, tmp_path)
        with Team(copy) as team:
            team.count = 500
            team.judge("ben", "p3", [1, 2, 3])
        before = rows(copy)
        with pytest.raises(DataError, match=r"out.json.*'ben' has said something else of item 'p3'.*nothing was taken"):
            import_file(copy, tmp_path / "out.json")
        assert rows(copy) == before
        with Team(copy) as team:
            assert team.desk.store.annotators().keys() == {"ben"}

    def test_items_of_another_project_are_refused_with_their_places(self, made, tmp_path, form):
        export_file(made, tmp_path / "out.json", form)
        other = project(tmp_path / "other", [item("q1", ("u", "v"))])
        with pytest.raises(DataError, match=r"out\.json: [3-6] problems:\n  out\.json.*no such item"):
            import_file(other, tmp_path / "out.json")
        assert not other.store.exists()

    def test_an_items_answers_that_were_changed_are_noticed(self, made, tmp_path, form):
        export_file(made, tmp_path / "out.json", form)
        other = project(tmp_path / "other", [item("p1", ("good", "fair", "worse"), prompt=TALK)])
        with pytest.raises(DataError, match="'p1': its answers are others in the project 'other'"):
            import_file(other, tmp_path / "out.json")

    def test_is_refused_while_the_page_is_served(self, made, tmp_path, form):
        export_file(made, tmp_path / "out.json", form)
        copy = copy_of(made, tmp_path)
        with (
            run_lock(copy.path),
            pytest.raises(RunError, match=r"in use by .*\. Stop it first: .* would not know"),
        ):
            import_file(copy, tmp_path / "out.json")


class TestTheKitsForm:
    def test_carries_what_was_corrected(self, made, tmp_path):
        assert export_file(made, tmp_path / "all.jsonl", "kit", everything=True) == 7
        copy = copy_of(made, tmp_path)
        import_file(copy, tmp_path / "all.jsonl")
        assert rows(copy, everything=True) == rows(made, everything=True)

    def test_brings_a_later_correction_to_a_copy(self, made, tmp_path):
        export_file(made, tmp_path / "all.jsonl", "kit", everything=True)
        lines = (tmp_path / "all.jsonl").read_text().splitlines()
        corrected = next(json.loads(line)["supersedes"] for line in lines if json.loads(line)["supersedes"])
        early = [line for line in lines if json.loads(line)["id"] == corrected]
        (tmp_path / "early.jsonl").write_text("\n".join(early))
        copy = copy_of(made, tmp_path)
        import_file(copy, tmp_path / "early.jsonl")
        found = import_file(copy, tmp_path / "all.jsonl")
        assert (found.judgements, found.again) == (6, 1) and rows(copy) == rows(made)

    def test_of_what_was_corrected_is_only_the_kits(self, made, tmp_path):
        with pytest.raises(DataError, match="no place in argilla's form"):
            export_file(made, tmp_path / "all.json", "argilla", everything=True)

    def line(self, **more):
        return {"annotator": "eve", "item": "p4", "answers": ["a1", "a2", "a3"], "ranks": [1, 2, 3], **more}

    def take(self, made, tmp_path, *lines):
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return import_file(made, tmp_path / "in.jsonl")

    def test_needs_four_keys_alone(self, made, tmp_path):
        found = self.take(made, tmp_path, self.line())
        row = next(row for row in judgement_rows(made) if row["annotator"] == "eve")
        assert row["ranks"] == [1, 2, 3] and row["shown"] is None
        assert len(found.notes) == 2 and "do not say when" in found.notes[0]

    def test_puts_ranks_in_the_order_of_the_item_and_closes_gaps(self, made, tmp_path):
        self.take(made, tmp_path, self.line(answers=["a3", "a1", "a2"], ranks=[7, 2, 7], shown=["a1", "a3", "a2"]))
        row = next(row for row in judgement_rows(made) if row["annotator"] == "eve")
        assert row["ranks"] == [1, 2, 2] and row["shown"] == ["a1", "a3", "a2"]

    def test_finds_an_item_by_its_words_under_other_names(self, made, tmp_path):
        other = self.line(item="x", answers=["u", "v", "w"], texts=["bad", "good", "fair"], prompt="Question  p4?",
                          shown=["w", "v", "u"])  # fmt: skip
        self.take(made, tmp_path, other)
        row = next(row for row in judgement_rows(made) if row["annotator"] == "eve")
        assert (row["item"], row["ranks"], row["shown"]) == ("p4", [2, 3, 1], ["a2", "a1", "a3"])

    @pytest.mark.parametrize(
        "wrong, told",
        [
            ({"ranks": [1, 2]}, "ranks: wanted 3"), ({"ranks": [1, 2, None]}, "ranks: wanted a number"),
            ({"ranks": [1, 2, "3"]}, "ranks: wanted a number"), ({"answers": ["a1", "a1", "a2"]}, "answers: wanted"),
            ({"answers": ["a1", "a2", "zz"]}, "its answers are others"), ({"annotator": ""}, "annotator"),
            ({"annotator": "x\u202ey"}, "is no name"), ({"annotator": "n" * 65}, "is no name"),
            ({"item": "zz"}, "no such item"), ({"seconds": -1}, "seconds"), ({"time": "soon"}, "time"),
            ({"shown": ["a1", "a2", "zz"]}, "shown"), ({"skip": "why"}, "either ranks or skip"),
            ({"comment": "x" * 4001}, "comment"), ({"texts": ["a", 1, "b"]}, "texts"),
            ({"ranks": [1, 2, 10**400]}, "ranks"), ({"seconds": 10**400}, "seconds"), ({"time": 10**400}, "time"),
            ({"time": -9e10}, "time"), ({"time": "9999-12-31T23:59:59-23:00"}, "time"),
            ({"annotator": " eve "}, "is no name"), ({"group": "north\ud800"}, "group"), ({"group": "a,b"}, "group"),
            ({"guidelines_sha256": "\ud800"}, "sha256"),
        ],
    )  # fmt: skip
    def test_refuses_a_wrong_line_with_its_place_and_takes_nothing_in(self, made, tmp_path, wrong, told):
        before = rows(made)
        with pytest.raises(DataError, match=rf"in\.jsonl:2: .*{told}"):
            self.take(made, tmp_path, self.line(), self.line() | wrong)
        assert rows(made) == before

    def test_of_two_that_contradict_each_other_neither_comes_in(self, made, tmp_path):
        with pytest.raises(DataError, match=r"in\.jsonl:2: 'eve' has said something else"):
            self.take(made, tmp_path, self.line(), self.line(ranks=[3, 2, 1]))
        assert not [row for row in judgement_rows(made) if row["annotator"] == "eve"]

    def test_an_id_that_is_taken_is_refused(self, made, tmp_path):
        taken = next(judgement_rows(made))["id"]
        with pytest.raises(DataError, match=r"its id '.*' is that of a judgement which says something else"):
            self.take(made, tmp_path, self.line(id=taken))

    def test_a_correction_of_nothing_is_refused(self, made, tmp_path):
        with pytest.raises(DataError, match="it corrects a judgement that is not there"):
            self.take(made, tmp_path, self.line(supersedes="0" * 16))

    def test_another_file_is_refused_with_its_columns(self, made, tmp_path):
        with pytest.raises(DataError, match="found the columns chosen, rejected"):
            self.take(made, tmp_path, {"chosen": "a", "rejected": "b"})

    def test_a_wrong_line_is_not_said_to_be_left_out_by_a_setting_of_training(self, made, tmp_path):
        with pytest.raises(DataError, match=r"Correct or remove these rows; nothing was taken in\.$"):
            self.take(made, tmp_path, self.line(item="zz"))

    @pytest.mark.parametrize("place", [".", "/", "folder"])
    def test_goes_to_no_folder_and_leaves_nothing_beside_it(self, made, tmp_path, monkeypatch, place):
        (tmp_path / "folder").mkdir()
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(ConfigError, match="is a folder; name a file"):
            export_file(made, Path(place), "kit")
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.parametrize("own", ["items.jsonl", "judgements.sqlite", "project.json"])
    def test_does_not_go_over_the_projects_own_files(self, made, own):
        before = (made.path / own).read_bytes()
        with pytest.raises(ConfigError, match="the project's own"):
            export_file(made, made.path / own, "kit")
        assert (made.path / own).read_bytes() == before

    def test_a_folder_that_cannot_be_written_is_told(self, made, tmp_path):
        with pytest.raises(RunError, match="cannot be written"):
            export_file(made, tmp_path / "none" / "out.jsonl", "kit")

    def test_who_judged_elsewhere_can_look_back_and_correct(self, made, tmp_path):
        self.take(made, tmp_path, self.line())
        desk = Desk(made)
        (mine,) = desk.history("eve")
        assert (mine["answers"], mine["ranks"]) == (["good", "fair", "bad"], [1, 2, 3])
        sent = {"id": "f" * 16, "deal": mine["deal"], "ranks": [2, 1, 3], "guidelines_sha256": "a" * 64}
        desk.judge("eve", sent | {"supersedes": mine["id"]})
        desk.close()
        row = next(row for row in judgement_rows(made) if row["annotator"] == "eve")
        assert row["ranks"] == [2, 1, 3] and row["shown"] is None

    def test_tells_agreement_that_the_order_shown_is_unknown(self, made, tmp_path):
        self.take(made, tmp_path, self.line(), self.line(annotator="fay"))
        mine = [row for row in judgement_rows(made) if row["annotator"] in ("eve", "fay")]
        assert "shown" in agreement(mine).unknown


class TestArgilla:
    def test_is_what_its_sdk_reads(self, made, tmp_path):
        """The keys that Record.from_dict and Response(question_name, **value) of 2.8.0 take, and no other."""
        export_file(made, tmp_path / "out.json", "argilla")
        records = json.loads((tmp_path / "out.json").read_text())
        assert len(records) == 5 and records[4]["responses"] == {}
        for record in records:
            keys = {"id", "fields", "metadata", "suggestions", "responses", "vectors", "status", "_server_id"}
            assert record.keys() == keys
            for name, given in record["responses"].items():
                assert all(one.keys() == {"value", "user_id", "status"} for one in given)
                assert name in ("comment", "skip", "acceptable", f"ranking_{len(record['fields']) - 1}")
                assert len({one["user_id"] for one in given}) == len(given)

    def test_reads_what_its_server_sends(self, made, tmp_path):
        ranking = [{"value": f"answer_{n}", "rank": rank} for n, rank in ((1, 2), (2, 1), (3, 2))]
        values = {"ranking": {"value": ranking}, "comment": {"value": "hm"}}
        fields = {"prompt": "Question p4?", "answer_1": "good", "answer_2": "fair", "answer_3": "bad"}
        user = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
        told = {"user_id": user, "status": "submitted", "values": values, "updated_at": "2026-03-02T10:00:00"}
        draft = told | {"user_id": "6f9619ff-8b86-d011-b42d-00c04fc964aa", "status": "draft"}
        record = {"id": "77", "external_id": None, "fields": fields, "metadata": None, "responses": [told, draft]}
        (tmp_path / "in.json").write_text(json.dumps({"items": [record], "total": 1}))
        found = import_file(made, tmp_path / "in.json")
        row = next(row for row in judgement_rows(made) if row["annotator"] == user)
        assert (row["item"], row["ranks"], row["comment"], row["time"][:16]) == (
            "p4",
            [2, 1, 2],
            "hm",
            "2026-03-02T10:00",
        )
        assert found.judgements == 1 and "left out a draft response (1 time)" in found.notes

    @pytest.mark.parametrize(
        "wrong",
        [{"fields": {"prompt": [{"role": "user"}]}}, {"fields": {"prompt": 5}}, {"metadata": {"annotators": 5}}],
    )
    def test_damaged_records_are_told_with_their_places(self, made, tmp_path, wrong):
        value = [{"value": "answer_1", "rank": 1}]
        told = {"ranking": [{"user_id": "u", "value": value, "status": "submitted"}]}
        wrong = {"metadata": {}, **wrong, "responses": told}
        wrong["fields"] = {"prompt": "?", "answer_1": "x"} | wrong.get("fields", {})
        (tmp_path / "in.json").write_text(json.dumps([wrong]))
        with pytest.raises(DataError, match=r"in\.json row 1: "):
            import_file(made, tmp_path / "in.json")

    def test_rankings_without_ranks_are_refused(self, made, tmp_path):
        export_file(made, tmp_path / "out.json", "argilla")
        records = json.loads((tmp_path / "out.json").read_text())
        for given in records[0]["responses"]["ranking_3"]:
            given["value"] = [one["value"] for one in given["value"]]
        (tmp_path / "out.json").write_text(json.dumps(records))
        with pytest.raises(DataError, match="'ranking_3' holds options without ranks: Argilla's SDK leaves them out"):
            import_file(copy_of(made, tmp_path), tmp_path / "out.json")


class TestLabelStudio:
    def task(self, value, **more):
        answers = [{"id": f"x{n}", "title": text} for n, text in enumerate(("good", "fair", "bad"))]
        result = [{"from_name": "rank", "to_name": "list", "type": "ranker", "value": {"ranker": value}}]
        told = {"completed_by": {"id": 3, "email": "gil@example.org"}, "result": result, "was_cancelled": False,
                "created_at": "2026-03-02T10:00:00.5Z", "lead_time": 8.5}  # fmt: skip
        return [{"id": 1, "data": {"question": "Question p4?", "items": answers}, "annotations": [told | more]}]

    def take(self, made, tmp_path, tasks):
        (tmp_path / "in.json").write_text(json.dumps(tasks))
        found = import_file(made, tmp_path / "in.json")
        return found, next((r for r in judgement_rows(made) if r["annotator"] not in ("ana", "ben")), None)

    def test_reads_one_order(self, made, tmp_path):
        _, row = self.take(made, tmp_path, self.task({"rank": ["x2", "x0", "x1"]}))
        assert (row["annotator"], row["ranks"], row["seconds"]) == ("gil@example.org", [2, 3, 1], 8.5)
        assert row["time"].startswith("2026-03-02T10:00:00.5") and row["shown"] is None

    def test_reads_buckets_by_their_numbers(self, made, tmp_path):
        _, row = self.take(made, tmp_path, self.task({"3": ["x1"], "1": ["x0", "x2"], "2": []}))
        assert row["ranks"] == [1, 2, 1]

    @pytest.mark.parametrize(
        "value, told",
        [({"good": ["x0"], "bad": ["x1", "x2"]}, "say no order"), ({"1": ["x0"]}, "each of the task's answers once"),
         ({"1": "x0"}, "an object of lists"), ({"²": ["x0", "x1", "x2"]}, "say no order"),
         ({"9" * 5000: ["x0", "x1", "x2"]}, "say no order")],
    )  # fmt: skip
    def test_refuses_what_is_no_ranking(self, made, tmp_path, value, told):
        with pytest.raises(DataError, match=told):
            self.take(made, tmp_path, self.task(value))

    def test_names_an_account_that_has_a_number_alone(self, made, tmp_path):
        _, row = self.take(made, tmp_path, self.task({"rank": ["x0", "x1", "x2"]}, completed_by=3))
        assert row["annotator"] == "account 3"

    def test_counts_annotations_without_a_ranking(self, made, tmp_path):
        found, row = self.take(made, tmp_path, self.task({}, result=[]))
        assert row is None and found.notes == ["left out an annotation without a ranking (1 time)"]


class TestTheStore:
    def test_that_is_damaged_takes_nothing_in_and_says_so(self, made, tmp_path):
        export_file(made, tmp_path / "out.jsonl", "kit")
        with closing(sqlite3.connect(made.store)) as db:
            db.execute("DROP TRIGGER judgements_UPDATE")
            db.execute("UPDATE judgements SET ranks = '[1,' WHERE id = 1")
            db.commit()
        with pytest.raises(RunError, match="damaged"):
            import_file(made, tmp_path / "out.jsonl")

    def test_takes_all_or_nothing_also_when_the_disk_gives_up(self, made, tmp_path, monkeypatch):
        export_file(made, tmp_path / "out.jsonl", "kit")
        copy = copy_of(made, tmp_path)
        stored = Store._arrived

        def fails_at_the_fourth(self, db, number, one, deal):
            if number == 3:
                raise sqlite3.OperationalError("database or disk is full")
            return stored(self, db, number, one, deal)

        monkeypatch.setattr(Store, "_arrived", fails_at_the_fourth)
        with pytest.raises(RunError, match="disk is full; nothing was taken in"):
            import_file(copy, tmp_path / "out.jsonl")
        assert rows(copy) == []
