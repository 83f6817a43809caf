"""The comparison's figures: score against distance from SFT, win rates, rewards, and how good the reward model is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kit.compare.numbers.statistics import NO_DIFFERENCE
from kit.compare.report.figures import (
    INK,
    MARKERS,
    SERIES,
    Picture,
    figure_of,
    in_style,
    inline,
    legend,
    series_of,
    short,
)
from kit.compare.report.text import interval_text, label, number, percent, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = Mapping[str, Any]
REWARDS = {"true_reward": "True reward", "proxy_reward": "Proxy reward"}
WIDTH = 4.1  # inches; so wide that its type stays readable on a phone
_OF_UNIT = {"true reward": "true_reward", "win rate against SFT": "win_rate_vs_sft"}  # what an arm's value is called


@dataclass(frozen=True)
class Dot:
    """A row of a dot-and-interval figure: raw and adjusted estimates, single values such as training seeds."""

    name: str
    colour: str
    value: Metrics
    adjusted: Metrics | None = None
    singles: Sequence[float] = ()


@in_style
def dots(name: str, title: str, rows: Sequence[Dot], ends: tuple[str, str], what: str) -> Picture:
    """Shares between 0 and 100 % with their intervals and a line at 50 %; `ends` say what 0 and 100 mean."""
    figure, (axes,) = figure_of(WIDTH, 0.8 + 0.48 * len(rows))
    for at, row in enumerate(rows):
        apart = 0.17 if row.adjusted else 0.0
        _dot(axes, at - apart, row.value, row.colour, filled=True)
        if row.adjusted:
            _dot(axes, at + apart, row.adjusted, row.colour, filled=False)
        singles = [100 * value for value in row.singles]
        axes.plot(singles, [at - apart - 0.22] * len(singles), "|", color=INK, markersize=5, markeredgewidth=1.1)
    axes.axvline(50, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.set_xlim(-1, 101)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{ends[0]}  \N{LEFTWARDS ARROW}   {what}   \N{RIGHTWARDS ARROW}  {ends[1]}", parse_math=False)
    keys = [("o", INK, "as judged"), ("o", "none", "at equal length")] if any(row.adjusted for row in rows) else []
    keys += [("|", INK, "training seeds")] if any(row.singles for row in rows) else []
    for marker, face, text in keys:
        axes.plot([], [], marker, color=INK, markerfacecolor=face, markersize=5, label=text)
    if keys:
        legend(figure)
    told = "; ".join(_told(row) for row in rows)
    description = f"{title}, in % with 95 % intervals over prompts and a line at 50 %. {told}."
    return Picture(title, description, inline(figure, name, description))


def _dot(axes: "Axes", at: float, value: Metrics, colour: str, filled: bool) -> None:
    ends, mean = [100 * end for end in value.get("ci95") or ()], 100 * value["mean"]
    if ends:
        axes.plot(ends, [at, at], color=colour, linewidth=2.2 if filled else 1.2, solid_capstyle="round")
    face = colour if filled else "white"
    axes.plot([mean], [at], "o", markersize=6.2 if filled else 5, color=colour, markerfacecolor=face)


def _told(row: Dot) -> str:
    text = f"{row.name} {percent(row.value['mean'])} %"
    text += f" ({interval_text(row.value['ci95'])})" if row.value.get("ci95") else ""
    return text + (f", at equal length {percent(row.adjusted['mean'])} %" if row.adjusted else "")


def win_rates(metrics: Metrics) -> Picture | None:
    """Each arm's win rate against SFT, raw and at equal length, seeds apart; None where nothing is known."""
    colours = _colours(metrics)
    rows = [
        Dot(
            short(name),
            colours[name],
            arm["win_rate_vs_sft"],
            arm.get("win_rate_vs_sft_length_controlled"),
            _seeds(arm, "win_rate_vs_sft"),
        )
        for name, arm in metrics["arms"].items()
        if arm.get("win_rate_vs_sft")
    ]
    return dots("wins", "Wins against SFT", rows, ("SFT better", "arm better"), "win rate") if rows else None


