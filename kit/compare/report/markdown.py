"""The report as text, for a terminal, a diff or an issue; it says what the page says, without the pictures."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kit.compare.report import panel, sections
from kit.compare.report.samples import SAMPLES_IN_TEXT, Message, chosen, messages_of, scores_of
from kit.compare.report.table import rows
from kit.compare.report.text import estimate, label, visible
from kit.compare.report.words import cautions, details, limits, prompts_sentence, verdict_sentence
from kit.compare.result import Arm

Metrics = Mapping[str, Any]


def markdown(
    metrics: Metrics, prompts: Sequence[Sequence[Message]], arms: Sequence[Arm], facts: Mapping[str, str]
) -> str:
    """The whole report; sections that nothing is known of are left out."""
    lines = [
        *_verdict(metrics),
        *_who_won(metrics),
        *_table("Numbers of each arm", sections.numbers(metrics)),
        *_table("Cost", sections.cost(metrics), sections.cost_sentence(metrics)),
        *_distance(metrics),
        *_panel(metrics),
        *_list("The reward model", sections.gate_facts(metrics), sections.gate_sentence(metrics)),
        *_list("The judge", sections.judge_facts(metrics)),
        *_list("How it was done", list(facts.items())),
        *("## What this does not show", "", *(f"- {text}" for text in limits(metrics)), ""),
        *_samples(prompts, arms),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _verdict(metrics: Metrics) -> list[str]:
    head, *body = rows(metrics)
    lines = ["# Comparison", "", f"**{_plain(verdict_sentence(metrics))}**", ""]
    if needed := prompts_sentence(metrics):
        lines += [_plain(needed), ""]
    lines += [f"- {_plain(topic)}: {_plain(text)}" for topic, text in details(metrics)]
    lines += ["", *(f"> **Caution.** {_plain(note)}\n" for note in cautions(metrics))]
    lines += _grid(head, body)
    return [*lines, "", "± is half the width of the 95 % interval over prompts. Wins count ties half.", ""]


def _who_won(metrics: Metrics) -> list[str]:
    headings, pairs = sections.pairs_table(metrics)
    if not pairs:
        return []
    body = [[pair, *(f"{v} ({note})" if note else v for v, note in cells)] for pair, cells in pairs]
    lines = ["## Head to head", "", *_grid(["Pair", *headings], body), ""]
    length = sections.length_sentence(metrics)
    return [*lines, _plain(length), ""] if length else lines


def _distance(metrics: Metrics) -> list[str]:
    curves = {arm: line for arm, line in (metrics.get("curves") or {}).items() if line}
    if not curves:
        return []
    head = ["arm", "step", "KL, nats", str(metrics.get("curve_unit") or "judge"), "proxy", "tokens"]
    body = [
        [
            label(arm),
            "last" if point.get("step") is None else str(point["step"]),
            estimate(point.get("kl_nats"), 1),
            estimate(point.get("judge")),
            estimate(point.get("proxy")),
            estimate(point.get("response_tokens"), 0),
        ]
        for arm, line in curves.items()
        for point in line
    ]
    return ["## Score against distance from SFT", "", *_grid(head, body), ""]


def _panel(metrics: Metrics) -> list[str]:
    tables = panel.hacking_panel(metrics)
    if not tables:
        return []
    lines = ["## Signs of reward hacking", ""]
    lines += [f"- {_plain(text)}" for text in panel.hacking_sentences(metrics)] or ["None of the known ones."]
    lines += ["", panel.intervals_sentence(metrics), ""]
    for table in tables:
        lines += [f"### {_plain(table.title)}", ""]
        body = [
            [f"{measure.title}, {measure.unit}" if measure.unit else measure.title, *map(_measured, cells)]
            for measure, cells in table.rows
        ]
        lines += [*_grid(["", *(name for name, _ in table.columns)], body), ""]
    return lines


def _measured(cell: panel.Measured) -> str:
    interval = f"; {cell.interval}" if cell.interval else ""
    change = f"({cell.change}{interval})" if cell.change else ""
    warning = "!" if cell.warns else ""
    return " ".join(part for part in (cell.value, change, *(cell.flag or ()), warning, cell.quote) if part)


def _table(title: str, table: sections.Table, sentence: str = "") -> list[str]:
    if not table.rows:
        return []
    body = [
        [f"{what}, {unit}" if unit else what, *(f"{v} ({ci})" if ci else v for v, ci in cells)]
        for what, unit, cells in table.rows
    ]
    lines = [f"## {title}", "", *_grid(["", *(name for name, _ in table.columns)], body), ""]
    return [*lines, sentence, ""] if sentence else lines


def _list(title: str, facts: Sequence[tuple[str, str]], sentence: str | None = None) -> list[str]:
    if not facts and not sentence:
        return []
    said = [_plain(sentence), ""] if sentence else []
    return [f"## {title}", "", *said, *(f"- {_plain(name)}: {_plain(text)}" for name, text in facts), ""]


def _samples(prompts: Sequence[Sequence[Message]], arms: Sequence[Arm]) -> list[str]:
    lines = ["## Samples", "", "Spread evenly over the held-out prompts, not picked. All are in samples.jsonl."]
    for at in chosen(len(prompts), SAMPLES_IN_TEXT):
        lines += ["", f"### Prompt {at + 1}", ""]
        lines += [f"{_plain(role)}:\n\n{_fence(text)}\n" for role, text in messages_of(prompts[at])]
        for arm in arms:
            scores = ", ".join(f"{name} {value}" for name, value in scores_of(arm.answers[at]))
            lines += [f"{_plain(label(arm.name))} ({scores}):\n\n{_fence(visible(arm.answers[at].text))}\n"]
    return lines


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] + ["---:"] * (len(head) - 1)), *(_row(cells) for cells in body)]


def _row(cells: Sequence[str]) -> str:
    marks = ("---", "---:")
    return f"| {' | '.join(cell if cell in marks else _plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    safe = re.sub(r"([\\`*_{}\[\]|#!~])", r"\\\1", " ".join(visible(text).split()))
    return safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fence(text: str) -> str:
    """A code block that the text cannot close: its fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
