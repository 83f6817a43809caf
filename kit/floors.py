"""Versions below which a library the kit stands on has a known hole, or lacks what the kit calls.

Asked when a run, a check or a comparison starts: an environment can change after it was installed.
"""

import importlib.metadata
from typing import NamedTuple

from kit.errors import MachineError


class Floor(NamedTuple):
    """The oldest version of a distribution that is taken, and why."""

    version: str
    why: str


_CALLED = "the kit calls what came with it"
FLOORS = {  # as in pyproject.toml; a test compares them
    "torch": Floor("2.10", "older ones can be made to run code by a file of weights (CVE-2026-24747, CVE-2025-32434)"),
    "transformers": Floor("5.8", f"before 5.3 a model's config.json can run code (CVE-2026-4372); {_CALLED}"),
    "trl": Floor("1.16", _CALLED),
    "peft": Floor("0.20", _CALLED),
    "bitsandbytes": Floor("0.50", _CALLED),
    "datasets": Floor("4.7", "older ones can run the scripts of a data set"),
    "accelerate": Floor("1.10", _CALLED),
    "pydantic": Floor("2", _CALLED),
}


def check_floors() -> None:
    """Raise MachineError, in one line, where an installed library is older than its floor.

    One that is not installed is left to its import, whose message says so.
    """
    from packaging.version import InvalidVersion, Version

    old = []
    for name, floor in FLOORS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        try:
            low = Version(found) < Version(floor.version)
        except InvalidVersion:
            low = True
        if low:
            old.append((name, found, floor))
    if old:
        told = "; ".join(f"{name} {found} is older than {floor.version}: {floor.why}" for name, found, floor in old)
        wanted = " ".join(f"'{name}>={floor.version}'" for name, _, floor in old)
        raise MachineError(f"{told}. Run: pip install --upgrade {wanted}")
