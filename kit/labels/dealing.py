"""Who gets which item next: every item its people, overlap where agreement needs it, repeats and gold among the rest.

Items are dealt as people come, so that nobody's absence leaves an item undone: what was dealt and not judged within
`LEASE_SECONDS` is dealt to somebody else, too. Items that somebody has begun come first, so that overlap, and with it
agreement, is there early. Chance depends on the project's seed, the person and the item alone.
"""

import hashlib
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

from kit.labels.project import Item, Project
from kit.labels.store import Deal, Given, Store

LEASE_SECONDS = 3600.0
GOLD_EVERY = 10  # of a person's items, one is gold until there is none left
REPEAT_GAP = 8  # items of a person between an item and its repeat; fewer at the end of the work
FEWEST_GAP = 2  # a repeat that would come sooner is left out
REPEAT_EVERY = 4  # a repeat that is due comes by a chance of one in this many
_USUAL_SECONDS = 40.0  # an item, before anybody was timed
_FEWEST_TIMED = 3  # items, before their times say anything of the others'


@dataclass(frozen=True)
class Progress:
    """How far a person is: items judged, items that are left for them as things stand, and how long those may take."""

    done: int
    left: int
    seconds_left: float


class Dealer:
    """What was dealt and judged, kept beside the store so that dealing needs no query. Not for several threads."""

    def __init__(self, project: Project, store: Store, now: Callable[[], float] = time.time) -> None:
        self.project, self.store, self._now = project, store, now
        self.deals: dict[int, Deal] = {}
        self._dealt: defaultdict[str, dict[str, int]] = defaultdict(dict)  # annotator -> item -> deal, in order
        self._people: defaultdict[str, dict[str, int]] = defaultdict(dict)  # item -> annotator -> deal
        self.standing: dict[int, Given] = {}
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._chances: dict[tuple[str, str], int] = {}
        for deal in store.deals():
            self._keep(deal)
        for given in store.judgements():
            self.judged(given)
        self._wanted = {name: self._people_wanted(item) for name, item in project.items.items()}
        self._repeated = {item.repeat_of for item in project.items.values() if item.repeat_of is not None}

    def judged(self, given: Given) -> None:
        """Learn of a judgement that is in the store now."""
        self.standing[given.deal] = given
        if given.seconds is not None:
            self._seconds[self.deals[given.deal].annotator].append(given.seconds)

    def work(self, who: str, ahead: int) -> list[Deal]:
        """Up to `ahead` items that wait for this person, those dealt before first; deals new ones as needed."""
        waiting = [self.deals[n] for n in self._dealt[who].values() if n not in self.standing]
        waiting = [deal for deal in waiting if deal.item in self.project.items]
        fresh: list[tuple[str, str, tuple[str, ...], float]] = []
        taken: set[str] = set()
        while len(waiting) + len(fresh) < ahead and (item := self._next(who, taken)) is not None:
            fresh.append((who, item.name, self._shuffled(who, item), self._now()))
            taken.add(item.name)
        if fresh:
            for deal in self.store.add_deals(fresh):
                self._keep(deal)
                waiting.append(deal)
        return waiting[:ahead]

    def progress(self, who: str, everybody: int) -> Progress:
        """Where a person stands among `everybody` annotators: what nobody judged yet is shared out evenly."""
        mine = self._dealt[who]
        done = sum(number in self.standing for number in mine.values())
        free, demand, gold, gaps = 0, 0, 0, list[int]()
        order = list(mine)
        for name, item in self.project.items.items():
            if name in mine:
                continue
            if item.gold is not None:
                gold += 1
            elif item.repeat_of is not None:
                gaps += [self._gap(item, order)] if item.repeat_of in mine else []
            elif (missing := self._wanted[name] - self._count(name, who)) > 0:
                free, demand = free + 1, demand + missing
        share = min(free, -(-demand // max(1, everybody)))
        repeats = sum(gap + share >= FEWEST_GAP for gap in gaps)
        more_gold = max(share // GOLD_EVERY, self._wants_gold(order))
        left = len(mine) - done + share + repeats + min(gold, more_gold)
        everybodys = [t for all_times in self._seconds.values() for t in all_times]
        times = next((some for some in (self._seconds[who], everybodys) if len(some) >= _FEWEST_TIMED), None)
        return Progress(done, left, left * (statistics.median(times) if times else _USUAL_SECONDS))

    def _keep(self, deal: Deal) -> None:
        item = self.project.items.get(deal.item)
        if not deal.shown and item is not None:  # judged elsewhere, nobody knows in which order: its author sees one
            deal = replace(deal, shown=tuple(answer.name for answer in item.answers))
        self.deals[deal.id] = deal
        self._dealt[deal.annotator][deal.item] = deal.id
        self._people[deal.item][deal.annotator] = deal.id

    def _next(self, who: str, taken: set[str]) -> Item | None:
        """The item that this person is to get next; None where nothing is left for them."""
        mine, items = self._dealt[who], self.project.items
        place = len(mine) + len(taken)
        free = [item for name, item in items.items() if name not in mine and name not in taken]
        gold = [item for item in free if item.gold is not None]
        counts = {
            item.name: self._count(item.name, who) for item in free if item.gold is None and item.repeat_of is None
        }
        plain = [items[name] for name, count in counts.items() if count < self._wanted[name]]
        order = [*mine, *taken]
        due = [item for item in free if item.repeat_of in order and self._gap(item, order) >= REPEAT_GAP]
        if gold and place % GOLD_EVERY == GOLD_EVERY // 2:
            return min(gold, key=lambda item: self._chance(who, item.name))
        if due and (not plain or self._chance(who, f"repeat {place}") % REPEAT_EVERY == 0):
            return min(due, key=lambda item: self._chance(who, item.name))
        if plain:
            # Near the end, what is to be repeated comes first: else there were no items left to stand between the two.
            near = len(plain) <= REPEAT_GAP
            return min(
                plain,
                key=lambda item: (
                    not (near and item.name in self._repeated),
                    -counts[item.name],
                    self._chance(who, item.name),
                ),
            )
        if gold and self._wants_gold(order):  # too little work for a tenth of it
            return min(gold, key=lambda item: self._chance(who, item.name))
        late = [item for item in free if item.repeat_of in order and self._gap(item, order) >= FEWEST_GAP]
        return max(late, key=lambda item: self._gap(item, order), default=None)

    def _gap(self, repeat: Item, order: list[str]) -> int:
        """Items between a repeat, were it next, and the item that it repeats."""
        return len(order) - 1 - order.index(repeat.repeat_of or "")

    def _wants_gold(self, order: list[str]) -> bool:
        """Whether somebody has had items, and none of them was gold."""
        items = self.project.items
        return bool(order) and not any(name in items and items[name].gold is not None for name in order)

    def _count(self, item: str, without: str) -> int:
        """People other than this one who judged the item or are at it; who skipped it does not count."""
        now, count = self._now(), 0
        for who, number in self._people[item].items():
            given = self.standing.get(number)
            if who != without:
                # Either way: what was dealt before a clock was put back is not held until that time comes again.
                busy = given is None and abs(now - self.deals[number].time) < LEASE_SECONDS
                count += busy or (given is not None and given.ranks is not None)
        return count

    def _people_wanted(self, item: Item) -> int:
        """How many people an item is for. Gold and repeats are for everybody and go by other rules."""
        if self.project.per_item > 1:
            return self.project.per_item
        return 1 + (self._chance("", item.name) / 2**64 < self.project.overlap)

    def _shuffled(self, who: str, item: Item) -> tuple[str, ...]:
        names = [answer.name for answer in item.answers]
        random.Random(self._chance(who, f"order of {item.name}")).shuffle(names)
        return tuple(names)

    def _chance(self, who: str, what: str) -> int:
        """A number below 2^64 that is the same each time."""
        found = self._chances.get((who, what))
        if found is None:
            text = f"{self.project.seed}\n{who}\n{what}"
            found = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
            self._chances[who, what] = found
        return found
