"""The agreement in a terminal of 80 columns, or in a pipe."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kit.compare.report.text import UNKNOWN, visible
from kit.feedback import words
from kit.feedback.moments import span

if TYPE_CHECKING:
    from kit.feedback.agreement import Agreement

_PEOPLE, _ITEMS, _TEXT = 40, 5, 58


def print_agreement(found: "Agreement", console: Console | None = None) -> None:
    """The figures, each annotator from the least reliable on, and last what to do."""
    console = console or Console(highlight=False)
    _line(console, words.headline(found), "bold")
    _line(console, f"{found.source}: {found.form}", "dim")
    for note in found.notes:
        _line(console, note, "dim")
    _heading(console, "All together")
    _facts(console, words.figures(found))
    _heading(console, "Each annotator, the least reliable first")
    console.print(_people(found))
    if found.groups:
        _heading(console, "Groups")
        _facts(console, [(group.name, _group(group)) for group in found.groups])
    if found.windows:
        _heading(console, "In time, UTC (alpha of pairs)")
        _facts(console, [(span(w.start, w.end), words.told(w.alpha)) for w in found.windows])
    if found.disagreed:
        _heading(console, "Where they disagree most")
        for item in found.disagreed[:_ITEMS]:
            text = " ".join(visible(item.text).split())[:_TEXT] or item.name
            _line(console, f"  {100 * item.disagreement:3.0f} % of {item.annotators} people  {text} ({item.where})")
    if asides := words.asides(found):
        _heading(console, "Besides ranks")
        _facts(console, asides[:_PEOPLE])
    said = words.advice(found)
    _heading(console, "What to do", "yellow" if found.flags else "")
    for text in said or ["Nothing stands out."]:
        table = Table.grid(padding=(0, 1))
        table.add_row(Text("  -"), Text(visible(text), overflow="fold"))
        console.print(table)


def _group(group: object) -> str:
    within, across, without = (getattr(group, name) for name in ("within", "across", "alpha_without"))
    return f"{words.share(within)} within, {words.share(across)} with others; alpha without it {words.told(without)}"


def _people(found: "Agreement") -> Padding:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", overflow="fold", max_width=18)
    for name in ("n", "agrees", "eta", "gold", "repeats", "first", "longer", "s/item"):
        table.add_column(name, justify="right", no_wrap=True)
    flagged = {flag.annotator for flag in found.flags}
    people = sorted(found.people, key=lambda one: (one.name not in flagged, found.reliability[one.name].eta))
    for one in people[:_PEOPLE]:
        model = found.reliability[one.name]
        shares = (one.agreement, one.gold, one.consistency, one.first_wins, one.longer_wins)
        agrees, *others = map(words.share, shares)
        seconds = UNKNOWN if one.seconds_median is None else f"{one.seconds_median:.0f}"
        eta = f"{model.eta:.2f}" if model.overlap else UNKNOWN
        style = "yellow" if one.name in flagged else ""
        table.add_row(Text(visible(one.name)), f"{one.judgements:,}", agrees, eta, *others, seconds, style=style)
    if len(people) > _PEOPLE:
        table.add_row(Text(f"and {len(people) - _PEOPLE} more", style="dim"))
    return Padding(table, (0, 0, 0, 2))


def _heading(console: Console, text: str, style: str = "") -> None:
    console.print(Text(f"\n{text}", style=f"bold {style}".strip()))


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(visible(text), style=style), soft_wrap=not console.is_terminal)


def _facts(console: Console, facts: list[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=20)
    table.add_column(ratio=1)
    for name, text in facts:
        table.add_row(Text(f"  {visible(name)}"), Text(visible(text), overflow="fold"))
    console.print(table)
