"""The whole pipeline at toy size: every file of the contract, what a second run does, and what a failure leaves."""

import gc
import json
import random
import shutil
import subprocess
import sys
import time

import pytest
import torch
from toy import base_folder

import kit
from kit.compare.result import Comparison
from kit.config_file import dump_config
from kit.runs.lock import run_lock

pytestmark = pytest.mark.pipeline

TOY = {
    "seed": 0,
    "model": {"base": str(base_folder())},
    "lora": {"rank": 4},
    "data": {"preferences": "demo", "eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 16},
    "sft": {"max_steps": 2, "batch_size": 8},
    "reward": {"max_steps": 2, "batch_size": 8},
    "dpo": {"max_steps": 2, "batch_size": 8},
    "ppo": {"episodes": 16, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 2},
    "compare": {"prompts": 12},
}


def toy(tmp_path, **changes):
    return kit.load_config(TOY, output_dir=str(tmp_path / "runs"), name="toy", **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return kit.run_pipeline(toy(tmp_path_factory.mktemp("pipeline")))


@pytest.fixture
def copied(run, tmp_path):
    """The finished run in a folder of its own, to be changed."""
    shutil.copytree(run.path, tmp_path / "runs" / "toy")
    return tmp_path


def stamps(path):
    return {p.parent.name: p.stat().st_mtime_ns for p in path.glob("*/stage.json")}


class TestRunFolder:
    def test_it_holds_every_file_of_the_contract(self, run):
        for stage in ("sft", "reward", "ppo", "dpo"):
            names = {p.name for p in (run.path / stage).iterdir()}
            assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "metrics.jsonl"} <= names
        compare = {p.name for p in (run.path / "compare").iterdir()}
        assert {"metrics.json", "report.html", "report.md", "samples.jsonl"} <= compare
        assert {"config.yaml", "run.json"} <= {p.name for p in run.path.iterdir()}

    def test_nothing_is_pickled_and_no_half_made_folder_is_left(self, run):
        assert not [p for p in run.path.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
        assert not [p for p in run.path.iterdir() if p.name.endswith(".tmp") or p.name.startswith(".old")]

    def test_the_ledger_says_what_was_done(self, run):
        ledger = json.loads((run.path / "run.json").read_text())
        assert ledger["name"] == "toy" and ledger["status"] == "done" and "trl" in ledger["versions"]
        for stage in ("sft", "reward", "ppo", "dpo", "compare"):
            entry = ledger["stages"][stage]
            assert entry["status"] == "done" and entry["seconds"] > 0 and len(entry["inputs_sha256"]) == 64
        assert 0 <= ledger["stages"]["reward"]["metrics"]["accuracy"] <= 1

    def test_the_resolved_config_reads_back_as_the_same_run(self, run):
        assert kit.load_config(run.path / "config.yaml").run_path == run.path

    def test_metrics_have_one_line_a_log_with_the_fields_names(self, run):
        rows = [json.loads(line) for line in (run.path / "ppo" / "metrics.jsonl").read_text().splitlines()]
        rollouts = [row for row in rows if "objective/scores" in row]
        assert [row["episode"] for row in rollouts] == [8, 16]
        wanted = {"objective/kl", "policy/approxkl", "policy/clipfrac", "policy/entropy", "lengths/mean", "eos_rate"}
        assert wanted <= set(rollouts[0]) and not [n for n in rollouts[0] if n.startswith("completions/")]


class TestFirstNumbers:
    def test_ppos_first_kl_is_0(self, run):
        first = json.loads((run.path / "ppo" / "metrics.jsonl").read_text().splitlines()[0])
        assert abs(first["objective/kl"]) < 1e-4  # sampled with the adapter merged: 0 but for rounding

    def test_dpos_first_margins_are_0_and_its_loss_is_ln_2(self, run):
        first = json.loads((run.path / "dpo" / "metrics.jsonl").read_text().splitlines()[0])
        assert first["loss"] == pytest.approx(0.693147, abs=1e-4) and abs(first["rewards/margins"]) < 1e-5


class TestComparison:
    def test_metrics_are_those_of_the_contract(self, run):
        metrics = run.comparison.metrics
        assert metrics["judge"] == "truth" and metrics["prompts"] == 12
        assert set(metrics["arms"]) == {"sft", "dpo", "ppo"}
        ppo = metrics["arms"]["ppo"]
        for name in ("true_reward", "proxy_reward", "kl_nats", "win_rate_vs_sft"):
            low, high = ppo[name]["ci95"]
            assert low <= ppo[name]["mean"] <= high
        assert ppo["train_seconds"] > 0 and ppo["peak_bytes"] > 0 and ppo["response_tokens"]["mean"] > 0
        assert metrics["arms"]["sft"]["kl_nats"]["mean"] == 0 and metrics["arms"]["sft"]["win_rate_vs_sft"] is None
        assert metrics["pairs"]["ppo_vs_dpo"]["verdict"] in ("ppo", "dpo", "no difference")

    def test_ppos_cost_holds_the_reward_models(self, run):
        seconds = run.comparison.metrics["arms"]["ppo"]["train_seconds"]
        assert seconds == pytest.approx(run.stages["ppo"].seconds + run.stages["reward"].seconds)

    def test_it_shows_itself_in_a_notebook(self, run):
        assert "<table" in run.comparison._repr_html_()

    def test_samples_hold_every_arms_answer_to_the_same_held_out_prompts(self, run):
        rows = [json.loads(line) for line in (run.path / "compare" / "samples.jsonl").read_text().splitlines()]
        assert len(rows) == 12 and all(set(row["arms"]) == {"sft", "dpo", "ppo"} for row in rows)


class TestSecondRun:
    def test_of_a_finished_run_trains_nothing(self, copied, capsys):
        before = stamps(copied / "runs" / "toy")
        run = kit.run_pipeline(toy(copied))
        assert stamps(run.path) == before and "nothing to train" in capsys.readouterr().out

    def test_with_another_kl_coef_trains_ppo_and_compares_and_no_more(self, copied, capsys):
        before = stamps(copied / "runs" / "toy")
        run = kit.run_pipeline(toy(copied), ["ppo.kl_coef=0.2"])
        after = stamps(run.path)
        assert {stage for stage in after if after[stage] != before[stage]} == {"ppo", "compare"}
        assert "ppo: runs again, because it changed: ppo.kl_coef 0.05 -> 0.2" in capsys.readouterr().out

    def test_with_another_micro_batch_trains_nothing(self, copied):
        before = stamps(copied / "runs" / "toy")
        kit.run_pipeline(toy(copied), ["ppo.micro_batch_size=1", "sft.micro_batch_size=2"])
        assert stamps(copied / "runs" / "toy") == before

    def test_with_a_stage_removed_by_hand_makes_it_again(self, copied):
        shutil.rmtree(copied / "runs" / "toy" / "dpo")
        run = kit.run_pipeline(toy(copied))
        assert (run.path / "dpo" / "adapter_model.safetensors").exists()

    def test_the_same_seed_makes_the_same_adapters(self, run, tmp_path):
        again = kit.run_pipeline(toy(tmp_path, stages=["sft", "reward", "ppo", "dpo"]))
        for stage in ("sft", "reward", "ppo", "dpo"):
            assert again.stages[stage].adapter_sha256 == run.stages[stage].adapter_sha256, stage


class TestInterruption:
    def test_a_stage_that_dies_half_way_leaves_no_folder_and_the_next_run_goes_on_there(self, tmp_path, monkeypatch):
        import kit.stages.dpo

        whole = kit.stages.dpo.save_adapter

        def dies(model, folder, *rest):
            whole(model, folder, *rest)
            raise KeyboardInterrupt

        monkeypatch.setattr(kit.stages.dpo, "save_adapter", dies)
        config = toy(tmp_path, stages=["sft", "dpo"])
        with pytest.raises(KeyboardInterrupt):
            kit.run_pipeline(config)
        ledger = json.loads((config.run_path / "run.json").read_text())
        assert ledger["status"] == "interrupted" and not (config.run_path / "dpo").exists()
        monkeypatch.undo()
        before = stamps(config.run_path)
        run = kit.run_pipeline(config)
        assert stamps(run.path)["sft"] == before["sft"] and set(run.stages) == {"sft", "dpo"}
        assert not list(run.path.glob(".*.tmp"))

    def test_a_folder_in_use_is_refused(self, copied):
        with run_lock(copied / "runs" / "toy"), pytest.raises(kit.RunError, match="in use by process"):
            kit.run_pipeline(toy(copied), ["ppo.kl_coef=0.3"])

    def test_a_folder_that_is_no_run_is_left_alone(self, tmp_path):
        (tmp_path / "runs" / "toy").mkdir(parents=True)
        (tmp_path / "runs" / "toy" / "thesis.tex").write_text("x")
        with pytest.raises(kit.RunError, match="not a run folder"):
            kit.run_pipeline(toy(tmp_path))
        assert [p.name for p in (tmp_path / "runs" / "toy").iterdir()] == ["thesis.tex"]


class TestCompareRun:
    def test_with_another_temperature_compares_again_and_trains_nothing(self, copied):
        from kit.pipeline import compare_run

        before = stamps(copied / "runs" / "toy")
        comparison = compare_run(copied / "runs" / "toy", ["compare.temperature=0"])
        after = stamps(copied / "runs" / "toy")
        assert isinstance(comparison, Comparison)
        assert {stage for stage in after if after[stage] != before[stage]} == {"compare"}

    def test_takes_no_training_settings(self, copied):
        from kit.pipeline import compare_run

        with pytest.raises(kit.ConfigError, match="trains nothing"):
            compare_run(copied / "runs" / "toy", ["ppo.kl_coef=1"])


class TestMemory:
    def test_the_base_is_in_memory_once_in_every_stage(self, tmp_path, monkeypatch):
        import kit.stages.dpo
        import kit.stages.ppo
        import kit.stages.reward
        import kit.stages.sft

        seen = {}

        def counting(train):
            def trained(trainer, stage, *places):
                embeddings = [m.weight for m in gc.get_objects() if isinstance(m, torch.nn.Embedding)]
                seen[stage] = len({weight.data_ptr() for weight in embeddings})
                return train(trainer, stage, *places)

            return trained

        for module in (kit.stages.sft, kit.stages.reward, kit.stages.ppo, kit.stages.dpo):
            monkeypatch.setattr(module, "train_with_progress", counting(module.train_with_progress))
        gc.collect()
        kit.run_pipeline(toy(tmp_path, stages=["sft", "reward", "ppo", "dpo"]))
        assert seen == {"sft": 1, "reward": 1, "ppo": 1, "dpo": 1}


def transcripts(count):
    """Pairs as HH-RLHF writes them, some over several turns."""
    words = random.Random(0)
    rows = []
    for i in range(count):
        turns = "".join(f"\n\nHuman: question {j} of {i}?\n\nAssistant: answer {j}." for j in range(i % 3))
        start = f"{turns}\n\nHuman: What about {words.choice(['bees', 'tea', 'rain'])} number {i}?\n\nAssistant:"
        rows.append({"chosen": f"{start} Yes, {i}, gladly.", "rejected": f"{start} No {i}."})
    return rows


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A finished run on transcripts with a 4-bit base."""
    folder = tmp_path_factory.mktemp("hh")
    file = folder / "hh.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in transcripts(60)) + "\n")
    data = {"preferences": str(file), "eval_fraction": 0.2, "max_prompt_tokens": 128, "max_response_tokens": 16}
    return kit.run_pipeline(toy(folder), data=data, model={"quantization": "nf4"})


class TestPeoplesData:
    def test_on_a_4_bit_base_every_stage_ends_with_the_files_of_the_contract(self, people):
        assert set(people.stages) == {"sft", "reward", "ppo", "dpo", "compare"}
        assert (people.path / "compare" / "report.html").exists()

    def test_no_truth_is_known_and_the_reward_model_judges(self, people):
        metrics = people.comparison.metrics
        assert metrics["judge"] == "reward_model" and metrics["arms"]["ppo"]["true_reward"] is None

    def test_ppo_starts_at_kl_0_and_dpo_at_ln_2_in_4_bit_too(self, people):
        first = {s: json.loads((people.path / s / "metrics.jsonl").read_text().splitlines()[0]) for s in ("ppo", "dpo")}
        assert abs(first["ppo"]["objective/kl"]) < 1e-4
        assert first["dpo"]["loss"] == pytest.approx(0.693147, abs=1e-4)

    def test_the_card_says_how_to_load_it_in_4_bit(self, people):
        card = (people.path / "ppo" / "README.md").read_text()
        assert "BitsAndBytesConfig" in card and "AutoPeftModelForCausalLM" in card


class TestRowsInMemory:
    def test_they_are_kept_in_the_run_folder_so_that_the_run_can_be_repeated(self, tmp_path):
        rows = [{"prompt": f"Question {i}?", "chosen": f"Yes {i}.", "rejected": f"No, not {i}."} for i in range(40)]
        data = {"preferences": rows, "eval_fraction": 0.2, "max_prompt_tokens": 64, "max_response_tokens": 16}
        config = toy(tmp_path, stages=["sft", "dpo"], data=data)
        first = kit.run_pipeline(config)
        before = stamps(first.path)
        again = kit.run_pipeline(first.path / "config.yaml")
        assert stamps(again.path) == before


LONGER = {  # 8 rollouts of 4 steps; the toy model never ends a turn
    "stages": ["sft", "reward", "ppo"],
    "ppo": TOY["ppo"] | {"episodes": 64, "guards_off": ["eos", "length", "critic"]},
}


class TestAKilledPPO:
    def finished(self, folder):
        return kit.run_pipeline(toy(folder, **LONGER)).stages["ppo"]

    def test_goes_on_from_its_last_checkpoint_to_the_same_bits(self, run, copied, tmp_path, capfd):
        shutil.copytree(run.path, tmp_path / "killed" / "runs" / "toy")
        unbroken = self.finished(copied)
        config = toy(tmp_path / "killed", **LONGER)
        (tmp_path / "again.yaml").write_text(dump_config(config))
        child = subprocess.Popen([sys.executable, "-m", "kit.cli", "run", str(tmp_path / "again.yaml")])
        saved = config.run_path / ".ppo-checkpoints" / "checkpoint-8" / "trainer_state.json"
        while not saved.exists() and child.poll() is None:
            time.sleep(0.01)
        child.kill()
        child.wait()
        assert saved.exists(), "it was not killed in time"
        again = self.finished(tmp_path / "killed")
        assert "goes on from step" in capfd.readouterr().out
        assert again.adapter_sha256 == unbroken.adapter_sha256
        assert self.rows(again) == self.rows(unbroken)
        assert (again.path / "completions.jsonl").read_bytes() == (unbroken.path / "completions.jsonl").read_bytes()
        assert not (config.run_path / ".ppo-checkpoints").exists()

    @staticmethod
    def rows(stage):
        rows = [json.loads(line) for line in (stage.path / "metrics.jsonl").read_text().splitlines()]
        return [{name: x for name, x in row.items() if not name.startswith("seconds/")} for row in rows]
