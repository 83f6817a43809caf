"""From the config's three sources to the data of a run: read, recognise, clean, split by prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np

from kit.config import DataSettings, is_source_list
from kit.data import catalogue
from kit.data.checks import Drop, drop_duplicates, drop_flawed, require_enough, summary
from kit.data.convert import Converted, read_demonstrations, read_opinions, read_pairs, read_prompts
from kit.data.cycles import no_search
from kit.data.data import Data
from kit.data.found import SourceFound, Stops
from kit.data.kept import Kept, KeptSplit, Numbers, Rows, first_of, joined, repeated
from kit.data.opinions import Opinion
from kit.data.problems import NoForm
from kit.data.rows import Demonstration, Pair, Prompt, Row, Split, prompt_key
from kit.data.sources import Source, absent_column, has_column, read_source, renamed, require_known
from kit.data.split import Sides, split_rows
from kit.data.weigh import balance_prompts, resample, shares
from kit.errors import DataError, MachineError, printable


@dataclass(frozen=True)
class _Part(Generic[Row]):
    """What one source gave: its clean rows, split by prompt, and how they are to weigh."""

    name: str
    rows: Rows[Row]
    split: KeptSplit[Row]
    ranked: bool
    repeats: bool
    weight: float | None
    unfit: frozenset[tuple[str, str]] = frozenset()  # (prompt key, answer): no demonstration, though it was chosen


@no_search()
def load_data(settings: DataSettings, seed: int, stops: Stops | None = None) -> Data:
    """The pairs, demonstrations and prompts of a run, cleaned and split by prompt.

    `settings` is the config's data section. Its demonstrations, where null, are the chosen sides of the pairs; its
    prompts, where null, are those of the pairs (of the demonstrations, if there are no pairs).
    Raises DataError, with all problems of a source in one message, if a source cannot be read or used; `stops` may
    gather what need not end the reading.
    """
    gathering = stops or Stops()
    if settings.preferences is None and settings.demonstrations is None:
        raise DataError(catalogue.NOTHING_TO_LEARN_FROM)
    notes: list[str] = []
    kept = Kept()
    sides: Sides = np.zeros(
        0, dtype=np.int8
    )  # of all prompts so far: source by source, so that a prompt keeps its side
    used: set[str] = set()  # names of data.columns that a source has
    found: list[SourceFound] = []

    def load(setting: str, read: Callable[[Source, str | None], Converted[Row]]) -> list[_Part[Row]]:
        nonlocal sides
        value = getattr(settings, setting)
        parts = []
        for part in _read(value, f"data.{setting}", read, settings, seed, notes, used, found, gathering):
            split, sides = split_rows(part.rows, settings.eval_fraction, seed, sides)
            parts.append(replace(part, split=split))
        return parts

    none = kept.add([], Pair)
    pairs = KeptSplit(none, none)
    parts: list[_Part[Pair]] = []
    if settings.preferences is not None:
        parts = load("preferences", lambda source, form: read_pairs(source, settings, form, gathering, kept))
        pairs = _mixed("data.preferences", [_balanced(part, settings, seed, notes) for part in parts], seed, notes)
        notes.append(_sizes("pairs", pairs))
    if settings.demonstrations is not None:
        shown = load("demonstrations", lambda source, _: read_demonstrations(source, settings, gathering, kept))
        demonstrations = _mixed("data.demonstrations", shown, seed, notes)
    else:
        demonstrations = _mixed("data.demonstrations", [_chosen_sides(part) for part in parts], seed, [])
    notes.append(_sizes("demonstrations", demonstrations))
    if settings.prompts is not None:
        asked = load("prompts", lambda source, _: read_prompts(source, settings, gathering, kept))
        prompts = _mixed("data.prompts", asked, seed, notes)
    else:
        source: KeptSplit = pairs if settings.preferences is not None else demonstrations
        prompts = KeptSplit(_prompts(source.train), _prompts(source.held_out))
    notes.append(_sizes("prompts", prompts))
    unused = [theirs for ours, theirs in settings.columns.items() if ours not in used]
    if unused:
        raise DataError(catalogue.COLUMNS_UNUSED.format(columns=", ".join(map(repr, unused))))
    for name, split in (("demonstrations", demonstrations), ("prompts", prompts)):
        if not split.train:
            raise DataError(catalogue.ALL_HELD_OUT.format(name=name))
    return Data(pairs, demonstrations, prompts, _told(notes), none, tuple(found))


@no_search()
def load_prompts(value: Any, setting: str, seed: int) -> tuple[Rows[Prompt], list[str]]:
    """The prompts of one source, each once, none held out, and notes; `setting` is its name in messages.

    Raises DataError as `load_data` does.
    """
    notes: list[str] = []
    settings, stops, kept = DataSettings(preferences=None), Stops(), Kept()

    def read(source: Source, _: str | None) -> Converted[Prompt]:
        return read_prompts(source, settings, stops, kept)

    parts = _read(value, setting, read, settings, seed, notes, set(), [], stops)
    return joined([part.rows for part in parts]), _told(notes)


@no_search()
def load_opinions(value: Any, setting: str, seed: int) -> tuple[list[Opinion], list[str]]:
    """What the rows of one source say of the answers to their prompts, and notes. Raises DataError as `load_data`."""
    source = read_source(value, setting, seed)
    try:
        opinions, notes = read_opinions(source, DataSettings(preferences=None))
    except NoForm as error:
        raise DataError(str(error)) from None
    return opinions, _told([*source.notes, *notes])


def _told(notes: Sequence[str]) -> list[str]:
    """Notes to print: a name in the data forges no line of its own."""
    return [printable(note).replace("\n", "\\n") for note in notes]


def _read(
    value: Any,
    setting: str,
    read: Callable[[Source, str | None], Converted[Row]],
    settings: DataSettings,
    seed: int,
    notes: list[str],
    used: set[str],
    found: list[SourceFound],
    stops: Stops,
) -> list[_Part[Row]]:
    """The clean rows of each source of a setting.

    What was recognised, put right and dropped is added to the notes and to `found`.
    """
    values = value if is_source_list(value) else [value]
    weights = [one.get("weight") if isinstance(one, Mapping) else None for one in values]
    given = [weight for weight in weights if weight is not None]
    if given and len(given) < len(values):
        raise DataError(catalogue.WEIGHTS_OF_SOME.format(setting=setting, some=len(given), all=len(values)))
    parts = []
    for one, weight in zip(values, weights, strict=True):
        source = read_source(one, setting, seed)
        own = one if isinstance(one, Mapping) else {}
        columns = own.get("columns")
        if source.project:  # its columns are the kit's own
            columns = {}
        elif columns is None:  # those of data.columns, which holds for all sources, as far as this one has them
            require_known(source, settings.columns)
            columns = {ours: theirs for ours, theirs in settings.columns.items() if has_column(source, theirs)}
            used.update(columns)
        source = renamed(source, columns)
        notes += source.notes
        try:
            converted: Converted[Row] = read(source, own.get("format"))
        except NoForm as error:
            missing = {ours: theirs for ours, theirs in settings.columns.items() if own.get("columns") is None}
            lines: list[str] = [absent_column(source, ours, missing[ours]) for ours in missing if ours not in columns]
            raise DataError("\n".join([*lines, str(error)])) from None
        except MemoryError:
            raise MachineError(catalogue.NO_MEMORY.format(name=source.name)) from None
        rows, drops = _cleaned(converted)
        with stops.going_on():
            require_enough(source.name, len(rows), drops, settings.skip_bad_rows)
        if not rows:
            stops.nothing_left()
        found.append(_found(source.name, setting, converted, len(rows), drops))
        notes += converted.notes
        notes += summary(drops)
        split = KeptSplit(rows, rows)
        parts.append(_Part(source.name, rows, split, converted.ranked, converted.repeats, weight, converted.unfit))
    return parts


def _cleaned(converted: Converted[Row]) -> tuple[Rows[Row], list[Drop]]:
    """The rows that are kept, and all that were dropped, also while the source was read."""
    flawed: list[Drop]
    again: list[Drop] = []
    rows, flawed = drop_flawed(converted.rows)
    if not converted.repeats:
        rows, again = drop_duplicates(rows)
    return rows, [*converted.drops, *flawed, *again]


def _found(name: str, setting: str, converted: Converted, kept: int, drops: Sequence[Drop]) -> SourceFound:
    dropped: dict[str, list[str]] = {}
    for drop in drops:
        dropped.setdefault(drop.reason, []).append(drop.where)
    return SourceFound(
        name, setting.removeprefix("data."), converted.form, converted.read, kept, converted.malformed, dropped,
        converted.first_wins, list(converted.both_ways), len(converted.rows),
    )  # fmt: skip


def _balanced(part: _Part[Pair], settings: DataSettings, seed: int, notes: list[str]) -> _Part[Pair]:
    """The part with as many training pairs of each prompt, where they come from K answers of a prompt."""
    if not part.ranked or settings.prompt_weights == "pairs":
        return part
    before = part.split.train
    train = balance_prompts(before, seed)
    if not np.array_equal(train.numbers, before.numbers):
        prompts = len(np.unique(train.same_prompts()))
        notes.append(catalogue.BALANCED.format(name=part.name, prompts=prompts, each=len(train) // prompts))
    return replace(part, split=KeptSplit(train, part.split.held_out))


def _mixed(setting: str, parts: Sequence[_Part[Row]], seed: int, notes: list[str]) -> KeptSplit[Row]:
    """The parts as one; where they have weights, their training rows are repeated or left out to meet them."""
    train = [part.split.train for part in parts]
    if parts[0].weight is not None and len(parts) > 1:
        wanted = shares([len(rows) for rows in train], [part.weight or 0.0 for part in parts])
        train = [
            rows.picked(resample(range(len(rows)), n, f"{seed} {part.name}"))
            for part, rows, n in zip(parts, train, wanted, strict=True)
        ]
        told = ", ".join(f"{part.name} {len(rows):,}" for part, rows in zip(parts, train, strict=True))
        notes.append(catalogue.MIXED.format(setting=setting, parts=told))
    return KeptSplit(joined(train), joined([part.split.held_out for part in parts]))


def _chosen_sides(part: _Part[Pair]) -> _Part[Demonstration]:
    """One demonstration for each prompt and chosen answer, however many answers were rejected for it.

    Of ranked answers only the best are demonstrations: the second best of four was chosen too, but over worse ones.
    Where every vote is a pair, those are that won more often than they lost. Unfit answers are none in any case.
    """
    worse = part.rows.numbers[:0]
    if part.ranked:
        prompts, texts = part.rows.same_prompts(), part.rows.same_texts()
        chosen, rejected = (np.stack([prompts, texts[:, side]], axis=1) for side in (1, 2))
        answers = first_of(np.concatenate([chosen, rejected]))  # one number for an answer to a prompt
        won, lost = (np.bincount(side, minlength=len(answers)) for side in np.split(answers, 2))
        each = answers[: len(chosen)]
        worse = part.rows.numbers[(lost[each] > 0) & (lost[each] >= (won[each] if part.repeats else 0))]

        worse = np.union1d(worse, _unfit_rows(part))

    def best(pairs: Rows[Pair]) -> Rows[Demonstration]:
        return drop_duplicates(pairs.picked(~np.isin(pairs.numbers, worse)).seen_as(Demonstration))[0]

    rows = part.rows.seen_as(Demonstration)
    split = KeptSplit(best(part.split.train), best(part.split.held_out))
    return _Part(part.name, rows, split, part.ranked, part.repeats, part.weight)


def _unfit_rows(part: _Part[Pair]) -> Numbers:
    """The pairs whose chosen answer is no example to follow."""
    if not part.unfit:
        return part.rows.numbers[:0]
    return part.rows.picked([(prompt_key(row.prompt), row.chosen) in part.unfit for row in part.rows]).numbers


def _prompts(rows: Rows) -> Rows[Prompt]:
    """Each prompt of the rows once, where it stands first."""
    return rows.picked(~repeated(rows.same_prompts())).seen_as(Prompt)


def _sizes(name: str, split: Split) -> str:
    return catalogue.SIZES.format(name=name, train=len(split.train), held_out=len(split.held_out))
