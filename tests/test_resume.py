"""Every stage, stopped after any step and begun again, is the unbroken one to the bit: weights, log and figures."""

import dataclasses
import functools
import json
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import adapters
from toy_stages import run_stage, toy_config, toy_encoded
from transformers import TrainerCallback
from transformers.trainer_pt_utils import safe_globals

from kit.config import LoraSettings
from kit.data.rows import Split
from kit.errors import ModelError
from kit.models import decoding, resumable
from kit.runs import signals
from kit.runs.checkpoints import MANIFEST, Checkpoints, step_of
from kit.runs.files import file_sha256, value_sha256

ONLINE = {"episodes": 24, "batch_size": 4, "learning_rate": 1e-2, "num_generations": 2, "snapshots": 2}
EPOCHS = {"epochs": 3, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-2}  # 7 rows: short last steps
SETTINGS = {
    "sft": EPOCHS,
    "reward": EPOCHS,
    "dpo": EPOCHS | {"snapshots": 2},
    "ppo": {
        "episodes": 20, "batch_size": 2, "num_mini_batches": 2, "num_ppo_epochs": 2, "learning_rate": 1e-2,
        "kl_control": "adaptive", "target_kl": 1e-3, "normalize_rewards": True, "snapshots": 2,
        "guards_off": ["eos", "length", "critic"],
    },
    "rloo": ONLINE,
    "grpo": ONLINE | {"num_iterations": 2},
}  # fmt: skip
STEPS = {"sft": 6, "reward": 6, "dpo": 6, "ppo": 20, "rloo": 6, "grpo": 12}
CLOCKS = ("seconds/", "step_time", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")


def config(stage):
    return toy_config(**{stage: SETTINGS[stage]}).model_copy(
        update={"lora": LoraSettings(rank=4, alpha=8, dropout=0.1)}
    )


class StopAfter(TrainerCallback):
    """As if SIGTERM came during a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step + 1 == self.step:
            signals._State.asked = signal.SIGTERM


def run(stage, folder, stop=None, nf4=False, before=lambda trainer: None):
    """The stage's result; its output is `folder`/out, its checkpoints lie beside that."""
    adapters(nf4)  # made once, with random numbers of their own
    settings, rows = config(stage), toy_encoded()
    torch.manual_seed(17)
    if stop:
        before = lambda trainer: trainer.add_callback(StopAfter(stop))  # noqa: E731
    shutil.rmtree(folder / "out", ignore_errors=True)
    try:
        checkpoints = Checkpoints(folder / "checkpoints")
        return run_stage(stage, settings, folder / "out", checkpoints, rows, before, nf4)
    finally:
        signals._State.asked = None


def lines(folder, name="metrics.jsonl"):
    file = folder / "out" / name
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{n: x for n, x in row.items() if not n.startswith(CLOCKS)} for row in rows]


@functools.cache
def unbroken(stage, lines_per_stage=50):
    kept = tempfile.TemporaryDirectory(prefix="kit-toy-")
    folder = Path(kept.name)
    return kept, folder, run(stage, folder)


def assert_same(stage, folder, result, *more):
    _, whole, expected = unbroken(stage, *more)
    one, other = (load_file(f / "out" / "adapter_model.safetensors") for f in (whole, folder))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    for name in ("metrics.jsonl", "completions.jsonl", "smoke.jsonl", "held_out.jsonl"):
        assert lines(folder, name) == lines(whole, name), name
    assert result.metrics == expected.metrics
    snapshots = [sorted(p.name for p in (f / "out").glob("snapshots/*")) for f in (whole, folder)]
    assert snapshots[0] == snapshots[1]


