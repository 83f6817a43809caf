"""People's votes: how they are counted, and a file of them as the judge, one row a vote.

JSONL rows, or the columns of a CSV file with the same names:
    {"prompt": 3, "a": "ppo", "b": "dpo", "winner": "ppo", "annotator": "mina", "answers": "9f86d081884c7d65"}

prompt     the prompt's number in the report, from 1; or the text of its last user turn; or its messages
a, b       the two arms
winner     one of the two arms, or "a", "b", "tie"
annotator  optional: who voted; a later row of the same person on the same pair replaces the earlier one
answers    optional: `votes_key` of the two answers, a's first; a vote on other answers than these is not counted
"""

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import notices
from kit.compare.judges.scores import Arms, outcome_facts
from kit.compare.verdicts import Outcomes, Verdicts
from kit.data.rows import Message
from kit.errors import DataError

NAME = "votes"
_WANTED = ("prompt", "a", "b", "winner")
_OPTIONAL = ("annotator", "answers")
_HASH_DIGITS = 16


@dataclass(frozen=True)
class Vote:
    """One vote: 1 if a's answer won, 0 if b's did, 0.5 for a tie. `prompt` counts from 0."""

    where: str
    prompt: int
    a: str
    b: str
    outcome: float
    annotator: str | None
    answers: str | None


def votes_key(answer_a: str, answer_b: str) -> str:
    """What a vote's `answers` holds: 16 hex digits of SHA-256 over the two answers, that of arm a first."""
    return hashlib.sha256(json.dumps([answer_a, answer_b]).encode()).hexdigest()[:_HASH_DIGITS]


def judge_by_votes(
    path: str | Path, prompts: Sequence[list[Message]], answers: Mapping[str, Sequence[str]], pairs: Sequence[Arms]
) -> Verdicts:
    """Who won each prompt, by the votes in the file; `count_votes` has the facts.

    Raises DataError naming file and line for a row that cannot be used, and where no vote is left.
    """
    path = Path(path)
    votes = read_votes(path, prompts, list(answers))
    counted = count_votes(votes, answers, len(prompts), pairs, path, "Collect votes from this comparison's report")
    description = f"people: {counted.facts['votes']:,} votes in {path.name}"
    return Verdicts(NAME, description, counted.outcomes, None, {**counted.facts, **outcome_facts(counted.asked())})


@dataclass(frozen=True)
class Counted:
    """Who won each prompt by votes, and facts about the votes."""

    outcomes: dict[Arms, Outcomes]
    facts: dict[str, Any]

    def asked(self) -> dict[Arms, Outcomes]:
        """The pairs of arms that anybody was asked about; people see few of those that a comparison has."""
        return {pair: found for pair, found in self.outcomes.items() if any(x is not None for x in found)}


def count_votes(
    votes: Iterable[Vote], answers: Mapping[str, Sequence[str]], prompts: int, pairs: Sequence[Arms],
    source: Path, advice: str,
) -> Counted:  # fmt: skip
    """Who won each prompt, by votes in any order. Several people's votes on one pair of answers make their mean.

    So an outcome may lie between 0, 0.5 and 1: two of three votes for a's answer are 0.67. Prompts without a vote have
    None. Facts: `votes` that count, `annotators` (of the named), `stale` (votes on other answers, not counted),
    `unchecked` (votes that do not say on which answers), and `agreement` (share of the pairs of votes on the same pair
    of answers that agree, None where nobody voted on what another did).

    Raises DataError, which ends with the `advice`, where no vote is left.
    """
    counted: dict[tuple[int, str, str], dict[object, float]] = {}
    stale = unchecked = 0
    people = set()
    for vote in votes:
        asked = (vote.a, vote.b) if (vote.a, vote.b) in pairs else (vote.b, vote.a)
        if asked not in pairs:
            continue
        if vote.answers is None:
            unchecked += 1
        elif vote.prompt >= prompts or vote.answers != _key_now(vote, answers):
            stale += 1
            continue
        outcome = vote.outcome if asked == (vote.a, vote.b) else 1 - vote.outcome
        voter = vote.annotator or object()  # a vote without a name is a voter of its own
        people.update({vote.annotator} - {None})
        counted.setdefault((vote.prompt, *asked), {})[voter] = outcome
    if stale:
        notices.warn(f"{source}: {stale} votes were cast on other answers than these and are not counted")
    if not counted:
        why = "all were cast on other answers than these" if stale else "there is none on the arms compared"
        raise DataError(f"{source}: no vote to judge by: {why}. {advice}")
    facts = {
        "votes": sum(len(votes) for votes in counted.values()), "annotators": len(people), "stale": stale,
        "unchecked": unchecked, "agreement": _agreement([list(votes.values()) for votes in counted.values()]),
    }  # fmt: skip
    return Counted({(a, b): [_mean(counted.get((i, a, b))) for i in range(prompts)] for a, b in pairs}, facts)


