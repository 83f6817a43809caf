"""The compare stage: every arm answers the same held-out prompts; numbers, samples and report go to `out`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit import notices
from kit.compare.answers import answer_all, choose_prompts
from kit.compare.report import write_report
from kit.compare.result import REWARD_MODEL, TRUTH, build_metrics
from kit.config import Config
from kit.data import Prompt
from kit.demo.world import is_demo_prompt, truth_of_messages
from kit.errors import ConfigError, DataError
from kit.models.base import Base
from kit.models.encoding import Encoded, EncodedPrompt
from kit.runs.folder import StageRecord
from kit.stages.result import StageResult

ARMS = ("sft", "dpo", "ppo")


def judge_of(config: Config, prompts: Sequence[Prompt | EncodedPrompt]) -> str:
    """Who judges the answers to these held-out prompts: what is set or, for auto, the truth where it is known.

    The truth is known when every prompt is a question of the demo world; else the reward model judges. Raises
    ConfigError for a judge that this run cannot have.
    """
    known = all(is_demo_prompt(prompt.messages) for prompt in prompts)
    wanted = config.compare.judge
    judge = (TRUTH if known else REWARD_MODEL) if wanted == "auto" else wanted
    if judge == TRUTH and not known:
        raise ConfigError("compare.judge truth: the truth is known in the demo world only; use auto or reward_model")
    if judge == REWARD_MODEL and "reward" not in config.stages:
        raise ConfigError("compare needs a judge: add stage `reward` to `stages`, or use the demo data")
    return judge


def compare_arms(config: Config, data: Encoded, base: Base, out: Path, stages: dict[str, StageRecord]) -> StageResult:
    """The metrics of the comparison, as in metrics.json; writes metrics.json, samples.jsonl, report.md and report.html.

    `stages` are the finished training stages by name.
    """
    judge = judge_of(config, data.prompts.held_out)
    truth = truth_of_messages if all(is_demo_prompt(p.messages) for p in data.prompts.held_out) else None
    if judge == REWARD_MODEL:
        notices.warn(
            "the reward model judges the comparison, and PPO was trained on that very score: its verdict favours PPO"
        )
    prompts = choose_prompts(data.prompts.held_out, config.compare.prompts, config.seed)
    if not prompts:
        raise DataError("no held-out prompts to compare on; raise data.eval_fraction")
    arms = answer_all(
        config, base, prompts,
        adapters={name: stages[name].adapter for name in ARMS if name in stages},
        reward=stages["reward"].adapter if "reward" in stages else None,
        costs={name: _cost(name, stages) for name in stages},
        truth=truth,
    )  # fmt: skip
    questions: list[list[Mapping[str, Any]]] = [list(prompt.messages) for prompt in prompts]
    metrics = build_metrics(arms, prompts, judge, config.seed)
    curves = {name: _curve(record.path / "metrics.jsonl") for name, record in stages.items()}
    write_report(out, metrics, questions, arms, curves, _facts(config, base, data, stages, judge))
    return StageResult(metrics, f"{len(arms)} arms, {len(prompts)} answers each")


def _cost(name: str, stages: dict[str, StageRecord]) -> tuple[float, int | None]:
    """(seconds, peak bytes) of an arm's training; the reward model's cost is counted to PPO, which needs it."""
    parts = [stages[name]] + ([stages["reward"]] if name == "ppo" else [])
    peaks = [part.peak_bytes for part in parts if part.peak_bytes is not None]
    return sum(part.seconds for part in parts), max(peaks, default=None)


def _curve(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _facts(config: Config, base: Base, data: Encoded, stages: dict[str, StageRecord], judge: str) -> dict[str, str]:
    """How it was done, as label and text."""
    decoding = "greedy" if config.compare.temperature == 0 else f"sampled at temperature {config.compare.temperature}"
    train, held_out = len(data.pairs.train), len(data.pairs.held_out)
    facts = {
        "Base model": f"{config.model.base}, {base.precision}",
        "Adapters": f"LoRA rank {config.lora.rank}, alpha {config.lora.alpha}, on {config.lora.targets}",
        "Start and reference": f"one SFT adapter, SHA-256 {stages['sft'].adapter_sha256[:16]}…, for every arm",
        "Preference data": f"{train:,} pairs for training, {held_out:,} held out, split by prompt",
        "Decoding": f"{decoding}, at most {config.data.max_response_tokens} tokens, one answer a prompt",
        "Judge": {TRUTH: "the demo world's truth", REWARD_MODEL: "the reward model that PPO was trained on"}[judge],
        "Cost": "PPO's seconds hold the reward model's; SFT is shared and counted to no other arm",
    }
    if "reward" in stages:
        accuracy = stages["reward"].metrics.get("accuracy")
        if accuracy is not None:
            facts["Reward model"] = (
                f"held-out accuracy {accuracy:.3f} on {stages['reward'].metrics['pairs']:,} pairs; "
                f"“longer wins” alone reaches {stages['reward'].metrics['accuracy_longer_wins']:.3f}"
            )
    return facts
