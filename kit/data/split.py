"""Which prompts are held out: by prompt, so that no prompt stands on both sides, whatever the order of the rows."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from kit.data.rows import Row, Split, messages_of, prompt_key


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


def split_rows(rows: Sequence[Row], fraction: float, seed: int, decided: dict[str, bool]) -> Split[Row]:
    """The rows split by prompt, in their order; the sides of new prompts are added to `decided`."""
    keys = [prompt_key(messages_of(row)) for row in rows]
    decided.update(hold_out(keys, fraction, seed, decided))
    train = [row for row, key in zip(rows, keys, strict=True) if not decided[key]]
    held_out = [row for row, key in zip(rows, keys, strict=True) if decided[key]]
    return Split(train, held_out)
