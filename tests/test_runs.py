"""The run folder: whole or absent, one owner, and stages that run again only when their inputs changed."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.config import Config
from kit.errors import RunError
from kit.runs import files, lock
from kit.runs.files import file_sha256, publish_folder, value_sha256, write_json, write_text
from kit.runs.folder import ADAPTER_FILE, STAGE_FILE, RunFolder, versions
from kit.runs.inputs import changed_inputs, is_done, stage_inputs
from kit.runs.lock import run_lock
from kit.runs.steps import Step, run_steps

REPOSITORY = Path(__file__).resolve().parents[1]
FINGERPRINT = "f" * 64


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A run that has just been started."""
    made = RunFolder(tmp_path / "run")
    made.create("run")
    return made


def step_of(stage: str, config: Config) -> Step:
    return next(step for step in run_steps(config, with_judge=False) if step.name == stage)


def finish(folder: RunFolder, stage: str, config: Config | None = None, weights: bytes = b"", **metrics):
    """Let a stage be done: its adapter is `weights` (by default the stage's name)."""
    place = folder.workplace(stage)
    if stage != "compare":
        (place / ADAPTER_FILE).write_bytes(weights or stage.encode())
    config = config or Config()
    inputs = stage_inputs(step_of(stage, config), config, FINGERPRINT, folder)
    return folder.finish_stage(stage, place, inputs or {}, seconds=1.234, peak_bytes=7, metrics=metrics)


def finish_all(folder: RunFolder, config: Config) -> None:
    for stage in config.stages:
        finish(folder, stage, config)


