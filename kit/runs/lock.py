"""One run, one owner. The lock says who holds it: process, host, and since when.

The kernel's lock is released with its process, however that ends. Where a file system has none (some mounted drives do
not), a file that only one process can make takes its place; it is stale when its process is gone from this host.
"""

import datetime
import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from kit import notices
from kit.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_OTHERWISE = "Wait for it, stop it, or give another name="
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def run_lock(folder: Path, otherwise: str = _OTHERWISE) -> Iterator[None]:
    """Hold `folder` for this process. Raises RunError when another process holds it: its name, and what to do."""
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        if _kernel_locks(folder, file, otherwise):
            _tell_of_a_killed_owner(folder, _read(file))
            _write(file)
            try:
                yield
            finally:
                file.truncate(0)
            return
    with _only_file(folder, otherwise):
        yield


def _kernel_locks(folder: Path, file: TextIO, otherwise: str) -> bool:
    """Whether the kernel's lock is ours now; False where the file system has none."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise _in_use(folder, _read(file), otherwise) from None
        return False
    return True


@contextmanager
def _only_file(folder: Path, otherwise: str) -> Iterator[None]:
    """Hold the folder by a file that only one process can make."""
    path = folder / ".owner"
    for _ in range(2):
        try:
            with open(path, "x", encoding="utf-8") as file:
                _write(file)
            break
        except FileExistsError:
            owner = json.loads(path.read_text(encoding="utf-8") or "{}")
            if not _is_gone(owner):
                raise _in_use(folder, owner, f"{otherwise}; if that process is gone, remove {path}") from None
            _tell_of_a_killed_owner(folder, owner)
            path.unlink(missing_ok=True)
    else:
        raise _in_use(folder, {}, otherwise)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner's process is not there any more, nor one of the same number that began at the same time."""
    import psutil

    if owner.get("host") != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(owner["pid"]).create_time() - owner["began"]) > 1
    except psutil.NoSuchProcess:
        return True
    except (KeyError, TypeError, psutil.Error):
        return False


def _write(file: TextIO) -> None:
    import psutil

    owner = {
        "pid": os.getpid(), "host": socket.gethostname(), "began": psutil.Process().create_time(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }  # fmt: skip
    file.seek(0)
    file.truncate()
    file.write(json.dumps(owner))
    file.flush()


def _read(file: TextIO) -> dict[str, Any]:
    """The owner that the lock names; empty where none does."""
    file.seek(0)
    try:
        owner = json.loads(file.read())
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _tell_of_a_killed_owner(folder: Path, owner: dict[str, Any]) -> None:
    if owner:
        notices.say(f"{folder}: {_named(owner)} did not come to its end; going on from what it left")


def _in_use(folder: Path, owner: dict[str, Any], otherwise: str) -> RunError:
    return RunError(f"{folder}: in use by {_named(owner)}. {otherwise}")


def _named(owner: dict[str, Any]) -> str:
    if not {"pid", "host", "since"} <= owner.keys():
        return "another process"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
