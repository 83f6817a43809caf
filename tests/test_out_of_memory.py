"""When GPU memory runs out: the work goes on in smaller parts, and the result is that of a run that began with them.

There is no GPU here: the error is raised by hand, after a backward pass has left its gradients, as a real one would.
"""

import json
import re
import weakref

import pytest
import torch
from toy_stages import Watched, toy_config, toy_encoded

from kit.errors import MachineError
from kit.models.base import Base
from kit.models.out_of_memory import AtOnce, memory_errors
from kit.ppo import passes
from kit.ppo.guards import NAMES
from kit.stages import dpo, online, ppo, reward, sft

# (module, settings); 7 rows, so that an epoch ends with a short step
STAGES = {
    "sft": (sft, {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "trl": {"logging_steps": 1}}),
    "reward": (reward, {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "trl": {"logging_steps": 1}}),
    "dpo": (dpo, {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "trl": {"logging_steps": 1}}),
    "ppo": (ppo, {"episodes": 16, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 2, "learning_rate": 1e-2,
                  "scoring_batch_size": 2, "guards_off": list(NAMES)}),
    "rloo": (online, {"episodes": 16, "batch_size": 8, "num_generations": 4, "learning_rate": 1e-2}),
    "grpo": (online, {"episodes": 16, "batch_size": 8, "num_generations": 4, "learning_rate": 1e-2}),
}  # fmt: skip
ALL = pytest.mark.parametrize("stage", STAGES)
CLOCKS = re.compile(r"seconds|_time$|_per_second|runtime")


def out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")


def at_backward(*numbers):
    """For `before`: the backward passes of these numbers run, leave their gradients, and are out of memory."""

    def patched(trainer):
        backward, count = trainer.accelerator.backward, [0]

        def once(loss, **more):
            backward(loss, **more)
            count[0] += loss.grad_fn is not None  # the trainer's own call has nothing to back-propagate
            if loss.grad_fn is not None and count[0] in numbers:
                out_of_memory()

        trainer.accelerator.backward = once

    return patched


@pytest.fixture(autouse=True)
def same_first_weights(monkeypatch):
    """SFT's adapter and the reward model's head are drawn at random."""
    for owner, name in ((sft, "new_policy"), (Base, "scorer")):
        monkeypatch.setattr(owner, name, seeded(getattr(owner, name)))


def seeded(function):
    return lambda *given: torch.manual_seed(5) and function(*given)


def train(stage, out, micro, before=lambda trainer: None, data=None, dropout=0.2, **changes):
    module, settings = STAGES[stage]
    more = {"data": data or toy_encoded(8 if stage in ("ppo", "rloo", "grpo") else 7)}
    config = toy_config(**{stage: settings | {"micro_batch_size": micro} | changes})
    config = config.model_copy(update={"lora": config.lora.model_copy(update={"dropout": dropout})})
    return Watched(module, f"train_{stage}", config, out, before=before, **more)


def log(run):
    lines = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if not CLOCKS.search(name)} for line in lines]


def trained(run):
    return {name: x.detach().clone() for name, x in run.trainer.model.named_parameters() if x.requires_grad}


class TestAStepThatRanOutOfMemory:
    @pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
    def test_gives_the_run_that_began_with_half_the_micro_batch(self, stage, tmp_path, capsys):
        """To the bit, weights and log: LoRA's dropout in SFT and the short step of an epoch's end included."""
        halved, small = train(stage, tmp_path / "halved", 4, at_backward(1)), train(stage, tmp_path / "small", 2)
        one, other = trained(halved), trained(small)
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
        for mine, its in zip(log(halved), log(small), strict=True):
            assert mine.pop("loss") == pytest.approx(its.pop("loss"), rel=1e-6)  # summed up in another order
            assert mine == its
        assert capsys.readouterr().err.count(f"{stage}.micro_batch_size: out of GPU memory with 4 at once") == 1

    @pytest.mark.parametrize("stage", ["rloo", "grpo"])
    def test_gives_it_but_for_rounding_in_trls_own_trainers(self, stage, tmp_path):
        """Their old log-probabilities come from passes of a micro-batch, so another size rounds otherwise."""
        halved, small = train(stage, tmp_path / "halved", 4, at_backward(1)), train(stage, tmp_path / "small", 2)
        close(trained(halved), trained(small))

    @ALL
    def test_is_done_again_whole_wherever_in_the_step_it_happens(self, stage, tmp_path):
        """The gradients of the micro-batches before it are made again, those of the one that failed are dropped."""
        halved = train(stage, tmp_path / "halved", 2, at_backward(2), dropout=0.0)
        whole = train(stage, tmp_path / "whole", 2, dropout=0.0)
        close(trained(halved), trained(whole))
        for mine, its in zip(log(halved), log(whole), strict=True):
            for name in ("loss", "grad_norm", "num_tokens"):
                assert mine[name] == pytest.approx(its[name], rel=1e-3, abs=1e-4), name

    def test_may_happen_again(self, tmp_path, capsys):
        halved = train("dpo", tmp_path / "halved", 4, at_backward(1, 2))
        small = train("dpo", tmp_path / "small", 1)
        close(trained(halved), trained(small))
        said = capsys.readouterr().err
        assert "out of GPU memory with 4 at once" in said and "out of GPU memory with 2 at once" in said

    @ALL
    def test_with_one_row_at_once_ends_with_what_to_do(self, stage, tmp_path):
        with pytest.raises(MachineError, match=rf"{stage}\.micro_batch_size: out of GPU memory \(CUDA out of memory\)"):
            train(stage, tmp_path, 1, at_backward(1))


