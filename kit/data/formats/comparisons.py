"""Two answers and who won: PandaLM, arena battles, SHP, webgpt, and tables of votes."""

import re
from collections.abc import Callable
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
    turns_of_lists,
)
from kit.data.formats.form import OpinionForm
from kit.data.formats.head import Head, is_list, is_number, is_text_list, word
from kit.data.formats.lists import wide_columns
from kit.data.formats.pairs import common_turns, require_answer_at_the_end
from kit.data.names import ANSWER_STEMS, WINNER
from kit.data.opinions import Answer, Opinion
from kit.data.problems import RowProblem, Unusable, excerpt, type_name
from kit.data.rows import Message
from kit.data.turns import Remarks, is_answer, read_messages, read_response

_SIDES = (("1", "2"), ("a", "b"), ("A", "B"), ("0", "1"), ("left", "right"))
_ANNOTATORS = re.compile(r"(annotator|rater|judge|worker|human|vote)[_ ]?\d+", re.IGNORECASE)
_TIES = {
    "tie",
    "draw",
    "both",
    "equal",
    "same",
    "neither",
    "none",
    "tie (bothbad)",
    "bothbad",
    "both_bad",
    "no preference",
}
_ONE_HOT = {"1": 1, "true": 1, "0": 0, "false": 0}
Verdict = Callable[[Any, str, Remarks], int]  # 1: the first answer is better; -1: the second; 0: a tie


def comparisons_form(head: Head, _best: str) -> OpinionForm | None:
    """The form of rows with two answers side by side, and a column (or one a person) that says which is better."""
    columns = _answer_columns(head)
    if columns is None or len(wide_columns(head)) > 2:
        return None
    first, second, sides = columns
    voters = sorted(name for name in head.columns if _ANNOTATORS.fullmatch(name) and name not in columns)
    one_hot = _one_hot_columns(head, sides)
    winner = None if one_hot else head.first(WINNER)
    scores = _score_columns(head, sides)
    prompt = prompt_column(head)
    whole = head.mostly(first, lambda value: is_list(value) and not is_answer(value) and any(map(_is_message, value)))
    by_turn = not whole and all(head.mostly(name, is_text_list) for name in (prompt or "", first, second))
    if (prompt is None and not whole) or not (voters or one_hot or winner or scores):
        return None
    who = annotator_column(head)
    judged_by = voters or ([winner] if winner else [])
    verdict = _verdict_reader(head, judged_by, sides, first)
    by_score = not (judged_by or one_hot)
    pandalm = bool(voters) and (first, second) == ("response1", "response2") and prompt == "instruction"

    def answers(values: Values, remarks: Remarks) -> tuple[list[Message], str, str]:
        if not whole and not by_turn and prompt is not None:
            start = prompt_of(values, prompt, remarks)
            one, two = (_answer(cell(values, name), name, remarks) for name in (first, second))
            return start, one, two
        if by_turn and prompt is not None:
            return common_turns(*(turns_of_lists(values, prompt, name) for name in (first, second)))
        both = [read_messages(cell(values, name), name, remarks) for name in (first, second)]
        for name, turns in zip((first, second), both, strict=True):
            require_answer_at_the_end(turns, name)
        return common_turns(*both)

    def read(values: Values, where: str, remarks: Remarks) -> list[Opinion]:
        start, one, two = answers(values, remarks)
        if by_score and scores:
            values_of = [number(cell(values, name), name, remarks) for name in scores]
            return [Opinion(start, (Answer(one, values_of[0]), Answer(two, values_of[1])), where)]
        if one_hot:
            sign = _one_hot_verdict(values, one_hot)
            pair = (Answer(one, float(sign > 0)), Answer(two, float(sign < 0)))
            return [Opinion(start, pair, where, annotator_of(values, who))]
        opinions = []
        for column in judged_by:
            if values.get(column) is None or values[column] == "":  # this person did not judge
                remarks[catalogue.NO_VOTE.format(column=column)] += 1
                continue
            sign = verdict(values[column], column, remarks)
            by = f"{column} of {where}" if voters else annotator_of(values, who)
            pair = (Answer(one, float(sign > 0)), Answer(two, float(sign < 0)))
            opinions.append(Opinion(start, pair, where, by))
        if not opinions:
            raise Unusable(catalogue.NOBODY_JUDGED)
        return opinions

    told = winner or " and ".join(one_hot or scores or ())
    told = f"{len(voters)} annotators ({_range_of(voters)})" if voters else told
    name = "PandaLM" if pandalm else "comparisons"
    by = f"; votes by {who}" if who and not voters else ""
    words = prompt_words(prompt, head) if prompt and not whole else "conversations"
    name = f"{name}: {words}, {first} and {second}, judged by {told}{by}"
    return OpinionForm(
        name, read, voted=bool(voters or who), rated=by_score, shown_in_order=not by_score, generated=True
    )


