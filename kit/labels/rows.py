"""A project's judgements as rows, one each, in the form of docs/feedback.md: to export, to train on, to measure."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from kit.labels.project import Project
from kit.labels.store import Store


def judgement_rows(project: Project, all_of_them: bool = False) -> Iterator[dict[str, Any]]:
    """What stands of every deal, oldest first; with `all_of_them` what was corrected, too, each under its `id`.

    Nothing where no one has judged yet. Items that are no longer among the project's are left out.
    """
    if not project.store.exists():
        return
    with closing(Store(project.store, read_only=True)) as store:
        given = store.judgements(all_of_them)  # before the deals, so that a server that goes on adds none without one
        deals, groups = {deal.id: deal for deal in store.deals()}, store.annotators()
    for one in given:
        deal = deals[one.deal]
        item = project.items.get(deal.item)
        if item is None:
            continue
        row: dict[str, Any] = {
            "annotator": deal.annotator,
            "item": item.name,
            "answers": [answer.name for answer in item.answers],
            "ranks": None if one.ranks is None else list(one.ranks),
            "shown": list(deal.shown) or None,
            "seconds": one.seconds,
            "time": datetime.fromtimestamp(one.time, UTC).isoformat(timespec="milliseconds"),
            "group": groups.get(deal.annotator),
            "gold": None if item.gold is None else list(item.gold),
            "repeat_of": item.repeat_of,
            "texts": [answer.text for answer in item.answers],
            "prompt": item.prompt[-1]["content"] if item.prompt else "",
            "messages": item.prompt,
            "skip": one.skip,
            "none_acceptable": one.none_acceptable,
            "comment": one.comment,
            "guidelines_sha256": one.guidelines,
            "id": one.client,
        }
        if all_of_them:
            row["supersedes"] = one.supersedes
        yield row
