"""The agreement in sentences, the same in a terminal, on the page, in a notebook and in JSON."""

from typing import TYPE_CHECKING

import numpy as np

from kit.compare.report.text import UNKNOWN, duration, visible
from kit.crowd.judgements import OPTIONAL
from kit.feedback.alpha import Estimate
from kit.feedback.bias import FEWEST
from kit.feedback.flags import Flag
from kit.feedback.moments import iso

if TYPE_CHECKING:
    from kit.feedback.agreement import Agreement

_RELIABLE, _TENTATIVE = 0.8, 0.667  # Krippendorff 2004, Content Analysis
_LAST = 30  # judgements to look at


def headline(found: "Agreement") -> str:
    """What is said first."""
    people = f"{len(found.people):,} people, {found.judgements:,} judgements of {found.items:,} items"
    if len(found.people) == 1:
        return f"{visible(found.people[0].name)} alone, {found.judgements:,} judgements of {found.items:,} items"
    main = main_alpha(found)
    if main is None:
        return f"{people}: no two of them judged the same"
    level = "they agree well" if main.value >= _RELIABLE else (
        "they agree, but not reliably" if main.value >= _TENTATIVE else "they agree too little to rely on"
    )  # fmt: skip
    return f"{people}: {level}"


def main_alpha(found: "Agreement") -> Estimate | None:
    """The alpha to judge by: that of ranks and ratings is not comparable across K, so nominal on pairs comes first."""
    return found.alpha_nominal or found.alpha_ordinal


def figures(found: "Agreement") -> list[tuple[str, str]]:
    """The figures of all together, a name and a text each."""
    rows = [
        ("alpha, pairs (nominal)", told(found.alpha_nominal)),
        ("alpha, ranks (ordinal)", told(found.alpha_ordinal)),
        ("Kendall's W, ties corrected", told(found.kendall_w)),
    ]
    if found.unknown:
        rows.append(("unknown", "the file does not say " + "; ".join(OPTIONAL[name] for name in found.unknown)))
    return rows


def told(value: Estimate | None) -> str:
    """A figure with its interval and what it rests on; "-" where unknown."""
    if value is None:
        return UNKNOWN
    ends = f" ({value.ci95[0]:.2f} to {value.ci95[1]:.2f})" if value.ci95 else ""
    return f"{value.value:.2f}{ends}, {value.items:,} items"


def share(value: Estimate | None) -> str:
    """A share in whole per cent; "-" where unknown."""
    return UNKNOWN if value is None else f"{100 * value.value:.0f} %"


def asides(found: "Agreement") -> list[tuple[str, str]]:
    """What people said besides ranks, a name and a text each, those with most skips first; nothing where none did."""
    rows = []
    for name, one in sorted(found.asides.items(), key=lambda both: (-both[1].skipped, both[0])):
        counted = [
            text
            for count, text in (
                (one.skipped, f"skipped {one.skipped:,}"),
                (one.none_acceptable, f"none acceptable in {one.none_acceptable:,}"),
                (one.comments, f"{one.comments:,} comment{'s'[: one.comments > 1]}"),
            )
            if count
        ]
        if counted:
            rows.append((name, ", ".join(counted)))
    return rows


