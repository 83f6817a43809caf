"""`kit plan`: what it predicts, what it proposes, what it refuses, and how long a person waits for it."""

import json
import re
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import kit
from kit.cli import app
from kit.config import Config
from kit.config_file import load_config
from kit.errors import ConfigError, MachineError
from kit.models.plan.advice import leanest
from kit.models.plan.card import GIB, find_card, named_card
from kit.models.plan.choice import choose, largest_micro_batch, largest_rollout_batch, on_gpu
from kit.models.plan.memory import Arithmetic, cache_bytes
from kit.models.plan.planner import base_shape, check_fits, plan
from kit.models.plan.stages import Sizes, stage_memory

ROOT = Path(__file__).resolve().parents[1]
CARDS = {"gpu-8gb": 8, "gpu-12gb": 12, "gpu-16gb-t4": 15, "gpu-24gb": 24}  # a T4 offers 15.0 GiB of its 16 GB
M24 = "mistralai/Mistral-Small-24B-Instruct-2501"
ALL = ["sft", "reward", "ppo", "rloo", "grpo", "dpo", "compare"]
STAGES = pytest.mark.parametrize("stage", ALL)


def config(base="Qwen/Qwen2.5-7B", **sections) -> Config:
    return Config(model={"base": base}, stages=sections.pop("stages", ALL), **sections)


CHECKPOINTED = Arithmetic(2, True, checkpointing=True)


def peak(made, stage, micro=1, rollout=8, how=CHECKPOINTED):
    return stage_memory(made, base_shape(made.model), stage, Sizes(micro, rollout, micro), how).peak


@pytest.fixture(autouse=True)
def no_gpu_here(monkeypatch):
    monkeypatch.setattr("kit.models.plan.planner.find_card", lambda: None)


class TestTheConfigsByCard:
    @pytest.mark.parametrize("name", CARDS)
    def test_leave_a_twentieth_of_their_card_free(self, name):
        (planned,) = plan(ROOT / "configs" / f"{name}.yaml", gpu_memory_gib=CARDS[name]).cards
        assert planned.fits and planned.spare >= 0.05

    @pytest.mark.parametrize("name", CARDS)
    def test_say_the_peak_that_is_predicted(self, name):
        file = ROOT / "configs" / f"{name}.yaml"
        (planned,) = plan(file, gpu_memory_gib=CARDS[name]).cards
        found = re.search(r"([\d.]+) GiB of GPU memory PREDICTED for (the comparison|\w+)", file.read_text())
        said = {"the comparison": "compare"}.get(found[2], found[2].lower())
        assert (float(found[1]), said) == (round(planned.peak.peak_bytes / GIB, 1), planned.peak.stage)

    @pytest.mark.parametrize("name", CARDS)
    def test_leave_every_size_to_the_plan(self, name):
        """It knows what is free on the card that is there; a desktop takes some of it."""
        made = kit.load_config(ROOT / "configs" / f"{name}.yaml")
        sizes = {getattr(made, stage).micro_batch_size for stage in made.stages if stage != "compare"}
        assert sizes | {made.ppo.rollout_batch_size} == {"auto"}

    @pytest.mark.parametrize("name, base", [("gpu-24gb", "24B"), ("gpu-8gb", "7B")])
    def test_hold_the_lean_command_for_a_larger_base(self, name, base):
        file = ROOT / "configs" / f"{name}.yaml"
        overrides = re.findall(r"(?:model|compare)\.\w+=\S+|memory=lean", file.read_text())
        (planned,) = plan(file, overrides, gpu_memory_gib=CARDS[name]).cards
        assert len(overrides) == 3 and base in overrides[0] and planned.spare >= 0.05


