"""A source read in its form: pairs, demonstrations or prompts, what was dropped, and notes on what was put right."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Generic

from kit.data import catalogue
from kit.data.checks import MAX_EMPTY_SAMPLES, Drop, judged_both_ways, require_agreement, require_few
from kit.data.formats.form import Form, OpinionForm, Read
from kit.data.formats.head import Head
from kit.data.formats.recognise import demonstration_form, preferences_form, prompt_form
from kit.data.found import Stops
from kit.data.kept import Kept, Rows
from kit.data.opinions import (
    Opinion,
    Rules,
    SideBias,
    best_of,
    one_a_pair,
    one_a_person,
    one_a_prompt,
    pairs_of,
    settle_votes,
    unfit_answers,
    without_empty,
)
from kit.data.problems import Problems, RowProblem, Unusable
from kit.data.reliability import settle_by_reliability
from kit.data.rows import Demonstration, Pair, Prompt, Row, prompt_key
from kit.data.sources import Source
from kit.data.turns import Remarks
from kit.errors import DataError

_BIAS_VERDICTS = 30  # fewer verdicts say nothing about a side


@dataclass(frozen=True)
class Converted(Generic[Row]):
    """The rows of a source that could be read, those dropped on the way, and notes on what was put right."""

    rows: Rows[Row]
    drops: list[Drop]
    notes: list[str]
    ranked: bool = False  # pairs expanded from K answers: each prompt is to weigh the same
    repeats: bool = False  # equal pairs are votes of several people, no duplicates
    form: str = ""
    read: int = 0  # rows of the source, malformed ones not counted
    malformed: int = 0
    first_wins: tuple[int, int] | None = None  # (the first shown answer won, verdicts); None where that is not known
    both_ways: tuple[str, ...] = ()  # where pairs stand that an earlier one contradicts
    unfit: frozenset[tuple[str, str]] = frozenset()  # (prompt key, answer): chosen perhaps, but no example to follow


@dataclass
class _Reading(Generic[Read]):
    """A source that is read in its form, item by item; what it tells is whole once the items have run out."""

    form: str
    items: Iterator[Read] = field(default_factory=lambda: iter(()))
    drops: list[Drop] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Counter)
    read: int = 0
    sound: int = 0  # of those read, without problems
    malformed: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """What `Converted` tells of the reading."""
        return {"form": self.form, "read": self.sound, "malformed": self.malformed}


class _Judged:
    """What is to be told of the opinions that pairs are made of, noted while they pass by."""

    def __init__(self, with_prompts: bool) -> None:
        self.opinions = 0
        self.values: set[float] = set()  # two are enough to know that they differ
        self.one_answer_each = True
        self._keys: set[bytes] | None = set() if with_prompts else None

    @property
    def prompts(self) -> int:
        """How many different prompts there were."""
        return len(self._keys or ())

    def watched(self, opinions: Iterable[Opinion]) -> Iterator[Opinion]:
        """The opinions, as they are."""
        for opinion in opinions:
            self.opinions += 1
            if len(self.values) < 2:
                self.values.update(value for _, value in opinion.answers if value is not None)
            self.one_answer_each = self.one_answer_each and len(opinion.answers) < 2
            if self._keys is not None:
                self._keys.add(bytes.fromhex(prompt_key(opinion.prompt)))
            yield opinion


def read_pairs(
    source: Source, settings: Any, format: str | None = None, stops: Stops | None = None, kept: Kept | None = None
) -> Converted[Pair]:
    """The ordered pairs of a source of preferences; DataError with the list of rows that have problems.

    `stops` may gather that error, and what else would stop a run, instead. The rows are added to `kept`. They pass one
    by one, but for votes, judgements and ratings: what several people said of one thing stands anywhere in the source.
    """
    stops, kept = stops or Stops(), kept or Kept()
    format = "judgements" if source.project else format or settings.format
    form = _named(preferences_form(Head(source.head), source.name, settings.best_value, format), source)
    reading = _read(source, form, settings.skip_bad_rows, stops)
    opinions = _with_answers(source.name, form, reading, stops)
    shown, judged, counts = SideBias(), _Judged(form.ranked or form.voted), Counter[str]()
    if form.shown_in_order:
        opinions = shown.watched(opinions)
    rules = Rules(settings.votes, settings.min_margin, settings.standardize_ratings, form.rated)
    repeats = False
    if not form.rated:
        rules = rules._replace(min_margin=0.0)
    said = [*opinions] if form.judgements else []  # what is to be told of judgements is known of all together
    opinions, unfit = chain(said, opinions), _unfit(said, counts)
    if form.voted and rules.votes == "each":
        repeats = True
        counts[catalogue.EACH_VOTE] = 0
    elif form.voted or form.single or rules.votes == "majority":  # the last: the user says that they are votes
        held = [*opinions]
        settled = _settled(held, form, rules.votes, counts)
        if settled is None:
            opinions = iter(one_a_prompt(held, rules, counts))
        else:
            opinions, rules = iter(settled), rules._replace(min_margin=0.0, rated=False)
            if rules.votes != "reliability" or catalogue.NOBODY_NAMED in counts:
                counts[catalogue.MAJORITY] = 0
    elif rules.votes == "reliability":  # other forms name nobody
        counts[catalogue.NOBODY_NAMED] = 0
    pairs = kept.add(pairs_of(judged.watched(opinions), rules, counts), Pair)
    remarks = reading.remarks
    if form.shown_in_order:
        _note_side_bias(shown.first, shown.total, remarks)
    remarks.update(counts)
    if not pairs and not reading.drops:
        stops.nothing_left()
        raise DataError(_no_pair(source.name, reading.read, judged, form, remarks))
    if form.judgements:
        recognised = _recognised_judgements(source, form, said, judged.prompts, len(pairs))
    elif form.ranked or form.voted:
        recognised = catalogue.EXPANDED.format(
            name=source.name, form=form.name, rows=reading.read, prompts=judged.prompts, pairs=len(pairs)
        )
    else:
        count = len(pairs) if form.shown_in_order else judged.opinions + len(reading.drops)
        recognised = catalogue.RECOGNISED.format(name=source.name, form=form.name, count=count, kind="pairs")
    notes = [recognised, *reading.notes, *_told(source.name, remarks)]
    both = () if form.voted else tuple(judged_both_ways(pairs))
    if both:
        n = len(both)
        text = catalogue.BOTH_WAYS.format(count=n, s="s"[: n > 1], are="are" if n > 1 else "is", first=both[0])
        notes.append(f"{source.name}: {text}")
        with stops.going_on():
            require_agreement(source.name, both, len(pairs))
    return Converted(
        pairs, reading.drops, notes, form.ranked or repeats, repeats,
        first_wins=(shown.first, shown.total) if form.shown_in_order else None,
        both_ways=both, unfit=unfit, **reading.facts,
    )  # fmt: skip


def read_demonstrations(
    source: Source, settings: Any, stops: Stops | None = None, kept: Kept | None = None
) -> Converted[Demonstration]:
    """The demonstrations of a source; of preferences, the best answers. As for pairs."""
    stops, kept = stops or Stops(), kept or Kept()
    plain, preferences = demonstration_form(Head(source.head), source.name, settings.best_value)
    if plain is not None:
        return _plain(source, plain, settings.skip_bad_rows, Demonstration, stops, kept)
    assert preferences is not None
    preferences = _named(preferences, source)
    reading = _read(source, preferences, settings.skip_bad_rows, stops)
    counts: Remarks = Counter()
    opinions = _with_answers(source.name, preferences, reading, stops)
    said = [*opinions] if preferences.judgements else []
    opinions, unfit = chain(said, opinions), _unfit(said, counts)
    best = _best_answers(opinions, preferences, settings.votes, counts)
    fit = (row for row in best if not unfit or (prompt_key(row.prompt), row.response) not in unfit)
    rows = kept.add(fit, Demonstration)
    reading.remarks.update(counts)
    return _converted(source, reading, rows, catalogue.BEST_ANSWERS.format(form=preferences.name), "demonstrations")


def read_prompts(
    source: Source, settings: Any, stops: Stops | None = None, kept: Kept | None = None
) -> Converted[Prompt]:
    """The prompts of a source. As for pairs."""
    stops, kept = stops or Stops(), kept or Kept()
    plain, preferences = prompt_form(Head(source.head), source.name, settings.best_value)
    if plain is not None:
        return _plain(source, plain, settings.skip_bad_rows, Prompt, stops, kept)
    assert preferences is not None
    preferences = _named(preferences, source)
    reading = _read(source, preferences, settings.skip_bad_rows, stops)
    rows = kept.add((Prompt(opinion.prompt, opinion.where) for opinion in reading.items), Prompt)
    return _converted(source, reading, rows, catalogue.THEIR_PROMPTS.format(form=preferences.name), "prompts")


def read_opinions(source: Source, settings: Any) -> tuple[list[Opinion], list[str]]:
    """What each row of a source of preferences says, ties and all, and notes. DataError as for pairs."""
    form = preferences_form(Head(source.head), source.name, settings.best_value, settings.format)
    reading = _read(source, form, settings.skip_bad_rows, Stops())
    opinions = [*reading.items]
    if form.single:
        opinions = one_a_prompt(opinions, Rules(), reading.remarks)
    recognised = catalogue.RECOGNISED.format(name=source.name, form=form.name, count=len(opinions), kind="rankings")
    return opinions, [recognised, *reading.notes, *_told(source.name, reading.remarks)]


def _converted(source: Source, reading: _Reading, rows: Rows[Row], form: str, kind: str) -> Converted[Row]:
    """Rows taken from preferences, all but those that were dropped."""
    count = len(rows) + len(reading.drops)
    recognised = catalogue.RECOGNISED.format(name=source.name, form=form, count=count, kind=kind)
    notes = [recognised, *reading.notes, *_told(source.name, reading.remarks)]
    return Converted(rows, reading.drops, notes, **reading.facts)


def _named(form: OpinionForm, source: Source) -> OpinionForm:
    """The form under the name that notes have for it."""
    return replace(form, name=catalogue.PROJECT) if source.project else form


def _settled(opinions: Sequence[Opinion], form: OpinionForm, votes: str, counts: Remarks) -> list[Opinion] | None:
    """One opinion for each two answers, as `votes` says; None of ratings that are only to be weighed."""
    if votes == "reliability":
        each = one_a_person(opinions) if form.single else opinions
        if any(opinion.annotator is not None for opinion in each):
            return settle_by_reliability(each, counts)
        counts[catalogue.NOBODY_NAMED] = 0
    return None if form.single else settle_votes(one_a_pair(opinions), counts, margins=form.judgements)


def _unfit(opinions: Sequence[Opinion], counts: Remarks) -> frozenset[tuple[str, str]]:
    """The answers that are no demonstrations though they may be the best there are; `counts` learns their items."""
    if not any(opinion.none_acceptable for opinion in opinions):
        return frozenset()
    found = unfit_answers(opinions)
    if found:
        counts[catalogue.UNFIT] = len({prompt for prompt, _ in found})
    return found


def _recognised_judgements(
    source: Source, form: OpinionForm, judged: Sequence[Opinion], prompts: int, pairs: int
) -> str:
    """What a labelling project, or a file of judgements, was recognised as."""
    k = max((len(opinion.answers) for opinion in judged), default=0)
    people = len({opinion.annotator for opinion in judged})
    what, who = "rankings" if k > 2 else "choices of two", "people" if people != 1 else "person"
    return catalogue.JUDGED.format(
        name=source.name, form=form.name, rankings=len(judged), what=what, people=people, who=who,
        prompts=prompts, pairs=pairs,
    )  # fmt: skip


def _best_answers(
    opinions: Iterator[Opinion], form: OpinionForm, votes: str, remarks: Remarks
) -> Iterator[Demonstration]:
    """The answers worth imitating: the best of each opinion, or what the people together found to be so."""
    if form.voted:
        by = votes if votes == "reliability" else "auto"
        pairs = [*pairs_of(_settled([*opinions], form, by, remarks) or [], Rules(), Counter())]
        beaten = {(prompt_key(pair.prompt), pair.rejected) for pair in pairs} if form.ranked else set()
        return (
            Demonstration(pair.prompt, pair.chosen, pair.where)
            for pair in pairs
            if not beaten or (prompt_key(pair.prompt), pair.chosen) not in beaten
        )
    if form.single:
        opinions = iter(one_a_prompt(list(opinions), Rules(), remarks))
    if form.labelled:  # what nobody liked is no demonstration, even if it is all there is
        opinions = (o for o in opinions if any(value is not None and value > 0.5 for _, value in o.answers))
    if form.shown_in_order:  # a tie names no better answer
        opinions = (o for o in opinions if o.answers[0].value != o.answers[1].value)
    return best_of(opinions)


def _plain(source: Source, form: Form[Row], allowed: int, kind: type[Row], stops: Stops, kept: Kept) -> Converted[Row]:
    reading: _Reading[Row] = _read(source, form, allowed, stops)
    rows = kept.add(reading.items, kind)
    recognised = catalogue.RECOGNISED.format(
        name=source.name, form=form.name, count=reading.read, kind=f"{kind.__name__.lower()}s"
    )
    notes = [recognised, *reading.notes, *_told(source.name, reading.remarks)]
    return Converted(rows, reading.drops, notes, **reading.facts)


def _read(source: Source, form: Form[Read], allowed: int, stops: Stops) -> _Reading[Read]:
    """The reading of a source in a form."""
    reading: _Reading[Read] = _Reading(form.name)
    reading.items = _items(reading, source, form, allowed, stops)
    return reading


def _items(reading: _Reading[Read], source: Source, form: Form[Read], allowed: int, stops: Stops) -> Iterator[Read]:
    """What every row holds; DataError after the last if more rows than allowed have problems, all in one list."""
    problems: Problems = source.problems
    problems.source = source.name
    broken = 0  # malformed lines, which are no rows, are among the problems too
    for where, values in source.rows:
        reading.read += 1
        try:
            yield from form.read(values, where, reading.remarks)
        except RowProblem as problem:
            broken += 1
            problems.add(where, str(problem))
        except Unusable as reason:
            reading.drops.append(Drop(str(reason), where))
    try:
        yield from form.rest()
    except RowProblem as problem:
        problems.add(source.name, str(problem))
    reading.malformed, reading.sound = problems.count, reading.read - broken
    with stops.going_on():
        problems.raise_if_any(allowed)
    if problems.count and problems.count <= allowed:
        n = problems.count
        reading.notes.append(
            catalogue.BAD_ROWS_SKIPPED.format(
                name=source.name, count=n, s="s"[: n > 1], allowed=allowed, first=problems.first
            )
        )


def _with_answers(name: str, form: OpinionForm, reading: _Reading[Opinion], stops: Stops) -> Iterator[Opinion]:
    """The opinions without empty answers of a model; DataError if more than one row in ten holds one.

    An empty answer among samples that people judged is a failed sample, where in other data it is a wrong column.
    """
    if not form.generated:
        yield from reading.items
        return
    places: dict[str, None] = {}
    yield from without_empty(reading.items, places)
    if places:
        reading.remarks[catalogue.EMPTY_ANSWER_LEFT_OUT] = len(places)
    with stops.going_on():
        require_few(name, catalogue.EMPTY_TEXT, [*places], reading.read, MAX_EMPTY_SAMPLES)


def _told(name: str, remarks: Remarks) -> list[str]:
    return [
        f"{name}: {text}" + (f" ({count:,} time{'s' if count > 1 else ''})" if count else "")
        for text, count in remarks.items()
    ]


def _note_side_bias(first: int, total: int, remarks: Remarks) -> None:
    """Note a side that wins far more often than chance would have it: over four standard errors from a half."""
    if total >= _BIAS_VERDICTS and abs(first - total / 2) > 2 * total**0.5:
        remarks[catalogue.SIDE_BIAS.format(share=first / total, total=total)] = 0


def _no_pair(name: str, rows: int, judged: _Judged, form: OpinionForm, remarks: Remarks) -> str:
    if catalogue.SKIPPED in remarks and not judged.opinions:
        advice = catalogue.ALL_SKIPPED
    elif form.labelled and len(judged.values) > 1:
        advice = catalogue.ONE_SIDE_ONLY
    elif len(judged.values) == 1:
        advice = catalogue.ALL_EQUAL
    elif judged.one_answer_each:
        advice = catalogue.ONE_ANSWER_ONLY
    else:
        advice = catalogue.SEE_DROPS
    why = "\n".join(f"  {line}" for line in [form.name, *_told(name, remarks)])
    return catalogue.NO_PAIR_LEFT.format(name=name, rows=rows, why=why, advice=advice)
