"""Labelling projects: their files, the store that loses nothing, who is dealt what, and what stands of it."""

import json
import os
import shutil
import sqlite3
import tempfile
import threading
import zipfile
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from labels_toy import SHA, Clock, item, item_of, items, next_of, project, said, to_the_end

from kit.config import DataSettings
from kit.data import load_data
from kit.errors import ConfigError, DataError, RunError
from kit.feedback.agreement import agreement
from kit.labelling.exchange import export_file, import_file
from kit.labels import dealing, links
from kit.labels.backup import back_up
from kit.labels.desk import AHEAD, Desk, Refused
from kit.labels.project import Answer, create_project, open_project, repeated, require_new
from kit.labels.rows import judgement_rows
from kit.labels.store import Given, Store, on_network


@pytest.fixture
def desk(tmp_path):
    with closing(Desk(project(tmp_path))) as open_desk:
        open_desk.welcome({"ana": None, "ben": "north"})
        yield open_desk


class TestAProject:
    def test_is_read_back_as_it_was_made(self, tmp_path):
        made = [item("p0", gold=(1, 1, 2)), item("p1", answers=9), item("p2", repeat_of="p1")]
        made[1] = replace(made[1], answers=tuple(Answer(f"b{k}", "\u202e<b>\U0001f600\n", {"k": k}) for k in range(9)))
        made_project = project(tmp_path, made, per_item=2, overlap=0.5, seed=7, about={"run": "x"})
        read = open_project(made_project.path)
        assert list(read.items.values()) == made
        assert (read.name, read.kind, read.per_item, read.overlap, read.seed) == ("toy", "rank", 2, 0.5, 7)
        assert read.settings["run"] == "x" and "tie" in read.guidelines()

    def test_that_is_there_is_not_written_over(self, tmp_path):
        project(tmp_path)
        with pytest.raises(DataError, match="is there already"):
            project(tmp_path)

    @pytest.mark.parametrize(
        "wrong, why",
        [
            ([], "nothing to judge"),
            ([item("p", answers=1)], "has 1 answers"),
            ([item("p", answers=10)], "has 10 answers"),
            ([item("p"), item("p")], "stands twice"),
            ([item("p", gold=(1, 2))], "gold has 2 ranks for 3"),
            ([item("q", repeat_of="p"), item("p")], "does not stand before"),
        ],
    )
    def test_with_wrong_items_is_refused_and_leaves_nothing(self, tmp_path, wrong, why):
        with pytest.raises(DataError, match=why):
            project(tmp_path, wrong)
        assert not list(tmp_path.iterdir())

    def test_of_kind_ab_has_two_answers_an_item(self, tmp_path):
        with pytest.raises(DataError, match="wanted 2 to 2"):
            project(tmp_path, items(2, answers=3), kind="ab")

    @pytest.mark.parametrize("name", ["", "a b", ".hidden", "a" * 65])
    def test_with_a_name_that_is_none_is_refused(self, tmp_path, name):
        with pytest.raises(DataError, match="name"):
            create_project(tmp_path / "labels" / name if name else "", items(2))

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"form": 2}', '{"form": 1, "name": "x"}', "[" * 100_000, '{"form": 1, "kind": "rank"}']
    )
    def test_whose_settings_are_damaged_is_refused(self, tmp_path, text):
        made = project(tmp_path)
        (made.path / "project.json").write_text(text)
        with pytest.raises(DataError, match=r"project\.json"):
            open_project(made.path)

    @pytest.mark.parametrize("line", ["", "{}", "[1]", '{"item": "x", "prompt": [], "answers": [3]}', "[" * 100_000])
    def test_with_a_damaged_line_says_which(self, tmp_path, line):
        made = project(tmp_path)
        with (made.path / "items.jsonl").open("a") as file:
            file.write(line + "\n")
        with pytest.raises(DataError, match=r"items\.jsonl:7"):
            _ = open_project(made.path).items

    @pytest.mark.parametrize(
        "change, why",
        [
            ({"answers": []}, "has 0 answers"),
            ({"item": "p1"}, "stands twice"),
            ({"gold": [1, 2]}, "gold has 2 ranks"),
            ({"gold": [1, 2, 10**400]}, "gold wants ranks from 1 to 3"),
            ({"gold": [1, 2, float("inf")]}, "no item"),
            ({"repeat_of": "nix"}, "does not stand before"),
            ({"repeat_of": ["p1"]}, "does not stand before"),
            ({"about": "x"}, "no item"),
        ],
    )
    def test_whose_items_were_damaged_is_refused_when_it_is_read(self, tmp_path, change, why):
        file = project(tmp_path).path / "items.jsonl"
        first, *others = file.read_text().splitlines()
        file.write_text("\n".join([json.dumps(json.loads(first) | change), *others]))
        with pytest.raises(DataError, match=rf"items\.jsonl.*{why}"):
            _ = open_project(file.parent).items

    def test_whose_items_or_guidelines_are_folders_is_refused(self, tmp_path):
        made = project(tmp_path)
        for name in ("guidelines.md", ".secret"):
            (made.path / name).unlink(missing_ok=True)
            (made.path / name).mkdir()
        for read in (made.guidelines, made.secret):
            with pytest.raises(DataError, match="cannot be read: Is a directory"):
                read()

    def test_whose_items_have_other_answers_than_were_judged_is_refused(self, desk):
        desk.judge("ana", said(next_of(desk, "ana")))
        file = desk.project.path / "items.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["answers"] = [*line["answers"][:2], {"name": "a7", "text": "new"}, {"name": "a8", "text": "new"}]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        edited = open_project(desk.project.path)
        for use in (Desk, lambda one: list(judgement_rows(one))):
            with pytest.raises(DataError, match=r"has other answers than 'ana' was shown\. Put back the line"):
                use(edited)

    def test_that_has_an_item_less_leaves_its_judgements_out_and_counts_them(self, desk, capsys):
        desk.judge("ana", said(deal := next_of(desk, "ana")))
        edit(desk.project, lambda line: line | {"item": line["item"] + "-b"}, only=item_of(desk, deal))
        assert list(judgement_rows(open_project(desk.project.path))) == []
        assert "items.jsonl: 1 judgement left out, of items that are no longer there" in capsys.readouterr().err
        assert desk.store.count() == 1

    def test_has_no_place_in_a_file_nor_where_nothing_can_be_made(self, tmp_path):
        (tmp_path / "file").write_text("x")
        for place in (tmp_path / "file" / "toy", tmp_path / "file" / "deep" / "toy"):
            with pytest.raises(DataError, match="no folder can be made or written there"):
                require_new(place)
        if Path("/proc/self").exists():
            with pytest.raises(DataError, match="no folder can be made"):
                create_project("/proc/labels/toy", items(2))

    def test_that_is_a_file_says_so(self, tmp_path):
        with pytest.raises(DataError, match=r"items\.jsonl: is a file, and a project is a folder"):
            open_project(project(tmp_path).path / "items.jsonl")

    def test_that_is_no_folder_says_how_to_make_one(self, tmp_path):
        with pytest.raises(DataError, match="no such folder; make a project with `kit sample"):
            open_project(tmp_path / "nix")

    def test_keeps_its_secret_from_others(self, tmp_path):
        made = project(tmp_path)
        assert made.secret() == made.secret() and len(made.secret()) == 32
        assert (made.path / ".secret").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("text", ["", "00ff", "no hexadecimal"])
    def test_does_not_go_on_with_a_damaged_secret(self, tmp_path, text):
        made = project(tmp_path)
        (made.path / ".secret").write_text(text)
        with pytest.raises(DataError, match=r"\.secret: .*remove it, and new links"):
            made.secret()


