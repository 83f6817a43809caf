"""Every block of the README is run, or says above itself why it is not.

The blocks stand as a reader sees them; only the files they name are made small. They run in a folder that holds
`configs/quickstart.yaml` with the numbers of SMALL in place of its own and an untrained base in place of the demo's, so
that nothing waits for one to be trained, and `my.jsonl`, pairs of a reader. First all bash blocks, in order, in one
shell; then all Python blocks, in order, in one process.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import kit

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = {
    "data": {"eval_fraction": 0.05, "max_response_tokens": 32},
    "sft": {"max_steps": 2, "batch_size": 8},
    "reward": {"max_steps": 2, "batch_size": 8},
    "dpo": {"max_steps": 2, "batch_size": 8, "snapshots": 1},
    # A reward model of two steps is at chance, where PPO would not start.
    "ppo": {"episodes": 16, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 2, "snapshots": 1, "force": True},
    "compare": {"prompts": 8},
}
MARKER = re.compile(r"<!-- not run: \S.* -->")
RUN = ("bash", "python")  # executed
READ = ("yaml", "jsonl")  # loaded
SHOWN = ("text",)  # there is nothing to run in it


class Block(NamedTuple):
    """A fenced block: its language, its text, the line its text begins on, and the line above its fence."""

    language: str
    text: str
    line: int
    above: str

    @property
    def marked(self) -> bool:
        """Whether the README says that it is not run, and why."""
        return bool(MARKER.fullmatch(self.above))


def blocks_of(markdown: str) -> list[Block]:
    """The fenced blocks of a text, in order."""
    lines, found, start = markdown.splitlines(), [], None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            text = "\n".join(lines[start + 1 : number])
            found.append(Block(lines[start][3:].strip(), text, start + 2, lines[start - 1] if start else ""))
            start = None
    assert start is None, f"a block begins on line {start} and does not end"
    return found


BLOCKS = blocks_of(README)


def blocks_in(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and not block.marked]


def faults(blocks: list[Block]) -> list[str]:
    """The blocks that nobody runs and that do not say so."""
    known = (*RUN, *READ, *SHOWN)
    return [f"line {b.line}: language {b.language!r}" for b in blocks if b.language not in known and not b.marked]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A reader's folder: small configs, own data, a base that needs no training, and the `kit` command on the PATH."""
    from toy import base_folder

    from kit.demo.world import preference_rows

    folder = tmp_path_factory.mktemp("readme")
    config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    for section, values in SMALL.items():
        config[section] |= values
    config["model"]["base"] = str(base_folder())
    (folder / "configs").mkdir()
    (folder / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    rows = [
        {"prompt": row["prompt"][0]["content"]} | {side: row[side][0]["content"] for side in ("chosen", "rejected")}
        for row in preference_rows(seed=0)[:120]
    ]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "bin").mkdir()
    command = folder / "bin" / "kit"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kit.cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return folder


def run_in(place: Path, command: list[str]) -> str:
    """What the command prints; fails with all of it unless it exits with 0."""
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def shell_output(place):
    """What the bash blocks print."""
    return run_in(place, ["bash", "-euc", "\n".join(block.text for block in blocks_in("bash"))])


@pytest.fixture(scope="module")
def python_output(place, shell_output):
    """What the Python blocks print; in the script they stand on their own lines of the README, so that a traceback
    names those."""
    lines = [""] * len(README.splitlines())
    for block in blocks_in("python"):
        for offset, text in enumerate(block.text.splitlines()):
            lines[block.line - 1 + offset] = text
    (place / "README.py").write_text("\n".join(lines), encoding="utf-8")
    return run_in(place, [sys.executable, "README.py"])


