"""Whole runs on a pretended CUDA device (tests/pretended_cuda.py): no tensor is on the wrong one. It is no GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import base_folder
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

from kit.runs.checkpoints import Checkpoints, step_of

pytestmark = pytest.mark.pipeline

TESTS = Path(__file__).resolve().parent
TOY = {
    "lora": {"rank": 4},
    "data": {"eval_fraction": 0.1, "max_prompt_tokens": 48, "max_response_tokens": 8},
    "sft": {"max_steps": 2, "batch_size": 4},
    "reward": {"max_steps": 2, "batch_size": 4},
    "dpo": {"max_steps": 2, "batch_size": 4},
    # A reward model of two steps is at chance, where PPO would not start.
    "ppo": {"episodes": 16, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 1, "force": True},
    "grpo": {"episodes": 8, "batch_size": 4, "num_generations": 2},
    "compare": {"prompts": 4, "validation_prompts": 4, "best_of": 2, "judge_fraction": 0.5},
}
STAGES = ("sft", "reward", "ppo", "dpo", "compare")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """pretended_cuda.cpp, compiled against the torch that is installed."""
    torch_folder, compiler = Path(torch.__file__).parent, shutil.which("g++")
    if torch.version.cuda is not None or torch.version.hip is not None or sys.platform != "linux":
        pytest.skip("CUDA is pretended on Linux, to a torch that is built for CPUs")
    if compiler is None or not (torch_folder / "include" / "ATen" / "Context.h").exists():
        pytest.skip("g++ and torch's headers are needed")
    made = tmp_path_factory.mktemp("library") / "pretended_cuda.so"
    command = [
        compiler, "-std=c++20", "-shared", "-fPIC", str(TESTS / "pretended_cuda.cpp"), f"-I{torch_folder / 'include'}",
        f"-L{torch_folder / 'lib'}", f"-Wl,-rpath,{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu", "-o", str(made),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def python(library):
    """Runs Python in a process that can pretend; its result, with what it wrote."""
    environment = {
        **os.environ, "PRETENDED_CUDA": str(library), "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
        "HF_DEACTIVATE_ASYNC_LOAD": "1",  # a thread of its own would not know of the pretended device
    }  # fmt: skip
    environment.pop("CUDA_VISIBLE_DEVICES", None)

    def run(*arguments):
        return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """A base whose head is not its embedding, and whose first gradients fit into float16."""
    folder = tmp_path_factory.mktemp("untied")
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    fields = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id, "tie_word_embeddings": False,
    }  # fmt: skip
    set_seed(0)
    LlamaForCausalLM(LlamaConfig(**fields)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(place, base, **changes):
    """A config file of a run on rows of its own."""
    rows = [{"prompt": f"Name {n} pets.", "chosen": "A cat.", "rejected": "No."} for n in range(60)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        **TOY, "name": "toy", "output_dir": str(place / "runs"), "model": {"base": str(base)}, "stages": list(STAGES),
        "data": TOY["data"] | {"preferences": str(place / "rows.jsonl")}, **changes,
    }  # fmt: skip
    (place / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return str(place / "config.yaml")


def assert_ran_on_the_device(run, stages, dtype):
    """Each stage by the operations that it counted there, each adapter by the base that it names."""
    for stage in stages:
        record = json.loads((run / stage / "stage.json").read_text())
        assert record["peak_bytes"] > 1000, f"{stage}: {record['peak_bytes']} operations on the device"
        if stage != "compare":
            card = (run / stage / "README.md").read_text()
            assert f"dtype={dtype}" in card and "4-bit NF4" in card, stage


CHECKS = """
import json, sys
import pretended_cuda
import torch

def outcome(function):
    try:
        return str(function())
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def embedded_in_place():
    parameter = torch.nn.Parameter(torch.ones(3).to("cuda"))
    parameter.data = parameter.data.to(torch.bfloat16) * 2
    return [parameter.dtype, (parameter + 0).tolist()]

def learnt():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 1).to("cuda")
    optimizer, losses = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True), []
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(10):  # the scaler skips the first, while its scale comes down
        with torch.autocast("cuda", dtype=torch.float16):
            made = layer(torch.ones(2, 3, device="cuda"))
        loss = (made.float() - 3).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer), scaler.update(), optimizer.zero_grad()
        losses.append(loss.item())
    return [layer.weight.device, made.dtype, losses[-1] < losses[0]]

