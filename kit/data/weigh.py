"""How often a training row is used in one pass: TRL's trainers take no weights, so rows are repeated or left out."""

import hashlib
from collections.abc import Sequence

import numpy as np

from kit.data.kept import Rows
from kit.data.rows import Pair, T


def balance_prompts(pairs: Rows[Pair], seed: int) -> Rows[Pair]:
    """The pairs with as many of each prompt, the mean over prompts: each prompt weighs the same, whatever its K.

    InstructGPT weighs each of a prompt's C(K, 2) pairs by 1 / C(K, 2) (Ouyang et al. 2022, arXiv:2203.02155, eq. 1).
    Here a prompt with fewer pairs than the mean has them repeated, and one with more gives a part of them, so that a
    pass has about as many rows as there are pairs and the reward model and DPO see the same ones.
    """
    groups: dict[int, list[int]] = {}
    for at, prompt in enumerate(map(int, pairs.same_prompts())):
        groups.setdefault(prompt, []).append(at)
    if len({len(group) for group in groups.values()}) < 2:
        return pairs
    each = max(1, round(len(pairs) / len(groups)))
    keys = pairs.kept.keys(np.array([*groups], dtype=np.int32))
    drawn = zip(keys, groups.values(), strict=True)
    return pairs.picked([at for key, group in drawn for at in resample(group, each, f"{seed} {key}")])


def resample(rows: Sequence[T], wanted: int, seed: str) -> list[T]:
    """Exactly `wanted` of the rows, in their order: each floor(wanted / rows) times, the rest by a draw from `seed`."""
    if not rows:
        return []
    times, more = divmod(wanted, len(rows))
    drawn = sorted(range(len(rows)), key=lambda n: hashlib.sha256(f"{seed} {n}".encode()).digest())[:more]
    extra = set(drawn)
    return [row for number, row in enumerate(rows) for _ in range(times + (number in extra))]


def shares(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many rows each source gives so that their numbers stand in the ratio of the weights; the sum stays.

    A source of no rows gives none; every other one gives at least one row.
    """
    whole = sum(weight for size, weight in zip(sizes, weights, strict=True) if size)
    total = sum(sizes)
    return [max(1, round(total * weight / whole)) if size else 0 for size, weight in zip(sizes, weights, strict=True)]
