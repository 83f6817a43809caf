"""The comparison's folder: metrics.json, samples.jsonl, report.md and one self-contained report.html.

Whatever models and data wrote is shown as text: escaped, and with its control and direction characters made visible.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.compare.figures import arm_pictures, learning_curves, series_of
from kit.compare.result import METRICS_FILE, TRUTH, Answer, Arm, finite
from kit.compare.statistics import NO_DIFFERENCE
from kit.compare.table import (
    HIDDEN,
    UNKNOWN,
    cautions,
    duration,
    estimate,
    interval_text,
    label,
    number,
    percent,
    rows,
    size,
    verdict_sentence,
    visible,
)
from kit.runs.files import write_json, write_text

Message = Mapping[str, Any]
Metrics = Mapping[str, Any]

SAMPLES_IN_PAGE, SAMPLES_IN_TEXT, SAMPLES_OPEN = 20, 5, 4
_LONG = 900  # characters from which an answer scrolls in the page


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
    `facts` says how it was done, heading to text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "samples.jsonl", "".join(f"{_sample_line(p, arms, at)}\n" for at, p in enumerate(prompts)))
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
    """The page: no script, nothing loaded from elsewhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = FileSystemLoader(Path(__file__).parent / "templates")
    page = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = [arm.name for arm in arms]
    return page.get_template("report.html.j2").render(
        sentence=verdict_sentence(metrics),
        bar=_interval_bar(metrics),
        cautions=cautions(metrics),
        arms=[(label(name), number) for name, number in series_of(list(metrics["arms"])).items()],
        table=_table(metrics),
        pictures=arm_pictures(metrics),
        curves=[(label(stage), pictures) for stage, pictures in learning_curves(curves).items()],
        samples=[_sample(prompts[at], arms, at, metrics["judge"], series_of(names)) for at in _chosen(len(prompts))],
        prompts=len(prompts),
        opened=SAMPLES_OPEN,
        facts={visible(name): visible(text) for name, text in facts.items()},
        limits=limits(metrics),
    )


def limits(metrics: Metrics) -> list[str]:
    """What this comparison does not show."""
    judge = (
        "The truth here is a formula that scores every answer exactly. It shows whether the training found what was "
        "asked for; it does not show what people would say."
        if metrics["judge"] == TRUTH
        else "The judge is the reward model itself. It cannot see its own mistakes, and PPO was rewarded for them."
    )
    return [
        "Training luck: one training run per arm. Intervals cover the choice of prompts alone. Repeat with 3 seeds.",
        judge,
        "Equal distance: the arms moved away from SFT by different amounts (KL). At the same KL the order may differ.",
        "Equal tuning: each arm ran with the settings given, not with its best ones.",
        "Other prompts: these come from the same source as the training prompts. No other topics, no facts, no safety.",
        "Cost elsewhere: time and memory were measured on one machine, at one size of model.",
    ]


def markdown(
    metrics: Metrics, prompts: Sequence[Sequence[Message]], arms: Sequence[Arm], facts: Mapping[str, str]
) -> str:
    """The report as text, for a terminal, a diff or an issue."""
    head, *body = rows(metrics)
    lines = ["# Comparison", "", f"**{_plain(verdict_sentence(metrics))}**", ""]
    lines += [f"> **Caution.** {_plain(note)}\n" for note in cautions(metrics)]
    lines += [_row(head), _row(["---"] + ["---:"] * (len(head) - 1)), *(_row([_plain(c) for c in r]) for r in body), ""]
    lines += ["± is half the width of the 95 % interval over prompts. Wins count ties half.", ""]
    lines += ["## Numbers of each arm", "", _row(["", *(_plain(label(name)) for name in metrics["arms"])])]
    lines += [_row(["---"] + ["---:"] * len(metrics["arms"]))]
    lines += [
        _row([f"{title}, {unit}" if unit else title, *(f"{v} ({ci})" if ci else v for v, ci in cells)])
        for title, unit, cells in _table(metrics)
    ]
    lines += ["", "## How it was done", "", *(f"- {_plain(name)}: {_plain(text)}" for name, text in facts.items())]
    lines += ["", "## What this does not show", "", *(f"- {text}" for text in limits(metrics))]
    lines += ["", "## Samples", "", "Spread evenly over the held-out prompts, not picked. All are in samples.jsonl."]
    for at in _chosen(len(prompts), SAMPLES_IN_TEXT):
        lines += ["", f"### Prompt {at + 1}", ""]
        lines += [f"{_plain(role)}:\n\n{_fence(text)}\n" for role, text in _messages(prompts[at])]
        for arm in arms:
            scores = ", ".join(f"{name} {value}" for name, value in _scores(arm.answers[at]))
            lines += [f"{_plain(label(arm.name))} ({scores}):\n\n{_fence(visible(arm.answers[at].text))}\n"]
    return "\n".join(lines).rstrip() + "\n"


