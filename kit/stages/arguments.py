"""The kit's settings as arguments of TRL's configs; what a user passes through is checked against their fields."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from kit.config import Config, EpochSettings, OnlineSettings, PPOSettings, Stage, TrainerSettings
from kit.config_file import Problem, did_you_mean
from kit.errors import ConfigError
from kit.models.device import Precision
from kit.models.plan.choice import Choice, optimizer
from kit.models.plan.stages import Sizes
from kit.runs.checkpoints import KEPT

TRAINING_STAGES: tuple[Stage, ...] = ("sft", "reward", "ppo", "rloo", "grpo", "dpo")
_LOGS_PER_STAGE = 50
_CHECKPOINTS = 20  # of a stage, at most one a step or rollout

_BASES_OWN = "the base's tokenizer and chat template as they are: all stages read the same ids"
_RESPONSE_ALONE = "nothing: the loss is on the response alone"
_CHECKPOINTED = "nothing: a checkpoint is written every twentieth of a stage, every ten minutes, and when it is stopped"
_NO_PACKING = "nothing: without FlashAttention, rows that are packed together would read each other"

# TRL's names for what the kit's settings say already, by stage setting; passing one of them twice would be ambiguous.
_OWNED = {
    "output_dir": "output_dir and name",
    "run_name": "name",
    "seed": "seed",
    "report_to": "report_to",
    "per_device_train_batch_size": "{stage}.micro_batch_size",
    "gradient_accumulation_steps": "{stage}.batch_size",
    "learning_rate": "{stage}.learning_rate",
    "num_train_epochs": "{stage}.epochs",
    "max_steps": "{stage}.max_steps",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "use_cpu": "model.dtype",
    "max_length": "data.max_prompt_tokens",
    "max_completion_length": "data.max_response_tokens",
    "model_init_kwargs": "model",
    "hub_token": "the environment variable HF_TOKEN",
    "push_to_hub": "`hf upload` after the run",
    "trust_remote_code": "a model that needs no code of its own",
    "resume_from_checkpoint": "nothing: run again",
    # What resumption stands on: whole checkpoints, of everything, at steps where it is exact.
    "save_strategy": _CHECKPOINTED,
    "save_steps": _CHECKPOINTED,
    "save_total_limit": "nothing: the two newest checkpoints are kept until the stage is done",
    "save_only_model": _CHECKPOINTED,
    "load_best_model_at_end": "nothing: compare.checkpoint=best picks among a stage's snapshots",
    "ignore_data_skip": _CHECKPOINTED,
    "auto_find_batch_size": "nothing: out of memory, a step is done again in halves",
    "restore_callback_states_from_checkpoint": _CHECKPOINTED,
    "enable_jit_checkpoint": "nothing: SIGTERM saves a checkpoint",
    # What would change, without a word, what is learnt, or hide that it went wrong.
    "logging_nan_inf_filter": "nothing: a loss that is no number has to show",
    "logging_first_step": "nothing: the first step is looked at",
    "logging_strategy": "trl: {{logging_steps: …}} for more or fewer lines",
    "eos_token": _BASES_OWN,
    "pad_token": _BASES_OWN,
    "chat_template_path": _BASES_OWN,
    "chat_template_kwargs": _BASES_OWN,
    "assistant_only_loss": _RESPONSE_ALONE,
    "completion_only_loss": _RESPONSE_ALONE,
    "packing": _NO_PACKING,
    "padding_free": _NO_PACKING,
}
# The same for PPO alone, which is measured in episodes and rollouts.
_OWNED_BY_PPO = {
    "num_iterations": "ppo.num_ppo_epochs", "epsilon": "ppo.cliprange",
    "beta": "ppo.kl_coef", "num_train_epochs": "ppo.episodes", "max_steps": "ppo.episodes",
    "generation_batch_size": "ppo.num_mini_batches", "steps_per_generation": "ppo.num_mini_batches",
    "num_generations": "ppo.episodes: a prompt comes again in another rollout", "reward_weights": "ppo.reward_funcs",
    "logging_steps": "nothing: there is a line a rollout",
}  # fmt: skip
# And for RLOO and GRPO, which sample as PPO does and have its reference.
_PURE = "{stage}.temperature alone: the pure softmax, as PPO"
_OWNED_BY_ONLINE = {
    "beta": "{stage}.kl_coef", "num_train_epochs": "{stage}.episodes", "max_steps": "{stage}.episodes",
    "generation_batch_size": "{stage}.batch_size", "steps_per_generation": "{stage}.batch_size",
    "reward_weights": "the reward model's score, as it is", "sync_ref_model": "the SFT policy as reference",
    "top_k": _PURE, "top_p": _PURE, "min_p": _PURE, "repetition_penalty": _PURE, "generation_kwargs": _PURE,
}  # fmt: skip
_OWNED_BY = {"ppo": _OWNED_BY_PPO, "rloo": _OWNED_BY_ONLINE, "grpo": _OWNED_BY_ONLINE}


def config_class(stage: str) -> type:
    """The TRL config a stage fills."""
    import trl

    from kit.ppo.config import PPOConfig

    return {
        "sft": trl.SFTConfig, "reward": trl.RewardConfig, "dpo": trl.DPOConfig, "ppo": PPOConfig,
        "rloo": trl.RLOOConfig, "grpo": trl.GRPOConfig,
    }[stage]  # fmt: skip


def trl_problems(raw: Mapping) -> list[Problem]:
    """What is wrong with the `trl:` mappings of a raw configuration; TRL is imported only where there is one."""
    problems: list[Problem] = []
    for stage in TRAINING_STAGES:
        section = raw.get(stage)
        given = section.get("trl") if isinstance(section, Mapping) else None
        if not given or not isinstance(given, Mapping):
            continue
        known = {field.name for field in fields(config_class(stage)) if field.init}
        owned = _OWNED | _OWNED_BY.get(stage, {})
        own = set(type(Config().__getattribute__(stage)).model_fields) - {"trl"}
        for name in given:
            path = (stage, "trl", name)
            if name in own:
                problems.append((path, f"is a setting of the kit; write {stage}.{name}"))
            elif name in owned:
                problems.append((path, f"is set by the kit; use {owned[name].format(stage=stage)}"))
            elif name not in known:
                near = did_you_mean(str(name), known - set(owned))
                hint = near if near.startswith(",") else ""
                problems.append((path, f"no field of TRL's {config_class(stage).__name__}{hint}"))
    return problems


def build_arguments(config: Config, stage: Stage, precision: Precision, out: Path, choice: Choice, rows: int) -> Any:
    """The stage's TRL config. `choice` says what is in memory at once, `rows` has the training data.

    Raises ConfigError where TRL refuses a value.
    """
    settings: TrainerSettings = getattr(config, stage)
    micro = choice.sizes.micro
    arguments = {
        "output_dir": str(out), "run_name": f"{config.name}-{stage}", "seed": config.seed,
        "report_to": config.report_to, "per_device_train_batch_size": micro, "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // micro, "learning_rate": settings.learning_rate,
        "save_strategy": "steps", "save_total_limit": KEPT, "disable_tqdm": True, "logging_nan_inf_filter": False,
        "logging_first_step": True,
        "gradient_checkpointing": choice.how.checkpointing,
        "dataloader_pin_memory": precision.device.type == "cuda",
        **precision.trainer_flags,
    }  # fmt: skip
    if isinstance(settings, PPOSettings):
        arguments |= _ppo_arguments(settings, config, choice.sizes)
    elif isinstance(settings, OnlineSettings):
        arguments |= _online_arguments(settings, config)
    elif isinstance(settings, EpochSettings):
        steps = settings.max_steps or max(1, round(settings.epochs * -(-rows // settings.batch_size)))
        arguments |= {
            "num_train_epochs": settings.epochs,
            "max_steps": settings.max_steps or -1,
            "logging_steps": max(1, steps // _LOGS_PER_STAGE),
            "save_steps": max(1, steps // _CHECKPOINTS),
            "max_length": None,  # lengths are the kit's business: data.max_*_tokens, counted and said
        }
    if (optim := optimizer(config, stage)) is not None:
        arguments["optim"] = optim
    if stage == "reward":
        arguments["center_rewards_coefficient"] = config.reward.center_rewards_coefficient
    if stage == "dpo":
        arguments["beta"] = config.dpo.beta
    try:
        built = config_class(stage)(**{**arguments, **settings.trl})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{stage}.trl: TRL refuses these arguments: {error}") from None
    built._n_gpu = min(built.n_gpu, 1)  # Trainer would put the model into DataParallel, which TRL refuses
    return built


def _ppo_arguments(ppo: PPOSettings, config: Config, sizes: Sizes) -> dict[str, Any]:
    rollouts = -(-ppo.episodes // ppo.rollout_size)
    steps_per_rollout = ppo.num_ppo_epochs * ppo.num_mini_batches
    shared = (
        "kl_coef", "kl_estimator", "kl_control", "target_kl", "kl_horizon", "num_ppo_epochs", "cliprange",
        "cliprange_value", "vf_coef", "gamma", "lam", "temperature", "missing_eos_penalty", "normalize_rewards",
        "reward_clip_range", "whiten_rewards", "whiten_advantages", "critic_learning_rate", "critic_warmup_rollouts",
        "max_kl", "guards_off",
    )  # fmt: skip
    return {name: getattr(ppo, name) for name in shared} | {
        "generation_batch_size": ppo.rollout_size,
        "reward_weights": list(ppo.reward_funcs.values()),
        "rollout_batch_size": sizes.rollout,
        "scoring_batch_size": sizes.scoring,
        "max_completion_length": config.data.max_response_tokens,
        "max_steps": rollouts * steps_per_rollout,
        "save_steps": steps_per_rollout * max(1, round(rollouts / _CHECKPOINTS)),
        "logging_steps": steps_per_rollout,
        "logging_first_step": False,
    }


def _online_arguments(online: OnlineSettings, config: Config) -> dict[str, Any]:
    shared = ("num_generations", "num_iterations", "temperature")
    rollouts = -(-online.episodes // online.batch_size)
    return {name: getattr(online, name) for name in shared} | {
        "beta": online.kl_coef,
        "max_completion_length": config.data.max_response_tokens,
        "max_steps": rollouts * online.num_iterations,
        "save_steps": online.num_iterations * max(1, round(rollouts / _CHECKPOINTS)),
        "logging_steps": online.num_iterations,  # a line a rollout
        "disable_dropout": True,  # TRL's default leaves it on, which would make ratio and KL noisy
    }
