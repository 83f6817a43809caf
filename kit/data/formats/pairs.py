"""Preferences that say themselves which answer was chosen: TRL's forms, HH-RLHF, ShareGPT's and Alpaca's pairs."""

from itertools import takewhile
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
from kit.data.formats.head import Head, is_list, is_text
from kit.data.opinions import Answer, Opinion
from kit.data.problems import RowProblem, Unusable
from kit.data.rows import Message
from kit.data.turns import Remarks, is_answer, read_messages, read_prompt, read_response, read_text, read_transcript

Sides = tuple[list[Message], str, str]  # prompt, chosen, rejected


def pairs_form(head: Head, _best: str) -> OpinionForm | None:
    """The form of rows with the columns chosen and rejected."""
    if not {"chosen", "rejected"} <= head.columns:
        return None
    who = annotator_column(head)
    voters = f"; votes by {who}" if who else ""
    prompt = prompt_column(head)
    kind = head.kind("chosen")
    # A conversation in full holds the prompt itself; a `messages` column beside it mostly repeats the chosen side.
    whole = kind == "messages" and not any(is_answer(_listed(value)) for value in head.found("chosen"))
    if kind == "transcript":
        name, sides = "HH-RLHF transcripts", sides_of_transcripts
    elif whole:
        name, sides = "conversational preferences", sides_of_conversations
    elif prompt is not None:
        name = f"{prompt_words(prompt, head)}, chosen and rejected"
        name = "conversational preferences" if kind == "messages" and prompt == "prompt" else name
        column = prompt

        def sides(values: Values, remarks: Remarks) -> Sides:
            return sides_after_prompt(values, remarks, column)
    elif kind == "messages":
        name, sides = "conversational preferences", sides_of_conversations
    else:
        name, sides = catalogue.GUESSED_PROMPT, sides_of_texts

    several = not whole and head.mostly("rejected", lambda value: is_list(value) and all(map(is_text, value)) and value)

    def read(values: Values, where: str, remarks: Remarks) -> list[Opinion]:
        margin = _margin(values, remarks)
        worse = values.get("rejected")
        rows = [values | {"rejected": text} for text in worse or ()] if several and is_list(worse) else [values]
        return [_opinion(sides(row, remarks), where, annotator_of(values, who), margin) for row in rows]

    return OpinionForm(name + voters, read, voted=who is not None, ranked=several)


def sides_after_prompt(values: Values, remarks: Remarks, column: str = "prompt") -> Sides:
    """A prompt column, and answers as text, messages or one message."""
    prompt = prompt_of(values, column, remarks)
    chosen, rejected = (read_response(_listed(cell(values, name)), name, remarks) for name in ("chosen", "rejected"))
    return prompt, chosen, rejected


def sides_of_conversations(values: Values, remarks: Remarks) -> Sides:
    """Whole conversations, whose common turns are the prompt; or answers as messages after a prompt column."""
    both = [_listed(cell(values, name)) for name in ("chosen", "rejected")]
    if any(is_answer(side) for side in both):
        return sides_after_prompt(values, remarks)
    chosen, rejected = (
        read_messages(side, name, remarks) for side, name in zip(both, ("chosen", "rejected"), strict=True)
    )
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        require_answer_at_the_end(turns, name)
    sides = common_turns(chosen, rejected)
    if values.get("prompt") is not None:
        stated = read_prompt(values["prompt"], "prompt", remarks)
        if stated[-1] not in sides[0]:
            raise RowProblem(catalogue.PROMPT_ELSEWHERE)
    return sides


def sides_of_transcripts(values: Values, remarks: Remarks) -> Sides:
    """HH-RLHF: two transcripts that share all turns but the last."""
    chosen, rejected = (read_transcript(cell(values, name), name, remarks) for name in ("chosen", "rejected"))
    if not chosen[-1]["role"] == rejected[-1]["role"] == "assistant":
        raise Unusable(catalogue.ENDS_WITH_HUMAN)
    return common_turns(chosen, rejected)


def sides_of_texts(values: Values, remarks: Remarks) -> Sides:
    """Two texts: the prompt ends at the last line break of their common beginning, else at its last space."""
    chosen, rejected = (read_text(cell(values, name), name) for name in ("chosen", "rejected"))
    common = chosen[: sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))]
    end = common.rfind("\n" if "\n" in common else " ")
    if end < 0:
        raise Unusable(catalogue.NO_COMMON_BEGINNING)
    prompt = [{"role": "user", "content": chosen[:end].strip()}]
    return prompt, chosen[end:].strip(), rejected[end:].strip()


def common_turns(chosen: list[Message], rejected: list[Message]) -> Sides:
    """People judged the whole conversations, so a pair that parts before the last turn judges no single answer."""
    if chosen[:-1] != rejected[:-1]:
        raise Unusable(catalogue.PART_EARLY)
    return chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


def require_answer_at_the_end(turns: list[Message], what: str) -> None:
    """RowProblem unless the last turn is the assistant's."""
    if turns[-1]["role"] != "assistant":
        raise RowProblem(catalogue.NO_ASSISTANT_LAST.format(what=what, role=turns[-1]["role"]))


def _opinion(sides: Sides, where: str, annotator: str | None, margin: float | None) -> Opinion:
    prompt, chosen, rejected = sides
    return Opinion(prompt, (Answer(chosen, 1.0), Answer(rejected, 0.0)), where, annotator, margin)


def _listed(value: Any) -> Any:
    """A single message, as ShareGPT's pairs have it, as a list of one."""
    return [value] if isinstance(value, dict) and ("from" in value or "role" in value) else value


def _margin(values: Values, remarks: Remarks) -> float | None:
    """By how much the chosen answer was rated higher: the column `margin`, or the difference of the row's own scores.

    Rows whose scores say the opposite of their columns, as in UltraFeedback's binarized exports, are counted.
    """
    if "margin" in values:
        stated = number(values["margin"], "margin", remarks)
        if stated is not None and stated < 0:
            raise RowProblem(catalogue.NEGATIVE_MARGIN.format(found=stated))
        return stated
    try:
        chosen, rejected = (number(values.get(f"score_{side}"), side, remarks) for side in ("chosen", "rejected"))
    except RowProblem:
        return None
    if chosen is None or rejected is None:
        return None
    if chosen < rejected:
        remarks[catalogue.SCORES_SAY_OPPOSITE] += 1
    return max(0.0, chosen - rejected)
