"""What can go wrong, as the user meets it.

    KitError              anything the user can put right; ends with a message, never a traceback
    ├── ConfigError       the configuration is wrong                         (exit code 2)
    ├── DataError         a data file, row or column cannot be used          (exit code 2)
    ├── ModelError        a base model, tokenizer or adapter cannot be used  (exit code 2)
    ├── RunError          the run folder is in use or damaged                (exit code 2)
    ├── MachineError      this machine cannot do what was asked              (exit code 2)
    └── TrainingStopped   a guard stopped the training                       (exit code 3)

Every message says where, what was found, what was wanted and what to do.
"""

import re

from kit.secrets import redacted

# What moves a terminal's cursor, colours it, turns the direction of text, or cannot be printed at all.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """The text as a terminal may show it: control characters of a file's own as escapes; line ends and tabs stay.

    Secrets are left out: whatever a library's or a server's message repeats of them stops here.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], redacted(text))


class KitError(Exception):
    """Base class of every error a user can put right; `exit_code` is what the command line returns."""

    exit_code = 2

    def __str__(self) -> str:
        return printable(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message alone."""
        return [f"kit: error: {self}"]


class ConfigError(KitError):
    """The configuration is wrong: all of its problems stand in one message."""


class DataError(KitError):
    """A data source cannot be used as it is."""


class ModelError(KitError):
    """A base model, its tokenizer or an adapter cannot be used as it is."""


class RunError(KitError):
    """The run folder is used by another process, or is not a run folder."""


class MachineError(KitError):
    """This machine cannot do what was asked of it."""


class TrainingStopped(KitError):
    """A guard stopped the training before it could spoil the result."""

    exit_code = 3
