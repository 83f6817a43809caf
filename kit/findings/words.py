"""The findings in sentences, the same in a terminal and on the page."""

import re
from collections.abc import Sequence

from kit.compare.report.text import visible
from kit.findings.findings import EndOfTurn, Findings, Lengths, Limit, PairFacts, Share, Turns

_PLACES = 3  # shown of each list
_MANY_TURNS = 5  # the user's and the assistant's, ending with the user's: an odd number


def percent(share: float) -> str:
    """A share as a percentage that says 0 only of none and 100 only of all: 0.0004 -> "< 0.1 %"."""
    if 0 < share < 0.001:
        return "<\u00a00.1\u00a0%"
    if 0.999 < share < 1:
        return ">\u00a099.9\u00a0%"
    return f"{100 * share:.0f}\u00a0%" if share in (0, 1) else f"{100 * share:.1f}\u00a0%"


def places(where: Sequence[str], shown: int = _PLACES) -> str:
    """The first places, each once, the file named once: "hh.jsonl:3, :7, …", "demo row 3, 7, …"."""
    every = list(dict.fromkeys(where))
    told, before = [], ""
    for place in every[:shown]:
        name = re.fullmatch(r"(.*?)(?:(:\d+)| (\d+))", place, re.DOTALL)
        again = name is not None and bool(before) and name[1] == before
        told.append((name[2] or name[3]) if name is not None and again else place)
        before = name[1] if name is not None else ""
    return visible(", ".join(told)) + (", …" if len(every) > shown else "")


def counted(where: Sequence[str]) -> str:
    """How many, and where the first of them stand: "3: a:1, a:2, a:9"; "none"."""
    return f"{len(where):,}: {places(where)}" if where else "none"


def over(one: Lengths) -> str:
    """How many texts are longer than the limit."""
    if not one.over:
        return f"none over {one.limit:,}"
    return f"{one.over:,} ({percent(one.over / one.texts)}) over {one.limit:,}"


def effect(limit: Limit) -> list[tuple[str, str]]:
    """Each limit with the share of texts that are longer; the one that is set is marked by a star."""
    return [(f"{tokens:,}" + "*" * (tokens == limit.limit), percent(share)) for tokens, share in limit.over]


def pair_facts(pairs: PairFacts) -> list[tuple[str, str]]:
    """What is to be known of the pairs, a heading and a sentence each."""
    return [
        ("longer wins", _longer(pairs.longer_wins, pairs.longer_wins_train)),
        ("first wins", _first(pairs.first_wins)),
        ("judged both ways", _with_share(pairs.both_ways, pairs.both_ways_share)),
        ("chosen = rejected", counted(pairs.equal)),
        ("equal once cut", counted(pairs.equal_as_used)),
        ("exact duplicates", counted(pairs.duplicates)),
    ]


def turn_facts(turns: Turns) -> list[tuple[str, str]]:
    """How the conversations are built, and whether the split keeps them apart."""
    many = sum(count for n, count in turns.by_turns.items() if n > _MANY_TURNS)
    counts = [(f"{n}", count) for n, count in turns.by_turns.items() if n <= _MANY_TURNS]
    counts += [(f"{_MANY_TURNS + 2} or more", many)] if many else []
    shapes = ", ".join(f"{percent(count / turns.conversations)} of {n} turn{'s'[: n != '1']}" for n, count in counts)
    system = f"{percent(turns.with_system / turns.conversations)} open with a system turn" if turns.with_system else ""
    order = "user and assistant in turn, the user last"
    meeting = (
        f"; {len(turns.meet_as_used):,} once shortened: {places(turns.meet_as_used)}" if turns.meet_as_used else ""
    )
    return [
        ("conversations", "; ".join(part for part in (f"{turns.conversations:,}: {shapes}", system, order) if part)),
        ("train and held out", f"{turns.on_both_sides:,} of {turns.held_out:,} held-out prompts in both{meeting}"),
    ]


def end_facts(end: EndOfTurn) -> list[tuple[str, str]]:
    """Whether the end of an answer is learnt."""
    token = visible(end.token)
    cut = f"; {end.cut:,} are cut before it" if end.cut else ""
    doubled = [("doubled BOS", f"{end.doubled_bos:,} sequences begin with two BOS tokens")] if end.doubled_bos else []
    return [
        ("end of turn", f"{token} is the last learnt token of {end.learnt:,} of {end.answers:,} answers{cut}"),
        *doubled,
    ]


def remarks(found: Findings) -> list[str]:
    """What was recognised and put right; what was dropped stands in the table of rows, what to look at by itself."""
    return [note for note in found.notes if note not in found.warnings and not note.startswith("dropped ")]


def headline(found: Findings) -> str:
    """What the page says first."""
    if found.stops:
        many = len(found.stops)
        return f"{many} thing{'s'[: many > 1]} would stop this run"
    if found.warnings:
        many = len(found.warnings)
        return f"This run can start; {many} thing{'s are' if many > 1 else ' is'} worth a look"
    return "This run can start"


def fits(limit: Limit) -> str:
    """The length into which nearly all texts fit."""
    return f"99\u00a0% of {limit.texts:,} texts have at most {limit.fits_99:,} tokens"


def _longer(held_out: Share, train: Share) -> str:
    if held_out.share is None or train.share is None:
        return "not known: no pair is held out"
    told = f"{percent(held_out.share)} of {held_out.cases:,} held-out pairs"
    return f"{told} ({percent(train.share)} of {train.cases:,} in training): what a reward model has to beat"


def _first(first: Share | None) -> str:
    if first is None or first.share is None:
        return "not known: no source says which answer people saw first"
    return f"{percent(first.share)} of {first.cases:,} verdicts"


def _with_share(where: Sequence[str], share: float) -> str:
    return f"{len(where):,} ({percent(share)}): {places(where)}" if where else "none"
