"""The floors of the libraries: an older one stops a run, a check and a comparison, in one line."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kit
from kit.cli import app
from kit.errors import MachineError
from kit.floors import FLOORS, check_floors

ROOT = Path(__file__).parent.parent


@pytest.fixture
def pretend(monkeypatch):
    """Lets libraries have other versions; None: not installed."""
    real = importlib.metadata.version

    def pretend(**versions):
        def version(name):
            if versions.get(name, "") is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions.get(name) or real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


class TestTheFloors:
    def test_the_floors_are_those_of_the_project_file(self):
        wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
        found = {m[1]: m[2] for text in wanted if (m := re.match(r"([\w-]+)>=([\d.]+)", text))}
        assert {name: floor.version for name, floor in FLOORS.items()} == found

    def test_what_is_installed_here_is_new_enough(self):
        check_floors()

    @pytest.mark.parametrize(
        "name, version, why",
        [
            ("torch", "2.9.1+cu128", "CVE-2026-24747"),
            ("torch", "2.10.0a0+gitabc", "CVE-2026-24747"),
            ("transformers", "5.2.4", "CVE-2026-4372"),
            ("trl", "1.15", "the kit calls what came with it"),
            ("peft", "not a version", "the kit calls what came with it"),
        ],
    )
    def test_an_older_library_is_named_in_one_line_with_what_to_run(self, pretend, name, version, why):
        pretend(**{name: version})
        with pytest.raises(MachineError) as caught:
            check_floors()
        text, floor = str(caught.value), FLOORS[name].version
        assert text.startswith(f"{name} {version} is older than {floor}: ") and why in text and "\n" not in text
        assert text.endswith(f"Run: pip install --upgrade '{name}>={floor}'")

    @pytest.mark.parametrize("version", ["2.10", "2.10.1", "2.13.0+cpu", "3.0.dev0"])
    def test_a_newer_library_is_taken(self, pretend, version):
        pretend(torch=version)
        check_floors()

    def test_all_that_are_too_old_stand_in_one_message(self, pretend):
        pretend(torch="2.6", transformers="4.57")
        with pytest.raises(MachineError, match=r"'torch>=2\.10' 'transformers>=5\.8'$"):
            check_floors()

    def test_a_library_that_is_not_there_is_left_to_its_import(self, pretend):
        pretend(bitsandbytes=None)
        check_floors()

    @pytest.mark.parametrize("command", ["run", "check", "compare"])
    def test_every_command_asks_before_it_reads_anything(self, pretend, tmp_path, command):
        pretend(torch="2.6")
        result = CliRunner().invoke(app, [command, str(tmp_path / "absent.yaml")])
        assert result.exit_code == 2 and "torch 2.6 is older than 2.10" in result.output
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("call", [kit.run_pipeline, kit.check])
    def test_so_do_the_functions(self, pretend, call):
        pretend(transformers="5.0")
        with pytest.raises(MachineError, match=r"transformers 5\.0"):
            call({"name": "absent"})

    def test_help_and_import_do_not_ask(self):
        code = "import sys, kit, kit.cli; sys.exit('kit.floors' in sys.modules or 'packaging.version' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0
