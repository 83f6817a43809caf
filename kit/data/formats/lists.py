"""K answers to one prompt in one row: ordered best first, with ranks, or with scores (UltraFeedback)."""

import re
from typing import Any

from kit.data import catalogue
from kit.data.formats.cells import (
    Values,
    annotator_column,
    annotator_of,
    cell,
    number,
    prompt_column,
    prompt_of,
    prompt_words,
)
from kit.data.formats.form import OpinionForm
from kit.data.formats.head import Head, as_list, as_text, is_list, is_number, is_object, is_text
from kit.data.names import ANSWER_STEMS, ANSWERS, ORDERED, RANKS, SCORES
from kit.data.opinions import Answer, Opinion
from kit.data.problems import RowProblem, excerpt, type_name
from kit.data.turns import Remarks, is_answer, read_response

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MARK = re.compile(r"\d{1,2}|[A-Za-z]")
_TEXTS = ("response", "answer", "completion", "text", "content", "output", "generated_text")
_IDS = ("id", "response_id", "answer_id", "model", "name")
_ITEM_SCORES = ("score", "rating", "overall_score", "fine-grained_score", "reward")


def lists_form(head: Head, best: str) -> OpinionForm | None:
    """The form of rows that hold a list of answers with ranks or scores, or a list ordered best first."""
    prompt = prompt_column(head)
    if prompt is None:
        return None
    who = annotator_column(head)
    answers = head.first(ANSWERS, _is_listed)
    if answers:
        made = _with_values(head, answers, best) or _by_ids(head, answers) or _by_choice(head, answers)
    else:
        made = _ordered(head) or _wide(head, best)
    if made is None:
        return None
    name, answers_of = made

    def read(values: Values, where: str, remarks: Remarks) -> list[Opinion]:
        start = prompt_of(values, prompt, remarks)
        return [Opinion(start, tuple(answers_of(values, remarks)), where, annotator_of(values, who))]

    by = f"; by {who}" if who else ""
    name = name.format(prompt=prompt_words(prompt, head)) + by
    return OpinionForm(name, read, voted=who is not None, ranked=True, rated=True, generated=True)


def direction(is_rank: bool, best: str) -> tuple[int, str]:
    """(the sign that makes higher better, the words that say which end is best)."""
    lowest = is_rank if best == "auto" else best == "lowest"
    word = "rank" if is_rank else "value"
    return (-1 if lowest else 1), f"the {'lowest' if lowest else 'highest'} {word} is best"


def _with_values(head: Head, answers: str, best: str) -> tuple[str, Any] | None:
    """Answers, each with its rank or score: within its object, or in a second list of the same length."""
    inside = keys_within(head, answers)
    rank = next((key for key in ("rank", "ranking") if key in inside), None)
    score = next((key for key in _ITEM_SCORES if key in inside), None)
    score = score or ("annotations" if "annotations" in inside else None)

    def number_lists(name: str) -> bool:
        return head.mostly(name, _holds_numbers)

    ranks = next((name for name in RANKS if name in head.columns and number_lists(name)), None)
    scores = next((name for name in SCORES if name in head.columns and number_lists(name)), None)
    column = ranks or scores
    key = None if column else rank or score
    if column is None and key is None:
        return None
    is_rank = column == ranks if column else key == rank
    sign, words = direction(is_rank, best)

    def read(values: Values, remarks: Remarks) -> list[Answer]:
        items = _list(values, answers)
        if column is not None:
            judged = _list(values, column, [_id(item, index) for index, item in enumerate(items)])
            if len(judged) != len(items):
                raise RowProblem(
                    catalogue.LENGTHS_DIFFER.format(answers=answers, n=len(items), column=column, m=len(judged))
                )
        else:
            judged = [_judgement(item, str(key)) for item in items]
        found = []
        for index, (item, value) in enumerate(zip(items, judged, strict=True)):
            if item is None and value is None:  # a place that was kept free
                continue
            text = _text(item, f"{answers}[{index}]", remarks)
            read_value = _aspects(value, index, remarks) if key == "annotations" else None
            if key != "annotations":
                read_value = number(value, f"{column or answers}[{index}]{f'.{key}' if key else ''}", remarks)
            found.append(Answer(text, None if read_value is None else sign * read_value))
        return found

    kind = "rankings" if is_rank else "answers with scores"
    told = column or (key if key != "annotations" else "the mean of their annotations")
    return f"{kind}: {{prompt}} and {answers}, judged by {told} ({words})", read


