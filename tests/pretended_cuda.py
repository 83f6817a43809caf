"""A pretended CUDA device, and the `kit` command on it: `python tests/pretended_cuda.py t4 run config.yaml`.

Its tensors say cuda:0, compute on the CPU, and refuse to meet a CPU tensor where CUDA refuses. A run on it shows that
no tensor is on the wrong device, and that the branches of Python code that CUDA alone takes run: NF4 and 16 bits by
default, autocast, the gradient scaler, pinned batches, the embedding on the host, checkpoints that come back to the
device. It shows nothing of a GPU's kernels, numbers, memory, speed or streams: it is no GPU.

PRETENDED_CUDA names the library that tests/test_pretended_cuda.py compiles from pretended_cuda.cpp.
"""

import ctypes
import os
import sys
from types import SimpleNamespace
from typing import Any

ctypes.CDLL(os.environ["PRETENDED_CUDA"])  # torch asks for the hooks of CUDA once, when it is imported

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

CUDA = torch.device("cuda", 0)
CAPABILITY = {"modern": (8, 9), "t4": (7, 5)}
TOTAL_BYTES, FREE_BYTES = 16 * 2**30, 12 * 2**30
INDEXING = {"aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
MOVING = {"aten::copy_", "aten::_to_copy", "aten::lift_fresh", "aten::set_"}

_state = SimpleNamespace(operations=0)  # since the peak of memory was last reset


class OnCuda(torch.Tensor):
    """A tensor on the pretended device; `numbers` holds its numbers on the CPU."""

    numbers: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: torch.Tensor, requires_grad: bool = False) -> "OnCuda":
        made = torch.Tensor._make_wrapper_subclass(
            cls, numbers.size(), strides=numbers.stride(), storage_offset=numbers.storage_offset(), dtype=numbers.dtype,
            layout=numbers.layout, device=CUDA, requires_grad=requires_grad, dispatch_sizes_strides_policy="sizes",
        )  # fmt: skip
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"OnCuda({self.numbers!r})"

    def __tensor_flatten__(self):
        """With __tensor_unflatten__ what makes torch.nn.Module.to swap its parameters for the moved ones."""
        return ["numbers"], None

    @staticmethod
    def __tensor_unflatten__(tensors, meta, size, stride):
        return OnCuda(tensors["numbers"])

    def __reduce_ex__(self, protocol):
        """Saved as a CPU tensor, since that is where all checkpoints of the kit are loaded."""
        return self.numbers.__reduce_ex__(protocol)

    def tolist(self):
        return self.numbers.tolist()

    def numpy(self, **_: Any):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def untyped_storage(self):
        """By which safetensors finds weights that share memory."""
        return self.numbers.untyped_storage()

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other):
        if not isinstance(other, OnCuda):
            raise TypeError(f"a tensor on {CUDA} was given the data of one on {other.device}")
        torch.Tensor.data.__set__(self, other)
        self.numbers = other.numbers


def numbers_of(tensor: torch.Tensor) -> torch.Tensor:
    """The CPU's tensor behind one of the pretended device; any other as it is."""
    return tensor.numbers if isinstance(tensor, OnCuda) else tensor


def compute(operation: Any, args: tuple, kwargs: dict) -> Any:
    """The operation's result, computed on the CPU; on the pretended device where CUDA would leave it."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_cuda = [tensor for tensor in tensors if isinstance(tensor, OnCuda)]
    name = operation._schema.name
    _refuse_a_mix(name, args, tensors)
    if name == "aten::is_pinned":
        return False
    if name in ("aten::_pin_memory", "aten::pin_memory"):
        return args[0]
    _state.operations += bool(on_cuda)
    to_cuda = bool(on_cuda)
    if kwargs.get("device") is not None:
        to_cuda = torch.device(kwargs["device"]).type == "cuda"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    kwargs = {**kwargs, "pin_memory": False} if kwargs.get("pin_memory") else kwargs
    inner_args, inner_kwargs = tree_map_only(OnCuda, numbers_of, (args, kwargs))
    if operation is torch.ops.aten.addmm.dtype_out:  # 16 bits in, float32 out: the CPU has none
        start, *factors = (tensor.to(inner_args[3]) for tensor in inner_args[:3])
        kwargs["out"].copy_(torch.addmm(start, *factors, **_scales(inner_kwargs)))
        return kwargs["out"]
    result = operation(*inner_args, **inner_kwargs)
    if name == "aten::copy_" or torch.Tag.inplace_view in operation.tags:
        return args[0]
    if name == "aten::detach" and on_cuda and type(args[0]) is not OnCuda:  # a 4-bit weight stays one
        made = type(args[0])(result)
        made.__dict__.update({key: value for key, value in vars(args[0]).items() if key != "numbers"})
        return made
    given = {id(tensor.numbers): tensor for tensor in on_cuda} | {
        id(tensor): tensor for tensor in tensors if not isinstance(tensor, OnCuda)
    }

    def placed(tensor: torch.Tensor) -> torch.Tensor:
        """An operation in place hands back its argument, not another tensor of the same numbers."""
        return given.get(id(tensor)) if id(tensor) in given else OnCuda(tensor) if to_cuda else tensor

    return tree_map_only(torch.Tensor, placed, result)


def _scales(kwargs: dict) -> dict:
    return {name: kwargs[name] for name in ("alpha", "beta") if name in kwargs}


def _refuse_a_mix(name: str, args: tuple, tensors: list[torch.Tensor]) -> None:
    """CUDA takes single numbers from the CPU, and indices for its own tensors; nothing else but copies mixes."""
    if name in MOVING:
        return
    if name in INDEXING and isinstance(args[0], OnCuda):
        tensors = [args[0], *(tensor for tensor in args[2:3] if isinstance(tensor, torch.Tensor))]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnCuda)]
    if len(here) < len(tensors) and any(tensor.dim() for tensor in here):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({name}, shapes {[tuple(tensor.shape) for tensor in tensors]})"
        )


class PretendedCuda(TorchDispatchMode):
    """Within it `device="cuda"` makes tensors of the pretended device."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


