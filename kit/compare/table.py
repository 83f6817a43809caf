"""The metrics in words and in rows: one sentence of verdict, the cautions, a table that fits its terminal."""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from kit.compare.statistics import NO_DIFFERENCE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Metrics = Mapping[str, Any]

UNKNOWN = "-"
FEW_PROMPTS = 50
MANY_CUT_OFF = 0.1  # share of answers that did not end by themselves
LONGER = 1.5  # ratio of mean lengths from which length may be what the judge sees
HEADINGS = ("arm", "true reward", "proxy reward", "wins vs SFT", "KL nats", "tokens", "time", "memory")
# Control characters but tab and newline, direction marks and overrides, invisible characters, tags, lone surrogates.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_DROP_FIRST = ("memory", "time", "tokens", "proxy reward")  # what a narrow terminal can do without
_JUDGES = {"truth": "the truth", "reward_model": "the reward model"}


def visible(text: str) -> str:
    """The text with every hidden character written out, such as U+202E; tab and newline stay."""
    return HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text.replace("\r\n", "\n"))


def label(arm: str) -> str:
    """An arm's or stage's name as people write it: sft -> SFT, best_of_n -> best of n."""
    return {"sft": "SFT", "dpo": "DPO", "ppo": "PPO", "reward": "Reward model"}.get(arm, visible(arm.replace("_", " ")))


def verdict_sentence(metrics: Metrics) -> str:
    """The result in one plain sentence with its interval: PPO against DPO, or else each arm against SFT."""
    judged = f"judged by {_JUDGES[metrics['judge']]}"
    if metrics["judge"] == "reward_model" and "ppo" in metrics["arms"]:
        judged += " that PPO was trained on"
    pair = metrics["pairs"].get("ppo_vs_dpo")
    if pair is not None:
        return _pair_sentence(pair, pair.get("prompts", metrics["prompts"]), judged)
    against = {name: arm["win_rate_vs_sft"] for name, arm in metrics["arms"].items() if arm.get("win_rate_vs_sft")}
    if not against:
        return f"No verdict: there are no two arms whose answers were {judged}."
    parts = [
        f"{label(name)} won against SFT on {percent(rate['mean'])} % ({interval_text(rate['ci95'])})"
        + (", which is no clear difference" if rate["ci95"][0] <= 0.5 <= rate["ci95"][1] else "")
        for name, rate in against.items()
    ]
    return f"{'; '.join(parts)} of {metrics['prompts']} held-out prompts, {judged}. PPO and DPO could not be compared."


def _pair_sentence(pair: Metrics, prompts: int, judged: str) -> str:
    rate, (low, high) = pair["win_rate"], pair["ci95"]
    winner, loser = "PPO", "DPO"
    if pair["verdict"] == "dpo":
        winner, loser, rate, low, high = "DPO", "PPO", 1 - rate, 1 - high, 1 - low
    ties = f"; ties, {percent(pair['tie_rate'])} %, count half" if pair["tie_rate"] else ""
    share = f"on {percent(rate)} % of {prompts} held-out prompts ({interval_text([low, high])}{ties})"
    if pair["verdict"] == NO_DIFFERENCE:
        return f"No difference: PPO won against DPO {share}, and the interval holds 50 %, {judged}."
    return f"{winner} beat {loser} {share}, {judged}."


def cautions(metrics: Metrics) -> list[str]:
    """What a reader must know before believing the verdict, the gravest first; empty if nothing stands out."""
    arms, prompts = metrics["arms"], metrics["prompts"]
    found = []
    if metrics["judge"] == "reward_model":
        found.append(
            "PPO was trained on this very judge: the reward model. The verdict favours PPO and does not show that its "
            "answers are better. Bring a judge of your own: people, a stronger model, or a reward model trained on "
            "other pairs."
            if "ppo" in arms
            else "The judge is the reward model, a copy of people's taste with faults of its own. Bring a better judge."
        )
    if prompts < FEW_PROMPTS:
        found.append(f"Only {prompts} prompts: the intervals are rough. Ask for 200 or more (compare.prompts).")
    sft = arms.get("sft")
    for name, arm in arms.items():
        if sft is not None and name != "sft":
            found += _against_sft(label(name), arm, sft)
        unscored = prompts - arm.get("scored", prompts)
        if unscored:
            found.append(f"{label(name)}: {unscored} of {prompts} answers without a score, left out of its numbers.")
        ended = arm.get("ended_rate")
        if ended is not None and 1 - ended > MANY_CUT_OFF:
            found.append(
                f"{label(name)}: {percent(1 - ended)} % of the answers were cut off at the length limit; "
                "what is judged there is a fragment."
            )
    return found


