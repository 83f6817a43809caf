"""The reward model: a copy of the SFT adapter with a scalar head learns which answer people preferred."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import RewardTrainer

from kit.config import Config
from kit.models.adapters import keep_weights, new_reward, save_adapter
from kit.models.base import Base
from kit.models.decoding import pad_rows
from kit.models.encoding import Encoded
from kit.stages.arguments import build_arguments
from kit.stages.card import adapter_card
from kit.stages.progress import train_with_progress
from kit.stages.result import StageResult


def train_reward(config: Config, data: Encoded, base: Base, out: Path, sft: Path) -> StageResult:
    """Train the score of a copy of the SFT adapter on the pairs (Bradley-Terry); write it, head included, to `out`."""
    model = new_reward(base.scorer(), sft)
    train, held_out = (_sequences(part) for part in (data.pairs.train, data.pairs.held_out))
    longest = 2 * max(max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in train)
    with keep_weights(model):
        trainer = RewardTrainer(
            model=model,
            args=build_arguments(config, "reward", base.precision, out, longest, len(train)),
            train_dataset=Dataset.from_list(train),
            processing_class=base.tokenizer,
        )
    train_with_progress(trainer, "reward", out)
    metrics: dict[str, Any] = {"rows": len(train), "pairs": len(held_out)}
    headline = f"{len(train):,} pairs"
    if held_out:
        with trainer.accelerator.autocast():
            metrics |= held_out_accuracy(model, held_out, base.tokenizer.pad_token_id, trainer.args.eval_batch_size)
        headline = (
            f"held-out accuracy {metrics['accuracy']:.3f} on {len(held_out):,} pairs "
            f'("longer wins" alone: {metrics["accuracy_longer_wins"]:.3f})'
        )
    save_adapter(model, out, base.tokenizer, adapter_card("reward", base))
    return StageResult(metrics, headline)


def held_out_accuracy(model: Any, pairs: list[dict], pad: int, batch_size: int) -> dict[str, float]:
    """Share of pairs whose chosen answer scores higher (a tie counts half), the mean margin in score units, and the
    accuracy that "the longer answer wins" would reach on them."""
    rows = [pair[f"{side}_ids"] for pair in pairs for side in ("chosen", "rejected")]
    scores: list[float] = []
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            ids, mask = pad_rows(rows[start : start + batch_size], pad)
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
            scores += logits.squeeze(-1).float().tolist()
    margins = torch.tensor(scores).reshape(-1, 2) @ torch.tensor([1.0, -1.0])
    longer = torch.tensor([float(len(p["chosen_ids"]) - len(p["rejected_ids"])) for p in pairs])
    return {
        "accuracy": _share_positive(margins),
        "margin": margins.mean().item(),
        "accuracy_longer_wins": _share_positive(longer),
    }


def _share_positive(x: torch.Tensor) -> float:
    return ((x > 0).float() + 0.5 * (x == 0).float()).mean().item()


def _sequences(pairs: list[dict]) -> list[dict]:
    """Whole sequences, prompt and response, as RewardTrainer takes them."""
    return [{f"{s}_ids": pair["prompt_ids"] + pair[f"{s}_ids"] for s in ("chosen", "rejected")} for pair in pairs]
