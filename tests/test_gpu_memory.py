"""benchmarks/gpu_memory.py without a GPU: its toy run, its tables on made-up numbers, and docs/benchmarks.md.

A toy's SFT and DPO take more on a CPU than a GPU's plan says: without Triton TRL's head is not cut into tiles.
"""

import importlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from plan_toy import allocations, static_bytes

from kit.models.plan.planner import base_shape

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "gpu_memory.py")]
GIB = 2**30


@pytest.fixture(scope="module")
def bench():
    """The modules of the benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        names = ("gpu_memory", "gpu_memory_cases", "gpu_memory_page", "gpu_memory_models", "gpu_memory_worker")
        yield SimpleNamespace(**{name.removeprefix("gpu_memory_"): importlib.import_module(name) for name in names})


def lines(text, first):
    """The cells of the table's lines whose first cell begins with one of `first`: a model, perhaps with its lengths."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [cells for cells in found if cells[0].partition(",")[0] in first]


def told(tensors_gib, reserved_gib, outside_gib, **more):
    """What a worker tells of a stage."""
    sizes = {"tensor_bytes": tensors_gib, "reserved_bytes": reserved_gib, "outside_bytes": outside_gib}
    return {"seconds": 60.0} | {name: gib and round(gib * GIB) for name, gib in sizes.items()} | more


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The toys, measured by the command."""
    place = tmp_path_factory.mktemp("toy")
    files = ["--out", str(place / "out.json"), "--page", str(place / "page.md")]
    done = subprocess.run([*COMMAND, "--toy", *files], capture_output=True, text=True, cwd=place)
    return SimpleNamespace(done=done, place=place, found=json.loads((place / "out.json").read_text())["cases"])


@pytest.mark.pipeline
class TestTheToyRun:
    def test_measures_every_stage_of_every_toy(self, run, bench):
        assert run.done.returncode == 0, run.done.stderr[-3000:]
        told = [(name, stage) for name, one in run.found.items() for stage in one["stages"]]
        assert sorted(told) == sorted((case.name, stage) for case in bench.cases.TOYS for stage in bench.cases.STAGES)
        assert [s for one in run.found.values() for s in one["stages"].values() if "error" in s or "note" in s] == []

    def test_prints_what_it_found(self, run, bench):
        printed = lines(run.done.stdout, {"toy", "toy-lean"})
        assert [[line[0].partition(",")[0], line[1]] for line in printed[-10:]] == [
            [c.name, s] for c in bench.cases.TOYS for s in bench.cases.STAGES
        ]
        assert all(float(line[5]) > 0 for line in printed[-10:])

    def test_writes_the_page_where_it_is_told(self, run):
        assert (
            lines((run.place / "page.md").read_text(), {"toy", "toy-lean"})
            == lines(run.done.stdout, {"toy", "toy-lean"})[-10:]
        )

    def test_finds_what_the_plan_says(self, run, bench):
        """A lean card keeps on the host, or in 16 bits, what a CPU cannot."""
        for case in bench.cases.TOYS:
            plan, most = bench.cases.predicted(case), 1.6 if case.lean else 1.25
            for stage, found in run.found[case.name]["stages"].items():
                share = found["tensor_bytes"] / plan[stage].allocated
                assert 0.75 < share < (4 if stage in ("sft", "dpo") else most), (case.name, stage, share)


class TestRandomWeights:
    def test_are_loaded_by_the_kit_a_tensor_at_a_time(self, bench, tmp_path):
        """At no time are there more bytes than those of the 4-bit model and its largest tensor in full, twice."""
        case = bench.cases.TOYS[0]
        with bench.models.random_weights(tmp_path):
            base = bench.models.random_base(case, bench.cases.config_of(case), tmp_path)
            with allocations() as seen:
                model = base.causal_lm()
        largest = max(p.nbytes for p in model.parameters())
        assert static_bytes(model) < seen.peak < static_bytes(model) + 2 * largest
        assert model.is_loaded_in_4bit and model.config.vocab_size == case.config_json["vocab_size"]
        assert seen.peak < 0.75 * 4 * bench.cases.shape(case).parameters

    def test_have_the_shape_of_the_plan_in_the_folder_they_are_loaded_from(self, bench, tmp_path):
        for case in bench.cases.CASES:
            place = tmp_path / case.name
            place.mkdir()
            base = bench.models.random_base(case, bench.cases.config_of(case), place)
            settings = base.settings.model_copy(update={"base": str(place)})
            assert base_shape(settings) == bench.cases.shape(case), case.name

    def test_are_those_of_a_checkpoint_for_every_model_of_the_cases(self, bench):
        """Names and sizes as transformers has them, counted as the planner counts them."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        for case in bench.cases.CASES:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**case.config_json))
            assert sum(p.numel() for p in model.parameters()) == bench.cases.shape(case).parameters, case.name