class TestThePredictedPeak:
    @STAGES
    def test_is_the_sum_of_its_items(self, stage):
        made = config()
        memory = stage_memory(made, base_shape(made.model), stage, Sizes(2, 16, 2), CHECKPOINTED)
        assert memory.peak == sum(memory.items.values()) and min(memory.items.values()) >= 0

    @STAGES
    def test_holds_every_pass(self, stage):
        made = config()
        memory = stage_memory(made, base_shape(made.model), stage, Sizes(2, 16, 2), CHECKPOINTED)
        static = sum(memory.static.values())
        assert all(static + sum(items.values()) <= memory.allocated for items in memory.passes.values())

    @STAGES
    @given(micro=st.integers(1, 16), rollout=st.integers(1, 64))
    @settings(max_examples=20)
    def test_never_falls_with_larger_batches(self, stage, micro, rollout):
        made = config()
        assert peak(made, stage, micro, rollout) <= peak(made, stage, micro + 1, rollout + 1)

    @STAGES
    def test_grows_with_the_rank(self, stage):
        assert peak(config(), stage) < peak(config(lora={"rank": 64}), stage)

    @STAGES
    def test_grows_with_the_text(self, stage):
        assert peak(config(), stage) < peak(config(data={"max_prompt_tokens": 1024}), stage)

    def test_of_one_shared_base_is_ppos_whatever_its_roles(self):
        """Policy, reference, reward and critic add adapters, not weights."""
        made = config()
        names = ("4-bit linears", "embeddings, head, norms")
        shape = base_shape(made.model)
        sft, ppo = (stage_memory(made, shape, stage, Sizes(1, 1, 1), CHECKPOINTED).static for stage in ("sft", "ppo"))
        assert [sft[name] for name in names] == [ppo[name] for name in names]
        assert ppo["adapters (4)"] == 3 * sft["adapters (1)"]  # the two frozen ones have 16 bits

    def test_of_ppo_has_two_heads_of_which_one_is_trained(self):
        made = config()
        shape = base_shape(made.model)
        static = stage_memory(made, shape, "ppo", Sizes(1, 1, 1), CHECKPOINTED).static
        assert static["score and value heads"] == 2 * 4 * shape.hidden
        assert static["optimizer"] == 8 * (2 * shape.adapter(made.lora.rank) + shape.hidden)

    def test_of_keys_and_values_counts_a_sliding_window(self):
        """Gemma 3 1B: 22 of 26 layers keep 512 tokens, one head of 256 units each."""
        shape = base_shape(config("google/gemma-3-1b-pt").model)
        found = cache_bytes(shape, Arithmetic(2, True, True), rows=3, tokens=1024)
        assert found == 3 * 2 * 2 * 256 * (4 * 1024 + 22 * 512)

    def test_is_smaller_with_a_shared_critic(self):
        assert peak(config(ppo={"critic": "shared"}), "ppo") < peak(config(), "ppo")

    @pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "rloo", "grpo", "dpo"])
    def test_is_smaller_with_every_lean_setting(self, stage):
        full = peak(config(), stage, 4, 1, Arithmetic(2, True, checkpointing=False))
        for how in (CHECKPOINTED, replace(CHECKPOINTED, optim_8bit=True),
                    replace(CHECKPOINTED, optim_8bit=True, host_embedding=True),
                    replace(CHECKPOINTED, optim_8bit=True, host_embedding=True, trained=2)):  # fmt: skip
            less = peak(config(), stage, 4, 1, how)
            assert less < full
            full = less

    def test_keeps_an_embedding_that_is_the_head_too_on_the_device(self):
        tied, untied = (config(f"Qwen/Qwen2.5-{size}") for size in ("1.5B", "7B"))
        on_host = replace(CHECKPOINTED, host_embedding=True)
        assert peak(tied, "sft", how=on_host) == peak(tied, "sft")
        shape = base_shape(untied.model)
        saved = peak(untied, "sft") - peak(untied, "sft", how=on_host)
        assert saved == pytest.approx(1.05 * 2 * shape.vocab * shape.hidden, rel=1e-6)

    def test_of_a_rollout_has_the_prompts_in_pieces(self):
        """64 prompts of 512 tokens go through the model 64 columns at a time."""
        made = config()
        memory = stage_memory(made, base_shape(made.model), "ppo", Sizes(1, 64, 1), CHECKPOINTED)
        shape = base_shape(made.model)
        assert memory.passes["prompts"]["prompt pass"] < 2 * 4096 * (4 * shape.intermediate + 4.5 * shape.hidden) * 1.01

    def test_of_16_bits_has_four_times_the_linear_layers(self):
        made = config()
        shape, sizes = base_shape(made.model), Sizes(1, 1, 1)
        four = stage_memory(made, shape, "sft", sizes, Arithmetic(2, True, True)).static["4-bit linears"]
        sixteen = stage_memory(made, shape, "sft", sizes, Arithmetic(2, False, True)).static["linears"]
        assert sixteen / four == pytest.approx(16 / 4.127, rel=0.01)

    def test_of_a_7_b_base_is_that_of_the_byte_formula(self):
        """5.55 GB: the formula's table for Qwen2.5-7B."""
        static = stage_memory(config(), base_shape(config().model), "sft", Sizes(1), CHECKPOINTED).static
        assert sum(v for k, v in static.items() if k[:2] in ("4-", "em")) == pytest.approx(5.55e9, rel=0.005)

    def test_of_sft_is_near_published_measurements(self):
        """Llama-3.1-8B, QLoRA, one row: torchtune's table has 7.4 GiB on a 4090; ours counts CUDA's context too."""
        made = config("meta-llama/Llama-3.1-8B")
        assert peak(made, "sft") / GIB == pytest.approx(7.4, rel=0.1)


