"""The contents of metrics.json, from answer sheets and verdicts. A number that is not known is null, never NaN.

The verdict stands on the test prompts; curves, matched KL and the choice of a checkpoint on the validation prompts.
Where arms were trained with several seeds, a prompt's value is its mean over the seeds, and the spread of the seeds is
given apart from the interval over prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kit.compare.answers import CONTROLS, TEST, VALIDATION, Sheet, bound_nats
from kit.compare.judges.bias import longer_wins, rate_over_prompts
from kit.compare.numbers.length_control import LengthControl, length_control
from kit.compare.numbers.matched_kl import Checkpoint, matched_kl
from kit.compare.numbers.statistics import (
    Interval,
    Scores,
    WinRate,
    mean_difference,
    mean_interval,
    outcome_rate,
    over_seeds,
    prompts_needed,
    seed_spread,
    verdict,
)
from kit.compare.result import Answer
from kit.compare.verdicts import Outcomes, Verdicts
from kit.compare.who_judges import TRUTH

BASELINE = "sft"
ARMS = ("sft", "dpo", "ppo", "rloo", "grpo", *CONTROLS)
_TRAINED = ("ppo", "rloo", "grpo", "dpo")  # the first of a pair stands first here
_FIRST = (*_TRAINED, *CONTROLS)
_RULER = 0.9  # the longer answer wins so often that no model can tell length from anything else


@dataclass(frozen=True)
class Cost:
    """What an arm's training took, all its stages together; SFT, which every arm starts from, is counted to none."""

    train_seconds: float | None = None
    peak_bytes: int | None = None
    generated_tokens: int | None = None
    trained_tokens: int | None = None


def name_of(sheet: Sheet, seed: int) -> str:
    """How a sheet is called where it is judged: ppo, ppo@seed 1 for a repetition, ppo@step 40 for a checkpoint."""
    name = sheet.arm if sheet.seed == seed else f"{sheet.arm}@seed {sheet.seed}"
    return name if sheet.step is None else f"{name}@step {sheet.step}"


