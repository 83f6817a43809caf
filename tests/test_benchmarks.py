"""Benchmarks take too long for a test; what they take from the kit must be there all the same."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).resolve().parents[1] / "benchmarks").glob("*.py"))


def taken_from_the_kit(file):
    """(module, name) of every `from kit… import name`, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kit":
            for name in node.names:
                yield node.module, name.name


class TestImports:
    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_every_name_is_there(self, file):
        wanted = list(taken_from_the_kit(file))
        assert [f"{module}.{name}" for module, name in wanted if not there(module, name)] == []

    @pytest.mark.parametrize("name", ["startup", "ppo_vs_trl", "ppo_learning_vs_trl"])
    def test_each_says_what_it_does(self, name):
        file = next(file for file in FILES if file.stem == name)
        done = subprocess.run([sys.executable, str(file), "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


def there(module, name):
    return hasattr(importlib.import_module(module), name)
