"""Secret links: one a person, made of the project's secret, so that a restart of the server changes none of them."""

import hmac
import re

from kit.errors import ConfigError

_NAME = re.compile(r"[^\x00-\x1f\x7f,:/\\<>\"']{1,64}")


def token(secret: bytes, name: str) -> str:
    """What stands in a person's link."""
    return _made(secret, "link", name)


def session(secret: bytes, name: str) -> str:
    """What stands in the cookie, or in the header of a page within a notebook, once the link was opened."""
    return _made(secret, "session", name)


def named(text: str) -> dict[str, str | None]:
    """Names and groups of "ana:north,ben": name -> group or None. Raises ConfigError for a name that cannot be one."""
    found: dict[str, str | None] = {}
    for part in text.split(","):
        name, _, group = (piece.strip() for piece in part.partition(":"))
        if not is_name(name) or (group and not is_name(group)):
            raise ConfigError(
                f"--annotators: {part.strip()[:80]!r} is no name, or no name:group; wanted e.g. ana,ben or "
                "ana:north,ben:south, 64 characters at most, without quotes, slashes, brackets and "
                "what cannot be seen (some emoji hold such characters)"
            )
        if name in found:
            raise ConfigError(f"--annotators: {name!r} stands twice; give every person a name of their own")
        found[name] = group or None
    return found


def is_name(text: str) -> bool:
    """Whether a text can be a person's, or a group's, name."""
    return _NAME.fullmatch(text) is not None and text.isprintable() and text == text.strip()


def _made(secret: bytes, purpose: str, name: str) -> str:
    return hmac.new(secret, f"{purpose}\n{name}".encode(), "sha256").hexdigest()[:43]
