"""Names and links that would lead a run out of its output folder."""

import json

import pytest

import kit
from kit.errors import ConfigError, RunError
from kit.pipeline import compare_run
from kit.runs.folder import RunFolder
from kit.runs.links import refuse_links


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that is nobody's business; nothing of it may change."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "keep.txt").write_text("mine")
    yield place
    assert [path.name for path in place.iterdir()] == ["keep.txt"] and (place / "keep.txt").read_text() == "mine"


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run folder as a stranger might hand it on."""
    made = RunFolder(tmp_path / "runs" / "x")
    made.create("x")
    (made.path / "sft").mkdir()
    return made


def starts(tmp_path, **settings):
    return kit.run_pipeline({"name": "x", "output_dir": str(tmp_path / "runs"), **settings})


class TestAName:
    @pytest.mark.parametrize(
        "name",
        ["..", ".", "../x", "/tmp/x", "x/y", "x\\y", ".x", "-x", "", "x\n", "x\x00", "x\u202ey", "ｘ", "х", "x y", "~",
         "x" * 65, "$HOME", "x:y", "x*"],
    )  # fmt: skip
    def test_is_one_plain_word(self, name):
        with pytest.raises(ConfigError, match="name"):
            kit.load_config({"name": name})

    def test_keeps_the_run_in_the_output_folder(self, tmp_path):
        config = kit.load_config({"name": "a.b-c_1", "output_dir": str(tmp_path)})
        assert config.run_path == tmp_path / "a.b-c_1"


class TestARunFolder:
    @pytest.mark.parametrize(
        "start", [starts, lambda place: kit.check({"name": "x", "output_dir": str(place / "runs")})]
    )
    def test_that_is_a_link_is_refused(self, tmp_path, elsewhere, start):
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "x").symlink_to(elsewhere)
        with pytest.raises(RunError, match=r"runs/x: is a link to .*elsewhere.*output_dir="):
            start(tmp_path)

    def test_that_is_a_link_to_nothing_is_refused(self, tmp_path):
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "x").symlink_to(tmp_path / "later")
        with pytest.raises(RunError, match="is a link"):
            starts(tmp_path)
        assert not (tmp_path / "later").exists()

    @pytest.mark.parametrize(
        "name",
        ["dpo", "sft/adapter_model.safetensors", ".lock", "run.json", "data", ".ppo-checkpoints", ".dpo.1.tmp",
         ".old-sft", "config.yaml"],
    )  # fmt: skip
    def test_with_a_link_out_of_it_is_refused(self, tmp_path, run, elsewhere, name):
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(elsewhere / "keep.txt")
        with pytest.raises(RunError, match="out of the run folder"):
            starts(tmp_path)

    def test_with_a_link_out_of_it_is_not_compared(self, run, elsewhere):
        (run.path / "config.yaml").write_text("name: x\n")
        (run.path / ".lock").symlink_to(elsewhere / "keep.txt")
        with pytest.raises(RunError, match="out of the run folder"):
            compare_run(run.path)

    def test_with_a_link_within_it_is_taken(self, run):
        (run.path / "latest").symlink_to("sft")
        refuse_links(run.path)

    def test_in_an_output_folder_that_is_a_link_is_taken(self, tmp_path, elsewhere):
        (tmp_path / "runs").symlink_to(tmp_path)
        config = kit.load_config({"name": "x", "output_dir": str(tmp_path / "runs")})
        refuse_links(config.run_path)
        assert config.run_path == tmp_path / "x"

    def test_loses_its_leftovers_and_not_what_they_link_to(self, run, elsewhere):
        (run.path / ".old-sft").symlink_to(elsewhere)
        (run.path / ".dpo.1.tmp").mkdir()
        (run.path / ".dpo.1.tmp" / "inner").symlink_to(elsewhere)
        run.clear_up()
        assert not list(run.path.glob(".old-*")) and not list(run.path.glob(".*.tmp"))

    @pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"stages": []}'])
    def test_with_a_hostile_ledger_ends_in_a_message(self, run, text):
        (run.path / "run.json").write_text(text)
        with pytest.raises(RunError, match="not a readable ledger"):
            run.ledger()

    @pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{}", json.dumps({"inputs": 1})])
    def test_with_a_hostile_record_has_no_finished_stage(self, run, text):
        (run.path / "sft" / "adapter_model.safetensors").write_bytes(b"")
        (run.path / "sft" / "stage.json").write_text(text)
        assert run.stage("sft") is None