class TestAStageThatNothingSmallerCures:
    def test_ends_with_its_name_and_what_to_do(self):
        with (
            pytest.raises(MachineError, match=r"sft: out of GPU memory \(CUDA out of memory\).*memory: lean"),
            memory_errors("sft"),
        ):
            out_of_memory()


class TestRowsAtOnce:
    def test_are_halved_until_they_fit_and_stay_so(self, capsys):
        at_once, tried = AtOnce(8, "ppo.rollout_batch_size"), []

        def work(rows):
            tried.append(rows)
            return out_of_memory() if rows > 2 else torch.rand(1)

        torch.manual_seed(0)
        first = at_once.run(work)
        at_once.run(work)
        assert tried == [8, 4, 2, 2]
        torch.manual_seed(0)
        assert torch.equal(first, torch.rand(1))
        assert "Set ppo.rollout_batch_size=2 to begin there" in capsys.readouterr().err

    def test_draw_what_they_would_have_drawn_had_nothing_happened(self):
        def work(rows):
            torch.rand(rows)
            return out_of_memory() if rows > 1 else torch.rand(1)

        torch.manual_seed(0)
        found = AtOnce(4, "x").run(work)
        torch.manual_seed(0)
        torch.rand(1)
        assert torch.equal(found, torch.rand(1))

    def test_of_one_end_with_what_to_do(self):
        with pytest.raises(MachineError, match=r"compare\.batch_size.*kit plan CONFIG.*memory: lean"):
            AtOnce(1, "compare.batch_size").run(out_of_memory)

    def test_hold_no_tensor_of_the_attempt_that_failed(self):
        alive = []

        def work(rows):
            if rows == 1:
                return [ref() for ref in alive]
            big = torch.zeros(8)
            alive.append(weakref.ref(big))
            out_of_memory()

        assert AtOnce(2, "x").run(work) == [None]


class TestPPO:
    @pytest.mark.parametrize("where", ["rollout_batch_size", "scoring_batch_size"])
    def test_samples_and_scores_in_smaller_parts(self, where, tmp_path, monkeypatch, capsys):
        """What a pass draws follows the size it was drawn with, so the run is the one that began with it."""
        limit, name = {"rollout_batch_size": (4, "sample_responses"), "scoring_batch_size": (2, "pad_rows")}[where]
        real = getattr(passes, name)

        def limited(*given, **more):
            rows = given[3] if name == "sample_responses" else len(given[0])
            return out_of_memory() if rows > limit else real(*given, **more)

        small = train("ppo", tmp_path / "small", 2, **{where: limit})
        monkeypatch.setattr(passes, name, limited)
        halved = train("ppo", tmp_path / "halved", 2, **{where: 2 * limit})
        close(trained(halved), trained(small))
        assert f"ppo.{where}: out of GPU memory with {2 * limit} rows at once" in capsys.readouterr().err


class TestTheMeanOverPairs:
    @pytest.mark.parametrize("stage", ["reward", "dpo"])
    def test_weighs_each_pair_of_a_step_the_same(self, stage, tmp_path):
        """Seven pairs are a step of four and one of three; transformers would give the last of [2, 1] double weight."""
        ones, twos = (train(stage, tmp_path / str(micro), micro) for micro in (1, 2))
        close(trained(ones), trained(twos))


def close(one, other):
    for name, tensor in one.items():
        torch.testing.assert_close(
            tensor, other[name], rtol=1e-3, atol=2e-4, msg=lambda text, name=name: f"{name} {text}"
        )
