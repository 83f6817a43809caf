"""People as the judge: what they said in a labelling project of kind `ab` (kit.sampling.ab makes it).

A standing judgement is a vote; a skipped item is none, and neither is a repeat, which is there to see whether somebody
agrees with themselves. Prompts that both arms answer alike have no item, as nobody is needed: they are ties.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.compare.judges.scores import Arms, outcome_facts
from kit.compare.judges.votes import Vote, count_votes
from kit.compare.verdicts import Verdicts
from kit.data.rows import Message
from kit.errors import ConfigError, DataError
from kit.labels.project import Project, is_project, open_project
from kit.labels.rows import judgement_rows

NAME = "human"
AB_KEY = "ab"  # of project.json: the run, the arms, how many prompts, and the numbers of those with equal answers


def find_people(folder: Path, run: Path) -> Project:
    """The project of people's choices. Raises ConfigError where there is none, with the line that makes one."""
    if not is_project(folder):
        raise ConfigError(
            f"compare.judge human: no labelling project at {folder}. Compare with another judge first; then "
            f"`kit label --ab {run}` collects people's votes, and `kit compare {run} --judge human` counts them"
        )
    project = open_project(folder)
    if project.kind != "ab" or not isinstance(project.settings.get(AB_KEY), dict):
        raise ConfigError(
            f"compare.judge {folder}: this project was not made from a comparison; `kit label --ab {run}` makes one"
        )
    return project


def judge_by_people(
    folder: Path, run: Path, prompts: Sequence[list[Message]], answers: Mapping[str, Sequence[str]],
    pairs: Sequence[Arms],
) -> Verdicts:  # fmt: skip
    """Who won each prompt, by the choices in a project. Several people's on one pair of answers make their mean.

    Equal answers are ties, but only as large a share of them counts as of the items was judged (the first ones, as
    prompts stand in an order of chance); else half a project would be nearer to a draw than a whole one. Facts: those
    of `count_votes`, `equal` (ties so counted) and `skipped`. Raises DataError where no vote is left.
    """
    project = find_people(folder, run)
    items = [item for item in project.items.values() if item.repeat_of is None]
    rows = [row for row in judgement_rows(project) if row["repeat_of"] is None]
    votes = _votes(project, [row for row in rows if row["ranks"] is not None])
    counted = count_votes(votes, answers, len(prompts), pairs, folder, f"`kit label --ab {run}` collects votes")
    equal = 0
    for pair, outcomes in counted.outcomes.items():
        judged = sum(outcome is not None for outcome in outcomes)
        for number in _equal(project, answers, pair, judged / len(items)):
            outcomes[number], equal = 0.5, equal + 1
    facts = {**counted.facts, "equal": equal, "skipped": len(rows) - sum(row["ranks"] is not None for row in rows)}
    description = f"people: {facts['votes']:,} blind choices in {folder.name}"
    if equal:
        description += f", and {equal:,} ties of equal answers"
    return Verdicts(NAME, description, counted.outcomes, None, {**facts, **outcome_facts(counted.asked())})


def _votes(project: Project, rows: Sequence[Mapping[str, Any]]) -> Iterator[Vote]:
    for row in rows:
        where, about = f"{project.path}: item {row['item']}", project.items[row["item"]].about
        try:
            (a, b), number, key = about["arms"], int(about["prompt"]), str(about["votes_key"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{where}: does not say which arms and prompt it is about; make the project anew") from None
        first, second = row["ranks"]
        outcome = 0.5 if first == second else float(first < second)
        yield Vote(where, number - 1, str(a), str(b), outcome, row["annotator"], key)


def _equal(project: Project, answers: Mapping[str, Sequence[str]], pair: Arms, share: float) -> list[int]:
    """The prompts, from 0, with equal answers that count: the first `share` of those that the project left out."""
    about = project.settings[AB_KEY]
    if set(about["arms"]) != set(pair):
        return []
    a, b = (answers[arm] for arm in pair)
    numbers = [number - 1 for number in about["equal"] if number <= len(a) and a[number - 1] == b[number - 1]]
    return numbers[: round(share * len(numbers))]
