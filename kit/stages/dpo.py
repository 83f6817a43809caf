"""DPO: a copy of the SFT adapter learns from the same pairs without a reward model or sampling."""

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import DPOTrainer

from kit.config import Config
from kit.errors import TrainingStopped
from kit.models.adapters import keep_weights, load_policy, save_adapter
from kit.models.base import Base
from kit.models.encoding import Encoded
from kit.models.out_of_memory import HalvesMicroBatch
from kit.models.resumable import Resumable
from kit.models.roles import Roles
from kit.runs.checkpoints import Checkpoints
from kit.stages.arguments import build_arguments
from kit.stages.card import adapter_card
from kit.stages.checks import require_all_rows, require_finite, require_learnt
from kit.stages.progress import train_with_progress, trained_tokens
from kit.stages.result import StageResult
from kit.stages.rows import dataset_of
from kit.stages.sizes import choose_sizes
from kit.stages.smoke import smoke_test
from kit.stages.snapshots import SnapshotCallback

_FIRST_REWARD = 1e-2  # beta times nats a response; in 16 bits the two passes may differ by some 1e-2 nats


class EncodedDPOTrainer(Resumable, HalvesMicroBatch, DPOTrainer):
    """DPOTrainer on rows that are token ids already, the same ids every other stage sees."""

    paired = True

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class FirstStepCheck(TrainerCallback):
    """Stops when the first batch's rewards are not 0 or its loss is not ln 2: then the reference is not the policy DPO
    starts from. Margins alone would not show a reference that is as far from the policy on both answers."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        """Look at the first log line, which was measured before any update."""
        logs = logs or {}
        for name in ("rewards/margins", "rewards/chosen", "rewards/rejected"):
            found = logs.get(name)
            if state.global_step == 1 and found is not None and abs(found) >= _FIRST_REWARD:
                raise TrainingStopped(
                    f"DPO stopped: the first batch's {name} is {found:.4f}, not 0, so the reference is not the SFT "
                    "policy. This is a fault of the hand-over; please report it with the run's config.yaml"
                )
        loss = logs.get("loss")
        plain = args.loss_type == ["sigmoid"] and not args.label_smoothing
        if state.global_step == 1 and loss is not None and plain and abs(loss - math.log(2)) >= 1e-3:
            raise TrainingStopped(
                f"DPO stopped: the first batch's loss is {loss:.4f}, not ln 2 = 0.6931, so the reference is not "
                "the SFT policy. This is a fault of the hand-over; please report it with the run's config.yaml"
            )


def train_dpo(config: Config, data: Encoded, base: Base, out: Path, sft: Path, checkpoints: Checkpoints) -> StageResult:
    """Train a copy of the SFT adapter on the pairs, with the SFT adapter as reference; write it to `out`.

    Goes on from the newest whole checkpoint in `checkpoints`.
    """
    rows = data.pairs
    longest = max(len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in rows.train)
    choice = choose_sizes(config, "dpo", base, longest, checkpoints)
    model = load_policy(base.causal_lm(), sft)
    with keep_weights(model):
        trainer = EncodedDPOTrainer(
            model=model,
            args=build_arguments(config, "dpo", base.precision, checkpoints.path, choice, len(rows.train)),
            train_dataset=dataset_of(rows.train),
            eval_dataset=dataset_of(rows.held_out) if rows.held_out else None,
            processing_class=base.tokenizer,
            callbacks=[FirstStepCheck(), SnapshotCallback(checkpoints.path, config.dpo.snapshots)],
        )
    require_all_rows(trainer, "dpo", rows.train, rows.held_out)
    train_with_progress(trainer, "dpo", checkpoints)
    require_learnt(model, "dpo", sft)
    metrics: dict[str, Any] = {"rows": len(rows.train), "pairs": len(rows.held_out)}
    metrics |= {"trained_tokens": trained_tokens(trainer), "generated_tokens": 0}
    headline = f"{len(rows.train):,} pairs"
    if rows.held_out:
        measured = trainer.evaluate()
        require_finite("dpo", measured)
        metrics |= {"accuracy": measured["eval_rewards/accuracies"], "margin": measured["eval_rewards/margins"]}
        headline = f"held-out implicit-reward accuracy {metrics['accuracy']:.3f}"
    checkpoints.hand_over(out)
    save_adapter(model, out, base.tokenizer, adapter_card("dpo", base))
    smoke, ends = smoke_test("dpo", config, data, base, Roles(model), out)
    return StageResult(metrics | smoke, f"{headline}; {ends}")
