"""The metrics in rows: a table that fits its terminal, with the verdict and the cautions."""

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from kit.compare.report.text import UNKNOWN, duration, estimate, label, size, visible, win_text
from kit.compare.report.words import Metrics, cautions, details, prompts_sentence, verdict_sentence

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HEADINGS = (
    "arm", "true reward", "judge's score", "proxy reward", "wins vs SFT", "at equal length", "KL nats", "tokens",
    "time", "memory",
)  # fmt: skip
_ALWAYS = ("arm", "wins vs SFT", "KL nats", "tokens", "time", "memory")  # the others are left out where unknown
_BREAKS = {"at equal length": "at equal\nlength"}  # the others break at their first space
_DROP_FIRST = ("memory", "time", "tokens", "proxy reward", "at equal length")  # what a narrow terminal can do without


def rows(metrics: Metrics) -> list[list[str]]:
    """The table as text: the headings, then one row per arm; a column that no arm has a number for is left out."""
    table = [
        list(HEADINGS),
        *(
            [
                label(name),
                estimate(arm.get("true_reward")),
                estimate(arm.get("judge_score") if metrics["judge"] not in ("truth", "reward_model") else None),
                estimate(arm.get("proxy_reward")),
                win_text(arm.get("win_rate_vs_sft")),
                win_text(arm.get("win_rate_vs_sft_length_controlled")),
                estimate(arm.get("kl_nats"), 1),
                estimate({"mean": arm["response_tokens"]["mean"]} if arm.get("response_tokens") else None, 0),
                duration(arm.get("train_seconds")),
                size(arm.get("peak_bytes")),
            ]
            for name, arm in metrics["arms"].items()
        ),
    ]
    kept = [at for at, (head, *cells) in enumerate(zip(*table, strict=True)) if head in _ALWAYS or {*cells} - {UNKNOWN}]
    return [[cells[at] for at in kept] for cells in table]


def comparison_table(metrics: Metrics, without: Sequence[str] = (), plus_minus: str = "±") -> "Table":
    """A rich table of `rows`, less the columns named in `without`; `plus_minus` for terminals without that sign."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    head, *body = rows(metrics)
    shown = [column for column, heading in enumerate(head) if heading not in without]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in shown:
        heading = _BREAKS.get(head[column], head[column].replace(" ", "\n", 1))
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
    lines = [(verdict_sentence(metrics), "bold"), (prompts_sentence(metrics) or "", "")]
    lines += [(f"{topic}: {text}", "dim") for topic, text in details(metrics) if topic != "Judge"]
    lines += [(f"Caution: {note}", "yellow") for note in cautions(metrics)]
    for text, style in lines:
        if text:
            console.print(Text(_printable(text, console.encoding), style=style))


def _printable(text: str, encoding: str) -> str:
    """The text without what this terminal cannot write, or should not: metrics.json may be a stranger's."""
    text = visible(text)
    if encoding.lower().startswith("utf"):
        return text
    return text.translate({0x2212: "-", 0x201C: '"', 0x201D: '"'}).encode(encoding, "replace").decode(encoding)


def plain_text(metrics: Metrics, width: int = 100) -> str:
    """What `print_comparison` prints, without colours."""
    from rich.console import Console

    text = StringIO()
    print_comparison(
        metrics, Console(file=text, width=width, color_system=None, force_terminal=False, force_jupyter=False)
    )
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
