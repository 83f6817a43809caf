"""One run, one owner: a lock that the kernel releases when its process ends, however it ends."""

import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.errors import RunError


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. Raises RunError that names the owner when another process holds it."""
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{folder}: in use by {_owner(file)}. Wait for it, stop it, or give another name=") from None
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        file.seek(0)
        file.truncate()
        file.write(json.dumps(owner))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _owner(file) -> str:  # noqa: ANN001
    file.seek(0)
    try:
        owner = json.loads(file.read())
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError):
        return "another process"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
