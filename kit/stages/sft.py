"""Supervised fine-tuning: a fresh adapter learns to answer as the demonstrations do."""

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import SFTTrainer

from kit import notices
from kit.config import Config
from kit.models.adapters import keep_weights, new_policy, save_adapter
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


class KitSFTTrainer(Resumable, HalvesMicroBatch, SFTTrainer):
    """SFTTrainer that resumes exactly, and goes on in smaller parts where the GPU's memory runs out."""


class FirstLossCheck(TrainerCallback):
    """Warns where the base reads the first batch no better than one that knows nothing of the language."""

    def __init__(self, base: str, vocabulary: int) -> None:
        self.base, self.vocabulary = base, vocabulary

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        """Look at the first log line, which is the loss before any update."""
        loss = (logs or {}).get("loss")
        if state.global_step == 1 and loss is not None and loss >= math.log(self.vocabulary):
            notices.warn(
                f"sft: the first batch costs {loss:.1f} nats a token, and guessing among {self.vocabulary:,} tokens "
                f"{math.log(self.vocabulary):.1f}: {self.base} is untrained, or its tokenizer belongs to another model"
            )


def train_sft(config: Config, data: Encoded, base: Base, out: Path, checkpoints: Checkpoints) -> StageResult:
    """Fine-tune a fresh adapter on the demonstrations, loss on the response only; write it to `out`.

    Goes on from the newest whole checkpoint in `checkpoints`.
    """
    rows = data.sft
    choice = choose_sizes(config, "sft", base, max(len(row["input_ids"]) for row in rows.train), checkpoints)
    model = new_policy(base.causal_lm(), config.lora)
    with keep_weights(model):
        trainer = KitSFTTrainer(
            model=model,
            args=build_arguments(config, "sft", base.precision, checkpoints.path, choice, len(rows.train)),
            train_dataset=dataset_of(rows.train),
            eval_dataset=dataset_of(rows.held_out) if rows.held_out else None,
            processing_class=base.tokenizer,
            callbacks=[FirstLossCheck(base.settings.base, model.config.get_text_config().vocab_size)],
        )
    require_all_rows(trainer, "sft", rows.train, rows.held_out)
    train_with_progress(trainer, "sft", checkpoints)
    require_learnt(model, "sft")
    metrics: dict[str, Any] = {"rows": len(rows.train), "held_out_rows": len(rows.held_out)}
    metrics |= {"trained_tokens": trained_tokens(trainer), "generated_tokens": 0}
    headline = f"{len(rows.train):,} demonstrations"
    if rows.held_out:
        measured = trainer.evaluate()
        require_finite("sft", measured)
        metrics |= {"loss": measured["eval_loss"], "token_accuracy": measured["eval_mean_token_accuracy"]}
        headline = f"held-out perplexity {math.exp(min(metrics['loss'], 30)):.3g} per token"
    checkpoints.hand_over(out)
    save_adapter(model, out, base.tokenizer, adapter_card("sft", base))
    smoke, ends = smoke_test("sft", config, data, base, Roles(model), out)
    return StageResult(metrics | smoke, f"{headline}; {ends}")
