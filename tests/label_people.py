"""Simulated people who rank a labelling project as a browser does it: over HTTP, by their secret links."""

import random
import uuid
from collections.abc import Callable, Mapping

import httpx

Ranks = Callable[[str, list[str], random.Random], list[int]]  # prompt and answers in the order of the page -> ranks


def rank_all(links: Mapping[str, str], people: Mapping[str, Ranks], seed: int = 0) -> int:
    """Every person ranks whatever waits for them, in turn, until nothing does; how many judgements that were."""
    with_doors = {name: _Visitor(link) for name, link in links.items()}
    chance, sent, busy = random.Random(seed), 0, set(links)
    while busy:
        for name in sorted(busy):
            done = with_doors[name].rank(people[name], chance)
            sent += done
            if not done:
                busy.discard(name)
    for visitor in with_doors.values():
        visitor.close()
    return sent


def demo_people() -> dict[str, Ranks]:
    """The demo world's annotators, as people who sit before the page."""
    from kit.demo.people import ANNOTATORS, rank

    def of(annotator) -> Ranks:
        return lambda prompt, answers, chance: rank(prompt, answers, annotator, chance)

    return {annotator.name.lower(): of(annotator) for annotator in ANNOTATORS}


class _Visitor:
    """A person with a link opened in a browser of their own."""

    def __init__(self, link: str) -> None:
        self._http = httpx.Client(timeout=60)
        assert self._http.get(link).is_redirect, "the link lets nobody in"
        self._url = link.split("/join/")[0]

    def rank(self, ranks: Ranks, chance: random.Random) -> int:
        """Judge the items at hand; how many there were."""
        state = self._http.get(f"{self._url}/api/work").raise_for_status().json()
        for item in state["work"]:
            body = {
                "id": str(uuid.UUID(int=chance.getrandbits(128))),
                "deal": item["deal"],
                "ranks": ranks(item["prompt"][-1]["content"], item["answers"], chance),
                "seconds": round(chance.uniform(4, 40), 1),
                "guidelines_sha256": state["guidelines"]["sha256"],
            }
            origin = {"Origin": self._url}
            self._http.post(f"{self._url}/api/judgements", json=body, headers=origin).raise_for_status()
        return len(state["work"])

    def close(self) -> None:
        self._http.close()
