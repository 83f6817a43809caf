"""The comparison's folder: metrics.json, samples.jsonl, report.md and one self-contained report.html.

Whatever models and data wrote is shown as text: escaped, and with its control and direction characters made visible.
The page holds one script, its own; a policy in the page names the script by its hash, so that no other would run.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.compare.numbers.statistics import NO_DIFFERENCE
from kit.compare.report import panel, plots, sections, words
from kit.compare.report.curves import learning_curves
from kit.compare.report.figures import series_of
from kit.compare.report.markdown import markdown
from kit.compare.report.samples import Message, blind_sample, chosen, sample_line
from kit.compare.report.text import interval_text, label, percent, visible
from kit.compare.result import METRICS_FILE, Arm
from kit.runs.files import write_json, write_text

Metrics = Mapping[str, Any]

SAMPLES_OPEN = 4
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    folder: Path,
    metrics: dict[str, Any],
    prompts: list[list[Message]],
    arms: list[Arm],
    curves: dict[str, list[dict[str, Any]]],
    facts: dict[str, str],
) -> None:
    """Write the four files into `folder`, each whole or not at all, metrics.json last.

    `prompts[i]` are chat messages and belong to every arm's answers[i]; `curves` holds each stage's metrics.jsonl;
    `facts` says how it was done, heading to text. `metrics` may lack whatever is not known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "samples.jsonl", "".join(f"{sample_line(p, arms, at)}\n" for at, p in enumerate(prompts)))
    write_text(folder / "report.md", markdown(metrics, prompts, arms, facts))
    write_text(folder / "report.html", html(metrics, prompts, arms, curves, facts))
    write_json(folder / METRICS_FILE, metrics)


def html(
    metrics: Metrics,
    prompts: Sequence[Sequence[Message]],
    arms: Sequence[Arm],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    facts: Mapping[str, str],
) -> str:
    """The page: nothing is loaded from elsewhere, and all of it reads without its script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    page = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "script.js.j2").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    series = series_of([arm.name for arm in arms])
    headings, pairs = sections.pairs_table(metrics)
    tables = panel.hacking_panel(metrics)
    return page.get_template("report.html.j2").render(
        script=Markup(script),  # ours, and no data stands in it
        script_hash=f"sha256-{digest}",
        style=Markup(house_style()),
        sentence=_tied(words.verdict_sentence(metrics)),
        both={"ppo", "dpo"} <= metrics["arms"].keys(),
        needed=words.prompts_sentence(metrics),
        bar=_interval_bar(metrics),
        details=[(topic, _tied(text)) for topic, text in words.details(metrics)],
        cautions=[_tied(text) for text in words.cautions(metrics)],
        distance=plots.score_against_kl(metrics),
        validation=next(
            (b["validation_prompts"] for arm in metrics["arms"].values() if (b := arm.get("best_checkpoint"))), None
        ),
        bounded=", ".join(label(name) for name, arm in metrics["arms"].items() if arm.get("kl_bound_nats") is not None),
        matched=((metrics["pairs"].get("ppo_vs_dpo") or {}).get("matched_kl")),
        matched_text=words.matched_text,
        wins=[picture for picture in (plots.win_rates(metrics), plots.head_to_head(metrics)) if picture],
        pair_headings=headings,
        pairs=pairs,
        length=sections.length_sentence(metrics),
        seeds=len(metrics.get("seeds") or []),
        numbers=sections.numbers(metrics),
        rewards=plots.rewards(metrics),
        cost=sections.cost(metrics),
        cost_sentence=sections.cost_sentence(metrics),
        panel=tables,
        panel_intervals=panel.intervals_sentence(metrics),
        hacks=panel.hacking_sentences(metrics),
        gate=sections.gate_sentence(metrics),
        gate_facts=sections.gate_facts(metrics),
        gate_pictures=[picture for picture in (plots.gate(metrics), plots.calibration(metrics)) if picture],
        judge=sections.judge_facts(metrics),
        curves=[(label(stage), pictures) for stage, pictures in learning_curves(curves).items()],
        samples=[blind_sample(prompts[at], arms, at, metrics, series) for at in chosen(len(prompts))],
        prompts=len(prompts),
        opened=SAMPLES_OPEN,
        facts={visible(name): visible(text) for name, text in facts.items()},
        limits=words.limits(metrics),
    )


def house_style() -> str:
    """The style sheet of the kit's pages, for light and dark."""
    return (_TEMPLATES / "style.css.j2").read_text(encoding="utf-8")


def _tied(text: str) -> str:
    """The text with every % sign on the line of its number, and every interval on one line."""
    return re.sub(r"(?<=\d)-(?=\d)", "\u2011", text.replace(" %", "\u00a0%"))


def _interval_bar(metrics: Metrics) -> dict[str, Any] | None:
    """Where PPO's win rate over DPO and its interval lie between 0 and 100; None where there is no such pair."""
    pair = metrics["pairs"].get("ppo_vs_dpo")
    if pair is None:
        return None
    low, high = (100 * end for end in pair["ci95"])
    return {
        "low": low,
        "width": high - low,
        "mean": 100 * pair["win_rate"],
        "series": {"dpo": 1, "ppo": 2}.get(pair["verdict"], 0),
        "even": pair["verdict"] == NO_DIFFERENCE,
        "caption": _tied(f"PPO's win rate over DPO: {percent(pair['win_rate'])} %, {interval_text(pair['ci95'])}"),
    }