def edit(made, change, only=None):
    """Change the lines of items.jsonl, or the line of one item alone."""
    file = made.path / "items.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [change(line) if only in (None, line["item"]) else line for line in lines]
    file.write_text("".join(json.dumps(line, indent=None, separators=(",", ":")) + "\n" for line in lines))


def with_answer(line, **change):
    """A line of items.jsonl whose first answer is changed."""
    return line | {"answers": [line["answers"][0] | change, *line["answers"][1:]]}


class TestAnItemThatWasEdited:
    """The names stay, the words are others: what was said of the old ones would be taken for said of the new ones."""

    OTHER_WORDS = pytest.mark.parametrize(
        "change",
        [
            lambda line: with_answer(line, text="The opposite."),
            lambda line: line | {"prompt": [{"role": "user", "content": "Something else?"}]},
            lambda line: line | {"answers": line["answers"][::-1]},  # ranks go by their order
        ],
        ids=["an answer", "the prompt", "the order"],
    )

    @OTHER_WORDS
    def test_after_it_was_judged_is_refused_by_whoever_reads_it(self, desk, change, tmp_path):
        desk.judge("ana", said(deal := next_of(desk, "ana")))
        edit(desk.project, change, only=item_of(desk, deal))
        path, store = desk.project.path, desk.project.store.read_bytes()
        for use in (
            lambda: Desk(open_project(path)),
            lambda: list(judgement_rows(open_project(path))),
            lambda: export_file(open_project(path), tmp_path / "out.jsonl", "kit"),
            lambda: agreement(path),
            lambda: load_data(DataSettings(preferences=str(path)), 0),
        ):
            with pytest.raises(
                DataError, match=r"items\.jsonl: item 'p\d' was edited after 'ana' was given it.*Put back"
            ):
                use()
        assert desk.project.store.read_bytes() == store, "and nothing is lost"

    def test_lets_no_judgements_in(self, desk, tmp_path):
        desk.judge("ana", said(deal := next_of(desk, "ana")))
        export_file(desk.project, tmp_path / "out.jsonl", "kit")
        other = create_project(tmp_path / "other", list(desk.project.items.values()))
        assert import_file(other, tmp_path / "out.jsonl").judgements == 1
        edit(other, lambda line: line | {"prompt": []}, only=item_of(desk, deal))
        with pytest.raises(DataError, match="was edited after 'ana' was given it"):
            import_file(open_project(other.path), tmp_path / "out.jsonl")

    def test_and_put_back_is_as_it_was(self, desk):
        desk.judge("ana", said(next_of(desk, "ana")))
        before = (desk.project.path / "items.jsonl").read_bytes()
        edit(desk.project, lambda line: with_answer(line, text="x"))
        (desk.project.path / "items.jsonl").write_bytes(before)
        assert len(list(judgement_rows(open_project(desk.project.path)))) == 1

    def test_in_what_people_do_not_see_or_in_its_spaces_is_taken_as_it_is(self, desk):
        desk.judge("ana", said(next_of(desk, "ana")))
        edit(desk.project, lambda line: with_answer(line, made={"by": "hand"}) | {"gold": [1, 2, 3]})
        edited = open_project(desk.project.path)
        assert [row["gold"] for row in judgement_rows(edited)] == [[1, 2, 3]]

    def test_before_anybody_was_given_it_may_be_edited_and_is_then_held_to_that(self, desk):
        dealt = {one["deal"]: item_of(desk, one) for one in desk.work("ana")["work"]}
        free = next(name for name in desk.project.items if name not in dealt.values())
        desk.close()
        edit(desk.project, lambda line: with_answer(line, text="Better."), only=free)
        with closing(Desk(open_project(desk.project.path))) as again:
            shown = [text for one in to_the_end_with_texts(again, "ana") for text in one]
            assert "Better." in shown
        edit(desk.project, lambda line: with_answer(line, text="Better still."), only=free)
        with pytest.raises(DataError, match=f"item {free!r} was edited"):
            Desk(open_project(desk.project.path))

    @OTHER_WORDS
    def test_in_a_project_of_version_0_6_0_is_seen_from_the_time_it_is_served_again(self, desk, change):
        desk.judge("ana", said(next_of(desk, "ana")))
        with desk.store.writing() as db:
            db.execute("DROP TABLE words")
        desk.close()
        assert len(list(judgement_rows(open_project(desk.project.path)))) == 1, "nothing is known, and it is read"
        Desk(open_project(desk.project.path)).close()
        assert len(list(judgement_rows(open_project(desk.project.path)))) == 1
        edit(desk.project, change)
        with pytest.raises(DataError, match="was edited after 'ana' was given it"):
            list(judgement_rows(open_project(desk.project.path)))


