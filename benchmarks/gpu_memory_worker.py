"""One case of benchmarks/gpu_memory.py, in a process of its own: `python benchmarks/gpu_memory_worker.py JSON`.

The JSON holds the case, its stages, a folder to work in, and whether no other case runs beside it. Each line printed is
JSON: first the device, then each stage with its seconds and the bytes at its peak, or why there are none.

The stages are the kit's own functions, on what benchmarks/gpu_memory_models.py makes.
"""

import gc
import json
import sys
import time
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu_memory_cases import OUT_OF_MEMORY, Case, config_of
from gpu_memory_models import random_base, random_data, random_weights
from torch.profiler import ProfilerActivity, profile
from transformers import set_seed

from kit import notices
from kit.compare.stage import compare_arms
from kit.models.device import reset_peak_memory
from kit.models.plan.card import GIB, find_card
from kit.models.plan.memory import CONTEXT_BYTES
from kit.runs.checkpoints import Checkpoints
from kit.runs.folder import StageRecord
from kit.stages.dpo import train_dpo
from kit.stages.online import train_grpo, train_rloo
from kit.stages.ppo import train_ppo
from kit.stages.progress import StageProgress
from kit.stages.reward import train_reward
from kit.stages.sft import train_sft

NEEDS = {"sft": (), "reward": ("sft",), "dpo": ("sft",)}  # the others need both adapters
OPTIMISED = ("ppo", "dpo", "rloo", "grpo")  # the first that was trained is compared with SFT


# ---- bytes ------------------------------------------------------------------------------------------------------


def emulate_card(card_gib: float) -> None:
    """Make torch fail beyond a card's memory less CUDA's context."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (card_gib * GIB - CONTEXT_BYTES) / total))


class Meter:
    """The bytes of a stage at its peak, from `start`, and those that the stages before it had left.

    `tensor_bytes` is what torch gave out, `reserved_bytes` what it took from the device for that, `outside_bytes` what
    the process held besides: CUDA's context and kernels, and paged memory. The latter is known where the process is
    alone on the device and nvidia-smi answers. On a CPU torch's profiler sees what torch gave out.
    """

    def __init__(self, cuda: bool, alone: bool) -> None:
        card = find_card() if cuda and alone else None
        self.cuda, self.free_before = cuda, card and card.bytes
        self.outside: int | None = None
        self.steps = self.left = 0
        self.record: Any = None

    def start(self) -> None:
        reset_peak_memory()
        self.outside, self.steps = None, 0
        if not self.cuda:
            gc.collect()
            self.record = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.record.__enter__()
        else:
            self.left = torch.cuda.memory_allocated()

    def look(self) -> None:
        """Note what the process holds at the moment; torch's own numbers need no looking."""
        if self.free_before is not None:
            held = self.free_before - torch.cuda.mem_get_info()[0]
            self.outside = max(self.outside or 0, held - torch.cuda.memory_reserved())

    def read(self) -> dict[str, int | None]:
        if not self.cuda:
            self.record.__exit__(None, None, None)
            return {"tensor_bytes": _most_at_once(self.record), "reserved_bytes": None, "outside_bytes": None}
        self.look()
        return {
            "tensor_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved(),
            "outside_bytes": self.outside, "left_bytes": self.left,
        }  # fmt: skip


def _most_at_once(record: Any) -> int:
    live = most = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


def watching(meter: Meter) -> type:
    """The stages' progress, which looks at the meter, and has AdamW's moments made before the first step.

    So a stage is measured as it is from its second step on, and PPO's first rollout as every later one: one step on
    gradients of zero makes the moments, and moves nothing.
    """

    class Watched(StageProgress):
        def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **more: Any) -> None:
            super().on_train_begin(args, state, control, **more)
            while hasattr(optimizer, "optimizer"):
                optimizer = optimizer.optimizer
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            super().on_step_end(args, state, control, **more)
            meter.steps += 1
            meter.look()

    return Watched


