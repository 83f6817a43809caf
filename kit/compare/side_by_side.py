"""Several finished runs side by side: their arms in one table and, on prompts they share, against each other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from kit.compare.numbers.statistics import WinRate, outcome_rate, outcomes_of, verdict
from kit.compare.report.table import rows
from kit.compare.report.text import interval_text, label, percent, visible
from kit.compare.result import Comparison
from kit.errors import RunError
from kit.runs.folder import RunFolder

_LEFT_OUT = ("at equal length", "time", "memory")  # to fit a terminal; each run's own report has them
_SCORES = {"truth": "true_reward"}  # judges whose scores mean the same in every run, and where samples.jsonl has them


@dataclass(frozen=True)
class Meeting:
    """One arm of two runs on the prompts that both answered; `rate` is that of the first run's."""

    arm: str
    first: str
    second: str
    rate: WinRate


@dataclass(frozen=True)
class SideBySide:
    """The comparisons of several runs by name, and what their arms score against each other."""

    comparisons: Mapping[str, Comparison]
    meetings: Sequence[Meeting]
    why_no_meetings: str | None


def compare_runs(folders: Sequence[Path]) -> SideBySide:
    """The runs' comparisons, read and not made again; arms of the same name meet where one truth scored both.

    Raises RunError for a folder without a comparison, and for the same run named twice.
    """
    paths = [folder.expanduser().resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise RunError(f"kit compare: {next(p for p in paths if paths.count(p) > 1)} is named twice")
    names = [path.name if [p.name for p in paths].count(path.name) == 1 else str(path) for path in paths]
    found = {name: Comparison.load(path / "compare") for name, path in zip(names, paths, strict=True)}
    decodings = {json.dumps(_decoding(path), sort_keys=True) for path in paths}
    if len(decodings) > 1:
        return SideBySide(found, [], f"their answers were decoded differently: {', '.join(sorted(decodings))}")
    judges = {comparison.metrics["judge"] for comparison in found.values()}
    if len(judges) > 1 or not judges <= _SCORES.keys():
        return SideBySide(found, [], f"judged by {', '.join(sorted(judges))}: scores of different runs do not compare")
    scored = {name: _scores(comparison, _SCORES[comparison.metrics["judge"]]) for name, comparison in found.items()}
    meetings = [
        meeting
        for first, second in combinations(names, 2)
        for arm in scored[first]
        if (meeting := _meet(arm, first, second, scored)) is not None
    ]
    return SideBySide(found, meetings, None if meetings else "the runs have no prompt in common")


def print_runs(runs: SideBySide) -> None:
    """Print one table with a line per run and arm, then the meetings in words."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    by_run = {name: rows(comparison.metrics) for name, comparison in runs.comparisons.items()}
    headings = list(
        dict.fromkeys(heading for table in by_run.values() for heading in table[0] if heading not in _LEFT_OUT)
    )
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("run", *headings):
        shown.add_column(heading.replace(" ", "\n", 1), justify="left" if heading in ("run", "arm") else "right")
    for name, (head, *body) in by_run.items():
        for at, cells in enumerate(body):
            of_heading = dict(zip(head, cells, strict=True))
            texts = ["" if at else name, *(of_heading.get(heading, "-") for heading in headings)]
            shown.add_row(*(Text(visible(text)) for text in texts), end_section=at == len(body) - 1)
    console = Console()
    console.print(shown)
    for meeting in runs.meetings:
        console.print(Text(visible(meeting_sentence(meeting))))
    if runs.why_no_meetings:
        console.print(Text(visible(f"No arm of one run against another's: {runs.why_no_meetings}.")))


def meeting_sentence(meeting: Meeting) -> str:
    """ "PPO: weak-kl beat quickstart on 62 % of 150 shared prompts (95 % interval 54-70 %)." """
    rate, (first, second) = meeting.rate, (meeting.first, meeting.second)
    winner = verdict(rate.ci95, first, second)
    share, ci95 = rate.rate, rate.ci95
    if winner == second:
        first, second, share, ci95 = second, first, 1 - share, [1 - ci95[1], 1 - ci95[0]]
    said = f"on {percent(share)} % of {rate.n} shared prompts ({interval_text(ci95)})"
    if winner in (meeting.first, meeting.second):
        return f"{label(meeting.arm)}: {first} beat {second} {said}."
    return f"{label(meeting.arm)}: no difference; {first} won against {second} {said}."


def _decoding(run: Path) -> dict[str, Any]:
    """How a run's compared answers were decoded; raises RunError where its comparison holds no record."""
    record = RunFolder(run).stage("compare")
    if record is None:
        raise RunError(f"{run}: its comparison has no readable record. Compare that run again")
    settings, lengths = record.inputs.get("compare", {}), record.inputs.get("data", {})
    return {name: settings.get(name) for name in ("temperature", "checkpoint")} | {
        "max_response_tokens": lengths.get("max_response_tokens")
    }


def _scores(comparison: Comparison, field: str) -> dict[str, dict[str, float | None]]:
    """The score of each arm's answer by prompt, from samples.jsonl."""
    file = comparison.path / "samples.jsonl"
    found: dict[str, dict[str, float | None]] = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            row: dict[str, Any] = json.loads(line)
            for arm, answer in row["arms"].items():
                if not isinstance(answer[field], (int, float, type(None))):
                    raise ValueError(f"{field} is {str(answer[field])[:40]!r}, where a number is wanted")
                found.setdefault(arm, {})[json.dumps(row["prompt"], sort_keys=True)] = answer[field]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: cannot be read ({type(error).__name__}: {error}). Compare that run again") from None
    return found


def _meet(
    arm: str, first: str, second: str, scored: Mapping[str, Mapping[str, Mapping[str, float | None]]]
) -> Meeting | None:
    ours, theirs = scored[first].get(arm, {}), scored[second].get(arm, {})
    shared = [prompt for prompt in ours if prompt in theirs]
    rate = outcome_rate(outcomes_of([ours[p] for p in shared], [theirs[p] for p in shared])) if shared else None
    return None if rate is None else Meeting(arm, first, second, rate)
