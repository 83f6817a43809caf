"""The command line: a user's mistake is one clear message and exit code 2, in seconds, with nothing written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kit import pipeline
from kit.cli import app
from kit.errors import ConfigError, DataError, KitError, MachineError, ModelError, RunError, TrainingStopped

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = [{"prompt": f"Name {n} pets.", "chosen": f"Cat {n}.", "rejected": "No."} for n in range(40)]
CONFIG = "model: {base: demo}\nstages: [sft, reward, dpo]\ndata: {preferences: rows.jsonl}\n"


@pytest.fixture
def place(tmp_path) -> Path:
    """A working directory with a configuration and its data."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def kit(place: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`kit` in a process of its own, with no connection to the hub."""
    return python(place, "-m", "kit.cli", *arguments)


def python(place: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=120
    )


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def refusal(place: Path, *arguments: str) -> str:
    """The message of a command that must refuse; checks that it does so as every refusal should."""
    before = contents(place)
    done = kit(place, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert contents(place) == before, "something was written"
    assert done.stderr.startswith("kit: error: ")
    return done.stderr.removeprefix("kit: error: ").rstrip("\n")


def heavy_imports(place: Path, *arguments: str) -> str:
    """The exit code of a command that must refuse, and what heavy libraries it had imported by then."""
    code = (
        "import sys\n"
        "from kit.cli import main\n"
        f"sys.argv = {['kit', *arguments]!r}\n"
        "try: main()\n"
        "except SystemExit as end:\n"
        "    print(end.code, {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules))\n"
    )
    return python(place, "-c", code).stdout


class TestHelp:
    def test_lists_the_commands(self, tmp_path):
        done = kit(tmp_path, "--help")
        assert done.returncode == 0
        assert {"run", "check", "compare", "sample", "agreement"} <= set(done.stdout.replace("│", " ").split())

    @pytest.mark.parametrize("command", ["run", "check", "compare"])
    def test_of_a_command_says_what_it_takes(self, command):
        result = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
        assert result.exit_code == 0 and "KEY=VALUE" in result.output

    def test_an_unknown_command_is_refused(self, tmp_path):
        done = kit(tmp_path, "rnu", "config.yaml")
        assert done.returncode == 2 and "rnu" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "check"])
class TestAWrongConfiguration:
    def test_that_is_missing_is_told_with_the_near_name(self, place, command):
        text = refusal(place, command, "confg.yaml")
        assert text.startswith("confg.yaml: no such file; did you mean config.yaml?")

    def test_with_a_typo_in_a_key_is_told_with_its_line(self, place, command):
        (place / "config.yaml").write_text(CONFIG + "ppo:\n  kl_coef: 0.1\n  episodes: 64\n  learing_rate: 1.0e-4\n")
        assert refusal(place, command, "config.yaml").splitlines() == [
            "1 problem in the configuration:",
            "  config.yaml:7 ppo.learing_rate: unknown key, did you mean learning_rate?",
        ]

    def test_with_a_typo_in_an_override_is_told_with_that_override(self, place, command):
        text = refusal(place, command, "config.yaml", "sft.epoch=2")
        assert "  override `sft.epoch=2` sft.epoch: unknown key, did you mean epochs?" in text

    def test_that_is_a_folder_is_told(self, place, command):
        assert refusal(place, command, ".") == ".: is a folder; name the YAML file in it, e.g. config.yaml"

    def test_is_told_before_anything_heavy_is_imported(self, place, command):
        assert heavy_imports(place, command, "x.yaml") == "2 set()\n"


class TestWrongData:
    def test_that_are_missing_are_told_with_the_near_name(self, place):
        text = refusal(place, "run", "config.yaml", "data.preferences=row.jsonl")
        assert text == "data.preferences: no such file: row.jsonl; did you mean rows.jsonl?"

    def test_with_a_missing_column_are_told_with_what_was_found_and_wanted(self, place):
        (place / "rows.jsonl").write_text('{"prompt": "a", "winner": "b", "rejected": "c"}\n')
        text = refusal(place, "run", "config.yaml")
        assert text.startswith("rows.jsonl: no preferences: missing chosen; found the columns prompt, rejected, winner")
        assert text.endswith("Name your columns in the config: data.columns: {chosen: winner}.")

    def test_that_are_empty_are_told(self, place):
        (place / "rows.jsonl").write_text("")
        assert refusal(place, "run", "config.yaml").endswith(
            "rows.jsonl: the file is empty; at least one row is wanted."
        )

    def test_with_a_malformed_line_are_told_with_that_line(self, place):
        with open(place / "rows.jsonl", "a") as file:
            file.write('{"prompt": "a", \n')
        assert "rows.jsonl:41:17: no JSON" in refusal(place, "run", "config.yaml")