def head_to_head(metrics: Metrics) -> Picture | None:
    """The pairs' win rates, in the winner's colour; grey where there is no difference."""
    colours, rows = _colours(metrics), []
    for key, pair in metrics["pairs"].items():
        first, _, second = key.partition("_vs_")
        controlled = pair.get("length_controlled")
        adjusted = controlled and {"mean": controlled["win_rate"], "ci95": controlled["ci95"]}
        colour = SERIES[0] if pair["verdict"] == NO_DIFFERENCE else colours.get(pair["verdict"], SERIES[0])
        value = {"mean": pair["win_rate"], "ci95": pair["ci95"]}
        seeds = (pair.get("seed_spread") or {}).get("values") or ()
        rows.append(Dot(f"{short(first)} v. {short(second)}", colour, value, adjusted, seeds))
    return dots("pairs", "Head to head", rows, ("second better", "first better"), "win rate") if rows else None


def gate(metrics: Metrics) -> Picture | None:
    """The reward model's accuracy beside what simple rules reach on the same pairs."""
    found = metrics.get("reward_model") or {}
    names = {
        "accuracy": ("Reward model", SERIES[2]),
        "longer_wins": ("Longer wins", SERIES[0]),
        "first_wins": ("First wins", SERIES[0]),
        "judge_agreement": ("Agrees with judge", SERIES[3]),
    }
    rows = [Dot(name, colour, found[key]) for key, (name, colour) in names.items() if found.get(key)]
    title = "Pairs ranked as people did"
    return dots("gate", title, rows, ("never", "always"), "share of pairs") if rows else None


@in_style
def calibration(metrics: Metrics) -> Picture | None:
    """How often the preferred answer was preferred, against how sure the reward model was of it."""
    bins = (metrics.get("reward_model") or {}).get("calibration") or []
    if not bins:
        return None
    figure, (axes,) = figure_of(WIDTH, 2.7)
    predicted, observed = ([100 * item[key] for item in bins] for key in ("predicted", "observed"))
    low = min(50, *predicted, *observed)
    axes.plot([low, 100], [low, 100], color=INK, linewidth=0.9, linestyle=(0, (2, 2)), label="as sure as it is right")
    axes.plot(predicted, observed, color=SERIES[2], linewidth=1.2, label="reward model")
    most = max(item["pairs"] for item in bins)
    sizes = [12 + 60 * item["pairs"] / most for item in bins]
    axes.scatter(predicted, observed, s=sizes, color=SERIES[2], zorder=3)
    axes.set_xlabel("predicted: how sure, %")
    axes.set_ylabel("observed: right, %")
    legend(figure)
    told = "; ".join(
        f"predicted {percent(b['predicted'])} %, observed {percent(b['observed'])} % of {b['pairs']} pairs"
        for b in bins
    )
    description = f"Calibration of the reward model; a dot's size is its number of pairs. {told}."
    return Picture("Is it as sure as it is right?", description, inline(figure, "calibration", description))


@in_style
def score_against_kl(metrics: Metrics) -> Picture | None:
    """The judge's score, and below it the proxy's, against the square root of the KL from SFT.

    Each arm is a line through its checkpoints, in their order, with 95 % intervals over prompts; an arm without
    checkpoints is a point. As Gao et al. 2022 (arXiv:2210.10760) draw it.
    """
    unit = metrics.get("curve_unit") or "true reward"
    lines = {name: line for name in metrics["arms"] if (line := _path(metrics, name, unit))}
    rows = [key for key in ("judge", "proxy") if any(point.get(key) for line in lines.values() for point in line)]
    if not rows:
        return None
    figure, panels = figure_of(WIDTH, 1.2 + 1.75 * len(rows), [1.3 if key == "judge" else 1 for key in rows])
    numbers, share, named = series_of(list(metrics["arms"])), "rate" in unit, set[str]()
    for axes, key in zip(panels, rows, strict=True):
        for name, line in lines.items():
            bound = metrics["arms"][name].get("kl_nats") is None
            _path_line(axes, line, key, numbers[name], "" if name in named else short(name), bound)
            named |= {name} if any(point.get(key) for point in line) else set()
        axes.margins(x=0.06, y=0.12)
        axes.set_ylabel(visible(unit) if key == "judge" else "proxy: reward model", parse_math=False)
    if rows[0] == "judge" and share:
        panels[0].axhline(0.5, color=INK, linewidth=0.7, linestyle=(0, (2, 2)))
    matched = (metrics["pairs"].get("ppo_vs_dpo") or {}).get("matched_kl")
    if matched:
        for axes in panels:
            axes.axvline(math.sqrt(matched["kl_nats"]), color=INK, linewidth=0.9, linestyle=(0, (5, 2, 1, 2)))
        panels[0].plot([], [], color=INK, linewidth=0.9, linestyle=(0, (5, 2, 1, 2)), label="equal KL")
    panels[-1].set_xlabel("\u221aKL from SFT, \u221anats per answer")
    legend(figure)
    ends = "; ".join(
        f"{label(name)} at a KL of {number(line[-1]['kl_nats']['mean'], 1)} nats: "
        + ", ".join(f"{key} {number(line[-1][key]['mean'])}" for key in rows if line[-1].get(key))
        for name, line in lines.items()
    )
    equal = f" PPO and DPO are compared at {number(matched['kl_nats'], 1)} nats." if matched else ""
    description = f"Judge: {visible(unit)}; proxy: the reward model's score; both over \u221aKL. Last: {ends}.{equal}"
    shown = " and ".join({"judge": visible(unit), "proxy": "proxy"}[key] for key in rows)
    title = f"{shown[:1].upper()}{shown[1:]} over \u221aKL"
    return Picture(title, description, inline(figure, "score-kl", description))


