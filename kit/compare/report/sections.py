"""The metrics as rows and sentences, section by section; page, text and notebook show the same ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kit.compare.report.figures import series_of
from kit.compare.report.text import (
    UNKNOWN,
    count,
    duration,
    interval_text,
    label,
    number,
    percent,
    signed,
    size,
    visible,
    with_interval,
)

Metrics = Mapping[str, Any]
Cell = tuple[str, str]  # a value and its interval

_PAIR_HEADINGS = ("First wins", "At equal length", "Ties", "Difference in score", "Verdict")
_COUNTED = {"pairs": "pairs", "n": "prompts"}


@dataclass(frozen=True)
class Table:
    """Rows of (what, unit, a (value, interval) per column); rows that are unknown throughout are left out."""

    columns: list[tuple[str, int]]  # name and colour number
    rows: list[tuple[str, str, list[Cell]]]


def columns_of(metrics: Metrics) -> list[tuple[str, int]]:
    """The arms' names with their colour numbers."""
    return [(label(name), series) for name, series in series_of(list(metrics["arms"])).items()]


def numbers(metrics: Metrics) -> Table:
    """Quality and distance of each arm."""
    arms = list(metrics["arms"].values())

    def cells(key: str, digits: int = 2, share: bool = False) -> list[Cell]:
        return [with_interval(arm.get(key), digits, share) for arm in arms]

    judged = metrics["judge"] not in ("truth", "reward_model")
    controlled = "win_rate_vs_sft_length_controlled"
    ended = [arm.get("ended_rate") for arm in arms]
    return _table(
        metrics,
        ("True reward", "score", cells("true_reward")),
        ("Judge's score", "score", cells("judge_score") if judged else []),
        ("Proxy reward", "reward model's score", cells("proxy_reward")),
        ("Wins against SFT", "ties count half", cells("win_rate_vs_sft", 0, share=True)),
        ("Wins at equal length", "length-controlled", cells(controlled, 0, share=True)),
        ("Wins, by training seed", "standard deviation, points", [_seeds(arm) for arm in arms]),
        ("KL from SFT", "nats per answer", [_distance(arm) for arm in arms]),
        ("Length", "tokens per answer", cells("response_tokens", 0)),
        ("Ended by itself", "share of answers", [_cell(e, lambda e: f"{percent(e)} %") for e in ended]),
        ("Checkpoint", _validation(arms), [_checkpoint(arm) for arm in arms]),
    )


def cost(metrics: Metrics) -> Table:
    """Time, tokens and memory of each arm."""
    arms = list(metrics["arms"].values())
    return _table(
        metrics,
        ("Training time", "", [(duration(arm.get("train_seconds")), "") for arm in arms]),
        ("Generated", "tokens while training", [(count(arm.get("generated_tokens")), "") for arm in arms]),
        ("Trained on", "tokens", [(count(arm.get("trained_tokens")), "") for arm in arms]),
        ("Peak memory", "", [(size(arm.get("peak_bytes")), "") for arm in arms]),
    )


def cost_sentence(metrics: Metrics) -> str:
    """What the costs hold and what they do not."""
    online = [label(name) for name in ("ppo", "rloo", "grpo") if name in metrics["arms"]]
    parts = ["SFT is where every arm starts; its cost is counted to no other arm."]
    if online:
        owner = online[0] if len(online) == 1 else f"{', '.join(online[:-1])} and {online[-1]}"
        parts.insert(0, f"The cost of {owner} holds the reward model's training, without which there is no reward.")
    if "best_of_n" in metrics["arms"]:
        parts.append("Best of n trains nothing but the reward model; it pays at every answer instead.")
    return " ".join(parts)


def _table(metrics: Metrics, *rows: tuple[str, str, list[Cell]]) -> Table:
    return Table(columns_of(metrics), [row for row in rows if any(value != UNKNOWN for value, _ in row[2])])


def _cell(value: Any, text: Callable[[Any], str]) -> Cell:
    return (UNKNOWN if value is None else text(value)), ""


