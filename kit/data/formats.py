"""The forms rows come in, recognised by their content; `readers.py` has one function for each.

preferences      prompt + chosen + rejected, texts or messages (TRL); chosen + rejected with the prompt inside,
                 as messages, texts or HH-RLHF transcripts
demonstrations   prompt + completion, texts or messages (TRL); messages; text that is an HH-RLHF transcript;
                 or any form of preferences, of which the chosen answer is taken
prompts          prompt; messages or text, without a last turn of the assistant; or any form of preferences
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from kit.data import readers
from kit.data.checks import Drop
from kit.data.problems import Problems, RowProblem, Unusable
from kit.data.rows import Demonstration, Pair, Prompt, T
from kit.data.sources import Source
from kit.data.turns import Remarks, is_transcript
from kit.errors import DataError

_SAMPLE = 100  # rows looked at to recognise a form
_PREFERENCES = "prompt + chosen + rejected; chosen + rejected (messages, texts or HH-RLHF transcripts)"
_DEMONSTRATIONS = "prompt + completion; messages; text (HH-RLHF transcripts); any form of preferences"
_PROMPTS = "prompt; messages; text; any form of preferences"
_OTHER_NAMES = {
    "chosen": ("winner", "preferred", "accepted", "better", "positive", "chosen_response", "response_chosen"),
    "rejected": ("loser", "dispreferred", "worse", "negative", "rejected_response", "response_rejected"),
    "prompt": ("instruction", "question", "query", "input", "user"),
    "completion": ("response", "output", "answer", "assistant"),
    "text": ("txt", "content", "transcript"),
    "messages": ("conversation", "dialog", "dialogue", "turns", "chat"),
}


@dataclass(frozen=True)
class Format(Generic[T]):
    """A recognised form: its name as the notes say it, and how one row of it is read."""

    name: str
    read: Callable[[dict[str, Any], str, Remarks], T]


@dataclass(frozen=True)
class Converted(Generic[T]):
    """The rows of a source that could be read, those dropped on the way, and notes on what was put right."""

    rows: list[T]
    drops: list[Drop]
    notes: list[str]


def convert(source: Source, form: Format[T]) -> Converted[T]:
    """Every row of the source, read in the form; DataError with the list of rows that have problems."""
    rows: list[T] = []
    drops: list[Drop] = []
    remarks: Remarks = Counter()
    problems = Problems(source.name)
    for where, values in source.rows:
        try:
            rows.append(form.read(values, where, remarks))
        except RowProblem as problem:
            problems.add(where, str(problem))
        except Unusable as reason:
            drops.append(Drop(str(reason), where))
    problems.raise_if_any()
    notes = [f"{source.name}: {text} ({count:,} time{'s' if count > 1 else ''})" for text, count in remarks.items()]
    return Converted(rows, drops, notes)


def pair_format(source: Source) -> Format[Pair]:
    """The form of the source's preferences; DataError if it has none of them."""
    columns = _columns(source)
    if not {"chosen", "rejected"} <= columns:
        raise _missing(source, {"chosen", "rejected"} - columns, "preferences", _PREFERENCES)
    kind = _kind(source, "chosen")
    if kind == "transcript":
        return Format("HH-RLHF transcripts", readers.pair_of_transcripts)
    if kind == "messages":
        return Format("conversational preferences", readers.pair_of_conversations)
    if "prompt" in columns:
        return Format("prompt, chosen and rejected", readers.pair_with_prompt)
    name = "chosen and rejected texts (the prompt is guessed from their common beginning; better add a prompt column)"
    return Format(name, readers.pair_of_texts)


def demonstration_format(source: Source) -> Format[Demonstration]:
    """The form of the source's demonstrations; DataError if it has none of them, or no prompts."""
    columns = _columns(source)
    if {"prompt", "completion"} <= columns:
        return Format("prompt and completion", readers.demonstration_with_prompt)
    if {"chosen", "rejected"} <= columns:
        pairs = pair_format(source)
        return Format(f"the chosen side of {pairs.name}", _then(pairs.read, readers.chosen_side))
    if columns & set(readers.MESSAGES_NAMES):
        return Format("messages", readers.demonstration_of_messages)
    if "text" in columns:
        if _kind(source, "text") == "transcript":
            return Format("HH-RLHF transcripts in text", readers.demonstration_of_transcript)
        raise DataError(
            f"{source.name}: the column 'text' holds plain text, which does not say where the prompt ends and the "
            "answer begins, so no chat template fits it. Split it into the columns prompt and completion."
        )
    missing = {"prompt", "completion"} - columns
    if len(missing) == 2:
        missing |= {"messages", "text"}
    raise _missing(source, missing, "demonstrations", _DEMONSTRATIONS)


def prompt_format(source: Source) -> Format[Prompt]:
    """The form of the source's prompts; DataError if it has none of them."""
    columns = _columns(source)
    if {"chosen", "rejected"} <= columns:
        pairs = pair_format(source)
        return Format(f"the prompts of {pairs.name}", _then(pairs.read, readers.prompt_of_pair))
    if "prompt" in columns:
        return Format("prompt", readers.prompt_of_column)
    if columns & set(readers.MESSAGES_NAMES):
        return Format("messages (a last turn of the assistant is left out)", readers.prompt_of_messages)
    if "text" in columns:
        return Format("text (a last turn of the assistant is left out)", readers.prompt_of_text)
    raise _missing(source, {"prompt", "messages", "text"}, "prompts", _PROMPTS)


def _columns(source: Source) -> set[str]:
    return {str(name) for row in source.rows[:_SAMPLE] for name in row.values}


def _kind(source: Source, column: str) -> str:
    """What most of the first rows hold in a column: text, transcript or messages; hostile values have no say."""
    found = (row.values.get(column) for row in source.rows[:_SAMPLE])
    kinds = Counter(
        "messages" if isinstance(value, (list, tuple)) else "transcript" if is_transcript(value) else "text"
        for value in found
        if isinstance(value, (str, list, tuple))
    )
    return kinds.most_common(1)[0][0] if kinds else "text"


def _then(read: Callable[[dict[str, Any], str, Remarks], Pair], take: Callable[[Pair], T]) -> Callable[..., T]:
    return lambda values, where, remarks: take(read(values, where, remarks))


def _missing(source: Source, missing: set[str], use: str, forms: str) -> DataError:
    columns = _columns(source)
    renames = [f"{other!r} to {name!r}" for name in sorted(missing) for other in _OTHER_NAMES[name] if other in columns]
    advice = f"Rename {', '.join(renames)}." if renames else "Rename yours, or write the rows in one of these forms."
    return DataError(
        f"{source.name}: no {use}: missing {' or '.join(sorted(missing)) if len(missing) > 2 else _and(missing)}; "
        f"found the columns {', '.join(sorted(columns)) or 'none'}. Forms this kit reads: {forms}. {advice}"
    )


def _and(names: set[str]) -> str:
    return " and ".join(sorted(names))