def _path(metrics: Metrics, name: str, unit: str) -> list[Metrics]:
    """The arm's points that have a KL, in the order of training; its last one alone where no curve is known."""
    points = (metrics.get("curves") or {}).get(name)
    if not points and name == "sft":  # where every curve begins
        points = next((line[:1] for line in (metrics.get("curves") or {}).values() if line), None)
    if not points:
        arm = metrics["arms"][name]
        bound = arm.get("kl_bound_nats")
        kl = arm.get("kl_nats") or (None if bound is None else {"mean": bound})
        judge = arm.get(_OF_UNIT.get(unit, "judge_score"))
        if judge is None and name == "sft" and "rate" in unit:
            judge = {"mean": 0.5}  # against itself
        points = [{"kl_nats": kl, "judge": judge, "proxy": arm.get("proxy_reward")}]
    return [point for point in points if point.get("kl_nats")]


def _path_line(axes: "Axes", line: Sequence[Metrics], key: str, series: int, name: str, hollow: bool) -> None:
    kept = [point for point in line if point.get(key)]
    if not kept:
        return
    colour, marker = SERIES[series], MARKERS[series]
    x = [math.sqrt(max(0.0, point["kl_nats"]["mean"])) for point in kept]
    for at, point in zip(x, kept, strict=True):
        if point[key].get("ci95"):
            axes.plot([at, at], point[key]["ci95"], color=colour, linewidth=1.0, alpha=0.5)
    style = "-" if key == "judge" else "--"
    how: dict[str, Any] = {"color": colour, "marker": marker, "markerfacecolor": "white" if hollow else colour}
    y = [point[key]["mean"] for point in kept]
    axes.plot(x, y, style, markersize=4, label=name or None, **how)
    axes.plot(x[-1:], y[-1:], markersize=6.5, **how)


def rewards(metrics: Metrics) -> list[Picture]:
    """True and proxy reward of the arms with 95 % intervals over prompts; only what is known."""
    return [picture for key in REWARDS if (picture := _reward_of_arms(metrics, key))]


@in_style
def _reward_of_arms(metrics: Metrics, key: str) -> Picture | None:
    arms = {name: arm[key] for name, arm in metrics["arms"].items() if arm.get(key)}
    if not arms:
        return None
    colours = _colours(metrics)
    figure, (axes,) = figure_of(WIDTH, 0.75 + 0.36 * len(arms))
    for row, (name, value) in enumerate(arms.items()):
        axes.plot(value["ci95"], [row, row], color=colours[name], linewidth=2.2, solid_capstyle="round")
        axes.plot([value["mean"]], [row], marker="o", markersize=6.2, color=colours[name])
        seeds = _seeds(metrics["arms"][name], key)
        axes.plot(seeds, [row - 0.25] * len(seeds), "|", color=INK, markersize=5, markeredgewidth=1.1)
    axes.set_yticks(range(len(arms)), [short(name) for name in arms], parse_math=False)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{REWARDS[key].lower()}, score")
    told = "; ".join(f"{label(name)} {value['mean']:.2f}" for name, value in arms.items())
    description = f"Mean {REWARDS[key].lower()} of each arm with its 95 % interval over prompts: {told}."
    return Picture(REWARDS[key], description, inline(figure, key, description))


def _colours(metrics: Metrics) -> dict[str, str]:
    return {name: SERIES[number] for name, number in series_of(list(metrics["arms"])).items()}


def _seeds(arm: Metrics, key: str) -> Sequence[float]:
    return ((arm.get("seed_spread") or {}).get(key) or {}).get("values") or ()