def _seeds(arm: Metrics) -> Cell:
    spread = (arm.get("seed_spread") or {}).get("win_rate_vs_sft")
    if not spread:
        return UNKNOWN, ""
    return percent(spread["sd"], 1), f"{', '.join(percent(value) for value in spread['values'])} %"


def _distance(arm: Metrics) -> Cell:
    bound = arm.get("kl_bound_nats")
    if arm.get("kl_nats") is None and bound is not None:
        return f"≤ {number(bound, 2)}", "bound: ln n − (n−1)/n"
    return with_interval(arm.get("kl_nats"), 1)


def _validation(arms: list[Metrics]) -> str:
    prompts = next((arm["best_checkpoint"]["validation_prompts"] for arm in arms if arm.get("best_checkpoint")), None)
    return "" if prompts is None else f"best by the judge on {count(prompts)} validation prompts"


def _checkpoint(arm: Metrics) -> Cell:
    best = arm.get("best_checkpoint")
    if not arm.get("checkpoint"):
        return UNKNOWN, ""
    if not best:
        return str(arm["checkpoint"]), ""
    step = "last" if best["step"] is None else f"step {best['step']}"
    won = f", {percent(best['validation_win_rate']['mean'])} %" if best.get("validation_win_rate") else ""
    return (step if arm["checkpoint"] == "best" else "last"), f"best: {step}{won}"


def gate_sentence(metrics: Metrics) -> str | None:
    """Whether the reward model is worth learning from, with its accuracy; None where it was not measured."""
    found = metrics.get("reward_model") or {}
    accuracy, longer = found.get("accuracy"), found.get("longer_wins")
    if not accuracy:
        return None
    verdict = {
        "good": "The reward model is good enough to learn from.",
        "weak": "The reward model is weak.",
        "no better than length": "The reward model is not better than choosing by length.",
    }.get(found.get("verdict", ""), "")
    ranked = f"It ranked {percent(accuracy['mean'])} % of {count(found.get('pairs'))} held-out pairs as people did"
    rule = found.get("length_rule", "longer")
    than = ""
    if longer:
        share = longer["mean"] if rule == "longer" else 1 - longer["mean"]
        than = f"; “the {rule} answer wins” alone ranks {percent(share)} %"
    return f"{verdict} {ranked}{than}.".strip()


def gate_facts(metrics: Metrics) -> list[tuple[str, str]]:
    """The reward model's figures, as (what, value with its interval)."""
    found = metrics.get("reward_model") or {}
    rates = {
        "accuracy": "Accuracy on held-out pairs",
        "longer_wins": "“The longer answer wins”",
        "first_wins": "“The first answer wins”",
        "judge_agreement": "Agreement with the judge",
    }
    facts = [(title, _rate(found[key])) for key, title in rates.items() if found.get(key)]
    if over := found.get("accuracy_minus_length_rule"):
        low, high = (signed(100 * end, 0) for end in over["ci95"])
        text = f"{signed(100 * over['mean'], 0)} points (95 % interval {low} to {high})"
        facts.append((f"Beyond “the {found.get('length_rule', 'longer')} answer wins”", text))
    if correlation := found.get("score_length_correlation"):
        value, ends = with_interval(correlation)
        facts.append(("Correlation of score and length", value + (f" (95 % interval {ends})" if ends else "")))
    if (error := found.get("expected_calibration_error")) is not None:
        chance = found.get("calibration_error_by_chance")
        by_chance = "" if chance is None else f"; by chance up to {percent(chance, 1)}"
        told = f"{percent(error, 1)} points between how sure and how right, on average{by_chance}"
        facts.append(("Calibration error", told))
    return facts


