"""Who judges a comparison, decided by the prompts and not by the name of their source."""

import pytest

import kit
from kit.compare.stage import judge_of
from kit.data import Prompt
from kit.demo import world


def asked(*texts):
    return [Prompt([{"role": "user", "content": text}], "here:1") for text in texts]


DEMO = asked(*world.prompts(0)[:3])
OTHER = asked("What is the capital of France?")


class TestJudge:
    def test_is_the_truth_where_every_prompt_is_of_the_demo_world(self):
        assert judge_of(kit.Config(), DEMO) == "truth"

    def test_is_the_reward_model_where_one_prompt_is_not_though_the_pairs_are_the_demos(self):
        assert judge_of(kit.Config(data={"preferences": "demo"}), DEMO + OTHER) == "reward_model"

    def test_is_the_reward_model_where_that_is_asked(self):
        assert judge_of(kit.Config(compare={"judge": "reward_model"}), DEMO) == "reward_model"

    def test_is_not_the_truth_where_none_is_known(self):
        with pytest.raises(kit.ConfigError, match="demo world only"):
            judge_of(kit.Config(compare={"judge": "truth"}), OTHER)

    @pytest.mark.parametrize(("judge", "prompts"), [("auto", OTHER), ("reward_model", DEMO)])
    def test_is_no_reward_model_that_was_never_trained(self, judge, prompts):
        with pytest.raises(kit.ConfigError, match="add stage `reward`"):
            judge_of(kit.Config(compare={"judge": judge}, stages=["sft", "dpo", "compare"]), prompts)
