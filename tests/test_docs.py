"""docs/ppo.md against the code: every setting, guard and metric stands there, and every test it names exists."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from ppo_toy import trainer

import kit
from kit.ppo.guards import GUARDS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")
IN_CODE = set(re.findall(r"`([\w/. ]+)`", TEXT))


def names_in(file):
    """`Class` and `Class::test` of a test file."""
    for node in ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
            yield from (f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef))


class TestPPOPage:
    @pytest.mark.parametrize(
        "name", [n for n in type(kit.Config().ppo).model_fields if n not in ("trl", "temperature")]
    )
    def test_has_every_setting(self, name):
        assert name in IN_CODE

    def test_has_every_guard_with_its_patience(self):
        for guard in GUARDS:
            rows = [line for line in TEXT.splitlines() if line.startswith(f"| `{guard.name}` |")]
            assert rows[-1].endswith(f"| {guard.warns} | {guard.stops} |")

    def test_has_every_metric_that_a_rollout_logs(self, tmp_path):
        ppo = trainer(tmp_path, rollouts=1)
        ppo.train()
        (row,) = [row for row in ppo.state.log_history if "objective/scores" in row]
        own = {name for name in row if "/" in name or name in ("eos_rate", "kl_coef", "episode")}
        assert own - IN_CODE - {"rewards/reward_model"} == set()

    def test_names_only_tests_that_exist(self):
        named = re.findall(r"(test_\w+\.py)::(\w+(?:::\w+)?)", TEXT)
        assert len(named) > 20
        assert [f"{file}::{test}" for file, test in named if test not in set(names_in(file))] == []

    def test_its_yaml_is_a_configuration(self):
        (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
        config = kit.load_config(yaml.safe_load(block))
        assert list(config.ppo.reward_funcs) == ["reward_model", "rewards.py:brevity"]


class TestSilentFailuresPage:
    PAGE = (ROOT / "docs" / "silent-failures.md").read_text(encoding="utf-8")

    def test_has_a_test_that_exists_in_every_row(self):
        rows = [line for line in self.PAGE.splitlines() if line.startswith("| ") and " --- " not in line]
        rows = [line for line in rows if not line.startswith("| failure |")]
        named = [re.findall(r"(test_\w+\.py)::(\w+) \|$", row) for row in rows]
        assert len(rows) > 30 and all(named)
        assert [f"{file}::{test}" for ((file, test),) in named if test not in set(names_in(file))] == []


class TestReliabilityPage:
    PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")

    def test_names_a_test_that_exists_for_every_promise_about_safety(self):
        safe = self.PAGE.partition("## Safe by default")[2].partition("\n## ")[0]
        rows = [line for line in safe.splitlines() if line.startswith("| ") and " --- " not in line][1:]
        named = [re.findall(r"(test_\w+\.py)::(\w+)", row) for row in rows]
        assert len(rows) > 10 and all(named)
        assert [f"{file}::{test}" for row in named for file, test in row if test not in set(names_in(file))] == []


class TestLabelsPage:
    PAGE = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8")

    def test_names_a_test_that_exists_for_every_promise_of_the_server(self):
        promises = self.PAGE.partition("### What the server promises")[2].partition("\n### ")[0]
        named = [re.findall(r"\(`(Test\w+)`\)", promise) for promise in promises.split("\n- ")[1:]]
        assert len(named) > 5 and all(named)
        assert {name for promise in named for name in promise} <= set(names_in("test_label_server.py"))