def advice(found: "Agreement") -> list[str]:
    """What to do, the surest first: people to look at, then what concerns all of them."""
    if len(found.people) == 1:
        return [_alone(found)]
    said = [flagged(found, flag) for flag in found.flags]
    main = main_alpha(found)
    if main is not None and main.value < _RELIABLE:
        weight = "below 0.667, too little to draw conclusions from" if main.value < _TENTATIVE else (
            "below 0.8, good for tentative conclusions only"
        )  # fmt: skip
        hard = " Mend the guidelines by the items that people disagree on most." if found.disagreed else ""
        said.append(f"Alpha is {main.value:.2f}: {weight} (Krippendorff).{hard}")
    for group in found.groups:
        inside, outside = (one.ci95 if one else None for one in (group.within, group.across))
        if inside and outside and inside[0] > outside[1]:
            said.append(
                f"Group {visible(group.name)} agrees with itself ({share(group.within)}) more than with the others "
                f"({share(group.across)}): a taste of its own rather than a fault; keep its share in the data."
            )
    few = [name for name, model in found.reliability.items() if model.overlap < FEWEST]
    if few:
        named = ", ".join(map(visible, few[:5])) + (", …" if len(few) > 5 else "")
        said.append(
            f"{len(few)} of {len(found.people)} people have fewer than {FEWEST} votes that others share, so nothing is "
            f"said of them ({named}): deal more items to two people or more."
        )
    if len(found.people) == 2:
        said.append(
            "Two people alone: where they differ, nobody can tell which of them errs. Ask a third, or plant gold."
        )
    return said


def _alone(found: "Agreement") -> str:
    """What can be said of one person without others."""
    (person,) = found.people
    told = [
        f"{what} {share(figure)}"
        for what, figure in (("repeated items judged the same:", person.consistency), ("gold put right:", person.gold))
        if figure is not None
    ]
    return (
        f"One person alone judged ({'; '.join(told)}): nobody can tell what of it is taste. Let a second judge a part, "
        "e.g. `kit label PROJECT --annotators ana,ben`."
    )


def flagged(found: "Agreement", flag: Flag) -> str:
    """What is to be looked at in one annotator's judgements, and why."""
    model = found.reliability[flag.annotator]
    person = next(one for one in found.people if one.name == flag.annotator)
    name, eta = visible(flag.annotator), f"eta {model.eta:.2f}"
    last = f"look at the last {min(_LAST, person.judgements)} judgements"
    if flag.kind == "drifting" and model.change is not None:
        change = model.change
        text = (
            f"{name} judges otherwise since {iso(change.time)[:10]}: eta {change.eta_before:.2f} before, "
            f"{change.eta_after:.2f} in the {change.after} judgements since; look at "
            f"{'those' if change.eta_after < change.eta_before else 'the ones before'}"
        )
    elif flag.kind == "position":
        first = model.position is not None and model.position.logits > model.position.usual
        share_of = person.first_wins.value if person.first_wins else 0.0
        text = (
            f"{name} goes by the place on the page: of two answers the one shown {'first' if first else 'last'} "
            f"wins in {100 * (share_of if first else 1 - share_of):.0f} % ({eta}); {last}"
        )
    elif flag.kind == "length":
        longer = model.length is not None and model.length.logits > model.length.usual
        share_of = person.longer_wins.value if person.longer_wins else 0.0
        text = (
            f"{name} goes by length: of two answers the {'longer' if longer else 'shorter'} one wins in "
            f"{100 * (share_of if longer else 1 - share_of):.0f} % ({eta}); {last}"
        )
    elif flag.kind == "adversarial":
        text = f"{name} puts the better answer last: {eta}; ask whether the ends of the scale were mixed up, and {last}"
    elif flag.kind == "gold":
        items = person.gold.items if person.gold else 0
        text = f"{name} puts {share(person.gold)} of {items} gold items right; go through them together"
    else:
        how = "agrees with nobody" if model.ci95[0] <= 0.5 else "agrees with the others far less than usual"
        text = f"{name} {how}: {eta}, {last}"
    return f"{text}{_hurried(found, person.seconds_median)}."


def _hurried(found: "Agreement", seconds: float | None) -> str:
    """The time an item takes, where it is less than half of what it takes the typical person."""
    all_of = [person.seconds_median for person in found.people if person.seconds_median is not None]
    if seconds is None or len(all_of) < 3 or seconds >= float(np.median(all_of)) / 2:
        return ""
    return f" ({duration(seconds)} an item, where {duration(float(np.median(all_of)))} are usual)"
