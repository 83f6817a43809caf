"""PPO on one base: `from kit.ppo import PPOConfig, PPOTrainer`. TRL is imported when one of them is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kit.ppo.config import PPOConfig
    from kit.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]

_HOMES = {"PPOConfig": "kit.ppo.config", "PPOTrainer": "kit.ppo.trainer"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kit.ppo' has no attribute {name!r}")