# ---- the stages -------------------------------------------------------------------------------------------------


class Runner:
    """Runs the stages of a case, one after the other in this process, as a pipeline does."""

    def __init__(self, case: Case, stages: list[str], folder: Path, meter: Meter) -> None:
        self.case, self.folder, self.meter = case, folder, meter
        self.config = config_of(case, stages)
        (folder / "base").mkdir()
        self.base = random_base(case, self.config, folder / "base")
        self.data = random_data(case, self.base.codec)
        self.done: dict[str, StageRecord] = {}

    def measure(self, stage: str) -> dict[str, Any]:
        """The stage's seconds and bytes, with an `error` that says why it never came to its peak. A `note` is what
        stopped it after a whole optimizer step: by then it had been there."""
        missing = [need for need in NEEDS.get(stage, ("sft", "reward")) if need not in self.done]
        if missing:
            return {"error": f"needs {', '.join(missing)}"}
        started = time.monotonic()
        self.meter.start()
        error = self._run(stage)
        found = {"seconds": round(time.monotonic() - started, 1), **self.meter.read()}
        late = self.meter.steps > 0 and error != OUT_OF_MEMORY
        return {**found, "note" if late else "error": error} if error else found

    def _run(self, stage: str) -> str | None:
        """Run the stage; what went wrong, in a line. No traceback is kept: it would hold the model's tensors."""
        out = self.folder / stage
        out.mkdir()
        try:
            set_seed(0)
            with patch("kit.stages.progress.StageProgress", watching(self.meter)), notices.quiet_libraries():
                metrics = self._function(stage, out).metrics
        except Exception as error:  # whatever it is, the other stages are measured
            if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error):  # cuBLAS words it so
                return OUT_OF_MEMORY
            traceback.print_exc(file=sys.stderr)
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        self.done[stage] = StageRecord(stage, out, {}, 0.0, None, metrics)
        return None

    def _function(self, stage: str, out: Path) -> Any:
        common, at = (self.config, self.data, self.base, out), {name: made.path for name, made in self.done.items()}
        checkpoints = Checkpoints(out / "checkpoints")
        if stage == "sft":
            return train_sft(*common, checkpoints)
        if stage == "reward":
            return train_reward(self.config, self.data.pairs, self.base, out, at["sft"], checkpoints)
        if stage == "dpo":
            return train_dpo(*common, at["sft"], checkpoints)
        if stage == "compare":
            return compare_arms(*common, self._compared(), self.folder / "before")
        train = {"ppo": train_ppo, "rloo": train_rloo, "grpo": train_grpo}[stage]
        return train(*common, at["sft"], at["reward"], checkpoints)

    def _compared(self) -> dict[str, StageRecord]:
        """SFT and one more arm, and the reward model twice: as the proxy, and as the judge of a run on real data."""
        second = [stage for stage in OPTIMISED if stage in self.done][:1]
        found = {name: self.done[name] for name in ("sft", "reward", *second)}
        return found | {"judge": self.done["reward"]}


# ---- the command ------------------------------------------------------------------------------------------------


def main() -> int:
    task, out = json.loads(sys.argv[1]), sys.stdout

    def tell(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=out, flush=True)

    case, folder = Case(**task["case"]), Path(task["folder"])
    cuda = not case.on_cpu
    if cuda and not torch.cuda.is_available():
        print("no CUDA GPU here: --toy runs on a CPU, --predict-only needs neither", file=sys.stderr)
        return 2
    meter = Meter(cuda, task["alone"])
    if cuda:
        emulate_card(task["card_gib"] or case.card_gib)
    tell({"device": torch.cuda.get_device_name() if cuda else "CPU"})
    with redirect_stdout(sys.stderr), random_weights(folder / "base"):  # trainers print their logs
        runner = Runner(case, task["stages"], folder, meter)
        for stage in task["stages"]:
            tell({"stage": stage, **runner.measure(stage)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
