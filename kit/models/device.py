"""Which device a run uses, in which dtype it computes, and what the machine's memory peaked at."""

import contextlib
import gc
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from kit.config import Config, ModelSettings
from kit.errors import MachineError
from kit.models.gpu import gpu_is_usable
from kit.models.plan.memory import CONTEXT_BYTES


@dataclass(frozen=True)
class Precision:
    """The device, the compute dtype and whether the base is quantised: decided once per run."""

    device: torch.device
    dtype: torch.dtype
    nf4: bool

    @property
    def autocasts(self) -> bool:
        """Whether passes run under autocast: on a GPU, in 16 bits."""
        return self.device.type == "cuda" and self.dtype != torch.float32

    @property
    def trainer_flags(self) -> dict[str, bool]:
        """The flags of transformers' TrainingArguments that follow from it; TRL alone would ask for bf16 anywhere."""
        cuda = self.device.type == "cuda"
        return {
            "use_cpu": not cuda,
            "bf16": cuda and self.dtype == torch.bfloat16,
            "fp16": cuda and self.dtype == torch.float16,
        }

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}{', 4-bit NF4 base' if self.nf4 else ''}"


def choose_precision(settings: ModelSettings) -> Precision:
    """The precision the settings ask for, `auto` resolved by what this machine has.

    bfloat16 where the GPU has it, float16 on older GPUs (T4), float32 on a CPU; NF4 on a GPU unless told otherwise.
    Raises MachineError for float16 on a CPU, where training is not stable, and for a GPU that torch fails to use.
    """
    cuda = gpu_is_usable()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    if settings.dtype != "auto":
        dtype = getattr(torch, settings.dtype)
    elif cuda:
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    else:
        dtype = torch.float32
    if not cuda and dtype == torch.float16:
        raise MachineError("model.dtype: float16 needs a GPU and none was found; use float32 or auto")
    nf4 = cuda if settings.quantization == "auto" else settings.quantization == "nf4"
    return Precision(device, dtype, nf4)


def free_memory_bytes(device: torch.device) -> int:
    """Bytes that this process may use: what is free and what it holds itself, CUDA's context included.

    On a CPU what the system would give without swapping.
    """
    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, total = torch.cuda.mem_get_info(device)
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return min(free + torch.cuda.memory_reserved(device), allowed) + CONTEXT_BYTES


def reset_peak_memory() -> None:
    """Start a new measurement for `peak_memory_bytes`; what an earlier stage left in reference cycles is freed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the high-water mark VmHWM


def peak_memory_bytes() -> int:
    """Peak since `reset_peak_memory`: bytes allocated on the GPU, or the process's resident bytes on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def few_threads(config: Config) -> Iterator[None]:
    """One thread for the demo's tiny model: its matrices are too small to share, and threads that wait for each other
    on a busy machine cost far more than they bring."""
    threads = torch.get_num_threads()
    if config.model.base == "demo" and not gpu_is_usable():
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
