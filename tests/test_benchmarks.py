"""Benchmarks take too long for a test; what they take from the kit must be there all the same."""

import ast
import importlib
import math
import subprocess
import sys
from pathlib import Path

import pytest

import kit

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

    @pytest.mark.parametrize(
        "name",
        [
            "startup",
            "ppo_vs_trl",
            "ppo_learning_vs_trl",
            "reward_ceiling",
            "gpu_memory",
            "data_check",
            "agreement",
            "reliability",
            "blind_ab",
        ],
    )
    def test_each_says_what_it_does(self, name):
        file = next(file for file in FILES if file.stem == name)
        done = subprocess.run([sys.executable, str(file), "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


def there(module, name):
    return hasattr(importlib.import_module(module), name)


class TestLearningBenchmark:
    """How both sides of benchmarks/ppo_learning_vs_trl.py come by their settings."""

    @pytest.fixture
    def bench(self, monkeypatch):
        monkeypatch.syspath_prepend(str(FILES[0].parent))
        return importlib.import_module("ppo_learning_vs_trl")

    def test_a_setting_is_chosen_by_its_mean_and_not_by_its_best_seed(self, bench):
        by_setting = {(1e-3, 0.9): {3: 2.0, 4: 1.0}, (5e-4, 0.9): {3: 1.7, 4: 1.6}, (5e-4, 0.95): {3: 1.6, 4: 1.6}}
        assert bench.choose(by_setting) == (5e-4, 0.9)

    def test_both_sides_get_every_setting_on_every_tuning_seed(self, bench, monkeypatch, tmp_path):
        trained = []
        monkeypatch.setattr(bench, "run_start", lambda seed: tmp_path / f"seed-{seed}")
        for side in ("trl", "kit"):
            monkeypatch.setattr(bench, f"run_{side}", lambda start, s, side=side: trained.append((side, start.name, s)))
        interval = type("Interval", (), {"mean": 1.0})
        monkeypatch.setattr(
            bench,
            "judge",
            lambda start, policies, answers: {n: bench.Result([], interval, interval, interval) for n in policies},
        )
        settings = [(1e-3, 0.9), (5e-4, 0.95)]
        reached = bench.sweep([3, 4], settings, 1)
        wanted = {(side, f"seed-{seed}", s) for side in ("trl", "kit") for seed in (3, 4) for s in settings}
        assert set(trained) == wanted and len(trained) == len(wanted)
        assert reached == {side: {s: {3: 1.0, 4: 1.0} for s in settings} for side in ("trl", "kit")}

    @pytest.mark.pipeline
    def test_the_judge_reads_a_run_and_gives_the_same_answers_to_the_same_policy(self, bench, tmp_path):
        """Its start is a run of the kit's; a policy that is SFT answers as SFT does."""
        run = kit.run_pipeline(
            {
                "output_dir": str(tmp_path), "stages": ["sft", "reward"], "compare": {"prompts": 4},
                "sft": {"max_steps": 1}, "reward": {"max_steps": 1},
                "data": {"max_prompt_tokens": 48, "max_response_tokens": 48},
            }
        )  # fmt: skip
        results = bench.judge(run.path, {"kit": run.stages["sft"].adapter}, 2)
        assert set(results) == {"sft", "kit"} and len(results["kit"].rewards) == 4
        assert results["sft"].rewards == results["kit"].rewards and results["kit"].kl_nats.mean == 0
        assert sorted(path.name for path in run.path.glob("answers*")) == []

    def test_equal_settings_are_compared_seed_by_seed(self, bench):
        reached = {"trl": {(1e-3, 0.9): {3: 1.0, 4: 2.0}}, "kit": {(1e-3, 0.9): {4: 2.5, 3: 0.75}}}
        assert sorted(bench.equal_settings(reached)) == [-0.25, 0.5]

    def test_a_seed_that_settings_are_chosen_on_cannot_be_reported(self):
        file = next(file for file in FILES if file.stem == "ppo_learning_vs_trl")
        command = [sys.executable, str(file), "--seeds", "0", "3", "--tuning-seeds", "3"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and "must not be one that settings are chosen on" in done.stderr


class TestRewardCeiling:
    """The optimal policy of a KL-regularised reward, from SFT's own answers."""

    DRAWN = ((0.0, 1.0), (1.0, 3.0), (2.0, -1.0), (3.0, 0.0))  # (score, true reward)

    @pytest.fixture
    def bench(self, monkeypatch):
        monkeypatch.syspath_prepend(str(FILES[0].parent))
        return importlib.import_module("reward_ceiling")

    def test_an_endless_price_of_kl_leaves_sft_as_it_is(self, bench):
        assert bench.tilted(self.DRAWN, 1e9) == pytest.approx((0, 1.5, 0.75), abs=1e-6)

    def test_without_a_price_it_is_the_answer_of_the_highest_score(self, bench):
        assert bench.tilted(self.DRAWN, 1e-3) == pytest.approx((math.log(4), 3, 0), abs=1e-6)

    @pytest.mark.parametrize("coefficient", [0.3, 1.0, 3.0])
    def test_it_reaches_the_known_optimum_of_score_less_kl(self, bench, coefficient):
        """max E[score] - c KL = c log E_SFT[exp(score / c)]."""
        kl, proxy, _ = bench.tilted(self.DRAWN, coefficient)
        best = coefficient * math.log(sum(math.exp(score / coefficient) for score, _ in self.DRAWN) / 4)
        assert proxy - coefficient * kl == pytest.approx(best, rel=1e-9)


class TestDataBenchmark:
    @pytest.fixture
    def bench(self, monkeypatch):
        monkeypatch.syspath_prepend(str(FILES[0].parent))
        return importlib.import_module("data_check")

    def test_prints_seconds_and_memory_beside_their_goals(self, bench, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["data_check.py", "--rows", "300"])
        assert bench.main() == 0
        told = capsys.readouterr().out
        assert "goal   60   ok" in told and "goal    2   ok" in told and "seconds, all cores" in told

    def test_writes_transcripts_that_differ(self, bench, tmp_path):
        bench.write_rows(tmp_path / "a.jsonl", 50)
        rows = (tmp_path / "a.jsonl").read_text().splitlines()
        assert len(set(rows)) == 50 and all("Human: " in row for row in rows)

    def test_a_missed_goal_is_told_by_the_exit_code(self, bench, monkeypatch, capsys):
        monkeypatch.setattr(bench, "check", lambda *_: bench.Cost(61.0, 100.0, 10**9))
        monkeypatch.setattr(sys, "argv", ["data_check.py", "--rows", "20"])
        assert bench.main() == 1 and "goal   60   missed" in capsys.readouterr().out
