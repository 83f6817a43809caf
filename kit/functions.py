"""A user's own function, named in the configuration as `file.py:name` or `package.module:name`."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from kit.errors import ConfigError


def load_function(spec: str, setting: str, wanted: str = "") -> Callable:
    """The function that `spec` names. `setting` is where the user wrote it; `wanted` what else may stand there.

    Raises ConfigError where there is no such file, module or function, or where importing it fails.
    """
    place, _, name = spec.rpartition(":")
    where = f"{setting} {spec}"
    if not place or not name:
        choices = [wanted] * bool(wanted) + ["file.py:name or package.module:name"]
        raise ConfigError(f"{where}: wanted {', '.join(choices)}")
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
    spec = importlib.util.spec_from_file_location(f"kit_function_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
