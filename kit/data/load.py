"""From the config's three sources to the data of a run: read, recognise, clean, split by prompt."""

from collections.abc import Callable, Sequence
from typing import Any

from kit.data.checks import drop_blank, drop_duplicates, drop_equal, require_enough, summary
from kit.data.formats import Format, convert, demonstration_format, pair_format, prompt_format
from kit.data.readers import chosen_side
from kit.data.rows import Data, Demonstration, Pair, Prompt, Row, Split, fingerprint_of, messages_of, prompt_key
from kit.data.sources import Source, read_source
from kit.data.split import split_rows
from kit.errors import DataError


def load_data(settings: Any, seed: int) -> Data:
    """The pairs, demonstrations and prompts of a run, cleaned and split by prompt.

    `settings` is the config's data section. Its demonstrations, where null, are the chosen sides of the pairs; its
    prompts, where null, are those of the pairs (of the demonstrations, if there are no pairs).
    Raises DataError, with all problems of a source in one message, if a source cannot be read or used.
    """
    if settings.preferences is None and settings.demonstrations is None:
        raise DataError(
            "data.preferences is null: nothing to learn from. Name a file, a hub id, rows in memory or `demo`; "
            "for SFT alone, name data.demonstrations."
        )
    notes: list[str] = []
    sides: dict[str, bool] = {}  # prompt key -> held out; filled source by source, so that a prompt keeps its side

    def load(setting: str, recognise: Callable[[Source], Format[Row]]) -> Split[Row]:
        rows = _read(getattr(settings, setting), f"data.{setting}", recognise, seed, notes)
        return split_rows(rows, settings.eval_fraction, seed, sides)

    pairs: Split[Pair] = Split([], [])
    if settings.preferences is not None:
        pairs = load("preferences", pair_format)
        notes.append(_sizes("pairs", pairs))
    if settings.demonstrations is not None:
        demonstrations = load("demonstrations", demonstration_format)
    else:
        demonstrations = Split(_chosen_sides(pairs.train), _chosen_sides(pairs.held_out))
    notes.append(_sizes("demonstrations", demonstrations))
    if settings.prompts is not None:
        prompts = load("prompts", prompt_format)
    else:
        source = pairs if settings.preferences is not None else demonstrations
        prompts = Split(_prompts(source.train), _prompts(source.held_out))
    notes.append(_sizes("prompts", prompts))
    for name, split in (("demonstrations", demonstrations), ("prompts", prompts)):
        if not split.train:
            raise DataError(
                f"data.{name}: every prompt of it is held out by the split of the other sources, none is left to train "
                "on. Use more prompts, a smaller data.eval_fraction or another seed."
            )
    return Data(pairs, demonstrations, prompts, fingerprint_of(pairs, demonstrations, prompts), notes)


def _read(
    value: Any, setting: str, recognise: Callable[[Source], Format[Row]], seed: int, notes: list[str]
) -> list[Row]:
    """The clean rows of one source; what was recognised, put right and dropped is added to the notes."""
    source = read_source(value, setting, seed)
    form = recognise(source)
    kind = setting.removeprefix("data.").replace("preferences", "pairs")
    notes += source.notes
    notes.append(f"{source.name}: recognised as {form.name}; {len(source.rows):,} {kind}")
    converted = convert(source, form)
    rows, drops = converted.rows, list(converted.drops)
    for check in (drop_blank, drop_equal, drop_duplicates):
        rows, dropped = check(rows)
        drops += dropped
    require_enough(source.name, len(rows), drops)
    notes += converted.notes
    notes += summary(drops)
    return rows


def _chosen_sides(pairs: Sequence[Pair]) -> list[Demonstration]:
    """One demonstration for each prompt and chosen answer, however many answers were rejected for it."""
    return drop_duplicates([chosen_side(pair) for pair in pairs])[0]


def _prompts(rows: Sequence[Pair] | Sequence[Demonstration]) -> list[Prompt]:
    """Each prompt of the rows once, where it stands first."""
    first: dict[str, Prompt] = {}
    for row in rows:
        first.setdefault(prompt_key(messages_of(row)), Prompt(messages_of(row), row.where))
    return list(first.values())


def _sizes(name: str, split: Split) -> str:
    return f"{name}: {len(split.train):,} to train on, {len(split.held_out):,} held out"
