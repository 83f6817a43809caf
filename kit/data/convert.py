"""A source read in its form: pairs, demonstrations or prompts, what was dropped, and notes on what was put right."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from kit.data import catalogue
from kit.data.checks import MAX_EMPTY_SAMPLES, Drop, require_agreement, require_few
from kit.data.formats.form import Form, OpinionForm, Read
from kit.data.formats.head import Head
from kit.data.formats.recognise import demonstration_form, preferences_form, prompt_form
from kit.data.found import Stops
from kit.data.opinions import (
    Opinion,
    Rules,
    best_of,
    judged_both_ways,
    one_a_pair,
    one_a_prompt,
    pairs_of,
    settle_votes,
    side_bias,
    without_empty,
)
from kit.data.problems import Problems, RowProblem, Unusable
from kit.data.rows import Demonstration, Pair, Prompt, T, prompt_key
from kit.data.sources import Source
from kit.data.turns import Remarks
from kit.errors import DataError

_BIAS_VERDICTS = 30  # fewer verdicts say nothing about a side


@dataclass(frozen=True)
class Converted(Generic[T]):
    """The rows of a source that could be read, those dropped on the way, and notes on what was put right."""

    rows: list[T]
    drops: list[Drop]
    notes: list[str]
    ranked: bool = False  # pairs expanded from K answers: each prompt is to weigh the same
    repeats: bool = False  # equal pairs are votes of several people, no duplicates
    form: str = ""
    read: int = 0  # rows of the source, malformed ones not counted
    malformed: int = 0
    first_wins: tuple[int, int] | None = None  # (the first shown answer won, verdicts); None where that is not known
    both_ways: tuple[str, ...] = ()  # where pairs stand that an earlier one contradicts


@dataclass
class _Gathered(Generic[Read]):
    items: list[Read]
    drops: list[Drop]
    remarks: Remarks
    form: str
    read: int = 0
    sound: int = 0  # of those read, without problems
    malformed: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """What `Converted` tells of the reading."""
        return {"form": self.form, "read": self.sound, "malformed": self.malformed}


def read_pairs(source: Source, settings: Any, format: str | None = None, stops: Stops | None = None) -> Converted[Pair]:
    """The ordered pairs of a source of preferences; DataError with the list of rows that have problems.

    `stops` may gather that error, and what else would stop a run, instead.
    """
    stops = stops or Stops()
    form = preferences_form(Head(source.head), source.name, settings.best_value, format or settings.format)
    gathered = _gather(source, form, settings.skip_bad_rows, stops)
    remarks, opinions = gathered.remarks, _with_answers(source.name, form, gathered, stops)
    first_wins = side_bias(opinions) if form.shown_in_order else None
    rules = Rules(settings.votes, settings.min_margin, settings.standardize_ratings, form.rated)
    if first_wins is not None:
        _note_side_bias(*first_wins, remarks)
    repeats = False
    if not form.rated:
        rules = rules._replace(min_margin=0.0)
    if form.single:
        opinions = one_a_prompt(opinions, rules, remarks)
    elif _are_votes(opinions, form, rules):
        if rules.votes == "each":
            repeats = True
            remarks[catalogue.EACH_VOTE] = 0
        else:
            opinions = settle_votes(one_a_pair(opinions), remarks)
            rules = rules._replace(min_margin=0.0, rated=False)
            remarks[catalogue.MAJORITY] = 0
    pairs = pairs_of(opinions, rules, remarks)
    if not pairs and not gathered.drops:
        stops.nothing_left()
        raise DataError(_no_pair(source.name, gathered.read, opinions, form, remarks))
    if form.ranked or form.voted:
        recognised = catalogue.EXPANDED.format(
            name=source.name, form=form.name, rows=gathered.read, prompts=_prompts(opinions), pairs=len(pairs)
        )
    else:
        count = len(pairs) if form.shown_in_order else len(opinions) + len(gathered.drops)
        recognised = catalogue.RECOGNISED.format(name=source.name, form=form.name, count=count, kind="pairs")
    notes = [recognised, *gathered.notes, *_told(source.name, remarks)]
    both = () if form.voted else tuple(pair.where for pair in judged_both_ways(pairs))
    if both:
        n = len(both)
        text = catalogue.BOTH_WAYS.format(count=n, s="s"[: n > 1], are="are" if n > 1 else "is", first=both[0])
        notes.append(f"{source.name}: {text}")
        with stops.going_on():
            require_agreement(source.name, both, len(pairs))
    return Converted(
        pairs, gathered.drops, notes, form.ranked or repeats, repeats,
        first_wins=first_wins, both_ways=both, **gathered.facts,
    )  # fmt: skip


def read_demonstrations(source: Source, settings: Any, stops: Stops | None = None) -> Converted[Demonstration]:
    """The demonstrations of a source; of preferences, the best answers. DataError as for pairs."""
    stops = stops or Stops()
    plain, preferences = demonstration_form(Head(source.head), source.name, settings.best_value)
    if plain is not None:
        return _plain(source, plain, settings.skip_bad_rows, "demonstrations", stops)
    assert preferences is not None
    gathered = _gather(source, preferences, settings.skip_bad_rows, stops)
    rows = _best_answers(_with_answers(source.name, preferences, gathered, stops), preferences, gathered.remarks)
    name = catalogue.BEST_ANSWERS.format(form=preferences.name)
    recognised = catalogue.RECOGNISED.format(
        name=source.name, form=name, count=len(rows) + len(gathered.drops), kind="demonstrations"
    )
    notes = [recognised, *gathered.notes, *_told(source.name, gathered.remarks)]
    return Converted(rows, gathered.drops, notes, **gathered.facts)


def read_prompts(source: Source, settings: Any, stops: Stops | None = None) -> Converted[Prompt]:
    """The prompts of a source. DataError as for pairs."""
    stops = stops or Stops()
    plain, preferences = prompt_form(Head(source.head), source.name, settings.best_value)
    if plain is not None:
        return _plain(source, plain, settings.skip_bad_rows, "prompts", stops)
    assert preferences is not None
    gathered = _gather(source, preferences, settings.skip_bad_rows, stops)
    rows = [Prompt(opinion.prompt, opinion.where) for opinion in gathered.items]
    name = catalogue.THEIR_PROMPTS.format(form=preferences.name)
    recognised = catalogue.RECOGNISED.format(
        name=source.name, form=name, count=len(rows) + len(gathered.drops), kind="prompts"
    )
    notes = [recognised, *gathered.notes, *_told(source.name, gathered.remarks)]
    return Converted(rows, gathered.drops, notes, **gathered.facts)


def read_opinions(source: Source, settings: Any) -> tuple[list[Opinion], list[str]]:
    """What each row of a source of preferences says, ties and all, and notes. DataError as for pairs."""
    form = preferences_form(Head(source.head), source.name, settings.best_value, settings.format)
    gathered = _gather(source, form, settings.skip_bad_rows, Stops())
    opinions = gathered.items
    if form.single:
        opinions = one_a_prompt(opinions, Rules(), gathered.remarks)
    recognised = catalogue.RECOGNISED.format(name=source.name, form=form.name, count=len(opinions), kind="rankings")
    return opinions, [recognised, *gathered.notes, *_told(source.name, gathered.remarks)]


def _best_answers(opinions: list[Opinion], form: OpinionForm, remarks: Remarks) -> list[Demonstration]:
    """The answers worth imitating: the best of each opinion, or what the people together found to be so."""
    if form.voted:
        pairs = pairs_of(settle_votes(one_a_pair(opinions), remarks), Rules(), Counter())
        beaten = {(prompt_key(pair.prompt), pair.rejected) for pair in pairs} if form.ranked else set()
        return [
            Demonstration(pair.prompt, pair.chosen, pair.where)
            for pair in pairs
            if not beaten or (prompt_key(pair.prompt), pair.chosen) not in beaten
        ]
    if form.single:
        opinions = one_a_prompt(opinions, Rules(), remarks)
    if form.labelled:  # what nobody liked is no demonstration, even if it is all there is
        opinions = [o for o in opinions if any(value is not None and value > 0.5 for _, value in o.answers)]
    if form.shown_in_order:  # a tie names no better answer
        opinions = [o for o in opinions if o.answers[0].value != o.answers[1].value]
    return best_of(opinions)


def _plain(source: Source, form: Form[T], allowed: int, kind: str, stops: Stops) -> Converted[T]:
    gathered = _gather(source, form, allowed, stops)
    recognised = catalogue.RECOGNISED.format(name=source.name, form=form.name, count=gathered.read, kind=kind)
    notes = [recognised, *gathered.notes, *_told(source.name, gathered.remarks)]
    return Converted(gathered.items, gathered.drops, notes, **gathered.facts)


def _gather(source: Source, form: Form[Read], allowed: int, stops: Stops) -> _Gathered[Read]:
    """Every row of the source, read in the form; DataError if more rows than allowed have problems, all in one list."""
    gathered: _Gathered[Read] = _Gathered([], [], Counter(), form.name)
    problems: Problems = source.problems
    problems.source = source.name
    broken = 0  # malformed lines, which are no rows, are among the problems too
    for where, values in source.rows:
        gathered.read += 1
        try:
            gathered.items += form.read(values, where, gathered.remarks)
        except RowProblem as problem:
            broken += 1
            problems.add(where, str(problem))
        except Unusable as reason:
            gathered.drops.append(Drop(str(reason), where))
    try:
        gathered.items += form.rest()
    except RowProblem as problem:
        problems.add(source.name, str(problem))
    gathered.malformed, gathered.sound = problems.count, gathered.read - broken
    with stops.going_on():
        problems.raise_if_any(allowed)
    if problems.count and problems.count <= allowed:
        n = problems.count
        gathered.notes.append(
            catalogue.BAD_ROWS_SKIPPED.format(
                name=source.name, count=n, s="s"[: n > 1], allowed=allowed, first=problems.first
            )
        )
    return gathered


def _with_answers(name: str, form: OpinionForm, gathered: _Gathered[Opinion], stops: Stops) -> list[Opinion]:
    """The opinions without empty answers of a model; DataError if more than one row in ten holds one.

    An empty answer among samples that people judged is a failed sample, where in other data it is a wrong column.
    """
    if not form.generated:
        return gathered.items
    opinions, places = without_empty(gathered.items, gathered.remarks)
    with stops.going_on():
        require_few(name, catalogue.EMPTY_TEXT, places, gathered.read, MAX_EMPTY_SAMPLES)
    return opinions


def _are_votes(opinions: Sequence[Opinion], form: OpinionForm, rules: Rules) -> bool:
    """Whether the opinions are votes on pairs of answers: the data say who judged, or the user says so."""
    return form.voted or rules.votes == "majority"


def _told(name: str, remarks: Remarks) -> list[str]:
    return [
        f"{name}: {text}" + (f" ({count:,} time{'s' if count > 1 else ''})" if count else "")
        for text, count in remarks.items()
    ]


def _prompts(opinions: Sequence[Opinion]) -> int:
    return len({prompt_key(opinion.prompt) for opinion in opinions})


def _note_side_bias(first: int, total: int, remarks: Remarks) -> None:
    """Note a side that wins far more often than chance would have it: over four standard errors from a half."""
    if total >= _BIAS_VERDICTS and abs(first - total / 2) > 2 * total**0.5:
        remarks[catalogue.SIDE_BIAS.format(share=first / total, total=total)] = 0


def _no_pair(name: str, rows: int, opinions: Sequence[Opinion], form: OpinionForm, remarks: Remarks) -> str:
    values = {value for opinion in opinions for _, value in opinion.answers if value is not None}
    if form.labelled and len(values) > 1:
        advice = catalogue.ONE_SIDE_ONLY
    elif len(values) == 1:
        advice = catalogue.ALL_EQUAL
    elif all(len(opinion.answers) < 2 for opinion in opinions):
        advice = catalogue.ONE_ANSWER_ONLY
    else:
        advice = catalogue.SEE_DROPS
    why = "\n".join(f"  {line}" for line in [form.name, *_told(name, remarks)])
    return catalogue.NO_PAIR_LEFT.format(name=name, rows=rows, why=why, advice=advice)