def _by_ids(head: Head, answers: str) -> tuple[str, Any] | None:
    """Answers with ids, and a list of ids ordered best first; or indices from 0 under the name `order`."""
    column = head.first((*RANKS, "order"), lambda value: _is_listed(value) or (is_text(value) and ">" in value))
    if column is None:
        return None

    def read(values: Values, remarks: Remarks) -> list[Answer]:
        items = _list(values, answers)
        texts = [_text(item, f"{answers}[{index}]", remarks) for index, item in enumerate(items)]
        names = [_id(item, index) for index, item in enumerate(items)]
        groups = [[as_text(item) for item in group] for group in _groups(values, column)]
        known = _readings(items, texts, names, {name for group in groups for name in group}, column)
        places: dict[str, int] = {}
        for place, group in enumerate(groups):
            for name in (known.get(name, name) for name in group):
                if name not in names:
                    raise RowProblem(
                        catalogue.UNKNOWN_ID.format(column=column, name=excerpt(name, 20), known=names[:9])
                    )
                if name in places:
                    raise RowProblem(catalogue.ID_TWICE.format(column=column, name=excerpt(name, 20)))
                places[name] = place
        return [
            Answer(text, -float(places[name]) if name in places else None)
            for text, name in zip(texts, names, strict=True)
        ]

    return f"rankings: {{prompt}} and {answers}, ordered by {column} (the first is best)", read


def keys_within(head: Head, answers: str) -> set[str]:
    """The keys of the objects in a column of lists."""
    items = (item for value in map(as_list, head.found(answers)) if is_list(value) for item in value)
    return {str(key) for item in items if is_object(item) for key in item}


def _readings(items: list[Any], texts: list[str], names: list[str], used: set[str], column: str) -> dict[str, str]:
    """What stands in an order -> the name of an answer: ids, the answers, letters, or numbers from 0 or 1."""
    with_ids = any(_has_id(item) for item in items)
    letters = _LETTERS[: len(items)]
    if with_ids and used <= set(names):
        return {}
    if used <= set(texts):
        return dict(zip(texts, names, strict=True))
    if used <= set(letters) or used <= set(letters.upper()):
        return {letter: names[letters.index(letter.lower())] for letter in used}
    if with_ids or "0" in used:
        return {}
    if str(len(items)) in used:
        return {str(number): name for number, name in enumerate(names, 1)}
    if used <= set(names):
        raise RowProblem(catalogue.UNCLEAR_ORDER.format(column=column))
    return {}


def _by_choice(head: Head, answers: str) -> tuple[str, Any] | None:
    """Answers and the index, from 0, of the one that was chosen; the others tie."""
    column = head.first(("choice", "best", "winner", "preferred"), is_number)
    if column is None:
        return None

    def read(values: Values, remarks: Remarks) -> list[Answer]:
        items = _list(values, answers)
        best = number(cell(values, column), column, remarks)
        if best is None or not (best.is_integer() and 0 <= best < len(items)):
            raise RowProblem(catalogue.NO_INDEX.format(column=column, found=best, n=len(items) - 1))
        return [
            Answer(_text(item, f"{answers}[{index}]", remarks), float(index == best))
            for index, item in enumerate(items)
        ]

    return f"choices: {{prompt}} and {answers}, {column} is the index of the best, from 0", read


def wide_columns(head: Head) -> dict[str, str]:
    """The columns of answers that a table has side by side, by their marks: {"1": "answer_1", "2": "answer_2", ...}."""
    for stem in ANSWER_STEMS:
        for glue in ("_", "", "-", " "):
            found = {column.removeprefix(stem + glue): column for column in sorted(head.columns) if column != stem}
            marks = {mark: column for mark, column in found.items() if mark != column and _MARK.fullmatch(mark)}
            if len(marks) > 1:
                return marks
    return {}


