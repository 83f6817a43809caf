"""The cards a plan is for: the one that is here, one that is named, or the common sizes."""

import os
import shutil
import subprocess
from dataclasses import dataclass

GIB = 2**30
COMMON_GIB = (8.0, 12.0, 16.0, 24.0)


@dataclass(frozen=True)
class Card:
    """A GPU's memory: `bytes` that a new process may use, its driver's own context included."""

    name: str
    bytes: int

    @property
    def gib(self) -> float:
        """The bytes in GiB."""
        return self.bytes / GIB


def named_card(gib: float) -> Card:
    """A card of so many GiB, all of them free."""
    return Card(f"{gib:g} GiB", round(gib * GIB))


def common_cards() -> list[Card]:
    """The sizes of consumer cards."""
    return [named_card(gib) for gib in COMMON_GIB]


def find_card() -> Card | None:
    """The GPU that a run would use, with the memory that is free on it now; None where there is none.

    Asks `nvidia-smi`, as torch takes seconds to load. The first GPU of CUDA_VISIBLE_DEVICES counts, as in a run.
    """
    program, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if visible is None else visible.split(",")[0].strip()
    if program is None or first in ("", "-1"):
        return None
    query = [program, f"--id={first}", "--query-gpu=memory.free,name", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        free_mib, _, name = answer.strip().splitlines()[0].partition(",")
        return Card(name.strip(), int(free_mib) * 2**20)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
