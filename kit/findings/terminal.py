"""The findings in a terminal of 80 columns, or in a pipe."""

from collections.abc import Mapping, Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kit.compare.report.text import visible
from kit.findings import words
from kit.findings.findings import Findings, Limit, Piece, Sample

_LEARNT = ("green", "cyan")  # in turn, so that tokens part without a mark between them
_ENDS = "bold black on green"
_MARKS = "[ ]"
_NAME = 28  # columns of a name before its counts


def print_findings(found: Findings, console: Console | None = None) -> None:
    """Facts first, then what to look at, and the verdict last, where the eye is when the text has scrolled by."""
    console = console or Console(highlight=False)
    for note in words.remarks(found):
        _line(console, note)
    _heading(console, "Rows")
    _rows(console, found)
    _heading(console, "Tokens")
    console.print(_tokens(found))
    for limit in found.limits:
        console.print()
        console.print(_limit(limit))
    if found.pairs is not None:
        _heading(console, "Pairs")
        _facts(console, words.pair_facts(found.pairs))
    _heading(console, "Turns")
    _facts(console, [*words.turn_facts(found.turns), *words.end_facts(found.end_of_turn)])
    for sample in found.samples:
        _sample(console, sample)
    if found.warnings:
        _heading(console, "Worth a look", "yellow")
        for text in found.warnings:
            _item(console, "!", text, "yellow")
    if found.stops:
        _heading(console, "Stops a run", "red")
        for text in found.stops:
            _item(console, "x", text, "red")
    console.print()
    for line in found.lines()[len(found.notes) : -1]:
        _line(console, line)
    _line(console, found.verdict(), "bold green" if found.ok else "bold red")


def _heading(console: Console, text: str, style: str = "") -> None:
    console.print(Text(f"\n{visible(text)}", style=f"bold {style}".strip()))


def _line(console: Console, text: str, style: str = "") -> None:
    """A line that a pipe keeps whole, so that it can be searched for."""
    console.print(Text(visible(text), style=style), soft_wrap=not console.is_terminal)


def _indented(text: RenderableType, left: int = 2) -> Padding:
    return Padding(text, (0, 0, 0, left))


def _item(console: Console, mark: str, text: str, style: str) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_row(Text(f"  {mark}", style=f"bold {style}"), Text(visible(text), overflow="fold"))
    console.print(table)


def _facts(console: Console, facts: Sequence[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=20, no_wrap=True)
    table.add_column(ratio=1)
    for name, text in facts:
        table.add_row(Text(f"  {visible(name)}"), Text(visible(text), overflow="fold"))
    console.print(table)


def _rows(console: Console, found: Findings) -> None:
    """What each source gave, then what is used of it; below every line what was left out, and where first."""
    console.print(Text(f"  {'':{_NAME}}{'read':>8}{'gives':>8}{'left out':>10}", style="dim"))
    for source in found.sources:
        lost = sum(map(len, source.dropped.values())) + source.malformed
        name = f"{visible(source.name)} ({source.setting})"
        _counts(console, name, f"{source.rows + source.malformed:>8,}{source.kept:>8,}{lost:>10,}")
        _reasons(console, source.dropped)
        if source.malformed:
            console.print(_indented(Text(f"{source.malformed:,} malformed"), 6))
    console.print(Text(f"\n  {'':{_NAME}}{'train':>8}{'held out':>10}", style="dim"))
    for one in found.sizes:
        _counts(console, one.what, f"{one.train:>8,}{one.held_out:>10,}")
        _reasons(console, one.dropped)


def _counts(console: Console, name: str, counts: str) -> None:
    """A name and its counts in one line, or in two where the name is long."""
    if len(name) > _NAME:
        console.print(_indented(Text(name, overflow="fold")))
        name = ""
    console.print(Text(f"  {name:{_NAME}}{counts}"))


def _reasons(console: Console, dropped: Mapping[str, Sequence[str]]) -> None:
    for reason, where in dropped.items():
        console.print(_indented(Text(f"{len(where):,} {visible(reason)}: {words.places(where)}", overflow="fold"), 6))


def _tokens(found: Findings) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    for name in ("p50", "p95", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("longer than the limit")
    for one in found.lengths:
        cells = (f"{count:,}" for count in (one.p50, one.p95, one.p99, one.max))
        table.add_row(f"  {one.what}, {one.part}", *cells, Text(words.over(one), style="yellow" if one.over else ""))
    return table


def _limit(limit: Limit) -> RenderableType:
    """What other limits would do, in two lines: the limits, and the share of texts that are longer."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=22, no_wrap=True)
    effects = words.effect(limit)
    for _ in effects:
        table.add_column(justify="right", no_wrap=True)
    table.add_row(f"  {limit.setting}", *(tokens for tokens, _ in effects), style="dim")
    table.add_row("  texts that are longer", *(share for _, share in effects))
    both = Table.grid()
    both.add_row(table)
    both.add_row(Text(f"  {words.fits(limit)}; * is set", style="dim"))
    return both


def _sample(console: Console, sample: Sample) -> None:
    _heading(console, f"{sample.title} ({visible(sample.where)})")
    coloured = console.color_system is not None and not console.no_color
    split = "in two colours" if coloured else "parted by │"
    console.print(_indented(Text(f"learnt tokens stand in {_MARKS}, {split}; the rest is only read", style="dim")))
    for name, pieces in sample.parts:
        text = Text(f"{name}: " if name else "", style="bold", overflow="fold")
        text.append_text(_tokens_text(pieces, coloured))
        console.print(_indented(text))


def _tokens_text(pieces: Sequence[Piece], coloured: bool) -> Text:
    """The tokens, learnt ones in brackets; without colour a line parts them too."""
    text = Text(style="not bold")
    learnt, at = False, 0
    for piece in pieces:
        if piece.learnt != learnt:
            text.append("[" if piece.learnt else "]", style="bold")
            learnt, at = piece.learnt, 0
        elif learnt and not coloured:
            text.append("│")
        style = "dim" if not learnt else _ENDS if piece.ends else _LEARNT[at % 2]
        shown = f"… {piece.left_out:,} tokens …" if piece.left_out else piece.text.replace("\n", "↵\n")
        text.append(visible(shown), style=style)
        at += 1
    if learnt:
        text.append("]", style="bold")
    return text
