"""How a comparison shows itself in a notebook."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from kit.compare.report import plots
from kit.compare.report.table import rows
from kit.compare.report.text import visible
from kit.compare.report.words import cautions, details, prompts_sentence, verdict_sentence

_LINE = "border-bottom:1px solid rgba(128,128,128,.3)"
_CELL = f"padding:.35em .9em;text-align:{{}};{_LINE};white-space:nowrap;background:transparent;"
_SOFT = "margin:.3em 0;opacity:.8;max-width:46em"


def notebook(metrics: Mapping[str, Any], report: Path) -> str:
    """Verdict, cautions, win rates, score against KL and the table, as HTML without a style sheet or a script.

    It inherits the notebook's colours, so that it reads on light and on dark pages.
    """
    head, *body = rows(metrics)
    needed = prompts_sentence(metrics)
    said = [f'<p style="{_SOFT}">{escape(visible(needed))}</p>'] if needed else []
    said += [
        f'<p style="margin:.5em 0;padding:.1em 0 .1em .8em;border-left:3px solid #c98500;max-width:46em">'
        f"<b>Caution.</b> {escape(visible(note))}</p>"
        for note in cautions(metrics)
    ]
    said += [f'<p style="{_SOFT}">{escape(topic)}: {escape(visible(text))}</p>' for topic, text in details(metrics)]
    pictures = (plots.head_to_head(metrics), plots.win_rates(metrics), plots.score_against_kl(metrics))
    figures = "".join(
        f'<figure style="margin:0;flex:1 1 20em;max-width:26em"><figcaption style="font-weight:600;margin:.3em 0">'
        f"{escape(picture.title)}</figcaption>{picture.svg}</figure>"
        for picture in pictures
        if picture
    )
    lines = "".join(f"<tr>{_line('td', cells)}</tr>" for cells in body)
    return (
        '<div style="font-family:system-ui,sans-serif;color:inherit;background:transparent;overflow-x:auto">'
        f'<p style="font-size:1.15em;font-weight:600;margin:.4em 0">{escape(visible(verdict_sentence(metrics)))}</p>'
        f"{''.join(said)}"
        f'<div style="display:flex;flex-wrap:wrap;gap:1em 2em;margin:.8em 0">{figures}</div>'
        '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6em 0">'
        f"<thead><tr>{_line('th', head)}</tr></thead><tbody>{lines}</tbody></table>"
        f'<p style="{_SOFT}">Full report: {escape(visible(str(report)))}</p></div>'
    )


def _line(tag: str, cells: Sequence[str]) -> str:
    sides = ["left"] + ["right"] * (len(cells) - 1)
    scopes = [' scope="row"'] + [""] * (len(cells) - 1) if tag == "td" else [' scope="col"'] * len(cells)
    tags = ["th" if "row" in scope else tag for scope in scopes]
    return "".join(
        f'<{kind}{scope} style="{_CELL.format(side)}">{escape(visible(text))}</{kind}>'
        for kind, scope, side, text in zip(tags, scopes, sides, cells, strict=True)
    )
