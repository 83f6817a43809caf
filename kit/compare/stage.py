"""The compare stage: every policy answers the same held-out prompts, a judge compares, numbers go to a report."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kit import notices
from kit.compare.answers import (
    ANSWERS_FILE,
    BEST_OF_N,
    TEST,
    VALIDATION,
    Policy,
    Sheet,
    answer_all,
    choose_parts,
    write_answers,
)
from kit.compare.hacking.panel import BASELINE, LAST, Panel, build_panel
from kit.compare.hacking.symptoms import hacks
from kit.compare.judging import CACHE_FILE, Judge, choose_judge, judges_checkpoints
from kit.compare.metrics import (
    Cost,
    best_steps,
    build_metrics,
    curves_of,
    judge_agreement,
    name_of,
    pairs_to_judge,
)
from kit.compare.report.page import write_report
from kit.compare.result import Answer, Arm
from kit.compare.trackers import track
from kit.compare.verdicts import Verdicts
from kit.config import Config
from kit.errors import DataError
from kit.models.base import Base
from kit.models.encoding import Encoded, EncodedPrompt
from kit.runs.folder import StageRecord
from kit.stages.result import StageResult
from kit.stages.snapshots import snapshots

_ARMS = ("sft", "dpo", "ppo", "rloo", "grpo")


def compare_arms(
    config: Config, data: Encoded, base: Base, out: Path, steps: dict[str, StageRecord], before: Path
) -> StageResult:
    """The metrics of the comparison, as in metrics.json; writes them, the answers and the report into `out`.

    `steps` are the finished training steps by name; `before` is the folder of an earlier comparison, whose answers are
    used again where nothing that made them changed.
    """
    parts = choose_parts(config, data.prompts.held_out)
    if not parts[TEST]:
        raise DataError("no held-out prompts to compare on; raise data.eval_fraction")
    at = {name: record.adapter for name, record in steps.items()}
    judge = choose_judge(config, base, data, steps, before.parent / CACHE_FILE)
    unjudged = before.parent / f".{ANSWERS_FILE}"  # of a comparison that came no further: a judge that failed
    policies = list(_policies(config, at, parts))
    sheets = answer_all(
        config, base, parts, policies, at["sft"], at.get("reward"), before / ANSWERS_FILE, unfinished=unjudged
    )
    write_answers(unjudged, sheets)

    validation = _judged(judge, config, sheets, VALIDATION, parts) if judges_checkpoints(config) else None
    headline = _of_best_steps(config, sheets, validation)
    test = _judged(judge, config, headline, TEST, parts)
    if test is None:
        raise DataError("there is nothing to compare")
    headline = [_with_scores(sheet, test if sheet.part == TEST else validation, config.seed) for sheet in headline]
    metrics = build_metrics(
        headline, test, validation, config.seed, _costs(steps), config.compare.checkpoint, config.compare.best_of
    )
    panel, symptoms = _panel(headline, config.seed)
    metrics |= {"panel": panel, "hacking": symptoms, "reward_model": _reward_model(steps, headline, test, config)}
    _keep_best(out, at, metrics, base)
    first = [s for s in headline if s.part == TEST and s.seed == config.seed and s.step is None]
    arms = [Arm(s.arm, s.answers) for s in sorted(first, key=lambda s: list(metrics["arms"]).index(s.arm))]
    questions: list[list[Mapping[str, Any]]] = [list(prompt.messages) for prompt in parts[TEST]]
    curves = {name: _log(record.path / "metrics.jsonl") for name, record in steps.items() if name in _LOGGED}
    write_report(out, metrics, questions, arms, curves, _facts(config, base, data, steps, parts))
    track(config, metrics, out)
    unjudged.replace(out / ANSWERS_FILE)
    return StageResult(_summary(metrics), f"{len(arms)} arms, {len(parts[TEST])} answers each, judged by {test.judge}")


_LOGGED = (*_ARMS, "reward", "judge")


def _policies(
    config: Config, at: Mapping[str, Path], parts: Mapping[str, Sequence[EncodedPrompt]]
) -> list[tuple[Policy, str]]:
    """Who answers what: the arms everything, repetitions the test prompts, checkpoints the validation prompts (and the
    test prompts where the best of them is to be judged)."""
    found = []
    for name, adapter in at.items():
        arm, _, seed = name.partition("-seed-")
        if arm not in _ARMS:
            continue
        policy = Policy(arm, adapter, int(seed) if seed else config.seed)
        found.append((policy, TEST))
        if seed or not parts[VALIDATION]:
            continue
        found.append((policy, VALIDATION))
        for step, folder in snapshots(adapter).items():
            for part in (VALIDATION, TEST) if config.compare.checkpoint == "best" else (VALIDATION,):
                found.append((Policy(arm, folder, policy.seed, step), part))
    return found


def _judged(
    judge: Judge, config: Config, sheets: Sequence[Sheet], part: str, parts: Mapping[str, Sequence[EncodedPrompt]]
) -> Verdicts | None:
    """The verdicts on the sheets of a part, None where it has none."""
    named = {name_of(sheet, config.seed): sheet.answers for sheet in sheets if sheet.part == part}
    return judge(parts[part], named, pairs_to_judge(sheets, part, config.seed)) if named else None


def _of_best_steps(config: Config, sheets: Sequence[Sheet], validation: Verdicts | None) -> list[Sheet]:
    """The sheets the verdict stands on: on the test prompts one policy per arm and seed, the last or the best one."""
    best: Mapping[str, int | None] = {}
    if config.compare.checkpoint == "best":
        best = best_steps(curves_of(sheets, validation, config.seed))
        if validation is None:
            notices.warn(
                "compare.checkpoint best: the judge saw no validation prompts (people vote on what they were shown, or "
                "there are too few held-out prompts), so the last policy of each arm is compared"
            )
    kept = [sheet for sheet in sheets if sheet.part == VALIDATION or sheet.step == best.get(sheet.arm)]
    return [replace(sheet, step=None) if sheet.part == TEST else sheet for sheet in kept]


def _with_scores(sheet: Sheet, verdicts: Verdicts | None, seed: int) -> Sheet:
    """The sheet with the judge's score on each answer, where the judge scores single answers."""
    if verdicts is None or verdicts.scores is None:
        return sheet
    scores = verdicts.scores[name_of(sheet, seed)]
    return replace(
        sheet, answers=[replace(a, judge_score=score) for a, score in zip(sheet.answers, scores, strict=True)]
    )


