"""Reward functions named in the configuration: `reward_model`, `file.py:name` or `package.module:name`.

A function is TRL's kind: called with prompts, completions, completion_ids and the columns of the data set as keywords,
it returns one number per completion.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from kit.config import PPOSettings
from kit.errors import ConfigError

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
    return function


def _load_file(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(f"kit_reward_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
