"""A toy PPOTrainer with either critic, and what the PPO tests compare: weights, metrics, what a run carries."""

from unittest.mock import patch

import test_ppo_trainer
import torch
from test_ppo_trainer import PROMPTS, first_rollout, moved, weights
from toy import adapters, toy_base

from kit.models.roles import policy_roles

__all__ = ["PROMPTS", "differing", "first_rollout", "metrics_rows", "moved", "roles", "trainer", "weights"]


def roles(nf4=False, critic="adapter"):
    """The toy roles; a shared value head gets weights that matter, as zeros could hide a fault."""
    made = policy_roles(toy_base(nf4).causal_lm(), *adapters(nf4), critic=critic)
    if critic == "shared":
        torch.nn.init.normal_(made.value_head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return made


def trainer(tmp_path, critic="adapter", **changes):
    """`test_ppo_trainer.trainer` with the critic that is asked for."""
    with patch.object(test_ppo_trainer, "toy_roles", lambda nf4: roles(nf4, critic)):
        return test_ppo_trainer.trainer(tmp_path, **changes)


def metrics_rows(ppo):
    """The logged rows of the rollouts, without what a clock measured."""
    rows = [row for row in ppo.state.log_history if "objective/scores" in row]
    return [{n: x for n, x in row.items() if not n.startswith("seconds/")} for row in rows]


def differing(one, other):
    """Names of the weights that are not the same to the bit."""
    assert set(one) == set(other)
    return [n for n in one if not torch.equal(one[n], other[n])]
