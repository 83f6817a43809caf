"""The reward model: a copy of the SFT adapter with a scalar head learns which answer people preferred."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trl import RewardTrainer

from kit.config import Config
from kit.data import Split
from kit.errors import TrainingStopped
from kit.models.adapters import keep_weights, new_reward, save_adapter, trained_score_head
from kit.models.base import Base
from kit.models.decoding import pad_rows
from kit.models.id_rows import Rows
from kit.models.out_of_memory import HalvesMicroBatch
from kit.models.resumable import Resumable
from kit.runs.checkpoints import Checkpoints
from kit.runs.files import write_text
from kit.stages.arguments import build_arguments
from kit.stages.card import adapter_card
from kit.stages.checks import require_all_rows, require_learnt
from kit.stages.gate import judge_reward_model
from kit.stages.progress import train_with_progress, trained_tokens
from kit.stages.result import StageResult
from kit.stages.rows import dataset_of
from kit.stages.sizes import choose_sizes


class KitRewardTrainer(Resumable, HalvesMicroBatch, RewardTrainer):
    """RewardTrainer that resumes exactly, and goes on in smaller parts where the GPU's memory runs out."""

    paired = True


def train_reward(
    config: Config, pairs: Split[dict], base: Base, out: Path, sft: Path, checkpoints: Checkpoints
) -> StageResult:
    """Train the score of a copy of the SFT adapter on the pairs (Bradley-Terry); write it, head included, to `out`.

    Goes on from the newest whole checkpoint in `checkpoints`.
    """
    train, held_out = (_sequences(part, config.reward.margin) for part in (pairs.train, pairs.held_out))
    longest = max(max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in train)
    choice = choose_sizes(config, "reward", base, longest, checkpoints)
    model = new_reward(base.scorer(), sft)
    head_before = trained_score_head(model).clone()
    with keep_weights(model):
        trainer = KitRewardTrainer(
            model=model,
            args=build_arguments(config, "reward", base.precision, checkpoints.path, choice, len(train)),
            train_dataset=dataset_of(train),
            processing_class=base.tokenizer,
        )
    require_all_rows(trainer, "reward", train)
    train_with_progress(trainer, "reward", checkpoints)
    require_learnt(model, "reward", sft)
    if torch.equal(trained_score_head(model), head_before):
        raise TrainingStopped(
            "reward stopped: after the training the score head is, to the bit, the random one it began with. No "
            "gradient reached it: look at grad_norm in the log, reward.learning_rate and reward.trl"
        )
    metrics: dict[str, Any] = {"rows": len(train), "pairs": len(held_out)}
    metrics |= {"trained_tokens": trained_tokens(trainer), "generated_tokens": 0}
    headline = f"{len(train):,} pairs"
    if held_out:
        with trainer.accelerator.autocast():
            scores = score_pairs(model, held_out, base.tokenizer.pad_token_id, trainer.args.eval_batch_size)
        scored = held_out_rows(pairs.held_out, scores)
        write_text(out / "held_out.jsonl", "".join(f"{json.dumps(row)}\n" for row in scored))
        gate = judge_reward_model(scored, seed=config.seed)
        metrics |= {
            "accuracy": gate["accuracy"]["mean"],
            "margin": sum(chosen - rejected for chosen, rejected in scores) / len(scores),
            "accuracy_longer_wins": gate["longer_wins"]["mean"],
            "gate": gate,
        }
        headline = (
            f"held-out accuracy {metrics['accuracy']:.3f} on {len(held_out):,} pairs "
            f'("longer wins" alone: {metrics["accuracy_longer_wins"]:.3f}): {gate["verdict"]}'
        )
    checkpoints.hand_over(out)
    save_adapter(model, out, base.tokenizer, adapter_card("reward", base))
    return StageResult(metrics, headline)


def score_pairs(model: Any, pairs: Sequence[dict], pad: int, batch_size: int) -> list[tuple[float, float]]:
    """(chosen, rejected) score of each pair of whole sequences, in score units.

    Raises TrainingStopped where a score is not finite.
    """
    scores: list[float] = []
    count = 2 * len(pairs)  # chosen, rejected, chosen, ...
    model.eval()
    with torch.no_grad():
        for start in range(0, count, batch_size):
            those = range(start, min(start + batch_size, count))
            rows = [pairs[n // 2]["rejected_ids" if n % 2 else "chosen_ids"] for n in those]
            ids, mask = pad_rows(rows, pad)
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
            scores += logits.squeeze(-1).float().tolist()
    strange = sum(not math.isfinite(score) for score in scores)
    if strange:
        raise TrainingStopped(
            f"reward: {strange:,} of {len(scores):,} held-out answers have a score that is no finite number, so the "
            "training broke the model. Lower reward.learning_rate"
        )
    return list(zip(scores[::2], scores[1::2], strict=True))


def held_out_rows(pairs: Sequence[dict], scores: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """One row per held-out pair: the number of its prompt, and the score and response tokens of either answer."""
    numbers: dict[tuple[int, ...], int] = {}
    return [
        {
            "prompt": numbers.setdefault(tuple(pair["prompt_ids"]), len(numbers)),
            "chosen_score": chosen,
            "rejected_score": rejected,
            "chosen_tokens": len(pair["chosen_ids"]),
            "rejected_tokens": len(pair["rejected_ids"]),
        }
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]


def _sequences(pairs: Sequence[dict], weight: float = 0.0) -> Rows[dict]:
    """Whole sequences, prompt and response, as RewardTrainer takes them.

    With a weight also `margin`, which its loss takes off the difference of the scores; 0 where nobody rated a pair.
    """

    def whole(number: int) -> dict:
        pair = pairs[number]
        row = {f"{side}_ids": pair["prompt_ids"] + pair[f"{side}_ids"] for side in ("chosen", "rejected")}
        return row | {"margin": weight * pair.get("margin", 0.0)} if weight else row

    return Rows(whole, np.arange(len(pairs))[:, None])
