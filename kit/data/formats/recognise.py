"""Which form the rows of a source have: recognised by content, in a fixed order.

Columns `chosen` and `rejected` say most clearly what they are and are taken at their word, whatever stands beside
them; likewise a tree, and the judgements of a labelling project. Of the other forms of preferences one alone must fit:
where two do, the user names one.
"""

from collections.abc import Callable

from kit.data import catalogue
from kit.data.formats.comparisons import comparisons_form
from kit.data.formats.demonstrations import demonstrations_form, prompts_form
from kit.data.formats.form import Form, OpinionForm
from kit.data.formats.head import Head, as_text, is_number
from kit.data.formats.judgements import judgements_form
from kit.data.formats.lists import keys_within, lists_form
from kit.data.formats.pairs import pairs_form
from kit.data.formats.ratings import labels_form, ratings_form
from kit.data.formats.trees import trees_form
from kit.data.names import ANSWER, ANSWERS, MESSAGES, PROMPTS, RATING
from kit.data.problems import NoForm, excerpt
from kit.data.rows import Demonstration, Prompt
from kit.errors import DataError

PREFERENCES: dict[str, Callable[[Head, str], OpinionForm | None]] = {  # as `data.format` names them; the order counts
    "judgements": judgements_form,
    "pairs": pairs_form,
    "trees": trees_form,
    "comparisons": comparisons_form,
    "lists": lists_form,
    "labels": labels_form,
    "ratings": ratings_form,
}
_COLUMNS_SHOWN = 40
_SURE = ("judgements", "pairs", "trees")
_OTHER_NAMES = {
    "chosen": (
        "winner",
        "preferred",
        "accepted",
        "better",
        "positive",
        "chosen_response",
        "response_chosen",
        "preferred_output",
    ),
    "rejected": (
        "loser",
        "dispreferred",
        "worse",
        "negative",
        "rejected_response",
        "response_rejected",
        "non_preferred_output",
    ),
    "prompt": ("user", "context", "post", "problem", "text", "prompt_text"),
    "completion": ("assistant", "chosen", "target", "label", "solution", "summary"),
    "text": ("txt", "content", "transcript"),
    "messages": ("dialog", "dialogue", "turns", "chat"),
}


def preferences_form(head: Head, name: str, best: str = "auto", format: str = "auto") -> OpinionForm:
    """The form of preferences of the source called `name`; DataError if none fits, or two do."""
    if format != "auto":
        form = PREFERENCES[format](head, best)
        if form is None:
            raise NoForm(_none(head, name, "preferences", catalogue.PREFERENCES, {"chosen", "rejected"}, format))
        return form
    found: dict[str, OpinionForm] = {}
    for key, recognise in PREFERENCES.items():
        form = recognise(head, best)
        if form is not None and key in _SURE:
            return form
        if form is not None:
            found[key] = form
    if len(found) > 1:
        fitting = "\n".join(f"  {key}: {form.name}" for key, form in found.items())
        columns = ", ".join(sorted(head.columns))
        raise DataError(
            catalogue.TWO_FORMS.format(name=name, columns=columns, fitting=fitting, first=next(iter(found)))
        )
    if not found:
        missing = {"chosen", "rejected"} - head.columns
        raise NoForm(_none(head, name, "preferences", catalogue.PREFERENCES, missing))
    return next(iter(found.values()))


def demonstration_form(
    head: Head, name: str, best: str = "auto"
) -> tuple[Form[Demonstration] | None, OpinionForm | None]:
    """The form of the source's demonstrations, or of the preferences whose best answers are taken for them.

    Columns prompt and completion (or an answer's other names) come before everything but labels: disliked answers
    are no demonstrations. DataError if nothing fits, or no prompt can be told from its answer.
    """
    plain = demonstrations_form(head)
    judged = judgements_form(head, best)
    if judged is not None:
        return None, judged
    if plain is not None and not {"chosen", "rejected"} <= head.columns:
        labels = labels_form(head, best)
        return (None, labels) if labels is not None else (plain, None)
    opinions = _preferences_or_none(head, name, best)
    if opinions is not None:
        return None, opinions
    if "text" in head.columns:
        raise DataError(catalogue.PLAIN_TEXT.format(name=name))
    missing = {"prompt", "completion"} - head.columns
    if len(missing) == 2:
        missing |= {"messages", "text"}
    raise NoForm(_none(head, name, "demonstrations", catalogue.DEMONSTRATIONS, missing))


def prompt_form(head: Head, name: str, best: str = "auto") -> tuple[Form[Prompt] | None, OpinionForm | None]:
    """The form of the source's prompts, or of the preferences whose prompts are taken; DataError if nothing fits."""
    opinions = judgements_form(head, best) or pairs_form(head, best) or trees_form(head, best)
    if opinions is not None:
        return None, opinions
    plain = prompts_form(head)
    if plain is not None:
        return plain, None
    opinions = _preferences_or_none(head, name, best)
    if opinions is not None:
        return None, opinions
    raise NoForm(_none(head, name, "prompts", catalogue.PROMPTS, {"prompt", "messages", "text"}))


def _preferences_or_none(head: Head, name: str, best: str) -> OpinionForm | None:
    if any(recognise(head, best) for recognise in PREFERENCES.values()):
        return preferences_form(head, name, best)
    return None


def _none(head: Head, name: str, use: str, forms: str, missing: set[str], format: str | None = None) -> str:
    """No form fits: the columns found, the forms known, and how a column is renamed."""
    known = sorted(str(column) for column in head.columns)
    spelt = {column.strip().lower().replace(" ", "_"): column for column in known}
    renames = {
        kit_name: spelt[other]
        for kit_name in sorted({*missing, "prompt"} - head.columns)
        for other in (kit_name, *_OTHER_NAMES.get(kit_name, ()))
        if other in spelt
    }
    renames = {} if renames.keys() == {"prompt"} and "prompt" not in missing else renames
    texts = {*PROMPTS, *ANSWER}
    numbers = [column for column in known if column not in texts and head.mostly(column, is_number)]
    if renames:
        advice = catalogue.RENAME.format(columns=", ".join(f"{new}: {old}" for new, old in renames.items()))
    elif use == "preferences" and head.first(PROMPTS) and head.first(ANSWER) and numbers:
        advice = catalogue.RENAME_RATING.format(numbers=", ".join(numbers), first=numbers[0])
    elif use == "preferences" and head.first(PROMPTS) and head.first(ANSWER) and (column := head.first(RATING)):
        values = ", ".join(excerpt(as_text(value), 20) for value in head.found(column)[:3])
        advice = catalogue.NO_RATINGS.format(column=column, values=values)
    elif use == "preferences" and head.first((*PROMPTS, *MESSAGES)) and (answers := head.first(ANSWERS)):
        inside = ", ".join(sorted(keys_within(head, answers)))
        advice = (catalogue.RENAME_INSIDE if inside else catalogue.RENAME_ORDERED).format(answers=answers, keys=inside)
    else:
        advice = catalogue.RENAME_YOURS
    listed = " or ".join(sorted(missing)) if len(missing) > 2 else " and ".join(sorted(missing))
    return catalogue.NO_FORM.format(
        name=name,
        use=use,
        asked=f" of the form {format}" if format else "",
        missing=f"missing {listed}; " if missing else "",
        columns=", ".join(known[:_COLUMNS_SHOWN]) + (", …" if len(known) > _COLUMNS_SHOWN else "") or "none",
        forms=forms,
        advice=advice,
    )