class TestBlocks:
    def test_are_run_or_say_why_they_are_not(self):
        assert not faults(BLOCKS)

    def test_are_there_in_every_language_this_file_runs_or_reads(self):
        assert all(blocks_in(language) for language in (*RUN, *READ))

    @pytest.mark.parametrize(
        "markdown",
        ["```\nls\n```", "```sh\nls\n```", "```console\n$ ls\n```", "<!-- not run: -->\n```sh\nls\n```"],
    )
    def test_in_another_language_without_a_reason_would_be_found(self, markdown):
        assert len(faults(blocks_of(markdown))) == 1

    def test_are_excused_by_a_comment_right_above_that_gives_a_reason(self):
        excused, run = blocks_of("<!-- not run: needs a GPU -->\n```bash\na\n```\n\n```bash\nb\n```")
        assert excused.marked and not run.marked


class TestBashBlocks:
    pytestmark = pytest.mark.pipeline

    def test_run_and_leave_a_report(self, place, shell_output):
        assert (place / "runs" / "quickstart" / "compare" / "report.html").is_file()

    def test_train_on_the_readers_own_pairs(self, place, shell_output):
        assert "my.jsonl: recognised as prompt, chosen and rejected; 120 pairs" in shell_output
        assert (place / "runs" / "mine" / "compare" / "report.html").is_file()


class TestPythonBlocks:
    pytestmark = pytest.mark.pipeline

    def test_find_the_run_of_the_command_line_finished(self, python_output):
        assert "all stages are done; nothing to train" in python_output or "sft: done before, kept" in python_output

    def test_print_the_verdict(self, python_output):
        assert "PPO against DPO:" in python_output

    def test_leave_a_policy_trained_by_hand(self, place, python_output):
        assert (place / "ppo-by-hand" / "policy" / "adapter_model.safetensors").is_file()


class TestReadBlocks:
    @pytest.mark.parametrize("block", blocks_in("yaml"), ids=lambda block: f"line {block.line}")
    def test_of_yaml_are_configurations(self, block, tmp_path):
        (tmp_path / "config.yaml").write_text(block.text, encoding="utf-8")
        assert kit.load_config(tmp_path / "config.yaml").name

    @pytest.mark.parametrize(
        "line", [line for block in blocks_in("jsonl") for line in block.text.splitlines()], ids=lambda line: line[:24]
    )
    def test_of_json_lines_hold_one_form_of_the_same_pair_each(self, line):
        from kit.data.convert import read_pairs
        from kit.data.sources import read_source

        source = read_source([json.loads(line)], "data.preferences", seed=0)
        (pair,) = read_pairs(source, kit.Config().data).rows
        wanted = [{"role": "user", "content": "Name a fruit."}], "An apple.", "A chair."
        assert (pair.prompt, pair.chosen, pair.rejected) == wanted


class TestWhatTheReadmeNames:
    def test_make_targets_exist(self):
        texts = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)(?:[A-Z_]+=\S+ )?make ([a-z-]+)", texts, re.MULTILINE))
        rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {"quickstart", "test"} <= named <= set(rules)

    def test_files_exist(self):
        linked = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
        named = re.findall(r"configs/[\w.-]+\.yaml|notebooks/[\w.-]+", README)
        assert [name for name in {*linked, *named} if not (ROOT / name).exists()] == []

    def test_every_shipped_config_stands_in_it(self):
        assert all(f"configs/{file.name}" in README for file in (ROOT / "configs").glob("*.yaml"))

    def test_settings_exist(self):
        named = set(re.findall(r"`(?:sft|reward|ppo|dpo|data|model|compare)\.\w+(?:=\S+?)?`", README))
        for setting in (name.strip("`").split("=")[0] for name in named):
            section, key = setting.split(".")
            assert key in type(getattr(kit.Config(), section)).model_fields, setting

    def test_nothing_of_this_machine(self):
        for file in (*ROOT.glob("*.md"), *ROOT.glob("configs/*"), *ROOT.glob("notebooks/*"), ROOT / "constraints.txt"):
            assert not re.search(r"/(root|work|home|Users|tmp)/", file.read_text(encoding="utf-8")), file