def to_the_end_with_texts(desk, who):
    """What a person's page showed until nothing was left."""
    while (deal := next_of(desk, who)) is not None:
        yield deal["answers"]
        desk.judge(who, said(deal))


class TestRepeats:
    def test_are_the_asked_share_of_the_plain_items_and_at_least_one(self):
        plain, gold = items(40), item("gold", gold=(1, 2, 3))
        assert len(repeated([*plain, gold], 0.1, 0)) == 45
        assert len(repeated(plain[:3], 0.05, 0)) == 4
        assert repeated(plain, 0, 0) == plain

    def test_have_the_answers_of_what_they_repeat(self):
        one = repeated(items(3), 0.1, 0)[-1]
        assert one.repeat_of == one.name.removesuffix(".again") and one.answers == item(one.repeat_of).answers


class TestLinks:
    def test_differ_by_person_secret_and_purpose(self):
        made = {make(secret, who) for make in (links.token, links.session) for secret in (b"1", b"2") for who in "ab"}
        assert len(made) == 8 and all(len(one) == 43 for one in made)

    def test_are_for_names_with_groups(self):
        assert links.named("ana, ben:north ,Zoë O.") == {"ana": None, "ben": "north", "Zoë O.": None}

    @pytest.mark.parametrize(
        "text", ["", "ana,", "a/b", "a<b", "x" * 65, "a\u202eb", "ana:", "ana:a:b", "ana,ana", "👩\u200d💻"]
    )
    def test_are_not_for_what_is_no_name(self, text):
        if text == "ana:":  # no group
            assert links.named(text) == {"ana": None}
            return
        with pytest.raises(ConfigError, match="--annotators"):
            links.named(text)


def given(deal: int, client: str = "c" * 16, **more) -> Given:
    return Given(**{"client": client, "deal": deal, "ranks": (1, 2, 3), "skip": None, "none_acceptable": False,
                    "comment": "", "seconds": 1.5, "guidelines": SHA, "time": 5.0, **more})  # fmt: skip


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path / "judgements.sqlite")) as open_store:
        open_store.add_deals([("ana", f"p{n}", ("a1", "a0", "a2"), 3.0) for n in range(3)])
        yield open_store


