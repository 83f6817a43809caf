"""A small labelling project, and people who judge it."""

import uuid
from pathlib import Path
from typing import Any

from kit.labels.desk import Desk
from kit.labels.project import Answer, Item, Project, create_project

SHA = "0" * 64


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def item(name: str, answers: int = 3, **more: Any) -> Item:
    prompt = [{"role": "user", "content": f"Question {name}?"}]
    return Item(name, prompt, tuple(Answer(f"a{k}", f"Answer {k} to {name}") for k in range(answers)), **more)


def items(count: int, answers: int = 3) -> list[Item]:
    return [item(f"p{n}", answers) for n in range(count)]


def project(folder: Path, content: list[Item] | int = 6, **settings: Any) -> Project:
    return create_project(folder / "toy", items(content) if isinstance(content, int) else content, **settings)


def said(deal: dict[str, Any], ranks: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """What a page sends for a deal: a ranking, unless `more` says why it was skipped."""
    if ranks is None and "skip" not in more:
        ranks = list(range(1, len(deal["answers"]) + 1))
    body = {"id": str(uuid.uuid4()), "deal": deal["deal"], "guidelines_sha256": SHA, "ranks": ranks, **more}
    return {key: value for key, value in body.items() if value is not None}


def next_of(desk: Desk, who: str) -> dict[str, Any] | None:
    """What a person's page shows first."""
    return next(iter(desk.work(who)["work"]), None)


def item_of(desk: Desk, deal: dict[str, Any]) -> str:
    return next(one.item for one in desk.store.deals() if one.id == deal["deal"])


def to_the_end(desk: Desk, *people: str, at_most: int = 10_000) -> dict[str, list[str]]:
    """All of them judge in turns until nothing is left; the items of each, in their order."""
    order: dict[str, list[str]] = {who: [] for who in people}
    busy = list(people)
    while busy and at_most:
        for who in list(busy):
            deal = next_of(desk, who)
            at_most -= 1
            if deal is None:
                busy.remove(who)
                continue
            desk.judge(who, said(deal))
            order[who].append(item_of(desk, deal))
    assert not busy, "there is no end to it"
    return order
