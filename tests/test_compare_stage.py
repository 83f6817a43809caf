"""The compare stage without a model: who answers what, which checkpoint is judged, what an arm's training cost."""

from dataclasses import replace

import pytest

from kit.compare.answers import TEST, VALIDATION, Sheet
from kit.compare.judges.scores import judge_by_scores
from kit.compare.metrics import Cost, name_of, pairs_to_judge
from kit.compare.result import Answer
from kit.compare.stage import _costs, _of_best_steps, _panel, _policies, _with_scores
from kit.config import Config
from kit.runs.folder import StageRecord

PARTS = {TEST: [1, 2], VALIDATION: [3]}


@pytest.fixture
def at(tmp_path):
    """The steps' folders; PPO keeps two checkpoints."""
    for step in (20, 100):
        (tmp_path / "ppo" / "snapshots" / f"step-{step:06d}").mkdir(parents=True)
    names = ("sft", "reward", "ppo", "dpo", "reward-seed-1", "ppo-seed-1", "dpo-seed-1", "judge")
    return {name: tmp_path / name for name in names}


def who(config, at, parts=PARTS):
    return {(p.arm, p.seed, p.step, part) for p, part in _policies(config, at, parts)}


def sheets():
    """SFT and PPO with two checkpoints on both parts; the first was better on validation, the last on test prompts."""
    scores = {(None, TEST): 9.0, (20, TEST): 1.0, (100, TEST): 2.0}
    scores |= {(None, VALIDATION): 1.0, (20, VALIDATION): 9.0, (100, VALIDATION): 2.0}
    made = {("sft", None, part): 0.0 for part in (TEST, VALIDATION)}
    made |= {("ppo", step, part): score for (step, part), score in scores.items()}
    answer = Answer("a", None, None, 1.0, 5, True)
    return [
        Sheet(arm, 0, step, part, f"{arm} {step} {part}", [replace(answer, true_reward=score)] * 12)
        for (arm, step, part), score in made.items()
    ]


def judged(found, part):
    scores = {name_of(s, 0): [a.true_reward for a in s.answers] for s in found if s.part == part}
    return judge_by_scores("truth", "", scores, pairs_to_judge(found, part, 0))


class TestWhoAnswersWhat:
    def test_arms_answer_both_parts_repetitions_the_test_prompts_checkpoints_the_validation_prompts(self, at):
        both = {(arm, 0, None, part) for arm in ("sft", "dpo", "ppo") for part in (TEST, VALIDATION)}
        again = {(arm, 1, None, TEST) for arm in ("dpo", "ppo")}
        checkpoints = {("ppo", 0, step, VALIDATION) for step in (20, 100)}
        assert who(Config(), at) == both | again | checkpoints

    def test_checkpoints_answer_the_test_prompts_where_the_best_is_judged(self, at):
        best = who(Config(compare={"checkpoint": "best"}), at)
        assert best - who(Config(), at) == {("ppo", 0, step, TEST) for step in (20, 100)}

    def test_neither_reward_models_nor_the_judge_answer(self, at):
        assert {arm for arm, *_ in who(Config(), at)} == {"sft", "dpo", "ppo"}

    def test_each_answers_with_its_own_adapter(self, at):
        found = {(p.arm, p.seed, p.step): p.adapter for p, _ in _policies(Config(), at, PARTS)}
        assert found["ppo", 1, None] == at["ppo-seed-1"]
        assert found["ppo", 0, 20] == at["ppo"] / "snapshots" / "step-000020"

    def test_without_validation_prompts_only_the_arms_answer(self, at):
        assert {part for *_, part in who(Config(), at, {TEST: [1], VALIDATION: []})} == {TEST}


class TestWhichPolicyIsJudged:
    def on_test(self, checkpoint, validation):
        kept = _of_best_steps(Config(compare={"checkpoint": checkpoint}), sheets(), validation)
        return {s.arm: (s.key, s.step) for s in kept if s.part == TEST}

    def test_is_the_last(self):
        assert self.on_test("last", judged(sheets(), VALIDATION))["ppo"] == ("ppo None test", None)

    def test_is_the_best_on_the_validation_prompts_as_the_arm_where_that_is_asked(self):
        assert self.on_test("best", judged(sheets(), VALIDATION)) == {
            "sft": ("sft None test", None),
            "ppo": ("ppo 20 test", None),
        }

    def test_is_the_last_with_a_warning_where_nothing_was_judged_on_validation_prompts(self, capsys):
        assert self.on_test("best", None)["ppo"] == ("ppo None test", None)
        assert "compare.checkpoint best: the judge saw no validation prompts" in "".join(capsys.readouterr())

    def test_leaves_every_validation_sheet(self):
        kept = _of_best_steps(Config(compare={"checkpoint": "best"}), sheets(), judged(sheets(), VALIDATION))
        assert [s for s in kept if s.part == VALIDATION] == [s for s in sheets() if s.part == VALIDATION]


class TestScores:
    def test_of_the_judge_stand_on_each_answer(self):
        found = [_with_scores(s, judged(sheets(), s.part), 0) for s in sheets()]
        assert all(answer.judge_score == answer.true_reward for s in found for answer in s.answers)

    def test_are_none_where_the_judge_compares(self):
        verdicts = replace(judged(sheets(), TEST), scores=None)
        assert {answer.judge_score for answer in _with_scores(sheets()[0], verdicts, 0).answers} == {None}


class TestPanels:
    def test_have_the_arms_on_test_prompts_and_their_checkpoints_on_validation_prompts(self):
        found, _ = _panel(_of_best_steps(Config(), sheets(), None), 0)
        assert {arm: list(columns) for arm, columns in found.items()} == {
            "sft": ["last"],
            "ppo": ["step 20", "step 100", "last"],
        }


class TestCosts:
    def record(self, tmp_path, name, seconds, peak, tokens):
        return StageRecord(
            name, tmp_path, {}, seconds, peak, {"generated_tokens": tokens, "trained_tokens": 2 * tokens}
        )

    def test_of_ppo_hold_the_reward_model_s_and_of_dpo_nothing_but_its_own(self, tmp_path):
        numbers = {"sft": (1, 9, 0), "reward": (10, 5, 0), "ppo": (100, 4, 7), "dpo": (50, 3, 0)}
        steps = {name: self.record(tmp_path, name, *row) for name, row in numbers.items()}
        assert _costs(steps) == {
            "sft": Cost(1, 9, 0, 0),
            "dpo": Cost(50, 3, 0, 0),
            "ppo": Cost(110, 5, 7, 14),
            "best_of_n": Cost(10, 5, 0, 0),
        }

    def test_that_nobody_counted_are_unknown(self, tmp_path):
        steps = {"sft": StageRecord("sft", tmp_path, {}, 1.0, None, {})}
        assert _costs(steps) == {"sft": Cost(1.0, None, None, None)}