def _panel(sheets: Sequence[Sheet], seed: int) -> tuple[Panel, list[dict[str, str]]]:
    """The hacking panel and its symptoms: each arm's policy on the test prompts, its checkpoints on the validation
    prompts. They are two panels, each with SFT's answers to its own prompts as the baseline, and each holds jointly."""

    def of(part: str, *, checkpoints: bool) -> Panel:
        answers: dict[str, dict[str, list[Answer]]] = {}
        for sheet in sheets:
            if sheet.part == part and sheet.seed == seed and (not checkpoints or sheet.step or sheet.arm == BASELINE):
                answers.setdefault(sheet.arm, {})[f"step {sheet.step}" if sheet.step else LAST] = sheet.answers
        return build_panel(answers, seed) if BASELINE in answers else {}

    last, on_the_way = of(TEST, checkpoints=False), of(VALIDATION, checkpoints=True)
    both = dict(last)
    for arm, columns in on_the_way.items():
        if arm != BASELINE:
            both[arm] = columns | both.get(arm, {})
    return both, [symptom for panel in (on_the_way, last) if panel for symptom in hacks(panel)]


def _summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger holds of the comparison; metrics.json holds all."""
    return {name: metrics[name] for name in ("judge", "prompts", "seeds", "arms", "pairs")}


def _costs(steps: Mapping[str, StageRecord]) -> dict[str, Cost]:
    """What each arm's first training took; the reward model's cost is counted to every arm that learns from it."""
    costs = {}
    for arm in _ARMS:
        if arm not in steps:
            continue
        parts = [steps[arm], *([steps["reward"]] if arm in ("ppo", "rloo", "grpo") and "reward" in steps else [])]
        peaks = [part.peak_bytes for part in parts if part.peak_bytes is not None]
        tokens = {
            name: sum(part.metrics.get(name) or 0 for part in parts) if name in steps[arm].metrics else None
            for name in ("generated_tokens", "trained_tokens")
        }
        costs[arm] = Cost(sum(part.seconds for part in parts), max(peaks, default=None), **tokens)
    if "reward" in steps:  # what best-of-n trains
        reward = steps["reward"]
        costs[BEST_OF_N] = Cost(reward.seconds, reward.peak_bytes, 0, reward.metrics.get("trained_tokens"))
    return costs


def _reward_model(
    steps: Mapping[str, StageRecord], sheets: Sequence[Sheet], test: Verdicts, config: Config
) -> dict[str, Any] | None:
    """The gate's numbers, and how often the reward model orders the arms' answers as the judge does."""
    gate = steps["reward"].metrics.get("gate") if "reward" in steps else None
    if gate is None:
        return None
    proxy = {
        name_of(sheet, config.seed): [answer.proxy_reward for answer in sheet.answers]
        for sheet in sheets
        if sheet.part == TEST
    }
    return {**gate, "judge_agreement": judge_agreement(test, proxy)}


def _keep_best(out: Path, at: Mapping[str, Path], metrics: Mapping[str, Any], base: Base) -> None:
    """A copy of each arm's best checkpoint, as an ordinary adapter folder, where that is not the last one."""
    for arm, numbers in metrics["arms"].items():
        best = numbers["best_checkpoint"]
        if best and best["step"] is not None:
            shutil.copytree(snapshots(at[arm])[best["step"]], out / f"best-{arm}")
            base.tokenizer.save_pretrained(out / f"best-{arm}")


