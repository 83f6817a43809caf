"""How every figure is made: a small inline SVG that follows the page's light or dark colours.

matplotlib draws with fixed colours; `inline` then turns each of them into a CSS variable (`--s0`, `--s1` ..., the
page's ink and grid), makes every id unique to its figure and drops what a page does not need. Titles stand in the
page, not in the picture, so that they read in the page's own type.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from kit.compare.report.text import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
Drawn = TypeVar("Drawn")

# Okabe and Ito's colours, which colour-blind readers can tell apart; grey is kept for SFT, where all arms start.
SERIES = ("#6f7682", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8f6b0e", "#8a6fc2")
INK, GRID = "#30343a", "#c4c7cc"
_STYLE = {
    "font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 8.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.5, "grid.alpha": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.axisbelow": True,
    "axes.formatter.useoffset": False, "lines.linewidth": 1.8, "lines.markersize": 3.5, "xtick.major.size": 0,
    "ytick.major.size": 0, "svg.fonttype": "none", "svg.hashsalt": "kit",
}  # fmt: skip
MARKERS = ("o", "s", "o", "^", "v", "D", "P")  # beside the colours, for those who do not tell these apart
_OWN_SERIES = {"sft": 0, "dpo": 1, "ppo": 2, "rloo": 3, "grpo": 4, "best_of_n": 5, "longest_of_n": 6}


@dataclass(frozen=True)
class Picture:
    """One figure of the page: a title, a text for those who do not see it, and the SVG."""

    title: str
    description: str
    svg: str


def series_of(names: Sequence[str]) -> dict[str, int]:
    """The colour number of each arm: the same arm has the same colour whichever others are there."""
    others = [name for name in names if name not in _OWN_SERIES]
    numbers = {name: 3 + index % (len(SERIES) - 3) for index, name in enumerate(others)}
    return {name: _OWN_SERIES.get(name, numbers.get(name, 0)) for name in names}


def in_style(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Let `draw` run with the page's matplotlib settings, and leave the caller's as they were."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def figure_of(width: float, height: float, heights: Sequence[float] = (1,)) -> "tuple[Figure, list[Axes]]":
    """A figure of `width` x `height` inches and its axes, one above the other over one x axis, in these `heights`.

    Made without pyplot, so nothing global is kept.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    rows = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes in rows:
        axes.locator_params(axis="x", nbins=5)
        axes.locator_params(axis="y", nbins=5)
    return figure, list(rows)


def short(arm: str) -> str:
    """An arm's label cut to what a small figure has room for."""
    return label(arm) if len(label(arm)) <= 14 else f"{label(arm)[:13]}\u2026"


def legend(figure: "Figure") -> None:
    """Name the lines above the picture, from its left edge on."""
    where = {"loc": "outside upper left", "ncols": 3, "columnspacing": 1.4}
    for text in figure.legend(frameon=False, borderpad=0, handlelength=1.4, **where).get_texts():
        text.set_parse_math(False)


def inline(figure: "Figure", name: str, description: str) -> str:
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
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--grid, rgba(128,128,128,.35))")
    svg = svg.replace("#ffffff", "var(--paper, Canvas)")
    return start + re.sub(r"\s*\n\s*", "\n", svg[svg.index(">") + 1 :]).strip()
