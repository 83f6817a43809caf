"""What a run does on GPUs that are old, several, hidden, or out of order; CUDA itself is pretended."""

import ctypes

import pytest
import torch
from toy import base_folder
from toy_stages import toy_config
from typer.testing import CliRunner

import kit
from kit.cli import app
from kit.config import ModelSettings
from kit.errors import MachineError
from kit.models import gpu, nvidia
from kit.models.base import find_base
from kit.models.device import Precision, choose_precision
from kit.models.gpu import tell_about_gpus
from kit.models.nvidia import FirstDevice, first_device, visible_devices
from kit.models.plan.card import Card, find_card
from kit.models.plan.choice import Choice
from kit.models.plan.memory import Arithmetic
from kit.models.plan.stages import Sizes
from kit.stages.arguments import TRAINING_STAGES, build_arguments

HOW = Arithmetic(4, False, True)
# Word for word what torch 2.13 raises in torch.cuda.init (c10/cuda/CUDAFunctions.cpp, device_count_impl).
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version {}). Please update your GPU driver by downloading and "
    "installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from "
    "http://www.nvidia.com/Download/index.aspx"
)
UNKNOWN = (
    "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
    "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."
)


class Machine:
    """A machine with these GPUs, whose torch is built for CUDA 13.0; `error` is what its start raises."""

    def __init__(self, patch):
        self.patch, self.names, self.capability, self.error = patch, ["Tesla T4"], (7, 5), None
        self.smi = {}
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setattr(torch, "__version__", "2.13.0+cu130")
        patch.setattr(torch.version, "cuda", "13.0")
        patch.setattr(torch.cuda, "init", self.init)
        patch.setattr(torch.cuda, "is_available", lambda: self.error is None and bool(self.names))
        patch.setattr(torch.cuda, "device_count", lambda: len(self.names))
        patch.setattr(torch.cuda, "get_device_name", lambda device: self.names[getattr(device, "index", device)])
        patch.setattr(torch.cuda, "get_device_capability", lambda _: self.capability)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: self.capability >= (8, 0))
        patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "sm_120", "compute_120"])
        patch.setattr(gpu, "ask_nvidia_smi", lambda query: self.smi.get(query))

    def init(self):
        if self.error is not None:
            raise self.error


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def choose(**settings):
    return choose_precision(ModelSettings(**settings))


def refusal():
    with pytest.raises(MachineError) as raised:
        choose()
    return str(raised.value)


class TestTheDtype:
    def test_is_float16_on_a_t4(self, machine):
        assert choose() == Precision(torch.device("cuda", 0), torch.float16, nf4=True)

    def test_is_bfloat16_where_the_gpu_has_it(self, machine):
        machine.capability = (8, 6)
        assert choose().dtype == torch.bfloat16

    def test_is_float32_on_a_cpu(self, machine):
        machine.error = RuntimeError(NO_DRIVER)
        assert choose() == Precision(torch.device("cpu"), torch.float32, nf4=False)


class TestADriverThatIsTooOld:
    def test_is_named_beside_what_torch_wants(self, machine):
        machine.error = RuntimeError(TOO_OLD.format(11040))
        machine.smi = {"driver_version": ["470.57.02"]}
        text = refusal()
        assert "NVIDIA driver 470.57.02 is too old: it supports CUDA up to 11.4" in text
        assert "torch 2.13.0+cu130 is built for CUDA 13.0" in text
        assert "Update the driver" in text and "CUDA_VISIBLE_DEVICES= kit run" in text
        assert "pip install" not in text  # no torch that the kit takes is built for CUDA 11

    def test_of_cuda_12_gets_the_build_that_runs_on_it(self, machine):
        machine.error = RuntimeError(TOO_OLD.format(12040))
        text = refusal()
        assert "CUDA up to 12.4" in text
        assert "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126" in text

    @pytest.mark.parametrize("hidden", ["", "-1"])
    def test_does_not_stop_a_run_on_the_cpu(self, machine, hidden):
        machine.error = RuntimeError(TOO_OLD.format(11040))
        machine.patch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert choose().device.type == "cpu"

    def test_is_a_message_and_not_a_traceback_at_the_command_line(self, machine, tmp_path):
        machine.error = RuntimeError(TOO_OLD.format(12040))
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"prompt": "Hi?", "chosen": "yes", "rejected": "no"}\n' * 3)
        (tmp_path / "c.yaml").write_text(
            f"output_dir: {tmp_path}\nstages: [sft]\nmodel: {{base: {base_folder()}}}\ndata: {{preferences: {rows}}}\n"
        )
        result = CliRunner().invoke(app, ["run", str(tmp_path / "c.yaml")])
        assert (result.exit_code, "kit: error: the NVIDIA driver is too old" in result.stderr) == (2, True)


