"""Room on the disk: foretold before a stage, and a message where there is none."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from toy import base_folder, toy_base
from toy_stages import run_stage, toy_config

import kit
from kit.models.plan.disk import _BESIDE, disk_need
from kit.preflight import check_disk
from kit.runs.checkpoints import KEPT, Checkpoints
from kit.runs.folder import RunFolder
from kit.runs.steps import run_steps

Usage = namedtuple("Usage", "total used free")
SETTINGS = {
    "sft": {"max_steps": 4, "batch_size": 2}, "dpo": {"max_steps": 4, "batch_size": 2, "snapshots": 2},
    "ppo": {"episodes": 16, "batch_size": 2, "num_mini_batches": 2, "num_ppo_epochs": 1, "learning_rate": 1e-3,
            "snapshots": 2, "guards_off": ["eos", "length", "critic"]},
}  # fmt: skip


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class TestTheNeed:
    @pytest.mark.parametrize("stage", SETTINGS)
    def test_of_a_checkpoint_is_what_one_takes(self, stage, tmp_path):
        config = toy_config(**{stage: SETTINGS[stage]})
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        run_stage(stage, config, tmp_path / "out", checkpoints)
        newest = Checkpoints(checkpoints.path).newest
        need = disk_need(config, toy_base().shape, stage)
        assert newest is not None
        beside = 150_000  # states, logs and headers, which do not grow with the model
        assert need.checkpoint <= size(newest) <= need.checkpoint + beside
        assert len(list(checkpoints.path.glob("checkpoint-*"))) == KEPT
        left = size(tmp_path / "out")
        assert left <= need.left and need.left - left < _BESIDE

    def test_grows_with_rank_snapshots_and_trained_adapters(self):
        shape = toy_base().shape

        def total(stage="ppo", **settings):
            return disk_need(kit.Config(**settings), shape, stage)

        assert total(lora={"rank": 32}).checkpoint == 2 * total().checkpoint
        assert total(ppo={"snapshots": 20}).left > total().left
        assert total(ppo={"critic": "shared"}).checkpoint < total().checkpoint
        assert total(memory="lean").checkpoint < total().checkpoint

    def test_of_a_7b_model_is_gigabytes_and_not_hundreds(self):
        from kit.models.plan.planner import base_shape

        shape = base_shape(kit.Config(model={"base": "Qwen/Qwen2.5-7B"}).model)
        assert 0.8e9 < disk_need(kit.Config(), shape, "ppo").checkpoint < 1.3e9


class TestTheCheck:
    @pytest.fixture
    def steps(self):
        return run_steps(kit.Config(stages=["sft", "ppo", "reward"]), with_judge=True)

    def with_free(self, monkeypatch, free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free))

    def test_passes_where_there_is_room(self, steps, tmp_path, monkeypatch):
        self.with_free(monkeypatch, 10**12)
        check_disk(kit.Config(), toy_base().shape, steps, RunFolder(tmp_path))

    def test_says_how_much_is_missing_for_what_and_what_to_do(self, steps, tmp_path, monkeypatch):
        self.with_free(monkeypatch, 5 * 2**20)
        with pytest.raises(kit.MachineError) as caught:
            check_disk(kit.Config(), toy_base().shape, steps, RunFolder(tmp_path))
        text = str(caught.value)
        assert text.startswith(f"{tmp_path}: 5 MiB are free on this disk, and sft, reward, ppo")
        assert "for the checkpoints of ppo while it runs" in text and "Free " in text and "output_dir=" in text

    def test_checkpoints_that_are_there_already_are_not_counted_twice(self, tmp_path, monkeypatch):
        config, shape = kit.Config(stages=["sft"], lora={"rank": 512}), toy_base().shape
        steps, folder = run_steps(config, with_judge=False), RunFolder(tmp_path)
        need = disk_need(config, shape, "sft")
        self.with_free(monkeypatch, need.left + need.while_running // 2)
        with pytest.raises(kit.MachineError):
            check_disk(config, shape, steps, folder)
        folder.checkpoints_path("sft").mkdir()
        (folder.checkpoints_path("sft") / "file").write_bytes(b"x" * (need.while_running // 2 + 1))
        check_disk(config, shape, steps, folder)


CONFIG = {
    "name": "toy", "stages": ["sft"], "model": {"base": str(base_folder())}, "lora": {"rank": 4},
    "data": {"preferences": "demo", "eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 32},
    "sft": {"max_steps": 2, "batch_size": 8},
}  # fmt: skip


@pytest.mark.pipeline
class TestARun:
    def test_without_room_ends_before_anything_is_trained(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 2**20))
        with pytest.raises(kit.MachineError, match="1 MiB are free"):
            kit.run_pipeline(CONFIG, output_dir=str(tmp_path))
        assert not (tmp_path / "toy" / "run.json").exists()

    @pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no file system here that nobody can write to")
    def test_in_a_place_that_cannot_be_written_ends_in_a_message(self):
        with pytest.raises(kit.MachineError, match=r"^/sys/kernel/runs: may not be written .*output_dir="):
            kit.run_pipeline(CONFIG, output_dir="/sys/kernel/runs")
