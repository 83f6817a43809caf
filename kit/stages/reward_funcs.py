"""Reward functions named in the configuration: `reward_model`, `file.py:name` or `package.module:name`.

A function is TRL's kind: called with prompts, completions, completion_ids and the columns of the data set as keywords,
it returns one number per completion; None where it does not apply.
"""

import functools
import inspect
from collections.abc import Callable

from kit.config import PPOSettings
from kit.errors import TrainingStopped
from kit.functions import load_function

OWN = "reward_model"


def reward_funcs(ppo: PPOSettings) -> list[Callable | str]:
    """The functions of `ppo.reward_funcs`, in its order. Raises ConfigError for one that cannot be found."""
    return [OWN if spec == OWN else _function(spec) for spec in ppo.reward_funcs]


def _function(spec: str) -> Callable:
    setting = "ppo.reward_funcs"
    return _with_messages(load_function(spec, setting, wanted=OWN), f"{setting} {spec}")


def _with_messages(function: Callable, where: str) -> Callable:
    """The function, whose failure stops the run with a message: it is the user's code, and the run is the user's."""
    if inspect.iscoroutinefunction(function):
        return function  # TRL awaits these itself

    @functools.wraps(function)
    def scored(**columns: object) -> list:
        try:
            numbers = list(function(**columns))
        except Exception as error:
            raise TrainingStopped(f"{where} failed: {type(error).__name__}: {error}") from error
        wanted = len(columns["completions"])  # type: ignore[arg-type]
        if len(numbers) != wanted:
            raise TrainingStopped(f"{where}: returned {len(numbers)} numbers for {wanted} completions")
        return numbers

    return scored