class TestOnACard:
    """What needs a GPU, with its numbers made up."""

    @pytest.fixture
    def cuda(self, bench, monkeypatch):
        """A card of 100 GiB with 90 free before the process; it holds 8 of them, 6 of these for torch."""
        import torch

        said = SimpleNamespace(share=None)
        numbers = {"memory_reserved": 6, "max_memory_reserved": 7, "max_memory_allocated": 5, "memory_allocated": 1}
        for name, gib in numbers.items():
            monkeypatch.setattr(torch.cuda, name, lambda gib=gib: gib * GIB)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=100 * GIB))
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: setattr(said, "share", share))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (82 * GIB, 100 * GIB))
        monkeypatch.setattr(bench.worker, "reset_peak_memory", lambda: None)
        monkeypatch.setattr(bench.worker, "find_card", lambda: SimpleNamespace(bytes=90 * GIB))
        return said

    def test_torch_gets_the_card_less_the_context(self, bench, cuda):
        bench.worker.emulate_card(12)
        left = 12 * GIB - bench.worker.CONTEXT_BYTES
        assert cuda.share == pytest.approx(left / (100 * GIB))

    @pytest.mark.parametrize("alone, outside", [(True, 2 * GIB), (False, None)])
    def test_what_lies_outside_of_torch_is_known_where_the_process_is_alone(self, bench, cuda, alone, outside):
        meter = bench.worker.Meter(cuda=True, alone=alone)
        meter.start()
        assert meter.read() == {
            "tensor_bytes": 5 * GIB, "reserved_bytes": 7 * GIB, "outside_bytes": outside, "left_bytes": GIB,
        }  # fmt: skip


class TestTheMoments:
    def test_are_there_before_the_first_step_and_move_nothing(self, bench, tmp_path):
        import torch

        weights = [torch.nn.Parameter(torch.randn(3))]
        before, optimizer = weights[0].detach().clone(), torch.optim.AdamW(weights, weight_decay=0.0)
        wrapped = SimpleNamespace(optimizer=optimizer)  # as accelerate does
        watched = bench.worker.watching(bench.worker.Meter(cuda=False, alone=True))("sft", tmp_path)
        watched.on_train_begin(None, SimpleNamespace(max_steps=1), None, optimizer=wrapped)
        assert {"exp_avg", "exp_avg_sq"} <= set(optimizer.state[weights[0]])
        assert torch.equal(weights[0], before) and weights[0].grad is None


class TestAStageThatFails:
    @pytest.mark.parametrize(
        "error, steps, said", [("KitError: x", 0, "error"), ("KitError: x", 1, "note"), ("out of memory", 1, "error")]
    )
    def test_has_been_at_its_peak_after_a_step(self, bench, monkeypatch, error, steps, said):
        runner = bench.worker.Runner.__new__(bench.worker.Runner)
        runner.done, runner.meter = {}, SimpleNamespace(steps=steps, start=lambda: None, read=lambda: {})
        monkeypatch.setattr(runner, "_run", lambda stage: error)
        assert runner.measure("sft")[said] == error

    def test_leaves_out_those_that_need_it(self, bench):
        runner = bench.worker.Runner.__new__(bench.worker.Runner)
        runner.done = {"sft": None}
        assert runner.measure("ppo") == {"error": "needs reward"}


class TestAProcessThatEnds:
    WORKER = """
import sys, time
print("what a library says")
print('{"device": "A card"}')
print('{"stage": "sft", "seconds": 1, "tensor_bytes": 5}', flush=True)
"""

    def run(self, bench, monkeypatch, root, end, minutes=1.0):
        (root / "benchmarks").mkdir()
        (root / "benchmarks" / "gpu_memory_worker.py").write_text(self.WORKER + end)
        monkeypatch.setattr(bench.gpu_memory, "ROOT", root)
        made, seen = bench.gpu_memory.Bench(["sft", "ppo"], minutes, None), []
        made.run(bench.cases.CASES[:2], 1, lambda: seen.append(list(made.found)))
        assert seen == [["0.5B"], ["0.5B", "1.5B"]]  # the tables come after every case
        return made.found

    def test_keeps_what_it_told_and_lets_the_others_run(self, bench, monkeypatch, tmp_path):
        found = self.run(bench, monkeypatch, tmp_path, "sys.exit(3)")
        for name in ("0.5B", "1.5B"):
            assert found[name]["stages"]["sft"]["tensor_bytes"] == 5 and found[name]["device"] == "A card"
            assert found[name]["stages"]["ppo"] == {"error": "the process ended with code 3"}

    def test_is_stopped_when_the_minutes_are_over(self, bench, monkeypatch, tmp_path):
        found = self.run(bench, monkeypatch, tmp_path, "time.sleep(60)", minutes=0.03)
        assert found["0.5B"]["stages"]["ppo"] == {"error": bench.gpu_memory.OUT_OF_TIME}
        assert found["1.5B"]["stages"]["sft"] == {"error": bench.gpu_memory.OUT_OF_TIME}


class TestRows:
    def test_are_as_long_as_the_case_says(self, bench, tmp_path):
        case = bench.cases.TOYS[0]
        base = bench.models.random_base(case, bench.cases.config_of(case), tmp_path)
        data, whole = bench.models.random_data(case, base.codec), case.prompt_tokens + case.response_tokens
        assert {len(row["input_ids"]) for row in data.sft.train} == {whole}
        sizes = {(len(p["prompt_ids"]), len(p["chosen_ids"]), len(p["rejected_ids"])) for p in data.pairs.train}
        assert sizes == {(case.prompt_tokens, case.response_tokens, case.response_tokens)}
        prompts = [*data.prompts.train, *data.prompts.held_out]
        assert {len(base.codec.prompt(prompt.messages)) for prompt in prompts} == {case.prompt_tokens}


