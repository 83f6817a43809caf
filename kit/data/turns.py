"""Conversations: lists of messages and HH-RLHF transcripts, read into turns of known roles."""

import re
from collections import Counter
from itertools import pairwise
from typing import Any

from kit.data import catalogue
from kit.data.problems import RowProblem, Unusable, excerpt, type_name
from kit.data.rows import Message

ROLES = ("system", "user", "assistant")
ALIASES = {
    "human": "user",
    "usr": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
}
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_SPEAKER = re.compile(r"\s*Human:")
_ANSWER = re.compile(r"\n\r?\nAssistant:")

Remarks = Counter[str]  # what was put right on the way -> in how many places


def read_text(value: Any, what: str) -> str:
    """The text without the whitespace around it, which most chat templates remove too; RowProblem if it is none."""
    if not isinstance(value, str):
        raise RowProblem(catalogue.NO_TEXT_VALUE.format(what=what, found=type_name(value)))
    if not value.isascii() and _SURROGATE.search(value):
        raise RowProblem(catalogue.SURROGATE.format(what=what))
    if "\x00" in value:  # byte-level tokenizers may pad with it
        raise RowProblem(catalogue.NUL_IN_TEXT.format(what=what))
    return value.strip()


def read_messages(value: Any, what: str, remarks: Remarks) -> list[Message]:
    """The turns of a list of messages, roles in the kit's names; RowProblem where it is no conversation.

    A message is {"role", "content"} or ShareGPT's {"from", "value"}.
    """
    if not isinstance(value, (list, tuple)):
        raise RowProblem(catalogue.NO_MESSAGES.format(what=what, found=type_name(value)))
    if not value:
        raise RowProblem(catalogue.NO_MESSAGE_AT_ALL.format(what=what))
    turns = [_read_message(message, f"{what}[{index}]", remarks) for index, message in enumerate(value)]
    return _in_order(turns, what, remarks)


def is_transcript(value: Any) -> bool:
    """Whether a value is an HH-RLHF transcript: it opens with "Human:" and holds "\\n\\nAssistant:"."""
    return isinstance(value, str) and bool(_FIRST_SPEAKER.match(value)) and bool(_ANSWER.search(value))


def read_transcript(value: Any, what: str, remarks: Remarks) -> list[Message]:
    """The turns of an HH-RLHF transcript, the human first, in turn; RowProblem if it is no text.

    Raises Unusable if the turns are out of order: transcripts were collected by machine, so the user cannot repair
    one. Where a speaker comes twice in a row, the words of the other mostly stand inside one of the two turns.
    """
    text = read_text(value, what)
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        remarks[catalogue.LINE_ENDS] += 1
    if not is_transcript(text):
        raise Unusable(catalogue.NO_TRANSCRIPT)
    _, *parts = _SPEAKER.split(f"\n\n{text}")  # the first speaker stands at the very start of a stripped text
    speakers = parts[::2]
    if any(speaker == following for speaker, following in pairwise(speakers)):
        raise Unusable(catalogue.SPEAKER_TWICE)
    return [
        {"role": _TRANSCRIPT_ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(speakers, parts[1::2], strict=True)
    ]


def read_prompt(value: Any, what: str, remarks: Remarks) -> list[Message]:
    """A conversation that waits for an answer: messages, an HH-RLHF transcript, or text as one user turn."""
    if not isinstance(value, str):
        messages = read_messages(value, what, remarks)
    elif is_transcript(value):
        messages = read_transcript(value, what, remarks)
        if messages[-1] == {"role": "assistant", "content": ""}:  # the cue "\n\nAssistant:" at the end
            messages = messages[:-1]
    else:
        messages = [{"role": "user", "content": read_text(value, what)}]
    if messages[-1]["role"] != "user":
        raise RowProblem(catalogue.NO_USER_LAST.format(what=what, role=messages[-1]["role"]))
    return messages


def read_response(value: Any, what: str, remarks: Remarks) -> str:
    """The answer in a text or in a list of one assistant message."""
    if isinstance(value, str):
        return read_text(value, what)
    if isinstance(value, (list, tuple)) and value:
        turns = _merged([_read_message(m, f"{what}[{i}]", remarks) for i, m in enumerate(value)], remarks)
        if len(turns) == 1 and turns[0]["role"] == "assistant":
            return turns[0]["content"]
        raise RowProblem(catalogue.NO_ONE_ANSWER.format(what=what, roles=[turn["role"] for turn in turns]))
    raise RowProblem(catalogue.NO_RESPONSE.format(what=what, found=type_name(value)))


def is_answer(value: Any) -> bool:
    """Whether a value is a list of messages that opens with the assistant, so that its prompt stands elsewhere."""
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    role = first.get("role", first.get("from")) if isinstance(first, dict) else None
    return isinstance(role, str) and ALIASES.get(role.strip().lower(), role.strip().lower()) == "assistant"


def _read_message(message: Any, what: str, remarks: Remarks) -> Message:
    if not isinstance(message, dict):
        raise RowProblem(catalogue.NO_MESSAGE_OBJECT.format(what=what, found=type_name(message)))
    role_key, content_key = ("role", "content") if "role" in message else ("from", "value")
    if role_key not in message or content_key not in message:
        raise RowProblem(catalogue.MESSAGE_KEYS.format(what=what, found=sorted(map(str, message))))
    found = read_text(message[role_key], f"{what}.{role_key}")
    role = found.lower()
    if role in ALIASES:
        role = ALIASES[role]
        remarks[catalogue.ROLE_READ.format(found=found, role=role)] += 1
    if role not in ROLES:
        raise RowProblem(
            catalogue.UNKNOWN_TURN_ROLE.format(
                what=what, found=found, roles=", ".join(ROLES), aliases=", ".join(ALIASES)
            )
        )
    return {"role": role, "content": _read_content(message[content_key], f"{what}.{content_key}", remarks)}


def _read_content(value: Any, what: str, remarks: Remarks) -> str:
    """The text of a message, which may be a list of parts as for models that see pictures; parts of text alone."""
    if not isinstance(value, (list, tuple)) or not value:
        return read_text(value, what)
    for place, part in enumerate(value):
        kind = part.get("type", "text") if isinstance(part, dict) else type_name(part)
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RowProblem(catalogue.NO_TEXT_PART.format(what=f"{what}[{place}]", found=excerpt(str(kind), 20)))
    remarks[catalogue.PARTS_JOINED] += 1
    return read_text("".join(part["text"] for part in value), what)


def _in_order(turns: list[Message], what: str, remarks: Remarks) -> list[Message]:
    """The turns, neighbours of one role merged: an optional system turn, then user and assistant in turn."""
    turns = _merged(turns, remarks)
    first = 1 if turns[0]["role"] == "system" else 0
    if any(turn["role"] == "system" for turn in turns[first:]):
        raise RowProblem(catalogue.SYSTEM_LATE.format(what=what))
    if len(turns) > first and turns[first]["role"] != "user":
        raise RowProblem(catalogue.ASSISTANT_FIRST.format(what=what))
    return turns


def _merged(turns: list[Message], remarks: Remarks) -> list[Message]:
    merged = turns[:1]
    for turn in turns[1:]:
        if turn["role"] == merged[-1]["role"]:
            remarks[catalogue.TURNS_MERGED] += 1
            both = [text for text in (merged[-1]["content"], turn["content"]) if text]
            merged[-1] = {"role": turn["role"], "content": "\n\n".join(both)}
        else:
            merged.append(turn)
    return merged