class TestTheStore:
    @pytest.mark.parametrize("table", ["annotators", "guidelines", "words", "deals", "judgements"])
    @pytest.mark.parametrize(
        "change", ["UPDATE {} SET time = 0", "DELETE FROM {}", "REPLACE INTO {0} SELECT * FROM {0}"]
    )
    def test_changes_and_removes_nothing(self, store, table, change):
        store.add_annotator("ana", None, 1.0)
        store.add_guidelines(SHA, "text", 1.0)
        store.add_words({"p0": SHA}, 1.0)
        store.add(given(1))
        before = store.read(f"SELECT * FROM {table}")
        with pytest.raises(sqlite3.Error, match="append-only"), store.writing() as db:
            db.execute(change.format(table))
        assert before and store.read(f"SELECT * FROM {table}") == before

    def test_gives_back_what_it_was_given(self, store):
        one = given(1, comment="\u202e'; DROP TABLE judgements; -- \U0001f600", none_acceptable=True)
        two = given(2, "d" * 16, ranks=None, skip="cannot tell", seconds=None)
        assert store.add(one) is None and store.add(two) is None
        assert store.judgements() == [one, two] and store.count() == 2

    def test_stores_once_what_is_sent_twice(self, store):
        store.add(given(1))
        assert store.add(given(1)) == given(1)
        assert len(store.judgements(all_of_them=True)) == 1

    def test_keeps_what_is_there_when_the_same_id_says_something_else(self, store):
        store.add(given(1))
        assert store.add(given(1, ranks=(3, 2, 1))) == given(1)
        assert store.add(given(2)) == given(1)
        assert store.judgements(all_of_them=True) == [given(1)]

    def test_keeps_one_line_of_corrections(self, store):
        first, second = given(1, "a" * 16), given(1, "b" * 16, ranks=(2, 1, 3), supersedes="a" * 16)
        assert store.add(first) is None and store.add(second) is None
        assert store.judgements() == [second] and store.judgements(all_of_them=True) == [first, second]
        fork = given(1, "c" * 16, supersedes="a" * 16)
        assert store.add(fork) == second, "what was corrected is not corrected once more"
        assert store.add(given(1, "d" * 16)) == second, "nor is there a second first one"
        assert store.add(given(2, "e" * 16, supersedes="a" * 16)) is not None, "nor one that corrects another deal's"
        assert store.judgements(all_of_them=True) == [first, second]

    def test_is_told_of_in_its_tables_where_python_is_not_asked(self, store):
        store.add(given(1, "a" * 16))
        store.add(given(1, "c" * 16, supersedes="a" * 16))
        columns = "client, deal, ranks, skip, none_acceptable, comment, guidelines, time, supersedes"
        for values in (
            "VALUES ('b', 1, '[1]', NULL, 0, '', '', 0, NULL)",  # a second first one
            f"VALUES ('{'a' * 16}', 2, '[1]', NULL, 0, '', '', 0, NULL)",  # the same id
            "VALUES ('b', 99, '[1]', NULL, 0, '', '', 0, NULL)",  # no such deal
            "VALUES ('b', 2, '[1]', 'skipped', 0, '', '', 0, NULL)",  # both
            "VALUES ('b', 2, NULL, NULL, 0, '', '', 0, NULL)",  # neither
            "VALUES ('b', 2, '[1]', NULL, 0, '', '', 0, 'nix')",  # corrects nothing
            f"VALUES ('b', 1, '[1]', NULL, 0, '', '', 0, '{'a' * 16}')",  # corrects what was corrected
        ):
            with pytest.raises(sqlite3.IntegrityError), store.writing() as db:
                db.execute(f"INSERT INTO judgements ({columns}) {values}")

    def test_undoes_the_whole_of_what_fails_in_the_middle(self, store):
        with pytest.raises(sqlite3.IntegrityError):
            store.add_deals([("ben", "p0", ("a0",), 1.0), ("ana", "p0", ("a0",), 1.0)])
        assert len(store.deals()) == 3
        assert store.add(given(1)) is None, "and goes on"

    def test_keeps_the_latest_group_of_a_person(self, store):
        for group in (None, "north", "north", "south"):
            store.add_annotator("ana", group, 1.0)
        assert store.annotators() == {"ana": "south"}
        assert len(store.read("SELECT * FROM annotators")) == 3

    def test_survives_writers_side_by_side(self, store):
        """Threads of two connections: no `database is locked`, none lost, none twice."""
        deals = [deal.id for deal in store.add_deals([("ben", f"q{n}", ("a0",), 1.0) for n in range(120)])]
        answers, failed = [], []

        def write(mine: Store, numbers: list[int]) -> None:
            try:
                answers.extend(mine.add(given(n, f"client-of-deal-{n:03}")) for n in numbers)
            except Exception as error:
                failed.append(error)

        with closing(Store(store.path)) as other:
            threads = [threading.Thread(target=write, args=((store, other)[n % 2], deals)) for n in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not failed and len(store.judgements()) == 120
        assert answers.count(None) == 120 and len(answers) == 720

    def test_says_wal_on_a_local_disk_and_a_rollback_journal_on_a_network(self, tmp_path, monkeypatch):
        with closing(Store(tmp_path / "local.sqlite")) as local:
            assert local.journal == "wal"
        monkeypatch.setattr("kit.labels.store.on_network", lambda _: True)
        with closing(Store(tmp_path / "far.sqlite")) as far:
            assert far.journal == "delete" and not (tmp_path / "far.sqlite-wal").exists()

    def test_goes_back_to_a_rollback_journal_when_it_was_moved_to_a_network(self, store, monkeypatch):
        store.close()
        monkeypatch.setattr("kit.labels.store.on_network", lambda _: True)
        with closing(Store(store.path)) as moved:
            assert moved.journal == "delete" and len(moved.deals()) == 3

    def test_commits_to_the_disk(self, store):
        assert store.read("PRAGMA synchronous") == [(2,)]  # FULL

    def test_that_is_none_is_a_message(self, tmp_path):
        (tmp_path / "x.sqlite").write_bytes(b"no database" * 1000)
        with pytest.raises(RunError, match=r"x\.sqlite: cannot be used as the store"):
            Store(tmp_path / "x.sqlite")
        with pytest.raises(RunError, match=r"y\.sqlite: cannot be used as the store"):
            Store(tmp_path / "y.sqlite", read_only=True)


class TestReadingTheStore:
    def test_works_while_a_server_writes(self, store):
        store.add(given(1))
        with store.writing(), closing(Store(store.path, read_only=True)) as reader:
            assert reader.judgements() == [given(1)]
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.add(given(2, "d" * 16))

    def test_works_from_a_place_where_nothing_can_be_written(self):
        with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to others
            with closing(Store(Path(made) / "judgements.sqlite")) as written:
                written.add_deals([("ana", "p0", ("a0",), 3.0)])
                written.add(given(1))
            os.chmod(made, 0o555)
            root = os.geteuid() == 0
            try:
                if root:
                    os.seteuid(65534)  # root writes anywhere
                with closing(Store(Path(made) / "judgements.sqlite", read_only=True)) as reader:
                    assert reader.judgements() == [given(1)]
            finally:
                if root:
                    os.seteuid(0)
                os.chmod(made, 0o755)


class TestADamagedStore:
    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE judgements SET ranks = '[1, 2'",
            "UPDATE judgements SET ranks = '{}'",
            "UPDATE judgements SET ranks = '[null, 1, 2]'",
            "UPDATE judgements SET time = 1e18",
            "UPDATE judgements SET time = 'x'",
            "UPDATE judgements SET comment = CAST(x'ff61' AS TEXT)",
            "UPDATE deals SET shown = 'x'",
            "UPDATE deals SET annotator = x'ff'",
            "DELETE FROM deals",
        ],
    )
    def test_is_told_with_what_to_do_to_whoever_reads_it(self, desk, damage):
        desk.judge("ana", said(next_of(desk, "ana")))
        path = desk.project.store
        with closing(sqlite3.connect(path)) as db:
            for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f"DROP TRIGGER {trigger}")
            db.execute(damage)
            db.commit()
        for use in (lambda: Desk(desk.project), lambda: list(judgement_rows(desk.project))):
            with pytest.raises(RunError, match=r"damaged, or of another program: .*Put a backup's"):
                use()

    def test_with_pages_of_zeros_is_told(self, desk):
        for _ in range(3):
            desk.judge("ana", said(next_of(desk, "ana"), comment="x" * 4000))
        desk.close()
        path = desk.project.store
        whole = path.read_bytes()
        path.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
        for use in (lambda: Desk(desk.project), lambda: list(judgement_rows(desk.project))):
            with pytest.raises(RunError, match=r"judgements\.sqlite: "):
                use()


