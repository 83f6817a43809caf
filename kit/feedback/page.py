"""The agreement as one self-contained page, and as it shows itself in a notebook.

Names and prompts are people's: they are shown as text, escaped, control and direction characters made visible.
"""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from kit.compare.report.page import house_style
from kit.compare.report.text import UNKNOWN, visible
from kit.feedback import plots, words
from kit.feedback.moments import span

if TYPE_CHECKING:
    from kit.feedback.agreement import Agreement

_TEMPLATES = Path(__file__).parent / "templates"
_HEADINGS = ("judgements", "agrees", "eta", "gold", "repeats", "first wins", "longer wins", "s / item")


def page(found: "Agreement") -> str:
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
    drawn = [
        (picture, Markup(picture.svg)) for picture in plots.pictures(found)
    ]  # names in it are escaped by matplotlib
    return environment.get_template("agreement.html.j2").render(
        style=Markup(house_style()),  # ours, and no data stands in it
        headline=words.headline(found),
        found=found,
        advice=words.advice(found),
        figures=words.figures(found),
        pictures=drawn,
        headings=_HEADINGS,
        people=_people(found),
        groups=found.groups,
        windows=[(span(w.start, w.end), w.judgements, words.told(w.alpha)) for w in found.windows],
        share=words.share,
        told=words.told,
        asides=words.asides(found),
        visible=visible,
    )


def notebook(found: "Agreement") -> str:
    """The headline, what to do and the figures, as HTML without a style sheet: it takes the notebook's colours."""
    colour = "#c98500" if found.flags else "#7a8088"
    listed = "".join(
        f'<p style="margin:.4em 0;padding-left:.8em;border-left:3px solid {colour}">{escape(visible(text))}</p>'
        for text in words.advice(found)
    )
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:500;padding:.2em 1.2em .2em 0">{escape(name)}</th>'
        f'<td style="text-align:left;padding:.2em 0">{escape(visible(text))}</td></tr>'
        for name, text in words.figures(found)
    )
    return (
        '<div style="font-family:system-ui,sans-serif;color:inherit;background:transparent">'
        f'<p style="font-size:1.15em;font-weight:600;margin:.4em 0">{escape(words.headline(found))}</p>{listed}'
        f'<table style="border-collapse:collapse;margin:.6em 0">{rows}</table></div>'
    )


def _people(found: "Agreement") -> list[tuple[str, str, list[str], bool]]:
    """(name, group, cells, whether named) of each annotator, those named first, then the least reliable."""
    flagged = {flag.annotator for flag in found.flags}
    rows = []
    for one in sorted(found.people, key=lambda p: (p.name not in flagged, found.reliability[p.name].eta)):
        model = found.reliability[one.name]
        shares = [words.share(v) for v in (one.gold, one.consistency, one.first_wins, one.longer_wins)]
        eta = f"{model.eta:.2f} ({model.ci95[0]:.2f} to {model.ci95[1]:.2f})" if model.overlap else UNKNOWN
        seconds = UNKNOWN if one.seconds_median is None else f"{one.seconds_median:.1f}"
        cells = [f"{one.judgements:,}", words.share(one.agreement), eta, *shares, seconds]
        rows.append((visible(one.name), visible(one.group or ""), cells, one.name in flagged))
    return rows
