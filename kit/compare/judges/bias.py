"""What gives a bad judge away: a taste for a slot or for length, invalid answers, no better than chance."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TAIL = 0.025  # on each side of a 95 % interval
SLOT = 0.1  # how far from one half the first slot may win before it is worth a word
CONSISTENT = 0.6  # share of pairs judged alike in both orders under which the order decides too much
LENGTH = 0.8  # where the whole interval of "the longer answer wins" lies above, length alone explains the judge
INVALID = 0.05  # share of calls
TIES = 0.8  # share of prompts
AGREEMENT = 0.6  # share of pairs of people who voted alike
VALID = 0.8  # share of prompts
LETTERS = 0.1  # probability that a local judge puts on the two letters it may answer

Estimate = dict[str, Any]


def rate_over_prompts(by_prompt: Iterable[Sequence[float | None]]) -> Estimate | None:
    """{"mean", "ci95", "n"} of a rate: the mean over n prompts of each prompt's mean; None if there is no prompt.

    Each item holds the values in [0, 1] of one prompt. Values of one prompt hang together, so a prompt counts as one
    trial of Clopper and Pearson's (1934) exact interval, however many pairs of arms it was asked for.
    """
    means = [sum(known) / len(known) for values in by_prompt if (known := [x for x in values if x is not None])]
    if not means:
        return None
    return {"mean": sum(means) / len(means), "ci95": exact_interval(sum(means), len(means)), "n": len(means)}


def exact_interval(successes: float, n: int) -> list[float]:
    """Clopper and Pearson's 95 % interval of a share of n trials; half successes are allowed."""
    from scipy.special import betaincinv

    low = float(betaincinv(successes, n - successes + 1, TAIL)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - TAIL)) if successes < n else 1.0
    return [low, high]


def longer_wins(
    outcomes: Mapping[tuple[str, str], Sequence[float | None]], lengths: Mapping[str, Sequence[int]]
) -> Estimate | None:
    """How often the longer answer won, where one answer won and the lengths differ: {"mean", "ci95", "n" prompts}.

    `lengths[arm][i]` is the length of the arm's answer to prompt i, in any unit. None where nothing was decided.
    """
    by_prompt: dict[int, list[float]] = {}
    for (a, b), column in outcomes.items():
        for i, (outcome, x, y) in enumerate(zip(column, lengths[a], lengths[b], strict=True)):
            if outcome is not None and outcome != 0.5 and x != y:
                by_prompt.setdefault(i, []).append(float((outcome > 0.5) == (x > y)))
    return rate_over_prompts(by_prompt.values())


def cautions(facts: Mapping[str, Any]) -> list[str]:
    """What a reader must know of this judge before believing it, in plain words, the gravest first.

    `facts` as in metrics.json's `judge_facts`: those of the judge, with `longer_wins` and `accuracy` where known.
    """
    return [
        *_order(facts),
        *_length(facts.get("longer_wins")),
        *_chance(facts.get("accuracy")),
        *_validity(facts),
        *_people(facts),
    ]


def _order(facts: Mapping[str, Any]) -> list[str]:
    rate, ci95, consistency = (facts.get(key) for key in ("first_slot_rate", "first_slot_ci95", "consistency"))
    found = []
    if rate is not None and ci95 and not ci95[0] <= 0.5 <= ci95[1] and abs(rate - 0.5) > SLOT:
        slot, share = ("first", rate) if rate > 0.5 else ("second", 1 - rate)
        found.append(
            f"This judge takes the answer shown {slot} on {_percent(share)} of its decisions, whichever that is. Both "
            "orders are asked, so this makes ties and not winners; but what it still decides rests on little."
        )
    if consistency is not None and consistency < CONSISTENT:
        found.append(
            f"This judge keeps its verdict on only {_percent(consistency)} of the pairs when the two answers are "
            "swapped; the others count as ties. Bring a stronger judge."
        )
    return found


def _length(longer: Mapping[str, Any] | None) -> list[str]:
    if not longer:
        return []
    low, high = longer["ci95"]
    if low <= LENGTH and high >= 1 - LENGTH:
        return []
    word, share = ("longer", longer["mean"]) if low > LENGTH else ("shorter", 1 - longer["mean"])
    return [
        f"This judge agrees with “the {word} answer wins” on {_percent(share)} of {longer['n']} prompts: its verdict "
        "may say nothing but which arm writes more. Look at the length-controlled win rate."
    ]


def _chance(accuracy: Mapping[str, Any] | None) -> list[str]:
    if not accuracy or accuracy["ci95"][0] > 0.5:
        return []
    pairs = f" of {accuracy['pairs']} held-out pairs" if "pairs" in accuracy else " of the held-out pairs"
    return [
        f"This judge ranks {_percent(accuracy['mean'])}{pairs} as people did, no better than a coin "
        f"(95 % interval {_percent(accuracy['ci95'][0])} to {_percent(accuracy['ci95'][1])}): its verdict means little."
    ]


def _validity(facts: Mapping[str, Any]) -> list[str]:
    found = []
    calls, invalid = facts.get("calls"), facts.get("invalid")
    if calls and invalid and invalid / calls > INVALID:
        found.append(
            f"{invalid:,} of this judge's {calls:,} replies ({_percent(invalid / calls)}) held no verdict; their "
            "prompts are left out, and those may be the hard ones."
        )
    valid, prompts = facts.get("valid_prompts"), facts.get("prompts")
    if prompts and valid is not None and valid < VALID * prompts:
        found.append(f"Only {valid} of {prompts} prompts have a verdict for every pair of arms compared.")
    ties = facts.get("tie_rate")
    if ties is not None and ties > TIES:
        found.append(f"{_percent(ties)} of the verdicts are ties: this judge hardly tells the arms apart.")
    letters = facts.get("letter_probability")
    if letters is not None and letters < LETTERS:
        found.append(
            f"The judge model puts only {_percent(letters)} of its probability on the letters A and B: it does not "
            "understand what it is asked. Use a larger, instruction-tuned model."
        )
    return found


def _people(facts: Mapping[str, Any]) -> list[str]:
    found = []
    agreement = facts.get("agreement")
    if agreement is not None and agreement < AGREEMENT:
        found.append(f"The people who voted on the same prompts agree on {_percent(agreement)} of them only.")
    if facts.get("stale"):
        found.append(f"{facts['stale']} votes were cast on other answers than these and are not counted.")
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
