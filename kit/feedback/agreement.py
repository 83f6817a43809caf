"""How good a file's judgements are: everything `kit agreement` tells, computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.crowd.judgements import Aside, Judgements
from kit.crowd.model import Crowd, fit
from kit.crowd.votes import Votes, votes_of
from kit.feedback.alpha import Estimate, alpha_nominal, alpha_ordinal, kendalls_w
from kit.feedback.bias import Lean, leans
from kit.feedback.drift import Change, Window, change_of, windows
from kit.feedback.flags import Flag, flags_of
from kit.feedback.groups import Group, groups_of
from kit.feedback.items import Item, items_of
from kit.feedback.people import Person, people_of
from kit.feedback.read import read_judgements


@dataclass(frozen=True)
class Reliability:
    """What the models say of one annotator; position and length in logits, None where unknown."""

    eta: float
    ci95: tuple[float, float]
    overlap: int  # votes on units that others voted on, too
    position: Lean | None
    length: Lean | None
    change: Change | None


@dataclass(frozen=True)
class Agreement:
    """How far people agree, each of them by name, and what to do about it; shows itself in a notebook.

    `as_dict()` is what `kit agreement --json` prints, `html()` the page.
    """

    source: str
    form: str
    judgements: int
    repeats: int
    items: int
    alpha_nominal: Estimate | None
    alpha_ordinal: Estimate | None
    kendall_w: Estimate | None
    people: list[Person]
    reliability: dict[str, Reliability]
    groups: list[Group]
    windows: list[Window]
    disagreed: list[Item]
    flags: list[Flag]
    unknown: list[str]
    notes: list[str]
    asides: dict[str, Aside] = field(default_factory=dict)  # what people said besides ranks; empty: unknown

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values; docs/feedback.md has the keys."""
        from kit.feedback.figures import as_dict

        return as_dict(self)

    def html(self) -> str:
        """The page, self-contained."""
        from kit.feedback.page import page

        return page(self)

    def _repr_html_(self) -> str:
        from kit.feedback.page import notebook

        return notebook(self)


def agreement(source: Path | str | Sequence[dict[str, Any]], objective: str | None = None) -> Agreement:
    """How far the people agree who judged the items of a labelling project or file (or hub id, rows in memory).

    `objective` names one of the things that were rated, where rows hold ratings of several. Raises DataError where the
    source cannot be read or names fewer than two people; of one alone repeats and gold are told.
    """
    return agreement_of(read_judgements(source, objective))


def agreement_of(found: Judgements) -> Agreement:
    """The same of judgements that were read before."""
    votes = votes_of(found)
    crowd = fit(votes)
    leaning = leans(votes, crowd)
    changes = {
        who: change
        for who in range(len(votes.people))
        if (change := change_of(votes, crowd, found.rows, who)) is not None
    }
    people = people_of(votes, found.rows)
    return Agreement(
        source=found.source,
        form=found.form,
        judgements=len(found.rows),
        repeats=sum(row.repeat for row in found.rows),
        items=len({row.item for row in found.rows}),
        alpha_nominal=alpha_nominal(votes),
        alpha_ordinal=alpha_ordinal(found.rows),
        kendall_w=kendalls_w(found.rows),
        people=people,
        reliability=_reliability(votes, crowd, leaning, changes),
        groups=groups_of(votes, found.rows, people),
        windows=windows(votes, found.rows),
        disagreed=items_of(votes, found.rows),
        flags=flags_of(people, crowd, leaning, changes),
        unknown=found.unknown,
        notes=found.notes,
        asides=found.asides,
    )


def _reliability(
    votes: Votes, crowd: Crowd, leaning: dict[str, dict[int, Lean]], changes: dict[int, Change]
) -> dict[str, Reliability]:
    return {
        name: Reliability(
            float(crowd.eta[who]),
            (float(crowd.ci95[who, 0]), float(crowd.ci95[who, 1])),
            int(crowd.overlap[who]),
            leaning["position"].get(who),
            leaning["length"].get(who),
            changes.get(who),
        )
        for who, name in enumerate(votes.people)
    }