class TestMeasured:
    @pytest.fixture
    def case(self, bench):
        return bench.cases.CASES[0]

    def row(self, bench, case, **stages):
        table = bench.page.rows([case], {case.name: {"case": asdict(case), "stages": stages}})
        return {row.stage: row for row in table}

    def test_error_is_the_prediction_less_what_was_measured(self, bench, case):
        plan = bench.cases.predicted(case)["ppo"]
        found = told(plan.allocated / GIB / 1.25, plan.peak / GIB / 2 - 0.5, 0.5)
        assert self.row(bench, case, ppo=found)["ppo"].cells[-3:-1] == ["+25%", "+100%"]

    def test_card_is_what_torch_reserved_and_what_lies_outside(self, bench, case):
        assert self.row(bench, case, ppo=told(1, 1.5, 0.75))["ppo"].cells[5:7] == ["1.00", "2.25"]

    def test_case_that_shared_the_device_has_the_context_of_one_that_did_not(self, bench, case):
        rows = self.row(bench, case, sft=told(1, 1.5, 0.75), ppo=told(1, 2, None))
        assert rows["ppo"].card_measured == 2.75 * GIB

    def test_stage_that_did_not_fit_misses_its_goal(self, bench, case):
        rows = self.row(bench, case, ppo={"error": "out of memory", "seconds": 3.0, "tensor_bytes": 2 * GIB})
        assert rows["ppo"].cells[5] == "out of memory beyond 2.00"
        assert bench.page.goals(list(rows.values()))[0].met is False

    @pytest.mark.parametrize("card_gib, met", [(3.0, True), (3.01, False)])
    def test_goal_is_what_a_stage_holds_of_the_card(self, bench, case, card_gib, met):
        rows = self.row(bench, case, ppo=told(1, card_gib - 1, 1))
        assert bench.page.goals(list(rows.values()))[0].met is met

    @pytest.mark.parametrize("sft_gib, met", [(2.0, True), (1.9, False)])
    def test_ppo_may_take_a_quarter_more_than_sft(self, bench, case, sft_gib, met):
        rows = self.row(bench, case, sft=told(1, sft_gib - 1, 1), ppo=told(1, 1.5, 1))
        assert bench.page.goals(list(rows.values()))[1].met is met

    def test_shorter_responses_decide_no_goal(self, bench, case):
        short = replace(case, response_tokens=64)
        rows = bench.page.rows([case], {case.name: {"case": asdict(short), "stages": {"ppo": told(9, 9, 9)}}})
        whole = self.row(bench, case)["sft"]
        assert rows[0].cells[0] == "0.5B, 512 + 64 tokens" and rows[0].tensors_predicted < whole.tensors_predicted
        assert [goal.met for goal in bench.page.goals(rows) if "error" not in goal.text] == []

    def test_what_stopped_a_stage_after_its_peak_stands_below(self, bench, case):
        rows = self.row(bench, case, ppo=told(1, 1, 1, note="TrainingStopped: KL"))
        assert "- 0.5B ppo, after its peak: TrainingStopped: KL" in bench.page.tables(list(rows.values()))


class TestTheMinutes:
    def test_leave_the_rest_unmeasured(self, bench, tmp_path):
        place = tmp_path / "page.md"
        command = [*COMMAND, "--toy", "--minutes", "0", "--page", str(place), "--out", str(tmp_path / "out.json")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and not place.exists(), done.stderr
        assert {line[5] for line in lines(done.stdout, {"toy", "toy-lean"})[-10:]} == {bench.gpu_memory.OUT_OF_TIME}


class TestThePage:
    TEXT = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")

    def test_predicts_what_the_plan_predicts_today(self, bench):
        """Else write it anew: `python benchmarks/gpu_memory.py --predict-only`, with `--from` where it was measured."""
        names = {case.name for case in bench.cases.CASES}
        today = [row.cells[:5] for row in bench.page.rows(bench.cases.CASES, {})]
        assert [cells[:5] for cells in lines(self.TEXT, names)] == today

    def test_says_of_every_number_that_it_was_not_measured_where_none_was(self, bench):
        names = {case.name for case in bench.cases.CASES}
        unmeasured = {cells[5] for cells in lines(self.TEXT, names)} == {bench.page.NOT_MEASURED}
        assert unmeasured == ("Nothing on this page has been measured on a GPU" in self.TEXT)
        if unmeasured:
            assert bench.page.page(bench.cases.CASES, {}, None) == self.TEXT

    def test_is_written_anew_without_a_gpu(self, tmp_path):
        place = tmp_path / "page.md"
        done = subprocess.run([*COMMAND, "--predict-only", "--page", str(place)], capture_output=True, text=True)
        assert done.returncode == 0 and "# GPU memory" in place.read_text(), done.stderr