class TestAStoreThatWasMoved:
    def test_acknowledges_nothing_that_nobody_would_find(self, desk, tmp_path):
        body = said(next_of(desk, "ana"))
        desk.project.path.rename(tmp_path / "elsewhere")
        with pytest.raises(RunError, match="was moved, removed or replaced while it was open, so nothing was stored"):
            desk.judge("ana", body)
        (tmp_path / "elsewhere").rename(desk.project.path)
        assert desk.judge("ana", body)["again"] is False

    def test_acknowledges_nothing_where_another_lies_in_its_place(self, desk, tmp_path):
        body = said(next_of(desk, "ana"))
        desk.project.path.rename(tmp_path / "elsewhere")
        shutil.copytree(tmp_path / "elsewhere", desk.project.path)
        with pytest.raises(RunError, match="was moved, removed or replaced"):
            desk.judge("ana", body)


class TestFileSystems:
    @pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.drive", "fuse.sshfs", "9p", "smb3", "lustre"])
    def test_over_a_network_are_recognised(self, tmp_path, kind):
        mounts = tmp_path / "mounts"
        place = str(tmp_path / "my drive").replace(" ", "\\040")
        mounts.write_text(f"/dev/sda / ext4 rw 0 0\nfar {place} {kind} rw 0 0\n")
        assert on_network(tmp_path / "my drive" / "labels" / "store.sqlite", mounts)
        assert not on_network(tmp_path / "my driveway" / "store.sqlite", mounts)

    def test_that_lie_over_each_other_count_by_the_last_one(self, tmp_path):
        mounts = tmp_path / "mounts"
        mounts.write_text("far / nfs rw 0 0\n/dev/sda / ext4 rw 0 0\n")
        assert not on_network(tmp_path, mounts)
        mounts.write_text("/dev/sda / ext4 rw 0 0\nfar / nfs rw 0 0\n")
        assert on_network(tmp_path, mounts)

    def test_that_nobody_tells_of_are_local(self, tmp_path):
        assert not on_network(tmp_path, tmp_path / "no mounts")


