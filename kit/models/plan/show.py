"""A plan in a terminal of 80 columns."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kit.errors import printable
from kit.models.plan.card import GIB
from kit.models.plan.planner import PREDICTED, CardPlan, Plan, StagePlan

_BASE = ("4-bit linears", "linears", "embeddings, head, norms")
_CUDA = ("CUDA context", "allocator's slack")


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """For one card the stages, the largest one in full, and what to do; for several a column each."""
    console = console or Console(highlight=False)
    console.print(f"[bold]{_plain(plan.base)}[/bold], {plan.parameters / 1e9:.2f} B parameters. GiB, {PREDICTED}.\n")
    if len(plan.cards) == 1:
        _one_card(plan.cards[0], console)
    else:
        _cards(plan, console)


def _plain(text: str) -> str:
    """A text that is not ours, a model's name say: no control characters, no markup."""
    return escape(printable(text))


def _one_card(planned: CardPlan, console: Console) -> None:
    table = Table(
        title=f"{planned.card.name}: {planned.card.gib:.1f} GiB", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("stage")
    for name in ("base", "roles", "pass", "CUDA", "peak"):
        table.add_column(name, justify="right")
    for name in ("", "micro-batch", "at once"):
        table.add_column(name)
    for stage in planned.stages:
        table.add_row(
            stage.stage, *_columns(stage), f"[bold]{_gib(stage.peak_bytes)}[/bold]", _mark(stage.fits),
            _size(stage.memory.sizes.micro, stage.largest_micro_batch),
            _size(stage.memory.sizes.rollout, stage.largest_rollout_batch),
        )  # fmt: skip
    console.print(table)
    legend = "micro-batch, responses at once: what is used, and the most that leaves a tenth of the card free"
    console.print(f"[dim]{legend}[/dim]\n")
    largest = planned.peak
    console.print(f"{largest.stage} peaks in its pass '{largest.memory.peak_pass}':")
    for name, size in sorted(largest.memory.items.items(), key=lambda item: -item[1]):
        console.print(f"  {_gib(size, 2):>6}  {name}")
    _advise(planned, console)


def _cards(plan: Plan, console: Console) -> None:
    console.print("No GPU here; on common cards:")
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for planned in plan.cards:
        table.add_column(planned.card.name, justify="right")
    for row in zip(*(planned.stages for planned in plan.cards), strict=True):
        table.add_row(row[0].stage, *(f"{_gib(stage.peak_bytes)} {_mark(stage.fits)}" for stage in row))
    console.print(table)
    for planned in plan.cards:
        _advise(planned, console)
    console.print("\n[dim]--gpu-memory-gib 12 shows one card in full[/dim]")


def _advise(planned: CardPlan, console: Console) -> None:
    if planned.fits:
        console.print(f"\n[green]It fits {planned.card.name}[/green], {planned.spare:.0%} to spare.")
    else:
        console.print(f"\n[red]{planned.card.name}[/red]: {_plain(planned.advice)}")


def _columns(stage: StagePlan) -> list[str]:
    """Base, roles (adapters, heads, optimizer), the pass at the peak, CUDA."""
    items, memory = stage.memory.items, stage.memory
    base = sum(items.get(name, 0) for name in _BASE)
    cuda = sum(items.get(name, 0) for name in _CUDA)
    roles = sum(memory.static.values()) - base
    return [_gib(size) for size in (base, roles, sum(items.values()) - base - cuda - roles, cuda)]


def _size(used: int, largest: int | None) -> str:
    return "" if largest is None else f"{used} (most {largest})"


def _mark(fits: bool) -> str:
    return "[green]fits[/green]" if fits else "[red]no[/red]"


def _gib(size: int, digits: int = 1) -> str:
    return f"{size / GIB:.{digits}f}"
