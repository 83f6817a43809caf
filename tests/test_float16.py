"""Training as on a T4: float16 base, 4-bit or not, under float16 autocast with a gradient scaler; here on the CPU.

accelerate gives a CPU no scaler, so these tests hand it one; everything else is what a GPU runs but its kernels.
"""

import dataclasses
import json
import math

import accelerate
import pytest
import torch
import toy_stages
from safetensors.torch import load_file
from test_ppo_trainer import trainer as toy_trainer
from toy import QUESTIONS, adapters, toy_base
from toy_stages import Watched, toy_config, weights
from transformers import Gemma2Config, TrainerCallback
from trl import RLOOTrainer

from kit.compare.answers import distances, sample, score
from kit.config import ModelSettings
from kit.errors import TrainingStopped
from kit.models import base as bases
from kit.models.device import Precision
from kit.models.roles import policy_roles
from kit.ppo.head import Head
from kit.runs.folder import ADAPTER_FILE
from kit.stages import dpo, online, ppo, reward, sft

STEPS = {"batch_size": 2, "max_steps": 4, "learning_rate": 1e-3}
EPISODES = {"episodes": 16, "batch_size": 4, "learning_rate": 1e-3}
STAGES = {
    "train_sft": (sft, {"sft": STEPS}),
    "train_reward": (reward, {"reward": STEPS}),
    "train_dpo": (dpo, {"dpo": STEPS}),
    "train_ppo": (ppo, {"ppo": EPISODES | {"num_mini_batches": 2, "num_ppo_epochs": 2}}),
    "train_rloo": (online, {"rloo": EPISODES}),
}
AMPLE = 2.0**8  # a scale at which nothing of the toy overflows
float16 = pytest.mark.parametrize("nf4", [False, True], ids=["plain", "nf4"])


def half_base(nf4=False):
    return dataclasses.replace(toy_base(nf4), precision=Precision(torch.device("cpu"), torch.float16, nf4))


@pytest.fixture
def as_on_a_t4(monkeypatch):
    """Call it with the scaler's first scale."""

    def arrange(scale=AMPLE):
        of_accelerate = accelerate.Accelerator.__init__

        def with_scaler(self, *args, **kwargs):
            of_accelerate(self, *args, **kwargs)
            assert self.state.mixed_precision == "fp16"
            self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=scale)

        flags = {"use_cpu": True, "bf16": False, "fp16": True}
        monkeypatch.setattr(accelerate.Accelerator, "__init__", with_scaler)
        monkeypatch.setattr(Precision, "trainer_flags", property(lambda self: flags))
        monkeypatch.setattr(toy_stages, "toy_base", half_base)

    return arrange


def train(name, out, nf4=False, **more):
    module, sections = STAGES[name]
    return Watched(module, name, toy_config(**sections), out / "stage", nf4, **more)


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class TestAStage:
    @float16
    @pytest.mark.parametrize("name", STAGES)
    def test_learns_in_finite_numbers_with_float32_adapters_and_heads(self, as_on_a_t4, tmp_path, name, nf4):
        as_on_a_t4()
        stage = train(name, tmp_path, nf4)
        model = stage.trainer.model
        assert stage.trainer.accelerator.scaler.get_scale() == AMPLE  # no step was skipped
        assert {p.dtype for p in trained(model).values()} == {torch.float32}
        assert all(p.isfinite().all() for p in trained(model).values())
        moved = [n for n, p in trained(model).items() if not torch.equal(p, stage.weights[n])]
        assert len(moved) == len(trained(model))
        logged = [row[k] for row in stage.trainer.state.log_history for k in ("loss", "grad_norm") if k in row]
        assert logged and all(math.isfinite(number) for number in logged)
        assert {w.dtype for w in load_file(tmp_path / "stage" / ADAPTER_FILE).values()} == {torch.float32}

    @pytest.mark.parametrize("name", STAGES)
    def test_skips_a_step_that_overflows_and_goes_on(self, as_on_a_t4, tmp_path, name):
        seen = []
        as_on_a_t4()
        stage = train(name, tmp_path, before=lambda trainer: overflow_once(trainer, seen))
        first, last = seen[0], seen[-1]
        assert all(torch.equal(first[n], stage.weights[n]) for n in first)
        assert not any(torch.equal(last[n], first[n]) for n in first)
        assert all(p.isfinite().all() for p in last.values())
        assert stage.trainer.accelerator.scaler.get_scale() == AMPLE / 2


def overflow_once(trainer, seen):
    """Make the first step's gradients overflow; a copy of the trained weights after each step comes into `seen`."""

    class Watch(TrainerCallback):
        def on_optimizer_step(self, *_, **__):
            seen.append({n: w for n, w in weights(trainer.model).items() if n in trained(trainer.model)})

    trainer.add_callback(Watch())
    for parameter in trained(trainer.model).values():
        parameter.register_hook(lambda gradient: gradient if trainer.state.global_step else gradient * math.inf)