def _wide(head: Head, best: str) -> tuple[str, Any] | None:
    """A table with K answers side by side and a rank or score for each: answer_1 to answer_4, rank_1 to rank_4."""
    answers = wide_columns(head)
    judged = {
        stem: [f"{stem}{glue}{mark}" for mark in answers]
        for stem in (*RANKS, *SCORES)
        for glue in ("_", "", "-", " ")
        if answers and head.columns.issuperset(f"{stem}{glue}{mark}" for mark in answers)
    }
    stem = next(iter(judged), None)
    if stem is None or (len(answers) == 2 and stem not in RANKS):  # two answers with scores are a comparison
        return None
    sign, words = direction(stem in RANKS, best)

    def read(values: Values, remarks: Remarks) -> list[Answer]:
        found = []
        for column, by in zip(answers.values(), judged[stem], strict=True):
            value = number(values.get(by), by, remarks)
            if value is None and values.get(column) in (None, ""):  # this row has fewer answers
                continue
            found.append(Answer(_text(cell(values, column), column, remarks), None if value is None else sign * value))
        return found

    columns = list(answers.values())
    kind = "rankings" if stem in RANKS else "answers with scores"
    return f"{kind}: {{prompt}} and {columns[0]} to {columns[-1]}, judged by {judged[stem][0]}, ... ({words})", read


def _ordered(head: Head) -> tuple[str, Any] | None:
    """A list of answers that stand best first; a list within it holds answers that tie."""

    def of_answers(value: Any) -> bool:
        value = as_list(value)
        return is_list(value) and bool(value) and not is_answer(value) and not all(map(is_number, value))

    column = head.first(ORDERED, of_answers)
    if column is None:
        return None

    def read(values: Values, remarks: Remarks) -> list[Answer]:
        return [
            Answer(_text(item, f"{column}[{place}]", remarks), -float(place))
            for place, group in enumerate(_groups(values, column))
            for item in group
        ]

    return f"rankings: {{prompt}} and {column} (the first is best)", read


def _list(values: Values, name: str, keys: list[str] | None = None) -> list[Any]:
    """The list in a column. An object of named texts is a list of answers with ids, and `keys` order one of ranks."""
    found = as_list(cell(values, name))
    if isinstance(found, dict) and keys is not None:
        return [found.get(key) for key in keys]
    if _is_named(found):
        return [{"id": key, "text": text} for key, text in found.items()]
    if not is_list(found):
        raise RowProblem(catalogue.NO_LIST.format(name=name, found=type_name(found)))
    return list(found)


def _groups(values: Values, name: str) -> list[list[Any]]:
    """The members of an order, those that tie together: nested lists, or a text like `b > a = c`."""
    found = cell(values, name)
    if isinstance(found, str) and ">" in found:
        return [re.split(r"[=,]", part) for part in found.split(">")]
    return [list(item) if is_list(item) and not is_answer(item) else [item] for item in _list(values, name)]


def _is_listed(value: Any) -> bool:
    return is_list(as_list(value)) or _is_named(value)


def _is_named(value: Any) -> bool:
    """Whether a value is an object of answers under the names of those who gave them."""
    return isinstance(value, dict) and len(value) > 1 and all(map(is_text, value.values())) and "role" not in value


def _holds_numbers(value: Any) -> bool:
    value = as_list(value)
    return any(map(is_number, value.values() if isinstance(value, dict) else value if is_list(value) else ()))


def _judgement(item: Any, key: str) -> Any:
    """What an answer's object says under the key; None, no judgement, where it says nothing."""
    return item.get(key) if isinstance(item, dict) else None


def _text(item: Any, what: str, remarks: Remarks) -> str:
    if isinstance(item, dict) and not ("role" in item or "from" in item):
        key = next((key for key in _TEXTS if key in item), None)
        if key is None:
            raise RowProblem(catalogue.NO_TEXT.format(what=what, found=sorted(map(str, item)), known=", ".join(_TEXTS)))
        return read_response(item[key], f"{what}.{key}", remarks)
    return read_response([item] if isinstance(item, dict) else item, what, remarks)


def _has_id(item: Any) -> bool:
    return isinstance(item, dict) and any(item.get(key) is not None for key in _IDS)


def _id(item: Any, index: int) -> str:
    """The id of an answer: its own, else its index from 0."""
    if isinstance(item, dict):
        key = next((key for key in _IDS if item.get(key) is not None), None)
        if key is not None:
            return as_text(item[key])
    return str(index)


def _aspects(value: Any, index: int, remarks: Remarks) -> float | None:
    """UltraFeedback's annotations without an overall score: the mean of the ratings of all aspects."""
    if not isinstance(value, dict):
        return None
    ratings = []
    for aspect in value.values():
        first = aspect[0] if isinstance(aspect, (list, tuple)) and aspect else aspect
        if isinstance(first, dict) and "Rating" in first:
            rating = number(first["Rating"], f"annotations[{index}].Rating", remarks)
            ratings += [] if rating is None else [rating]
    return sum(ratings) / len(ratings) if ratings else None
