"""What the shipped quickstart promises, with its shipped settings, over three seeds. Minutes each: `make test-slow`."""

import pytest

import kit

pytestmark = pytest.mark.slow
CONFIG = "configs/quickstart.yaml"


@pytest.fixture(scope="module", params=[0, 1, 2])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    return kit.run_pipeline(CONFIG, output_dir=str(folder), seed=request.param)


class TestQuickstart:
    def test_the_reward_model_agrees_with_people(self, run):
        assert run.stages["reward"].metrics["accuracy"] >= 0.75

    @pytest.mark.parametrize("arm", ["ppo", "dpo"])
    def test_ppo_and_dpo_raise_the_true_reward_beyond_the_intervals(self, run, arm):
        arms = run.comparison.metrics["arms"]
        assert arms[arm]["true_reward"]["ci95"][0] > arms["sft"]["true_reward"]["ci95"][1]


class TestWithoutTheKLGuard:
    def test_ppo_exploits_the_reward_model_proxy_up_and_truth_behind(self, run):
        """The same run with kl_coef 0 and more episodes, beside the guarded one."""
        guarded = run.comparison.metrics["arms"]["ppo"]
        loose = kit.run_pipeline(run.path / "config.yaml", ["ppo.kl_coef=0", "ppo.episodes=1920"])
        hacked = loose.comparison.metrics["arms"]["ppo"]
        assert hacked["proxy_reward"]["mean"] > guarded["proxy_reward"]["mean"]
        assert hacked["true_reward"]["mean"] < guarded["true_reward"]["mean"]
