"""Reward functions named in the configuration: `reward_model`, `file.py:name` or `package.module:name`.

A function is TRL's kind: called with prompts, completions, completion_ids and the columns of the data set as keywords,
it returns one number per completion; None where it does not apply.
"""

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path

from kit.config import PPOSettings
from kit.errors import ConfigError, TrainingStopped

OWN = "reward_model"


def reward_funcs(ppo: PPOSettings) -> list[Callable | str]:
    """The functions of `ppo.reward_funcs`, in its order. Raises ConfigError for one that cannot be found."""
    return [OWN if spec == OWN else _function(spec) for spec in ppo.reward_funcs]


def _function(spec: str) -> Callable:
    place, _, name = spec.rpartition(":")
    where = f"ppo.reward_funcs {spec}"
    if not place or not name:
        raise ConfigError(f"{where}: wanted {OWN}, file.py:name or package.module:name")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except FileNotFoundError:
        raise ConfigError(f"{where}: no file {place}") from None
    except Exception as error:  # the user's own module may raise anything while it is imported
        raise ConfigError(f"{where}: importing {place} failed: {type(error).__name__}: {error}") from None
    function = getattr(module, name, None)
    if not callable(function):
        functions = sorted(n for n, x in vars(module).items() if callable(x) and not n.startswith("_"))
        raise ConfigError(f"{where}: {place} has no function {name}; it has {', '.join(functions[:8]) or 'none'}")
    return _with_messages(function, where)


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


def _load_file(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(f"kit_reward_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
