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


class KitError(Exception):
    """Base class of every error a user can put right; `exit_code` is what the command line returns."""

    exit_code = 2


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