class TestStoppedAndResumed:
    @pytest.mark.parametrize("stage", SETTINGS)
    def test_after_a_third_and_again_after_two_it_is_the_unbroken_stage(self, stage, tmp_path):
        for stop in (STEPS[stage] // 3, 2 * STEPS[stage] // 3):
            with pytest.raises(signals.Interrupted):
                run(stage, tmp_path, stop)
        assert_same(stage, tmp_path, run(stage, tmp_path))
        assert len(lines(tmp_path)) > 1

    @pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
    @pytest.mark.parametrize("stop", range(1, 7))
    def test_after_any_step_also_between_two_log_lines(self, stage, stop, tmp_path, monkeypatch):
        import kit.stages.arguments

        monkeypatch.setattr(kit.stages.arguments, "_LOGS_PER_STAGE", 2)  # a line for three steps
        unbroken(stage, 2)
        with pytest.raises(signals.Interrupted):
            run(stage, tmp_path, stop)
        newest = Checkpoints(tmp_path / "checkpoints").newest
        assert newest is not None and step_of(newest) == stop
        assert_same(stage, tmp_path, run(stage, tmp_path), 2)

    @pytest.mark.parametrize("stage", SETTINGS)
    def test_killed_after_its_last_step_it_does_not_train_again(self, stage, tmp_path, monkeypatch):
        with pytest.raises(signals.Interrupted):
            run(stage, tmp_path, STEPS[stage])
        result = run(stage, tmp_path)
        assert_same(stage, tmp_path, result)

    def test_killed_after_its_last_step_in_the_middle_of_an_epoch_it_takes_no_step_more(self, tmp_path, monkeypatch):
        monkeypatch.setitem(SETTINGS, "sft", SETTINGS["sft"] | {"max_steps": 5})
        rows = toy_encoded()
        held_out = dataclasses.replace(rows, sft=Split(rows.sft.train, rows.sft.train[:2]))
        monkeypatch.setattr("test_resume.toy_encoded", lambda: held_out)  # an evaluation has its line in the log
        expected = run("sft", tmp_path / "whole")
        with pytest.raises(signals.Interrupted):
            run("sft", tmp_path / "part", 5)
        assert run("sft", tmp_path / "part").metrics == expected.metrics
        assert lines(tmp_path / "part") == lines(tmp_path / "whole") and "eval_loss" in lines(tmp_path / "part")[-1]

    @pytest.mark.parametrize("stage", ["ppo", "rloo", "grpo"])
    def test_while_it_samples_a_rollout_it_gives_that_up_and_keeps_the_boundary_before(
        self, stage, tmp_path, monkeypatch
    ):
        steps_per_rollout = {"ppo": 4, "rloo": 1, "grpo": 2}[stage]
        unbroken(stage)
        monkeypatch.setattr("kit.stages.arguments._CHECKPOINTS", 1)  # of its own accord it saves at the end alone
        batches, tokens, decode = [], [], decoding._Seen

        class Counted(decode):
            def __init__(self, *given):
                super().__init__(*given)
                batches.append(None)

        def asked():
            """The signal comes when the third rollout has two tokens."""
            tokens.extend([None] * (len(batches) == 3))
            if len(tokens) == 3:
                raise signals.AskedToStop(signal.SIGINT)

        with monkeypatch.context() as patched, pytest.raises(signals.AskedToStop):
            patched.setattr(decoding, "_Seen", Counted)
            patched.setattr(signals, "stop_if_asked", asked)
            run(stage, tmp_path)
        newest = Checkpoints(tmp_path / "checkpoints").newest
        assert newest is not None and step_of(newest) == 2 * steps_per_rollout
        assert_same(stage, tmp_path, run(stage, tmp_path))

    def test_in_the_first_rollout_there_is_nothing_to_keep(self, tmp_path, monkeypatch):
        with monkeypatch.context() as patched, pytest.raises(signals.AskedToStop):
            patched.setattr(decoding.signals, "stop_if_asked", lambda: raise_(signals.AskedToStop(2)))
            run("ppo", tmp_path)
        assert Checkpoints(tmp_path / "checkpoints").newest is None
        assert_same("ppo", tmp_path, run("ppo", tmp_path))

    @pytest.mark.parametrize("stage", ["sft", "ppo"])
    def test_in_4_bit_too(self, stage, tmp_path):
        whole, part = tmp_path / "whole", tmp_path / "part"
        adapters(True)
        expected = run(stage, whole, nf4=True)
        with pytest.raises(signals.Interrupted):
            run(stage, part, STEPS[stage] // 2, nf4=True)
        assert run(stage, part, nf4=True).metrics == expected.metrics and lines(part) == lines(whole)
        one, other = (load_file(f / "out" / "adapter_model.safetensors") for f in (whole, part))
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def raise_(error):
    raise error


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """SFT that was stopped after its fourth step."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(signals.Interrupted):
        run("sft", folder, 4)
    return folder


class TestACheckpointOfAStage:
    FILES = (
        "MANIFEST.json", "adapter_config.json", "adapter_model.safetensors", "base.json", "metrics.jsonl",
        "optimizer.pt", "records.json", "rng_state.pth", "scheduler.pt", "trainer_state.json",
    )  # fmt: skip

    def test_has_no_pickled_arguments_and_no_weights_of_the_base(self, stopped):
        newest = Checkpoints(stopped / "checkpoints").newest
        assert newest is not None
        assert {path.name for path in newest.iterdir()} - {"README.md"} == set(self.FILES)

    def test_opens_without_unpickling(self, stopped):
        newest = Checkpoints(stopped / "checkpoints").newest
        with safe_globals():
            for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
                torch.load(newest / name, weights_only=True)

    @pytest.mark.parametrize("harm", ["deleted", "truncated"])
    @pytest.mark.parametrize("name", FILES)
    def test_with_a_file_damaged_is_set_aside_and_the_one_before_gives_the_same_result(
        self, stopped, tmp_path, name, harm, capsys
    ):
        shutil.copytree(stopped / "checkpoints", tmp_path / "checkpoints")
        file = tmp_path / "checkpoints" / "checkpoint-4" / name
        file.unlink() if harm == "deleted" else file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        result = run("sft", tmp_path)
        said = capsys.readouterr()
        assert "checkpoint-4: damaged (" in said.err and "sft: goes on from step 3" in said.out
        assert_same("sft", tmp_path, result)

    @pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "records.json"])
    def test_that_is_named_by_its_path_is_refused_where_a_part_is_missing(self, stopped, tmp_path, name):
        """transformers would begin that part anew, without a word."""
        place = tmp_path / "checkpoint-4"
        shutil.copytree(stopped / "checkpoints" / "checkpoint-4", place)
        (place / name).unlink()

        def resume(trainer):
            trainer.train(resume_from_checkpoint=str(place))

        with pytest.raises(FileNotFoundError, match=f"{name} missing; no training can go on"):
            run("sft", tmp_path / "run", before=resume)

    def test_of_another_base_is_refused(self, stopped, tmp_path):
        shutil.copytree(stopped / "checkpoints", tmp_path / "checkpoints")
        for place in (tmp_path / "checkpoints").glob("checkpoint-*"):
            identity = json.loads((place / "base.json").read_text()) | {"weights_sha256": "0" * 64}
            (place / "base.json").write_text(json.dumps(identity))
            manifest = json.loads((place / MANIFEST).read_text())
            del manifest["manifest_sha256"]
            size, sha = (place / "base.json").stat().st_size, file_sha256(place / "base.json")
            manifest["files"]["base.json"] = {"bytes": size, "sha256": sha}
            (place / MANIFEST).write_text(json.dumps(manifest | {"manifest_sha256": value_sha256(manifest)}))
        with pytest.raises(ModelError, match="trained on another base"):
            run("sft", tmp_path)

    def test_is_written_again_after_ten_minutes(self, tmp_path, monkeypatch):
        written, write = [], resumable.write_checkpoint

        def noted(folder, step, *rest):
            written.append(step)
            return write(folder, step, *rest)

        monkeypatch.setattr(resumable, "write_checkpoint", noted)
        monkeypatch.setattr("kit.stages.arguments._CHECKPOINTS", 1)
        run("sft", tmp_path / "a")
        assert written == [6]
        monkeypatch.setattr(resumable, "_AT_MOST_SECONDS", 0.0)
        run("sft", tmp_path / "b")
        assert written == [6, 1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("stage", ["sft", "ppo"])
    def test_keeps_the_sizes_it_began_with_whatever_memory_is_free_now(self, stage, tmp_path, monkeypatch):
        """Sampled in other sizes, the rollouts would be others; SFT's sums would round otherwise."""
        auto = SETTINGS[stage] | {"micro_batch_size": "auto"}
        monkeypatch.setitem(SETTINGS, stage, auto)
        with monkeypatch.context() as little:
            little.setattr("kit.stages.sizes.free_memory_bytes", lambda _: 1)
            expected = run(stage, tmp_path / "whole")
            with pytest.raises(signals.Interrupted):
                run(stage, tmp_path / "part", STEPS[stage] // 2)
        assert run(stage, tmp_path / "part").metrics == expected.metrics
        assert lines(tmp_path / "part") == lines(tmp_path / "whole")
