"""Ctrl-C and SIGTERM: asked once, a run ends where nothing is lost; asked twice, at once.

Who can end well listens (`listening`) and looks at `asked`; where nobody listens, the first signal ends the run at
once, as there is nothing to save. A closed terminal (SIGHUP) counts as SIGTERM; what is ignored (nohup) stays ignored.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # not Windows


class Interrupted(KeyboardInterrupt):
    """The run was asked to end. `exit_code` is 128 and the signal's number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__("the run was interrupted; run the same again, and it goes on from what is kept")
        self.exit_code = 128 + number

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback."""
        return [f"kit: {self}"]


class AskedToStop(Interrupted):
    """The first signal, raised by who listens and has to save yet; the second is a plain Interrupted."""


class _State:
    """The signal that asked, and how many listen. There is one of each in a process."""

    asked: int | None = None
    listeners = 0


@contextmanager
def handled() -> Iterator[None]:
    """Within, the signals are ours; after it they are whose they were. In a thread of its own nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    _State.asked = None
    try:
        for number in _ASKING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, _on_signal)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _State.asked = None


@contextmanager
def listening() -> Iterator[None]:
    """Within, the first signal is noted and the second ends the run."""
    _State.listeners += 1
    try:
        yield
    finally:
        _State.listeners -= 1


def asked() -> int | None:
    """The signal by which the run was asked to end; None as a rule."""
    return _State.asked


def stop_if_asked() -> None:
    """Raise AskedToStop where the run was asked to end."""
    if _State.asked is not None:
        raise AskedToStop(_State.asked)


def _on_signal(number: int, _: FrameType | None) -> None:
    if _State.asked is not None or not _State.listeners:
        raise Interrupted(number)
    _State.asked = number
    _tell(
        "kit: stops as soon as nothing is lost by it, and saves a checkpoint. Ctrl-C again stops at once, and goes on "
        "from the checkpoint before"
    )


def _tell(text: str) -> None:
    """A line on standard error. A signal may come in the middle of another print, where Python refuses a second."""
    try:
        print(f"\n{text}", file=sys.stderr, flush=True)
    except (RuntimeError, OSError, ValueError):
        try:
            os.write(2, f"\n{text}\n".encode())
        except OSError:
            return  # a terminal that was closed