class TestAWrongModel:
    def test_that_nobody_knows_is_told_in_seconds(self, place):
        text = refusal(place, "run", "config.yaml", "model.base=nobody/no-such-model")
        assert text.startswith("model.base nobody/no-such-model: not in the local cache")


class TestAWrongPlace:
    def test_a_folder_that_is_no_run_folder_is_not_compared(self, place):
        (place / "config.yaml").unlink()
        text = refusal(place, "compare", ".")
        assert text == ".: no run folder (it has no config.yaml); runs stand under output_dir/name"

    @pytest.mark.parametrize("run_dir", ["no-such-folder", "rows.jsonl"])
    def test_what_is_no_folder_is_not_compared(self, place, run_dir):
        assert refusal(place, "compare", run_dir).startswith(f"{run_dir}: no run folder")

    def test_what_is_no_run_is_not_asked_about_and_nothing_heavy_is_imported_to_say_so(self, place):
        assert refusal(place, "label", "--ab", "runs/qickstart").startswith("runs/qickstart: no run folder")
        assert heavy_imports(place, "label", "--ab", "runs/qickstart") == "2 set()\n"

    def test_a_folder_of_somebody_else_is_not_written_into(self, place, monkeypatch):
        (place / "runs" / "quickstart").mkdir(parents=True)
        (place / "runs" / "quickstart" / "thesis.tex").touch()
        before = contents(place)
        monkeypatch.chdir(place)
        result = CliRunner().invoke(app, ["run", "config.yaml"])
        assert result.exit_code == 2 and "is not a run folder (it holds thesis.tex)" in result.stderr
        assert contents(place) == before


class TestComparing:
    """What `kit compare` hands on; that it trains nothing is proved in test_pipeline.py."""

    @pytest.fixture
    def asked(self, monkeypatch):
        """The folders and overrides that a comparison was asked for."""
        calls = []

        def compare_run(folder, overrides):
            calls.append((str(folder), overrides))
            raise RunError("not here")

        monkeypatch.setattr(pipeline, "compare_run", compare_run)
        return calls

    def test_a_judge_is_a_setting_like_others(self, asked):
        CliRunner().invoke(app, ["compare", "runs/a", "compare.prompts=9", "--judge", "judge.py:best"])
        assert asked == [("runs/a", ["compare.prompts=9", "compare.judge=judge.py:best"])]

    def test_without_one_the_run_s_own_judges(self, asked):
        CliRunner().invoke(app, ["compare", "runs/a"])
        assert asked == [("runs/a", [])]

    def test_no_run_is_refused(self, asked):
        result = CliRunner().invoke(app, ["compare", "compare.prompts=9"])
        assert (result.exit_code, asked) == (2, []) and "name the folder of a finished run" in result.stderr

    def test_several_runs_take_no_settings(self, asked):
        result = CliRunner().invoke(app, ["compare", "runs/a", "runs/b", "--judge", "llm"])
        assert (result.exit_code, asked) == (2, []) and "several runs are compared as they are" in result.stderr


