"""What a page may ask for: a person's work, to hand in a judgement, to see one's own earlier ones. No HTTP here."""

import hashlib
import math
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from kit.errors import DataError
from kit.labels.dealing import Dealer
from kit.labels.project import Project
from kit.labels.rows import check_store, note_words
from kit.labels.store import Deal, Given, Store, is_client

AHEAD = 3  # items that a page holds, so that a lost connection does not stop anybody at once
MOST_COMMENT = 4_000  # characters
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {"id", "deal", "ranks", "skip", "none_acceptable", "comment", "seconds", "guidelines_sha256", "supersedes"}


class Refused(DataError):
    """A judgement that was not stored; `standing` is the one in its way, as the page knows it, or None."""

    def __init__(self, why: str, standing: dict[str, Any] | None = None) -> None:
        super().__init__(why)
        self.standing = standing


class Desk:
    """A project's open store with its dealer; threads take turns."""

    def __init__(self, project: Project, now: Callable[[], float] = time.time) -> None:
        self.project, self._now = project, now
        self.store = Store(project.store)
        try:
            check_store(project, self.store)
            note_words(project, self.store, now())
            self._dealer = Dealer(project, self.store, now)
        except BaseException:
            self.store.close()
            raise
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def welcome(self, annotators: dict[str, str | None]) -> None:
        """Let these people in: name -> group."""
        for name, group in annotators.items():
            self.store.add_annotator(name, group, self._now())

    def work(self, who: str) -> dict[str, Any]:
        """What a person's page shows: the items that wait for them, how far they are, and the guidelines.

        Answers stand in the order of the page, without their names; items without theirs, under their deal's number.
        """
        text = self.project.guidelines()
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        with self._lock:
            self.store.add_guidelines(sha256, text, self._now())
            waiting = self._dealer.work(who, AHEAD)
            progress = self._dealer.progress(who, max(1, len(self.store.annotators())))
        return {
            "annotator": who,
            "project": self.project.name,
            "created": str(self.project.settings.get("created", "")),  # another project of that name is another one
            "kind": self.project.kind,
            "guidelines": {"text": text, "sha256": sha256},
            "progress": asdict(progress),
            "work": [self._shown(deal) for deal in waiting],
        }

    def judge(self, who: str, sent: Any) -> dict[str, Any]:
        """Store what a page sent; on disk when this returns {"stored": id, "again": sent before}.

        Raises Refused, and stores nothing, where it is malformed, about a deal of somebody else, or where another
        judgement of the same deal stands that this one does not correct.
        """
        given, deal = self._read(who, sent)
        with self._lock:
            before = self.store.add(given)
            if before is None:
                self._dealer.judged(given)
                return {"stored": given.client, "again": False}
        if before is given:
            raise Refused("supersedes: there is no such judgement of this item")
        if before.client == given.client and _said(before) == _said(given):
            return {"stored": given.client, "again": True}
        if before.deal != deal.id:  # perhaps somebody else's: nothing of it is told
            raise Refused("id: a judgement of another item goes by it; wanted a new one for each judgement")
        standing = self.store.standing(deal.id) or before
        raise Refused("this item was judged before, here or in another tab", self._mine(deal, standing))

    def history(self, who: str, count: int = 50) -> list[dict[str, Any]]:
        """A person's own judgements as they stand, the latest first: what Back leads to, to look at and to correct."""
        deals = self._dealer.deals
        with self._lock:
            mine = [given for given in self._dealer.standing.values() if deals[given.deal].annotator == who]
        mine.sort(key=lambda given: given.time, reverse=True)
        latest = [(deals[given.deal], given) for given in mine[:count]]
        return [self._mine(deal, given) for deal, given in latest if deal.item in self.project.items]

    def _shown(self, deal: Deal) -> dict[str, Any]:
        item = self.project.items[deal.item]
        texts = {answer.name: answer.text for answer in item.answers}
        return {"deal": deal.id, "prompt": item.prompt, "answers": [texts[name] for name in deal.shown]}

    def _mine(self, deal: Deal, given: Given) -> dict[str, Any]:
        """A judgement as its own author's page sees it: ranks in the order of the page."""
        names = [answer.name for answer in self.project.items[deal.item].answers]
        ranks = None if given.ranks is None else dict(zip(names, given.ranks, strict=True))
        return {
            **self._shown(deal),
            "id": given.client,
            "ranks": None if ranks is None else [ranks[name] for name in deal.shown],
            "skip": given.skip,
            "none_acceptable": given.none_acceptable,
            "comment": given.comment,
        }

    def _read(self, who: str, sent: Any) -> tuple[Given, Deal]:
        """What was sent, as it is stored, and its deal. Raises Refused."""
        if not isinstance(sent, dict) or sent.keys() - _KEYS:
            raise Refused(f"wanted an object with the keys {', '.join(sorted(_KEYS))}")
        client, number = sent.get("id"), sent.get("deal")
        if not isinstance(client, str) or not is_client(client):
            raise Refused("id: wanted 16 to 64 letters, digits or dashes, a new one for each judgement")
        deal = self._dealer.deals.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
        if deal is None or deal.annotator != who or deal.item not in self.project.items:
            raise Refused("deal: no item that waits for this person")
        ranks, skip = sent.get("ranks"), sent.get("skip")
        comment, supersedes = sent.get("comment", ""), sent.get("supersedes")
        if (ranks is None) == (skip is None):
            raise Refused("wanted either ranks or skip")
        if skip is not None and (not isinstance(skip, str) or not 0 < len(skip) <= MOST_COMMENT):
            raise Refused(f"skip: wanted the reason, in {MOST_COMMENT:,} characters at most")
        if not isinstance(comment, str) or len(comment) > MOST_COMMENT:
            raise Refused(f"comment: wanted {MOST_COMMENT:,} characters at most")
        if supersedes is not None and not (isinstance(supersedes, str) and is_client(supersedes)):
            raise Refused("supersedes: wanted the id of the judgement that is corrected")
        shas = sent.get("guidelines_sha256")
        if not isinstance(shas, str) or not _SHA256.fullmatch(shas):
            raise Refused("guidelines_sha256: wanted the SHA-256 of the guidelines that were shown")
        none_acceptable = sent.get("none_acceptable", False)
        if not isinstance(none_acceptable, bool):
            raise Refused("none_acceptable: wanted true or false")
        return Given(
            client=client,
            deal=deal.id,
            ranks=None if ranks is None else self._ranks(deal, ranks),
            skip=None if skip is None else _storable(skip),
            none_acceptable=none_acceptable,
            comment=_storable(comment),
            seconds=_seconds(sent.get("seconds")),
            guidelines=shas,
            time=self._now(),
            supersedes=supersedes,
        ), deal

    def _ranks(self, deal: Deal, ranks: Any) -> tuple[int, ...]:
        """Ranks in the order of the page as ranks in the order of the item, without gaps: 1, 3, 3 is 1, 2, 2."""
        k = len(deal.shown)
        whole = isinstance(ranks, list) and all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks)
        if not whole or len(ranks) != k or not all(1 <= rank <= k for rank in ranks):
            raise Refused(f"ranks: wanted {k} whole numbers from 1 to {k}, one an answer in the order of the page")
        dense = {rank: place for place, rank in enumerate(sorted(set(ranks)), 1)}
        by_name = {name: dense[rank] for name, rank in zip(deal.shown, ranks, strict=True)}
        return tuple(by_name[answer.name] for answer in self.project.items[deal.item].answers)


def _said(given: Given) -> tuple[Any, ...]:
    return given.deal, given.ranks, given.skip, given.none_acceptable, given.comment, given.supersedes


def _storable(text: str) -> str:
    """The text without what UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _seconds(value: Any) -> float | None:
    """A time in seconds, a day at most; None for anything else, which is no reason to refuse a judgement."""
    with suppress(TypeError, ValueError, OverflowError):
        seconds = float(value)
        if math.isfinite(seconds) and seconds >= 0 and not isinstance(value, bool):
            return min(seconds, 86_400.0)
    return None