class TestAGpuThatTorchCannotUse:
    def test_has_no_kernels_where_it_is_too_old(self, machine):
        machine.names, machine.capability = ["NVIDIA GeForce GTX 1080"], (6, 1)
        text = refusal()
        assert "NVIDIA GeForce GTX 1080 has compute capability 6.1" in text
        assert "supports 7.5 and newer" in text and "whl/cu126" in text

    def test_that_no_build_knows_is_given_up(self, machine):
        machine.names, machine.capability = ["Tesla K80"], (3, 7)
        text = refusal()
        assert "Use a newer GPU" in text and "pip install" not in text

    @pytest.mark.parametrize("capability", [(7, 5), (8, 9), (12, 0)])
    def test_is_not_one_of_the_oldest_kernels_or_newer(self, machine, capability):
        machine.capability = capability
        assert choose().device.type == "cuda"

    @pytest.mark.parametrize("kind", [RuntimeError, torch.cuda.DeferredCudaCallError])
    def test_fails_with_what_cuda_said_and_what_to_do(self, machine, kind):
        machine.error = kind(UNKNOWN)
        text = refusal()
        assert "CUDA unknown error" in text and "nvidia-smi" in text and "CUDA_VISIBLE_DEVICES= kit run" in text

    def test_is_none_where_none_is_visible(self, machine):
        machine.error = RuntimeError("No CUDA GPUs are available")
        assert choose().device.type == "cpu"


class TestATorchWithoutCuda:
    @pytest.fixture(autouse=True)
    def built_for_cpus(self, machine):
        machine.patch.setattr(torch.version, "cuda", None)
        machine.patch.setattr(torch, "__version__", "2.13.0+cpu")
        machine.names = []

    def test_is_said_where_the_machine_has_a_gpu(self, machine, capsys):
        machine.smi = {"name": ["NVIDIA GeForce RTX 3060"]}
        assert choose().device.type == "cpu"
        tell_about_gpus()
        told = capsys.readouterr().err
        assert "this machine has an NVIDIA GeForce RTX 3060, but the installed torch 2.13.0+cpu" in told
        assert "so the run goes on the CPU" in told

    @pytest.mark.parametrize("hidden", [True, False])
    def test_is_not_mentioned_where_there_is_none_or_it_is_hidden(self, machine, capsys, hidden):
        if hidden:
            machine.smi = {"name": ["NVIDIA GeForce RTX 3060"]}
            machine.patch.setenv("CUDA_VISIBLE_DEVICES", "")
        tell_about_gpus()
        assert capsys.readouterr().err == ""


class TestSeveralGpus:
    @pytest.fixture(autouse=True)
    def two(self, machine):
        machine.names = ["NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 3060"]

    def test_are_noticed_with_the_one_that_is_used(self, machine, capsys):
        tell_about_gpus()
        assert capsys.readouterr().err == (
            "kit: warning: 2 GPUs are visible; one is used: NVIDIA GeForce RTX 3090. "
            "Choose another with CUDA_VISIBLE_DEVICES=1 (NVIDIA GeForce RTX 3060)\n"
        )

    def test_are_named_as_the_user_named_them(self, machine, capsys):
        machine.patch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8932f937")
        tell_about_gpus()
        assert "CUDA_VISIBLE_DEVICES=GPU-8932f937 (NVIDIA GeForce RTX 3060)" in capsys.readouterr().err

    def test_are_all_used_under_a_launcher(self, machine, capsys):
        machine.patch.setenv("WORLD_SIZE", "2")
        tell_about_gpus()
        assert capsys.readouterr().err == ""

    def test_are_noticed_once_a_run(self, machine, capsys):
        find_base(kit.Config(model={"base": str(base_folder())}))
        assert capsys.readouterr().err.count("GPUs are visible") == 1

    @pytest.mark.parametrize("stage", TRAINING_STAGES)
    def test_leave_the_model_out_of_data_parallel(self, monkeypatch, tmp_path, stage):
        monkeypatch.undo()  # transformers is to find no GPU that it could set, and yet to count two
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        on_gpu = Precision(torch.device("cuda"), torch.float32, nf4=False)
        arguments = build_arguments(toy_config(), stage, on_gpu, tmp_path, Choice(Sizes(1, 1, 1), HOW), rows=8)
        assert arguments.n_gpu == 1
        assert (arguments.train_batch_size, arguments.parallel_mode.value) == (
            arguments.per_device_train_batch_size, "not_parallel",
        )  # fmt: skip


