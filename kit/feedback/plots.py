"""The page's plots: reliability, what people go by besides quality, agreement in time, groups."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kit.compare.report.figures import INK, SERIES, Picture, figure_of, in_style, inline, legend
from kit.compare.report.text import visible
from kit.feedback import words

if TYPE_CHECKING:
    from kit.feedback.agreement import Agreement

_WIDTH = 4.1  # inches, as the comparison's plots
_PEOPLE = 30
_NAME = 16


def pictures(found: "Agreement") -> list[Picture]:
    """All plots that there is something to draw for."""
    made = [reliability(found), leanings(found), in_time(found), groups(found)]
    return [picture for picture in made if picture is not None]


@in_style
def reliability(found: "Agreement") -> Picture | None:
    """Eta of each annotator with its interval, the lowest on top; of many people the lowest thirty."""
    rated = sorted((m.eta, m.ci95, name) for name, m in found.reliability.items() if m.overlap)[:_PEOPLE]
    if not rated:
        return None
    flagged = {flag.annotator for flag in found.flags}
    figure, (axes,) = figure_of(_WIDTH, 0.9 + 0.2 * max(len(rated), 3))
    for at, (eta, ci95, name) in enumerate(rated):
        colour = SERIES[2] if name in flagged else SERIES[1]
        axes.plot(ci95, [at, at], color=colour, linewidth=1.8, solid_capstyle="round")
        axes.plot([eta], [at], "s" if name in flagged else "o", color=colour, markersize=4.6)
    axes.axvline(0.5, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks([0, 0.5, 1], ["0: the other way", "0.5: dice", "1: reads"])
    axes.set_yticks(range(len(rated)), [_short(name) for *_, name in rated], parse_math=False)
    axes.set_ylim(len(rated) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    if flagged:
        axes.plot([], [], "s", color=SERIES[2], markersize=4.6, label="named above")
        legend(figure)
    text = "; ".join(f"{_short(name)} {eta:.2f} ({ci95[0]:.2f} to {ci95[1]:.2f})" for eta, ci95, name in rated)
    description = f"Reliability eta of each annotator with 95 % intervals and a line at 0.5. {text}."
    return Picture("How reliable is each annotator?", description, inline(figure, "eta", description))


@in_style
def leanings(found: "Agreement") -> Picture | None:
    """Each annotator's leaning to the answer shown first, and to the longer one, beyond what the others say."""
    known = [
        (model.position.logits if model.position else 0.0, model.length.logits if model.length else 0.0, name)
        for name, model in found.reliability.items()
        if model.position or model.length
    ]
    if not known:
        return None
    flagged = {flag.annotator for flag in found.flags if flag.kind in ("position", "length")}
    figure, (axes,) = figure_of(_WIDTH, 2.9)
    axes.axhline(0, color=INK, linewidth=0.7, linestyle=(0, (2, 2)))
    axes.axvline(0, color=INK, linewidth=0.7, linestyle=(0, (2, 2)))
    for position, length, name in known:
        one = name in flagged
        axes.plot([position], [length], "s" if one else "o", color=SERIES[2] if one else SERIES[1], markersize=4.6)
        if one:
            label = axes.annotate(
                _short(name), (position, length), xytext=(5, 4), textcoords="offset points", fontsize=8
            )
            label.set_parse_math(False)
    axes.margins(0.12)
    axes.set_xlabel("to the answer shown first, logits")
    axes.set_ylabel("to the longer answer, logits")
    text = "; ".join(f"{_short(name)} {position:+.1f} and {length:+.1f}" for position, length, name in known[:_PEOPLE])
    description = f"Leaning to the first place and to length, in logits beyond the others' verdicts. {text}."
    return Picture("What else do they go by?", description, inline(figure, "lean", description))


@in_style
def in_time(found: "Agreement") -> Picture | None:
    """Alpha of the pairs in each window with its interval, at the window's middle; changes of people as lines."""
    rows = [(window, window.alpha) for window in found.windows if window.alpha is not None]
    if len(rows) < 2:
        return None
    figure, (axes,) = figure_of(_WIDTH, 2.5)
    days = [(w.start + w.end) / 2 / 86_400 for w, _ in rows]
    for day, (_, alpha) in zip(days, rows, strict=True):
        if alpha.ci95:
            axes.plot([day, day], alpha.ci95, color=SERIES[1], linewidth=1.8, solid_capstyle="round")
    axes.plot(days, [alpha.value for _, alpha in rows], "o-", color=SERIES[1], markersize=4.6, linewidth=1)
    changes = [
        (change.time / 86_400, flag.annotator)
        for flag in found.flags
        if "drifting" in (flag.kind, *flag.also) and (change := found.reliability[flag.annotator].change)
    ]
    for day, _ in changes:
        axes.axvline(day, color=SERIES[2], linewidth=1.1, linestyle=(0, (4, 2)))
    if changes:
        axes.plot([], [], color=SERIES[2], linewidth=1.1, linestyle=(0, (4, 2)), label="somebody changes")
        legend(figure)
    low, high = min(w.start for w, _ in rows) / 86_400, max(w.end for w, _ in rows) / 86_400
    ticks = [low, (low + high) / 2, high]
    axes.set_xticks(ticks, [_day(tick, high - low) for tick in ticks])
    axes.set_ylabel("alpha of pairs")
    text = "; ".join(f"from {_day(w.start / 86_400, high - low)} {alpha.value:.2f}" for w, alpha in rows)
    named = "".join(f" {_short(name)} changes at {_day(day, high - low)}." for day, name in changes)
    description = f"Alpha in windows of as many judgements, with 95 % intervals over items. {text}.{named}"
    return Picture("Does agreement change with time?", description, inline(figure, "time", description))


@in_style
def groups(found: "Agreement") -> Picture | None:
    """Agreement within each group and with the others, with intervals."""
    rows = [(group.name, group.within, group.across) for group in found.groups if group.within or group.across][:12]
    if not rows:
        return None
    figure, (axes,) = figure_of(_WIDTH, 1.1 + 0.42 * len(rows))
    for at, (_, *both) in enumerate(rows):
        for apart, colour, value in zip((-0.12, 0.12), (SERIES[3], SERIES[4]), both, strict=True):
            if value is not None:
                ends = [100 * end for end in value.ci95 or ()]
                axes.plot(ends, [at + apart] * len(ends), color=colour, linewidth=1.8, solid_capstyle="round")
                axes.plot([100 * value.value], [at + apart], "o", color=colour, markersize=4.6)
    for colour, label in ((SERIES[3], "within the group"), (SERIES[4], "with the others")):
        axes.plot([], [], "o-", color=colour, markersize=4.6, label=label)
    legend(figure)
    axes.set_yticks(range(len(rows)), [_short(name) for name, *_ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("equal verdicts of two people, %")
    axes.grid(axis="y", visible=False)
    text = "; ".join(f"{_short(n)} {words.share(within)} and {words.share(across)}" for n, within, across in rows)
    description = f"Equal verdicts within each group, and with the others, with 95 % intervals. {text}."
    return Picture("Do groups agree with each other?", description, inline(figure, "groups", description))


def _short(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= _NAME else f"{shown[: _NAME - 1]}…"


def _day(days: float, of: float) -> str:
    """A time among those of so many days: as a day, or as a time of day where the days are few."""
    form = "%Y-%m-%d" if of >= 3 else "%m-%d %H:%M" if of * 24 * 60 >= 3 else "%H:%M:%S"
    try:
        return datetime.fromtimestamp(days * 86_400, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return f"{days:.0f}"