class TestTheLargestSizes:
    """`auto` fills nine tenths of the card: as close as a prediction hopes to be."""

    @pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "rloo", "grpo", "dpo"])
    @given(gib=st.floats(1, 40))
    @settings(max_examples=20)
    def test_a_micro_batch_divides_the_batch_and_the_next_does_not_fit(self, stage, gib):
        made = config()
        shape, free, batch = base_shape(made.model), int(gib * GIB), getattr(made, stage).batch_size
        found = largest_micro_batch(made, shape, stage, free, CHECKPOINTED)
        most = 4096 // (2048 if stage in ("reward", "dpo") else 1024)
        assert found <= most and (found == 0 or batch % found == 0)
        following = min((n for n in range(found + 1, most + 1) if batch % n == 0), default=None)
        if following:
            assert peak(made, stage, following, 1) > 0.9 * free

    @pytest.mark.parametrize("stage", ["ppo", "rloo", "compare"])
    @given(gib=st.floats(6, 24))
    @settings(max_examples=20)
    def test_a_rollout_batch_fits_and_one_more_does_not(self, stage, gib):
        made = config()
        shape, free = base_shape(made.model), int(gib * GIB)
        found = largest_rollout_batch(made, shape, stage, free, CHECKPOINTED)
        whole = {"ppo": 64, "rloo": 16, "compare": 256}[stage]
        if 0 < found < whole:
            assert peak(made, stage, 1, found + 1) > 0.9 * free
        if found:
            assert stage != "compare" or peak(made, stage, 0, found) <= 0.9 * free

    def test_longer_rows_leave_room_for_fewer(self):
        made = config()
        shape = base_shape(made.model)
        sizes = [largest_micro_batch(made, shape, "sft", 24 * GIB, CHECKPOINTED, longest=n) for n in (64, 512, 2048)]
        assert sizes == [32, 8, 2]

    def test_are_what_auto_takes(self):
        made, shape = config(), base_shape(config().model)
        found = choose(made, shape, "ppo", 12 * GIB, on_gpu(made))
        assert found.sizes.micro == largest_micro_batch(made, shape, "ppo", 12 * GIB, found.how)
        assert found.sizes.rollout == largest_rollout_batch(made, shape, "ppo", 12 * GIB, found.how)

    def test_are_1_where_nothing_fits(self):
        made = config()
        found = choose(made, base_shape(made.model), "ppo", 0, on_gpu(made)).sizes
        assert (found.micro, found.rollout, found.scoring) == (1, 1, 1)

    def test_that_are_set_are_taken_as_they_are(self):
        made = config(ppo={"micro_batch_size": 8, "rollout_batch_size": 5, "scoring_batch_size": 3})
        found = choose(made, base_shape(made.model), "ppo", 0, on_gpu(made)).sizes
        assert (found.micro, found.rollout, found.scoring) == (8, 5, 3)

    def test_of_a_config_that_says_auto_fit_a_card_that_can_hold_it(self):
        made = config(stages=["sft", "reward", "ppo", "dpo"])
        assert plan(made, gpu_memory_gib=12).fits


