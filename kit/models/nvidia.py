"""What the NVIDIA driver and `nvidia-smi` say of the GPUs: without torch, which takes seconds to load."""

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class FirstDevice:
    """CUDA's device 0: where it sits, its name, and all of its bytes (a MIG slice's own, not its card's)."""

    bus_id: str
    name: str
    bytes: int


def visible_devices() -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES (numbers, UUIDs or MIG ids); none where it is not set, so that all are seen.

    An empty list hides every GPU. CUDA reads up to the first entry that names none, as `-1` does.
    """
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    entries = [entry.strip() for entry in text.split(",")]
    none = next((i for i, entry in enumerate(entries) if entry in ("", "-1", "NoDevFiles")), len(entries))
    return entries[:none]


def first_device() -> FirstDevice | None:
    """CUDA's device 0, which a run uses; None where there is no driver or it gives no answer.

    CUDA numbers the fastest card 0 and `nvidia-smi` the one on the lowest bus, so with two different cards they
    disagree; and CUDA_VISIBLE_DEVICES may hold ids that `nvidia-smi` does not take. So CUDA itself is asked.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    device, size = ctypes.c_int(), ctypes.c_size_t()
    name, bus_id = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
    calls = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetName(name, len(name), device),
        lambda: driver.cuDeviceGetPCIBusId(bus_id, len(bus_id), device),
        lambda: driver.cuDeviceTotalMem_v2(ctypes.byref(size), device),
    )
    if any(call() != 0 for call in calls):
        return None
    return FirstDevice(bus_id.value.decode(), name.value.decode(), size.value)


def ask_nvidia_smi(query: str, gpu: str = "0") -> list[str] | None:
    """The answers to a query such as `memory.free,name` about one GPU; None where there are none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, f"--id={gpu}", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    fields = [field.strip() for field in answer.strip().partition("\n")[0].split(",", query.count(","))]
    return fields if len(fields) == query.count(",") + 1 else None
