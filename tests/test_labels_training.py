"""From a labelling project to the pairs, demonstrations and prompts of a run."""

import importlib
import json
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from labelled import Team, item, project

from kit.config import DataSettings
from kit.data import load_data
from kit.data.opinions import Answer, Opinion
from kit.data.reliability import CLOSE, settle_by_reliability
from kit.errors import DataError
from kit.labels.rows import judgement_rows

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """A project labels/hh that ana, ben and cy judged: two agree on p1, all on p2, one skipped p3 and one judged it."""
    monkeypatch.chdir(tmp_path)
    made = project(tmp_path / "labels" / "hh", [*(item(f"p{n}") for n in range(1, 4))])
    with Team(made) as team:
        for who, ranks in (("ana", [1, 2, 3]), ("ben", [1, 2, 3]), ("cy", [3, 2, 1])):
            team.judge(who, "p1", ranks, seconds=12)
            team.judge(who, "p2", [1, 2, 2])
        team.judge("ana", "p3", skip="cannot tell")
        team.judge("ben", "p3", [2, 1, 3])
    return made


def data(preferences="labels/hh", prompt_weights="pairs", **settings):
    return load_data(
        DataSettings(preferences=preferences, eval_fraction=0.34, prompt_weights=prompt_weights, **settings), 0
    )


def chosen(found):
    """All pairs as (item, chosen, rejected, margin), each once."""
    rows = [*found.pairs.train, *found.pairs.held_out]
    return {
        (pair.prompt[-1]["content"].split()[1].strip("?"), pair.chosen, pair.rejected, pair.margin) for pair in rows
    }


