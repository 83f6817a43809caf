"""Gold items: answers whose right ranks are known, mixed in to see whether annotators find them."""

from pathlib import Path
from typing import Any

from kit.data.load import load_opinions
from kit.data.opinions import Opinion
from kit.data.rows import prompt_key
from kit.errors import DataError
from kit.labels.project import MOST_ANSWERS, Answer, Item

SETTING = "--gold"


def gold_items(source: Path | str | list[Any], seed: int) -> tuple[list[Item], list[str]]:
    """An item for each row of a source of rankings, in any form that `data.preferences` takes, and notes.

    Raises DataError for a row that cannot be gold: a prompt that stands twice, an answer without a rank, all equal.
    """
    opinions, notes = load_opinions(source, SETTING, seed)
    seen: dict[str, str] = {}
    for opinion in opinions:
        key = prompt_key(opinion.prompt)
        if key in seen:
            raise DataError(
                f"{SETTING}: {opinion.where}: the prompt stands at {seen[key]} already; one row a prompt is wanted, "
                "with the right ranks"
            )
        seen[key] = opinion.where
    return [_item(number, opinion) for number, opinion in enumerate(opinions, 1)], notes


def _item(number: int, opinion: Opinion) -> Item:
    where, answers = f"{SETTING}: {opinion.where}", opinion.answers
    if not 2 <= len(answers) <= MOST_ANSWERS:
        raise DataError(f"{where}: {len(answers)} answers; 2 to {MOST_ANSWERS} are wanted")
    values = [answer.value for answer in answers if answer.value is not None]
    if len(values) < len(answers):
        raise DataError(f"{where}: an answer has no rank; gold wants one for each")
    if any(not answer.text.strip() for answer in answers):
        raise DataError(f"{where}: an answer is empty")
    places = {value: place for place, value in enumerate(sorted(set(values), reverse=True), 1)}
    if len(places) == 1:
        raise DataError(f"{where}: all ranks are equal, which anybody finds; gold wants a better and a worse answer")
    named = tuple(Answer(f"a{at}", answer.text, {"from": opinion.where}) for at, answer in enumerate(answers, 1))
    return Item(f"gold{number:03d}", opinion.prompt, named, tuple(places[value] for value in values))
