"""Blind A/B: the project that a comparison gives, and people's choices in it as the judge."""

import json
import re
import uuid

import pytest
from toy_run import toy_answers, toy_comparison

import kit
from kit.compare.judges.people import find_people, judge_by_people
from kit.compare.judges.votes import judge_by_votes, votes_key
from kit.compare.judging import judges_checkpoints
from kit.compare.report.words import cautions
from kit.compare.who_judges import HUMAN, judge_of
from kit.config import Config
from kit.errors import ConfigError, DataError, KitError, RunError
from kit.labels.desk import Desk
from kit.labels.project import open_project
from kit.runs.folder import RunFolder
from kit.runs.inputs import stage_inputs
from kit.runs.steps import Step
from kit.sampling.ab import ab_project

PAIR = ("ppo", "dpo")
PAIRS = [("ppo", "sft"), ("dpo", "sft"), PAIR]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a run whose comparison is there."""
    monkeypatch.chdir(tmp_path)
    toy_comparison(tmp_path)
    return tmp_path


def plums(text):
    return text.count("plum")


def vote(project, likes, who=("ana",), only=lambda prompt: True):
    """Everybody votes on all that is dealt to them: `likes(who, first text, second text)` is 1, 2, or 0 for a tie; a
    text is why it was skipped. Returns how often each was asked."""
    desk, asked = Desk(project), dict.fromkeys(who, 0)
    desk.welcome(dict.fromkeys(who))
    try:
        for name in who:
            while work := desk.work(name)["work"]:
                one = work[0]
                found = likes(name, *one["answers"])
                if isinstance(found, int) and not only(one["prompt"][0]["content"]):
                    found = "not for me"
                said = (
                    {"ranks": {0: [1, 1], 1: [1, 2], 2: [2, 1]}[found]} if isinstance(found, int) else {"skip": found}
                )
                desk.judge(name, {"id": str(uuid.uuid4()), "deal": one["deal"], "guidelines_sha256": "0" * 64, **said})
                asked[name] += 1
    finally:
        desk.close()
    return asked


def more_plums(_, first, second):
    return 0 if plums(first) == plums(second) else 1 + (plums(second) > plums(first))


def judged(place, prompts=30, equal=3, answers=None):
    questions, own = toy_answers(prompts, equal)
    folder = place / "labels" / "toy-ab"
    return judge_by_people(folder, place / "runs" / "toy", questions, answers or own, PAIRS)


def outcome_of(i):
    """What who likes plums says of prompt i."""
    return (i % 5 > 2) + 0.5 * (i % 5 == 2)


def rewrite(place, changes):
    """The comparison's metrics with other values."""
    file = place / "runs" / "toy" / "compare" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class TestTheProject:
    def test_asks_about_every_prompt_with_two_answers(self, place):
        project = ab_project("runs/toy")
        questions, answers = toy_answers()
        asked = [item for item in project.items.values() if item.repeat_of is None]
        assert str(project.path) == "labels/toy-ab" and project.kind == "ab"
        different = [i for i in range(30) if answers["ppo"][i] != answers["dpo"][i]]
        assert [item.about["prompt"] for item in asked] == [i + 1 for i in different] and len(asked) == 22
        for item in asked:
            i, arms = item.about["prompt"] - 1, item.about["arms"]
            assert item.prompt == questions[i] and sorted(arms) == ["dpo", "ppo"]
            assert [answer.text for answer in item.answers] == [answers[arm][i] for arm in arms]
            assert [answer.made["arm"] for answer in item.answers] == arms
            assert item.about["votes_key"] == votes_key(*(answers[arm][i] for arm in arms))
        equal = [i + 1 for i in range(30) if i not in different]
        assert project.settings["ab"] == {"run": str(place / "runs" / "toy"), "arms": ["ppo", "dpo"], "prompts": 30,
                                          "equal": equal}  # fmt: skip

    def test_has_repeats_and_puts_either_arm_first(self, place):
        project = ab_project("runs/toy")
        assert sum(item.repeat_of is not None for item in project.items.values()) == 2
        first = [item.about["arms"][0] for item in project.items.values() if item.about]
        assert 5 < first.count("ppo") < 17

    def test_never_shows_an_arm_s_name(self, place):
        desk = Desk(ab_project("runs/toy"))
        shown = json.dumps(desk.work("ana"))
        desk.close()
        assert not re.search("ppo|dpo|sft|a1|votes_key", shown.replace("toy-ab", ""))

    def test_may_be_of_other_arms_and_fewer_prompts_elsewhere(self, place):
        project = ab_project("runs/toy", "mine/first", ("dpo", "sft"), 5, per_item=3, overlap=0.0, repeats=0.0)
        assert str(project.path) == "mine/first" and len(project.items) == 5 and project.per_item == 3
        assert {arm for item in project.items.values() for arm in item.about["arms"]} == {"dpo", "sft"}

    def test_is_opened_again_with_what_was_said(self, place):
        one = ab_project("runs/toy")
        vote(one, more_plums)
        assert ab_project("runs/toy").settings == one.settings
        assert judged(place).facts["votes"] == 22

    def test_of_other_answers_is_refused_and_stays(self, place):
        vote(ab_project("runs/toy"), more_plums)
        samples = place / "runs" / "toy" / "compare" / "samples.jsonl"
        samples.write_text(samples.read_text().replace("No. 3:", "Number 3:", 1))
        with pytest.raises(DataError, match="labels/toy-ab: asks about other answers than those of"):
            ab_project("runs/toy")
        assert judged(place).facts["votes"] == 22

    @pytest.mark.parametrize(
        "change, error, says",
        [
            ({"arms": ("ppo", "grpo")}, ConfigError, "no arm 'grpo'; name two of sft, dpo, ppo"),
            ({"arms": ("ppo", "ppo")}, ConfigError, "two different ones are wanted"),
            ({"arms": ("ppo",)}, ConfigError, "two different ones are wanted"),
            ({"prompts": 0}, ConfigError, "prompts 0"),
            ({"path": "runs/toy"}, DataError, "is there already and is no labelling project"),
        ],
    )
    def test_that_cannot_be_made_is_refused(self, place, change, error, says):
        with pytest.raises(error, match=re.escape(says)):
            ab_project("runs/toy", **change)
        assert not (place / "labels").exists()

    def test_needs_arms_that_meet(self, place):
        rewrite(place, {"arms": {arm: {} for arm in ("sft", "dpo", "best_of_n", "longest_of_n")}, "pairs": {}})
        with pytest.raises(ConfigError, match="does not compare best_of_n with longest_of_n"):
            ab_project("runs/toy", arms=("best_of_n", "longest_of_n"))

    def test_may_be_of_arms_that_the_last_judge_did_not_see(self, place):
        rewrite(place, {"pairs": {}})
        assert len(ab_project("runs/toy").items) == 24

    def test_needs_a_comparison_of_the_last_policies(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run = toy_comparison(tmp_path, checkpoint="best")
        with pytest.raises(ConfigError, match=r"kit compare .* compare\.checkpoint=last"):
            ab_project(run)
        (run / "compare" / "metrics.json").unlink()
        with pytest.raises(RunError, match="no comparison here yet"):
            ab_project(run)

    def test_needs_answers_that_differ(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        toy_comparison(tmp_path, prompts=4, equal=4)
        with pytest.raises(DataError, match="alike: all ties"):
            ab_project("runs/toy")

    @pytest.mark.parametrize("text", ["{", "[1]", '{"arms": {"ppo": {"text": 3}}, "prompt": []}'])
    def test_needs_samples_that_can_be_read(self, place, text):
        (place / "runs" / "toy" / "compare" / "samples.jsonl").write_text(text)
        with pytest.raises(RunError, match=r"samples\.jsonl: cannot be read"):
            ab_project("runs/toy")


class TestPeople:
    def test_who_know_the_truth_give_the_truth_s_verdict(self, place):
        vote(ab_project("runs/toy"), more_plums)
        found = judged(place)
        assert found.outcomes[PAIR] == [outcome_of(i) if i < 27 else 0.5 for i in range(30)]
        assert found.outcomes["ppo", "sft"] == [None] * 30 and found.judge == "human" and found.scores is None
        assert found.facts["votes"] == 22 and found.facts["annotators"] == 1 and found.facts["equal"] == 8
        assert found.facts["valid_prompts"] == 30 and found.facts["agreement"] is None
        assert "22 blind choices in toy-ab, and 8 ties of equal answers" in found.description

    def test_are_counted_as_a_file_of_the_same_votes_is(self, place):
        project = ab_project("runs/toy", per_item=2, repeats=0)
        lines = []

        def likes(who, first, second):
            found = more_plums(who, first, second) if who == "ana" else 1 + (len(first) < len(second))
            item = next(i for i in project.items.values() if {a.text for a in i.answers} == {first, second})
            arms = {answer.text: arm for answer, arm in zip(item.answers, item.about["arms"], strict=True)}
            a, b = arms[first], arms[second]
            lines.append({"prompt": item.about["prompt"], "a": a, "b": b, "winner": ("tie", "a", "b")[found],
                          "annotator": who, "answers": votes_key(first, second)})  # fmt: skip
            return found

        vote(project, likes, ("ana", "ben"))
        (place / "votes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        people, file = judged(place), judge_by_votes(place / "votes.jsonl", *toy_answers(), PAIRS)
        assert len(lines) == 44 == people.facts["votes"]
        for i in range(30):
            wanted = file.outcomes[PAIR][i]
            assert people.outcomes[PAIR][i] == (0.5 if wanted is None else wanted)
        shared = ("votes", "annotators", "stale", "unchecked", "agreement")
        assert {n: people.facts[n] for n in shared} == {n: file.facts[n] for n in shared}
        assert 0 < people.facts["agreement"] <= 1

    def test_a_tie_is_a_vote(self, place):
        vote(ab_project("runs/toy"), lambda *_: 0)
        found = judged(place)
        assert found.outcomes[PAIR] == [0.5] * 30 and found.facts["votes"] == 22 and found.facts["tie_rate"] == 1

    def test_repeats_are_no_second_vote(self, place):
        project, seen = ab_project("runs/toy", repeats=0.5), {}

        def changes_their_mind(who, first, second):
            again = frozenset((first, second)) in seen
            seen[frozenset((first, second))] = True
            return more_plums(who, *((second, first) if again else (first, second)))

        assert vote(project, changes_their_mind)["ana"] == 33
        found = judged(place)
        assert found.facts["votes"] == 22 and found.outcomes[PAIR][:27] == [outcome_of(i) for i in range(27)]

    def test_a_correction_counts_and_what_it_corrects_does_not(self, place):
        project = ab_project("runs/toy", prompts=1, repeats=0)
        vote(project, more_plums)
        desk = Desk(project)
        (before,) = desk.history("ana")
        swapped = [3 - rank for rank in before["ranks"]]
        desk.judge("ana", {"id": str(uuid.uuid4()), "deal": before["deal"], "guidelines_sha256": "0" * 64,
                           "ranks": swapped, "supersedes": before["id"]})  # fmt: skip
        desk.close()
        found = judged(place)
        assert (found.facts["votes"], found.outcomes[PAIR][0]) == (1, 1 - outcome_of(0))

    def test_a_skipped_item_is_no_vote(self, place):
        vote(ab_project("runs/toy"), lambda *_: "too hard", ("ben",))
        with pytest.raises(
            DataError, match=r"there is none on the arms compared\. `kit label --ab \S+runs/toy` collects"
        ):
            judged(place)
        vote(open_project("labels/toy-ab"), more_plums)
        assert judged(place).facts["votes"] == 22 and judged(place).facts["skipped"] == 22

    def test_of_half_a_project_count_half_of_the_equal_answers(self, place):
        vote(ab_project("runs/toy"), more_plums, only=lambda prompt: int(re.search(r"\d+", prompt)[0]) % 2 == 0)
        found = judged(place)
        _, answers = toy_answers()
        equal = [i for i in range(30) if answers["ppo"][i] == answers["dpo"][i]]
        votes = [i for i in range(0, 30, 2) if i not in equal]
        assert found.facts["votes"] == len(votes) == 11
        assert [i for i in range(30) if found.outcomes[PAIR][i] is not None] == sorted([*votes, *equal[:4]])
        assert found.facts["equal"] == 4

    def test_votes_on_other_answers_than_these_are_not_counted(self, place, capsys):
        vote(ab_project("runs/toy"), more_plums)
        _, answers = toy_answers()
        other = answers | {"ppo": ["Another." if i == 3 else text for i, text in enumerate(answers["ppo"])]}
        found = judged(place, answers=other)
        assert found.outcomes[PAIR][3] is None and (found.facts["votes"], found.facts["stale"]) == (21, 1)
        assert "1 votes were cast on other answers than these" in capsys.readouterr().err
        with pytest.raises(DataError, match="all were cast on other answers"):
            judged(place, answers=answers | {"ppo": ["Another."] * 30})

    def test_of_a_comparison_with_fewer_prompts_are_counted_as_far_as_they_go(self, place):
        vote(ab_project("runs/toy"), more_plums)
        found = judged(place, prompts=10, equal=0)
        assert found.outcomes[PAIR][:2] == [0, 0] and len(found.outcomes[PAIR]) == 10 and found.facts["stale"] == 14

    def test_answers_that_are_no_longer_equal_are_no_ties(self, place):
        vote(ab_project("runs/toy"), more_plums)
        _, answers = toy_answers()
        other = answers | {"ppo": [*answers["ppo"][:29], "Another."]}
        assert judged(place, answers=other).outcomes[PAIR][28:] == [0.5, None]


class TestTheSetting:
    def test_human_is_the_runs_own_project_from_here(self, place):
        assert kit.Config(name="toy", compare={"judge": "human"}).people == place / "labels" / "toy-ab"

    def test_a_folder_is_a_project_wherever_it_is(self, place):
        assert kit.Config(compare={"judge": "other/mine-ab"}).people == place / "other" / "mine-ab"

    @pytest.mark.parametrize("judge", ["auto", "truth", "x/votes.jsonl", "x/votes.csv", "x/y.py:best", "pkg.mod:best"])
    def test_other_judges_are_no_project(self, place, judge):
        config = kit.Config(compare={"judge": judge})
        assert config.people is None and judge in config.compare.judge

    @pytest.mark.parametrize("judge", ["x/judge.py", "x/judge.py:a b", "x/y:z/", "runs/toy/run.json", "labels"])
    def test_what_is_neither_is_refused(self, place, judge):
        with pytest.raises(ConfigError, match="the folder of a labelling project"):
            kit.load_config({"compare": {"judge": judge}})

    def test_people_are_asked_about_no_checkpoints(self):
        assert not judges_checkpoints(Config(compare={"judge": "human"}))
        assert judges_checkpoints(Config(compare={"judge": "truth"}))

    def test_without_a_project_says_how_to_get_one(self, place):
        config = kit.Config(name="toy", output_dir="runs", compare={"judge": "human"})
        with pytest.raises(ConfigError, match=r"`kit label --ab \S+runs/toy` collects people's votes"):
            judge_of(config, [])
        ab_project("runs/toy")
        assert judge_of(config, []) == HUMAN

    def test_a_project_of_rankings_is_refused(self, place):
        project = ab_project("runs/toy")
        file = project.path / "project.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "rank"}))
        with pytest.raises(ConfigError, match="was not made from a comparison"):
            find_people(project.path, place / "runs" / "toy")

    def test_a_new_vote_makes_the_comparison_again(self, place):
        project = ab_project("runs/toy")
        config = kit.Config(name="toy", output_dir="runs", compare={"judge": "human"})
        folder, step = RunFolder(place / "runs" / "toy"), Step("compare", "compare", 0, ())

        def inputs():
            return stage_inputs(step, config, "data", folder)["files"]

        before = inputs()
        vote(project, more_plums)
        after = inputs()
        assert before != after and after == inputs()
        judged(place)
        assert after == inputs()  # to count them changes nothing


class TestTheReport:
    def test_says_nothing_of_pairs_that_nobody_was_shown(self, place):
        facts = {"votes": 60, "annotators": 2, "stale": 0, "valid_prompts": 60, "prompts": 60, "tie_rate": 0.1}
        arms = {name: {"scored": 0, "ended_rate": 1.0} for name in ("sft", "dpo", "ppo")}
        pair = {"win_rate": 0.6, "ci95": [0.5, 0.7], "tie_rate": 0.1, "verdict": "no difference", "prompts": 60}
        metrics = {"judge": "human", "prompts": 60, "judge_facts": facts, "arms": arms, "pairs": {"ppo_vs_dpo": pair}}
        assert cautions(metrics) == []
        assert len(cautions(metrics | {"judge": "llm"})) == 3


class TestErrorsAreKits:
    def test_a_damaged_project_is_a_message(self, place):
        project = ab_project("runs/toy")
        vote(project, more_plums)
        lines = (project.path / "items.jsonl").read_text().splitlines()
        row = json.loads(lines[0])
        (project.path / "items.jsonl").write_text("\n".join([json.dumps(row | {"about": {}}), *lines[1:]]))
        with pytest.raises(KitError, match="item p0001: does not say which arms and prompt it is about"):
            judged(place)
