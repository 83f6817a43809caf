"""Who judges a comparison, decided by the prompts and not by the name of their source."""

import pytest

import kit
from kit.compare.who_judges import judge_of, trains_judge
from kit.data import Prompt
from kit.demo import world


def asked(*texts):
    return [Prompt([{"role": "user", "content": text}], "here:1") for text in texts]


DEMO = asked(*world.prompts(0)[:3])
OTHER = asked("What is the capital of France?")


class TestJudge:
    def test_is_the_truth_where_every_prompt_is_of_the_demo_world(self):
        assert judge_of(kit.Config(), DEMO) == "truth"

    def test_is_a_model_of_its_own_where_one_prompt_is_not_though_the_pairs_are_the_demos(self):
        assert judge_of(kit.Config(data={"preferences": "demo"}), DEMO + OTHER) == "held_out"

    def test_is_a_model_of_its_own_where_no_prompt_is_held_out(self):
        assert judge_of(kit.Config(), []) == "held_out"

    @pytest.mark.parametrize("judge", ["held_out", "truth"])
    def test_is_what_is_asked_for_where_it_can_be_had(self, judge):
        assert judge_of(kit.Config(compare={"judge": judge}), DEMO) == judge

    def test_is_a_language_model_a_function_or_people_where_that_is_asked(self, tmp_path):
        (tmp_path / "votes.csv").touch()
        asked_for = {"llm": "llm", "my.judges:best": "function", "file.py:judge": "function"}
        asked_for[str(tmp_path / "votes.csv")] = "votes"
        found = {j: judge_of(kit.Config(compare={"judge": j, "llm": {"model": "m"}}), DEMO) for j in asked_for}
        assert found == asked_for

    def test_is_not_the_truth_where_none_is_known(self):
        with pytest.raises(kit.ConfigError, match="demo world only"):
            judge_of(kit.Config(compare={"judge": "truth"}), OTHER)

    def test_is_no_file_of_votes_that_is_not_there(self):
        with pytest.raises(kit.ConfigError, match=r"no file of votes at nowhere\.jsonl"):
            judge_of(kit.Config(compare={"judge": "nowhere.jsonl"}), OTHER)

    @pytest.mark.parametrize("arm", ["ppo", "rloo", "grpo"])
    def test_is_never_the_reward_model_that_an_arm_was_trained_on(self, arm):
        config = kit.Config(compare={"judge": "reward_model"}, stages=["sft", "reward", arm, "dpo", "compare"])
        with pytest.raises(kit.ConfigError, match=f"{arm} was trained on this very score"):
            judge_of(config, OTHER)

    def test_may_be_the_reward_model_where_no_arm_was(self):
        config = kit.Config(compare={"judge": "reward_model"}, stages=["sft", "reward", "dpo", "compare"])
        assert judge_of(config, OTHER) == "reward_model"

    def test_is_no_reward_model_that_was_never_trained(self):
        config = kit.Config(compare={"judge": "reward_model"}, stages=["sft", "dpo", "compare"])
        with pytest.raises(kit.ConfigError, match="add stage `reward`"):
            judge_of(config, OTHER)


class TestATrainedJudge:
    def test_is_wanted_by_a_comparison_without_the_truth_and_by_nothing_else(self):
        assert trains_judge(kit.Config(), OTHER)
        assert not trains_judge(kit.Config(), DEMO)
        assert not trains_judge(kit.Config(stages=["sft", "dpo"]), OTHER)
        assert not trains_judge(kit.Config(compare={"judge": "my.judges:best"}), OTHER)
