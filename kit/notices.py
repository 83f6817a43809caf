"""How the kit speaks to a person: `say` what happens, `warn` where a run differs from what was asked."""

import sys

_PREFIX = "kit"


def say(text: str) -> None:
    """Print one line of progress on standard output."""
    print(f"{_PREFIX}: {text}", flush=True)


def warn(text: str) -> None:
    """Print one line on standard error: the run goes on, but differs from what was asked."""
    print(f"{_PREFIX}: warning: {text}", file=sys.stderr, flush=True)
