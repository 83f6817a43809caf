"""The metrics in sentences: the verdict, what a sceptic asks next, the cautions, and what is not shown."""

from collections.abc import Mapping
from typing import Any

from kit.compare.judges.bias import cautions as judge_cautions
from kit.compare.numbers.statistics import NO_DIFFERENCE
from kit.compare.report.text import count, interval_text, label, number, percent, signed, visible

Metrics = Mapping[str, Any]

MOSTLY_TIES = 0.8  # share of ties above which a judge has not told the arms apart, whatever the interval
FEW_PROMPTS = 50
MANY_CUT_OFF = 0.1  # share of answers that did not end by themselves
LONGER = 1.5  # ratio of mean lengths from which length may be what the judge sees
_JUDGES = {
    "truth": "the truth",
    "reward_model": "the reward model",
    "held_out": "a reward model trained on pairs set aside for judging",
    "llm": "a language model",
    "votes": "people's votes",
    "human": "people",
}
_THE = {"judge's score": "the "}
CONTROLS = ("best_of_n", "longest_of_n")  # chosen among SFT's own answers, not trained
_ONLINE = ("ppo", "rloo", "grpo")  # arms that were rewarded by the reward model


def headline(metrics: Metrics) -> tuple[str, Metrics] | None:
    """The pair that the verdict is about, as (key, pair): PPO against DPO; None where it is missing."""
    pair = metrics["pairs"].get("ppo_vs_dpo")
    return None if pair is None else ("ppo_vs_dpo", pair)


def judge_name(metrics: Metrics) -> str:
    """Who judged, for the end of a sentence; a function goes by its name."""
    judge = metrics["judge"]
    return _JUDGES.get(judge) or f"the function {visible(str(judge))}"


def is_proxy(metrics: Metrics) -> bool:
    """Whether the judge is the very score that PPO was trained on."""
    return bool((metrics.get("judge_facts") or {}).get("is_proxy", metrics["judge"] == "reward_model"))


def verdict_sentence(metrics: Metrics) -> str:
    """The result in one plain sentence with its interval: PPO against DPO, or else each arm against SFT."""
    judged = f"judged by {judge_name(metrics)}"
    if is_proxy(metrics) and "ppo" in metrics["arms"]:
        judged += " that PPO was trained on"
    found = headline(metrics)
    if found is not None:
        return _pair_sentence(found[1], found[1].get("prompts", metrics["prompts"]), judged)
    against = {name: arm["win_rate_vs_sft"] for name, arm in metrics["arms"].items() if arm.get("win_rate_vs_sft")}
    if not against:
        return f"No verdict: there are no two arms whose answers were {judged}."
    parts = [
        f"{label(name)} won against SFT on {percent(rate['mean'])} % of {_judged_prompts(metrics, name)} held-out "
        f"prompts ({interval_text(rate['ci95'])})"
        + (", which is no clear difference" if rate["ci95"][0] <= 0.5 <= rate["ci95"][1] else "")
        for name, rate in against.items()
    ]
    return f"{'; '.join(parts)}, {judged}. PPO and DPO could not be compared."


def _judged_prompts(metrics: Metrics, arm: str) -> int:
    """The prompts on which the judge compared the arm with SFT."""
    return metrics["arms"][arm].get("scored", metrics["prompts"])


def _pair_sentence(pair: Metrics, prompts: int, judged: str) -> str:
    rate, (low, high) = pair["win_rate"], pair["ci95"]
    if pair["verdict"] == NO_DIFFERENCE and pair["tie_rate"] > MOSTLY_TIES:
        return f"No verdict: {percent(pair['tie_rate'])} % of {prompts} held-out prompts are ties, {judged}."
    winner, loser = "PPO", "DPO"
    if pair["verdict"] == "dpo":
        winner, loser, rate, low, high = "DPO", "PPO", 1 - rate, 1 - high, 1 - low
    ties = f"; ties, {percent(pair['tie_rate'])} %, count half" if pair["tie_rate"] else ""
    share = f"on {percent(rate)} % of {prompts} held-out prompts ({interval_text([low, high])}{ties})"
    if pair["verdict"] == NO_DIFFERENCE:
        return f"No difference: PPO won against DPO {share}, and the interval holds 50 %, {judged}."
    return f"{winner} beat {loser} {share}, {judged}."


def prompts_sentence(metrics: Metrics) -> str | None:
    """How many prompts it would have taken to tell PPO and DPO apart; None where a winner was found."""
    found = headline(metrics)
    needed = found[1].get("prompts_needed") if found and found[1]["verdict"] == NO_DIFFERENCE else None
    if found is None or needed is None:
        return None
    return (
        f"If {percent(found[1]['win_rate'], 1)} % is the true rate, it takes about {count(needed)} prompts to show it; "
        f"there were {count(found[1].get('prompts', metrics['prompts']))}."
    )