class TestCheck:
    @pytest.fixture
    def invoke(self, place, monkeypatch):
        """`kit` in this process, so that torch is imported once."""
        monkeypatch.chdir(place)
        return lambda *arguments: CliRunner().invoke(app, arguments)

    def test_prints_the_counts_and_writes_nothing(self, place):
        before = contents(place)
        done = kit(place, "check", "config.yaml")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert "rows.jsonl: recognised as prompt, chosen and rejected; 40 pairs" in lines
        assert "pairs: 36 to train on, 4 held out" in lines
        assert [line for line in lines if line.endswith("would run")] == [
            "sft: would run", "reward: would run", "dpo: would run",
        ]  # fmt: skip
        assert lines[-1] == "all good"
        assert contents(place) == before

    def test_prints_what_the_data_hold(self, place, invoke):
        text = invoke("check", "config.yaml").stdout
        for heading in ("Rows", "Tokens", "Pairs", "Turns"):
            assert f"\n{heading}\n" in text
        assert "A pair, as the reward model and DPO compare it (rows.jsonl:" in text

    def test_with_json_prints_nothing_else(self, place, invoke):
        done = invoke("check", "config.yaml", "--json")
        values = json.loads(done.stdout)
        assert done.exit_code == 0 and values["ok"] is True
        assert values["sizes"][1] == {"what": "pairs", "train": 36, "held_out": 4, "dropped": {}}

    def test_with_json_what_is_said_on_the_way_goes_to_standard_error(self, invoke, monkeypatch):
        from kit import notices, preflight

        check = preflight.check
        monkeypatch.setattr(
            preflight, "check", lambda *args: (notices.say("a plain template is used"), check(*args))[1]
        )
        done = invoke("check", "config.yaml", "--json")
        assert json.loads(done.stdout)["ok"] and "a plain template is used" in done.stderr

    def test_with_html_writes_that_page_and_nothing_else(self, place, invoke):
        before = contents(place)
        done = invoke("check", "config.yaml", "--html", "report.html")
        after = contents(place)
        assert done.exit_code == 0 and done.stdout.endswith("Report: report.html\n")
        assert after.pop("report.html").startswith(b"<!doctype html>") and after == before

    def test_refuses_a_page_in_a_folder_that_is_not_there(self, place):
        text = refusal(place, "check", "config.yaml", "--html", "reports/report.html")
        assert text == "--html reports/report.html: name a file in a folder that exists, e.g. report.html"

    def test_shows_all_that_stops_a_run_and_says_so_in_its_exit_code(self, place, invoke):
        rows = [row | {"rejected": row["chosen"]} if n < 9 else row for n, row in enumerate(ROWS)]
        rows[20] |= {"chosen": None}
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        before = contents(place)
        done = invoke("check", "config.yaml")
        assert (done.exit_code, done.stderr) == (2, "")
        assert "rows.jsonl:21: chosen is null" in done.stdout and "chosen equals rejected; more than" in done.stdout
        assert done.stdout.splitlines()[-1] == "2 things would stop this run"
        assert contents(place) == before


class TestExitCodes:
    """What a command raises decides its exit code; only our own mistakes show a traceback."""

    @pytest.fixture
    def outcome(self, monkeypatch):
        """Runs `kit run config.yaml seed=1 stages=[sft, dpo]` over a pipeline that raises."""

        def outcome(error: BaseException):
            def run_pipeline(*_, **__):
                raise error

            monkeypatch.setattr(pipeline, "run_pipeline", run_pipeline)
            return CliRunner().invoke(app, ["run", "config.yaml", "seed=1", "stages=[sft, dpo]"])

        return outcome

    @pytest.mark.parametrize("error", [ConfigError, DataError, ModelError, RunError, MachineError, KitError])
    def test_2_is_an_input_that_is_wrong(self, outcome, error):
        result = outcome(error("hh.jsonl:3: wrong"))
        assert (result.exit_code, result.stderr) == (2, "kit: error: hh.jsonl:3: wrong\n")

    def test_3_is_a_guard_that_stopped_the_training(self, outcome):
        result = outcome(TrainingStopped("ppo: the KL ran away"))
        assert (result.exit_code, result.stderr) == (3, "kit: error: ppo: the KL ran away\n")

    def test_130_is_an_interruption_with_the_command_that_goes_on(self, outcome):
        result = outcome(KeyboardInterrupt())
        assert result.exit_code == 130
        assert result.stderr.endswith("Go on with: kit run config.yaml seed=1 'stages=[sft, dpo]'\n")

    def test_1_is_our_own_mistake(self, outcome):
        result = outcome(ZeroDivisionError("ours"))
        assert result.exit_code == 1 and isinstance(result.exception, ZeroDivisionError)

    def test_our_own_mistake_shows_its_traceback(self, tmp_path):
        code = (
            "import sys, kit.pipeline\n"
            "kit.pipeline.run_pipeline = lambda *_, **__: 1 / 0\n"
            "sys.argv = ['kit', 'run', 'x.yaml']\n"
            "from kit.cli import main\n"
            "main()\n"
        )
        done = python(tmp_path, "-c", code)
        assert done.returncode == 1
        assert "Traceback" in done.stderr and done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
