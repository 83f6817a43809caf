"""Rows that hold one answer, the people who rated it, and their ratings in lists of the same order (lqual)."""

import math
from collections.abc import Iterator

from kit.crowd.judgements import Judgement
from kit.data.files import Row
from kit.data.formats.head import Head
from kit.data.problems import RowProblem, type_name


def objectives_of(head: Head) -> list[str]:
    """What was rated, by name: `prompts` holds {objective: {"human": [ratings]}}."""
    named: dict[str, None] = {}
    for value in head.found("prompts"):
        if isinstance(value, dict):
            named |= {str(key): None for key, inner in value.items() if isinstance(inner, dict) and "human" in inner}
    return list(named)


def rated(row: Row, objective: str) -> Iterator[Judgement]:
    """One rating a person; the item is the row's `id`, the answer its `system`. A higher rating is taken as better."""
    people = row.values.get("annotators")
    asked = row.values.get("prompts")
    inner = asked.get(objective) if isinstance(asked, dict) else None
    ratings = inner.get("human") if isinstance(inner, dict) else None
    if not isinstance(people, list) or not isinstance(ratings, list) or len(people) != len(ratings):
        raise RowProblem(f"wanted as many annotators as ratings in prompts.{objective}.human")
    item, answer = row.values.get("id"), row.values.get("system")
    if item is None or answer is None:
        raise RowProblem("wanted an id and a system")
    for person, rating in zip(people, ratings, strict=True):
        if rating is None:
            continue
        if isinstance(rating, bool) or not isinstance(rating, (int, float)) or not math.isfinite(rating):
            raise RowProblem(f"prompts.{objective}.human: wanted numbers; found {type_name(rating)}")
        yield Judgement(str(person), str(item), "rating", (str(answer),), (float(rating),), row.where)