pretended_cuda.install("t4")
with pretended_cuda.PretendedCuda():
    here, there = torch.arange(3.0), torch.arange(3.0, device="cuda")
    print(json.dumps({
        "sum": outcome(lambda: here + there),
        "number": outcome(lambda: (there + torch.tensor(1.0)).device),
        "numpy": outcome(lambda: there.numpy()),
        "back": outcome(lambda: there.cpu().numpy()),
        "index from here": outcome(lambda: there[torch.tensor([1])].tolist()),
        "index from there": outcome(lambda: here[torch.tensor([1], device="cuda")]),
        "values from here": outcome(lambda: there.index_put_((torch.tensor([0, 1]),), torch.ones(2))),
        "data": outcome(embedded_in_place),
        "data from here": outcome(lambda: setattr(there, "data", here)),
        "learnt": outcome(learnt),
    }))
"""


@pytest.fixture(scope="module")
def found(python):
    """What each of these came to."""
    done = python("-c", CHECKS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class TestThePretendedDevice:
    """What the runs below stand on: it refuses what CUDA refuses, and computes the rest."""

    @pytest.mark.parametrize("what", ["sum", "index from there", "values from here"])
    def test_refuses_a_tensor_of_the_cpu_beside_its_own(self, found, what):
        assert "found at least two devices, cuda:0 and cpu" in found[what]

    def test_refuses_the_data_of_one(self, found):
        assert found["data from here"] == "TypeError: a tensor on cuda:0 was given the data of one on cpu"

    def test_takes_single_numbers_and_indices_from_the_cpu(self, found):
        assert (found["number"], found["index from here"]) == ("cuda:0", "[1.0]")

    def test_has_no_numpy_arrays_but_of_what_was_copied_back(self, found):
        assert found["numpy"].startswith("TypeError: can't convert cuda:0 device type tensor to numpy")
        assert found["back"] == "[0. 1. 2.]"

    def test_follows_the_data_that_a_weight_is_given(self, found):
        assert found["data"] == "[torch.bfloat16, [2.0, 2.0, 2.0]]"

    def test_learns_under_autocast_with_a_gradient_scaler(self, found):
        assert found["learnt"] == "[device(type='cuda', index=0), torch.float16, True]"


class TestAModernCard:
    def test_runs_all_stages_in_4_bit_and_bfloat16(self, python, tmp_path):
        done = python(str(TESTS / "pretended_cuda.py"), "modern", "run", config(tmp_path, base_folder()))
        assert done.returncode == 0, done.stderr
        run = tmp_path / "runs" / "toy"
        assert_ran_on_the_device(run, STAGES, torch.bfloat16)
        assert (run / "compare" / "report.html").exists()


STOPPED = """
import pretended_cuda
import os, signal, sys
import kit.stages.ppo
from transformers import TrainerCallback

class Stop(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

train = kit.stages.ppo.train_with_progress
def stopped(trainer, *rest):
    trainer.add_callback(Stop())
    return train(trainer, *rest)

kit.stages.ppo.train_with_progress = stopped
pretended_cuda.main(*sys.argv[1:])
"""


class TestAT4:
    def test_goes_on_in_float16_from_the_checkpoint_of_a_run_that_was_stopped_in_ppo(self, python, untied, tmp_path):
        stages = ["sft", "reward", "ppo", "dpo"]
        few = {"max_steps": 6, "batch_size": 4}  # the scaler skips the first, while its scale comes down
        settings = {"sft": few, "reward": few, "dpo": few, "ppo": TOY["ppo"] | {"critic": "shared"}}
        file = config(tmp_path, untied, stages=stages, **settings)
        run = tmp_path / "runs" / "toy"
        stopped = python("-c", STOPPED, "t4", "run", file)
        assert stopped.returncode == 143, stopped.stderr
        newest = Checkpoints(run / ".ppo-checkpoints").newest
        assert newest is not None and step_of(newest) == 2
        assert (newest / "scaler.pt").exists()
        done = python(str(TESTS / "pretended_cuda.py"), "t4", "run", file)
        assert done.returncode == 0, done.stderr
        assert "ppo: goes on from step 2" in done.stdout
        assert_ran_on_the_device(run, stages, torch.float16)


LEAN = """
import pretended_cuda
import sys
from kit.models.host_embedding import HostEmbedding

forward = HostEmbedding.forward
def told(self, ids):
    found = forward(self, ids)
    print("looked up:", ids.device, self.table.device, found.device)
    return found

HostEmbedding.forward = told
pretended_cuda.main(*sys.argv[1:])
"""


class TestALeanRun:
    def test_looks_the_embedding_up_on_the_host(self, python, untied, tmp_path):
        stages = ["sft", "reward", "ppo", "grpo"]
        file = config(tmp_path, untied, stages=stages, memory="lean")
        done = python("-c", LEAN, "modern", "run", file)
        assert done.returncode == 0, done.stderr
        assert {line for line in done.stdout.splitlines() if "looked up" in line} == {"looked up: cuda:0 cpu cuda:0"}
        assert "gradient checkpointing; " in done.stdout
        assert_ran_on_the_device(tmp_path / "runs" / "toy", stages, torch.bfloat16)