def install(card: str) -> None:
    """Let torch and bitsandbytes find a card, for the rest of the process.

    The libraries are to be imported before: some decide at import what a CPU build of torch can do.
    """
    _quantize_on_the_device()
    _torch_finds(card)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is made here, then sent there


def _torch_finds(card: str) -> None:
    cuda, capability = torch.cuda, CAPABILITY[card]
    major, minor = capability
    properties = SimpleNamespace(
        name=f"Pretended {card}", total_memory=TOTAL_BYTES, major=major, minor=minor, multi_processor_count=1
    )
    torch.version.cuda = "13.0"
    answers = {
        "init": None, "_lazy_init": None, "is_available": True, "is_initialized": True, "device_count": 1,
        "current_device": 0, "set_device": None, "get_device_name": properties.name,
        "get_device_capability": capability, "get_device_properties": properties,
        "is_bf16_supported": capability >= (8, 0), "get_arch_list": ["sm_75", "sm_89"],
        "mem_get_info": (FREE_BYTES, TOTAL_BYTES), "get_per_process_memory_fraction": 1.0, "memory_reserved": 0,
        "memory_allocated": 0, "max_memory_reserved": 0, "empty_cache": None, "synchronize": None,
        "ipc_collect": None,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(cuda, name, lambda *args, _answer=answer, **kwargs: _answer)
    # A count in place of the peak: what a stage's record says of the peak then shows how much of it ran here.
    cuda.reset_peak_memory_stats = lambda device=None: setattr(_state, "operations", 0)
    cuda.max_memory_allocated = lambda device=None: _state.operations
    # CUDA's generator is the CPU's: whoever saves or seeds the one also does the other.
    reads = {
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
    }
    writes = dict.fromkeys(("set_rng_state", "set_rng_state_all", "manual_seed", "manual_seed_all"), _nothing)
    for name, function in (reads | writes).items():
        setattr(cuda, name, function)
        setattr(cuda.random, name, function)


def _nothing(*_: Any, **__: Any) -> None:
    """What there is to do on a device that is not there."""


def _quantize_on_the_device() -> None:
    """A 4-bit weight that is moved to the pretended device is quantised on the way, as on CUDA."""
    import bitsandbytes
    from bitsandbytes.nn import Params4bit

    new = Params4bit.__new__

    class Params4bitOnCuda(OnCuda, Params4bit):
        def __new__(cls, numbers, requires_grad=False):
            return OnCuda.__new__(cls, numbers, requires_grad)

        def __init__(self, *_: Any, **__: Any) -> None:
            """All is set where it is made."""

    def quantized(
        cls, data=None, requires_grad=False, quant_state=None, blocksize=None, compress_statistics=True,
        quant_type="fp4", quant_storage=torch.uint8, module=None, bnb_quantized=False, **more,
    ):  # fmt: skip
        how = {
            "blocksize": blocksize or 64, "compress_statistics": compress_statistics, "quant_type": quant_type,
            "quant_storage": quant_storage,
        }  # fmt: skip
        if not isinstance(data, OnCuda):
            return new(cls, data, requires_grad, quant_state, module=module, bnb_quantized=bnb_quantized, **how, **more)
        if not bnb_quantized:
            data, quant_state = bitsandbytes.functional.quantize_4bit(data.contiguous(), **how)
            if module is not None:
                module.quant_state = quant_state
        made = Params4bitOnCuda(data.numbers)
        vars(made).update(how, quant_state=quant_state, bnb_quantized=True, module=module)
        return made

    Params4bit.__new__ = staticmethod(quantized)


def main(card: str, *arguments: str) -> None:
    """`kit` with these arguments, on a pretended `modern` card or a `t4`."""
    import bitsandbytes  # noqa: F401
    import transformers  # noqa: F401

    import kit.cli
    import kit.ppo.head
    import kit.stages.dpo
    import kit.stages.online
    import kit.stages.ppo
    import kit.stages.reward
    import kit.stages.sft

    install(card)
    kit.ppo.head._on_triton = lambda device: device.type == "cuda"  # torch for CUDA brings Triton with it
    sys.argv[1:] = arguments
    with PretendedCuda():
        kit.cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