class TestAJudgement:
    def test_is_stored_in_the_order_of_the_item_whatever_the_page_showed(self, desk):
        for who in ("ana", "ben"):
            deal = next_of(desk, who)
            best_first = sorted(deal["answers"])  # "Answer 0 ..." is best
            desk.judge(who, said(deal, [best_first.index(text) + 1 for text in deal["answers"]]))
        rows = list(judgement_rows(desk.project))
        assert [row["ranks"] for row in rows] == [[1, 2, 3]] * 2
        assert [row["annotator"] for row in rows] == ["ana", "ben"] and [row["group"] for row in rows] == [
            None,
            "north",
        ]
        assert all(sorted(row["shown"]) == row["answers"] for row in rows)

    def test_with_ties_loses_its_gaps(self, desk):
        deal = next_of(desk, "ana")
        desk.judge("ana", said(deal, [3, 1, 3]))
        assert sorted(desk.store.judgements()[0].ranks) == [1, 2, 2]

    def test_is_answered_alike_when_it_is_sent_again(self, desk):
        body = said(next_of(desk, "ana"))
        assert desk.judge("ana", body) == {"stored": body["id"], "again": False}
        assert desk.judge("ana", {**body, "seconds": 99}) == {"stored": body["id"], "again": True}
        assert desk.store.count() == 1

    def test_with_the_same_id_and_other_content_is_refused_and_shows_what_stands(self, desk):
        deal = next_of(desk, "ana")
        body = said(deal, [1, 2, 3])
        desk.judge("ana", body)
        with pytest.raises(Refused) as refused:
            desk.judge("ana", {**body, "ranks": [3, 2, 1]})
        assert refused.value.standing["ranks"] == [1, 2, 3] and refused.value.standing["id"] == body["id"]

    def test_with_the_id_of_another_item_is_refused_and_tells_nothing_of_it(self, tmp_path):
        with closing(Desk(project(tmp_path, [item("p0"), item("p1", 2)], per_item=2))) as desk:
            mine = desk.work("ana")["work"]
            for taken in (said(mine[0]), said(desk.work("ben")["work"][0], comment="ben alone knows")):
                desk.judge("ana" if taken["deal"] == mine[0]["deal"] else "ben", taken)
                with pytest.raises(Refused, match="wanted a new one") as refused:
                    desk.judge("ana", {**said(mine[1]), "id": taken["id"]})
                assert refused.value.standing is None

    def test_sent_again_with_other_content_shows_the_correction_that_stands(self, desk):
        deal = next_of(desk, "ana")
        first, later = said(deal, [1, 2, 3]), said(deal, [2, 2, 1])
        desk.judge("ana", first)
        desk.judge("ana", {**later, "supersedes": first["id"]})
        with pytest.raises(Refused) as refused:
            desk.judge("ana", {**first, "ranks": [3, 2, 1]})
        assert refused.value.standing["id"] == later["id"]

    def test_of_a_second_tab_is_refused_and_shows_what_the_first_one_said(self, desk):
        deal = next_of(desk, "ana")
        first = said(deal, [2, 1, 1], comment="from the first tab")
        desk.judge("ana", first)
        with pytest.raises(Refused, match="another tab") as refused:
            desk.judge("ana", said(deal, [1, 2, 3]))
        assert refused.value.standing["comment"] == "from the first tab" and desk.store.count() == 1
        desk.judge("ana", said(deal, [1, 2, 3], supersedes=first["id"]))
        assert [row["comment"] for row in judgement_rows(desk.project)] == [""]
        assert len(list(judgement_rows(desk.project, all_of_them=True))) == 2

    def test_that_was_corrected_twice_at_once_stands_as_one_of_them(self, desk):
        deal = next_of(desk, "ana")
        first = said(deal)
        desk.judge("ana", first)
        desk.judge("ana", said(deal, [3, 2, 1], supersedes=first["id"]))
        with pytest.raises(Refused) as refused:
            desk.judge("ana", said(deal, [1, 1, 1], supersedes=first["id"]))
        assert refused.value.standing["ranks"] == [3, 2, 1]

    @pytest.mark.parametrize(
        "wrong, why",
        [
            ({"id": "short"}, "id"),
            ({"id": 3}, "id"),
            ({"deal": 10**400}, "deal"),
            ({"deal": True}, "deal"),
            ({"deal": [1]}, "deal"),
            ({"ranks": None}, "either ranks or skip"),
            ({"skip": "both"}, "either ranks or skip"),
            ({"ranks": None, "skip": ""}, "skip"),
            ({"ranks": None, "skip": {}}, "skip"),
            ({"ranks": [1, 2]}, "ranks"),
            ({"ranks": [1, 2, 4]}, "ranks"),
            ({"ranks": [0, 1, 2]}, "ranks"),
            ({"ranks": [1, 2, True]}, "ranks"),
            ({"ranks": [1, 2, 2.0]}, "ranks"),
            ({"ranks": "123"}, "ranks"),
            ({"comment": 3}, "comment"),
            ({"comment": "x" * 4001}, "comment"),
            ({"none_acceptable": "yes"}, "none_acceptable"),
            ({"guidelines_sha256": "A" * 64}, "guidelines"),
            ({"supersedes": "no such judgement at all"}, "supersedes"),
            ({"supersedes": "0123456789abcdef"}, "supersedes"),
            ({"annotator": "ben"}, "wanted an object"),
        ],
    )
    def test_that_is_malformed_is_refused_and_not_stored(self, desk, wrong, why):
        body = {**said(next_of(desk, "ana")), **wrong}
        with pytest.raises(Refused, match=why) as refused:
            desk.judge("ana", body)
        assert refused.value.standing is None and desk.store.count() == 0

    @pytest.mark.parametrize("sent", [None, [], "x", 3])
    def test_that_is_no_object_is_refused(self, desk, sent):
        with pytest.raises(Refused, match="wanted an object"):
            desk.judge("ana", sent)

    def test_of_somebody_elses_item_is_refused(self, desk):
        with pytest.raises(Refused, match="no item that waits"):
            desk.judge("ben", said(next_of(desk, "ana")))

    @pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "long", None, 10**400, True, []])
    def test_keeps_no_time_that_is_none(self, desk, seconds):
        desk.judge("ana", said(next_of(desk, "ana"), seconds=seconds))
        assert desk.store.judgements()[0].seconds is None

    def test_survives_half_a_character(self, desk):
        desk.judge("ana", said(next_of(desk, "ana"), comment="\ud83d half"))
        assert desk.store.judgements()[0].comment == "? half"

    def test_says_which_guidelines_were_shown(self, desk):
        before = desk.work("ana")["guidelines"]
        (desk.project.path / "guidelines.md").write_text("# Other rules")
        after = desk.work("ana")["guidelines"]
        assert after["text"] == "# Other rules" and before["sha256"] != after["sha256"]
        kept = dict(desk.store.read("SELECT sha256, text FROM guidelines"))
        assert kept == {one["sha256"]: one["text"] for one in (before, after)}


class TestAPersonsPage:
    def test_hides_names_of_answers_and_other_peoples_judgements(self, desk):
        desk.judge("ben", said(next_of(desk, "ben"), comment="ben's own words"))
        shown = json.dumps([desk.work("ana"), desk.history("ana")])
        assert not any(text in shown for text in ('"a0"', "ben", "north", '"p0"', "made", "gold"))

    def test_holds_some_items_ahead_and_shows_the_same_after_a_reload(self, desk):
        assert [one["deal"] for one in desk.work("ana")["work"]] == [one["deal"] for one in desk.work("ana")["work"]]
        assert len(desk.work("ana")["work"]) == AHEAD
        assert len(desk.store.deals()) == AHEAD

    def test_shows_the_same_after_a_restart(self, desk):
        before = desk.work("ana")
        desk.judge("ana", said(before["work"][0]))
        desk.close()
        with closing(Desk(desk.project)) as again:
            after = again.work("ana")
            assert after["work"][:2] == before["work"][1:] and after["progress"]["done"] == 1
            assert again.history("ana")[0]["deal"] == before["work"][0]["deal"]

    def test_goes_back_to_ones_own_latest_judgements(self, desk):
        bodies = []
        for place, ranks in enumerate(([1, 2, 3], [3, 1, 2])):
            deal = next_of(desk, "ana")
            bodies.append(said(deal, ranks, comment=str(place)))
            desk.judge("ana", bodies[-1])
        found = desk.history("ana")
        assert [one["id"] for one in found] == [body["id"] for body in reversed(bodies)]
        assert found[0]["ranks"] == [3, 1, 2] and not desk.history("ben")

    def test_tells_how_far_one_is(self, tmp_path):
        clock = Clock()
        with closing(Desk(project(tmp_path, 30, overlap=0.0), clock)) as desk:
            desk.welcome({"ana": None})
            assert desk.work("ana")["progress"] == {"done": 0, "left": 30, "seconds_left": 1200.0}
            for done in range(1, 5):
                desk.judge("ana", said(next_of(desk, "ana"), seconds=5.0))
                usual = 40.0 if done < 3 else 5.0  # one or two items say little of the others
                assert desk.work("ana")["progress"]["seconds_left"] == usual * (30 - done)
            assert desk.work("ana")["progress"] == {"done": 4, "left": 26, "seconds_left": 130.0}
            desk.welcome({"ben": None})
            assert desk.work("ben")["progress"]["left"] == AHEAD + (30 - 4 - 2 * AHEAD) / 2, "the rest is shared out"

    def test_of_progress_ends_at_nothing_left(self, tmp_path):
        with closing(Desk(project(tmp_path, repeated(items(12), 0.2, 0), per_item=2))) as desk:
            desk.welcome({"ana": None, "ben": None})
            to_the_end(desk, "ana", "ben")
            assert [desk.work(who)["progress"]["left"] for who in ("ana", "ben")] == [0, 0]


