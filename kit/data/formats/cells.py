"""What stands in a cell: prompts under their usual names, numbers. What is none raises RowProblem."""

import math
import re
from typing import Any

from kit.data import catalogue
from kit.data.formats.head import Head, as_list, as_text, is_list, is_object
from kit.data.names import ANNOTATOR, MESSAGES, PROMPTS
from kit.data.problems import RowProblem, excerpt, type_name
from kit.data.rows import Message
from kit.data.turns import Remarks, read_messages, read_prompt, read_text

Values = dict[str, Any]


def cell(values: Values, name: str) -> Any:
    """The value of a column; RowProblem if the row has none."""
    if name not in values:
        raise RowProblem(catalogue.NO_CELL.format(name=name, found=", ".join(map(str, values)) or "nothing"))
    return values[name]


def prompt_column(head: Head) -> str | None:
    """The column that holds the prompt: one of its usual names, else a conversation, `input` or SHP's `history`."""
    return head.first(PROMPTS) or head.first(MESSAGES) or head.first(("input", "history"), _is_prompt)


def _is_prompt(value: Any) -> bool:
    """A text, or the object of messages that OpenAI's preferences have under `input`."""
    return isinstance(value, str) or (is_object(value) and "messages" in value)


def prompt_words(column: str, head: Head) -> str:
    """How a form's name tells of its prompt column: `instruction and input`."""
    return "instruction and input" if column == "instruction" and "input" in head.columns else column


def prompt_of(values: Values, column: str, remarks: Remarks) -> list[Message]:
    """The prompt of a row: text or messages in the column; Alpaca's `input`, `system` and `history` beside it count."""
    if column in MESSAGES:
        turns = read_messages(cell(values, column), column, remarks)
        if turns[-1]["role"] != "user":
            raise RowProblem(catalogue.NO_USER_LAST.format(what=column, role=turns[-1]["role"]))
        return _with_system(turns, values, remarks)
    value = cell(values, column)
    if is_object(value):  # webgpt: {"full_text": ...}; OpenAI: {"messages": ...}; a single message
        texts = [inner for key, inner in value.items() if key in ("full_text", "text", "content", "value", "messages")]
        value = texts[0] if len(texts) == 1 else value
    if column == "instruction" and isinstance(value, str) and values.get("input") is not None:
        extra = read_text(values["input"], "input")
        value = "\n\n".join(part for part in (value.strip(), extra) if part)
    prompt = read_prompt(value, column, remarks)
    return prompt if column in ("prompt", "input") else _with_system(_history(values) + prompt, values, remarks)


def turns_of_lists(values: Values, prompt: str, answer: str) -> list[Message]:
    """The conversation of two lists, what the user said and what was answered, as LMSYS writes it; null is no words."""
    asked, said = (as_list(cell(values, name)) for name in (prompt, answer))
    for name, value in ((prompt, asked), (answer, said)):
        if not is_list(value):
            raise RowProblem(catalogue.NO_LIST.format(name=name, found=type_name(value)))
    if len(asked) != len(said) or not asked:
        raise RowProblem(catalogue.TURNS_DIFFER.format(prompt=prompt, n=len(asked), answer=answer, m=len(said)))
    both = ((prompt, "user", asked), (answer, "assistant", said))
    return [
        {"role": role, "content": read_text("" if turns[n] is None else turns[n], f"{name}[{n}]")}
        for n in range(len(asked))
        for name, role, turns in both
    ]


def annotator_of(values: Values, column: str | None) -> str | None:
    """Who judged the row, or None."""
    value = values.get(column) if column else None
    return None if value is None or value == "" else as_text(value)


def annotator_column(head: Head) -> str | None:
    """The column that says who judged."""
    return head.first(ANNOTATOR)


def number(value: Any, what: str, remarks: Remarks) -> float | None:
    """A finite number; one written as text is read with a remark; null and "N/A" are None, no judgement."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "n/a", "na", "none", "null")):
        return None
    if isinstance(value, str):
        try:
            read = float(value)
        except ValueError:
            raise RowProblem(catalogue.NO_NUMBER.format(what=what, found=excerpt(value, 20))) from None
        remarks[catalogue.NUMBER_AS_TEXT.format(what=_column(what))] += 1
        value = read
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowProblem(catalogue.NO_NUMBER.format(what=what, found=type_name(value)))
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise RowProblem(catalogue.NO_NUMBER.format(what=what, found=as_text(value)))
    return value


def _column(what: str) -> str:
    """A place within a row without its numbers, so that places of one column are counted together."""
    return re.sub(r"\[\d+\]", "", what)


def _with_system(turns: list[Message], values: Values, remarks: Remarks) -> list[Message]:
    """The turns after the text of a column `system`, where they have no system turn of their own."""
    said = values.get("system", values.get("system_prompt"))
    if not isinstance(said, str) or not said.strip() or turns[0]["role"] == "system":
        return turns
    remarks[catalogue.SYSTEM_COLUMN] += 1
    return [{"role": "system", "content": read_text(said, "system")}, *turns]


def _history(values: Values) -> list[Message]:
    """Earlier turns as Alpaca writes them: a list of [question, answer]."""
    history = values.get("history")
    if not isinstance(history, (list, tuple)):
        return []
    turns: list[Message] = []
    for index, both in enumerate(history):
        if not isinstance(both, (list, tuple)) or len(both) != 2:
            raise RowProblem(catalogue.NO_HISTORY.format(index=index, found=type_name(both)))
        turns.append({"role": "user", "content": read_text(both[0], f"history[{index}][0]")})
        turns.append({"role": "assistant", "content": read_text(both[1], f"history[{index}][1]")})
    return turns
