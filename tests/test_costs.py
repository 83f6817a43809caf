"""What a stage cost in tokens, against a count by hand."""

from unittest.mock import patch

import pytest
from toy_stages import Watched, toy_config, toy_encoded

from kit.ppo.trainer import PPOTrainer
from kit.stages import dpo, ppo, reward, sft

MODULES = {"sft": sft, "reward": reward, "dpo": dpo}


def by_hand(stage):
    """Tokens of one pass over the rows: each sequence whole, prompt included."""
    rows = toy_encoded().sft.train if stage == "sft" else toy_encoded().pairs.train
    if stage == "sft":
        return [len(row["input_ids"]) for row in rows]
    return [2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows]


def metrics(stage, out, **settings):
    return Watched(MODULES[stage], f"train_{stage}", toy_config(**{stage: settings}), out).result.metrics


@pytest.mark.parametrize("stage", MODULES)
class TestTrainedTokens:
    @pytest.mark.parametrize("micro", [1, 3])
    def test_are_those_of_every_row_times_the_epochs(self, stage, micro, tmp_path):
        """7 rows in batches of 3: the last batch of an epoch is not full."""
        found = metrics(stage, tmp_path, epochs=3, batch_size=3, micro_batch_size=micro)
        assert (found["trained_tokens"], found["generated_tokens"]) == (3 * sum(by_hand(stage)), 0)

    def test_of_a_long_run_hold_the_steps_after_the_last_log_line(self, stage, tmp_path):
        found = metrics(stage, tmp_path, epochs=15, batch_size=1, trl={"logging_steps": 50})
        assert found["trained_tokens"] == 15 * sum(by_hand(stage))

    def test_end_where_max_steps_ends(self, stage, tmp_path):
        found = metrics(stage, tmp_path, max_steps=1, batch_size=1)
        assert found["trained_tokens"] in by_hand(stage)


class TestPPOsTokens:
    @pytest.mark.parametrize("changes", [
        {}, {"critic": "shared"}, {"critic_warmup_rollouts": 1}, {"critic": "shared", "critic_warmup_rollouts": 1},
    ])  # fmt: skip
    def test_are_counted_as_they_go_through_sampling_and_training(self, changes, tmp_path):
        through, sampled = [], []
        policy, value, sample = PPOTrainer._policy_loss, PPOTrainer._value_loss, PPOTrainer._generate_single_turn
        shared = changes.get("critic") == "shared"

        def of_policy(self, states, inputs):
            if not shared:
                through.append(int(inputs["attention_mask"].sum()))
            return policy(self, states, inputs)

        def of_critic(self, states, inputs):
            through.append(int(inputs["attention_mask"].sum()))
            return value(self, states, inputs)

        def noted(self, *prompts):
            found = sample(self, *prompts)
            sampled.extend(map(len, found))
            return found

        off = ["kl", "negative_kl", "eos", "length", "entropy", "critic"]
        settings = {"episodes": 24, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 2, "guards_off": off}
        with patch.multiple(PPOTrainer, _policy_loss=of_policy, _value_loss=of_critic, _generate_single_turn=noted):
            found = Watched(ppo, "train_ppo", toy_config(ppo=settings | changes), tmp_path / "out").result.metrics
        assert len(sampled) == 24 and through
        assert (found["trained_tokens"], found["generated_tokens"]) == (sum(through), sum(sampled))
