"""Secrets stay where they belong, in the environment: recognised in a configuration, left out of all that is shown.

A secret is the value of an environment variable whose name says so (HF_TOKEN, OPENAI_API_KEY), or a text of the form
that services give their keys, wherever it stands. Nothing here ever returns or prints one.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|hf_oauth_[\w-]{8,}|api_org_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|gsk_[A-Za-z0-9]{16,}"
    r"|wandb_v1_\w{16,}|local-[0-9a-f]{40}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bBearer\s+[\w.~+/-]{8,}=*"
)
_IN_URL = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")  # user:password@
_IN_QUERY = re.compile(
    r"(?<=[?&;])((?:[\w-]*[_-])?(?:api_?-?key|key|token|secret|password|passwd|sig|signature|auth)=)([^&;#\s'\"]+)",
    re.I,
)
# A key whose value is a secret; `pad_token`, `max_prompt_tokens` and the like are none.
_KEY = re.compile(
    r"(?:.*[_.-])?(?:api_?-?keys?|secrets?|passwords?|passwd|passphrase|credentials?|private_?-?keys?|access_?-?keys?"
    r"|secret_?-?keys?|bearer|authorization)"
    r"|(?!(?:.*_)?(?:pad|eos|bos|eot|unk|sep|cls|mask|image|video|audio|special|stop|start|end|per)_token)(?:.*[_.-])?tokens?"
    r"|.*(?<!_)(?:api|hf|hub)token|pat",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"(?:.*_)?tokens", re.IGNORECASE)  # max_prompt_tokens: a number of them
_VARIABLE = re.compile(
    r"(?:^|_)(?:KEY|APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PAT|AUTH)(?:_|$)", re.I
)
_NO_SECRET = re.compile(r"_(?:PATH|FILE|DIR|SOCK|URL|TYPE|ENV|NAME|ID)$", re.IGNORECASE)  # where it is, not what it is
_LEAST = 8  # characters of a value that is worth hiding; `1` and `true` are none
_WANDB = re.compile(r"[0-9a-f]{40}")  # of its older keys; also a revision's form

REMEDY = (
    "a secret never stands in a configuration; put it into the environment variable {variable}, and take it out here"
)


def redacted(text: str) -> str:
    """The text without secrets: each as the name of its variable in brackets, or as [secret]."""
    for name, value in _of_the_environment():
        text = text.replace(value, f"[{name}]")
    text = _IN_QUERY.sub(r"\1[secret]", _IN_URL.sub("[secret]", text))
    return _SHAPES.sub("[secret]", text)


def holds_secret(text: str) -> bool:
    """Whether a text is, or holds, what looks like a secret, or is the value of a secret variable."""
    return redacted(text) != text


def secret_problems(raw: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """(path, what is wrong) of every entry of a configuration that looks like a secret; the value is never told."""
    found = []
    for path, value in _entries(raw, ()):
        key = str(path[-1])
        named = isinstance(value, str) and value and _KEY.fullmatch(key) and not _COUNTED.fullmatch(key)
        texts = [text for text in (value, *path) if isinstance(text, str)]
        wandb = isinstance(value, str) and _WANDB.fullmatch(value) and "trl" in path
        if named or wandb or any(map(holds_secret, texts)):
            where = tuple("[secret]" if isinstance(part, str) and holds_secret(part) else part for part in path)
            found.append((where, "looks like a secret: " + REMEDY.format(variable=_variable(path, value))))
    return found


def _of_the_environment() -> list[tuple[str, str]]:
    """(name, value) of the secrets of the environment, longest first, so that none is cut by another."""
    found = [
        (name, value.strip())
        for name, value in os.environ.items()
        if _VARIABLE.search(name) and not _NO_SECRET.search(name)
    ]
    found = [(name, value) for name, value in found if len(value) >= _LEAST and not os.path.exists(value)]
    return sorted(found, key=lambda pair: -len(pair[1]))


def _entries(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """(path, value) of all that a configuration holds; rows of data that are given in memory are not looked into."""
    if path:
        yield path, value
    if isinstance(value, Mapping):
        if path[:1] == ("data",) and len(path) > 1 and "path" not in value and path[-1] != "columns":
            return
        for key, inner in value.items():
            yield from _entries(inner, (*path, key))
    elif isinstance(value, (list, tuple)):
        for at, inner in enumerate(value):
            if path[:1] != ("data",) or isinstance(inner, str) or (isinstance(inner, Mapping) and "path" in inner):
                yield from _entries(inner, (*path, at))


def _variable(path: tuple[str | int, ...], value: Any) -> str:
    """The environment variable that the libraries read this kind of secret from."""
    said = f"{path[-1]} {value}".lower()
    if "hf_" in said or "hub" in said or "hugging" in said:
        return "HF_TOKEN"
    if "wandb" in said or (isinstance(value, str) and _WANDB.fullmatch(value)):
        return "WANDB_API_KEY"
    if path[:2] == ("compare", "llm") or "sk-" in said or "openai" in said:
        return "OPENAI_API_KEY, or the one that compare.llm.api_key_env names"
    return "of the service it belongs to"
