"""Rows that teach nothing, or the wrong thing, are dropped and counted; too many of them stop the run."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kit.data.rows import Pair, Row, answers_of, messages_of
from kit.errors import DataError

MAX_DROPPED_SHARE = 0.5


class Drop(NamedTuple):
    """A row left out, and why."""

    reason: str
    where: str


def drop_blank(rows: Sequence[Row]) -> tuple[list[Row], list[Drop]]:
    """The rows without those that hold a turn or an answer of nothing but whitespace (its loss would be 0.0)."""

    def reason(row: Row) -> str | None:
        if not all(message["content"].strip() for message in messages_of(row)):
            return "a turn of the prompt is empty"
        names = ("chosen", "rejected") if isinstance(row, Pair) else ("response",)
        empty = [name for name, text in zip(names, answers_of(row), strict=False) if not text.strip()]
        return f"{' and '.join(empty)} empty" if empty else None

    return _without(rows, reason)


def drop_equal(rows: Sequence[Row]) -> tuple[list[Row], list[Drop]]:
    """The rows without pairs whose two answers are one (their loss would stay at ln 2 for ever)."""
    return _without(
        rows,
        lambda row: (
            "chosen equals rejected" if isinstance(row, Pair) and row.chosen.strip() == row.rejected.strip() else None
        ),
    )


def drop_duplicates(rows: Sequence[Row]) -> tuple[list[Row], list[Drop]]:
    """The rows without those that repeat an earlier one exactly."""
    seen: set[object] = set()

    def reason(row: Row) -> str | None:
        prompt = tuple((message["role"], message["content"]) for message in messages_of(row))
        identity = (prompt, answers_of(row))
        if identity in seen:
            return "exact duplicates"
        seen.add(identity)
        return None

    return _without(rows, reason)


def require_enough(source: str, kept: int, drops: Sequence[Drop]) -> None:
    """Raise DataError if nothing is left of a source, or if more than half of it was unusable.

    Duplicates do not count towards that half: without them no text is lost.
    """
    lost = [drop for drop in drops if drop.reason != "exact duplicates"]
    if len(lost) <= MAX_DROPPED_SHARE * (kept + len(drops)):
        return
    left = f"only {kept:,} are left" if kept else "none is left"
    counts = "\n".join(f"  {line}" for line in summary(lost))
    raise DataError(
        f"{source}: {len(lost):,} of {kept + len(drops):,} rows cannot be used, {left}:\n{counts}\n"
        "Look at the rows named here: the columns may be swapped, or hold something else than was recognised."
    )


def summary(drops: Sequence[Drop]) -> list[str]:
    """One line a reason: "dropped 3 rows: chosen equals rejected (first: hh.jsonl:88)"."""
    places: dict[str, list[str]] = {}
    for drop in drops:
        places.setdefault(drop.reason, []).append(drop.where)
    return [
        f"dropped {len(where):,} row{'s' if len(where) > 1 else ''}: {reason} (first: {where[0]})"
        for reason, where in places.items()
    ]


def _without(rows: Sequence[Row], reason: Callable[[Row], str | None]) -> tuple[list[Row], list[Drop]]:
    kept: list[Row] = []
    drops: list[Drop] = []
    for row in rows:
        why = reason(row)
        if why is None:
            kept.append(row)
        else:
            drops.append(Drop(why, row.where))
    return kept, drops