def head_to_heads(arms: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of arms that meet each other: PPO and DPO first, then what was trained against all but SFT."""
    there = [arm for arm in _FIRST if arm in arms]
    pairs = [(a, b) for at, a in enumerate(there) for b in there[at + 1 :] if a in _TRAINED]
    return sorted(pairs, key=lambda pair: pair != ("ppo", "dpo"))


def pairs_to_judge(sheets: Sequence[Sheet], part: str, seed: int) -> list[tuple[str, str]]:
    """Who meets whom: everything meets SFT; on the test prompts the arms meet each other, seed by seed."""
    names = {name_of(sheet, seed) for sheet in sheets if sheet.part == part}
    pairs = [(name, BASELINE) for name in sorted(names) if name != BASELINE]
    if part == TEST:
        arms = [sheet.arm for sheet in sheets]
        seeds = sorted({sheet.seed for sheet in sheets})
        for a, b in head_to_heads(arms):
            pairs += [pair for other in seeds if (pair := _of_seed(a, b, other, seed)) not in pairs]
    return [pair for pair in pairs if pair[0] in names and pair[1] in names]


def _of_seed(a: str, b: str, other: int, seed: int) -> tuple[str, str]:
    """The names of two arms for one training seed; SFT and the controls have one only."""
    fixed = (BASELINE, *CONTROLS)
    first, second = ((arm if other == seed or arm in fixed else f"{arm}@seed {other}") for arm in (a, b))
    return first, second


def build_metrics(
    sheets: Sequence[Sheet], test: Verdicts, validation: Verdicts | None, seed: int,
    costs: Mapping[str, Cost] | None = None, checkpoint: str = "last", best_of: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """All numbers of the comparison but the panel's and the reward model's.

    `sheets` hold each arm once per training seed on the test prompts, and its checkpoints on the validation prompts;
    `test` and `validation` judge them by the names of `name_of`. The same seed resamples the same prompts for every
    arm, so that intervals belong together.
    """
    tested = {name_of(sheet, seed): sheet for sheet in sheets if sheet.part == TEST}
    arms = [arm for arm in ARMS if arm in tested]
    seeds = sorted({sheet.seed for sheet in tested.values()})
    by_arm = {
        arm: [tested[name].answers for s in seeds if (name := _of_seed(arm, arm, s, seed)[0]) in tested] for arm in arms
    }
    by_arm = {arm: answers[:1] if arm in (BASELINE, *CONTROLS) else answers for arm, answers in by_arm.items()}
    prompts = len(tested[BASELINE].answers) if BASELINE in tested else 0
    lengths = {arm: [[answer.response_tokens for answer in answers] for answers in by_arm[arm]] for arm in arms}
    compared = {pair: test.outcomes[pair] for pair in test.outcomes if set(pair) <= set(arms)}
    every = {pair: _by_seed(test, *pair, seeds, seed) for pair in compared}
    facts = _judge_facts(test, compared, {arm: rows[0] for arm, rows in lengths.items()})
    controlled = _without_a_ruler(length_control(every, lengths, BASELINE, seed), facts["longer_wins"])
    curves, unit = _curves(sheets, validation, seed), _unit(validation or test)
    return {
        "judge": test.judge,
        "prompts": prompts,
        "seed": seed,
        "seeds": seeds,
        "judge_facts": facts,
        "arms": {
            arm: _arm(arm, by_arm[arm], _by_seed(test, arm, BASELINE, seeds, seed), test, controlled, seed, best_of)
            | asdict((costs or {}).get(arm, Cost()))
            | {"checkpoint": checkpoint if arm in curves else "last", "best_checkpoint": _best(arm, curves)}
            for arm in arms
        },
        "pairs": {
            f"{a}_vs_{b}": _pair(a, b, by_arm, test, controlled, seeds, seed)
            | {"matched_kl": _matched(a, b, curves, unit, seed)}
            for a, b in head_to_heads(arms)
            if (a, b) in test.outcomes and outcome_rate(_by_seed(test, a, b, seeds, seed), seed) is not None
        },
        "length_control": _length_control(controlled),
        "curves": {arm: [point for point, _ in points] for arm, points in curves.items()},
        "curve_unit": unit,
    }


def _by_seed(verdicts: Verdicts, a: str, b: str, seeds: Sequence[int], seed: int) -> list[Outcomes]:
    """Outcomes of a over b, a list per training seed; a control and SFT have one training only."""
    pairs = dict.fromkeys(_of_seed(a, b, other, seed) for other in seeds)
    return [list(verdicts.outcomes[pair]) for pair in pairs if pair in verdicts.outcomes]


def _arm(
    arm: str, answers: Sequence[Sequence[Answer]], outcomes: Sequence[Outcomes], test: Verdicts,
    controlled: LengthControl, seed: int, best_of: int,
) -> dict[str, Any]:  # fmt: skip
    """What is known of one arm; its answers come as a list per training seed."""

    def over(field: str) -> list[Scores]:
        return [[getattr(answer, field) for answer in of_seed] for of_seed in answers]

    every = [answer for of_seed in answers for answer in of_seed]
    wins = outcome_rate(outcomes, seed) if outcomes else None
    scores = over("judge_score")
    spread = {name: seed_spread(over(name)) for name in ("true_reward", "judge_score", "proxy_reward", "kl_nats")}
    spread["win_rate_vs_sft"] = seed_spread(outcomes) if outcomes else None
    return {
        "true_reward": _mean(mean_interval(over_seeds(over("true_reward")), seed)),
        "proxy_reward": _mean(mean_interval(over_seeds(over("proxy_reward")), seed)),
        "judge_score": _mean(mean_interval(over_seeds(scores), seed)),
        "kl_nats": _mean(mean_interval(over_seeds(over("kl_nats")), seed)),
        "kl_bound_nats": bound_nats(best_of) if arm in CONTROLS and best_of else None,
        "response_tokens": _mean(mean_interval(over_seeds(over("response_tokens")), seed)),
        "win_rate_vs_sft": _rate(wins),
        "win_rate_vs_sft_length_controlled": _rate(controlled.rates.get((arm, BASELINE))),
        "ended_rate": sum(answer.ended for answer in every) / len(every) if every else None,
        "scored": wins.n if wins is not None else sum(answer.judge_score is not None for answer in answers[0]),
        "seed_spread": {name: asdict(found) for name, found in spread.items() if found is not None} or None,
    }


def _pair(
    a: str, b: str, by_arm: Mapping[str, Sequence[Sequence[Answer]]], test: Verdicts, controlled: LengthControl,
    seeds: Sequence[int], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Arm a against arm b, over all their training seeds."""
    outcomes = _by_seed(test, a, b, seeds, seed)
    wins = outcome_rate(outcomes, seed)
    if wins is None:
        raise ValueError(f"no verdict on {a} against {b}")
    scores = [over_seeds([[answer.judge_score for answer in of_seed] for of_seed in by_arm[arm]]) for arm in (a, b)]
    spread, controlled_rate = seed_spread(outcomes), controlled.rates.get((a, b))
    return {
        "win_rate": wins.rate,
        "ci95": wins.ci95,
        "tie_rate": wins.tie_rate,
        "verdict": verdict(wins.ci95, a, b),
        "prompts": wins.n,
        "score_difference": _mean(mean_difference(scores[0], scores[1], seed)),
        "length_controlled": controlled_rate and {"win_rate": controlled_rate.rate, "ci95": controlled_rate.ci95},
        "prompts_needed": prompts_needed(outcomes),
        "seed_spread": spread and asdict(spread),
    }


def judge_agreement(test: Verdicts, proxy: Mapping[str, Scores]) -> dict[str, Any] | None:
    """How often the reward model prefers the answer that the judge preferred: {"mean", "ci95", "n" prompts}.

    Over all verdicts that name a winner; `proxy[name][i]` is the reward model's score. Equal scores count half.
    """
    by_prompt: dict[int, list[float | None]] = {}
    for (a, b), outcomes in test.outcomes.items():
        for i, (outcome, x, y) in enumerate(zip(outcomes, proxy[a], proxy[b], strict=True)):
            if outcome is not None and outcome != 0.5 and x is not None and y is not None:
                by_prompt.setdefault(i, []).append(0.5 if x == y else float((outcome > 0.5) == (x > y)))
    return rate_over_prompts(by_prompt.values())


# ---- curves over training: each checkpoint's judgement beside its KL ----------------------------------------------

Curve = list[tuple[dict[str, Any], Checkpoint]]


def curves_of(sheets: Sequence[Sheet], validation: Verdicts | None, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The curves of metrics.json: of each arm SFT first, then its policies in the order of training."""
    return {arm: [point for point, _ in points] for arm, points in _curves(sheets, validation, seed).items()}


def _curves(sheets: Sequence[Sheet], validation: Verdicts | None, seed: int) -> dict[str, Curve]:
    """Of each arm with checkpoints: SFT first, then its policies in the order of training, the last one last."""
    sheets = [sheet for sheet in sheets if sheet.part == VALIDATION and sheet.seed == seed]
    start = next((sheet for sheet in sheets if sheet.arm == BASELINE), None)
    if validation is None or start is None:
        return {}
    curves = {}
    for arm in _TRAINED:
        own = sorted((s for s in sheets if s.arm == arm), key=lambda s: math.inf if s.step is None else s.step)
        if own:
            curves[arm] = [_point(sheet, validation, seed) for sheet in [start, *own]]
    return curves


def _point(sheet: Sheet, validation: Verdicts, seed: int) -> tuple[dict[str, Any], Checkpoint]:
    name = name_of(sheet, seed)
    if validation.scores is not None:
        judged = list(validation.scores[name])
    else:
        judged = [0.5] * len(sheet.answers) if sheet.arm == BASELINE else list(validation.outcomes[name, BASELINE])
    kl: Scores = [answer.kl_nats for answer in sheet.answers]
    wins = None if sheet.arm == BASELINE else outcome_rate(validation.outcomes[name, BASELINE], seed)
    point = {
        "step": 0 if sheet.arm == BASELINE else sheet.step,
        "win_rate_vs_sft": _rate(wins),
        "kl_nats": _mean(mean_interval(kl, seed)),
        "judge": _mean(mean_interval(judged, seed)),
        "proxy": _mean(mean_interval([answer.proxy_reward for answer in sheet.answers], seed)),
        "response_tokens": _mean(mean_interval([answer.response_tokens for answer in sheet.answers], seed)),
    }
    return point, Checkpoint(kl, judged)


def best_steps(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, int | None]:
    """Of each arm the step whose policy the judge liked best on the validation prompts; None stands for the last.

    `curves` are those of metrics.json. Of equals the later one is taken.
    """
    found = {}
    for arm, points in curves.items():
        judged = [point for point in points[1:] if point["judge"] is not None]
        if judged:
            best = max(reversed(judged), key=lambda point: point["judge"]["mean"])
            found[arm] = best["step"]
    return found


def _best(arm: str, curves: Mapping[str, Curve]) -> dict[str, Any] | None:
    points = [point for point, _ in curves.get(arm, [])]
    if arm not in (best := best_steps({arm: points})):
        return None
    point = next(p for p in points[1:] if p["step"] == best[arm])
    prompts = len(curves[arm][0][1].kl_nats)
    return {"step": point["step"], "validation_win_rate": point["win_rate_vs_sft"], "validation_prompts": prompts}


def _matched(a: str, b: str, curves: Mapping[str, Curve], unit: str, seed: int) -> dict[str, Any] | None:
    first, second = ([point for _, point in curves.get(arm, [])] for arm in (a, b))
    found = matched_kl(first, second, (a, b), seed) if first and second else None
    if found is None:
        return None
    return {"kl_nats": found.kl_nats, "difference": _mean(found.difference), "unit": unit, "verdict": found.verdict}


# ---- small parts -------------------------------------------------------------------------------------------------


def _unit(verdicts: Verdicts) -> str:
    if verdicts.scores is None:
        return "win rate against SFT"
    return "true reward" if verdicts.judge == TRUTH else "judge's score"


def _judge_facts(
    test: Verdicts, compared: Mapping[tuple[str, str], Outcomes], lengths: Mapping[str, list[int]]
) -> dict[str, Any]:
    """What the judge says of itself, and how often the longer answer won, which is asked of every judge."""
    return {
        "description": test.description,
        **test.facts,
        "longer_wins": longer_wins(compared, lengths),
    }


def _without_a_ruler(controlled: LengthControl, longer: Mapping[str, Any] | None) -> LengthControl:
    """The length control, withheld where the judge goes by length alone: then nothing else is left to be seen."""
    if longer is None or longer["ci95"][0] < _RULER:
        return controlled
    reason = f"the longer answer won on {100 * longer['mean']:.0f} % of the prompts: this judge goes by length alone"
    return replace(controlled, rates={}, withheld={**dict.fromkeys(controlled.rates, reason), **controlled.withheld})


def _length_control(controlled: LengthControl) -> dict[str, Any]:
    by_reason: dict[str, list[str]] = {}
    for (a, b), reason in controlled.withheld.items():
        by_reason.setdefault(reason, []).append(f"{a} against {b}")
    for_all = len(by_reason) == 1 and not controlled.rates
    told = [reason if for_all else f"{', '.join(pairs)}: {reason}" for reason, pairs in by_reason.items()]
    withheld = "; ".join(told) or None
    near = min(controlled.near_equal_share.values(), default=None)
    phi = None if controlled.phi is None else controlled.phi.mean
    return {"withheld": withheld, "near_equal_share": near, "phi": phi}


def _mean(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {"mean": interval.mean, "ci95": interval.ci95}


def _rate(wins: WinRate | None) -> dict[str, Any] | None:
    return None if wins is None else {"mean": wins.rate, "ci95": wins.ci95}
