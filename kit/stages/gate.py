"""Is the reward model good enough to train against? PPO finds whatever is wrong with a score, so this is asked first.

Two things stop a run: an accuracy on held-out pairs that may be a coin's, and one that a ruler beats. What merely
deserves a look (no better than a ruler, a taste for length, sure of what it gets wrong) is a warning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kit import notices
from kit.errors import TrainingStopped
from kit.statistics import FEWEST, Floats, mean_over_groups, rank_correlation, share

Estimate = dict[str, Any]  # {"mean": …, "ci95": [low, high]}

GOOD, WEAK, NO_BETTER_THAN_LENGTH = "good", "weak", "no better than length"
MUCH_LENGTH = 0.5  # rank correlation of score and length from which a warning is due
MUCH_CALIBRATION_ERROR = 0.1
BINS = 10
_REPEATS = 1_000  # simulated data sets of a calibrated model


def judge_reward_model(
    rows: Sequence[Mapping[str, Any]], first_won: Sequence[float] | None = None, seed: int = 0
) -> dict[str, Any]:
    """What the held-out pairs say of a reward model, as `reward_model` of the comparison's metrics holds it.

    `rows` are the lines of `held_out.jsonl`: prompt (a number that pairs of one prompt share), chosen_score,
    rejected_score, chosen_tokens, rejected_tokens. `first_won` is 1 where the answer that people were shown first was
    the chosen one, for data that know it. Intervals are over prompts; an estimate that is not defined is None.
    """
    margins, longer = (_chosen_less_rejected(rows, what) for what in ("score", "tokens"))
    groups = [row["prompt"] for row in rows]
    right, long_right = _outcomes(margins), _outcomes(longer)
    rule, rule_right = ("longer", long_right) if long_right.mean() >= 0.5 else ("shorter", 1 - long_right)
    accuracy = share(right, groups, seed)
    over_length = mean_over_groups(right - rule_right, groups, seed)
    if len(set(groups)) < FEWEST:
        over_length = over_length[0], -1.0, 1.0  # a handful of prompts says nothing
    scores, tokens = (
        [row[f"{side}_{what}"] for side in ("chosen", "rejected") for row in rows] for what in ("score", "tokens")
    )
    bins, error, chance = _calibration(margins, seed)
    verdict = WEAK if accuracy[1] <= 0.5 else NO_BETTER_THAN_LENGTH if over_length[1] <= 0 else GOOD
    return {
        "pairs": len(rows),
        "prompts": len(set(groups)),
        "accuracy": _estimate(accuracy),
        "longer_wins": _estimate(share(long_right, groups, seed)),
        "first_wins": None if first_won is None else _estimate(share(np.asarray(first_won, np.float64), groups, seed)),
        "length_rule": rule,
        "accuracy_minus_length_rule": _estimate(over_length),
        "score_length_correlation": _estimate(rank_correlation(scores, tokens, groups * 2, seed)),
        # Both orders of each pair, so that which answer was chosen says nothing: does the longer of two score higher?
        "within_pair_length_correlation": _estimate(
            rank_correlation([*margins, *-margins], [*longer, *-longer], groups * 2, seed)
        ),
        "calibration": bins,
        "expected_calibration_error": error,
        "calibration_error_by_chance": chance,
        "verdict": verdict,
    }


def require_good_reward_model(metrics: Mapping[str, Any], force: bool) -> None:
    """Stop with TrainingStopped before PPO where the reward model is too weak; with `force`, warn and go on.

    `metrics` are the reward stage's; `gate` in them is what `judge_reward_model` found.
    """
    gate = metrics.get("gate")
    if gate is None:
        if metrics.get("pairs"):
            notices.warn(
                "ppo: an earlier version trained this reward model and did not check it; remove it to make sure"
            )
            return
        _stop("no pair was held out, so nothing says that the reward model is better than chance", force)
        return
    reasons = _too_weak(gate)
    if reasons:
        _stop("; ".join(reasons), force)
        return
    for text in _weaknesses(gate):
        notices.warn(f"reward model: {text}")


def _too_weak(gate: Mapping[str, Any]) -> list[str]:
    accuracy, over_length = gate["accuracy"], gate["accuracy_minus_length_rule"]
    reasons = []
    if accuracy["ci95"][0] <= 0.5:
        reasons.append(
            f"its accuracy is {_text(accuracy)} on {_size(gate)}, not shown to beat a coin; an interval above 0.5 is "
            "wanted"
        )
    if over_length["ci95"][1] < 0:
        reasons.append(
            f'"the {gate["length_rule"]} answer wins" is right more often: the reward model\'s accuracy less the '
            f"rule's is {_text(over_length)} on {_size(gate)}; a difference above 0 is wanted"
        )
    return reasons


def _stop(reason: str, force: bool) -> None:
    """Raise, or only warn where PPO was forced."""
    if force:
        notices.warn(f"ppo goes on by ppo.force, though the reward model is too weak: {reason}")
        return
    raise TrainingStopped(
        f"PPO not started: the reward model is too weak to train against: {reason}. PPO would learn its faults. "
        "Give it more pairs, raise reward.epochs, or hold out more pairs to be surer (data.eval_fraction); look at the "
        "pairs, and at their scores in reward/held_out.jsonl. Without PPO: stages=[sft,reward,dpo,compare]; with it "
        "nevertheless: ppo.force=true"
    )


def _weaknesses(gate: Mapping[str, Any]) -> list[str]:
    over_length, length = gate["accuracy_minus_length_rule"], gate["score_length_correlation"]
    error, chance = gate["expected_calibration_error"], gate["calibration_error_by_chance"]
    found = []
    if over_length["ci95"][0] <= 0 <= over_length["ci95"][1]:
        found.append(
            f'not shown better than "the {gate["length_rule"]} answer wins": its accuracy less the rule\'s is '
            f"{_text(over_length)} on {_size(gate)}; more pairs, or more held out, would tell"
        )
    if length is not None and (length["ci95"][0] > MUCH_LENGTH or length["ci95"][1] < -MUCH_LENGTH):
        longer = "longer" if length["mean"] > 0 else "shorter"
        found.append(
            f"its score follows length (rank correlation {_text(length)}), so PPO may learn to write {longer} answers; "
            "watch the length, and add pairs where the better answer is not the "
            f"{longer} one"
        )
    if error > MUCH_CALIBRATION_ERROR and error > chance:
        found.append(
            f"it is wrong about how sure it is: predicted and observed shares are {error:.2f} apart on average "
            f"(by chance up to {chance:.2f}); fewer reward.epochs make it less sure"
        )
    return found


def _calibration(margins: Floats, seed: int) -> tuple[list[dict[str, Any]], float, float]:
    """(bins, error, error by chance): of the pairs where the model was p sure, how many it got right.

    p = sigma(|margin|), from 0.5 to 1; each bin holds a tenth of the pairs. The error is the mean over pairs of
    |predicted - observed| of their bin (Guo et al. 2017, eq. 3). A calibrated model has one too, as bins are small:
    95 % of simulated ones stay under the last number.
    """
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(margins)), np.abs(margins)))  # ties by lot: rows may come in a telling order
    predicted = 1 / (1 + np.exp(-np.abs(margins[order])))
    observed = _outcomes(margins[order])
    parts = np.array_split(np.arange(len(order)), min(BINS, len(order)))
    starts, sizes = [part[0] for part in parts], np.array([len(part) for part in parts])

    def error(outcomes: Floats) -> Floats:
        """Of outcomes [..., n], which stand in the order of the bins."""
        return np.abs(np.add.reduceat(outcomes - predicted, starts, axis=-1)).sum(-1) / len(order)

    chance = [error((rng.random(len(order)) < predicted).astype(np.float64)) for _ in range(_REPEATS)]
    bins = [
        {"predicted": float(predicted[part].mean()), "observed": float(observed[part].mean()), "pairs": int(size)}
        for part, size in zip(parts, sizes, strict=True)
    ]
    return bins, float(error(observed)), float(np.quantile(chance, 0.95))


def _chosen_less_rejected(rows: Sequence[Mapping[str, Any]], what: str) -> Floats:
    return np.array([row[f"chosen_{what}"] - row[f"rejected_{what}"] for row in rows], dtype=np.float64)


def _outcomes(differences: Floats) -> Floats:
    """1 where positive, 0 where negative, 0.5 for a tie."""
    return (np.sign(differences) + 1) / 2


def _estimate(found: tuple[float, float, float] | None) -> Estimate | None:
    return None if found is None else {"mean": found[0], "ci95": [found[1], found[2]]}


def _text(estimate: Estimate) -> str:
    """ "0.53 (95 % interval 0.49 to 0.57)"."""
    low, high = estimate["ci95"]
    return f"{estimate['mean']:.2f} (95 % interval {low:.2f} to {high:.2f})"


def _size(gate: Mapping[str, Any]) -> str:
    return f"{gate['pairs']:,} held-out pairs of {gate['prompts']:,} prompts"
