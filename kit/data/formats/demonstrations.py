"""Forms of demonstrations, the good answers that SFT imitates, and of bare prompts."""

from kit.data import catalogue
from kit.data.formats.cells import Values, cell, prompt_column, prompt_of, prompt_words
from kit.data.formats.form import Form
from kit.data.formats.head import Head
from kit.data.formats.pairs import require_answer_at_the_end
from kit.data.names import ANSWER, MESSAGES
from kit.data.problems import RowProblem, Unusable
from kit.data.rows import Demonstration, Message, Prompt
from kit.data.turns import Remarks, is_transcript, read_messages, read_response, read_text, read_transcript


def demonstrations_form(head: Head) -> Form[Demonstration] | None:
    """A prompt and its answer; messages; text that is an HH-RLHF transcript; None if it is none of them."""
    prompt, answer = prompt_column(head), head.first(ANSWER)
    if prompt is not None and prompt not in MESSAGES and answer is not None:
        column, response = prompt, answer

        def read(values: Values, where: str, remarks: Remarks) -> list[Demonstration]:
            start = prompt_of(values, column, remarks)
            return [Demonstration(start, read_response(cell(values, response), response, remarks), where)]

        alpaca = "Alpaca: " if (prompt, answer) == ("instruction", "output") else ""
        return Form(
            f"{alpaca}{prompt_words(prompt, head)} and {answer}".replace(" and input and ", ", input and "), read
        )
    messages = head.first(MESSAGES)
    if messages is not None:
        name = "ShareGPT conversations" if _is_sharegpt(head, messages) else messages

        def read_turns(values: Values, where: str, remarks: Remarks) -> list[Demonstration]:
            turns = read_messages(cell(values, str(messages)), str(messages), remarks)
            require_answer_at_the_end(turns, str(messages))
            turns = _with_system(values, turns, str(messages), remarks)
            return [Demonstration(turns[:-1], turns[-1]["content"], where)]

        return Form(name, read_turns)
    if "text" in head.columns and head.kind("text") == "transcript":
        return Form("HH-RLHF transcripts in text", _of_transcript)
    return None


def prompts_form(head: Head) -> Form[Prompt] | None:
    """A prompt under any of its names; messages or text, up to the last turn of the user."""
    column = prompt_column(head)
    if column is not None and column not in MESSAGES:
        name = column

        def read(values: Values, where: str, remarks: Remarks) -> list[Prompt]:
            return [Prompt(prompt_of(values, name, remarks), where)]

        return Form(prompt_words(column, head), read)
    if column is not None:
        messages = column

        def read_turns(values: Values, where: str, remarks: Remarks) -> list[Prompt]:
            turns = without_answer(read_messages(cell(values, messages), messages, remarks))
            return [Prompt(_with_system(values, turns, messages, remarks), where)]

        kind = "ShareGPT conversations" if _is_sharegpt(head, column) else column
        return Form(f"{kind} (a last turn of the assistant is left out)", read_turns)
    if "text" in head.columns:
        return Form("text (a last turn of the assistant is left out)", _prompt_of_text)
    return None


def without_answer(turns: list[Message]) -> list[Message]:
    """The turns up to the last one of the user."""
    waiting = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    if not waiting or waiting[-1]["role"] != "user":
        raise RowProblem(catalogue.NO_USER_TURN)
    return waiting


def _of_transcript(values: Values, where: str, remarks: Remarks) -> list[Demonstration]:
    turns = read_transcript(cell(values, "text"), "text", remarks)
    if turns[-1]["role"] != "assistant":
        raise Unusable(catalogue.ENDS_WITH_HUMAN)
    return [Demonstration(turns[:-1], turns[-1]["content"], where)]


def _prompt_of_text(values: Values, where: str, remarks: Remarks) -> list[Prompt]:
    text = cell(values, "text")
    if not is_transcript(text):
        return [Prompt([{"role": "user", "content": read_text(text, "text")}], where)]
    return [Prompt(without_answer(read_transcript(text, "text", remarks)), where)]


def _is_sharegpt(head: Head, column: str) -> bool:
    return any(
        isinstance(turn, dict) and "from" in turn
        for value in head.found(column)
        if isinstance(value, (list, tuple))
        for turn in value
    )


def _with_system(values: Values, turns: list[Message], column: str, remarks: Remarks) -> list[Message]:
    """ShareGPT's exports may hold the system prompt in a column of its own."""
    said = values.get("system")
    if column == "messages" or not isinstance(said, str) or not said.strip() or turns[0]["role"] == "system":
        return turns
    remarks[catalogue.SYSTEM_COLUMN] += 1
    return [{"role": "system", "content": read_text(said, "system")}, *turns]