def _answer(value: Any, what: str, remarks: Remarks) -> str:
    """The text of an answer; PandaLM's own file holds the answers True and False as booleans."""
    if isinstance(value, bool):
        remarks[catalogue.BOOLEAN_AS_TEXT.format(what=what)] += 1
        value = str(value)
    return read_response(value, what, remarks)


def _answer_columns(head: Head) -> tuple[str, str, tuple[str, str]] | None:
    """The two columns of answers and the marks that tell them apart; None if there are none."""
    for stem in ANSWER_STEMS:
        for sides in _SIDES:
            for glue in ("", "_", "-", " "):
                names = tuple(f"{stem}{glue}{side}" for side in sides)
                if head.columns.issuperset(names):
                    return names[0], names[1], sides
    return None


def _score_columns(head: Head, sides: tuple[str, str]) -> list[str] | None:
    for stem in ("score", "rating", "reward", "votes"):
        for glue in ("", "_"):
            names = [f"{stem}{glue}{side}" for side in sides]
            if head.columns.issuperset(names):
                return names
    return None


def _one_hot_columns(head: Head, sides: tuple[str, str]) -> list[str] | None:
    """The columns that hold 1 for the winner and 0 for the other, and one for a tie, as LMSYS writes them."""
    for stem in ("winner_model_", "winner_", "win_"):
        names = [f"{stem}{side}" for side in sides]
        if head.columns.issuperset(names):
            ties = (tie for tie in ("winner_tie", "winner_model_tie", "tie") if tie in head.columns)
            return [*names, *list(ties)[:1]]
    return None


def _one_hot_verdict(values: Values, columns: list[str]) -> int:
    """1: the first answer is better; -1: the second; 0: a tie. RowProblem unless exactly one column says so.

    Without a column for ties a row of zeros is a tie.
    """
    marks = [_ONE_HOT.get(_mark(cell(values, name)), 2) for name in columns]
    if sum(marks) > 1 or (len(columns) == 3 and not sum(marks)):
        found = ", ".join(f"{name}: {excerpt(word(values[name]), 20)}" for name in columns)
        raise RowProblem(catalogue.NO_ONE_HOT.format(found=found))
    return marks[0] - marks[1]


def _verdict_reader(head: Head, columns: list[str], sides: tuple[str, str], first: str) -> Verdict:
    """How the verdicts of these columns are read: as a mark of a side, a number, or a word for a tie."""
    found = {_mark(value) for column in columns for value in head.found(column)}
    zero_is_tie = sides != ("0", "1")
    # 0 and 1 beside answers A and B may mean either; SHP's say 1 for A.
    unclear = sides in (("a", "b"), ("A", "B"), ("left", "right")) and found <= {"0", "1"} and bool(found)
    shp = first == "human_ref_A"

    def read(value: Any, what: str, remarks: Remarks) -> int:
        if isinstance(value, (list, tuple, dict)):
            raise RowProblem(catalogue.NO_VERDICT.format(what=what, found=type_name(value), wanted=_wanted(sides)))
        mark = _mark(value)
        if mark in _TIES:
            return 0
        tail = re.sub(
            r"^(model|response|answer|output|completion|assistant|option|candidate|summary|side)[_ -]*", "", mark
        )
        low = tuple(side.lower() for side in sides)
        if unclear:
            if shp and mark in ("0", "1"):
                return 1 if mark == "1" else -1
            raise RowProblem(catalogue.UNCLEAR_VERDICT.format(what=what, first=first))
        if tail in low:
            return 1 if tail == low[0] else -1
        if tail in ("1", "2") and zero_is_tie:
            return 1 if tail == "1" else -1
        if mark == "0" and zero_is_tie:
            return 0
        raise RowProblem(catalogue.NO_VERDICT.format(what=what, found=excerpt(word(value), 20), wanted=_wanted(sides)))

    return read


def _mark(value: Any) -> str:
    """A verdict as text: 1, 1.0, "1" and " 1 " are one mark."""
    if is_number(value) and float(value).is_integer():
        return str(int(float(value)))
    return word(value)


def _wanted(sides: tuple[str, str]) -> str:
    return f"{sides[0]} or {sides[1]}" + (", or 0 for a tie" if sides != ("0", "1") else ", or tie")


def _is_message(value: Any) -> bool:
    return isinstance(value, dict)


def _range_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