class TestPPO:
    def test_says_how_many_steps_were_skipped_and_leaves_them_out_of_the_norms(self, as_on_a_t4, tmp_path):
        as_on_a_t4()
        train("train_ppo", tmp_path, before=lambda trainer: overflow_once(trainer, []))
        lines = [json.loads(line) for line in (tmp_path / "stage" / "metrics.jsonl").read_text().splitlines()]
        assert [line["skipped_steps"] for line in lines if "skipped_steps" in line] == [0.25, 0.0]
        assert all(line["grad_norm/policy"] and line["grad_norm/critic"] for line in lines if "skipped_steps" in line)

    def test_keeps_its_adapters_where_trl_casts_the_model_to_sample(self, monkeypatch, tmp_path):
        def continuous_batching(self, prompts, images, fields):
            assert self.model.to(torch.float16).dtype == torch.float16
            return [[5]] * len(prompts)

        monkeypatch.setattr(RLOOTrainer, "_generate_single_turn", continuous_batching)
        ppo_trainer = toy_trainer(tmp_path)
        before = weights(ppo_trainer.model)
        ppo_trainer.use_transformers_continuous_batching = True
        assert ppo_trainer._generate_single_turn([[7, 8], [9]], None, None) == [[5], [5]]
        after = dict(ppo_trainer.model.named_parameters())
        assert all(p.dtype == before[n].dtype and torch.equal(p, before[n]) for n, p in after.items())

    def test_stops_where_the_scale_is_not_what_overflows(self, as_on_a_t4, tmp_path):
        def spoil(trainer):
            trainer.model.get_submodule("value_head").weight.register_hook(lambda gradient: gradient * math.inf)

        as_on_a_t4(0.5)
        with pytest.raises(TrainingStopped, match=r"gradient of the critic is not finite.*model\.dtype=float32"):
            train("train_ppo", tmp_path, before=spoil)


class TestAGradientThatIsNoNumber:
    @pytest.mark.parametrize(("steps", "stopped"), [(20, 10), (4, 4)], ids=["lasting", "to the end"])
    def test_stops_the_stage(self, as_on_a_t4, monkeypatch, tmp_path, steps, stopped):
        def spoil(trainer):
            for parameter in trained(trainer.model).values():
                parameter.register_hook(lambda gradient: gradient * math.nan)

        as_on_a_t4()
        monkeypatch.setitem(STAGES, "train_sft", (sft, {"sft": STEPS | {"max_steps": steps}}))
        told = rf"sft stopped at step {stopped}: .*sft\.learning_rate.*model\.dtype=float32"
        with pytest.raises(TrainingStopped, match=told):
            train("train_sft", tmp_path, before=spoil)

    def test_does_not_where_it_is_one_step(self, as_on_a_t4, tmp_path):
        def spoil(trainer):
            first = {0: math.nan}
            for parameter in trained(trainer.model).values():
                parameter.register_hook(lambda gradient: gradient * first.get(trainer.state.global_step, 1))

        as_on_a_t4()
        stage = train("train_sft", tmp_path, before=spoil)
        assert stage.trainer.state.global_step == 4
        assert all(p.isfinite().all() for p in trained(stage.trainer.model).values())


class TestTheComparison:
    @float16
    def test_has_finite_numbers_without_autocast(self, nf4):
        base = half_base(nf4)
        roles = policy_roles(base.causal_lm(), *adapters(nf4))
        prompts = [base.codec.prompt([{"role": "user", "content": text}]) for text in QUESTIONS]
        drawn = sample(roles, "policy", prompts, 6, 1.0, 0, 2)
        apart = distances(roles, "critic", "policy", prompts, drawn, 2)
        assert all(math.isfinite(x) for d in apart for x in (d.kl_nats, d.entropy_nats))
        assert all(math.isfinite(x) for x in score(roles, prompts, drawn, 2))


class TestTheHead:
    def test_sums_a_large_vocabulary_without_overflow(self):
        torch.manual_seed(0)
        weight, hidden = torch.randn(120_000, 8) * 0.5 + 0.8, torch.randn(3, 8) * 1e-3
        slopes = []
        for dtype in (torch.float32, torch.float16):
            states = hidden.to(dtype, copy=True).requires_grad_(True)
            logps, _ = Head(weight.to(dtype), None, 1.0, 1.0, None).logps(states, torch.tensor([1, 2, 3]))
            logps.sum().backward()
            slopes.append(states.grad.float())
        assert torch.allclose(*slopes, rtol=1e-2, atol=1e-2)


class TestABaseThatOverflows:
    @pytest.fixture
    def gemma(self, tmp_path):
        Gemma2Config().save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ("native", "dtype", "said"),
        [
            (False, torch.float16, "model.dtype=float32"),
            (True, torch.float16, "model.dtype=bfloat16"),
            (False, torch.bfloat16, "only emulates bfloat16"),
            (True, torch.bfloat16, None),
            (False, torch.float32, None),
        ],
    )
    def test_is_warned_of_in_float16_alone(self, gemma, monkeypatch, capsys, native, dtype, said):
        told = self.told(gemma, monkeypatch, capsys, native, dtype)
        assert said in told if said else told == ""
        assert ("gemma2 are known to overflow" in told) == (dtype == torch.float16)

    def test_is_none_of_the_others(self, monkeypatch, capsys):
        assert self.told(toy_base().location, monkeypatch, capsys, False, torch.float16) == ""

    @staticmethod
    def told(folder, monkeypatch, capsys, native, dtype):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
        capsys.readouterr()
        precision = Precision(torch.device("cuda", 0), dtype, nf4=True)
        bases._warn_of_dtype(ModelSettings(base=str(folder)), str(folder), precision)
        return capsys.readouterr().err
