"""Policies kept along the way: where, when and what; training does not feel it; a resumed run has them all."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from toy import toy_base
from toy_stages import Watched, toy_config, weights

from kit.stages import dpo, online, ppo
from kit.stages.snapshots import SnapshotCallback, snapshot_steps, snapshots

SECTIONS = {
    "ppo": {
        "episodes": 24, "batch_size": 2, "num_mini_batches": 2, "num_ppo_epochs": 2, "learning_rate": 1e-2,
        "guards_off": ["kl", "negative_kl", "eos", "length", "entropy", "critic"],
    },  # 6 rollouts of 4 steps
    "dpo": {"batch_size": 2, "max_steps": 6, "learning_rate": 1e-2},
    "rloo": {"episodes": 24, "batch_size": 4, "num_generations": 2, "learning_rate": 1e-2},  # 6 steps
    "grpo": {"episodes": 24, "batch_size": 4, "num_generations": 2, "learning_rate": 1e-2},
}  # fmt: skip
MODULES = {"ppo": ppo, "dpo": dpo, "rloo": online, "grpo": online}
STAGES = pytest.mark.parametrize("stage", SECTIONS)
STEPS = {"ppo": [8, 16], "dpo": [2, 4], "rloo": [2, 4], "grpo": [2, 4]}


def train(stage, place, count=2, **more):
    """The stage at toy size; its checkpoints lie beside its output."""
    config = toy_config(**{stage: SECTIONS[stage] | {"snapshots": count}})
    return Watched(MODULES[stage], f"train_{stage}", config, place / "out", checkpoints=place / "checkpoints", **more)


def content(folder: Path):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestSteps:
    @given(steps=st.integers(1, 500), count=st.integers(0, 20), every=st.integers(1, 16))
    def test_lie_between_start_and_end_at_ends_of_rollouts(self, steps, count, every):
        steps *= every
        chosen = snapshot_steps(steps, count, every)
        assert len(chosen) <= count and all(0 < step < steps and step % every == 0 for step in chosen)

    @given(steps=st.integers(1, 500), count=st.integers(1, 20))
    def test_are_spread_evenly_over_the_run(self, steps, count):
        places = [0, *snapshot_steps(steps, count), steps]
        gaps = [b - a for a, b in itertools.pairwise(places)]
        assert min(gaps) > 0 and max(gaps) - min(gaps) <= 2

    def test_are_as_many_as_were_asked_for_where_there_is_room(self):
        assert snapshot_steps(100, 4) == [20, 40, 60, 80] and snapshot_steps(3, 4) == [1, 2]


class TestSnapshots:
    @STAGES
    def test_are_plain_peft_adapters_of_the_policy_at_their_step(self, stage, tmp_path):
        seen = {}

        class Look(SnapshotCallback):
            def on_step_end(self, args, state, control, model=None, **_):
                seen[state.global_step] = weights(model)

        run = train(stage, tmp_path, before=lambda trainer: trainer.add_callback(Look(tmp_path, 0)))
        found = snapshots(run.out)
        assert list(found) == STEPS[stage]
        for step, folder in found.items():
            assert {p.name for p in folder.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
            assert folder.name == f"step-{step:06d}"
            loaded = PeftModel.from_pretrained(toy_base().causal_lm(), folder)
            mine = {n: p for n, p in loaded.named_parameters() if ".default." in n}
            assert mine and all(torch.equal(p, seen[step][n]) for n, p in mine.items())

    @STAGES
    def test_leave_the_training_as_it_is_to_the_bit(self, stage, tmp_path):
        with_them, without = train(stage, tmp_path / "a"), train(stage, tmp_path / "b", count=0)
        names = ("adapter_model.safetensors", "adapter_config.json")
        assert [(with_them.out / n).read_bytes() for n in names] == [(without.out / n).read_bytes() for n in names]
        assert torch.equal(*(weights_after(run) for run in (with_them, without)))

    @STAGES
    def test_leave_the_random_state_as_it_is(self, stage, tmp_path):
        states = []
        for count in (3, 0):
            train(stage, tmp_path / str(count), count=count)
            states.append(torch.get_rng_state())
        assert torch.equal(*states)

    def test_are_none_where_none_were_asked_for(self, tmp_path):
        run = train("dpo", tmp_path, count=0)
        assert snapshots(run.out) == {} and not (run.out / "snapshots").exists()

    def test_are_read_in_the_order_of_their_steps_and_nothing_else_is(self, tmp_path):
        for name in ("step-000010", "step-000009", "step-1000000", ".step-000011.tmp", "step-x"):
            (tmp_path / "snapshots" / name).mkdir(parents=True)
        assert list(snapshots(tmp_path)) == [9, 10, 1_000_000]


def weights_after(run):
    return torch.cat([x.flatten() for n, x in weights(run.trainer.model).items() if ".default." in n])


class Kill(SnapshotCallback):
    """Ends the run at a step, after its snapshot and before its checkpoint."""

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == 16:
            raise KeyboardInterrupt


class TestAKilledPPO:
    def test_has_after_its_resumption_the_snapshots_of_the_unbroken_run(self, tmp_path):
        whole = train("ppo", tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train("ppo", tmp_path / "cut", before=lambda trainer: trainer.add_callback(Kill(tmp_path, 0)))
        place = tmp_path / "cut" / "checkpoints"
        assert list(snapshots(place)) == [8, 16] and not (place / "checkpoint-16").exists()
        (snapshots(place)[16] / "adapter_model.safetensors").write_bytes(b"half")
        kept = snapshots(place)[8].stat().st_ino
        (place / "snapshots" / ".step-000012.tmp").mkdir()
        seen = []
        resumed = train("ppo", tmp_path / "cut", before=lambda t: t.add_callback(Begin(seen, place)))
        assert seen == [[8]] and snapshots(resumed.out).keys() == {8, 16}
        assert content(resumed.out / "snapshots") == content(whole.out / "snapshots")
        assert snapshots(place)[8].stat().st_ino == kept
        assert resumed.result.metrics == whole.result.metrics  # the tokens of the first part are not lost


class Begin(SnapshotCallback):
    """Notes which snapshots stand when the training begins."""

    def __init__(self, seen, place):
        self.seen, self.at = seen, place

    def on_train_begin(self, args, state, control, **_):
        self.seen.append(list(snapshots(self.at)))

    def on_step_end(self, args, state, control, model=None, **_):
        pass
