"""Rows that teach nothing, or the wrong thing, are dropped and counted; too many of them stop the run."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kit.data import catalogue
from kit.data.kept import Rows, first_of, repeated
from kit.data.problems import SHOWN
from kit.data.rows import Pair, Row
from kit.errors import DataError

MAX_DROPPED_SHARE = 0.5
MAX_EMPTY_SHARE = 0.01
MAX_EMPTY_SAMPLES = 0.1
MAX_EQUAL_SHARE = 0.1
FEW_BOTH_WAYS = 9  # so many say nothing
MAX_BOTH_WAYS_SHARE = 0.25  # people who agree on two of three pairs, each judged twice, contradict 17 % of them


class Drop(NamedTuple):
    """A row left out, and why."""

    reason: str
    where: str


def drop_flawed(rows: Rows[Row]) -> tuple[Rows[Row], list[Drop]]:
    """The rows without those that teach nothing by themselves: blank ones are told first, then equal answers."""
    flaws = rows.kept.flaws
    flawed = sorted((n for n in map(int, rows.numbers) if n in flaws), key=lambda n: flaws[n] == catalogue.EQUAL)
    drops = [Drop(flaws[number], rows.kept.where(number)) for number in flawed]
    return rows.picked(~np.isin(rows.numbers, flawed)) if flawed else rows, drops


def drop_duplicates(rows: Rows[Row]) -> tuple[Rows[Row], list[Drop]]:
    """The rows without those that repeat an earlier one exactly."""
    again = repeated(rows.same_texts())
    return rows.picked(~again), [Drop(catalogue.DUPLICATE, rows.where(at)) for at in map(int, np.flatnonzero(again))]


def judged_both_ways(pairs: Rows[Pair]) -> list[str]:
    """Where later pairs stand whose two answers an earlier pair of the same prompt puts the other way round."""
    chosen, rejected = pairs.same_texts()[:, 1:].T
    both = np.stack([pairs.same_prompts(), np.minimum(chosen, rejected), np.maximum(chosen, rejected)], axis=1)
    otherwise = chosen != chosen[first_of(both)]
    return [pairs.where(at) for at in map(int, np.flatnonzero(otherwise))]


def require_enough(source: str, kept: int, drops: Sequence[Drop], allowed: int = 0) -> None:
    """Raise DataError if nothing is left of a source, or if too much of it was unusable: more than one row in a hundred
    with an empty text, one in ten with equal answers, or half of all.

    `allowed` rows of the first two kinds pass in any case. Duplicates do not count towards that half: without them no
    text is lost.
    """
    every = kept + len(drops)
    lost = [drop for drop in drops if drop.reason != catalogue.DUPLICATE]
    if len(lost) > MAX_DROPPED_SHARE * every:
        left = f"only {kept:,} are left" if kept else "none is left"
        counts = "\n".join(f"  {line}" for line in summary(lost))
        raise DataError(
            catalogue.TOO_MANY_DROPPED.format(name=source, lost=len(lost), all=every, left=left, counts=counts)
        )
    empty = [drop.where for drop in lost if drop.reason.endswith("empty")]
    equal = [drop.where for drop in lost if drop.reason == catalogue.EQUAL]
    limits = ((catalogue.EMPTY_TEXT, empty, MAX_EMPTY_SHARE), (catalogue.EQUAL, equal, MAX_EQUAL_SHARE))
    too_many = [
        text for kind, places, limit in limits if (text := _too_many(source, kind, places, every, limit, allowed))
    ]
    if too_many:
        raise DataError("\n".join(too_many))


def require_agreement(source: str, places: Sequence[str], pairs: int) -> None:
    """Raise DataError if more than one pair in four, ten at least, is contradicted by an earlier one (`places`)."""
    if len(places) <= max(MAX_BOTH_WAYS_SHARE * pairs, FEW_BOTH_WAYS):
        return
    text = catalogue.TOO_MANY_BOTH_WAYS.format(
        name=source, count=len(places), all=pairs, share=len(places) / pairs, limit=MAX_BOTH_WAYS_SHARE,
        places=listed(list(dict.fromkeys(places))),
    )  # fmt: skip
    raise DataError(text)


def require_few(source: str, reason: str, places: Sequence[str], rows: int, limit: float) -> None:
    """Raise DataError, with the first places, if the share of the rows at `places` is over the limit."""
    text = _too_many(source, reason, places, rows, limit, 0)
    if text:
        raise DataError(text)


def _too_many(source: str, reason: str, places: Sequence[str], rows: int, limit: float, allowed: int) -> str:
    if len(places) <= max(limit * rows, allowed):
        return ""
    return catalogue.TOO_MANY_OF_A_KIND.format(
        name=source, count=len(places), all=rows, share=len(places) / rows, reason=reason, limit=limit,
        places=listed(places),
    )  # fmt: skip


def listed(places: Sequence[str]) -> str:
    """The first places of a list."""
    return ", ".join(places[:SHOWN]) + (", …" if len(places) > SHOWN else "")


def summary(drops: Sequence[Drop]) -> list[str]:
    """One line a reason: "dropped 3 rows: chosen equals rejected (first: hh.jsonl:88)"."""
    places: dict[str, list[str]] = {}
    for drop in drops:
        places.setdefault(drop.reason, []).append(drop.where)
    return [
        catalogue.DROPPED.format(count=len(where), s="s" if len(where) > 1 else "", reason=reason, first=where[0])
        for reason, where in places.items()
    ]
