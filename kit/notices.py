"""How the kit speaks to a person: `say` what happens, `warn` where a run differs; and how the libraries keep quiet."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from kit.errors import printable

_PREFIX = "kit"
_LIBRARIES = ("transformers", "trl", "accelerate", "peft", "datasets", "huggingface_hub", "httpx", "bitsandbytes")


def say(text: str) -> None:
    """Print one line of progress on standard output."""
    print(f"{_PREFIX}: {printable(text)}", flush=True)


def warn(text: str) -> None:
    """Print one line on standard error: the run goes on, but differs from what was asked."""
    print(f"{_PREFIX}: warning: {printable(text)}", file=sys.stderr, flush=True)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' chatter down for the block, their imports included: bars, info lines and deprecation notes,
    never errors."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm's, in a notebook without ipywidgets
        import datasets
        import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)  # transformers sets its own when it is imported
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers.utils.logging.enable_progress_bar()
        datasets.enable_progress_bars()
