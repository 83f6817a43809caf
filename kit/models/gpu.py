"""Whether this torch can compute on the GPU that is here; where it cannot, what to do instead of a traceback."""

import os
import re
import warnings

import torch

from kit import notices
from kit.errors import MachineError
from kit.models.nvidia import ask_nvidia_smi, visible_devices

_NO_GPU = ("Found no NVIDIA driver", "No CUDA GPUs are available")  # torch's words for a machine without one
_ON_CPU = 'To run on the CPU: CUDA_VISIBLE_DEVICES= kit run ... (notebook: os.environ["CUDA_VISIBLE_DEVICES"] = "")'
_OTHER_TORCH = "https://pytorch.org/get-started/locally"
# The oldest CUDA that torch 2.10 to 2.13 is built for: it runs on any driver of CUDA 12, and its kernels begin at
# compute capability 5.0 (`PYTORCH_RELEASES_CODE_CC` in torch.cuda); those of CUDA 12.8 and newer at 7.5 at the latest.
_OLDEST_BUILD, _OLDEST_DRIVER, _OLDEST_CAPABILITY = "cu126", 12000, (5, 0)


def gpu_is_usable() -> bool:
    """Whether a run goes on the GPU: False where there is none, or where CUDA_VISIBLE_DEVICES hides it.

    Raises MachineError where there is one that torch fails to use: a driver older than its CUDA, a GPU older than its
    kernels, a driver that does not start. `torch.cuda.is_available` only warns of these, and only when it is first
    called in a process, which may have been any library's import.
    """
    if torch.version.cuda is None:  # built for the CPU or for AMD
        return torch.cuda.is_available()
    if visible_devices() == []:  # torch complains of an old driver even then
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of any GPU that is too old; below it is said of the one that is used
            torch.cuda.init()
        capability = torch.cuda.get_device_capability(0)
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        text = str(error).strip() or type(error).__name__
        if any(words in text for words in _NO_GPU):
            return False
        raise MachineError(_broken(text)) from None
    kernels = [int(found[1]) for arch in torch.cuda.get_arch_list() if (found := re.match(r"sm_(\d+)", arch))]
    if kernels and capability < divmod(min(kernels), 10):
        raise MachineError(_too_old(capability, divmod(min(kernels), 10)))
    return True


def tell_about_gpus() -> None:
    """Warn where the machine has a GPU, or several, that the run does not use."""
    if torch.version.cuda is None and torch.version.hip is None and visible_devices() != []:
        answer = ask_nvidia_smi("name")
        if answer is not None:
            notices.warn(
                f"this machine has an {answer[0]}, but the installed torch {torch.__version__} is built without CUDA, "
                f"so the run goes on the CPU. For the GPU, install a torch with CUDA: {_OTHER_TORCH}"
            )
    if not torch.cuda.is_available() or torch.cuda.device_count() < 2 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    used, other, visible = torch.cuda.get_device_name(0), torch.cuda.get_device_name(1), visible_devices()
    notices.warn(
        f"{torch.cuda.device_count()} GPUs are visible; one is used: {used}. "
        f"Choose another with CUDA_VISIBLE_DEVICES={visible[1] if visible else 1} ({other})"
    )


def _broken(text: str) -> str:
    """The message for CUDA that does not start, from torch's own."""
    found = re.search(r"driver on your system is too old \(found version (\d+)\)", text)
    if found is None:
        first = text.splitlines()[0].rstrip(".")
        return (
            f"the GPU cannot be used: {first}. Does `nvidia-smi` answer? If not, restart the machine or install the "
            f"driver again; a container needs `--gpus all`. {_ON_CPU}"
        )
    number, version = int(found[1]), ask_nvidia_smi("driver_version")
    supported = f"{number // 1000}.{number % 1000 // 10}"
    older = f": {_install(_OLDEST_BUILD)}" if number >= _OLDEST_DRIVER else f" ({_OTHER_TORCH})"
    return (
        f"the NVIDIA driver{f' {version[0]}' if version else ''} is too old: it supports CUDA up to {supported}, and "
        f"torch {torch.__version__} is built for CUDA {torch.version.cuda}. Update the driver "
        f"(https://www.nvidia.com/drivers), or install a torch for an older CUDA{older}. {_ON_CPU}"
    )


def _too_old(capability: tuple[int, int], needed: tuple[int, int]) -> str:
    """The message for a GPU that torch holds no kernels for."""
    remedy = "Use a newer GPU"
    if capability >= _OLDEST_CAPABILITY and needed > _OLDEST_CAPABILITY:
        remedy = f"Install a build of torch that still does: {_install(_OLDEST_BUILD)}"
    return (
        f"the GPU is too old for this torch: {torch.cuda.get_device_name(0)} has compute capability "
        f"{'.'.join(map(str, capability))}, and torch {torch.__version__} (CUDA {torch.version.cuda}) supports "
        f"{'.'.join(map(str, needed))} and newer. {remedy}. {_ON_CPU}"
    )


def _install(build: str) -> str:
    version = torch.__version__.partition("+")[0]
    return f"pip install torch=={version} --index-url https://download.pytorch.org/whl/{build}"