def _against_sft(name: str, arm: Metrics, sft: Metrics) -> list[str]:
    found = []
    if _apart(arm["proxy_reward"], sft["proxy_reward"]) and _apart(sft["true_reward"], arm["true_reward"]):
        found.append(
            f"{name} looks like reward hacking: against SFT its proxy reward is up and its true reward is down. "
            "Raise the KL penalty or improve the reward model."
        )
    tokens, before = (item["response_tokens"] for item in (arm, sft))
    if tokens and before and before["mean"] > 0 and tokens["mean"] > LONGER * before["mean"]:
        found.append(
            f"{name} writes {tokens['mean'] / before['mean']:.1f} times as many tokens as SFT: "
            "part of its score may be a taste for length."
        )
    return found


def _apart(higher: Metrics | None, lower: Metrics | None) -> bool:
    """Whether the first interval lies wholly above the second."""
    return bool(higher and lower and higher["ci95"][0] > lower["ci95"][1])


def percent(share: float, digits: int = 0) -> str:
    """A share as a percentage without its sign: 0.634 -> "63"."""
    return f"{100 * share:.{digits}f}"


def interval_text(ci95: Sequence[float]) -> str:
    """ "95 % interval 56-70 %"; with as many digits as it takes to see on which side of 50 % an end lies."""
    digits = next((d for d in (0, 1, 2) if all(end == 0.5 or float(percent(end, d)) != 50 for end in ci95)), 3)
    return f"95 % interval {percent(ci95[0], digits)}-{percent(ci95[1], digits)} %"


def estimate(value: Metrics | None, digits: int = 2) -> str:
    """ "1.83 ±0.10" (half the interval's width); "-" where unknown."""
    if value is None:
        return UNKNOWN
    spread = f" ±{(value['ci95'][1] - value['ci95'][0]) / 2:.{digits}f}" if "ci95" in value else ""
    return number(value["mean"], digits) + spread


def number(value: float, digits: int = 2) -> str:
    """A number that never reads "-0.00"."""
    return f"{value:.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def win_text(value: Metrics | None) -> str:
    """ "78 % ±6"; "-" where unknown."""
    if value is None:
        return UNKNOWN
    return f"{percent(value['mean'])} % ±{percent((value['ci95'][1] - value['ci95'][0]) / 2)}"


def duration(seconds: float | None) -> str:
    """Seconds in the unit people would use: 16 s, 4.2 min, 1.5 h."""
    if seconds is None:
        return UNKNOWN
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5_940 else f"{seconds / 3600:.1f} h"


def size(count: float | None) -> str:
    """Bytes in binary units: 412 MiB, 3.1 GiB."""
    if count is None:
        return UNKNOWN
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def rows(metrics: Metrics) -> list[list[str]]:
    """The table as text: the headings, then one row per arm."""
    return [list(HEADINGS)] + [
        [
            label(name),
            estimate(arm["true_reward"]),
            estimate(arm["proxy_reward"]),
            win_text(arm["win_rate_vs_sft"]),
            estimate(arm["kl_nats"], 1),
            estimate(arm["response_tokens"], 0),
            duration(arm["train_seconds"]),
            size(arm["peak_bytes"]),
        ]
        for name, arm in metrics["arms"].items()
    ]


def comparison_table(metrics: Metrics, without: Sequence[str] = (), plus_minus: str = "±") -> "Table":
    """A rich table of `rows`, less the columns named in `without`; `plus_minus` for terminals without that sign."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    head, *body = rows(metrics)
    shown = [column for column, heading in enumerate(head) if heading not in without]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in shown:
        heading = head[column].replace(" reward", "\nreward").replace(" vs", "\nvs").replace(" nats", "\nnats")
        table.add_column(heading, justify="right" if column else "left", no_wrap=True)
    for cells in body:
        table.add_row(*(Text(cells[column].replace("±", plus_minus)) for column in shown))
    return table


def print_comparison(metrics: Metrics, console: "Console | None" = None) -> None:
    """Print table, verdict and cautions; a narrow terminal loses the least needed columns, never a cut number."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    plus_minus = "±" if console.encoding.lower().startswith("utf") else "+-"
    unlimited = console.options.update(max_width=10_000)
    without: list[str] = []
    table = comparison_table(metrics, without, plus_minus)
    for heading in _DROP_FIRST:
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
        without.append(heading)
        table = comparison_table(metrics, without, plus_minus)
    console.print(table)
    if without:
        console.print(Text(f"(not shown for lack of room: {', '.join(reversed(without))})", style="dim"))
    console.print()
    console.print(Text(verdict_sentence(metrics), style="bold"))
    for note in cautions(metrics):
        console.print(Text(f"Caution: {note}", style="yellow"))


def plain_text(metrics: Metrics, width: int = 100) -> str:
    """What `print_comparison` prints, without colours."""
    from rich.console import Console

    text = StringIO()
    print_comparison(metrics, Console(file=text, width=width, color_system=None, force_terminal=False))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
