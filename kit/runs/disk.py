"""A disk that is full, or that may not be written to, as a message."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from kit.errors import MachineError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# safetensors and torch say in words alone what the system told them.
_FULL_WORDS = (
    "No space left on device", "Disk quota exceeded", "File too large", "PytorchStreamWriter", "inline_container",
    "iostream error",
)  # fmt: skip
_REFUSED_WORDS = ("Read-only file system", "Permission denied")


def is_full(error: BaseException) -> bool:
    """Whether a writer failed because the disk, or the user's share of it, is full."""
    return getattr(error, "errno", None) in FULL or any(words in str(error) for words in _FULL_WORDS)


def _is_refused(error: BaseException) -> bool:
    return getattr(error, "errno", None) in _REFUSED or any(words in str(error) for words in _REFUSED_WORDS)


@contextmanager
def disk_errors() -> Iterator[None]:
    """What a full disk or a folder that may not be written to raises in the block, as a MachineError."""
    try:
        yield
    except Exception as error:
        file = getattr(error, "filename", None)
        where = f"{file}: " if file else ""
        if not _of_a_writer(error):
            raise
        if is_full(error):
            raise MachineError(
                f"{where}the disk is full ({_first_line(error)}). What was written whole is kept; make room, and run "
                "the same again to go on"
            ) from None
        if _is_refused(error):
            raise MachineError(
                f"{where}may not be written ({_first_line(error)}). Set output_dir= to a folder of yours on a disk "
                "that can be written to; what is there is left as it is"
            ) from None
        raise


def _of_a_writer(error: Exception) -> bool:
    """What the system, safetensors or torch raise when they write."""
    return isinstance(error, (OSError, RuntimeError)) or type(error).__name__ == "SafetensorError"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
