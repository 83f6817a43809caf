"""The steps of a run: which there are, in which order, and what each takes from which."""

import pytest

from kit.config import DEFAULT_STAGES, STAGES, Config
from kit.runs.steps import run_steps


def steps(with_judge=False, **settings):
    return run_steps(Config(**settings), with_judge)


def names(found):
    return [step.name for step in found]


def needs(found):
    return {step.name: set(step.needs) for step in found}


class TestWithOneSeed:
    def test_the_steps_are_the_stages(self):
        assert names(steps()) == list(DEFAULT_STAGES)
        assert names(steps(stages=list(STAGES))) == list(STAGES)

    def test_each_has_the_seed_of_the_run_and_the_name_of_its_stage(self):
        assert {(step.seed, step.name == step.stage) for step in steps(seed=7)} == {(7, True)}

    def test_each_takes_the_adapters_it_starts_from(self):
        found = needs(steps(stages=list(STAGES)))
        assert found["sft"] == set() and found["reward"] == found["dpo"] == {"sft"}
        assert found["ppo"] == found["rloo"] == found["grpo"] == {"sft", "reward"}

    def test_the_comparison_takes_them_all(self):
        assert needs(steps())["compare"] == {"sft", "reward", "ppo", "dpo"}
        assert needs(steps(stages=["sft", "dpo", "compare"]))["compare"] == {"sft", "dpo"}


class TestTheJudge:
    def test_is_trained_from_sft_after_the_arms_and_before_the_comparison(self):
        found = steps(with_judge=True)
        assert names(found)[-2:] == ["judge", "compare"]
        assert needs(found)["judge"] == {"sft"} and "judge" in needs(found)["compare"]

    def test_no_arm_takes_anything_from_it(self):
        assert [step.name for step in steps(with_judge=True) if "judge" in step.needs] == ["compare"]

    def test_does_not_begin_with_the_score_head_of_the_reward_model_or_its_repetitions(self):
        found = steps(with_judge=True, compare={"seeds": 20})
        (judge,) = [step.seed for step in found if step.name == "judge"]
        assert judge not in {step.seed for step in found if step.stage == "reward"}

    def test_is_trained_once_however_many_seeds_the_arms_have(self):
        assert names(steps(with_judge=True, compare={"seeds": 3})).count("judge") == 1

    def test_is_of_no_use_without_a_comparison(self):
        assert names(steps(with_judge=True, stages=["sft", "dpo"])) == ["sft", "dpo"]


class TestRepetitions:
    def test_are_further_steps_of_every_stage_but_sft_and_the_comparison(self):
        again = ["reward-seed-{}", "ppo-seed-{}", "dpo-seed-{}"]
        wanted = [*DEFAULT_STAGES[:-1], *(name.format(seed) for seed in (6, 7) for name in again), "compare"]
        assert names(steps(seed=5, compare={"seeds": 3})) == wanted

    def test_have_the_seeds_of_their_names(self):
        found = {step.name: step.seed for step in steps(seed=5, compare={"seeds": 2})}
        assert (found["ppo"], found["ppo-seed-6"], found["compare"]) == (5, 6, 5)

    def test_take_the_reward_model_of_their_own_seed_and_the_one_sft(self):
        found = needs(steps(compare={"seeds": 2}))
        assert found["ppo-seed-1"] == {"sft", "reward-seed-1"} and found["dpo-seed-1"] == {"sft"}

    def test_are_compared(self):
        assert {"ppo-seed-1", "reward-seed-1", "dpo-seed-1"} <= needs(steps(compare={"seeds": 2}))["compare"]

    def test_are_of_no_use_without_a_comparison(self):
        assert names(steps(stages=["sft", "dpo"], compare={"seeds": 3})) == ["sft", "dpo"]


@pytest.mark.parametrize("with_judge", [False, True])
@pytest.mark.parametrize("seeds", [1, 3])
def test_every_step_comes_after_what_it_needs_and_has_a_folder_of_its_own(with_judge, seeds):
    found = names(steps(with_judge, stages=list(STAGES), compare={"seeds": seeds}))
    assert len(set(found)) == len(found)
    for step in steps(with_judge, stages=list(STAGES), compare={"seeds": seeds}):
        assert set(step.needs) <= set(found[: found.index(step.name)])
