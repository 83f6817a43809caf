"""The cards a plan is for: the one that is here, one that is named, or the common sizes."""

from dataclasses import dataclass

from kit.models.nvidia import ask_nvidia_smi, first_device, visible_devices

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

    It is CUDA's device 0. `nvidia-smi` knows what is free on it, but not on a MIG slice, which counts as all free.
    """
    visible = visible_devices()
    if visible == []:
        return None
    device = first_device()
    if device is not None:
        answer = ask_nvidia_smi("memory.free", device.bus_id)
        free = _bytes(answer[0]) if answer else None
        return Card(device.name, device.bytes if free is None else min(free, device.bytes))
    answer = ask_nvidia_smi("memory.free,name", visible[0] if visible else "0")
    free = _bytes(answer[0]) if answer else None
    return Card(answer[1], free) if answer and free is not None else None


def _bytes(mib: str) -> int | None:
    return int(mib) * 2**20 if mib.isdigit() else None