class TestAProjectAsASource:
    def test_is_recognised_by_name_with_its_rankings_and_people(self, labels):
        told = "labels/hh: recognised as a labelling project; 7 rankings by 3 people, 3 prompts, 8 pairs"
        assert told in data().notes

    def test_gives_all_ordered_pairs_and_no_ties(self, labels):
        found = {pair[:3] for pair in chosen(data())}
        p1 = {("p1", "good", "fair"), ("p1", "good", "bad"), ("p1", "fair", "bad")}
        p2 = {("p2", "good", "fair"), ("p2", "good", "bad")}
        p3 = {("p3", "fair", "good"), ("p3", "fair", "bad"), ("p3", "good", "bad")}
        assert found == p1 | p2 | p3

    def test_says_how_far_people_agreed_on_each_pair_as_its_margin(self, labels):
        third = pytest.approx(1 / 3)
        margins = {pair[:2]: pair[3] for pair in chosen(data())}
        assert margins == {("p1", "good"): third, ("p1", "fair"): third, ("p2", "good"): 1,
                           ("p3", "fair"): 1, ("p3", "good"): 1}  # fmt: skip

    def test_counts_skips(self, labels):
        assert "labels/hh: a person skipped an item (1 time)" in data().notes

    def test_weighs_every_prompt_the_same(self, labels):
        found = data(prompt_weights="equal")
        assert len(set(Counter(pair.prompt[-1]["content"] for pair in found.pairs.train).values())) == 1

    def test_splits_by_prompt(self, labels):
        found = data()
        sides = [{pair.prompt[-1]["content"] for pair in side} for side in (found.pairs.train, found.pairs.held_out)]
        assert all(sides) and not sides[0] & sides[1]

    def test_says_where_a_pair_is_from(self, labels):
        assert {pair.where for pair in data().pairs.train} <= {
            f"labels/hh: item p{n} by {who}" for n in (1, 2, 3) for who in ("ana", "ben")
        }

    def test_takes_the_whole_conversation_for_the_prompt(self, tmp_path):
        asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
                 {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]  # fmt: skip
        made = project(tmp_path / "talk", [item("p1", prompt=asked), item("p2")])
        with Team(made) as team:
            for name in made.items:
                team.judge("ana", name, [1, 2, 3])
        found = data(str(made.path))
        assert asked in [pair.prompt for pair in (*found.pairs.train, *found.pairs.held_out)]

    def test_leaves_repeats_out_and_gold_in(self, tmp_path):
        again = item("p1.again", repeat_of="p1", prompt=item("p1").prompt)
        made = project(tmp_path / "hh", [item("p1"), item("g1", gold=(1, 2, 3)), again])
        with Team(made) as team:
            team.judge("ana", "p1", [1, 2, 3])
            team.judge("ana", "p1.again", [3, 2, 1])
            team.judge("ana", "g1", [1, 2, 3])
        found = data(str(made.path))
        assert {pair[:2] for pair in chosen(found)} == {(n, t) for n in ("p1", "g1") for t in ("good", "fair")}
        assert any("left out the second judgement of an item that was planted twice (1 time)" in n for n in found.notes)

    def test_every_vote_may_be_a_pair(self, labels):
        found = data(votes="each").pairs.train
        assert all(pair.margin is None for pair in found)
        both = {(pair.chosen, pair.rejected) for pair in found if "p1" in pair.where}
        assert not both or (("good", "bad") in both and ("bad", "good") in both)

    def test_of_a_correction_only_what_stands_counts(self, labels):
        with Team(labels) as team:
            team.count = 100
            given = {one.client: one for one in team.desk.store.judgements()}
            first = next(c for c, one in given.items() if one.ranks == (2, 1, 3))
            team.judge("ben", "p3", [1, 2, 3], supersedes=first)
        assert ("p3", "good", "fair", 1.0) in chosen(data())

    def test_changes_the_datas_fingerprint_when_more_is_judged(self, labels):
        before = data().fingerprint
        assert data().fingerprint == before
        with Team(labels) as team:
            team.count = 100
            team.judge("dee", "p1", [3, 2, 1])
            team.judge("eve", "p1", [3, 2, 1])
        assert data().fingerprint != before

    def test_is_read_while_its_server_writes(self, labels):
        names = [f"w{n}" for n in range(30)]
        failed = []

        def read():
            try:
                for _ in range(20):
                    data()
            except BaseException as error:
                failed.append(error)

        with Team(labels) as team:
            team.count = 100
            reader = threading.Thread(target=read)
            reader.start()
            for who in names:
                team.judge(who, "p1", [1, 2, 3])
            reader.join()
        assert not failed and "37 rankings by 33 people" in " ".join(data().notes)

    def test_a_judgement_made_while_it_is_read_has_its_deal(self, labels, monkeypatch):
        from kit.labels.store import Store

        with Team(labels) as team:
            team.count = 100
            read = Store.deals

            def deals_and_one_more(store):
                found = read(store)
                monkeypatch.setattr(Store, "deals", read)
                team.judge("late", "p1", [1, 2, 3])
                return found

            monkeypatch.setattr(Store, "deals", deals_and_one_more)
            assert len(list(judgement_rows(labels))) == 8

    def test_of_a_b_choices_gives_pairs(self, tmp_path):
        made = project(tmp_path / "ab", [item(f"p{n}", ("left", "right")) for n in (1, 2)], kind="ab")
        with Team(made) as team:
            team.judge("ana", "p1", [1, 2])
            team.judge("ana", "p2", [2, 1])
        found = data(str(made.path))
        assert {pair[:3] for pair in chosen(found)} == {("p1", "left", "right"), ("p2", "right", "left")}
        assert any("2 choices of two by 1 person" in note for note in found.notes)

    def test_mixes_with_another_source_under_columns_and_a_format_of_its_own(self, labels, tmp_path):
        rows = [{"comment": f"q{n}", "winner": "yes", "loser": "no"} for n in range(6)]
        (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        columns = {"prompt": "comment", "chosen": "winner", "rejected": "loser"}
        found = data(["labels/hh", "more.jsonl"], columns=columns, format="pairs")
        assert {"yes", "good"} <= {pair.chosen for pair in found.pairs.train}


class TestNoneAcceptable:
    @pytest.fixture
    def made(self, tmp_path):
        made = project(tmp_path / "hh", [item(f"p{n}", (f"good {n}", f"fair {n}", f"bad {n}")) for n in (1, 2, 3)])
        with Team(made) as team:
            for name in ("p1", "p2", "p3"):
                team.judge("ana", name, [1, 2, 3], none_acceptable=name == "p1")
            team.judge("ben", "p2", [1, 2, 3], none_acceptable=True)
            team.judge("cy", "p2", [1, 2, 3])
            team.judge("ben", "p1", [1, 2, 3])
        return made

    def test_still_teaches_which_is_better(self, made):
        assert {("p1", "good 1", "fair 1", 1.0), ("p1", "fair 1", "bad 1", 1.0)} <= chosen(data(str(made.path)))

    def test_makes_no_demonstration_where_half_of_the_people_say_so(self, made):
        found = data(str(made.path))
        shown = {row.response for row in (*found.demonstrations.train, *found.demonstrations.held_out)}
        assert shown == {"good 2", "good 3"}

    def test_makes_none_either_where_the_project_is_the_source_of_demonstrations(self, made):
        found = data(str(made.path), demonstrations=str(made.path))
        shown = {row.response for row in (*found.demonstrations.train, *found.demonstrations.held_out)}
        assert shown == {"good 2", "good 3"}

    def test_is_told(self, made):
        (note,) = [note for note in data(str(made.path)).notes if "no answer of an item was acceptable" in note]
        assert "none is a demonstration (1 time)" in note


class TestRefusals:
    @pytest.mark.parametrize("typed", ["labels/hh", "hh"])
    def test_nobody_judged_yet(self, tmp_path, monkeypatch, typed):
        project(tmp_path / "labels" / "hh")
        monkeypatch.chdir(tmp_path if "/" in typed else tmp_path / "labels")
        with pytest.raises(DataError, match=rf"^labels/hh: nobody has judged anything yet.*`kit label {typed}`"):
            data(typed)

    def test_a_store_without_judgements_is_the_same(self, tmp_path):
        made = project(tmp_path / "hh")
        with Team(made) as team:
            team.desk.work("ana")
        with pytest.raises(DataError, match="nobody has judged anything yet"):
            data(str(made.path))

    def test_a_store_that_a_kill_left_empty_is_the_same(self, tmp_path):
        made = project(tmp_path / "hh")
        made.store.touch()
        with pytest.raises(DataError, match="nobody has judged anything yet"):
            data(str(made.path))

    def test_everybody_skipped(self, tmp_path):
        made = project(tmp_path / "hh")
        with Team(made) as team:
            team.judge("ana", "p1", skip="no idea")
        with pytest.raises(DataError, match="Whoever judged skipped: rank some items first"):
            data(str(made.path))

    def test_a_project_that_is_not_there_is_no_hub_id(self, labels):
        with pytest.raises(DataError, match="no such labelling project: labels/other; there are labels/hh"):
            data("labels/other")

    def test_names_without_texts_teach_nothing(self):
        row = {
            "annotator": "ana",
            "item": "p",
            "answers": ["a", "b"],
            "ranks": [1, 2],
            "shown": ["b", "a"],
            "prompt": "?",
        }
        with pytest.raises(DataError, match="row 1: texts is missing: the answers stand here by name alone"):
            data([row])


class TestAnExportedFile:
    def rows(self, labels, all_of_them=False):
        return [json.loads(json.dumps(row)) for row in judgement_rows(labels, all_of_them)]

    def test_is_read_as_its_project_is(self, labels, tmp_path):
        (tmp_path / "out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows(labels)))
        assert chosen(data("out.jsonl")) == chosen(data())
        assert any(
            "out.jsonl: recognised as judgements, one a row (rank 1 is best)" in n for n in data("out.jsonl").notes
        )

    def test_of_everything_leaves_out_what_was_corrected(self, labels):
        with Team(labels) as team:
            team.count = 100
            first = next(one.client for one in team.desk.store.judgements() if one.ranks == (2, 1, 3))
            team.judge("ben", "p3", [1, 2, 3], supersedes=first)
        rows = self.rows(labels, all_of_them=True)
        found = data(rows)
        assert len(rows) == 9 and chosen(found) == chosen(data())
        assert any("left out a judgement that was corrected later (1 time)" in note for note in found.notes)

    def test_gives_prompts_and_demonstrations_too(self, labels):
        found = load_data(DataSettings(preferences=None, demonstrations=self.rows(labels), prompts="labels/hh"), 0)
        assert {row.response for row in found.demonstrations.train} == {"good", "fair"}
        assert len(found.prompts.train) + len(found.prompts.held_out) > 2


def opinion(who, prompt, **values):
    asked = [{"role": "user", "content": prompt}]
    return Opinion(asked, tuple(Answer(text, float(value)) for text, value in values.items()), f"row of {who}", who)


class TestReliability:
    def people(self, items=60, seed=0):
        """ana, cy and dee see the truth through some noise, ben throws dice, eve puts the better one last."""
        rng = np.random.default_rng(seed)
        opinions = []
        for n in range(items):
            for who in ("ana", "cy", "dee", "ben", "eve"):
                right = {"ben": 0.5, "eve": 0.1}.get(who, 0.9)
                up = rng.random() < right
                opinions.append(opinion(who, f"q{n}", yes=up, no=not up))
        return opinions

    def settled(self, opinions):
        counts = Counter()
        return settle_by_reliability(opinions, counts), " ".join(counts)

    def test_an_adversarys_vote_counts_the_other_way_round(self):
        opinions = [o for o in self.people() if o.annotator != "dee" or o.prompt[0]["content"] != "q0"]
        ask = [opinion("ana", "new", yes=1, no=0), opinion("eve", "new", yes=0, no=1)]
        found, _ = self.settled([*opinions, *ask])
        (new,) = [one for one in found if one.prompt[0]["content"] == "new"]
        assert new.answers[0].text == "yes" and new.margin == 1

    def test_a_careless_one_decides_nothing(self):
        ask = [
            opinion("ana", "new", yes=1, no=0),
            opinion("ben", "new", yes=0, no=1),
            opinion("ben", "alone", yes=0, no=1),
        ]
        found, _ = self.settled([*self.people(), *ask])
        by = {one.prompt[0]["content"]: one for one in found}
        assert by["new"].answers[0].text == "yes" and "alone" not in by

    def test_tells_who_counts_for_little_and_what_it_changed(self):
        _, told = self.settled(self.people())
        assert "ben: eta 0." in told and "eve: eta 0." in told and "ana" not in told
        assert "go the other way than the majority" in told

    def test_a_tie_of_all_is_left_out(self):
        ask = [opinion(who, "new", yes=1, no=1) for who in ("ana", "cy")]
        found, _ = self.settled([*self.people(), *ask])
        assert "new" not in {one.prompt[0]["content"] for one in found}

    def test_of_two_votes_of_one_person_the_last_counts(self):
        ask = [opinion("ana", "new", yes=1, no=0), opinion("ana", "new", yes=0, no=1)]
        found, told = self.settled([*self.people(), *ask])
        (new,) = [one for one in found if one.prompt[0]["content"] == "new"]
        assert new.answers[0].text == "no" and "voted twice" in told

    def test_is_the_posterior_of_a_slow_integral(self):
        from kit.crowd.judgements import Judgement, Judgements
        from kit.crowd.model import fit, likelier
        from kit.crowd.votes import votes_of

        rng = np.random.default_rng(1)
        opinions = [opinion(f"w{who}", f"q{n}", **dict(zip("abc", rng.permutation(3), strict=True)))
                    for n in range(25) for who in range(4) if rng.random() < 0.7]  # fmt: skip
        rows = [Judgement(o.annotator, o.prompt[0]["content"], "rank", tuple(a.text for a in o.answers),
                          tuple(a.value for a in o.answers), "") for o in opinions]  # fmt: skip
        votes = votes_of(Judgements("", "", rows))
        crowd = fit(votes)
        eta = dict(zip(votes.people, crowd.eta, strict=True))
        d = np.linspace(-8 * crowd.tau, 8 * crowd.tau, 20_000)
        slow = {}
        for prompt, one, two in votes.units:
            density = np.exp(-0.5 * (d / crowd.tau) ** 2)
            net = weight = 0.0
            for o in opinions:
                if o.prompt[0]["content"] == prompt:
                    value = {a.text: a.value for a in o.answers}
                    up = 1.0 if value[one] > value[two] else -1.0
                    e = eta[o.annotator]
                    density = density * (e / (1 + np.exp(-up * d)) + (1 - e) / (1 + np.exp(up * d)))
                    net, weight = net + (2 * e - 1) * up, weight + abs(2 * e - 1)
            p = density[d > 0].sum() / density.sum()
            slow[prompt, one, two] = p, net / weight
        fast = likelier(votes, crowd)
        assert fast == pytest.approx([p for p, _ in slow.values()], abs=1e-4)
        wanted = set()
        for (prompt, one, two), (p, net) in slow.items():
            if abs(p - 0.5) >= CLOSE and net * (p - 0.5) > 0:
                wanted.add((prompt, *((one, two) if p > 0.5 else (two, one)), round(abs(net), 4)))
        found = {
            (o.prompt[0]["content"], *(a.text for a in o.answers), round(o.margin, 4))
            for o in self.settled(opinions)[0]
        }
        close = {(q, *sorted((a, b))) for (q, a, b), (p, _) in slow.items() if abs(abs(p - 0.5) - CLOSE) < 1e-4}
        differing = {(q, *sorted((a, b))) for q, a, b, _ in wanted ^ found}
        assert differing <= close and len(wanted) > 30

    def test_finds_more_of_the_truth_than_the_majority(self, monkeypatch):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        bench = importlib.import_module("aggregation")
        case = bench.CASES[1]
        rows = bench.simulate(case.kinds, case.items, case.k, case.per_item, seed=3, truth=True)
        majority, weighed = (bench.outcome(rows, votes) for votes in ("majority", "reliability"))
        assert weighed.right > majority.right + 0.03 and weighed.wrong < majority.wrong - 0.05

    def test_of_honest_people_loses_nothing(self, monkeypatch):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        bench = importlib.import_module("aggregation")
        case = bench.CASES[0]
        rows = bench.simulate(case.kinds, case.items, case.k, case.per_item, seed=3, truth=True)
        majority, weighed = (bench.outcome(rows, votes) for votes in ("majority", "reliability"))
        assert weighed.right >= majority.right - 0.01

    def test_in_a_run_settles_a_project(self, labels):
        found = data(votes="reliability")
        assert any("labels/hh: votes: weighed by how reliable each person is" in note for note in found.notes)
        assert ("p2", "good", "bad", 1.0) in chosen(found)

    def test_of_one_person_says_so(self, tmp_path):
        made = project(tmp_path / "hh")
        with Team(made) as team:
            for name in made.items:
                team.judge("ana", name, [1, 2, 3])
        found = data(str(made.path), votes="reliability")
        assert any("votes: ana alone judged" in note for note in found.notes) and len(chosen(found)) == 9

    def test_of_nobody_says_so_and_keeps_the_rows(self):
        rows = [{"prompt": f"q{n}", "chosen": "a", "rejected": "b"} for n in range(9)]
        found = data(rows, votes="reliability")
        assert any("no row says who judged" in note for note in found.notes) and len(chosen_rows(found)) == 9
        assert found.fingerprint == data(rows).fingerprint

    def test_reads_pandalms_columns_as_people(self):
        row = {"input": "", "response1": "x", "response2": "yy"}
        rows = [row | {"instruction": f"say {n}", "annotator1": 1, "annotator2": 1, "annotator3": 2} for n in range(40)]
        found = data(rows, votes="reliability")
        told = next(note for note in found.notes if "weighed by" in note)
        assert "annotator3: eta 0." in told and {pair.chosen for pair in found.pairs.train} == {"x"}

    def test_reads_ratings_of_several_people(self):
        rows = [
            {"prompt": f"q{n}", "completion": text, "rating": rating if who != "eve" else 6 - rating, "annotator": who}
            for n in range(40) for who in ("ana", "ben", "cy", "eve") for text, rating in (("x", 5), ("y", 1))
        ]  # fmt: skip
        found = data(rows, votes="reliability")
        assert {(p.chosen, p.margin) for p in found.pairs.train} == {("x", 1.0)}

    def test_leaves_data_with_majority_votes_as_they_were(self):
        row = {"input": "", "response1": "x", "response2": "yy"}
        rows = [row | {"instruction": f"say {n}", "annotator1": 1, "annotator2": 1, "annotator3": 2} for n in range(9)]
        assert {pair.margin for pair in data(rows).pairs.train} == {None}


def chosen_rows(found):
    return [*found.pairs.train, *found.pairs.held_out]
