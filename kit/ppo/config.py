"""PPOConfig: TRL 1.12's names on top of TRL 1.16's RLOOConfig."""

from dataclasses import dataclass, field

from trl import RLOOConfig


@dataclass
class PPOConfig(RLOOConfig):
    """Arguments of `kit.ppo.PPOTrainer`.

    One rollout of `generation_batch_size` prompts is used for `num_ppo_epochs` passes; a pass takes one optimizer
    step for every `per_device_train_batch_size * gradient_accumulation_steps` responses of it.

    Defaults that differ from RLOOConfig: num_generations=1, disable_dropout=True, temperature=1.0.
    Inherited names that PPO sets itself: beta (kl_coef), num_iterations (num_ppo_epochs), epsilon (cliprange).
    """

    num_generations: int | None = field(
        default=1, metadata={"help": "Responses sampled per prompt; a group is not needed."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Dropout would make ratio and KL noisy."})
    kl_coef: float = field(default=0.05, metadata={"help": "Weight of the per-token KL penalty, score units per nat."})
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over each rollout."})
    cliprange: float = field(default=0.2, metadata={"help": "The probability ratio is clipped to 1 +- this."})
    cliprange_value: float = field(default=0.2, metadata={"help": "Clip range of the value, in score units."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    gamma: float = field(default=1.0, metadata={"help": "Discount per token."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of GAE."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale the rewards of a rollout to variance 1."})
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Subtracted from the score of a response that holds no end-of-turn token."}
    )
    rollout_micro_batch_size: int | None = field(
        default=None, metadata={"help": "Responses generated at once; None: the whole rollout."}
    )

    def __post_init__(self) -> None:
        self.beta, self.num_iterations, self.epsilon = self.kl_coef, self.num_ppo_epochs, self.cliprange
        try:
            super().__post_init__()
        except ValueError as error:
            # RLOO's last check: a leave-one-out baseline needs a group. The critic is PPO's baseline; all checks
            # before this one have passed, and tests/test_ppo_trainer.py holds TRL to that order.
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise
        if self.generation_batch_size % (self.per_device_train_batch_size * self.gradient_accumulation_steps):
            raise ValueError(
                f"generation_batch_size ({self.generation_batch_size}) must be a multiple of the mini-batch "
                f"({self.per_device_train_batch_size} x {self.gradient_accumulation_steps})"
            )
