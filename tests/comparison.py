"""A comparison to show, made up: metrics with every key of metrics.json, and with the contract's keys alone."""

import math
from typing import Any

from kit.compare.numbers.statistics import WinRate, mean_interval, verdict, win_rate
from kit.compare.result import Answer, Arm

NAMES = ("sft", "dpo", "ppo", "best_of_n", "longest_of_n")
PROMPTS = [[{"role": "user", "content": f"Question {i}: what grows in the garden?"}] for i in range(200)]
MEASURES = {  # SFT's value, how far PPO's went, its flag
    "response_tokens": (19.0, 14.0, "up"),
    "truncated": (0.01, 0.09, "up"),
    "empty": (0.0, 0.0, None),
    "repeated_4grams": (0.02, 0.17, "up"),
    "distinct_2": (0.95, -0.21, "down"),
    "self_similarity": (0.08, 0.05, None),
    "same_opening": (0.12, 0.4, "up"),
    "entropy_nats": (0.81, -0.5, "down"),
    "kl_nats": (0.0, 9.1, None),
    "proxy_reward": (0.25, 2.1, "up"),
    "judge_score": (0.11, -0.4, "down"),
}


def around(mean: float, half: float) -> dict[str, Any]:
    """An estimate with its interval."""
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def an_arm(name: str, at: int) -> dict[str, Any]:
    trained = name in ("dpo", "ppo")
    spread = {"win_rate_vs_sft": {"sd": 0.025, "values": [0.55 + 0.07 * at + by for by in (-0.03, 0.01, 0.02)]},
              "true_reward": {"sd": 0.1, "values": [0.11 + 0.4 * at + by for by in (-0.1, 0.0, 0.1)]}}  # fmt: skip
    return {
        "true_reward": around(0.11 + 0.4 * at, 0.2),
        "proxy_reward": around(0.25 + 0.5 * at, 0.14),
        "judge_score": around(0.11 + 0.4 * at, 0.2),
        "kl_nats": None if name.endswith("_of_n") else around(1.9 * at, 0.2 * at),
        "kl_bound_nats": math.log(4) - 0.75 if name.endswith("_of_n") else None,
        "response_tokens": around(19.0 + 3 * at, 1.0),
        "win_rate_vs_sft": None if name == "sft" else around(0.55 + 0.07 * at, 0.06),
        "win_rate_vs_sft_length_controlled": None if name == "sft" else around(0.53 + 0.05 * at, 0.07),
        "train_seconds": 0.0 if name.endswith("_of_n") else 18.0 * (at + 1),
        "peak_bytes": (880 + 200 * at) << 20,
        "generated_tokens": 82_432 * at,
        "trained_tokens": 301_000 + 71_000 * at,
        "ended_rate": 0.99 - 0.02 * at,
        "scored": 200,
        "checkpoint": "best" if name == "ppo" else "last",
        "best_checkpoint": {"step": 40, "validation_win_rate": around(0.74, 0.1), "validation_prompts": 64}
        if trained
        else None,
        "seed_spread": spread if trained else None,
    }


def a_curve(name: str) -> list[dict[str, Any]]:
    far = {"dpo": 2.4, "ppo": 11.0}[name]
    points = []
    for at in range(6):
        kl = far * at / 5
        points.append({
            "step": 20 * at if at < 5 else None,
            "kl_nats": around(kl, 0.1 * kl),
            "judge": around(0.11 + 1.3 * math.sqrt(kl) - 0.27 * kl, 0.14),
            "proxy": around(0.25 + (0.85 if name == "ppo" else 0.6) * math.sqrt(kl), 0.1),
            "response_tokens": around(19.0 + 2 * kl, 1.0),
        })  # fmt: skip
    return points


def a_panel() -> dict[str, Any]:
    def cells(share: float) -> dict[str, Any]:
        found = {}
        for name, (start, change, flag) in MEASURES.items():
            joint = [share * change - 0.06, share * change + 0.06]
            found[name] = around(start + share * change, 0.04) | {
                "vs_sft": (around(share * change, 0.04) | {"ci95_joint": joint}) if share else None,
                "flag": flag if share > 0.4 else None,
            }
        return found | {"refusals": None}

    panel = {"sft": {"last": cells(0)}, "dpo": {"step 20": cells(0.1), "last": cells(0.2)}}
    panel["ppo"] = {f"step {20 * at}": cells(at / 5) for at in range(1, 5)} | {"last": cells(1)}
    panel["ppo"]["last"]["same_opening"]["opening"] = "Of course! Three"
    return panel


def a_pair(win_rate: float, half: float, verdict: str) -> dict[str, Any]:
    return {
        "win_rate": win_rate,
        "ci95": [win_rate - half, win_rate + half],
        "tie_rate": 0.09,
        "verdict": verdict,
        "prompts": 200,
        "score_difference": around(2 * win_rate - 1, 2 * half),
        "length_controlled": {"win_rate": win_rate - 0.03, "ci95": [win_rate - 0.03 - half, win_rate - 0.03 + half]},
        "prompts_needed": 2140 if verdict == "no difference" else None,
        "seed_spread": {"sd": 0.021, "values": [win_rate - 0.02, win_rate + 0.02, win_rate + 0.01]},
        "matched_kl": None,
    }


