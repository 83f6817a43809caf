"""A project's judgements as rows, one each, in the form of docs/feedback.md: to export, to train on, to measure."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, NoReturn

from kit import notices
from kit.errors import DataError, RunError
from kit.labels.project import ITEMS_FILE, Project
from kit.labels.store import Deal, Given, Store, damage_told, wal_of


def judgement_rows(project: Project, all_of_them: bool = False) -> Iterator[dict[str, Any]]:
    """What stands of every deal, oldest first; with `all_of_them` what was corrected, too, each under its `id`.

    Nothing where no one has judged yet. Items that are no longer among the project's are left out, with a warning that
    counts their judgements.
    """
    if not any(file.exists() and file.stat().st_size for file in (project.store, wal_of(project.store))):
        return  # not there, or killed before anything was in it
    with damage_told(project.store), closing(Store(project.store, read_only=True)) as store:
        given = store.judgements(all_of_them)  # before the deals, so that a server that goes on adds none without one
        deals, groups = {deal.id: deal for deal in store.deals()}, store.annotators()
        check_fits(project, deals, given, store.words())
    gone = sum(deals[one.deal].item not in project.items for one in given)
    if gone:
        notices.warn(
            f"{project.path / ITEMS_FILE}: {gone:,} judgement{'s' * (gone > 1)} left out, of items that are no longer "
            "there. They stay in the store, and count again when the lines are put back"
        )
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


def check_store(project: Project, store: Store) -> None:
    """Raise RunError where the store is damaged, and DataError where it does not fit the project's items."""
    with damage_told(store.path):
        check_fits(project, {deal.id: deal for deal in store.deals()}, store.judgements(), store.words())


def note_words(project: Project, store: Store, time: float) -> None:
    """Keep the hashes of the items' words, before anybody is given one; of a store that `check_store` passed.

    Items that were given before hashes were kept, by version 0.6.0, are taken as they are now. Raises RunError.
    """
    try:
        store.add_words({item.name: item.words_sha256 for item in project.items.values()}, time)
    except sqlite3.Error as error:
        raise RunError(f"{store.path}: cannot be written: {error}") from None


def check_fits(project: Project, deals: Mapping[int, Deal], given: Iterable[Given], words: Mapping[str, str]) -> None:
    """Raise DataError where an item has other answers than people were shown: what they said is of none of these.

    `words`: item -> the hash that was kept of its words; those without one are taken as they are. What was said of
    items that are no longer there is left out. ValueError for a judgement of nothing that was dealt.
    """
    for one in deals.values():
        item = project.items.get(one.item)
        if item is None:
            continue
        if one.shown and sorted(one.shown) != sorted(answer.name for answer in item.answers):
            _refuse(project, one)
        if words.get(item.name, item.words_sha256) != item.words_sha256:
            raise DataError(
                f"{project.path / ITEMS_FILE}: item {item.name!r} was edited after {one.annotator!r} was given it: its "
                "prompt, the words of an answer or their order are others, and what was said of it is not of these. "
                "Put back the line as it was, e.g. from a backup; or give the edited line an item name of its own, and "
                "what was said of the old one is left out, and kept"
            )
    for said in given:
        deal = deals.get(said.deal)
        if deal is None:
            raise ValueError(f"judgement {said.client} is of nothing that was dealt")
        item = project.items.get(deal.item)
        if item is not None and said.ranks is not None and len(said.ranks) != len(item.answers):
            _refuse(project, deal)


def _refuse(project: Project, deal: Deal) -> NoReturn:
    raise DataError(
        f"{project.path / ITEMS_FILE}: item {deal.item!r} has other answers than {deal.annotator!r} was shown. Put "
        "back the line as it was, e.g. from a backup; or remove it, and its judgements are left out"
    )
