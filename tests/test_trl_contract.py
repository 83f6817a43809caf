"""What PPO takes from TRL, and from transformers and PEFT under it: the methods it overrides or calls.

Raising TRL's bound is a run of this file.
"""

import inspect

import pytest
from peft.tuners.lora import Linear as LoraLinear
from transformers import GenerationMixin, Trainer
from transformers.cache_utils import DynamicCache
from trl import (
    DPOTrainer,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import reward_trainer, sft_trainer

from kit.ppo.config import PPOConfig

OVERRIDDEN = {
    "_prepare_inputs": ["self", "generation_batch"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields"],
    "_get_train_sampler": ["self", "dataset"],
    "_compute_loss": ["self", "model", "inputs"],
    "log": ["self", "logs", "start_time"],
    "_save": ["self", "output_dir", "state_dict"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_save_checkpoint": ["self", "model", "trial"],
    "create_optimizer": ["self", "model"],
    "_clip_grad_norm": ["self", "model"],
    "_get_grad_norm": ["self", "model", "grad_norm"],
}
CALLED = {
    "_generate": ["self", "prompts"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
}


class TestRLOOTrainer:
    @pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
    def test_has_the_method_with_the_arguments_ppo_relies_on(self, name):
        wanted = (OVERRIDDEN | CALLED)[name]
        assert list(inspect.signature(getattr(RLOOTrainer, name)).parameters) == wanted

    def test_generation_hands_back_prompt_ids_completion_ids_and_completions(self):
        assert "return prompt_ids, completion_ids, completions" in inspect.getsource(RLOOTrainer._generate)

    def test_copies_adapter_default_to_a_frozen_ref(self):
        assert 'model.add_adapter("ref", default_config)' in inspect.getsource(RLOOTrainer.__init__)

    def test_compute_loss_leads_to_the_method_ppo_overrides(self):
        assert "return self._compute_loss(model, inputs)" in inspect.getsource(RLOOTrainer.compute_loss)


class TestWhatCheckpointsStandOn:
    """`kit.models.resumable` writes with these methods of transformers, and carries these attributes over."""

    @pytest.mark.parametrize("name", ["_save_optimizer_and_scheduler", "_save_scaler", "_save_rng_state"])
    def test_each_writes_into_the_folder_it_is_given(self, name):
        assert list(inspect.signature(getattr(Trainer, name)).parameters) == ["self", "output_dir"]

    def test_the_counts_are_set_to_nothing_before_the_training_begins(self):
        source = inspect.getsource(Trainer._inner_training_loop)
        begins = source.index("on_train_begin")
        for name in ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged"):
            assert source.index(f"self.{name} = ") < begins

    @pytest.mark.parametrize("trainer", [SFTTrainer, RewardTrainer, DPOTrainer, RLOOTrainer, GRPOTrainer])
    def test_trl_counts_in_two_attributes(self, trainer):
        source = inspect.getsource(trainer.__init__)
        assert 'self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}' in source
        assert "self._total_train_tokens = 0" in source

    def test_the_random_states_are_loaded_at_the_first_step_after_a_resumption(self):
        assert inspect.getsource(Trainer._run_epoch).count("self._load_rng_state(resume_from_checkpoint)") == 2

    def test_resume_files_are_read_without_unpickling(self):
        for method in (Trainer._load_optimizer_and_scheduler, Trainer._load_rng_state, Trainer._load_scaler):
            source = inspect.getsource(method)
            assert source.count("torch.load(") == source.count("weights_only=True") > 0


class TestRLOOConfig:
    def test_refuses_one_generation_as_its_very_last_check(self):
        source = inspect.getsource(RLOOConfig.__post_init__)
        last = source[source.rindex("if self.num_generations < 2") :]
        assert "at least 2 generations" in last and last.count("raise ") == 1

    def test_ppo_passes_that_check_and_keeps_the_others(self, tmp_path):
        fine = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "per_device_train_batch_size": 4}
        assert PPOConfig(**fine, generation_batch_size=8).steps_per_generation == 2
        with pytest.raises(ValueError, match="divisible"):
            PPOConfig(**fine, generation_batch_size=6)

    def test_ppo_maps_its_names_to_rloos(self, tmp_path):
        args = PPOConfig(str(tmp_path), use_cpu=True, bf16=False, kl_coef=0.3, num_ppo_epochs=7, cliprange=0.11)
        assert (args.beta, args.num_iterations, args.epsilon) == (0.3, 7, 0.11)


class TestTokenIds:
    def test_sft_takes_rows_that_are_ids_already(self):
        assert 'is_processed = "input_ids" in column_names' in inspect.getsource(
            sft_trainer.SFTTrainer._prepare_dataset
        )

    def test_reward_takes_rows_that_are_ids_already(self):
        source = inspect.getsource(reward_trainer.RewardTrainer._prepare_dataset)
        assert '"chosen_ids" in column_names and "rejected_ids" in column_names' in source

    def test_dpo_prepares_its_rows_in_the_method_the_kit_overrides(self):
        assert list(inspect.signature(DPOTrainer._prepare_dataset).parameters)[:2] == ["self", "dataset"]

    def test_lengths_can_be_left_to_the_kit(self):
        assert {"max_length"} <= set(SFTConfig.__dataclass_fields__) & set(RewardConfig.__dataclass_fields__)


class TestDecodingLoop:
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("_prefill", ["input_ids", "generation_config", "model_kwargs"]),
            ("_update_model_kwargs_for_generation", ["outputs", "model_kwargs"]),
            ("prepare_inputs_for_generation", ["input_ids", "next_sequence_length"]),
        ],
    )
    def test_transformers_has_the_steps_it_is_made_of(self, name, arguments):
        parameters = list(inspect.signature(getattr(GenerationMixin, name)).parameters)
        assert parameters[1 : 1 + len(arguments)] == arguments

    def test_generate_takes_a_loop_of_ones_own(self):
        assert "custom_generate" in inspect.signature(GenerationMixin.generate).parameters
        assert "new_custom_keys" in inspect.getsource(GenerationMixin._extract_generation_mode_kwargs)

    def test_rows_can_be_taken_out_of_the_cache(self):
        assert list(inspect.signature(DynamicCache.batch_select_indices).parameters) == ["self", "indices"]


class TestMerging:
    def test_a_layer_that_lists_an_adapter_as_merged_runs_its_base_alone(self):
        source = inspect.getsource(LoraLinear.forward)
        assert "elif self.merged:\n            result = self.base_layer(x, *args, **kwargs)" in source
        assert list(inspect.signature(LoraLinear.get_delta_weight).parameters) == ["self", "adapter"]


class TestHead:
    def test_trls_kernel_takes_the_arguments_that_triton_devices_give_it(self):
        wanted = ["hidden", "weight", "bias", "targets", "temperature", "chunk_size", "final_logit_softcapping",
                  "logit_scale", "outputs"]  # fmt: skip
        assert list(inspect.signature(ChunkedLogProbFunction.forward).parameters)[1:] == wanted