def details(metrics: Metrics) -> list[tuple[str, str]]:
    """What a sceptic asks next, as (topic, text): length control, matched KL, training luck, the judge."""
    found, arms = headline(metrics), metrics["arms"]
    said: list[tuple[str, str]] = []
    if found is not None:
        pair = found[1]
        controlled, withheld = pair.get("length_controlled"), (metrics.get("length_control") or {}).get("withheld")
        if controlled:
            text = f"{percent(controlled['win_rate'])} % for PPO ({interval_text(controlled['ci95'])})"
            said.append(("At equal length", text))
        elif withheld:
            said.append(("At equal length", f"withheld: {visible(withheld)}"))
        if matched := pair.get("matched_kl"):
            said.append((f"At equal KL, {number(matched['kl_nats'], 1)} nats", matched_text(matched)))
    said.append(("Training luck", _luck(metrics)))
    chosen = {label(name): arm for name, arm in arms.items() if arm.get("checkpoint") == "best"}
    if chosen:
        said.append(("Checkpoint", f"{' and '.join(chosen)}: the best on validation prompts, not the last"))
    said.append(("Judge", visible(str((metrics.get("judge_facts") or {}).get("description") or judge_name(metrics)))))
    return said


def matched_text(matched: Metrics) -> str:
    """PPO less DPO where both are as far from SFT: "PPO ahead by 0.21 in true reward (95 % interval ...)"."""
    difference = matched["difference"]
    share = "rate" in matched["unit"]
    scale, digits, unit = (
        (100, 0, "points of win rate against SFT")
        if share
        else (1, 2, f"in {_THE.get(matched['unit'], '')}{visible(matched['unit'])}")
    )
    low, high = (signed(scale * end, digits) for end in difference["ci95"])
    gap = number(abs(scale * difference["mean"]), digits)
    interval = f"95 % interval of PPO less DPO: {low} to {high}"
    if matched["verdict"] == NO_DIFFERENCE:
        return f"no difference ({signed(scale * difference['mean'], digits)} {unit} for PPO; {interval})"
    return f"{label(matched['verdict'])} ahead by {gap} {unit} ({interval})"


def _luck(metrics: Metrics) -> str:
    seeds = metrics.get("seeds") or [metrics.get("seed", 0)]
    if len(seeds) < 2:
        return f"one training run per arm (seed {seeds[0]}); how far another seed would differ is not known"
    found = headline(metrics)
    spread = (found[1].get("seed_spread") if found else None) or {}
    text = f"{len(seeds)} training runs per arm (seeds {', '.join(map(str, seeds))})"
    if not spread.get("values"):
        return text
    values = ", ".join(percent(value) for value in spread["values"])
    return f"{text}: PPO won {values} %, standard deviation {percent(spread['sd'], 1)} points"


def cautions(metrics: Metrics) -> list[str]:
    """What a reader must know before believing the verdict, the gravest first; empty if nothing stands out."""
    arms, prompts = metrics["arms"], metrics["prompts"]
    found = _judge_cautions(metrics)
    headlined = headline(metrics)
    judged = [headlined[1].get("prompts", prompts)] if headlined else []
    judged += [_judged_prompts(metrics, name) for name in arms if _is_asked_about(metrics, name)]
    if (fewest := min(judged, default=prompts)) < FEW_PROMPTS:
        found.append(
            f"Only {fewest} prompt{'s' * (fewest != 1)} judged: the intervals are rough. Ask for 200 or more "
            "(compare.prompts; of a judge that answers not every time, more verdicts)."
        )
    found += _gate_cautions(metrics.get("reward_model") or {}, [name for name in arms if name in _ONLINE])
    found += _verdict_cautions(metrics)
    named = [hack_sentence(hack) for hack in metrics.get("hacking") or [] if _is_final(hack)]
    found += named
    sft = arms.get("sft")
    for name, arm in arms.items():
        if sft is not None and name not in ("sft", *CONTROLS):
            found += _against_sft(label(name), arm, sft, told=bool(named))
        unjudged = prompts - _judged_prompts(metrics, name)
        if unjudged and _is_asked_about(metrics, name):
            found.append(
                f"{label(name)}: no verdict against SFT on {unjudged} of {prompts} prompts, which are left out."
            )
        ended = arm.get("ended_rate")
        if ended is not None and 1 - ended > MANY_CUT_OFF:
            found.append(
                f"{label(name)}: {percent(1 - ended)} % of the answers were cut off at the length limit; "
                "what is judged there is a fragment."
            )
    return found


def _is_asked_about(metrics: Metrics, arm: str) -> bool:
    """Whether the judge was asked to compare the arm with SFT; people vote on the pairs that they are shown."""
    unseen = metrics["judge"] in ("votes", "human") and _judged_prompts(metrics, arm) == 0
    return arm not in ("sft", *CONTROLS) and not unseen


def _is_final(hack: Metrics) -> bool:
    """Whether a named hack is one of a trained arm as it was compared; the panel shows the others."""
    return hack.get("checkpoint", "last") == "last" and hack["arm"] not in CONTROLS