class TestDealing:
    def test_gives_every_item_its_people(self, tmp_path):
        with closing(Desk(project(tmp_path, 20, per_item=3))) as desk:
            order = to_the_end(desk, "ana", "ben", "cay", "dan", "eve")
        counts = Counter(name for mine in order.values() for name in mine)
        assert set(counts.values()) == {3} and len(counts) == 20
        assert all(len(set(mine)) == len(mine) for mine in order.values())

    @pytest.mark.parametrize("overlap, twice", [(0.0, (0, 0)), (1.0, (200, 200)), (0.3, (40, 80))])
    def test_gives_the_overlap_to_two(self, tmp_path, overlap, twice):
        with closing(Desk(project(tmp_path, 200, overlap=overlap, seed=1))) as desk:
            order = to_the_end(desk, "ana", "ben", "cay")
        counts = Counter(name for mine in order.values() for name in mine)
        assert set(counts.values()) <= {1, 2} and len(counts) == 200
        assert twice[0] <= sum(count == 2 for count in counts.values()) <= twice[1]

    def test_brings_overlap_early(self, tmp_path):
        """Items that somebody began come first: two people who did ten each have most of the overlap by then."""
        with closing(Desk(project(tmp_path, 200, per_item=2))) as desk:
            order = {who: [] for who in ("ana", "ben")}
            for _ in range(10):
                for who, mine in order.items():
                    deal = next_of(desk, who)
                    desk.judge(who, said(deal))
                    mine.append(item_of(desk, deal))
        assert len(set(order["ana"]) & set(order["ben"])) >= 7

    def test_gives_a_repeat_only_to_who_judged_the_item_and_with_a_gap(self, tmp_path):
        with closing(Desk(project(tmp_path, repeated(items(60), 0.1, 0), overlap=0.0))) as desk:
            order = to_the_end(desk, "ana", "ben")
        assert sum(name.endswith(".again") for mine in order.values() for name in mine) == 6
        for mine in order.values():
            repeats = [name for name in mine if name.endswith(".again")]
            last_plain = max(place for place, name in enumerate(mine) if name not in repeats)
            for name in repeats:
                between = mine.index(name) - mine.index(name.removesuffix(".again")) - 1
                assert between >= (dealing.REPEAT_GAP if mine.index(name) < last_plain else 2)

    def test_gives_every_tenth_place_to_gold_and_all_of_it_to_everybody(self, tmp_path):
        content = [*items(60), *(item(f"gold{n}", gold=(1, 2, 3)) for n in range(3))]
        with closing(Desk(project(tmp_path, content, overlap=0.0))) as desk:
            order = to_the_end(desk, "ana", "ben")
        for mine in order.values():
            places = [place for place, name in enumerate(mine) if name.startswith("gold")]
            assert places == [5, 15, 25]

    def test_gives_what_was_skipped_to_others(self, tmp_path):
        with closing(Desk(project(tmp_path, 1, overlap=0.0))) as desk:
            desk.judge("ana", said(next_of(desk, "ana"), skip="cannot tell"))
            assert next_of(desk, "ana") is None
            desk.judge("ben", said(next_of(desk, "ben")))
            assert next_of(desk, "cay") is None

    def test_gives_what_was_left_lying_to_others_after_an_hour_and_takes_both(self, tmp_path):
        clock = Clock()
        with closing(Desk(project(tmp_path, 1, overlap=0.0), clock)) as desk:
            late = next_of(desk, "ana")
            clock.now += dealing.LEASE_SECONDS - 1
            assert next_of(desk, "ben") is None
            clock.now += 2
            desk.judge("ben", said(next_of(desk, "ben")))
            desk.judge("ana", said(late))
            assert desk.store.count() == 2

    def test_shuffles_answers_by_person_and_keeps_the_order(self, tmp_path):
        with closing(Desk(project(tmp_path, items(30, answers=5), per_item=2))) as desk:
            to_the_end(desk, "ana", "ben")
            shown = {(deal.annotator, deal.item): deal.shown for deal in desk.store.deals()}
        pairs = [(shown["ana", f"p{n}"], shown["ben", f"p{n}"]) for n in range(30)]
        assert sum(ana != ben for ana, ben in pairs) >= 25
        assert all(sorted(ana) == sorted(ben) == [f"a{k}" for k in range(5)] for ana, ben in pairs)
        first = Counter(ana[0] for ana, _ in pairs)
        assert len(first) == 5 and max(first.values()) <= 14, "no answer is always on top"

    def test_is_the_same_for_the_same_seed_alone(self, tmp_path):
        def dealt(name: str, seed: int) -> list:
            (tmp_path / name).mkdir()
            with closing(Desk(project(tmp_path / name, 12, seed=seed))) as desk:
                to_the_end(desk, "ana", "ben")
                return [(deal.annotator, deal.item, deal.shown) for deal in desk.store.deals()]

        assert dealt("one", 1) == dealt("again", 1) != dealt("two", 2)

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("count", [3, 6, 12])
    def test_gives_every_repeat_and_comes_to_its_end_however_few_the_items(self, tmp_path, count, seed):
        content = repeated(items(count), 0.2, seed)
        with closing(Desk(project(tmp_path, content, per_item=2, seed=seed))) as desk:
            order = to_the_end(desk, "ana", "ben")
            assert all(sorted(mine) == sorted(one.name for one in content) for mine in order.values())
            assert [desk.work(who)["progress"]["left"] for who in order] == [0, 0]

    def test_of_one_item_and_its_repeat_comes_to_its_end(self, tmp_path):
        with closing(Desk(project(tmp_path, repeated(items(1), 0.2, 0)))) as desk:
            to_the_end(desk, "ana")
            assert desk.work("ana")["progress"]["left"] == 0

    def test_gives_one_gold_item_to_whoever_has_too_few_for_a_tenth(self, tmp_path):
        content = [*items(4), *(item(f"gold{n}", gold=(1, 2, 3)) for n in range(3))]
        with closing(Desk(project(tmp_path, content, overlap=0.0))) as desk:
            order = to_the_end(desk, "ana", "ben")
            late = next_of(desk, "cay")
        assert all(sum(name.startswith("gold") for name in mine) == 1 for mine in order.values()) and late is None

    def test_holds_nothing_for_longer_when_the_clock_is_put_back(self, tmp_path):
        clock = Clock()
        with closing(Desk(project(tmp_path, 1, overlap=0.0), clock)) as desk:
            desk.work("ana")
            clock.now -= 24 * 3600
            assert next_of(desk, "ben") is not None

    def test_leaves_a_repeat_out_that_would_follow_its_item_at_once(self, tmp_path):
        with closing(Desk(project(tmp_path, repeated(items(2), 1.0, 0), overlap=0.0))) as desk:
            mine = to_the_end(desk, "ana")["ana"]
        assert sorted(mine) == ["p0", "p1"]


