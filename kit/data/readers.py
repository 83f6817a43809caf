"""One function a form: a row as it stands in its source becomes a Pair, a Demonstration or a Prompt.

Each raises RowProblem (the user must put the row right) or Unusable (the row is dropped and counted).
"""

from itertools import takewhile
from typing import Any

from kit.data.problems import RowProblem, Unusable
from kit.data.rows import Demonstration, Message, Pair, Prompt
from kit.data.turns import (
    Remarks,
    is_answer,
    is_transcript,
    read_messages,
    read_prompt,
    read_response,
    read_text,
    read_transcript,
)

MESSAGES_NAMES = ("messages", "conversations")  # the second is ShareGPT's
Values = dict[str, Any]


def pair_with_prompt(values: Values, where: str, remarks: Remarks) -> Pair:
    """TRL's prompt, chosen and rejected; each a text or messages."""
    prompt = read_prompt(_cell(values, "prompt"), "prompt", remarks)
    chosen, rejected = (read_response(_cell(values, name), name, remarks) for name in ("chosen", "rejected"))
    return Pair(prompt, chosen, rejected, where)


def pair_of_conversations(values: Values, where: str, remarks: Remarks) -> Pair:
    """Answers as messages, after a prompt column; or whole conversations, whose common turns are the prompt."""
    if is_answer(_cell(values, "chosen")) or is_answer(_cell(values, "rejected")):
        return pair_with_prompt(values, where, remarks)
    chosen, rejected = (read_messages(_cell(values, name), name, remarks) for name in ("chosen", "rejected"))
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        _require_answer_at_the_end(turns, name)
    pair = _pair_of_turns(chosen, rejected, where)
    if values.get("prompt") is not None:
        stated = read_prompt(values["prompt"], "prompt", remarks)
        if stated[-1] not in pair.prompt:
            raise RowProblem("chosen and rejected are whole conversations, but the prompt does not stand in them")
    return pair


def pair_of_transcripts(values: Values, where: str, remarks: Remarks) -> Pair:
    """HH-RLHF: two transcripts that share all turns but the last."""
    chosen, rejected = (read_transcript(_cell(values, name), name) for name in ("chosen", "rejected"))
    if not chosen[-1]["role"] == rejected[-1]["role"] == "assistant":
        raise Unusable("a transcript ends with the human")
    return _pair_of_turns(chosen, rejected, where)


def pair_of_texts(values: Values, where: str, remarks: Remarks) -> Pair:
    """Two texts: the prompt ends at the last line break of their common beginning, else at its last space."""
    chosen, rejected = (read_text(_cell(values, name), name) for name in ("chosen", "rejected"))
    common = chosen[: sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))]
    end = common.rfind("\n" if "\n" in common else " ")
    if end < 0:
        raise Unusable("chosen and rejected have no common beginning to take as the prompt")
    prompt = [{"role": "user", "content": chosen[:end].strip()}]
    return Pair(prompt, chosen[end:].strip(), rejected[end:].strip(), where)


def demonstration_with_prompt(values: Values, where: str, remarks: Remarks) -> Demonstration:
    """TRL's prompt and completion; each a text or messages."""
    prompt = read_prompt(_cell(values, "prompt"), "prompt", remarks)
    return Demonstration(prompt, read_response(_cell(values, "completion"), "completion", remarks), where)


def demonstration_of_messages(values: Values, where: str, remarks: Remarks) -> Demonstration:
    """A conversation; its last turn is the response."""
    turns, name = _messages(values, remarks)
    _require_answer_at_the_end(turns, name)
    return Demonstration(turns[:-1], turns[-1]["content"], where)


def demonstration_of_transcript(values: Values, where: str, remarks: Remarks) -> Demonstration:
    """An HH-RLHF transcript in `text`; its last turn is the response."""
    turns = read_transcript(_cell(values, "text"), "text")
    if turns[-1]["role"] != "assistant":
        raise Unusable("a transcript ends with the human")
    return Demonstration(turns[:-1], turns[-1]["content"], where)


def chosen_side(pair: Pair) -> Demonstration:
    """The demonstration a pair holds: its chosen answer."""
    return Demonstration(pair.prompt, pair.chosen, pair.where)


def prompt_of_column(values: Values, where: str, remarks: Remarks) -> Prompt:
    """The column prompt: a text or messages."""
    return Prompt(read_prompt(_cell(values, "prompt"), "prompt", remarks), where)


def prompt_of_messages(values: Values, where: str, remarks: Remarks) -> Prompt:
    """A conversation, up to its last user turn."""
    turns, _ = _messages(values, remarks)
    return Prompt(_without_answer(turns), where)


def prompt_of_text(values: Values, where: str, remarks: Remarks) -> Prompt:
    """The column text: one user turn, or an HH-RLHF transcript up to its last user turn."""
    text = _cell(values, "text")
    if not is_transcript(text):
        return Prompt([{"role": "user", "content": read_text(text, "text")}], where)
    return Prompt(_without_answer(read_transcript(text, "text")), where)


def prompt_of_pair(pair: Pair) -> Prompt:
    """The prompt a pair holds."""
    return Prompt(pair.prompt, pair.where)


def _cell(values: Values, name: str) -> Any:
    if name not in values:
        raise RowProblem(f"no {name!r}; found {', '.join(map(str, values)) or 'nothing'}")
    return values[name]


def _messages(values: Values, remarks: Remarks) -> tuple[list[Message], str]:
    name = next((name for name in MESSAGES_NAMES if name in values), MESSAGES_NAMES[0])
    return read_messages(_cell(values, name), name, remarks), name


def _pair_of_turns(chosen: list[Message], rejected: list[Message], where: str) -> Pair:
    """People judged the whole conversations, so a pair that parts before the last turn judges no single answer."""
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("chosen and rejected part before the last turn")
    return Pair(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], where)


def _require_answer_at_the_end(turns: list[Message], what: str) -> None:
    if turns[-1]["role"] != "assistant":
        raise RowProblem(f"{what} ends with the turn of the {turns[-1]['role']}, an assistant turn is wanted")


def _without_answer(turns: list[Message]) -> list[Message]:
    waiting = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    if waiting[-1]["role"] != "user":
        raise RowProblem("the conversation holds no user turn")
    return waiting
