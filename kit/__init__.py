"""RLHF on one consumer GPU: SFT, reward model, PPO and DPO from one call, and an honest comparison of the two.

    run = kit.run_pipeline("configs/quickstart.yaml")
    run.comparison

Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kit.errors import ConfigError, DataError, KitError, MachineError, ModelError, RunError, TrainingStopped

if TYPE_CHECKING:
    from kit.config import Config
    from kit.feedback.agreement import Agreement, agreement
    from kit.findings.findings import Findings
    from kit.labelling.notebook import Labelling, label
    from kit.models.plan.planner import Plan, plan
    from kit.pipeline import Run, run_pipeline
    from kit.preflight import check, load_config
    from kit.sampling.sample import sample

__version__ = "0.7.0"
__all__ = [
    "Agreement", "Config", "ConfigError", "DataError", "Findings", "KitError", "Labelling", "MachineError",
    "ModelError", "Plan", "Run", "RunError", "TrainingStopped", "agreement", "check", "label", "load_config", "plan",
    "run_pipeline", "sample",
]  # fmt: skip

_LAZY = {
    "Config": "kit.config", "Plan": "kit.models.plan.planner", "Run": "kit.pipeline", "load_config": "kit.preflight",
    "Agreement": "kit.feedback.agreement", "agreement": "kit.feedback.agreement",
    "Findings": "kit.findings.findings", "check": "kit.preflight",
    "Labelling": "kit.labelling.notebook", "label": "kit.labelling.notebook",
    "plan": "kit.models.plan.planner", "run_pipeline": "kit.pipeline",
    "sample": "kit.sampling.sample",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'kit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
