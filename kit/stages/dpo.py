"""DPO: a copy of the SFT adapter learns from the same pairs without a reward model or sampling."""

import math
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOTrainer

from kit.config import Config
from kit.errors import TrainingStopped
from kit.models.adapters import keep_weights, load_policy, save_adapter
from kit.models.base import Base
from kit.models.encoding import Encoded
from kit.models.out_of_memory import HalvesMicroBatch
from kit.stages.arguments import build_arguments
from kit.stages.card import adapter_card
from kit.stages.progress import train_with_progress, trained_tokens
from kit.stages.result import StageResult
from kit.stages.sizes import choose_sizes
from kit.stages.snapshots import SnapshotCallback


class EncodedDPOTrainer(HalvesMicroBatch, DPOTrainer):
    """DPOTrainer on rows that are token ids already, the same ids every other stage sees."""

    paired = True

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class FirstStepCheck(TrainerCallback):
    """Stops when the first batch's loss is not ln 2: then the reference is not the policy DPO starts from."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        """Look at the first log line, which is the loss before any update."""
        loss = (logs or {}).get("loss")
        plain = args.loss_type == ["sigmoid"] and not args.label_smoothing
        if state.global_step == 1 and loss is not None and plain and not abs(loss - math.log(2)) < 1e-3:
            raise TrainingStopped(
                f"DPO stopped: the first batch's loss is {loss:.4f}, not ln 2 = 0.6931, so the reference is not "
                "the SFT policy. This is a fault of the hand-over; please report it with the run's config.yaml"
            )


def train_dpo(config: Config, data: Encoded, base: Base, out: Path, sft: Path) -> StageResult:
    """Train a copy of the SFT adapter on the pairs, with the SFT adapter as reference; write it to `out`."""
    rows = data.pairs
    longest = max(len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in rows.train)
    choice = choose_sizes(config, "dpo", base, longest)
    model = load_policy(base.causal_lm(), sft)
    with keep_weights(model):
        trainer = EncodedDPOTrainer(
            model=model,
            args=build_arguments(config, "dpo", base.precision, out, choice, len(rows.train)),
            train_dataset=Dataset.from_list(rows.train),
            eval_dataset=Dataset.from_list(rows.held_out) if rows.held_out else None,
            processing_class=base.tokenizer,
            callbacks=[FirstStepCheck(), SnapshotCallback(out, config.dpo.snapshots)],
        )
    train_with_progress(trainer, "dpo", out)
    metrics: dict[str, Any] = {"rows": len(rows.train), "pairs": len(rows.held_out)}
    metrics |= {"trained_tokens": trained_tokens(trainer), "generated_tokens": 0}
    headline = f"{len(rows.train):,} pairs"
    if rows.held_out:
        measured = trainer.evaluate()
        metrics |= {"accuracy": measured["eval_rewards/accuracies"], "margin": measured["eval_rewards/margins"]}
        headline = f"held-out implicit-reward accuracy {metrics['accuracy']:.3f}"
    save_adapter(model, out, base.tokenizer, adapter_card("dpo", base))
    return StageResult(metrics, headline)
