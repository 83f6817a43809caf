"""People's judgements, one a row: a labelling project, or what it exported (docs/feedback.md has the columns).

The answers stand by name in `answers`, their words in `texts`. Rank 1 is best, whatever `data.best_value` says of
other data.
"""

from collections.abc import Iterable
from typing import Any

from kit.data import catalogue
from kit.data.formats.cells import Values, cell, number
from kit.data.formats.form import OpinionForm
from kit.data.formats.head import Head, as_list, as_text, is_list
from kit.data.opinions import Answer, Opinion
from kit.data.problems import RowProblem, type_name
from kit.data.rows import Message
from kit.data.turns import Remarks, read_messages, read_prompt, read_text

COLUMNS = {"annotator", "item", "answers", "ranks"}
_MARKS = {"texts", "shown", "repeat_of", "gold", "lengths", "guidelines_sha256"}  # of which lists of answers have none


def judgements_form(head: Head, _best: str) -> OpinionForm | None:
    """The form of a file of judgements; repeats, skips and what was corrected later are left out and counted."""
    if not head.columns >= COLUMNS or not head.columns & _MARKS:
        return None
    kept: list[tuple[str, list[Opinion]]] = []
    corrected: set[str] = set()
    seen: list[Remarks] = []
    with_corrections = "supersedes" in head.columns

    def read(values: Values, where: str, remarks: Remarks) -> Iterable[Opinion]:
        found = _opinions(values, where, remarks)
        if not with_corrections:
            return found
        seen[:] = [remarks]
        kept.append((as_text(values.get("id")), found))
        if values.get("supersedes") is not None:
            corrected.add(as_text(values["supersedes"]))
        return []

    def rest() -> Iterable[Opinion]:
        for name, found in kept:
            if name not in corrected:
                yield from found
            else:
                seen[0][catalogue.CORRECTED] += 1

    return OpinionForm(catalogue.JUDGEMENTS, read, rest, voted=True, ranked=True, generated=True, judgements=True)


def _opinions(values: Values, where: str, remarks: Remarks) -> list[Opinion]:
    """What a row says; nothing of a repeat, which measures the person and not the answers, and of a skipped item."""
    who = values.get("annotator")
    if who is None or not as_text(who):
        raise RowProblem(catalogue.NO_CELL.format(name="annotator", found="nothing"))
    names, texts = (_list(values, column) for column in ("answers", "texts"))
    if len(names) != len(texts):
        raise RowProblem(catalogue.LENGTHS_DIFFER.format(answers="answers", n=len(names), column="texts", m=len(texts)))
    if values.get("repeat_of") is not None:
        remarks[catalogue.REPEATS] += 1
        return []
    if values.get("ranks") is None:
        remarks[catalogue.SKIPPED] += 1
        return []
    ranks = _list(values, "ranks")
    if len(ranks) != len(names):
        raise RowProblem(catalogue.LENGTHS_DIFFER.format(answers="answers", n=len(names), column="ranks", m=len(ranks)))
    answers = []
    for index, (text, rank) in enumerate(zip(texts, ranks, strict=True)):
        value = number(rank, f"ranks[{index}]", remarks)
        answers.append(Answer(read_text(text, f"texts[{index}]"), None if value is None else -value))
    none = values.get("none_acceptable") is True
    return [Opinion(_prompt(values, remarks), tuple(answers), where, as_text(who), none_acceptable=none)]


def _prompt(values: Values, remarks: Remarks) -> list[Message]:
    """The whole conversation where the row has it; `prompt` shows its last turn alone."""
    messages = as_list(values.get("messages"))
    if messages is None:
        return read_prompt(cell(values, "prompt"), "prompt", remarks)
    turns = read_messages(messages, "messages", remarks)
    if turns[-1]["role"] != "user":
        raise RowProblem(catalogue.NO_USER_LAST.format(what="messages", role=turns[-1]["role"]))
    return turns


def _list(values: Values, column: str) -> list[Any]:
    if column == "texts" and values.get(column) is None:
        raise RowProblem(catalogue.NAMES_ALONE)
    found = as_list(cell(values, column))
    if not is_list(found):
        raise RowProblem(catalogue.NO_LIST.format(name=column, found=type_name(found)))
    return list(found)