def hack_sentence(hack: Metrics) -> str:
    """ "PPO, step 20: proxy up (+1.20) ..."; a control was not trained and has no checkpoints."""
    name = str(hack.get("checkpoint", "last"))
    checkpoint = "last checkpoint" if name == "last" else visible(name)
    whose = label(hack["arm"]) + ("" if hack["arm"] in CONTROLS else f", {checkpoint}")
    return f"{whose}: {visible(hack['text']).removesuffix('.')}."


def _judge_cautions(metrics: Metrics) -> list[str]:
    found, facts = list[str](), metrics.get("judge_facts") or {}
    if is_proxy(metrics):
        found.append(
            "PPO was trained on this very judge: the reward model. The verdict favours PPO and does not show that its "
            "answers are better. Bring a judge of your own: people, a stronger model, or a reward model trained on "
            "other pairs."
            if "ppo" in metrics["arms"]
            else "The judge is the reward model, a copy of people's taste with faults of its own. Bring a better judge."
        )
    return [*found, *judge_cautions(facts)]


def _gate_cautions(gate: Metrics, online: list[str]) -> list[str]:
    verdict, names = gate.get("verdict"), " and ".join(label(name) for name in online)
    if not names or verdict in (None, "good"):
        return []
    what = "is not better than choosing by length" if verdict == "no better than length" else "is weak"
    return [f"The reward model {what}: what {names} learned from it may be noise. See the reward model below."]


def _verdict_cautions(metrics: Metrics) -> list[str]:
    found, pair_found = [], headline(metrics)
    if pair_found is None:
        return []
    pair = pair_found[1]
    controlled, matched = pair.get("length_controlled"), pair.get("matched_kl")
    if controlled and pair["verdict"] != NO_DIFFERENCE:
        low, high = controlled["ci95"]
        if low <= 0.5 <= high or (pair["win_rate"] > 0.5) != (controlled["win_rate"] > 0.5):
            moved = abs(pair["win_rate"] - controlled["win_rate"]) > 0.02
            why = "part of the difference is length" if moved else "the rate is the same, its interval too wide to tell"
            found.append(f"At equal length the verdict does not hold: {why}.")
    if matched and matched["verdict"] != pair["verdict"]:
        found.append(f"At equal KL from SFT the verdict is another one: {matched_text(matched)}.")
    return found


def _against_sft(name: str, arm: Metrics, sft: Metrics, told: bool) -> list[str]:
    found = []
    proxy, truth = ((arm.get(key), sft.get(key)) for key in ("proxy_reward", "true_reward"))
    if not told and _apart(*proxy) and _apart(*reversed(truth)):
        found.append(
            f"{name} looks like reward hacking: against SFT its proxy reward is up and its true reward is down. "
            "Raise the KL penalty or improve the reward model."
        )
    tokens, before = (item.get("response_tokens") for item in (arm, sft))
    if tokens and before and before["mean"] > 0 and tokens["mean"] > LONGER * before["mean"]:
        found.append(
            f"{name} writes {tokens['mean'] / before['mean']:.1f} times as many tokens as SFT: "
            "part of its score may be a taste for length."
        )
    return found


def _apart(higher: Metrics | None, lower: Metrics | None) -> bool:
    """Whether the first interval lies wholly above the second."""
    return bool(higher and lower and higher["ci95"][0] > lower["ci95"][1])


def limits(metrics: Metrics) -> list[str]:
    """What this comparison does not show."""
    seeds = len(metrics.get("seeds") or [0])
    luck = (
        "Training luck: one training run per arm. Intervals cover the choice of prompts alone. Repeat with 3 seeds."
        if seeds < 2
        else f"Training luck: {seeds} runs per arm show how far runs scatter, not more. Intervals cover prompts alone."
    )
    judges = {
        "truth": "The truth here is a formula that scores every answer exactly. It shows whether the training found "
        "what was asked for; it does not show what people would say.",
        "reward_model": "The judge is the reward model itself. It cannot see its own mistakes"
        + (", and PPO was rewarded for them." if "ppo" in metrics["arms"] else "."),
        "held_out": "The judge is a reward model too, trained on other pairs of the same source. What both reward "
        "models get wrong, it cannot see.",
        "llm": "The judge is a language model. It has tastes of its own, for length, for lists, for its own style.",
        "votes": "The judges are the people who voted, on the prompts they voted on.",
        "human": "The judges are the people who chose, without knowing which arm wrote what, on the prompts they saw.",
    }
    found = headline(metrics)
    distance = (
        "Equal distance: the headline compares arms that moved away from SFT by different amounts (KL); the comparison "
        "at equal KL is interpolated between checkpoints."
        if found and found[1].get("matched_kl")
        else "Equal distance: the arms moved away from SFT by different amounts (KL). At the same KL the order may "
        "differ."
    )
    return [
        luck,
        judges.get(metrics["judge"], "The judge is a function you brought. It shows what that function rewards."),
        distance,
        "Equal tuning: each arm ran with the settings given, not with its best ones.",
        "Other prompts: these come from the same source as the training prompts. No other topics, no facts, no safety.",
        "Cost elsewhere: time and memory were measured on one machine, at one size of model.",
    ]