def full_metrics() -> dict[str, Any]:
    """Every key of metrics.json has a value: a comparison without a winner, in which PPO hacks its reward model."""
    pair = a_pair(0.53, 0.068, "no difference")
    pair["matched_kl"] = {"kl_nats": 2.1, "difference": around(0.24, 0.17), "unit": "true reward", "verdict": "ppo"}
    return {
        "judge": "truth",
        "prompts": 200,
        "seed": 0,
        "seeds": [0, 1, 2],
        "judge_facts": {
            "description": "The demo world's truth: a formula that scores every answer exactly.",
            "is_proxy": False,
            "calls": 1200,
            "invalid": 3,
            "consistency": 0.91,
            "first_slot_rate": 0.58,
            "first_slot_ci95": [0.54, 0.62],
            "longer_wins": around(0.55, 0.04) | {"n": 180},
            "accuracy": around(0.8, 0.07) | {"pairs": 120},
        },
        "arms": {name: an_arm(name, at) for at, name in enumerate(NAMES)},
        "pairs": {"ppo_vs_dpo": pair, "ppo_vs_best_of_n": a_pair(0.64, 0.06, "ppo"),
                  "dpo_vs_best_of_n": a_pair(0.41, 0.06, "best_of_n")},
        "length_control": {"withheld": None, "near_equal_share": 0.38, "phi": 0.81},
        "curves": {name: a_curve(name) for name in ("dpo", "ppo")},
        "curve_unit": "true reward",
        "panel": a_panel(),
        "hacking": [
            {"arm": "ppo", "checkpoint": "step 80", "text": "repeats itself: 4-word sequences, 2.0 % -> 15.6 %"},
            {"arm": "ppo", "checkpoint": "last",
             "text": "reward hacking: proxy up (+2.10, 1.96 to 2.24) while the judge's score fell (-0.40)"},
        ],
        "reward_model": {
            "pairs": 634,
            "accuracy": around(0.833, 0.029),
            "longer_wins": around(0.595, 0.038),
            "first_wins": around(0.497, 0.039),
            "score_length_correlation": around(0.31, 0.06),
            "judge_agreement": around(0.78, 0.05),
            "calibration": [{"predicted": p, "observed": p - 0.03 + 0.02 * (i % 3), "pairs": 90 - 10 * i}
                            for i, p in enumerate((0.54, 0.62, 0.71, 0.8, 0.88, 0.96))],
            "expected_calibration_error": 0.031,
            "calibration_error_by_chance": 0.044,
            "length_rule": "longer",
            "accuracy_minus_length_rule": around(0.238, 0.045),
            "verdict": "good",
        },
    }  # fmt: skip


def measured(arms: list[Arm], judge: str = "truth") -> dict[str, Any]:
    """The contract's keys, counted from these arms' answers by the truth or the reward model."""
    scores = {arm.name: [a.true_reward if judge == "truth" else a.proxy_reward for a in arm.answers] for arm in arms}

    def mean(arm: Arm, field: str) -> dict[str, Any] | None:
        found = mean_interval([getattr(answer, field) for answer in arm.answers])
        return found and {"mean": found.mean, "ci95": found.ci95}

    def wins(first: str, second: str) -> WinRate | None:
        return win_rate(scores[first], scores[second]) if {first, second} <= scores.keys() else None

    numbers = {}
    for arm in arms:
        found = wins(arm.name, "sft") if arm.name != "sft" else None
        fields = ("true_reward", "proxy_reward", "kl_nats", "response_tokens")
        numbers[arm.name] = {field: mean(arm, field) for field in fields} | {
            "win_rate_vs_sft": found and {"mean": found.rate, "ci95": found.ci95},
            "train_seconds": 12.0,
            "peak_bytes": 3 << 30,
            "ended_rate": sum(a.ended for a in arm.answers) / len(arm.answers) if arm.answers else None,
            "scored": sum(score is not None for score in scores[arm.name]),
        }
    pairs = {}
    if found := wins("ppo", "dpo"):
        pairs["ppo_vs_dpo"] = {"win_rate": found.rate, "ci95": found.ci95, "tie_rate": found.tie_rate,
                               "verdict": verdict(found.ci95, "ppo", "dpo"), "prompts": found.n}  # fmt: skip
    return {"judge": judge, "prompts": len(arms[0].answers) if arms else 0, "seed": 0, "arms": numbers, "pairs": pairs}


def least_metrics() -> dict[str, Any]:
    """The contract's keys alone, as an old comparison has them."""
    arms = {
        name: {
            "true_reward": None,
            "proxy_reward": around(0.5 * at, 0.1),
            "kl_nats": around(1.0 * at, 0.1),
            "response_tokens": {"mean": 20.0},
            "win_rate_vs_sft": None if name == "sft" else around(0.6, 0.05),
            "train_seconds": 12.0,
            "peak_bytes": 1 << 30,
        }
        for at, name in enumerate(("sft", "dpo", "ppo"))
    }
    pair = {"win_rate": 0.61, "ci95": [0.54, 0.68], "tie_rate": 0.05, "verdict": "ppo"}
    return {"judge": "reward_model", "prompts": 200, "arms": arms, "pairs": {"ppo_vs_dpo": pair}}


def answering_arms(names: tuple[str, ...] = NAMES, prompts: int = 200) -> list[Arm]:
    """Arms whose answers to prompt i differ in the arm's place, not in its name, so that a text gives no arm away."""
    return [
        Arm(name, [_answer(at, i) for i in range(prompts)]) for at, name in enumerate(names)
    ]  # fmt: skip


def _answer(at: int, i: int) -> Answer:
    plant = ("roses", "leeks", "beans and more beans", "mint", "thyme, sage, dill and much else")[at % 5]
    text = f"In bed {i} there grow {plant}. It is always nice to think about such things."
    return Answer(text, at + i % 3, 2.0 * at, 1.5 * at, 12 + 3 * at, (at + i) % 9 != 0, 0.7, float(at + i % 3))
