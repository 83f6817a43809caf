"""Learning curves of each stage: a small figure for every panel that the stage's log has values for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kit.compare.report.figures import INK, SERIES, Picture, figure_of, in_style, inline, legend, series_of
from kit.compare.report.text import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Log = Sequence[Mapping[str, Any]]
Point = tuple[float, float]

_MANY = 80  # points from which a curve is drawn thin, with a moving average on it
_MOST = 240  # points drawn at most, to keep the page small


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
_ONLINE = (
    Panel("Reward", "reward-model score", (("score", ("reward", "objective/scores")),)),
    Panel("KL from SFT", "nats per answer", (("KL", ("objective/kl", "kl")),)),
    Panel("Length", "tokens per answer", (("length", ("completions/mean_length", "lengths/mean")),)),
    Panel("Cut off", "share of answers", (("cut off", ("completions/clipped_ratio",)),)),
    Panel("Entropy", "nats per token", (("entropy", ("entropy",)),)),
    Panel("Loss", "policy loss", (("policy", ("loss",)),)),
)
PANELS |= {"rloo": _ONLINE, "grpo": _ONLINE, "judge": PANELS["reward"]}
_X_AXES = (("episode", "episodes"), ("step", "optimizer steps"), ("epoch", "epochs"))


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


@in_style
def _curve(stage: str, panel: Panel, log: Log) -> Picture | None:
    x_key, x_unit = next(((k, unit) for k, unit in _X_AXES if points(log, None, [k])), (None, "log lines"))
    lines = [(name, points(log, x_key, keys)) for name, keys in panel.lines]
    lines = [(name, line) for name, line in lines if line]
    if not lines:
        return None
    figure, (axes,) = figure_of(3.4, 2.15)
    first = series_of([stage])[stage]
    for index, (name, line) in enumerate(lines):
        _draw_line(axes, line, SERIES[first] if not index else INK, name, dashed=bool(index))
    if panel.reference:
        axes.axhline(panel.reference[0], color=INK, linewidth=0.9, linestyle=(0, (2, 2)), label=panel.reference[1])
    axes.set_xlabel(x_unit)
    axes.set_ylabel(panel.unit)
    if len(lines) > 1 or panel.reference:
        legend(figure)
    ends = "; ".join(f"{name} from {line[0][1]:.3g} to {line[-1][1]:.3g}" for name, line in lines)
    description = f"{label(stage)}, {panel.title.lower()} in {panel.unit} over {x_unit}: {ends}."
    return Picture(panel.title, description, inline(figure, f"{stage}-{panel.title}", description))


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
