"""From the config's three sources to the data of a run: read, recognise, clean, split by prompt."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

from kit.config import DataSettings, is_source_list
from kit.data import catalogue
from kit.data.checks import Drop, drop_blank, drop_duplicates, drop_equal, require_enough, summary
from kit.data.convert import Converted, read_demonstrations, read_opinions, read_pairs, read_prompts
from kit.data.cycles import no_search
from kit.data.found import SourceFound, Stops
from kit.data.opinions import Opinion
from kit.data.problems import NoForm
from kit.data.rows import Data, Demonstration, Pair, Prompt, Row, Split, T, messages_of, prompt_keys
from kit.data.sources import Source, absent_column, has_column, read_source, renamed, require_known
from kit.data.split import split_rows
from kit.data.weigh import balance_prompts, resample, shares
from kit.errors import DataError, MachineError, printable


@dataclass(frozen=True)
class _Part(Generic[T]):
    """What one source gave: its clean rows, split by prompt, and how they are to weigh."""

    name: str
    rows: list[T]
    split: Split[T]
    ranked: bool
    repeats: bool
    weight: float | None


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
    keys: dict[int, str] = {}  # of all prompts that are split; the parts below keep those alive
    sides: dict[str, bool] = {}  # prompt key -> held out; filled source by source, so that a prompt keeps its side

    used: set[str] = set()  # names of data.columns that a source has
    found: list[SourceFound] = []

    def load(setting: str, read: Callable[[Source, Any, str | None, Stops], Converted[Row]]) -> list[_Part[Row]]:
        parts = _read(
            getattr(settings, setting), f"data.{setting}", read, settings, seed, notes, used, found, gathering
        )
        return [replace(part, split=split_rows(part.rows, settings.eval_fraction, seed, sides, keys)) for part in parts]

    pairs: Split[Pair] = Split([], [])
    parts: list[_Part[Pair]] = []
    if settings.preferences is not None:
        parts = load("preferences", read_pairs)
        pairs = _mixed("data.preferences", [_balanced(part, settings, seed, notes) for part in parts], seed, notes)
        notes.append(_sizes("pairs", pairs))
    if settings.demonstrations is not None:
        shown = load("demonstrations", lambda source, settings, _, stops: read_demonstrations(source, settings, stops))
        demonstrations = _mixed("data.demonstrations", shown, seed, notes)
    else:
        demonstrations = _mixed("data.demonstrations", [_chosen_sides(part) for part in parts], seed, [])
    notes.append(_sizes("demonstrations", demonstrations))
    if settings.prompts is not None:
        asked = load("prompts", lambda source, settings, _, stops: read_prompts(source, settings, stops))
        prompts = _mixed("data.prompts", asked, seed, notes)
    else:
        source = pairs if settings.preferences is not None else demonstrations
        prompts = Split(_prompts(source.train, keys), _prompts(source.held_out, keys))
    notes.append(_sizes("prompts", prompts))
    unused = [theirs for ours, theirs in settings.columns.items() if ours not in used]
    if unused:
        raise DataError(catalogue.COLUMNS_UNUSED.format(columns=", ".join(map(repr, unused))))
    for name, split in (("demonstrations", demonstrations), ("prompts", prompts)):
        if not split.train:
            raise DataError(catalogue.ALL_HELD_OUT.format(name=name))
    return Data(pairs, demonstrations, prompts, _told(notes), sources=tuple(found), keys=keys)


@no_search()
def load_prompts(value: Any, setting: str, seed: int) -> tuple[list[Prompt], list[str]]:
    """The prompts of one source, each once, none held out, and notes; `setting` is its name in messages.

    Raises DataError as `load_data` does.
    """
    notes: list[str] = []
    settings = DataSettings(preferences=None)
    parts = _read(
        value, setting, lambda source, settings, _, stops: read_prompts(source, settings, stops), settings, seed,
        notes, set(), [], Stops(),
    )  # fmt: skip
    return [row for part in parts for row in part.rows], _told(notes)


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
    read: Callable[[Source, Any, str | None, Stops], Converted[Row]],
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
        if columns is None:  # those of data.columns, which holds for all sources, as far as this one has them
            require_known(source, settings.columns)
            columns = {ours: theirs for ours, theirs in settings.columns.items() if has_column(source, theirs)}
            used.update(columns)
        source = renamed(source, columns)
        notes += source.notes
        try:
            converted = read(source, settings, own.get("format"), stops)
        except NoForm as error:
            missing = {ours: theirs for ours, theirs in settings.columns.items() if own.get("columns") is None}
            lines: list[str] = [absent_column(source, ours, missing[ours]) for ours in missing if ours not in columns]
            raise DataError("\n".join([*lines, str(error)])) from None
        except MemoryError:
            raise MachineError(catalogue.NO_MEMORY.format(name=source.name)) from None
        rows, drops = converted.rows, list(converted.drops)
        checks = (drop_blank, drop_equal) if converted.repeats else (drop_blank, drop_equal, drop_duplicates)
        for check in checks:
            rows, dropped = check(rows)
            drops += dropped
        with stops.going_on():
            require_enough(source.name, len(rows), drops, settings.skip_bad_rows)
        if not rows:
            stops.nothing_left()
        found.append(_found(source.name, setting, converted, len(rows), drops))
        notes += converted.notes
        notes += summary(drops)
        parts.append(_Part(source.name, rows, Split([], []), converted.ranked, converted.repeats, weight))
    return parts


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
    train = balance_prompts(part.split.train, seed)
    if len(train) != len(part.split.train) or any(a is not b for a, b in zip(train, part.split.train, strict=True)):
        prompts = len(set(prompt_keys(train)))
        notes.append(catalogue.BALANCED.format(name=part.name, prompts=prompts, each=len(train) // prompts))
    return replace(part, split=Split(train, part.split.held_out))


def _mixed(setting: str, parts: Sequence[_Part[Row]], seed: int, notes: list[str]) -> Split[Row]:
    """The parts as one; where they have weights, their training rows are repeated or left out to meet them."""
    train = [part.split.train for part in parts]
    if parts and parts[0].weight is not None and len(parts) > 1:
        wanted = shares([len(rows) for rows in train], [part.weight or 0.0 for part in parts])
        train = [resample(rows, n, f"{seed} {part.name}") for part, rows, n in zip(parts, train, wanted, strict=True)]
        told = ", ".join(f"{part.name} {len(rows):,}" for part, rows in zip(parts, train, strict=True))
        notes.append(catalogue.MIXED.format(setting=setting, parts=told))
    return Split([row for rows in train for row in rows], [row for part in parts for row in part.split.held_out])


def _chosen_sides(part: _Part[Pair]) -> _Part[Demonstration]:
    """One demonstration for each prompt and chosen answer, however many answers were rejected for it.

    Of ranked answers only the best are demonstrations: the second best of four was chosen too, but over worse ones.
    Where every vote is a pair, those are that won more often than they lost.
    """
    keys = dict(zip(map(id, part.rows), prompt_keys(part.rows), strict=True)) if part.ranked else {}
    won = Counter((keys[id(pair)], pair.chosen) for pair in part.rows if part.repeats)
    lost = Counter((keys[id(pair)], pair.rejected) for pair in part.rows if part.ranked)

    def is_best(pair: Pair) -> bool:
        if not part.ranked:
            return True
        answer = (keys[id(pair)], pair.chosen)
        return not lost[answer] or won[answer] > lost[answer]

    def best(pairs: Sequence[Pair]) -> list[Demonstration]:
        rows = [Demonstration(pair.prompt, pair.chosen, pair.where) for pair in pairs if is_best(pair)]
        return drop_duplicates(rows)[0]

    split = Split(best(part.split.train), best(part.split.held_out))
    return _Part(part.name, [], split, part.ranked, part.repeats, part.weight)


def _prompts(rows: Sequence[Pair | Demonstration], known: dict[int, str]) -> list[Prompt]:
    """Each prompt of the rows once, where it stands first."""
    first: dict[str, Prompt] = {}
    for key, row in zip(prompt_keys(rows, known), rows, strict=True):
        first.setdefault(key, Prompt(messages_of(row), row.where))
    return list(first.values())


def _sizes(name: str, split: Split) -> str:
    return catalogue.SIZES.format(name=name, train=len(split.train), held_out=len(split.held_out))
