"""Reading a configuration: YAML with line numbers, overrides, and every problem in one message."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from kit.config import Config, SourceSettings
from kit.errors import ConfigError
from kit.secrets import secret_problems

KeyPath = tuple[str | int, ...]
Problem = tuple[KeyPath, str]
MAX_BYTES = 1_000_000
MAX_ENTRIES = 10_000  # keys and values; a configuration with every setting has some hundreds
MAX_DEPTH = 32
_MOST_TOLD = 20  # problems in one message
_MOST_SHOWN = 200  # characters of somebody's value or override in a message


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-4 is a number (YAML 1.2; PyYAML reads a text), 2024-01-01 a text (not a date)."""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would read as numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


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
        _assign(raw, path, value, origin, f"override `{_short(text)}`")
    for name, value in settings.items():
        for path, leaf in _leaves(tuple(name.split(".")), value):
            _assign(raw, path, leaf, origin, "keyword argument")

    secrets = secret_problems(raw)
    if secrets:  # alone, and without the overrides' texts: other messages would show the value
        places = [f"{_place(path, label, lines, {})} {_dotted(path)}: {text}" for path, text in secrets]
        raise ConfigError("\n  ".join([f"{_count(secrets)}:", *places]))

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
        places = [
            f"{_place(path, label, lines, origin)} {_dotted(path)}: {text}".strip()
            for path, text in problems[:_MOST_TOLD]
        ]
        if len(problems) > _MOST_TOLD:
            places.append(f"… and {len(problems) - _MOST_TOLD:,} more")
        raise ConfigError("\n  ".join([f"{_count(problems)}:", *places]))
    assert config is not None
    return config


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML, one that `load_config` reads back unchanged."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


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
    if path.is_dir():
        names = sorted(p.name for p in path.glob("*.y*ml"))[:3]
        hint = f", e.g. {path / names[0]}" if names else ""
        raise ConfigError(f"{path}: is a folder; name the YAML file in it{hint}")
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path(".")
        near = difflib.get_close_matches(path.name, [p.name for p in folder.glob("*.y*ml")], n=3)
        hint = f"; did you mean {', '.join(str(folder / n) for n in near)}?" if near else ""
        raise ConfigError(f"{path}: no such file{hint} (a configuration is a YAML file, e.g. configs/quickstart.yaml)")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; a configuration has at most {MAX_BYTES:,}")
    try:
        lines: dict[KeyPath, int] = {}
        raw = _load(path.read_text(encoding="utf-8-sig"), f"{path}:", lines)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; indent with spaces, not tabs" if "'\\t'" in (error.problem or "") else ""
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {what}{hint}") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a mapping of settings is wanted (key: value), found {type(raw).__name__}")
    return str(path), raw, lines


def _load(text: str, where: str, lines: dict[KeyPath, int]) -> Any:
    """The value that a YAML text holds, the line of each key put into `lines`. `where` opens messages, lines follow.

    Raises ConfigError for what makes a text large, slow or ambiguous: aliases, tags, merge keys, keys given twice,
    deep nesting, too many entries. Raises yaml.YAMLError, ValueError or RecursionError for what is no YAML.
    """
    depth = entries = 0
    for event in yaml.parse(text, Loader=_Loader):  # read as it comes, so that a hostile text costs no more than this
        line = event.start_mark.line + 1 if event.start_mark else 1
        entries += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{where}{line}: YAML aliases (*{event.anchor}) are not allowed; write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ConfigError(f"{where}{line}: YAML tags ({tag[:_MOST_SHOWN]}) are not allowed; write the value alone")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}{line}: nested more than {MAX_DEPTH} deep; no setting is")
        if entries > MAX_ENTRIES:
            raise ConfigError(f"{where}{line}: more than {MAX_ENTRIES:,} keys and values; no configuration has so many")
    node = yaml.compose(text, Loader=_Loader)
    duplicates = _index(node, (), lines) if node is not None else []
    if duplicates:
        told = [f"{where}{line} {_dotted(key)}: key given twice" for key, line in duplicates[:_MOST_TOLD]]
        raise ConfigError("\n".join(told))
    return yaml.load(text, Loader=_Loader)


def _index(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> list[tuple[KeyPath, int]]:
    """Fill `lines` with the line of each key; return the keys that stand twice."""
    duplicates = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":
                problem = "merge keys (<<) are not allowed; write the settings out"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
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
        raise ConfigError(f"override `{_short(text)}`: key.path=value is wanted, e.g. ppo.kl_coef=0.1")
    path = tuple(key.strip().split("."))
    if len(path) > MAX_DEPTH or len(text) > MAX_BYTES:
        raise ConfigError(f"override `{_short(text)}`: too long; no setting is")
    try:
        return path, _load(value, f"override `{_short(text)}`, line ", {})
    except (ValueError, yaml.YAMLError, RecursionError):
        return path, value


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


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

_WANTED = {  # pydantic's error type: what is wanted, where its own words would not help
    "dict_type": "a mapping (key: value)",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "invalid_key": "a word as key",
    "invalid-json-value": "a number, a text, true, false, null, a list or a mapping",
    "list_type": "a list",
    "model_type": "a mapping (key: value)",
    "string_pattern_mismatch": "at most 64 letters, digits, '.', '_', '-', the first a letter or digit,",
    "string_too_short": "a text that is not empty",
    "string_type": "a text",
    "too_short": "at least one",
}


def _place(path: KeyPath, label: str, lines: dict[KeyPath, int], origin: dict[KeyPath, str]) -> str:
    """Where a problem stands: the override that made it, else file:line of the nearest key, else the label."""
    if path not in lines:
        inside = next((text for made, text in origin.items() if made[: len(path)] == path), None)
        if inside is not None:
            return inside
    for length in range(len(path), 0, -1):
        if path[:length] in origin:
            return origin[path[:length]]
        if path[:length] in lines:
            return f"{label}:{lines[path[:length]]}"
    return label


def _line(path: KeyPath, lines: dict[KeyPath, int]) -> int:
    """Line of the nearest key above `path`; 0 where it is in no file."""
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 0)


def _count(problems: Sequence[Problem]) -> str:
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration"


def _dotted(path: KeyPath) -> str:
    return _short(".".join(str(part) for part in path))


def _explain(error: Any) -> Problem:
    """One pydantic error in the kit's words."""
    path = error["loc"][:3] if error["loc"][1:2] == ("trl",) else error["loc"]  # below stand pydantic's own marks
    if error["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        return path, f"unknown key{did_you_mean(str(path[-1]), known)}" if known else "unknown key"
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("value_error", "missing"):
        return path, text if error["type"] == "value_error" else "is missing"
    wanted = _WANTED.get(error["type"], text.removeprefix("Input should be "))
    return path, f"{wanted} is wanted, found {_found(error.get('input'))}"


def _found(value: Any) -> str:
    """A value in a message: itself where it is short, else what it is."""
    if value is None or (isinstance(value, (list, dict)) and not value):
        return "nothing"
    if isinstance(value, int) and value.bit_length() > 1000:  # Python refuses to write it out
        return f"a whole number of {value.bit_length():,} bits"
    if isinstance(value, (str, int, float)):
        return _short(repr(value))
    return {"dict": "a mapping", "list": "a list"}.get(type(value).__name__, type(value).__name__)


def _fields_at(path: KeyPath) -> list[str]:
    """Names of the settings below `path`; empty where there is no settings model."""
    if path[:1] == ("data",) and len(path) == 2:
        return list(SourceSettings.model_fields)
    model: Any = Config
    for part in path:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return []
        model = field.annotation
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
