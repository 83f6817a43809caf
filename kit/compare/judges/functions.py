"""A judge of the user's own, a Python function; its parameters say whether it scores or compares.

    def judge(prompt, answer): ...          returns a number, higher is better; None where it cannot say
    def judge(prompt, first, second): ...   returns 1, 0 or 0.5, or "first", "second" or "tie", or "A" or "B"

`prompt` is the list of chat messages, {"role", "content"} each. A function that compares is asked in both orders.
"""

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kit.compare.judges.pairwise import Question, Verdict, judge_in_both_orders
from kit.compare.judges.scores import Arms, judge_by_scores
from kit.compare.verdicts import Verdicts
from kit.data.rows import Message
from kit.errors import ConfigError
from kit.functions import load_function

SETTING = "compare.judge"
_WORDS = {"first": 1.0, "second": 0.0, "tie": 0.5, "a": 1.0, "b": 0.0, "c": 0.5}


def judge_by_function(
    judge: str | Callable,
    prompts: Sequence[list[Message]],
    answers: Mapping[str, Sequence[str]],
    pairs: Sequence[Arms],
) -> Verdicts:
    """The verdicts of `judge`: a function, or its name as `file.py:name` or `package.module:name`.

    A wrong return value is an invalid verdict, counted in the facts. Raises ConfigError for a function that cannot be
    found or called, that fails, or whose every verdict is invalid.
    """
    function, name, where = _find(judge)
    if _kind(function, where) == "compares":
        return _compare(function, name, where, prompts, answers, pairs)
    return _score(function, name, where, prompts, answers, pairs)


def check_function(judge: str | Callable) -> Literal["scores", "compares"]:
    """What kind of judge it is, without calling it. Raises ConfigError as `judge_by_function` does."""
    function, _, where = _find(judge)
    return _kind(function, where)


def _find(judge: str | Callable) -> tuple[Callable, str, str]:
    """(function, its name, how messages call it)."""
    if isinstance(judge, str):
        place, _, name = judge.rpartition(":")
        return load_function(judge, SETTING), f"{Path(place).name}:{name}", f"{SETTING} {judge}"
    name = getattr(judge, "__name__", type(judge).__name__)
    return judge, name, f"{SETTING} {name}"


def _kind(function: Callable, where: str) -> Literal["scores", "compares"]:
    wanted = "wanted judge(prompt, answer), which scores, or judge(prompt, first, second), which compares"
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{where}: is an async function; {wanted}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: its parameters cannot be read; {wanted}") from None
    two, three = _takes(signature, 2), _takes(signature, 3)
    if two and three:  # a third parameter with a default value compares only if its name says so
        return "compares" if "second" in signature.parameters else "scores"
    if not two and not three:
        raise ConfigError(f"{where}: takes {signature}; {wanted}")
    return "scores" if two else "compares"


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _call(function: Callable, where: str, number: int, prompt: list[Message], *texts: str) -> Any:
    try:
        return function(copy.deepcopy(prompt), *texts)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where} failed on prompt {number + 1}: {type(error).__name__}: {error}") from error


def _score(
    function: Callable, name: str, where: str, prompts: Sequence[list[Message]],
    answers: Mapping[str, Sequence[str]], pairs: Sequence[Arms],
) -> Verdicts:  # fmt: skip
    returned = {
        arm: [_call(function, where, i, prompts[i], text) for i, text in enumerate(texts)]
        for arm, texts in answers.items()
    }
    scores = {arm: [_number(value) for value in values] for arm, values in returned.items()}
    flat = [value for values in returned.values() for value in values]
    bad = [value for value in flat if value is not None and _number(value) is None]
    if flat and all(_number(value) is None for value in flat):
        raise ConfigError(
            f"{where}: gave no answer a score; it returned {flat[0]!r}, wanted a number, higher is better"
        )
    facts = {"calls": len(flat), "invalid": len(bad)}
    return judge_by_scores(name, f"the function {name}, which scores each answer", scores, pairs, facts)


def _compare(
    function: Callable, name: str, where: str, prompts: Sequence[list[Message]],
    answers: Mapping[str, Sequence[str]], pairs: Sequence[Arms],
) -> Verdicts:  # fmt: skip
    def ask(questions: list[Question]) -> list[Verdict]:
        returned = [_call(function, where, q.prompt, prompts[q.prompt], q.first, q.second) for q in questions]
        verdicts = [_verdict(value) for value in returned]
        if all(verdict is None for verdict in verdicts):
            raise ConfigError(
                f"{where}: gave no valid verdict; it returned {returned[0]!r}, wanted 1, 0 or 0.5, or first, second or "
                "tie, or A or B"
            )
        return verdicts

    description = f"the function {name}, which compares two answers, asked in both orders"
    return judge_in_both_orders(name, description, prompts, answers, pairs, ask)


def _number(value: Any) -> float | None:
    """A finite number (also numpy's or a tensor of one element), or None. Text is no number, though it may hold one."""
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _verdict(value: Any) -> Verdict:
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    number = _number(value)
    return number if number in (0, 0.5, 1) else None
