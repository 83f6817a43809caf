"""Which prompts are held out: by prompt, so that no prompt stands on both sides, whatever the order of the rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kit.data.data import Data
from kit.data.kept import KeptSplit, Numbers, Row, Rows

OPEN, TRAIN, HELD_OUT = -1, 0, 1  # the side of a prompt; open: not decided yet
Sides = NDArray[np.int8]


def hold_out(keys: Sequence[str], fraction: float, seed: int, decided: Sides) -> Sides:
    """The side of each prompt, by its key, which stands once; those that are `decided` keep theirs.

    The prompts with the smallest sha256(seed, key) are held out until `fraction` of them are: at least one of two
    or more, never all, none where `fraction` is 0.
    """
    wanted = round(fraction * len(keys))
    if fraction > 0:
        wanted = min(max(wanted, 1), len(keys) - 1)
    undecided = np.flatnonzero(decided == OPEN)
    digests = b"".join(hashlib.sha256(f"{seed} {keys[at]}".encode()).digest() for at in map(int, undecided))
    ranked = undecided[np.argsort(np.frombuffer(digests, dtype=np.dtype((np.void, 32))), kind="stable")]
    missing = max(0, wanted - int(np.sum(decided == HELD_OUT)))
    sides = decided.copy()
    sides[ranked[:missing]], sides[ranked[missing:]] = HELD_OUT, TRAIN
    return sides


def split_rows(rows: Rows[Row], fraction: float, seed: int, decided: Sides) -> tuple[KeptSplit[Row], Sides]:
    """The rows split by prompt, in their order; and the sides of all prompts so far, to be handed in next time."""
    prompts = rows.same_prompts()
    every = np.unique(prompts)
    sides = np.full(rows.kept.prompts, OPEN, dtype=np.int8)
    sides[: len(decided)] = decided
    sides[every] = hold_out(rows.kept.keys(every), fraction, seed, sides[every])
    held_out = sides[prompts] == HELD_OUT
    return KeptSplit(rows.picked(~held_out), rows.picked(held_out)), sides


def keep_for_judge(data: Data, fraction: float, seed: int) -> Data:
    """The data with the pairs of `fraction` of the training prompts kept for a judge: no other list holds them."""
    every = np.unique(data.pairs.train.same_prompts())
    # A seed of its own: the prompts that the first split put nearest to the held-out ones are not taken first.
    sides = hold_out(data.pairs.train.kept.keys(every), fraction, seed + 7919, np.full(len(every), OPEN, dtype=np.int8))
    kept = every[sides == HELD_OUT]

    def without(split: KeptSplit[Row]) -> KeptSplit[Row]:
        return KeptSplit(split.train.picked(~_stand_in(split.train, kept)), split.held_out)

    judge = data.pairs.train.picked(_stand_in(data.pairs.train, kept))
    return replace(
        data,
        pairs=without(data.pairs), demonstrations=without(data.demonstrations), prompts=without(data.prompts),
        judge=judge,
        notes=[*data.notes, f"judge: {len(judge):,} pairs of {len(kept):,} training prompts kept for it alone"],
    )  # fmt: skip


def _stand_in(rows: Rows, prompts: Numbers) -> NDArray[np.bool_]:
    """Which rows have one of these prompts."""
    return np.isin(rows.same_prompts(), prompts)