class Driver:
    """A CUDA driver whose device 0 is this one; `broken` names the call that fails."""

    def __init__(self, broken=None):
        self.broken = broken

    def __getattr__(self, name):
        return lambda *rest: 999 if name == self.broken else getattr(self, f"_{name}")(*rest)

    def _cuInit(self, flags):
        return 0

    def _cuDeviceGet(self, device, ordinal):
        device._obj.value = 40 + ordinal
        return 0

    def _cuDeviceGetName(self, text, size, device):
        assert (size, device.value) == (256, 40)
        text.value = b"NVIDIA GeForce RTX 3090"
        return 0

    def _cuDeviceGetPCIBusId(self, text, size, device):
        text.value = b"0000:65:00.0"
        return 0

    def _cuDeviceTotalMem_v2(self, size, device):
        size._obj.value = 24 * 2**30
        return 0


class TestTheFirstDevice:
    def test_is_what_cuda_says(self, monkeypatch):
        monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
        assert first_device() == FirstDevice("0000:65:00.0", "NVIDIA GeForce RTX 3090", 24 * 2**30)

    @pytest.mark.parametrize("broken", ["cuInit", "cuDeviceGet", "cuDeviceTotalMem_v2"])
    def test_is_none_where_the_driver_fails(self, monkeypatch, broken):
        monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(broken))
        assert first_device() is None

    def test_is_none_without_a_driver(self, monkeypatch):
        def missing(name):
            raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr(ctypes, "CDLL", missing)
        assert first_device() is None

    @pytest.mark.parametrize(
        ("text", "entries"),
        [
            (None, None),
            ("", []),
            ("-1", []),
            ("2, 0", ["2", "0"]),
            ("MIG-1,MIG-2", ["MIG-1", "MIG-2"]),
            ("1,-1,0", ["1"]),
        ],
    )
    def test_is_the_first_that_the_variable_shows(self, monkeypatch, text, entries):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if text is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert visible_devices() == entries


class TestThePlannersCard:
    @pytest.fixture(autouse=True)
    def two_different_cards(self, monkeypatch):
        """`nvidia-smi` counts by bus and CUDA by speed: its first is the slow card, CUDA's the fast one."""
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self.free, self.device = {"0": 11000, "0000:65:00.0": 23000}, FirstDevice("0000:65:00.0", "fast", 24 * 2**30)
        monkeypatch.setattr("kit.models.plan.card.first_device", lambda: self.device)
        monkeypatch.setattr("kit.models.plan.card.ask_nvidia_smi", self.answer)

    def answer(self, query, gpu):
        row = {"memory.free": str(self.free.get(gpu)), "name": "slow"}
        return [row[field] for field in query.split(",")] if gpu in self.free else None

    def test_is_the_one_that_torch_uses(self):
        assert find_card() == Card("fast", 23000 * 2**20)

    def test_of_a_mig_slice_has_no_more_than_the_slice(self):
        self.device = FirstDevice("0000:65:00.0", "NVIDIA A30 MIG 1g.6gb", 6 * 2**30)
        assert find_card() == Card("NVIDIA A30 MIG 1g.6gb", 6 * 2**30)

    def test_counts_as_free_where_nvidia_smi_does_not_know(self):
        self.free = {}
        assert find_card() == Card("fast", 24 * 2**30)

    def test_is_the_first_of_nvidia_smi_where_cuda_does_not_answer(self):
        self.device = None
        assert find_card() == Card("slow", 11000 * 2**20)


class TestNvidiaSmi:
    def test_is_not_needed(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert nvidia.ask_nvidia_smi("name") is None
