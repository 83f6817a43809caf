"""One answer a row: with a rating, or liked or not (thumbs)."""

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
from kit.data.formats.head import Head, is_number, word
from kit.data.formats.lists import direction
from kit.data.names import ANSWER, LABEL, RATING
from kit.data.opinions import Answer, Opinion
from kit.data.problems import RowProblem, excerpt, type_name
from kit.data.turns import Remarks, read_response

_WORDS = {
    1.0: {"true", "up", "thumbs_up", "thumbs up", "thumbsup", "good", "yes", "like", "liked", "positive", "desirable",
          "upvote", "chosen", "accepted", "👍", "+1", "1", "1.0"},
    0.0: {"false", "down", "thumbs_down", "thumbs down", "thumbsdown", "bad", "no", "dislike", "disliked", "negative",
          "undesirable", "downvote", "rejected", "👎", "-1", "0", "0.0", "-1.0"},
}  # fmt: skip


def labels_form(head: Head, _best: str) -> OpinionForm | None:
    """The form of rows with one answer that was liked or not."""
    columns, label = _columns(head), _label_column(head)
    if columns is None or label is None:
        return None
    prompt, answer = columns
    who = annotator_column(head)

    def read(values: Values, where: str, remarks: Remarks) -> list[Opinion]:
        value = cell(values, label)
        liked = None if value is None else _thumb(value)
        if liked is None:
            found = type_name(value) if value is None or isinstance(value, (list, dict)) else excerpt(word(value), 20)
            raise RowProblem(catalogue.NO_LABEL.format(what=label, found=found))
        return [_opinion(values, prompt, answer, liked, where, annotator_of(values, who), remarks)]

    return OpinionForm(
        f"binary labels: {prompt_words(prompt, head)} and {answer}, {label} says whether it was liked",
        read,
        single=True,
        labelled=True,
        ranked=True,
        generated=True,
    )


def ratings_form(head: Head, best: str) -> OpinionForm | None:
    """The form of rows with one answer and its rating."""
    columns = _columns(head)
    rating = head.first([name for name in RATING if name != _label_column(head)], is_number)
    if columns is None or rating is None:
        return None
    prompt, answer = columns
    sign, words = direction(rating == "rank", best)
    who = annotator_column(head)

    def read(values: Values, where: str, remarks: Remarks) -> list[Opinion]:
        value = number(cell(values, rating), rating, remarks)
        value = None if value is None else sign * value
        return [_opinion(values, prompt, answer, value, where, annotator_of(values, who), remarks)]

    by = f", one row a person ({who})" if who else ""
    return OpinionForm(
        f"ratings: {prompt_words(prompt, head)} and {answer}, rated by {rating} ({words}){by}",
        read,
        single=True,
        ranked=True,
        rated=True,
        generated=True,
    )


def _label_column(head: Head) -> str | None:
    """The column of thumbs. Numbers are thumbs where there are two of them, 0 or -1 beside 1; else they are ratings."""
    name = head.first(LABEL, lambda value: _thumb(value) is not None)
    if name is None or not head.mostly(name, is_number):
        return name
    return name if all(_thumb(value) is not None for value in head.found(name)) else None


def _columns(head: Head) -> tuple[str, str] | None:
    prompt, answer = prompt_column(head), head.first(ANSWER)
    return (prompt, answer) if prompt is not None and answer is not None else None


def _opinion(
    values: Values, prompt: str, answer: str, value: float | None, where: str, by: str | None, remarks: Remarks
) -> Opinion:
    start = prompt_of(values, prompt, remarks)
    return Opinion(start, (Answer(read_response(cell(values, answer), answer, remarks), value),), where, by)


def _thumb(value: Any) -> float | None:
    """1.0 for liked, 0.0 for not, None for anything else."""
    if isinstance(value, (list, tuple, dict)):
        return None
    said = word(value)
    return next((liked for liked, words in _WORDS.items() if said in words), None)