class TestABackup:
    def test_is_the_whole_project_without_its_secret(self, desk, tmp_path):
        desk.judge("ana", said(next_of(desk, "ana")))
        desk.project.secret()
        assert back_up(desk.project, tmp_path / "toy.zip") == 1
        with zipfile.ZipFile(tmp_path / "toy.zip") as packed:
            packed.extractall(tmp_path / "restored")
        assert sorted(path.name for path in (tmp_path / "restored" / "toy").iterdir()) == [
            "guidelines.md", "items.jsonl", "judgements.sqlite", "project.json",
        ]  # fmt: skip
        restored = open_project(tmp_path / "restored" / "toy")
        assert restored.items == desk.project.items and restored.secret() != desk.project.secret()
        assert list(judgement_rows(restored)) == list(judgement_rows(desk.project))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["restored", "toy", "toy.zip"]

    def test_made_while_others_write_opens_and_holds_a_beginning_of_what_they_wrote(self, tmp_path):
        with closing(Desk(project(tmp_path, 400, overlap=0.0))) as desk:
            done, failed = threading.Event(), []

            def write() -> None:
                try:
                    while not done.is_set() and (deal := next_of(desk, "ana")) is not None:
                        desk.judge("ana", said(deal))
                except Exception as error:
                    failed.append(error)

            writer = threading.Thread(target=write)
            writer.start()
            try:
                counts = [back_up(desk.project, tmp_path / f"{n}.zip") for n in range(5)]
            finally:
                done.set()
                writer.join()
            assert not failed
            assert counts == sorted(counts) and counts[-1] > counts[0], "it went on between them"
            whole = [one.client for one in desk.store.judgements()]
        for n, count in enumerate(counts):
            with zipfile.ZipFile(tmp_path / f"{n}.zip") as packed:
                packed.extractall(tmp_path / f"restored{n}")
            with closing(Desk(open_project(tmp_path / f"restored{n}" / "toy"))) as again:
                assert [one.client for one in again.store.judgements()] == whole[:count]
                assert again.work("ana")["progress"]["done"] == count

    def test_replaces_an_earlier_one_only_by_a_whole_one(self, desk, tmp_path, monkeypatch):
        back_up(desk.project, tmp_path / "toy.zip")
        before = (tmp_path / "toy.zip").read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(zipfile.ZipFile, "write", full)
        with pytest.raises(RunError, match=r"toy\.zip: the backup was not made: .*No space left"):
            back_up(desk.project, tmp_path / "toy.zip")
        assert (tmp_path / "toy.zip").read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["toy", "toy.zip"]

    def test_of_a_damaged_store_is_refused(self, desk, tmp_path):
        body = said(next_of(desk, "ana"))
        desk.judge("ana", body)
        desk.close()
        content = desk.project.store.read_bytes()
        at = content.rindex(body["id"].encode())  # the row is whole, the index is not
        desk.project.store.write_bytes(content[:at] + b"0" * 36 + content[at + 36 :])
        with pytest.raises(RunError, match=r"damaged: .*backup was not made"):
            back_up(desk.project, tmp_path / "toy.zip")
        assert not (tmp_path / "toy.zip").exists()

    @pytest.mark.parametrize("name", ["toy.sqlite", "no such folder/toy.zip", "folder.zip"])
    def test_is_a_zip_in_a_folder_that_exists(self, desk, tmp_path, name):
        (tmp_path / "folder.zip").mkdir()
        with pytest.raises(ConfigError, match=r"name a \.zip file"):
            back_up(desk.project, tmp_path / name)

    def test_of_a_project_that_nobody_judged_is_the_project(self, tmp_path):
        assert back_up(project(tmp_path), tmp_path / "toy.zip") == 0
        with zipfile.ZipFile(tmp_path / "toy.zip") as packed:
            assert "toy/judgements.sqlite" not in packed.namelist()
