"""What a PPO run carries from rollout to rollout besides weights and optimizer: all of it is in its checkpoints."""

import json
import math
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from kit.ppo.guards import GuardWatch

_STATE, _BEST = "ppo_state.json", "best_policy.safetensors"


class Moments:
    """Mean and deviation of all scores so far. Source: Chan et al. 1979, the pairwise update of a variance."""

    def __init__(self, count: int = 0, mean: float = 0.0, squares: float = 0.0) -> None:
        self.count, self.mean, self.squares = count, mean, squares

    def add(self, scores: list[float]) -> None:
        """Take in the scores of a rollout."""
        n, mean = len(scores), math.fsum(scores) / len(scores)
        squares, delta, total = math.fsum((s - mean) ** 2 for s in scores), mean - self.mean, self.count + n
        self.squares += squares + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    @property
    def deviation(self) -> float:
        """The unbiased deviation; 1 while there are fewer than two scores, or none that differ."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 and self.squares > 0 else 1.0


class Carried:
    """KL coefficient, moments of the scores, the guards' counts, and the best policy so far.

    The best policy is the one whose rollout had the highest mean of score minus KL penalty, with no guard complaining.
    """

    def __init__(self, args: Any) -> None:
        self.kl_coef: float = args.kl_coef
        self.scores = Moments()
        self.guards = GuardWatch(args)
        self.best: dict[str, float] | None = None  # {"rollout", "rlhf_reward"}
        self.best_policy: dict[str, Tensor] = {}

    def offer_best(self, rollout: int, rlhf_reward: float, policy: dict[str, Tensor]) -> None:
        """Keep a copy of the policy, on the CPU, if it is the best so far."""
        if self.best is None or rlhf_reward > self.best["rlhf_reward"]:
            self.best = {"rollout": rollout, "rlhf_reward": rlhf_reward}
            self.best_policy = {name: tensor.detach().cpu().clone() for name, tensor in policy.items()}

    def save(self, folder: Path) -> None:
        """Write it beside the weights of a checkpoint; floats come back to the bit."""
        state = {
            "kl_coef": self.kl_coef, "scores": vars(self.scores), "best": self.best,
            "guards": {"counts": self.guards.counts, "first": self.guards.first},
        }  # fmt: skip
        (folder / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        if self.best_policy:
            save_file(self.best_policy, folder / _BEST)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote."""
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        self.kl_coef, self.scores, self.best = state["kl_coef"], Moments(**state["scores"]), state["best"]
        self.guards.counts, self.guards.first = state["guards"]["counts"], state["guards"]["first"]
        if self.best is not None:
            self.best_policy = load_file(folder / _BEST)
