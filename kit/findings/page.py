"""The findings as one self-contained page, and as they show themselves in a notebook.

Whatever stands in people's data is shown as text: escaped, its control and direction characters made visible.
"""

from html import escape
from pathlib import Path
from typing import Any

from kit.compare.report.page import house_style
from kit.compare.report.text import visible
from kit.findings import words
from kit.findings.findings import Findings, Lengths, Sample

_TEMPLATES = Path(__file__).parent / "templates"
_SHADES = 2  # neighbouring tokens differ in shade


def page(found: Findings) -> str:
    """The page: nothing is loaded from elsewhere, and there is no script in it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (_TEMPLATES / "check.css.j2").read_text(encoding="utf-8")
    return environment.get_template("check.html.j2").render(
        style=Markup(house_style() + style),  # ours, and no data stands in it
        found=found,
        headline=words.headline(found),
        notes=words.remarks(found),
        sources=found.sources,
        lengths=[(one, words.over(one), _bars(one)) for one in found.lengths],
        limits=[(limit, words.effect(limit), words.fits(limit)) for limit in found.limits],
        pairs=words.pair_facts(found.pairs) if found.pairs else [],
        rules=_rules(found),
        turns=[*words.turn_facts(found.turns), *words.end_facts(found.end_of_turn)],
        samples=[_tokens(sample) for sample in found.samples],
        run=[("run folder", found.run_folder), *((n, _fate(runs)) for n, runs in found.steps.items())],
        places=_all_places,
        visible=_visible,
    )


def notebook(found: Findings) -> str:
    """The verdict, what to look at and the facts, as HTML without a style sheet: it takes the notebook's colours."""
    colour = "#c0392b" if found.stops else "#c98500"
    items = [*found.stops, *found.warnings]
    listed = "".join(
        f'<p style="margin:.4em 0;padding-left:.8em;border-left:3px solid {colour};white-space:pre-line">'
        f"{_escaped(text)}</p>"
        for text in items
    )
    facts = [*(words.pair_facts(found.pairs) if found.pairs else []), *words.turn_facts(found.turns)]
    facts += words.end_facts(found.end_of_turn)
    facts += [(f"{one.what}, {one.part}", f"p50 {one.p50:,}, p95 {one.p95:,}, p99 {one.p99:,}, max {one.max:,} tokens; "
               f"{words.over(one)}") for one in found.lengths]  # fmt: skip
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:500;padding:.2em 1.2em .2em 0">{_escaped(name)}</th>'
        f'<td style="text-align:left;padding:.2em 0">{_escaped(text)}</td></tr>'
        for name, text in facts
    )
    return (
        '<div style="font-family:system-ui,sans-serif;color:inherit;background:transparent">'
        f'<p style="font-size:1.15em;font-weight:600;margin:.4em 0">{_escaped(words.headline(found))}</p>{listed}'
        f'<table style="border-collapse:collapse;margin:.6em 0">{rows}</table></div>'
    )


def _escaped(text: str) -> str:
    return escape(visible(text))


def _visible(text: Any) -> str:
    return visible(str(text))


def _fate(runs: bool) -> str:
    return "would run" if runs else "done, would be kept"


def _all_places(where: list[str]) -> str:
    return words.places(where, shown=20)


def _bars(one: Lengths) -> dict[str, Any]:
    """A histogram in a box of 100 by 24, and where the limit stands in it (None: to the right of all texts)."""
    most, width = max(one.histogram), 100 / len(one.histogram)
    bars = [
        {"x": round(n * width, 2), "width": round(width * 0.86, 2), "height": round(max(24 * count / most, 0.7), 2)}
        for n, count in enumerate(one.histogram)
        if count
    ]
    for bar in bars:
        bar["y"] = round(24 - bar["height"], 2)
    end = len(one.histogram) * one.histogram_step
    return {"bars": bars, "limit": round(100 * one.limit / end, 2) if one.limit < end else None}


def _rules(found: Findings) -> list[dict[str, Any]]:
    """Rules that a reward model has to beat, as bars from 0 to 100 with 50 marked."""
    if found.pairs is None:
        return []
    named = [
        ("The longer answer wins", found.pairs.longer_wins),
        ("The answer shown first wins", found.pairs.first_wins),
    ]
    return [
        {"name": name, "share": 100 * one.share, "text": f"{words.percent(one.share)} of {one.cases:,}"}
        for name, one in named
        if one is not None and one.share is not None
    ]


def _tokens(sample: Sample) -> dict[str, Any]:
    """The sample's parts as classes and texts of tokens."""
    parts = []
    for name, pieces in sample.parts:
        told = []
        for at, piece in enumerate(pieces):
            kind = "read" if not piece.learnt else "end" if piece.ends else f"learnt{at % _SHADES}"
            text = f"… {piece.left_out:,} tokens …" if piece.left_out else piece.text
            told.append((kind, visible(text).replace("\n", "↵\n")))
        parts.append((name, told))
    return {"title": sample.title, "where": visible(sample.where), "parts": parts}
