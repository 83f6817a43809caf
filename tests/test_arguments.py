"""The kit's settings as arguments of TRL's configs: none is lost, none is passed twice, batch sizes hold."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.config import Config
from kit.errors import ConfigError
from kit.models.device import Precision
from kit.models.plan.card import GIB
from kit.models.plan.choice import Choice, choose
from kit.models.plan.memory import Arithmetic
from kit.models.plan.planner import base_shape
from kit.models.plan.stages import Sizes
from kit.stages import arguments as unit
from kit.stages.arguments import TRAINING_STAGES, build_arguments, config_class, trl_problems

CPU = Precision(torch.device("cpu"), torch.float32, nf4=False)
STAGES = pytest.mark.parametrize("stage", TRAINING_STAGES)
ONLINE = pytest.mark.parametrize("stage", ["rloo", "grpo"])


def build(tmp_path, stage: str, longest: int = 10, rows: int = 100, precision: Precision = CPU, gib=24, **sections):
    config = Config(**sections)
    machine = Arithmetic(4, False, True, cuda=False, context=False)
    choice = choose(config, base_shape(config.model), stage, int(gib * GIB), machine, longest)
    return build_arguments(config, stage, precision, tmp_path, choice, rows)


class TestBatchSizes:
    @STAGES
    @given(micro=st.sampled_from([1, 2, 3, 4, 6, 12, "auto"]), longest=st.integers(1, 5000))
    @settings(max_examples=15)
    def test_an_optimizer_step_sees_batch_size_whatever_the_micro_batch_size(
        self, tmp_path_factory, stage, micro, longest
    ):
        place = tmp_path_factory.getbasetemp()
        args = build(place, stage, longest, **{stage: {"batch_size": 12, "micro_batch_size": micro}})
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 12

    @STAGES
    def test_what_the_plan_chose_reaches_trl(self, tmp_path, stage):
        config = Config(**{stage: {"batch_size": 12, "micro_batch_size": 3}})
        for checkpointing in (True, False):
            how = Arithmetic(2, True, checkpointing)
            args = build_arguments(config, stage, CPU, tmp_path, Choice(Sizes(3, 5, 2), how), 100)
            assert (args.per_device_train_batch_size, args.gradient_checkpointing) == (3, checkpointing)
        if stage == "ppo":
            assert (args.rollout_batch_size, args.scoring_batch_size) == (5, 2)

    @STAGES
    def test_lean_takes_moments_in_8_bits_unless_the_config_has_its_own_optimizer(self, tmp_path, stage):
        assert build(tmp_path, stage, memory="lean").optim == "paged_adamw_8bit"
        assert (
            build(tmp_path, stage, memory="balanced").optim == config_class(stage).__dataclass_fields__["optim"].default
        )
        assert build(tmp_path, stage, memory="lean", **{stage: {"trl": {"optim": "sgd"}}}).optim == "sgd"


class TestSettingsReachTrl:
    @STAGES
    def test_those_that_all_stages_share(self, tmp_path, stage):
        sections = {"name": "mine", "seed": 7, stage: {"learning_rate": 0.01}}
        args = build(tmp_path, stage, **sections)
        assert (args.run_name, args.seed, args.learning_rate, args.output_dir) == (
            f"mine-{stage}", 7, 0.01, str(tmp_path),
        )  # fmt: skip

    @pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
    def test_epochs_and_max_steps(self, tmp_path, stage):
        args = build(tmp_path, stage, **{stage: {"epochs": 2.5, "max_steps": 9}})
        assert (args.num_train_epochs, args.max_steps) == (2.5, 9)

    @pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
    def test_without_max_steps_the_epochs_count(self, tmp_path, stage):
        assert build(tmp_path, stage).max_steps == -1

    @pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
    def test_trl_cuts_nothing_as_the_kit_has_cut_before(self, tmp_path, stage):
        assert build(tmp_path, stage).max_length is None

    def test_the_reward_models_centering(self, tmp_path):
        assert build(tmp_path, "reward", reward={"center_rewards_coefficient": 0.5}).center_rewards_coefficient == 0.5

    def test_dpos_beta(self, tmp_path):
        assert build(tmp_path, "dpo", dpo={"beta": 0.5}).beta == 0.5

    @pytest.mark.parametrize(
        "name, value",
        [
            ("kl_coef", 0.5), ("num_ppo_epochs", 3), ("cliprange", 0.3), ("cliprange_value", 0.4), ("vf_coef", 0.7),
            ("gamma", 0.9), ("lam", 0.8), ("temperature", 0.6), ("missing_eos_penalty", 2.0), ("whiten_rewards", True),
            ("missing_eos_penalty", None), ("rollout_batch_size", 4),
        ],
    )  # fmt: skip
    def test_ppos_own(self, tmp_path, name, value):
        assert getattr(build(tmp_path, "ppo", ppo={name: value}), name) == value

    def test_every_setting_of_ppo_is_passed_on_or_used(self, tmp_path):
        """A setting that is read nowhere would be a promise that is not kept."""
        used = {
            "batch_size", "micro_batch_size", "episodes", "num_mini_batches", "trl", "critic", "reward_funcs",
            "snapshots", "force",
        }  # fmt: skip
        known = {field.name for field in fields(config_class("ppo"))}
        assert set(type(Config().ppo).model_fields) - used <= known

    @ONLINE
    @pytest.mark.parametrize("name, value", [("num_generations", 2), ("num_iterations", 3), ("temperature", 0.6)])
    def test_rloos_and_grpos_own(self, tmp_path, stage, name, value):
        assert getattr(build(tmp_path, stage, **{stage: {name: value}}), name) == value

    @ONLINE
    def test_the_kl_penalty_of_rloo_and_grpo(self, tmp_path, stage):
        assert build(tmp_path, stage, **{stage: {"kl_coef": 0.3}}).beta == 0.3

    @ONLINE
    def test_every_setting_of_rloo_and_grpo_is_passed_on_or_used(self, tmp_path, stage):
        used = {
            "batch_size", "micro_batch_size", "rollout_batch_size", "episodes", "trl", "kl_coef", "missing_eos_penalty",
            "snapshots",
        }  # fmt: skip
        known = {field.name for field in fields(config_class(stage))}
        assert set(type(getattr(Config(), stage)).model_fields) - used <= known

    def test_trackers(self, tmp_path):
        assert build(tmp_path, "sft", report_to=["tensorboard"]).report_to == ["tensorboard"]

    @STAGES
    def test_no_tracker_by_default(self, tmp_path, stage):
        assert build(tmp_path, stage).report_to == []

    @STAGES
    def test_a_nan_loss_is_shown_and_not_hidden(self, tmp_path, stage):
        assert build(tmp_path, stage).logging_nan_inf_filter is False


class TestRollouts:
    def test_one_is_batch_size_times_mini_batches(self, tmp_path):
        args = build(tmp_path, "ppo", ppo={"batch_size": 8, "num_mini_batches": 3})
        assert args.generation_batch_size == 24

    @given(episodes=st.integers(1, 500), batch=st.integers(1, 16), mini=st.integers(1, 4), epochs=st.integers(1, 4))
    @settings(max_examples=20)
    def test_are_as_many_as_the_episodes_need(self, tmp_path_factory, episodes, batch, mini, epochs):
        ppo = {"episodes": episodes, "batch_size": batch, "num_mini_batches": mini, "num_ppo_epochs": epochs}
        args = build(tmp_path_factory.getbasetemp(), "ppo", ppo=ppo)
        rollouts = args.max_steps / (epochs * mini)
        assert rollouts == int(rollouts) and (rollouts - 1) * batch * mini < episodes <= rollouts * batch * mini

    def test_each_is_logged_once(self, tmp_path):
        args = build(tmp_path, "ppo", ppo={"num_mini_batches": 3, "num_ppo_epochs": 2})
        assert args.logging_steps == 6

    def test_sample_at_most_max_response_tokens(self, tmp_path):
        assert build(tmp_path, "ppo", data={"max_response_tokens": 33}).max_completion_length == 33

    def test_need_no_group_of_responses_as_the_critic_is_the_baseline(self, tmp_path):
        assert build(tmp_path, "ppo").num_generations == 1


@ONLINE
class TestGroupRollouts:
    @given(episodes=st.integers(1, 500), groups=st.integers(1, 8), iterations=st.integers(1, 4))
    @settings(max_examples=20)
    def test_are_one_batch_each_and_as_many_as_the_episodes_need(
        self, tmp_path_factory, stage, episodes, groups, iterations
    ):
        section = {"episodes": episodes, "batch_size": 4 * groups, "num_iterations": iterations}
        args = build(tmp_path_factory.getbasetemp(), stage, **{stage: section})
        rollouts, size = args.max_steps / iterations, args.generation_batch_size
        assert (size, args.steps_per_generation) == (4 * groups, args.gradient_accumulation_steps)
        assert rollouts == int(rollouts) and (rollouts - 1) * size < episodes <= rollouts * size

    def test_are_each_logged_once_and_the_first_before_any_update(self, tmp_path, stage):
        args = build(tmp_path, stage, **{stage: {"num_iterations": 3}})
        assert (args.logging_steps, args.logging_first_step) == (3, True)

    def test_sample_the_pure_softmax_up_to_max_response_tokens(self, tmp_path, stage):
        args = build(tmp_path, stage, data={"max_response_tokens": 33})
        assert args.max_completion_length == 33
        assert (args.temperature, args.top_p, args.top_k, args.min_p, args.repetition_penalty) == (1, 1, 0, None, 1)
        assert args.generation_kwargs is None

    def test_have_no_dropout(self, tmp_path, stage):
        assert build(tmp_path, stage).disable_dropout


class TestPrecision:
    def test_on_a_cpu_nothing_is_cast(self, tmp_path):
        args = build(tmp_path, "sft")
        assert (args.use_cpu, args.bf16, args.fp16, args.gradient_checkpointing) == (True, False, False, False)

    @pytest.mark.parametrize("dtype, flags", [(torch.bfloat16, (True, False)), (torch.float16, (False, True))])
    def test_on_a_gpu_the_dtype_is_the_trainers(self, dtype, flags):
        on_gpu = Precision(torch.device("cuda"), dtype, nf4=True).trainer_flags
        assert (on_gpu["bf16"], on_gpu["fp16"], on_gpu["use_cpu"]) == (*flags, False)


class TestPassedThrough:
    @STAGES
    def test_a_field_of_trl_reaches_it(self, tmp_path, stage):
        assert build(tmp_path, stage, **{stage: {"trl": {"weight_decay": 0.123}}}).weight_decay == 0.123

    def test_it_wins_over_the_kits_own_choice(self, tmp_path):
        assert build(tmp_path, "sft", sft={"trl": {"logging_steps": 3}}).logging_steps == 3

    @pytest.mark.parametrize("name, value", [("lr_scheduler_type", "cosin"), ("optim", "adamx")])
    def test_a_value_that_trl_refuses_is_a_problem_of_that_stages_trl(self, tmp_path, name, value):
        with pytest.raises(ConfigError, match=rf"dpo\.trl: TRL refuses these arguments: .*{value}"):
            build(tmp_path, "dpo", dpo={"trl": {name: value}})


class TestTrlProblems:
    def test_are_none_where_there_is_no_trl_mapping(self):
        assert trl_problems({"sft": {"epochs": 1}, "name": "x", "ppo": None}) == []

    def test_of_a_mapping_that_is_none_are_left_to_the_config(self):
        assert trl_problems({"sft": {"trl": [1]}}) == []

    @pytest.mark.parametrize(
        "name",
        [
            "logging_nan_inf_filter", "logging_first_step", "logging_strategy", "eos_token", "chat_template_path",
            "packing", "padding_free", "assistant_only_loss", "completion_only_loss", "pad_token",
        ],
    )  # fmt: skip
    def test_are_what_would_change_or_hide_in_silence_what_is_learnt(self, name):
        ((path, text),) = trl_problems({"sft": {"trl": {name: True}}})
        assert path == ("sft", "trl", name) and text.startswith("is set by the kit; use ")

    @ONLINE
    def test_are_template_arguments_that_sft_did_not_have(self, stage):
        assert trl_problems({stage: {"trl": {"chat_template_kwargs": {"enable_thinking": False}}}})

    def test_are_found_in_every_stage(self):
        found = trl_problems({stage: {"trl": {"zzz": 1}} for stage in TRAINING_STAGES})
        assert [path for path, _ in found] == [(stage, "trl", "zzz") for stage in TRAINING_STAGES]

    def test_a_near_name_is_never_one_the_kit_owns(self):
        ((_, text),) = trl_problems({"sft": {"trl": {"max_lenght": 1}}})
        assert "max_length" not in text

    def test_what_the_kit_owns_is_a_field_of_some_trl_config(self):
        """A name that TRL has renamed would let the new one through."""
        known = {field.name for stage in TRAINING_STAGES for field in fields(config_class(stage))}
        assert set(unit._OWNED) <= known

    @pytest.mark.parametrize("stage, owned", unit._OWNED_BY.items())
    def test_what_the_kit_owns_of_a_stage_is_a_field_of_its_config(self, stage, owned):
        assert set(owned) <= {field.name for field in fields(config_class(stage))}

    @ONLINE
    def test_what_grpo_and_rloo_clip_to_is_left_to_trl(self, stage):
        assert trl_problems({stage: {"trl": {"epsilon": 0.1}}}) == []

    @pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
    def test_what_the_kit_owns_names_settings_that_exist(self, stage):
        named = [text.format(stage=stage) for text in unit._OWNED.values()]
        settings_named = [text.split(".") for text in named if "." in text and " " not in text]
        assert settings_named
        for section, name in settings_named:
            assert name in type(getattr(Config(), section)).model_fields
