"""Which prompts are held out: by prompt, so that no prompt stands on both sides, whatever the order of the rows."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kit.data.rows import Data, Row, Split, prompt_keys


def hold_out(keys: Iterable[str], fraction: float, seed: int, decided: Mapping[str, bool]) -> dict[str, bool]:
    """For each prompt key, whether it is held out of training; keys that are `decided` keep their side.

    The prompts with the smallest sha256(seed, key) are held out until `fraction` of them are: at least one of two
    or more, never all, none where `fraction` is 0.
    """
    every = set(keys)
    sides = {key: decided[key] for key in every if key in decided}
    wanted = round(fraction * len(every))
    if fraction > 0:
        wanted = min(max(wanted, 1), len(every) - 1)
    ranked = sorted(every - sides.keys(), key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    missing = max(0, wanted - sum(sides.values()))
    return sides | {key: position < missing for position, key in enumerate(ranked)}


def split_rows(
    rows: Sequence[Row], fraction: float, seed: int, decided: dict[str, bool], known: dict[int, str] | None = None
) -> Split[Row]:
    """The rows split by prompt, in their order; the sides of new prompts are added to `decided`, keys to `known`."""
    keys = prompt_keys(rows, known)
    decided.update(hold_out(keys, fraction, seed, decided))
    train = [row for row, key in zip(rows, keys, strict=True) if not decided[key]]
    held_out = [row for row, key in zip(rows, keys, strict=True) if decided[key]]
    return Split(train, held_out)


def keep_for_judge(data: Data, fraction: float, seed: int) -> Data:
    """The data with the pairs of `fraction` of the training prompts kept for a judge: no other list holds them."""
    train = (data.pairs.train, data.demonstrations.train, data.prompts.train)
    keys = [prompt_keys(rows, data.keys) for rows in train]
    # A seed of its own: the prompts that the first split put nearest to the held-out ones are not taken first.
    kept = {key for key, taken in hold_out(keys[0], fraction, seed + 7919, {}).items() if taken}

    def without(split: Split[Row], own: Sequence[str]) -> Split[Row]:
        return Split([row for row, key in zip(split.train, own, strict=True) if key not in kept], split.held_out)

    judge = tuple(pair for pair, key in zip(data.pairs.train, keys[0], strict=True) if key in kept)
    pairs, demonstrations = without(data.pairs, keys[0]), without(data.demonstrations, keys[1])
    prompts = without(data.prompts, keys[2])
    return replace(
        data,
        pairs=pairs, demonstrations=demonstrations, prompts=prompts, judge=judge,
        notes=[*data.notes, f"judge: {len(judge):,} pairs of {len(kept):,} training prompts kept for it alone"],
    )  # fmt: skip
