"""Supervised fine-tuning: a fresh adapter learns to answer as the demonstrations do."""

import math
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTTrainer

from kit.config import Config
from kit.models.adapters import keep_weights, new_policy, save_adapter
from kit.models.base import Base
from kit.models.encoding import Encoded
from kit.models.out_of_memory import HalvesMicroBatch
from kit.stages.arguments import build_arguments
from kit.stages.card import adapter_card
from kit.stages.progress import train_with_progress, trained_tokens
from kit.stages.result import StageResult
from kit.stages.sizes import choose_sizes


class KitSFTTrainer(HalvesMicroBatch, SFTTrainer):
    """SFTTrainer that goes on in smaller parts where the GPU's memory runs out."""


def train_sft(config: Config, data: Encoded, base: Base, out: Path) -> StageResult:
    """Fine-tune a fresh adapter on the demonstrations, loss on the response only; write it to `out`."""
    rows = data.sft
    choice = choose_sizes(config, "sft", base, longest=max(len(row["input_ids"]) for row in rows.train))
    model = new_policy(base.causal_lm(), config.lora)
    with keep_weights(model):
        trainer = KitSFTTrainer(
            model=model,
            args=build_arguments(config, "sft", base.precision, out, choice, len(rows.train)),
            train_dataset=Dataset.from_list(rows.train),
            eval_dataset=Dataset.from_list(rows.held_out) if rows.held_out else None,
            processing_class=base.tokenizer,
        )
    train_with_progress(trainer, "sft", out)
    metrics: dict[str, Any] = {"rows": len(rows.train), "held_out_rows": len(rows.held_out)}
    metrics |= {"trained_tokens": trained_tokens(trainer), "generated_tokens": 0}
    headline = f"{len(rows.train):,} demonstrations"
    if rows.held_out:
        measured = trainer.evaluate()
        metrics |= {"loss": measured["eval_loss"], "token_accuracy": measured["eval_mean_token_accuracy"]}
        headline = f"held-out perplexity {math.exp(min(metrics['loss'], 30)):.3g} per token"
    save_adapter(model, out, base.tokenizer, adapter_card("sft", base))
    return StageResult(metrics, headline)
