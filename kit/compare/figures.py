"""Learning curves and reward figures as small inline SVGs that follow the page's light or dark colours.

matplotlib draws with fixed colours; `_inline` then turns each of them into a CSS variable (`--s0`, `--s1` ..., the
page's ink and grid), makes every id unique to its figure and drops what a page does not need. Titles stand in the
page, not in the picture, so that they read in the page's own type.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from kit.compare.table import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Log = Sequence[Mapping[str, Any]]
Point = tuple[float, float]
P = ParamSpec("P")
Drawn = TypeVar("Drawn")

# Okabe and Ito's colours, which colour-blind readers can tell apart; grey is kept for SFT, where all arms start.
SERIES = ("#6f7682", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8f6b0e")
_INK, _GRID = "#30343a", "#c4c7cc"
_STYLE = {
    "font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 8.5,
    "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _GRID, "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK, "axes.grid": True, "grid.color": _GRID, "grid.linewidth": 0.5, "grid.alpha": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.axisbelow": True,
    "axes.formatter.useoffset": False, "lines.linewidth": 1.8, "lines.markersize": 3.5, "xtick.major.size": 0,
    "ytick.major.size": 0, "svg.fonttype": "none", "svg.hashsalt": "kit",
}  # fmt: skip
REWARDS = {"true_reward": "True reward", "proxy_reward": "Proxy reward"}
_OWN_SERIES = {"sft": 0, "dpo": 1, "ppo": 2}
_MANY = 80  # points from which a curve is drawn thin, with a moving average on it
_MOST = 240  # points drawn at most, to keep the page small


@dataclass(frozen=True)
class Picture:
    """One figure of the page: a title, a text for those who do not see it, and the SVG."""

    title: str
    description: str
    svg: str


@dataclass(frozen=True)
class Panel:
    """What one small figure shows of a stage: (label, keys to look for, first found wins) per line."""

    title: str
    unit: str
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    reference: tuple[float, str] | None = None


def _held_out(name: str, *keys: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (name, keys), ("held out", tuple(f"eval_{key}" for key in keys))


_CHANCE = (0.5, "chance")
PANELS: dict[str, tuple[Panel, ...]] = {
    "sft": (
        Panel("Loss", "nats per token", _held_out("training", "loss")),
        Panel("Next token right", "share of tokens", _held_out("training", "mean_token_accuracy")),
        Panel("Entropy", "nats per token", _held_out("training", "entropy")),
    ),
    "reward": (
        Panel("Pairs ranked right", "share of pairs", _held_out("training", "accuracy", "rewards/accuracies"), _CHANCE),
        Panel("Margin", "chosen minus rejected, score", _held_out("training", "margin", "rewards/margins")),
        Panel("Loss", "nats per pair", _held_out("training", "loss"), (math.log(2), "coin flip")),
    ),
    "dpo": (
        Panel("Chosen preferred", "share of pairs", _held_out("training", "rewards/accuracies", "accuracy"), _CHANCE),
        Panel("Margin", "implicit reward, \u03b2 \u00b7 nats", _held_out("training", "rewards/margins", "margin")),
        Panel("Loss", "nats per pair", _held_out("training", "loss"), (math.log(2), "coin flip")),
    ),
    "ppo": (
        Panel(
            "Reward",
            "reward-model score",
            (
                ("score", ("objective/scores", "reward")),
                ("less the KL penalty", ("objective/rlhf_reward",)),
            ),
        ),
        Panel("KL from SFT", "nats per answer", (("KL", ("objective/kl", "kl")),)),
        Panel("Length", "tokens per answer", (("length", ("lengths/mean", "completions/mean_length")),)),
        Panel("Ended by itself", "share of answers", (("ended", ("eos_rate",)),)),
        Panel(
            "Entropy", "nats per token", (("entropy", ("policy/entropy", "policy/entropy_avg", "entropy")),)
        ),
        Panel(
            "Losses",
            "policy loss, value loss",
            (
                ("policy", ("loss/policy", "loss/policy_avg")),
                ("value", ("loss/value", "loss/value_avg")),
            ),
        ),
        Panel("Step size", "nats per token", (("KL of one update", ("policy/approxkl", "policy/approxkl_avg")),)),
        Panel("Clipped", "share of tokens", (("clipped", ("policy/clipfrac", "policy/clipfrac_avg")),)),
        Panel("Critic", "share of variance explained", (("explained", ("val/explained_variance",)),)),
    ),
}  # fmt: skip
_X_AXES = (("episode", "episodes"), ("step", "optimizer steps"), ("epoch", "epochs"))


def series_of(names: Sequence[str]) -> dict[str, int]:
    """The colour number of each arm: the same arm has the same colour whichever others are there."""
    others = [name for name in names if name not in _OWN_SERIES]
    numbers = {name: 3 + index % (len(SERIES) - 3) for index, name in enumerate(others)}
    return {name: _OWN_SERIES.get(name, numbers.get(name, 0)) for name in names}


def _in_style(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Let `draw` run with the page's matplotlib settings, and leave the caller's as they were."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def learning_curves(curves: Mapping[str, Log]) -> dict[str, list[Picture]]:
    """Per stage, a small figure for each panel that its log has values for; a stage with none is left out."""
    drawn = {}
    for stage in [*(name for name in PANELS if name in curves), *(name for name in curves if name not in PANELS)]:
        pictures = [_curve(stage, panel, curves[stage]) for panel in PANELS.get(stage, PANELS["sft"])]
        if found := [picture for picture in pictures if picture]:
            drawn[stage] = found
    return drawn


def points(log: Log, x_key: str | None, keys: Sequence[str]) -> list[Point]:
    """The finite (x, y) of the first of `keys` that occurs; x is the row's number where `x_key` is None."""
    for key in keys:
        pairs = [(_finite(row.get(x_key, None) if x_key else at), _finite(row.get(key))) for at, row in enumerate(log)]
        if kept := [(x, y) for x, y in pairs if x is not None and y is not None]:
            return kept
    return []