def _log(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _ppo_prompts(config: Config) -> str:
    same = config.data.prompts is None
    return "the same prompts" if same else "other prompts (data.prompts), so it saw what DPO did not"


def _facts(
    config: Config, base: Base, data: Encoded, steps: Mapping[str, StageRecord], parts: Mapping[str, Sequence[Any]]
) -> dict[str, str]:
    """How it was done, as label and text."""
    decoding = "greedy" if config.compare.temperature == 0 else f"sampled at temperature {config.compare.temperature}"
    train, held_out = len(data.pairs.train), len(data.pairs.held_out)
    seeds = config.compare.seeds
    return {
        "Base model": f"{config.model.base}, {base.precision}",
        "Adapters": f"LoRA rank {config.lora.rank}, alpha {config.lora.alpha}, on {config.lora.targets}, in every arm",
        "Start and reference": f"one SFT adapter, SHA-256 {steps['sft'].adapter_sha256[:16]}…, for every arm",
        "Preference data": f"{train:,} pairs for training, {held_out:,} held out, split by prompt; the reward model "
        f"and DPO learn from the same pairs, PPO samples to {_ppo_prompts(config)}",
        "Prompts": f"{len(parts[TEST])} held-out prompts decide; {len(parts[VALIDATION])} others are for curves and "
        "checkpoints",
        "Decoding": f"{decoding}, at most {config.data.max_response_tokens} tokens, one answer a prompt",
        "Training seeds": f"{seeds}: reward model, PPO and DPO were trained {seeds} times, from one SFT adapter"
        if seeds > 1
        else "one: the intervals cover the choice of prompts, not the luck of training",
        "Cost": "PPO's cost holds the reward model's; SFT is shared and counted to no arm",
    }