class TestWhatMemoryIsSpentOn:
    """`memory: lean | balanced | fast`"""

    @staticmethod
    def chosen(memory, gib, stage="sft", base="Qwen/Qwen2.5-7B", **sections):
        made = config(base, memory=memory, **sections)
        return choose(made, base_shape(made.model), stage, int(gib * GIB), on_gpu(made))

    def test_balanced_checkpoints_where_its_micro_batch_would_not_fit_without(self):
        small, large = self.chosen("balanced", 12), self.chosen("balanced", 80)
        assert small.how.checkpointing and not large.how.checkpointing
        assert small.sizes == large.sizes

    def test_fast_has_a_smaller_micro_batch_before_it_checkpoints(self):
        fast, balanced = self.chosen("fast", 20), self.chosen("balanced", 20)
        assert not fast.how.checkpointing and balanced.how.checkpointing
        assert fast.sizes.micro < balanced.sizes.micro
        assert self.chosen("fast", 8).how.checkpointing

    def test_fast_trains_on_more_rows_at_once_where_they_fit(self):
        assert self.chosen("fast", 200).sizes.micro == 16 and self.chosen("balanced", 200).sizes.micro == 4

    def test_lean_always_checkpoints_with_moments_in_8_bits_and_the_embedding_on_the_host(self):
        how = self.chosen("lean", 80).how
        assert (how.checkpointing, how.optim_8bit, how.host_embedding) == (True, True, True)
        how = self.chosen("balanced", 80).how
        assert (how.checkpointing, how.optim_8bit, how.host_embedding) == (False, False, False)

    @pytest.mark.parametrize("memory", ["lean", "balanced", "fast"])
    @pytest.mark.parametrize("asked", [True, False])
    def test_what_the_config_says_of_checkpointing_is_taken_as_it_is(self, memory, asked):
        for name in ("gradient_checkpointing", "activation_checkpointing"):
            assert self.chosen(memory, 12, sft={"trl": {name: asked}}).how.checkpointing is asked

    @STAGES
    def test_never_makes_a_leaner_set_need_more(self, stage):
        lean, balanced, fast = (
            peak(config(), stage, 4, 8, self.chosen(memory, 16, stage).how) for memory in ("lean", "balanced", "fast")
        )
        assert lean <= balanced <= fast


class TestAConfigThatDoesNotFit:
    def test_gets_changes_after_which_it_does(self):
        source = ROOT / "configs" / "gpu-12gb.yaml"
        (planned,) = plan(source, gpu_memory_gib=7.5).cards
        assert not planned.fits and planned.possible and planned.changes
        overrides = [text for change in planned.changes for text in change.settings]
        assert plan(source, overrides, gpu_memory_gib=7.5).fits

    def test_gets_no_change_that_is_not_needed(self):
        source = ROOT / "configs" / "gpu-12gb.yaml"
        (planned,) = plan(source, gpu_memory_gib=7.5).cards
        overrides = [text for change in planned.changes[:-1] for text in change.settings]
        assert not plan(source, overrides, gpu_memory_gib=7.5).fits

    def test_gets_first_what_costs_time_alone(self):
        (planned,) = plan(ROOT / "configs" / "gpu-12gb.yaml", gpu_memory_gib=7.5).cards
        order = ["time alone" in change.costs for change in planned.changes]
        assert order[0] and all(change.saves_bytes > 0 for change in planned.changes)

    def test_gets_changes_that_a_config_takes(self):
        made = Config(
            model={"base": "Qwen/Qwen2.5-3B", "quantization": "none"}, sft={"trl": {"gradient_checkpointing": False}}
        )  # fmt: skip
        (planned,) = plan(made, gpu_memory_gib=4).cards
        overrides = [text for change in planned.changes for text in change.settings]
        assert "model.quantization=nf4" in overrides and "sft.trl.gradient_checkpointing=true" in overrides
        assert load_config(made, overrides).sft.trl["gradient_checkpointing"] is True


class TestAModelThatCannotFit:
    def test_is_refused_with_what_would_fit(self):
        (planned,) = plan(config(M24), gpu_memory_gib=8).cards
        assert not planned.possible and planned.instead
        names = [text.split()[0] for text in planned.instead]
        assert plan(config(names[0]), gpu_memory_gib=8).fits
        lean = config(names[-1])
        assert max(memory.peak for memory in leanest(lean, base_shape(lean.model))) <= 8 * GIB

    def test_is_refused_by_the_check_with_a_reason(self):
        made = config(M24)
        with pytest.raises(
            MachineError, match=r"GiB needed, 8\.0 GiB there\. No setting makes it fit\. What would fit: "
        ):
            check_fits(made, base_shape(made.model), named_card(8))

    def test_is_refused_in_seconds_from_the_shell_without_torch(self, tmp_path):
        code = "import sys, kit.cli\ntry:\n    kit.cli.main()\nfinally:\n    assert 'torch' not in sys.modules"
        command = [
            sys.executable,
            "-c",
            code,
            "plan",
            "configs/quickstart.yaml",
            f"model.base={M24}",
            "--gpu-memory-gib",
            "8",
        ]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "What would fit" in done.stdout and not done.stderr
        assert time.perf_counter() - started < 5  # 0.5 s of work; a busy machine is no failure


