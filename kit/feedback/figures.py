"""The agreement as plain JSON values. The keys are documented in docs/feedback.md and stay."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kit.crowd.judgements import Aside
from kit.feedback import words
from kit.feedback.alpha import Estimate
from kit.feedback.moments import iso
from kit.feedback.people import Person

if TYPE_CHECKING:
    from kit.feedback.agreement import Agreement, Reliability

_DIGITS = 4


def as_dict(found: "Agreement") -> dict[str, Any]:
    """All figures, rounded to four digits; null is unknown. Times are ISO 8601, UTC."""
    told: dict[str, Any] = {
        "source": found.source,
        "form": found.form,
        "judgements": found.judgements,
        "repeats": found.repeats,
        "items": found.items,
    }
    for name in ("alpha_nominal", "alpha_ordinal", "kendall_w"):
        told |= estimate(name, getattr(found, name))
    told["annotators"] = {
        person.name: _person(person, found.reliability[person.name]) | _aside(found.asides.get(person.name))
        for person in found.people
    }
    told["groups"] = {
        group.name: {"annotators": group.annotators}
        | estimate("within", group.within)
        | estimate("across", group.across)
        | estimate("alpha_without", group.alpha_without)
        for group in found.groups
    }
    told["windows"] = [
        {"start": iso(window.start), "end": iso(window.end), "judgements": window.judgements}
        | estimate("alpha_nominal", window.alpha)
        for window in found.windows
    ]
    told["disagreed"] = [asdict(item) | {"disagreement": round(item.disagreement, _DIGITS)} for item in found.disagreed]
    told["flags"] = [
        {"annotator": flag.annotator, "kind": flag.kind, "also": list(flag.also), "p": float(f"{flag.p:.2g}")}
        for flag in found.flags
    ]
    told["advice"] = words.advice(found)
    told["unknown"] = list(found.unknown)
    told["notes"] = list(found.notes)
    return told


def estimate(name: str, value: Estimate | None) -> dict[str, Any]:
    """A figure and its interval under two keys, so that the figure itself is a number or null."""
    ci95 = None if value is None or value.ci95 is None else [round(end, _DIGITS) for end in value.ci95]
    return {name: None if value is None else round(value.value, _DIGITS), f"{name}_ci95": ci95}


def _aside(found: Aside | None) -> dict[str, int | None]:
    """What a person said besides ranks; null where nobody says."""
    return asdict(found) if found else dict.fromkeys(Aside.__dataclass_fields__)


def _person(person: Person, model: "Reliability") -> dict[str, Any]:
    told: dict[str, Any] = {"group": person.group, "judgements": person.judgements, "overlap": model.overlap}
    for name in ("agreement", "gold", "consistency", "first_wins", "longer_wins"):
        told |= estimate(name, getattr(person, name))
    told["seconds_median"] = person.seconds_median
    known = model.overlap > 0
    told["eta"] = round(model.eta, _DIGITS) if known else None
    told["eta_ci95"] = [round(end, _DIGITS) for end in model.ci95] if known else None
    for name, lean in (("position_logits", model.position), ("length_logits", model.length)):
        told[name] = None if lean is None else round(lean.logits, _DIGITS)
    change = model.change
    told["change"] = change and {
        "time": iso(change.time),
        "eta_before": round(change.eta_before, _DIGITS),
        "eta_after": round(change.eta_after, _DIGITS),
        "judgements_after": change.after,
        "p": float(f"{change.p:.2g}"),
    }
    return told
