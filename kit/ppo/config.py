"""PPOConfig: TRL 1.12's names on top of TRL 1.16's RLOOConfig."""

from dataclasses import dataclass, field
from typing import Literal

from trl import RLOOConfig

# RLOO's arguments that PPO has no use for, and why: taken silently, they would do nothing or make the sampled text
# come from another distribution than the one whose log-probabilities the ratio and the KL are made of.
_PURE = "PPO samples from the pure softmax, whose log-probabilities ratio and KL are made of"
_REFUSED = {
    "top_k": _PURE, "top_p": _PURE, "min_p": _PURE, "repetition_penalty": _PURE, "generation_kwargs": _PURE,
    "num_generations": "the critic is PPO's baseline, so a prompt needs no group", "num_generations_eval": "see above",
    "normalize_advantages": "use whiten_advantages", "epsilon_high": "use cliprange",
    "mask_truncated_completions": "use missing_eos_penalty", "sync_ref_model": "the reference is the SFT policy",
}  # fmt: skip


@dataclass
class PPOConfig(RLOOConfig):
    """Arguments of `kit.ppo.PPOTrainer`.

    One rollout of `generation_batch_size` prompts is used for `num_ppo_epochs` passes; a pass takes one optimizer
    step for every `per_device_train_batch_size * gradient_accumulation_steps` responses of it.

    Defaults that differ from RLOOConfig: num_generations=1, disable_dropout=True, temperature=1.0.
    Inherited names that PPO sets itself: beta (kl_coef), num_iterations (num_ppo_epochs), epsilon (cliprange).
    Inherited names that PPO refuses: what bends the sampling distribution, and what belongs to groups.
    """

    num_generations: int | None = field(
        default=1, metadata={"help": "Responses sampled per prompt; a group is not needed."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Dropout would make ratio and KL noisy."})
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over each rollout."})
    cliprange: float = field(default=0.2, metadata={"help": "The probability ratio is clipped to 1 +- this."})
    cliprange_value: float = field(default=0.2, metadata={"help": "Clip range of the value, in score units."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    gamma: float = field(default=1.0, metadata={"help": "Discount per token."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of GAE."})
    whiten_advantages: bool = field(default=True, metadata={"help": "Advantages of a rollout to mean 0, variance 1."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale the rewards of a rollout to variance 1."})
    normalize_rewards: bool = field(
        default=False, metadata={"help": "Scores minus their mean, by their deviation, over all rollouts so far."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Subtracted from the score of a response that holds no end-of-turn token."}
    )
    kl_coef: float = field(default=0.05, metadata={"help": "Weight of the per-token KL penalty, score units per nat."})
    kl_estimator: Literal["k1", "k3"] = field(default="k1", metadata={"help": "Estimator of the KL at a token."})
    kl_control: Literal["fixed", "adaptive"] = field(
        default="fixed", metadata={"help": "adaptive: kl_coef follows target_kl from rollout to rollout."}
    )
    target_kl: float = field(default=6.0, metadata={"help": "Sequence KL, in nats, that adaptive control holds."})
    kl_horizon: int = field(default=10_000, metadata={"help": "Episodes over which adaptive control takes effect."})
    critic_learning_rate: float | None = field(default=None, metadata={"help": "None: learning_rate."})
    critic_warmup_rollouts: int = field(default=0, metadata={"help": "Rollouts that train the critic alone."})
    rollout_batch_size: int | None = field(
        default=None, metadata={"help": "Responses generated at once; None: the whole rollout."}
    )
    scoring_batch_size: int | None = field(
        default=None,
        metadata={"help": "Responses scored at once, without gradients; None: per_device_train_batch_size."},
    )
    max_kl: float = field(default=100.0, metadata={"help": "Sequence KL, in nats, above which the guard `kl` acts."})
    guards_off: list[str] = field(default_factory=list, metadata={"help": "Guards that must not act, by name."})

    def __post_init__(self) -> None:
        self.beta, self.num_iterations, self.epsilon = self.kl_coef, self.num_ppo_epochs, self.cliprange
        for name, reason in _REFUSED.items():
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default:
                raise ValueError(f"{name}={getattr(self, name)}: PPO does not take it: {reason}")
        try:
            super().__post_init__()
        except ValueError as error:
            # RLOO's last check: a leave-one-out baseline needs a group. The critic is PPO's baseline; all checks
            # before this one have passed, and tests/test_trl_contract.py holds TRL to that order.
            if "at least 2 generations" not in str(error):
                raise
        if self.generation_batch_size % (self.per_device_train_batch_size * self.gradient_accumulation_steps):
            raise ValueError(
                f"generation_batch_size ({self.generation_batch_size}) must be a multiple of the mini-batch "
                f"({self.per_device_train_batch_size} x {self.gradient_accumulation_steps})"
            )