class TestTheCommand:
    @staticmethod
    def run(*words):
        return CliRunner().invoke(app, ["plan", *words])

    def test_fits_a_terminal_of_80_columns(self):
        done = self.run(str(ROOT / "configs" / "gpu-12gb.yaml"), "--gpu-memory-gib", "8")
        assert max(map(len, done.output.splitlines())) <= 80

    def test_says_that_nothing_was_measured(self):
        assert "predicted" in self.run(str(ROOT / "configs" / "gpu-12gb.yaml")).output.replace("\n", " ")
        assert "not measured on a GPU" in self.run(str(ROOT / "configs" / "gpu-12gb.yaml")).output.replace("\n", " ")

    def test_shows_each_stage_and_the_common_cards_where_there_is_no_gpu(self):
        output = self.run(str(ROOT / "configs" / "gpu-12gb.yaml")).output
        assert all(re.search(rf"^{stage} ", output, re.M) for stage in ("sft", "reward", "ppo", "dpo", "compare"))
        assert all(f"{gib} GiB" in output for gib in (8, 12, 16, 24))

    def test_speaks_json(self):
        found = json.loads(self.run(str(ROOT / "configs" / "gpu-12gb.yaml"), "--gpu-memory-gib", "12", "--json").output)
        (card,) = found["cards"]
        assert card["fits"] and card["bytes"] == 12 * GIB
        for stage in card["stages"].values():
            assert stage["peak_bytes"] == sum(stage["items"].values())

    def test_exits_with_2_where_the_config_does_not_fit(self):
        words = str(ROOT / "configs" / "gpu-24gb.yaml"), "--gpu-memory-gib"
        assert [self.run(*words, gib).exit_code for gib in ("24", "12")] == [0, 2]

    @pytest.mark.parametrize("gib", ["0", "-3", "nan"])
    def test_refuses_a_card_of_nothing(self, gib):
        with pytest.raises(ConfigError, match="number of GiB above 0"):
            plan(config(), gpu_memory_gib=float(gib))

    def test_is_a_function_too(self):
        assert kit.plan(config(), gpu_memory_gib=24).cards[0].card.gib == 24


class TestTheCardThatIsHere:
    @staticmethod
    def pretend(tmp_path, monkeypatch, text):
        file = tmp_path / "nvidia-smi"
        file.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{text}\n')
        file.chmod(file.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr("kit.models.plan.card.first_device", lambda: None)

    def test_has_the_memory_that_is_free(self, tmp_path, monkeypatch):
        self.pretend(tmp_path, monkeypatch, "echo '11000, NVIDIA GeForce RTX 3060'")
        card = find_card()
        assert (card.name, card.bytes) == ("NVIDIA GeForce RTX 3060", 11000 * 2**20)

    def test_is_the_first_visible_one(self, tmp_path, monkeypatch):
        self.pretend(tmp_path, monkeypatch, "echo '11000, X'")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
        assert find_card() and "--id=2" in (tmp_path / "asked").read_text()

    @pytest.mark.parametrize("text", ["exit 9", "echo 'No devices were found'", "echo '[N/A], X'"])
    def test_is_none_where_the_driver_gives_no_number(self, tmp_path, monkeypatch, text):
        self.pretend(tmp_path, monkeypatch, text)
        assert find_card() is None

    def test_is_none_where_all_are_hidden(self, tmp_path, monkeypatch):
        self.pretend(tmp_path, monkeypatch, "echo '11000, X'")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert find_card() is None

    def test_is_planned_for(self, monkeypatch):
        monkeypatch.setattr("kit.models.plan.planner.find_card", lambda: named_card(11))
        assert [planned.card.gib for planned in plan(config()).cards] == [11]