def _interval_bar(metrics: Metrics) -> dict[str, Any] | None:
    """Where PPO's win rate over DPO and its interval lie between 0 and 100; None where there is no such pair."""
    pair = metrics["pairs"].get("ppo_vs_dpo")
    if pair is None:
        return None
    low, high = (100 * end for end in pair["ci95"])
    number = {"dpo": 1, "ppo": 2}.get(pair["verdict"], 0)
    return {
        "low": low,
        "width": high - low,
        "mean": 100 * pair["win_rate"],
        "series": number,
        "even": pair["verdict"] == NO_DIFFERENCE,
        "caption": f"PPO's win rate over DPO: {percent(pair['win_rate'])} %, {interval_text(pair['ci95'])}",
    }


def _table(metrics: Metrics) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Rows of (what, unit, a (value, interval) per arm)."""
    arms = list(metrics["arms"].values())

    def interval(key: str, digits: int) -> list[tuple[str, str]]:
        return [_with_interval(arm[key], digits) for arm in arms]

    wins = [arm["win_rate_vs_sft"] for arm in arms]
    shares = [
        (f"{percent(w['mean'])} %", " to ".join(percent(end) for end in w["ci95"])) if w else (UNKNOWN, "")
        for w in wins
    ]
    ended = [arm.get("ended_rate") for arm in arms]
    return [
        ("True reward", "score", interval("true_reward", 2)),
        ("Proxy reward", "reward model's score", interval("proxy_reward", 2)),
        ("Wins against SFT", "ties count half", shares),
        ("KL from SFT", "nats per answer", interval("kl_nats", 1)),
        ("Length", "tokens per answer", [(estimate(arm["response_tokens"], 0), "") for arm in arms]),
        ("Ended by itself", "share of answers", [(f"{percent(e)} %" if e is not None else UNKNOWN, "") for e in ended]),
        ("Training time", "", [(duration(arm["train_seconds"]), "") for arm in arms]),
        ("Peak memory", "", [(size(arm["peak_bytes"]), "") for arm in arms]),
    ]


def _with_interval(value: Mapping[str, Any] | None, digits: int) -> tuple[str, str]:
    if value is None:
        return UNKNOWN, ""
    return number(value["mean"], digits), " to ".join(number(end, digits) for end in value["ci95"])


def _chosen(prompts: int, most: int = SAMPLES_IN_PAGE) -> list[int]:
    """At most `most` prompts, spread evenly over all, so that nobody picked them."""
    return sorted({at * prompts // most for at in range(most)}) if prompts > most else list(range(prompts))


def _sample(
    prompt: Sequence[Message], arms: Sequence[Arm], at: int, judge: str, series: Mapping[str, int]
) -> dict[str, Any]:
    """One prompt with every arm's answer, as the page shows it; the judge's single favourite is marked."""
    answers = [arm.answers[at] for arm in arms]
    scores = [finite(answer.true_reward if judge == TRUTH else answer.proxy_reward) for answer in answers]
    known = [score for score in scores if score is not None]
    best = max(known, default=None)
    messages = _messages(prompt)
    return {
        "number": at + 1,
        "summary": " ".join(messages[-1][1].split())[:140] if messages else "",
        "messages": messages,
        "answers": [
            {
                "arm": label(arm.name),
                "series": series[arm.name],
                "text": visible(answer.text),
                "long": len(answer.text) > _LONG or answer.text.count("\n") > 16,
                "scores": _scores(answer),
                "best": len(known) > 1 and score is not None and score == best and known.count(best) == 1,
                "ended": answer.ended,
            }
            for arm, answer, score in zip(arms, answers, scores, strict=True)
        ],
    }


def _scores(answer: Answer) -> list[tuple[str, str]]:
    rewards = (("true", finite(answer.true_reward)), ("proxy", finite(answer.proxy_reward)))
    kl = finite(answer.kl_nats)
    return [(name, number(value)) for name, value in rewards if value is not None] + [
        ("KL", UNKNOWN if kl is None else number(kl, 1)),
        ("tokens", str(answer.response_tokens)),
    ]


def _messages(prompt: Sequence[Message]) -> list[tuple[str, str]]:
    """(role, visible text) of each message; content may be text or a list of parts."""
    return [(visible(str(message.get("role", ""))), visible(_content(message.get("content")))) for message in prompt]


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", part)) if isinstance(part, dict) else str(part) for part in content)
    return "" if content is None else str(content)


def _sample_line(prompt: Sequence[Message], arms: Sequence[Arm], at: int) -> str:
    """One line of samples.jsonl: nothing is lost, hidden characters stand as escapes, no number is NaN."""
    answers = {
        arm.name: {
            "text": arm.answers[at].text,
            "true_reward": finite(arm.answers[at].true_reward),
            "proxy_reward": finite(arm.answers[at].proxy_reward),
            "kl_nats": finite(arm.answers[at].kl_nats),
            "response_tokens": arm.answers[at].response_tokens,
            "ended": arm.answers[at].ended,
        }
        for arm in arms
    }
    line = json.dumps({"prompt": list(prompt), "arms": answers}, ensure_ascii=False, allow_nan=False)
    return HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], line)


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    safe = re.sub(r"([\\`*_{}\[\]|#!~])", r"\\\1", " ".join(visible(text).split()))
    return safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _fence(text: str) -> str:
    """A code block that the text cannot close: its fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
