"""What may change between a run that was cut off and the one that goes on, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from toy import base_folder

import kit
from kit.config import Config
from kit.runs import changed as unit
from kit.runs import signals
from kit.runs.changed import settle_changes
from kit.runs.checkpoints import MANIFEST, newest_manifest, write_checkpoint
from kit.runs.folder import ADAPTER_FILE, RunFolder, versions
from kit.runs.inputs import checkpoint_inputs, stage_inputs
from kit.runs.steps import run_steps

DATA = "f" * 64


@pytest.fixture
def folder(tmp_path):
    """A run whose SFT is done and whose DPO was cut off after step 40."""
    made = RunFolder(tmp_path / "run")
    made.create("run")
    sft, dpo = steps(Config(stages=["sft", "dpo"]))
    place = made.workplace("sft")
    (place / ADAPTER_FILE).write_bytes(b"sft")
    config = Config(stages=["sft", "dpo"])
    made.finish_stage("sft", place, stage_inputs(sft, config, DATA, made), 1.0, None, {})
    made.start_stage("dpo")
    facts = {"inputs": checkpoint_inputs(dpo, config, DATA, made), "versions": versions(), "seconds": 7200}
    made.checkpoints_path("dpo").mkdir()
    write_checkpoint(made.checkpoints_path("dpo"), 40, lambda place: None, facts)
    made.close("interrupted")
    return made


def steps(config):
    return run_steps(config, with_judge=False)


def settle(folder, data=DATA, **settings):
    config = Config(stages=["sft", "dpo"], **settings)
    settle_changes(steps(config), config, data, folder)


def kept(folder):
    return newest_manifest(folder.checkpoints_path("dpo")) is not None


class TestGoesOn:
    def test_where_nothing_changed(self, folder, capsys):
        settle(folder)
        assert capsys.readouterr() == ("", "") and kept(folder)

    @pytest.mark.parametrize("dpo", [{"micro_batch_size": 2}, {"snapshots": 0}])
    def test_where_the_result_cannot_change(self, folder, dpo, capsys):
        settle(folder, dpo=dpo)
        assert capsys.readouterr() == ("", "") and kept(folder)

    def test_with_a_warning_under_other_versions(self, folder, monkeypatch, capsys):
        monkeypatch.setattr(unit, "versions", lambda: versions() | {"torch": "9.9"})
        settle(folder)
        said = capsys.readouterr().err
        assert f"torch {versions()['torch']} -> 9.9" in said and "not to the bit" in said and kept(folder)


class TestIsRefused:
    @pytest.mark.parametrize(
        ("settings", "what"),
        [
            ({"dpo": {"beta": 0.2}}, "dpo.beta 0.1 -> 0.2"),
            ({"seed": 1}, "sft is made again first"),
            ({"lora": {"rank": 8}}, "lora.rank 16 -> 8"),
            ({"memory": "lean"}, "memory balanced -> lean"),
            ({"model": {"base": "other/model"}}, "model.base demo -> other/model"),
            ({"dpo": {"trl": {"weight_decay": 0.1}}}, "dpo.trl"),
        ],
    )
    def test_with_all_that_differs_and_nothing_removed(self, folder, settings, what):
        with pytest.raises(kit.RunError) as caught:
            settle(folder, **settings)
        text = str(caught.value)
        assert what in text and "dpo: 40 steps (120 minutes) are done and kept" in text
        assert "--restart dpo" in text and "another name=" in text and kept(folder)

    def test_other_data_too(self, folder):
        with pytest.raises(kit.RunError, match=r"the data \(SHA-256 of the rows\) ffffffffffff"):
            settle(folder, data="e" * 64)

    def test_of_several_differences_all_are_told_in_one_go(self, folder):
        with pytest.raises(kit.RunError, match=r"learning_rate .*; .*beta"):
            settle(folder, dpo={"beta": 0.2, "learning_rate": 1e-3})

    def test_an_earlier_adapter_that_is_another(self, folder):
        (folder.path / "sft" / ADAPTER_FILE).write_bytes(b"other")
        with pytest.raises(kit.RunError, match="sft is made again first"):  # as what it was made of is not there
            settle(folder)


class TestAfterAGuard:
    def test_other_settings_begin_the_stage_again(self, folder, capsys):
        folder.start_stage("dpo")
        folder.close("stopped")
        settle(folder, dpo={"beta": 0.2})
        assert "a guard stopped it; begins again, as this changed: dpo.beta 0.1 -> 0.2" in capsys.readouterr().out
        assert not kept(folder)

    def test_the_same_settings_go_on(self, folder):
        folder.start_stage("dpo")
        folder.close("stopped")
        settle(folder)
        assert kept(folder)


TOY = {
    "name": "toy", "stages": ["sft", "dpo"], "model": {"base": str(base_folder())}, "lora": {"rank": 4},
    "data": {"preferences": "demo", "eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 32},
    "sft": {"max_steps": 2, "batch_size": 8}, "dpo": {"max_steps": 6, "batch_size": 8},
}  # fmt: skip


@pytest.fixture
def cut_off(tmp_path, monkeypatch):
    """A real run whose DPO was stopped after its third step."""
    from transformers import TrainerCallback

    import kit.stages.dpo

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                signals._State.asked = 15

    train = kit.stages.dpo.train_with_progress
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(
            kit.stages.dpo, "train_with_progress", lambda t, *rest: (t.add_callback(Stop()), train(t, *rest))[1]
        )
        kit.run_pipeline(TOY, output_dir=str(tmp_path))
    return tmp_path / "toy"


@pytest.mark.pipeline
class TestARun:
    def test_of_other_settings_is_refused_and_restart_begins_again(self, cut_off, capsys):
        before = (cut_off / "config.yaml").read_bytes()
        with pytest.raises(kit.RunError, match=r"dpo: 3 steps .*dpo.beta 0.1 -> 0.2"):
            kit.run_pipeline(TOY, output_dir=str(cut_off.parent), dpo={"beta": 0.2})
        assert (cut_off / "config.yaml").read_bytes() == before
        assert json.loads((cut_off / "run.json").read_text())["status"] == "interrupted"
        run = kit.run_pipeline(TOY, output_dir=str(cut_off.parent), dpo={"beta": 0.2}, restart=["dpo"])
        assert "goes on from" not in capsys.readouterr().out and run.stages["dpo"]

    def test_with_another_base_in_the_same_folder_is_refused(self, cut_off, tmp_path):
        base = tmp_path / "base"
        shutil.copytree(base_folder(), base)
        manifest = cut_off / ".dpo-checkpoints" / "checkpoint-3" / "base.json"
        assert json.loads(manifest.read_text())["weights_sha256"]

    def test_that_is_resumed_counts_the_seconds_before(self, cut_off):
        place = cut_off / ".dpo-checkpoints" / "checkpoint-3"
        manifest = json.loads((place / MANIFEST).read_text())
        assert manifest["seconds"] > 0 and manifest["checkpoint_bytes"] > 10_000  # a full disk's message names them
        run = kit.run_pipeline(TOY, output_dir=str(cut_off.parent))
        assert run.stages["dpo"].seconds > 0 and not Path(place).exists()

    def test_that_was_killed_right_after_a_stage_was_done_keeps_nothing_of_its_checkpoints(self, cut_off):
        shutil.copytree(cut_off / ".dpo-checkpoints", cut_off.parent / "kept")
        run = kit.run_pipeline(TOY, output_dir=str(cut_off.parent))
        shutil.copytree(cut_off.parent / "kept", cut_off / ".dpo-checkpoints")
        assert kit.run_pipeline(TOY, output_dir=str(cut_off.parent)).stages.keys() == run.stages.keys()
        assert not (cut_off / ".dpo-checkpoints").exists()

    def test_an_unknown_stage_to_restart_is_refused(self, tmp_path):
        with pytest.raises(kit.ConfigError, match="restart 'ppp': no stage of this run; it has sft, dpo"):
            kit.run_pipeline(TOY, output_dir=str(tmp_path), restart=["ppp"])