def judge_facts(metrics: Metrics) -> list[tuple[str, str]]:
    """What the judge says of itself, as (what, value); only what applies to it."""
    found = dict(metrics.get("judge_facts") or {})
    facts = [("Who judged", visible(str(found["description"])))] if found.get("description") else []
    if (calls := found.get("calls")) is not None:
        invalid = found.get("invalid") or 0
        facts.append(("Calls", f"{count(calls)}, of which {count(invalid)} gave no valid verdict"))
    if (consistency := found.get("consistency")) is not None:
        facts.append(("Same verdict with the answers swapped", f"{percent(consistency)} %; a coin reaches 50 %"))
    if (first := found.get("first_slot_rate")) is not None:
        ends = found.get("first_slot_ci95")
        leaning = ends and not ends[0] <= 0.5 <= ends[1]
        said = ": it leans to a side, which asking in both orders evens out" if leaning else "; without a side, 50 %"
        text = f"{percent(first)} %" + (f" ({interval_text(ends)})" if ends else "")
        facts.append(("The answer shown first won", text + said))
    for key, title in (("longer_wins", "The longer answer won"), ("accuracy", "Agreement with known preferences")):
        if value := found.get(key):
            of = next((f", {count(value[unit])} {name}" for unit, name in _COUNTED.items() if unit in value), "")
            facts.append((title, _rate(value) + of))
    if (valid := found.get("valid_prompts")) is not None:
        facts.append(("Prompts with a verdict on every pair", f"{count(valid)} of {count(found.get('prompts'))}"))
    if (ties := found.get("tie_rate")) is not None:
        facts.append(("Ties", f"{percent(ties)} % of the verdicts"))
    if (votes := found.get("votes")) is not None:
        facts.append(("Votes", f"{count(votes)}, by {count(found.get('annotators'))} people who gave a name"))
    if (equal := found.get("equal")) is not None:
        facts.append(("Ties without a vote, as both answers are equal", count(equal)))
    if skipped := found.get("skipped"):
        facts.append(("Skipped", count(skipped)))
    if (agreement := found.get("agreement")) is not None:
        facts.append(("Voters agreed with one another", f"{percent(agreement)} % of the prompts they shared"))
    return facts


def _rate(value: Metrics) -> str:
    return f"{percent(value['mean'])} %" + (f" ({interval_text(value['ci95'])})" if value.get("ci95") else "")


def length_sentence(metrics: Metrics) -> str | None:
    """What the length control did, or why it was withheld; None where it was not tried."""
    found = metrics.get("length_control")
    if not found:
        return None
    near = found.get("near_equal_share")
    share = "" if near is None else f" (nearly equal lengths: {percent(near)} % of the prompts where they are rarest)"
    withheld = visible(found["withheld"]) if found.get("withheld") else None
    rates = [arm.get("win_rate_vs_sft_length_controlled") for arm in metrics["arms"].values()]
    if not any([*rates, *(pair.get("length_controlled") for pair in metrics["pairs"].values())]):
        return f"Length-controlled rates are withheld: {withheld}{share}." if withheld else None
    phi = found.get("phi")
    pull = "" if phi is None else f" Pull of length: {signed(phi)} in log-odds for a clearly longer answer."
    missing = f" Where it is missing it was withheld: {withheld}." if withheld else ""
    return f"At equal length: what the rate would be if both answers were of the same length{share}.{pull}{missing}"


def pairs_table(metrics: Metrics) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """Every pair that was compared: the headings, and rows of (pair, a (value, note) under each heading).

    A heading under which nothing is known is left out.
    """
    rows = []
    for key, pair in metrics["pairs"].items():
        first, _, second = key.partition("_vs_")
        controlled = pair.get("length_controlled")
        verdict = pair["verdict"] if pair["verdict"] == "no difference" else label(pair["verdict"])
        needed = pair.get("prompts_needed") if pair["verdict"] == "no difference" else None
        rows.append((
            f"{label(first)} against {label(second)}",
            [
                with_interval({"mean": pair["win_rate"], "ci95": pair["ci95"]}, 0, share=True),
                with_interval(controlled and controlled | {"mean": controlled["win_rate"]}, 0, share=True),
                (f"{percent(pair['tie_rate'])} %", ""),
                with_interval(pair.get("score_difference")),
                (verdict, f"about {count(needed)} prompts needed" if needed else ""),
            ],
        ))  # fmt: skip
    kept = [at for at in range(len(_PAIR_HEADINGS)) if any(cells[at][0] != UNKNOWN for _, cells in rows)]
    return [_PAIR_HEADINGS[at] for at in kept], [(pair, [cells[at] for at in kept]) for pair, cells in rows]