def done(folder: RunFolder, config: Config, fingerprint: str = FINGERPRINT) -> list[str]:
    steps = run_steps(config, with_judge=False)
    return [step.name for step in steps if is_done(step, config, fingerprint, folder)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestWriteText:
    def test_a_writer_that_fails_half_way_leaves_the_old_file(self, tmp_path, monkeypatch):
        file = tmp_path / "run.json"
        write_text(file, "old")

        def full(_):
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            write_text(file, "new")
        assert file.read_text() == "old"

    def test_a_text_that_cannot_be_encoded_leaves_the_old_file(self, tmp_path):
        file = tmp_path / "a"
        write_text(file, "old")
        with pytest.raises(UnicodeEncodeError):
            write_text(file, "new \ud800")
        assert file.read_text() == "old"

    def test_the_text_is_on_disk_before_it_takes_the_name(self, tmp_path, monkeypatch):
        order = []
        monkeypatch.setattr(os, "fsync", lambda _: order.append("sync"))
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
        write_text(tmp_path / "a", "text")
        assert order == ["sync", "replace", "sync"]

    def test_leaves_nothing_where_the_name_is_a_folders(self, tmp_path):
        (tmp_path / "a").mkdir()
        with pytest.raises(OSError):
            write_text(tmp_path / "a", "text")
        assert names(tmp_path) == ["a"]

    def test_leaves_nothing_but_the_file(self, tmp_path):
        write_text(tmp_path / "a", "text")
        assert names(tmp_path) == ["a"]


class TestWriteJson:
    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_refuses_what_other_programs_cannot_read(self, tmp_path, number):
        with pytest.raises(ValueError):
            write_json(tmp_path / "a.json", {"loss": number})
        assert names(tmp_path) == []

    def test_keeps_other_alphabets_readable(self, tmp_path):
        write_json(tmp_path / "a.json", {"text": "Zażółć"})
        assert "Zażółć" in (tmp_path / "a.json").read_text(encoding="utf-8")


class TestPublishFolder:
    def test_the_folder_appears_under_its_name(self, tmp_path):
        (tmp_path / "made" / "deep").mkdir(parents=True)
        (tmp_path / "made" / "deep" / "file").write_text("x")
        publish_folder(tmp_path / "made", tmp_path / "sft")
        assert (tmp_path / "sft" / "deep" / "file").read_text() == "x" and names(tmp_path) == ["sft"]

    def test_replaces_the_old_folder_whole(self, tmp_path):
        for name, file in (("made", "new"), ("sft", "old")):
            (tmp_path / name).mkdir()
            (tmp_path / name / file).touch()
        publish_folder(tmp_path / "made", tmp_path / "sft")
        assert names(tmp_path / "sft") == ["new"] and names(tmp_path) == ["sft"]

    def test_a_failure_before_the_swap_leaves_the_old_folder(self, tmp_path, monkeypatch):
        for name in ("made", "sft"):
            (tmp_path / name).mkdir()
            (tmp_path / name / name).touch()

        def broken(_):
            raise OSError("input/output error")

        monkeypatch.setattr(files, "sync", broken)
        with pytest.raises(OSError, match="input/output"):
            publish_folder(tmp_path / "made", tmp_path / "sft")
        assert names(tmp_path / "sft") == ["sft"]


class TestHashes:
    def test_a_file_hash_is_that_of_its_bytes(self, tmp_path):
        (tmp_path / "a").write_bytes(b"abc")
        assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    @given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
    def test_a_value_hash_does_not_depend_on_the_order_of_keys(self, value):
        assert value_sha256(dict(reversed(value.items()))) == value_sha256(value)

    @given(st.floats(allow_nan=False, allow_infinity=False), st.booleans())
    def test_a_value_hash_survives_a_round_through_json(self, number, flag):
        value = {"a": number, "b": [flag, None, "é"]}
        assert value_sha256(json.loads(json.dumps(value))) == value_sha256(value)


OWNER = """
import sys, time
from pathlib import Path
from kit.runs.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that holds the lock of tmp_path."""
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


class TestLock:
    def test_a_second_process_is_refused_with_the_owners_pid_and_host(self, tmp_path, owner):
        with pytest.raises(RunError) as caught, run_lock(tmp_path):
            pass
        assert f"in use by process {owner.pid} on {socket.gethostname()} since 2" in str(caught.value)

    def test_a_killed_owners_lock_is_free_again(self, tmp_path, owner):
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        with run_lock(tmp_path):
            pass

    def test_the_same_process_cannot_take_it_twice(self, tmp_path):
        with run_lock(tmp_path), pytest.raises(RunError, match=f"process {os.getpid()} "), run_lock(tmp_path):
            pass

    def test_is_free_after_an_error_inside(self, tmp_path):
        with pytest.raises(KeyError), run_lock(tmp_path):
            raise KeyError
        with run_lock(tmp_path):
            pass

    def test_an_owner_that_did_not_write_its_name_yet_is_another_process(self, tmp_path):
        with run_lock(tmp_path):
            (tmp_path / ".lock").write_text("")
            with pytest.raises(RunError, match="in use by another process"), run_lock(tmp_path):
                pass


class TestLedger:
    def test_holds_name_status_versions_and_stages(self, folder):
        finish(folder, "sft", loss=0.5)
        ledger = json.loads((folder.path / "run.json").read_text())
        assert set(ledger) == {"name", "status", "versions", "stages"}
        assert ledger["name"] == "run" and ledger["versions"]["trl"]

    def test_a_done_stage_holds_status_seconds_inputs_sha256_and_metrics(self, folder):
        record = finish(folder, "sft", loss=0.5)
        assert folder.ledger()["stages"]["sft"] == {
            "status": "done", "seconds": 1.23, "peak_bytes": 7, "metrics": {"loss": 0.5},
            "inputs_sha256": value_sha256(record.inputs), "sha256": {ADAPTER_FILE: record.adapter_sha256},
        }  # fmt: skip

    def test_says_running_while_a_stage_is_made(self, folder):
        folder.start_stage("sft")
        assert (folder.ledger()["status"], folder.ledger()["stages"]) == ("running", {"sft": {"status": "running"}})

    @pytest.mark.parametrize("status", ["done", "stopped", "interrupted", "failed"])
    def test_says_how_the_run_ended(self, folder, status):
        folder.close(status)
        assert folder.ledger()["status"] == status

    def test_a_second_run_keeps_the_stages(self, folder):
        finish(folder, "sft")
        folder.create("run")
        assert folder.ledger()["stages"]["sft"]["status"] == "done"

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stages": []}'])
    def test_a_damaged_one_is_told_with_what_to_do(self, folder, content):
        (folder.path / "run.json").write_text(content)
        with pytest.raises(RunError, match=r"run\.json: not a readable ledger; remove it"):
            folder.create("run")

    def test_can_be_removed_as_that_message_says(self, folder):
        finish(folder, "sft")
        (folder.path / "run.json").unlink()
        folder.refuse_strangers()
        folder.create("run")
        folder.note_done("sft")
        assert folder.ledger()["stages"]["sft"]["status"] == "done"

    def test_names_the_versions_that_decide_the_numbers(self):
        assert {"torch", "transformers", "trl", "peft"} <= set(versions())


class TestStageOnDisk:
    def test_is_found_with_its_adapter_and_metrics(self, folder):
        finish(folder, "sft", loss=0.5)
        record = folder.stage("sft")
        assert record is not None
        assert (record.adapter, record.metrics, record.seconds) == (folder.path / "sft", {"loss": 0.5}, 1.23)

    def test_knows_the_hash_of_its_weights(self, folder):
        assert finish(folder, "sft", weights=b"abc").adapter_sha256 == file_sha256(folder.path / "sft" / ADAPTER_FILE)

    def test_an_absent_one_is_not_done(self, folder):
        assert folder.stage("sft") is None

    @pytest.mark.parametrize("content", [None, "", "{", "[]", "3", "null", "{}", '{"inputs": {}}'])
    def test_one_without_a_valid_stage_json_is_not_done(self, folder, content):
        finish(folder, "sft")
        file = folder.path / "sft" / STAGE_FILE
        file.unlink() if content is None else file.write_text(content)
        assert folder.stage("sft") is None

    def test_one_whose_adapter_was_removed_is_not_done(self, folder):
        finish(folder, "sft")
        (folder.path / "sft" / ADAPTER_FILE).unlink()
        assert folder.stage("sft") is None

    def test_a_file_in_its_place_is_not_done(self, folder):
        (folder.path / "sft").write_text("")
        assert folder.stage("sft") is None

    def test_does_not_appear_before_it_is_finished(self, folder):
        folder.workplace("sft")
        assert folder.stage("sft") is None and not (folder.path / "sft").exists()

    def test_metrics_that_are_no_numbers_keep_it_from_appearing(self, folder):
        with pytest.raises(ValueError):
            finish(folder, "sft", loss=float("nan"))
        assert not (folder.path / "sft").exists()

    def test_is_done_though_the_process_was_killed_before_the_ledger_knew(self, folder, monkeypatch):
        def killed(_):
            raise KeyboardInterrupt

        monkeypatch.setattr(folder, "note_done", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(folder, "sft")
        assert folder.stage("sft") is not None and "sft" not in folder.ledger()["stages"]


class TestCreate:
    def test_writes_the_ledger_that_marks_the_folder_as_a_run(self, folder):
        assert names(folder.path) == ["run.json"]
        folder.refuse_strangers()

    def test_removes_what_a_killed_process_left(self, folder):
        for name in (".sft.999.tmp", ".old-sft"):
            (folder.path / name).mkdir()
            (folder.path / name / "file").touch()
        (folder.path / ".run.json.999.tmp").touch()
        (folder.path / "sft").mkdir()
        folder.clear_up()
        assert names(folder.path) == ["run.json", "sft"]

    def test_a_stage_that_was_being_replaced_when_the_process_was_killed_is_back(self, folder):
        finish(folder, "sft", loss=0.5)
        os.rename(folder.path / "sft", folder.path / ".old-sft")  # the first of two renames
        folder.clear_up()
        assert folder.stage("sft").metrics == {"loss": 0.5} and names(folder.path) == ["run.json", "sft"]

    def test_leaves_the_files_of_the_user(self, folder):
        (folder.path / "notes.txt").touch()
        folder.create("run")
        assert "notes.txt" in names(folder.path)

    def test_a_workplace_is_empty_each_time(self, folder):
        (folder.workplace("sft") / "file").touch()
        assert names(folder.workplace("sft")) == []


class TestStrangers:
    def test_a_folder_with_other_things_is_refused_by_name(self, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(RunError, match=r"not a run folder \(it holds thesis\.tex\); choose another name="):
            RunFolder(tmp_path).refuse_strangers()

    def test_a_folder_with_a_configuration_of_the_user_is_refused(self, tmp_path):
        (tmp_path / "config.yaml").touch()
        with pytest.raises(RunError, match=r"config\.yaml"):
            RunFolder(tmp_path).refuse_strangers()

    def test_a_file_in_the_place_is_refused(self, tmp_path):
        (tmp_path / "run").touch()
        with pytest.raises(RunError, match="is a file"):
            RunFolder(tmp_path / "run").refuse_strangers()

    def test_a_file_above_the_place_is_refused(self, tmp_path):
        (tmp_path / "runs").touch()
        with pytest.raises(RunError, match="is a file"):
            RunFolder(tmp_path / "runs" / "name").refuse_strangers()

    def test_an_empty_folder_is_taken(self, tmp_path):
        RunFolder(tmp_path).refuse_strangers()

    def test_hidden_files_are_no_strangers(self, tmp_path):
        (tmp_path / ".lock").touch()
        RunFolder(tmp_path).refuse_strangers()

    def test_a_run_folder_with_notes_of_the_user_is_taken(self, folder):
        (folder.path / "notes.txt").touch()
        folder.refuse_strangers()

    def test_looking_writes_nothing(self, tmp_path):
        RunFolder(tmp_path / "run").refuse_strangers()
        assert names(tmp_path) == []


class TestStageInputs:
    def test_are_unknown_while_a_stage_before_is_missing(self, folder):
        assert stage_inputs(step_of("dpo", Config()), Config(), FINGERPRINT, folder) is None

    def test_hold_settings_model_lora_data_seed_and_adapters(self, folder):
        sft = finish(folder, "sft")
        inputs = stage_inputs(step_of("dpo", Config()), Config(), FINGERPRINT, folder)
        assert inputs is not None
        assert set(inputs) == {"dpo", "model", "lora", "data", "seed", "adapters"}
        assert inputs["adapters"] == {"sft": sft.adapter_sha256}

    def test_are_the_same_after_a_round_through_json(self, folder):
        config = Config(sft={"learning_rate": 1e-5, "trl": {"adam_beta1": 0.9, "weight_decay": 1}})
        inputs = stage_inputs(step_of("sft", config), config, FINGERPRINT, folder)
        assert json.loads(json.dumps(inputs)) == inputs

    def test_name_and_place_of_the_run_are_none_of_them(self, folder):
        finish_all(folder, Config())
        assert done(folder, Config(name="other", output_dir="elsewhere")) == Config().stages


class TestWhatRunsAgain:
    """Each stage that is no longer done with the changed settings, before any of them is made again."""

    @pytest.fixture
    def finished(self, folder):
        finish_all(folder, Config())
        return folder

    def test_nothing_when_nothing_changed(self, finished):
        assert done(finished, Config()) == Config().stages

    @pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "dpo"])
    def test_micro_batch_size_has_no_effect(self, finished, stage):
        assert done(finished, Config(**{stage: {"micro_batch_size": 2}})) == Config().stages

    def test_rollout_batch_size_has_no_effect(self, finished):
        assert done(finished, Config(ppo={"rollout_batch_size": 2})) == Config().stages

    @pytest.mark.parametrize("stage", ["ppo", "dpo"])
    def test_snapshots_have_no_effect(self, finished, stage):
        assert done(finished, Config(**{stage: {"snapshots": 9}})) == Config().stages

    def test_going_on_with_a_weak_reward_model_has_no_effect(self, finished):
        assert done(finished, Config(ppo={"force": True})) == Config().stages

    @pytest.mark.parametrize("setting", [{"prompts": 9}, {"best_of": 2}, {"checkpoint": "best"}, {"temperature": 0}])
    def test_a_setting_of_the_comparison_changes_it_alone(self, finished, setting):
        assert done(finished, Config(compare=setting)) == ["sft", "reward", "ppo", "dpo"]

    def test_a_judge_whose_file_was_edited_judges_again(self, folder, tmp_path):
        (tmp_path / "judge.py").write_text("def judge(prompt, answer): return 1")
        config = Config(compare={"judge": f"{tmp_path / 'judge.py'}:judge"})
        finish_all(folder, config)
        assert done(folder, config) == config.stages
        (tmp_path / "judge.py").write_text("def judge(prompt, answer): return 2")
        assert done(folder, config) == ["sft", "reward", "ppo", "dpo"]

    def test_more_training_seeds_train_no_seed_again(self, finished):
        config = Config(compare={"seeds": 2})
        assert done(finished, config) == ["sft", "reward", "ppo", "dpo"]
        for step in run_steps(config, with_judge=False):
            if step.name.endswith("-seed-1"):
                finish(finished, step.name, config)
        finish(finished, "compare", config)
        assert done(finished, config) == [step.name for step in run_steps(config, with_judge=False)]

    def test_a_repetition_has_the_settings_of_its_stage_and_a_seed_and_adapters_of_its_own(self, finished):
        config = Config(compare={"seeds": 2})
        first, again = (
            stage_inputs(step_of(name, config), config, FINGERPRINT, finished) for name in ("dpo", "dpo-seed-1")
        )
        assert changed_inputs(first, again) == ["seed 0 -> 1"]
        assert stage_inputs(step_of("ppo-seed-1", config), config, FINGERPRINT, finished) is None
        finish(finished, "reward-seed-1", config)
        adapters = stage_inputs(step_of("ppo-seed-1", config), config, FINGERPRINT, finished)["adapters"]
        assert set(adapters) == {"sft", "reward-seed-1"}

    def test_the_judge_is_trained_as_the_reward_model_is(self, finished):
        judge = run_steps(Config(), with_judge=True)[-2]
        inputs = stage_inputs(judge, Config(), FINGERPRINT, finished)
        assert inputs["reward"] == finished.stage("reward").inputs["reward"] and set(inputs["adapters"]) == {"sft"}

    def test_report_to_has_no_effect(self, finished):
        assert done(finished, Config(report_to="wandb")) == Config().stages

    @pytest.mark.parametrize("setting", ["model", "lora", "seed", "data"])
    def test_what_all_stages_share_changes_them_all(self, finished, setting):
        changed = {"model": {"base": "org/x"}, "lora": {"rank": 4}, "seed": 1, "data": {"max_response_tokens": 9}}
        assert done(finished, Config(**{setting: changed[setting]})) == []

    def test_other_data_change_all_stages(self, finished):
        assert done(finished, Config(), fingerprint="e" * 64) == []

    @pytest.mark.parametrize("stage, setting", [("ppo", "kl_coef"), ("dpo", "beta"), ("reward", "learning_rate")])
    def test_a_stages_own_setting_changes_only_that_stage_at_first(self, finished, stage, setting):
        assert set(Config().stages) - set(done(finished, Config(**{stage: {setting: 0.01}}))) == {stage}

    def test_kl_coef_changes_ppo_and_then_the_comparison(self, finished):
        config = Config(ppo={"kl_coef": 0.01})
        finish(finished, "ppo", config, weights=b"other")
        assert done(finished, config) == ["sft", "reward", "ppo", "dpo"]

    def test_a_changed_adapter_changes_what_follows_it(self, finished):
        finish(finished, "sft", weights=b"other")
        assert done(finished, Config()) == ["sft"]

    def test_a_changed_reward_adapter_leaves_dpo_alone(self, finished):
        finish(finished, "reward", weights=b"other")
        assert done(finished, Config()) == ["sft", "reward", "dpo"]

    def test_an_adapter_made_again_byte_for_byte_changes_nothing(self, finished):
        finish(finished, "sft")
        assert done(finished, Config()) == Config().stages

    def test_one_arm_more_changes_the_comparison_alone(self, folder):
        fewer = Config(stages=["sft", "reward", "ppo", "compare"])
        finish_all(folder, fewer)
        finish(folder, "dpo", Config())
        assert done(folder, Config()) == ["sft", "reward", "ppo", "dpo"]

    def test_a_removed_adapter_makes_its_stage_and_what_needs_it_run(self, finished):
        (finished.path / "sft" / ADAPTER_FILE).unlink()
        assert done(finished, Config()) == []


class TestChangedInputs:
    def test_are_told_as_key_old_and_new(self):
        assert changed_inputs({"ppo": {"kl_coef": 0.05}, "seed": 0}, {"ppo": {"kl_coef": 0.1}, "seed": 0}) == [
            "ppo.kl_coef 0.05 -> 0.1"
        ]

    def test_long_values_are_shortened(self):
        old, new = ({"adapters": {"sft": letter * 64}} for letter in "ab")
        assert changed_inputs(old, new) == ["adapters.sft aaaaaaaaaaaa… -> bbbbbbbbbbbb…"]

    def test_a_new_key_had_no_value_before(self):
        assert changed_inputs({"sft": {"trl": {"a": 1}}}, {"sft": {"trl": {"a": 1, "b": 2}}}) == ["sft.trl.b None -> 2"]

    @given(st.dictionaries(st.text("ab", max_size=2), st.integers() | st.dictionaries(st.text("ab"), st.integers())))
    def test_are_none_between_equals(self, inputs):
        assert changed_inputs(inputs, inputs) == []


class TestAFinishedStageThatWasDamaged:
    @pytest.mark.parametrize(
        "harm",
        [
            lambda path: (path / ADAPTER_FILE).write_bytes(b"s"),
            lambda path: (path / ADAPTER_FILE).write_bytes(b"other"),
            lambda path: (path / ADAPTER_FILE).unlink(),
            lambda path: (path / STAGE_FILE).write_text("{"),
            lambda path: (path / "adapter_config.json").write_bytes(b"w"),
            lambda path: (path / "base.json").unlink(),
        ],
    )
    def test_is_not_done_is_said_and_is_set_aside(self, folder, harm, capsys):
        place = folder.workplace("sft")
        for name in (ADAPTER_FILE, "adapter_config.json", "base.json"):
            (place / name).write_bytes(b"weights")
        inputs = stage_inputs(step_of("sft", Config()), Config(), FINGERPRINT, folder)
        folder.finish_stage("sft", place, inputs, 1.0, None, {})
        harm(folder.path / "sft")
        assert folder.stage("sft") is None and done(folder, Config(stages=["sft"])) == []
        folder.clear_up()
        assert "sft: its adapter or stage.json is not what was written" in capsys.readouterr().err
        assert names(folder.path) == ["run.json", "sft.corrupt"]
        folder.clear_up()
        assert names(folder.path) == ["run.json", "sft.corrupt"] and not capsys.readouterr().err

    def test_twice_loses_neither(self, folder, capsys):
        for _ in range(2):
            finish(folder, "sft", weights=b"weights")
            (folder.path / "sft" / ADAPTER_FILE).write_bytes(b"cut")
            folder.clear_up()
        assert names(folder.path) == ["run.json", "sft-2.corrupt", "sft.corrupt"]

    def test_of_an_earlier_version_that_wrote_no_sha_is_done(self, folder):
        finish(folder, "sft", weights=b"weights")
        file = folder.path / "sft" / STAGE_FILE
        record = json.loads(file.read_text())
        del record["sha256"]
        file.write_text(json.dumps(record))
        assert done(folder, Config(stages=["sft"])) == ["sft"]


class TestTheLockWhereTheKernelHasNone:
    @pytest.fixture(autouse=True)
    def no_flock(self, monkeypatch):
        def refused(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(lock.fcntl, "flock", refused)

    def test_a_second_run_is_refused_with_the_owner_and_the_file_to_remove(self, tmp_path):
        with run_lock(tmp_path), pytest.raises(RunError) as caught, run_lock(tmp_path):
            pass
        assert f"in use by process {os.getpid()} on {socket.gethostname()} since 2" in str(caught.value)
        assert f"remove {tmp_path / '.owner'}" in str(caught.value)

    def test_is_free_after_an_error_inside(self, tmp_path):
        with pytest.raises(KeyError), run_lock(tmp_path):
            raise KeyError
        with run_lock(tmp_path):
            pass
        assert names(tmp_path) == [".lock"]

    @pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"began": 1.0}])
    def test_one_of_a_process_that_is_gone_is_stale_also_where_its_number_was_given_again(
        self, tmp_path, change, capsys
    ):
        with run_lock(tmp_path):
            owner = json.loads((tmp_path / ".owner").read_text())
        (tmp_path / ".owner").write_text(json.dumps(owner | change))
        with run_lock(tmp_path):
            assert "did not come to its end" in capsys.readouterr().out

    def test_one_of_another_host_is_never_taken_for_stale(self, tmp_path):
        (tmp_path / ".owner").write_text(json.dumps({"pid": 1, "host": "elsewhere", "began": 1.0, "since": "2026"}))
        with pytest.raises(RunError, match="process 1 on elsewhere"), run_lock(tmp_path):
            pass


class TestAKilledOwner:
    def test_is_told_by_the_next(self, tmp_path, owner, capsys):
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        with run_lock(tmp_path):
            assert f"process {owner.pid} on" in capsys.readouterr().out
        with run_lock(tmp_path):
            assert not capsys.readouterr().out
