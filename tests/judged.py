"""Judgements in short, for the tests of how far people agree."""

from kit.crowd.judgements import Judgement, Judgements


def rated(table):
    """Ratings [observer][unit] as judgements, every unit an item of its own."""
    return [
        Judgement(f"p{who}", f"i{unit}", "rating", ("a",), (float(value),), "row")
        for who, row in enumerate(table)
        for unit, value in enumerate(row)
        if value is not None
    ]


def choice(annotator, item, value, **more):
    """A choice between a and b: 1 for a, -1 for b, 0 for a tie."""
    return Judgement(annotator, item, "pair", ("a", "b"), (float(value > 0), float(value < 0)), "row", **more)


def ranked(annotator, item, ranks, **more):
    names = tuple("abcdefghi"[: len(ranks)])
    return Judgement(annotator, item, "rank", names, tuple(-float(rank) for rank in ranks), "row", **more)


def judged(rows):
    return Judgements("test", "test", list(rows))
