"""Reading a configuration: YAML with line numbers, overrides, and every problem in one message."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from kit.config import Config
from kit.errors import ConfigError

KeyPath = tuple[str | int, ...]
Problem = tuple[KeyPath, str]
MAX_BYTES = 1_000_000


def load_config(
    source: str | Path | Mapping | Config,
    overrides: Sequence[str] = (),
    checks: Iterable[Callable[[Mapping], list[Problem]]] = (),
    **settings: Any,
) -> Config:
    """The validated configuration of a YAML file, a mapping or a Config, with overrides applied.

    `overrides` are `key.path=value` texts (the value is YAML); `settings` are keyword overrides, nested
    mappings or dotted names. `checks` look at the raw mapping and add problems of their own.
    Raises ConfigError that lists all problems, each with its place in the file.
    """
    label, raw, lines = _read(source)
    origin: dict[KeyPath, str] = {}
    for text in overrides:
        path, value = _parse_override(text)
        _assign(raw, path, value, origin, f"override `{text}`")
    for name, value in settings.items():
        for path, leaf in _leaves(tuple(name.split(".")), value):
            _assign(raw, path, leaf, origin, f"keyword {'.'.join(map(str, path))}")

    problems: list[Problem] = []
    config = None
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        problems += [_explain(item) for item in error.errors(include_url=False)]
    for check in checks:
        problems += check(raw)
    if problems:
        problems.sort(key=lambda problem: _line(problem[0], lines))
        places = [f"{_place(path, label, lines, origin)} {_dotted(path)}: {text}".strip() for path, text in problems]
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration"
        raise ConfigError("\n  ".join([f"{count}:", *places]))
    assert config is not None
    return config


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML, one that `load_config` reads back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean X?` where X is close to `word`, else the known names."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


# --- reading ---------------------------------------------------------------------------------------------------


def _read(source: str | Path | Mapping | Config) -> tuple[str, dict, dict[KeyPath, int]]:
    """(label for messages, nested mapping, line of every key)."""
    if isinstance(source, Config):
        return "config", source.model_dump(), {}
    if isinstance(source, Mapping):
        return "config", _copy(source), {}
    path = Path(source).expanduser()
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path(".")
        near = difflib.get_close_matches(path.name, [p.name for p in folder.glob("*.y*ml")], n=3)
        hint = f"; did you mean {', '.join(str(folder / n) for n in near)}?" if near else ""
        raise ConfigError(f"{path}: no such file{hint} (a configuration is a YAML file, e.g. configs/quickstart.yaml)")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; a configuration has at most {MAX_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{path}: YAML aliases (*name) are not allowed; write the value out")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[KeyPath, int] = {}
        duplicates = _index(node, (), lines) if node is not None else []
        raw = yaml.safe_load(text) if not duplicates else {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if duplicates:
        raise ConfigError("\n".join(f"{path}:{line} {_dotted(key)}: key given twice" for key, line in duplicates))
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a mapping of settings is wanted (key: value), found {type(raw).__name__}")
    return str(path), raw, lines


def _index(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> list[tuple[KeyPath, int]]:
    """Fill `lines` with the line of each key; return the keys that stand twice."""
    duplicates = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            inner = (*path, key.value)
            if inner in seen:
                duplicates.append((inner, key.start_mark.line + 1))
            seen.add(inner)
            lines[inner] = key.start_mark.line + 1
            duplicates += _index(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            duplicates += _index(value, (*path, index), lines)
    return duplicates


def _copy(value: Any) -> Any:
    """Nested mappings copied as plain dicts; leaves (row lists, datasets) stay the same objects."""
    return {str(k): _copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value


# --- overrides -------------------------------------------------------------------------------------------------


def _parse_override(text: str) -> tuple[KeyPath, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"override `{text}`: key.path=value is wanted, e.g. ppo.kl_coef=0.1")
    try:
        return tuple(key.strip().split(".")), yaml.safe_load(value)
    except yaml.YAMLError:
        return tuple(key.strip().split(".")), value


def _leaves(path: KeyPath, value: Any) -> list[tuple[KeyPath, Any]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves((*path, str(key)), inner)]
    return [(path, value)]


def _assign(raw: dict, path: KeyPath, value: Any, origin: dict[KeyPath, str], label: str) -> None:
    """Set `raw[path]`; a source given as a mapping is replaced whole by a plain value."""
    inner = raw
    for key in path[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    inner[path[-1]] = value
    origin[path] = label


# --- telling what is wrong -------------------------------------------------------------------------------------


def _place(path: KeyPath, label: str, lines: dict[KeyPath, int], origin: dict[KeyPath, str]) -> str:
    """Where a problem stands: the override that made it, else file:line of the nearest key, else the label."""
    for length in range(len(path), 0, -1):
        if path[:length] in origin:
            return origin[path[:length]]
        if path[:length] in lines:
            return f"{label}:{lines[path[:length]]}"
    return label


def _line(path: KeyPath, lines: dict[KeyPath, int]) -> int:
    """Line of the nearest key above `path`; 0 where it is in no file."""
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 0)


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _explain(error: Any) -> Problem:
    """One pydantic error in the kit's words."""
    path = error["loc"]
    if error["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        return path, f"unknown key{did_you_mean(str(path[-1]), known)}" if known else "unknown key"
    text = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ").split(", unable")[0]
    found = error.get("input")
    shown = repr(found) if isinstance(found, (str, int, float, bool, type(None))) else type(found).__name__
    if error["type"] == "value_error":
        return path, text
    wanted = text if error["type"] != "string_pattern_mismatch" else "letters, digits, '.', '_', '-'; at most 64"
    return path, f"{wanted} is wanted, found {shown}"


def _fields_at(path: KeyPath) -> list[str]:
    """Names of the settings below `path`; empty where there is no settings model."""
    model: Any = Config
    for part in path:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return []
        model = field.annotation
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