def _finite(value: object) -> float | None:
    """A number, also one written as text, or None; a bool is not a number here."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@_in_style
def _curve(stage: str, panel: Panel, log: Log) -> Picture | None:
    x_key, x_unit = next(((k, unit) for k, unit in _X_AXES if points(log, None, [k])), (None, "log lines"))
    lines = [(name, points(log, x_key, keys)) for name, keys in panel.lines]
    lines = [(name, line) for name, line in lines if line]
    if not lines:
        return None
    figure, axes = _figure(3.4, 2.15)
    first = _OWN_SERIES.get(stage, 3)
    for index, (name, line) in enumerate(lines):
        _draw_line(axes, line, SERIES[first] if not index else _INK, name, dashed=bool(index))
    if panel.reference:
        axes.axhline(panel.reference[0], color=_INK, linewidth=0.9, linestyle=(0, (2, 2)), label=panel.reference[1])
    axes.set_xlabel(x_unit)
    axes.set_ylabel(panel.unit)
    if len(lines) > 1 or panel.reference:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, borderpad=0, handlelength=1.4
        )
    ends = "; ".join(f"{name} from {line[0][1]:.3g} to {line[-1][1]:.3g}" for name, line in lines)
    description = f"{label(stage)}, {panel.title.lower()} in {panel.unit} over {x_unit}: {ends}."
    return Picture(panel.title, description, _inline(figure, f"{stage}-{panel.title}", description))


def _draw_line(axes: "Axes", line: list[Point], colour: str, name: str, dashed: bool) -> None:
    x, y = [point[0] for point in line], [point[1] for point in line]
    style = {"color": colour, "linestyle": "--" if dashed else "-", "marker": "o" if len(line) < 12 else ""}
    if len(line) >= _MANY:
        step = math.ceil(len(line) / _MOST)
        axes.plot(x[::step], y[::step], color=colour, linewidth=0.7, alpha=0.35)
        x, y = _moving_average(x, y, len(line) // 20)
    step = math.ceil(len(x) / _MOST)
    axes.plot(x[::step], y[::step], label=name, **style)  # type: ignore[arg-type]


def _moving_average(x: list[float], y: list[float], window: int) -> tuple[list[float], list[float]]:
    """Centred mean over `window` points, shorter at both ends. Shapes: x and y [n], also in the result."""
    half = max(1, window // 2)
    spans = [y[max(0, at - half) : at + half + 1] for at in range(len(y))]
    return x, [sum(span) / len(span) for span in spans]


def arm_pictures(metrics: Mapping[str, Any]) -> list[Picture]:
    """True and proxy reward of the arms with 95 % intervals, and reward against KL; only what is known."""
    pictures = [_reward_of_arms(metrics, key) for key in REWARDS] + [_reward_against_kl(metrics)]
    return [picture for picture in pictures if picture]


@_in_style
def _reward_of_arms(metrics: Mapping[str, Any], key: str) -> Picture | None:
    arms = {name: arm[key] for name, arm in metrics["arms"].items() if arm[key]}
    if not arms:
        return None
    numbers = series_of(list(metrics["arms"]))
    figure, axes = _figure(3.4, max(2.15, 0.7 + 0.36 * len(arms)))
    for row, (name, value) in enumerate(arms.items()):
        colour = SERIES[numbers[name]]
        axes.plot(value["ci95"], [row, row], color=colour, linewidth=2.4, solid_capstyle="round")
        axes.plot([value["mean"]], [row], marker="o", markersize=6.5, color=colour)
    axes.set_yticks(range(len(arms)), [_short(name) for name in arms], parse_math=False)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{REWARDS[key].lower()}, score")
    told = "; ".join(f"{label(name)} {value['mean']:.2f}" for name, value in arms.items())
    description = f"Mean {REWARDS[key].lower()} of each arm with its 95 % interval over prompts: {told}."
    return Picture(REWARDS[key], description, _inline(figure, key, description))


@_in_style
def _reward_against_kl(metrics: Mapping[str, Any]) -> Picture | None:
    """Reward against the square root of the KL, as Gao et al. 2022 (arXiv:2210.10760) draw it."""
    arms = {name: arm for name, arm in metrics["arms"].items() if arm["kl_nats"]}
    if not any(arm[key] for arm in arms.values() for key in REWARDS):
        return None
    numbers = series_of(list(metrics["arms"]))
    figure, axes = _figure(3.4, 2.15)
    for (key, title), hollow in zip(REWARDS.items(), (False, True), strict=True):
        scored = sorted((arm["kl_nats"]["mean"], name, arm) for name, arm in arms.items() if arm[key])
        for at, (_, name, arm) in enumerate(scored):  # neighbours get their labels on different sides
            side = {"xytext": (-7, -3), "ha": "right"} if at % 2 else {"xytext": (7, -3)}
            x, y, colour = (math.sqrt(max(0.0, arm["kl_nats"]["mean"])), arm[key]["mean"], SERIES[numbers[name]])
            axes.plot([x], [y], "o", markersize=6.5, color=colour, markerfacecolor="none" if hollow else colour)
            axes.annotate(_short(name), (x, y), **side, textcoords="offset points", color=colour, parse_math=False)
        if scored:
            axes.plot([], [], "o", color=_INK, markersize=5, markerfacecolor="none" if hollow else _INK, label=title)
    axes.margins(x=0.22, y=0.16)
    axes.set_xlabel("\u221aKL from SFT, \u221anats per answer")
    axes.set_ylabel("reward, score")
    _legend(axes)
    description = "Reward of each arm against the square root of its KL from SFT: what was paid for the reward."
    return Picture("Reward against distance from SFT", description, _inline(figure, "reward-kl", description))


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure of `width` x `height` inches and its axes; made without pyplot, so nothing global is kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=5)
    return figure, axes


def _short(arm: str) -> str:
    """An arm's label cut to what a small figure has room for."""
    return label(arm) if len(label(arm)) <= 14 else f"{label(arm)[:13]}\u2026"


def _legend(axes: "Axes") -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, borderpad=0, handlelength=1.4)


def _inline(figure: "Figure", name: str, description: str) -> str:
    """The figure as an <svg> element for an HTML page, its ids starting with `name`, its colours CSS variables."""
    out, prefix = StringIO(), re.sub(r"[^a-z0-9]+", "-", name.lower())
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="([^"]+)"', svg)
    start = f'<svg viewBox="{view[1] if view else ""}" role="img" aria-label="{escape(description)}">'
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # only clip paths and markers are referred to
    svg = re.sub(r"<g/>|<defs>\s*</defs>", "", svg)
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#|url\(#', lambda found: f"{found[0]}{prefix}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]+;?", "", svg)
    for index, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--s{index}, {colour})")
    svg = svg.replace(_INK, "currentColor").replace(_GRID, f"var(--grid, {_GRID})")
    return start + re.sub(r"\s*\n\s*", "\n", svg[svg.index(">") + 1 :]).strip()
