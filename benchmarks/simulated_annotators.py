"""Simulated annotators whose faults are known; benchmarks/agreement.py and the tests see whether they are named.

Every answer has a quality, and a length that goes with it a little. An honest annotator sees the quality through noise
of an own size and has a small own taste for length; of the others:

careless       ranks at random
adversarial    ranks the best last
always-left    takes what is shown first, in most judgements
likes-long     goes by length, quality counts little
drifting       honest until a day, careless from it on
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

KINDS = ("careless", "adversarial", "always-left", "likes-long", "drifting")
START = 1_772_323_200  # 2026-03-01 00:00 UTC
DAY = 86_400


def simulate(
    kinds: Sequence[str],
    items: int = 200,
    k: int = 2,
    per_item: int = 3,
    days: int = 20,
    drift_day: int = 10,
    seed: int = 0,
    repeats: float = 0.06,
    noise: tuple[float, float] = (0.3, 0.9),
    truth: bool = False,
) -> list[dict[str, Any]]:
    """Rows of the kit's file of judgements. `kinds` has an entry an annotator: "honest" or one of KINDS.

    Each item is judged by `per_item` people drawn at random, those with the fewest items first; `noise` is the range of
    honest people's standard deviations, where qualities have 1. Names tell the kind: "careless-3". With
    `truth` each row has the answers' `quality`, too.
    """
    rng = np.random.default_rng(seed)
    names = [f"{kind}-{number}" for number, kind in enumerate(kinds)]
    spread = rng.uniform(*noise, size=len(kinds))
    taste = rng.normal(0, 0.15, size=len(kinds))
    done = np.zeros(len(kinds))
    dealt: list[list[tuple[int, bool]]] = [[] for _ in kinds]
    quality = rng.normal(size=(items, k))
    lengths = np.exp(5.5 + 0.4 * rng.normal(size=(items, k)) + 0.1 * quality).astype(int) + 20
    for item in range(items):
        for who in np.lexsort((rng.random(len(kinds)), done))[:per_item]:
            done[who] += 1
            dealt[who].append((item, False))
    rows = []
    for who, kind in enumerate(kinds):
        todo = dealt[who]
        for _ in range(round(repeats * len(todo))):
            todo.append((todo[rng.integers(len(dealt[who]))][0], True))
        times = np.sort(rng.uniform(0, days * DAY, size=len(todo)))
        seen: set[int] = set()
        for (item, _), at in zip(sorted(todo, key=lambda _: rng.random()), times, strict=True):
            shown = rng.permutation(k)
            score = _score(kind, at >= drift_day * DAY, quality[item], lengths[item], shown, rng)
            if kind == "honest" or (kind == "drifting" and at < drift_day * DAY):
                score = score + spread[who] * rng.normal(size=k) + taste[who] * _long(lengths[item])
            row = {
                "annotator": names[who],
                "item": f"item-{item}{'-again' * (item in seen)}",
                "answers": [f"a{n}" for n in range(k)],
                "ranks": [int(rank) + 1 for rank in np.argsort(np.argsort(-score))],
                "shown": [f"a{n}" for n in shown],
                "seconds": round(float(np.exp(rng.normal(3.0 if kind == "honest" else 2.6, 0.5))), 1),
                "time": int(START + at),
                "group": ("north", "south")[who % 2],
                "lengths": [int(each) for each in lengths[item]],
                "prompt": f"Simulated prompt {item}",
            }
            row |= {"quality": [float(each) for each in quality[item]]} if truth else {}
            rows.append(row | ({"repeat_of": f"item-{item}"} if item in seen else {}))
            seen.add(item)
    return rows


def _score(kind: str, late: bool, quality: Any, lengths: Any, shown: Any, rng: np.random.Generator) -> Any:
    """What a person of this kind ranks by; the highest is best."""
    dice = rng.normal(size=len(quality))
    if kind == "careless" or (kind == "drifting" and late):
        return dice
    if kind == "adversarial":
        return -quality + 0.4 * dice
    if kind == "always-left":
        return -np.argsort(shown).astype(float) if rng.random() < 0.9 else quality + 0.4 * dice
    if kind == "likes-long":
        return 1.5 * _long(lengths) + 0.3 * quality + 0.3 * dice
    return quality


def _long(lengths: Any) -> Any:
    """Log-lengths, centred, in units of their spread."""
    return (np.log(lengths) - np.log(lengths).mean()) / 0.4
