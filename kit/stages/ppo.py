"""PPO: the SFT policy learns from the reward model's score of its own answers, held near the SFT policy by a KL."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from kit.config import Config, PPOSettings
from kit.errors import TrainingStopped
from kit.models.adapters import save_adapter, set_policy_weights
from kit.models.base import Base
from kit.models.encoding import Encoded
from kit.models.id_rows import Rows
from kit.models.roles import policy_roles
from kit.ppo.trainer import PPOTrainer
from kit.runs.checkpoints import Checkpoints
from kit.runs.files import publish_folder
from kit.stages.arguments import build_arguments
from kit.stages.card import adapter_card
from kit.stages.checks import require_all_rows, require_same_prompts, warn_unless_learnt
from kit.stages.progress import train_with_progress
from kit.stages.result import StageResult
from kit.stages.reward_funcs import reward_funcs
from kit.stages.rows import dataset_of
from kit.stages.sizes import choose_sizes
from kit.stages.smoke import smoke_test
from kit.stages.snapshots import SnapshotCallback


class FirstRolloutCheck(TrainerCallback):
    """Stops when the first rollout's KL is not 0: then the reference is not the policy PPO starts from."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        """Look at the first log line, whose KL was measured before any update."""
        kl = (logs or {}).get("objective/kl")
        if state.global_step == args.logging_steps and kl is not None and not abs(kl) < 1e-2:
            raise TrainingStopped(
                f"PPO stopped: the first rollout's KL is {kl:.4f} nats, not 0, so the reference is not the SFT policy. "
                "This is a fault of the hand-over; please report it with the run's config.yaml"
            )


def train_ppo(
    config: Config, data: Encoded, base: Base, out: Path, sft: Path, reward: Path, checkpoints: Checkpoints
) -> StageResult:
    """Train a copy of the SFT adapter with PPO on the reward adapter's score; write the policy to `out`.

    Goes on from the newest whole checkpoint in `checkpoints`. Prompts are repeated where one rollout takes more than
    there are. Raises TrainingStopped where a guard stops it; the best policy so far then lies in `ppo-stopped`.
    """
    prompts = data.prompts.train
    copies = -(-config.ppo.rollout_size // len(prompts))
    longest = max(len(prompt.ids) for prompt in prompts) + config.data.max_response_tokens
    choice = choose_sizes(config, "ppo", base, longest, checkpoints)
    steps = config.ppo.num_ppo_epochs * config.ppo.num_mini_batches
    snapshots = SnapshotCallback(checkpoints.path, config.ppo.snapshots, steps)
    every = np.tile(np.arange(len(prompts)), copies)[:, None]
    rows = Rows(lambda number: {"prompt": prompts[number].messages}, every)
    trainer = PPOTrainer(
        roles=policy_roles(base.causal_lm(), sft, reward, critic=config.ppo.critic),
        args=build_arguments(config, "ppo", base.precision, checkpoints.path, choice, len(prompts)),
        train_dataset=dataset_of(rows),
        processing_class=base.tokenizer,
        reward_funcs=reward_funcs(config.ppo),
        callbacks=[FirstRolloutCheck(), snapshots],
    )
    require_all_rows(trainer, "ppo", rows)
    require_same_prompts(trainer, "ppo", prompts)
    try:
        log = train_with_progress(trainer, "ppo", checkpoints).rows
    except TrainingStopped as stopped:
        raise TrainingStopped(f"{stopped}{_keep_best(trainer, base, out, checkpoints)}") from None
    warn_unless_learnt(trainer.roles.model, "ppo", sft)
    checkpoints.hand_over(out)
    rollouts = [row for row in log if "objective/scores" in row]
    first, last = rollouts[0], rollouts[-1]
    metrics = {
        "prompts": len(prompts),
        "episodes": int(last["episode"]),
        "score_first": first["objective/scores"],
        "score_last": last["objective/scores"],
        "kl_nats": last["objective/kl"],
        "explained_variance": last["val/explained_variance"],
        "response_tokens": last["lengths/mean"],
        "eos_rate": last["eos_rate"],
        **_tokens(rollouts, config.ppo),
    }
    save_adapter(trainer.roles.model, out, base.tokenizer, adapter_card("ppo", base))
    headline = (
        f"score {metrics['score_first']:.2f} -> {metrics['score_last']:.2f} at KL {metrics['kl_nats']:.2f} nats, "
        f"{metrics['episodes']:,} episodes"
    )
    smoke, ends = smoke_test("ppo", config, data, base, trainer.roles, out)
    return StageResult(metrics | smoke, f"{headline}; {ends}")


def _tokens(rollouts: list[dict[str, Any]], ppo: PPOSettings) -> dict[str, int]:
    """What a run cost in tokens, from the log lines of all its rollouts, those before a resumption included.

    `generated_tokens` are the response tokens sampled. `trained_tokens` are the tokens of prompt and response, padding
    left out, once for each pass of a network with gradients: num_ppo_epochs passes of the policy and as many of the
    critic. A shared critic rides on the policy's passes; while the critic warms up, its passes are the only ones.
    """
    trained = seen = 0
    for number, row in enumerate(rollouts):
        alone = ppo.critic == "shared" or number < ppo.critic_warmup_rollouts
        trained += (row["num_tokens"] - seen) * ppo.num_ppo_epochs * (1 if alone else 2)
        seen = row["num_tokens"]
    generated = sum(round(row["lengths/mean"] * ppo.rollout_size) for row in rollouts)
    return {"trained_tokens": int(trained), "generated_tokens": generated}


def _keep_best(trainer: PPOTrainer, base: Base, out: Path, checkpoints: Checkpoints) -> str:
    """Leave the best policy of a stopped run, with its metrics, in `ppo-stopped`; a sentence that says so."""
    best = trainer.carried.best
    if best is None:
        return ". No policy was worth keeping"
    place, kept = out / "best", out.parent / "ppo-stopped"
    set_policy_weights(trainer.roles, trainer.carried.best_policy)
    save_adapter(trainer.roles.model, place, base.tokenizer, adapter_card("ppo", base))
    checkpoints.hand_over(place)
    publish_folder(place, kept)
    return f". The policy of rollout {best['rollout'] + 1:.0f}, the best before that, is kept in {kept}"