def _key_now(vote: Vote, answers: Mapping[str, Sequence[str]]) -> str:
    return votes_key(answers[vote.a][vote.prompt], answers[vote.b][vote.prompt])


def read_votes(path: Path, prompts: Sequence[list[Message]], arms: Sequence[str]) -> Iterator[Vote]:
    """The votes of the file in its order. Raises DataError naming file and line for a row that cannot be used."""
    numbers = _numbers(prompts)
    for where, row in _rows(path):
        missing = [name for name in _WANTED if row.get(name) in (None, "")]
        if missing:
            raise DataError(f"{where}: has no {', '.join(missing)}; a vote wants {', '.join(_WANTED)}")
        a, b = (str(row[side]).strip() for side in "ab")
        for arm in (a, b):
            if arm not in arms:
                raise DataError(f"{where}: unknown arm {arm!r}; this comparison has {', '.join(arms)}")
        if a == b:
            raise DataError(f"{where}: a and b are the same arm, {a!r}")
        winners = {a: 1.0, b: 0.0, "a": 1.0, "b": 0.0, "tie": 0.5}
        winner = str(row["winner"]).strip()
        outcome = winners.get(winner, winners.get(winner.lower()))
        if outcome is None:
            raise DataError(f"{where}: winner {winner!r}; wanted {a}, {b}, a, b or tie")
        optional = [str(row[name]).strip() if row.get(name) not in (None, "") else None for name in _OPTIONAL]
        yield Vote(where, _prompt(row["prompt"], numbers, len(prompts), where), a, b, outcome, *optional)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("votes.jsonl:12", row) of each row; empty lines are passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of votes") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        missing = [name for name in _WANTED if name not in (reader.fieldnames or [])]
        if missing:
            found = ", ".join(reader.fieldnames or []) or "nothing"
            raise DataError(f"{path}:1: missing column(s) {', '.join(missing)}; found {found}")
        try:
            for cells in reader:
                yield f"{path}:{reader.line_num}", dict(cells)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: wanted an object with {', '.join(_WANTED)}; got {type(row).__name__}")
        yield f"{path}:{number}", row


def _numbers(prompts: Sequence[list[Message]]) -> dict[str, list[int]]:
    """The numbers, from 0, of the prompts with a text or with these messages."""
    numbers: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        for key in {prompt[-1]["content"].strip(), _messages_key(prompt)}:
            numbers.setdefault(key, []).append(i)
    return numbers


def _prompt(value: Any, numbers: Mapping[str, list[int]], count: int, where: str) -> int:
    digits = isinstance(value, str) and value.strip().isdecimal() and value.strip() not in numbers
    if digits or (isinstance(value, int) and not isinstance(value, bool)):
        if not 1 <= int(value) <= count:
            raise DataError(f"{where}: prompt {value}; this comparison has prompts 1 to {count}")
        return int(value) - 1
    key = _messages_key(value) if isinstance(value, list) else str(value).strip()
    found = numbers.get(key, [])
    if len(found) == 1:
        return found[0]
    shown = str(value)[:60]
    if found:
        raise DataError(f"{where}: {len(found)} prompts read {shown!r}; give the prompt's number in the report")
    raise DataError(f"{where}: unknown prompt {shown!r}; wanted its number in the report, 1 to {count}, or its text")


def _messages_key(messages: list) -> str:
    return json.dumps(messages, sort_keys=True)


def _mean(votes: Mapping[object, float] | None) -> float | None:
    return sum(votes.values()) / len(votes) if votes else None


def _agreement(items: Sequence[Outcomes] | Sequence[list[float]]) -> float | None:
    """Share of the pairs of votes on one item that agree, over all items; None if no item has two votes."""
    pairs = [x == y for votes in items for x, y in itertools.combinations(votes, 2)]
    return sum(pairs) / len(pairs) if pairs else None
