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
from typer.testing import CliRunner

import kit
from kit.cli import app
from kit.compare.report.words import cautions
from kit.compare.result import Answer, Arm, Comparison
from kit.config_file import dump_config
from kit.demo.world import truth_of_messages
from kit.labels.desk import Desk
from kit.pipeline import compare_run
from kit.runs.lock import run_lock
from kit.sampling.ab import ab_project

pytestmark = pytest.mark.pipeline

TOY = {
    "seed": 0,
    "model": {"base": str(base_folder())},
    "lora": {"rank": 4},
    "data": {"preferences": "demo", "eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 32},
    "sft": {"max_steps": 2, "batch_size": 8},
    "reward": {"max_steps": 2, "batch_size": 8},
    "dpo": {"max_steps": 2, "batch_size": 8, "snapshots": 1},
    # A reward model of two steps is at chance, where PPO would not start.
    "ppo": {"episodes": 16, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 2, "snapshots": 1, "force": True},
    "compare": {"prompts": 12, "validation_prompts": 10, "best_of": 2},
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


def timeless(metrics):
    """The metrics without what the clock and the machine say."""
    arms = {name: arm | {"train_seconds": None, "peak_bytes": None} for name, arm in metrics["arms"].items()}
    return metrics | {"arms": arms}


def raising(error):
    def raises(*_, **__):
        raise error

    return raises


def page(run, metrics):
    """The page of a run's comparison, written anew with these metrics."""
    from kit.compare.report.page import html

    lines = [json.loads(line) for line in (run.path / "compare" / "answers.jsonl").read_text().splitlines()]
    arms = [Arm(x["arm"], [Answer(**a) for a in x["answers"]]) for x in lines if x["part"] == "test"]
    prompts = [json.loads(line)["prompt"] for line in (run.path / "compare" / "samples.jsonl").read_text().splitlines()]
    curves = {}
    for stage in ("sft", "reward", "ppo", "dpo"):
        rows = [json.loads(line) for line in (run.path / stage / "metrics.jsonl").read_text().splitlines()]
        curves[stage] = [{k: v for k, v in row.items() if not k.startswith("seconds/")} for row in rows]
    return html(metrics, prompts, arms, curves, {})


def trains_nothing(monkeypatch):
    """Let training and sampling fail from here on."""
    import kit.compare.answers

    never = raising(AssertionError("it trained or sampled"))
    monkeypatch.setattr(kit.compare.answers, "sample", never)
    for stage in ("dpo", "ppo", "reward", "sft"):
        monkeypatch.setattr(f"kit.stages.{stage}.train_{stage}", never)


JUDGES = """
def longest(prompt, first, second):
    return 0.5 if len(first) == len(second) else float(len(first) > len(second))

def shortest(prompt, answer):
    return -len(answer)
"""


@pytest.fixture
def judges(tmp_path):
    """A file with a reader's own judges."""
    (tmp_path / "judges.py").write_text(JUDGES)
    return tmp_path / "judges.py"


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

    def test_the_held_out_pairs_are_kept_with_their_scores(self, run):
        rows = [json.loads(line) for line in (run.path / "reward" / "held_out.jsonl").read_text().splitlines()]
        metrics = run.stages["reward"].metrics
        right = [row["chosen_score"] > row["rejected_score"] for row in rows]
        assert len(rows) == metrics["pairs"] == metrics["gate"]["pairs"]
        assert sum(right) / len(rows) == pytest.approx(metrics["accuracy"])
        assert metrics["accuracy"] == metrics["gate"]["accuracy"]["mean"]

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
        assert list(metrics["arms"]) == ["sft", "dpo", "ppo", "best_of_n", "longest_of_n"]
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
        assert len(rows) == 12 and all(set(row["arms"]) == set(run.comparison.metrics["arms"]) for row in rows)


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

    def test_the_same_seed_makes_the_same_adapters_and_the_same_comparison(self, run, tmp_path):
        again = kit.run_pipeline(toy(tmp_path))
        for stage in ("sft", "reward", "ppo", "dpo"):
            assert again.stages[stage].adapter_sha256 == run.stages[stage].adapter_sha256, stage
        one, other = (timeless(found.comparison.metrics) for found in (run, again))
        assert one == other
        for name in ("answers.jsonl", "samples.jsonl"):
            assert (again.path / "compare" / name).read_bytes() == (run.path / "compare" / name).read_bytes()
        # The page is a function of these; rendered from the same costs it is the same to the byte.
        assert page(again, run.comparison.metrics) == page(run, run.comparison.metrics)


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

    def test_a_comparison_that_dies_leaves_the_trained_stages_and_the_one_before_it(self, copied, monkeypatch):
        import kit.compare.stage

        path = copied / "runs" / "toy"
        before = stamps(path)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(kit.compare.stage, "write_report", raising(KeyboardInterrupt))
            kit.run_pipeline(toy(copied), ["compare.best_of=0"])
        assert stamps(path) == before and (path / "compare" / "report.html").exists()
        assert json.loads((path / "run.json").read_text())["status"] == "interrupted"
        trains_nothing(monkeypatch)
        run = kit.run_pipeline(toy(copied), ["compare.best_of=0"])
        assert {stage for stage, stamp in stamps(path).items() if stamp != before[stage]} == {"compare"}
        assert set(run.comparison.metrics["arms"]) == {"sft", "dpo", "ppo"}

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
        before = stamps(copied / "runs" / "toy")
        config = (copied / "runs" / "toy" / "config.yaml").read_bytes()
        comparison = compare_run(copied / "runs" / "toy", ["compare.temperature=0"])
        assert (copied / "runs" / "toy" / "config.yaml").read_bytes() == config  # for one comparison alone
        after = stamps(copied / "runs" / "toy")
        assert isinstance(comparison, Comparison)
        assert {stage for stage in after if after[stage] != before[stage]} == {"compare"}

    def test_takes_no_training_settings(self, copied):
        with pytest.raises(kit.ConfigError, match="trains nothing"):
            compare_run(copied / "runs" / "toy", ["ppo.kl_coef=1"])

    def test_of_a_run_that_trained_on_all_pairs_has_no_judge_to_train(self, tmp_path):
        rows = [{"prompt": f"Question {i}?", "chosen": f"Yes {i}.", "rejected": f"No, not {i}."} for i in range(40)]
        data = {"preferences": rows, "eval_fraction": 0.2, "max_prompt_tokens": 64, "max_response_tokens": 32}
        run = kit.run_pipeline(toy(tmp_path, stages=["sft", "dpo"], data=data))
        before = stamps(run.path)
        with pytest.raises(kit.RunError, match="sft, dpo, judge would have to be trained"):
            compare_run(run.path, ["compare.judge_fraction=0.7"])
        assert stamps(run.path) == before


class TestAnotherJudge:
    def test_trains_and_samples_nothing_and_gives_its_own_verdict(self, copied, judges, monkeypatch):
        path = copied / "runs" / "toy"
        before, answers = stamps(path), (path / "compare" / "answers.jsonl").read_bytes()
        trains_nothing(monkeypatch)
        result = CliRunner().invoke(app, ["compare", str(path), "--judge", f"{judges}:shortest"])
        assert result.exit_code == 0, result.output
        after, metrics = stamps(path), Comparison.load(path / "compare").metrics
        assert {stage for stage in after if after[stage] != before[stage]} == {"compare"}
        assert (path / "compare" / "answers.jsonl").read_bytes() == answers
        assert metrics["judge"] == "judges.py:shortest" and metrics["curve_unit"] == "judge's score"
        assert metrics["arms"]["ppo"]["judge_score"]["mean"] < 0
        assert CliRunner().invoke(app, ["compare", str(path)]).exit_code == 0
        assert Comparison.load(path / "compare").metrics["judge"] == "truth"  # the run's own judge again

    def test_may_be_people_who_chose_without_knowing_the_arms(self, copied, monkeypatch):
        """From the comparison to a project, from blind choices to the verdict: people who know the truth give its."""
        path = copied / "runs" / "toy"
        monkeypatch.chdir(copied)
        truth = Comparison.load(path / "compare").metrics["pairs"]["ppo_vs_dpo"]
        refused = CliRunner().invoke(app, ["compare", str(path), "--judge", "human"])
        assert refused.exit_code == 2 and f"`kit label --ab {path}` collects people's votes" in refused.stderr
        desk = Desk(ab_project(path, per_item=2))
        desk.welcome({"ana": None, "ben": None})
        for who in ("ana", "ben"):
            while work := desk.work(who)["work"]:
                prompt, answers = work[0]["prompt"], work[0]["answers"]
                first, second = (truth_of_messages(prompt, answer) for answer in answers)
                ranks = [1, 1] if abs(first - second) < 1e-9 else [1 + (first < second), 1 + (first > second)]
                desk.judge(who, {"id": f"{who}-{work[0]['deal']:020d}", "deal": work[0]["deal"], "ranks": ranks,
                                 "guidelines_sha256": "0" * 64})  # fmt: skip
        desk.close()
        trains_nothing(monkeypatch)
        result = CliRunner().invoke(app, ["compare", str(path), "--judge", "human"])
        assert result.exit_code == 0, result.output
        found = Comparison.load(path / "compare")
        people = found.metrics["pairs"]["ppo_vs_dpo"]
        for name in ("win_rate", "ci95", "tie_rate", "verdict", "prompts"):
            assert people[name] == truth[name], name
        facts = found.metrics["judge_facts"]
        assert found.metrics["judge"] == "human" and facts["annotators"] == 2 and facts["agreement"] == 1.0
        assert facts["votes"] == 2 * (12 - facts["equal"])
        report = " ".join(found.report.read_text().split())
        assert "judged by people" in report and f"{facts['votes']}, by 2 people who gave a name" in report
        again = CliRunner().invoke(app, ["compare", str(path), "--judge", "human"])
        assert "nothing to train" in again.stdout

    def test_gives_answers_to_rank_from_what_it_trained(self, copied, monkeypatch):
        monkeypatch.chdir(copied)
        project = kit.sample(copied / "runs" / "toy", k=3, limit=4, adapters=["sft", "ppo", "base"])
        assert {len(item.answers) for item in project.items.values()} <= {2, 3} and len(project.items) >= 4

    def test_of_people_s_data_finds_the_pairs_kept_apart_as_they_were(self, people, judges, tmp_path, monkeypatch):
        """Without them the data would be others, and every stage would have to be trained on those."""
        path = tmp_path / "runs" / "toy"
        shutil.copytree(people.path, path)
        before, answers = stamps(path), (path / "compare" / "answers.jsonl").read_bytes()
        with monkeypatch.context() as patched:
            trains_nothing(patched)
            comparison = compare_run(path, [f"compare.judge={judges}:longest"])
            after = stamps(path)
            assert comparison.metrics["judge"] == "judges.py:longest"
            assert {stage for stage in after if after[stage] != before[stage]} == {"compare"}
            assert (path / "compare" / "answers.jsonl").read_bytes() == answers
            assert compare_run(path, ["compare.judge=auto"]).metrics["judge"] == "held_out"

    def test_that_likes_the_longer_answer_is_exposed(self, copied, judges, monkeypatch):
        import kit.compare.answers

        sample = kit.compare.answers.sample

        def short_or_long(roles, role, ids, length, temperature, seed, size):
            drawn = sample(roles, role, ids, length, temperature, seed, size)
            lengths = random.Random(f"{role} {seed}")
            return [response[: lengths.choice((3, 16))] for response in drawn]

        monkeypatch.setattr(kit.compare.answers, "sample", short_or_long)
        settings = [f"compare.judge={judges}:longest", "compare.prompts=24", "compare.best_of=0"]
        (copied / "runs" / "toy" / "compare" / "answers.jsonl").unlink()
        comparison = compare_run(copied / "runs" / "toy", settings)
        longer = comparison.metrics["judge_facts"]["longer_wins"]
        assert longer["ci95"][0] > 0.8
        assert comparison.metrics["pairs"]["ppo_vs_dpo"]["length_controlled"] is None
        exposed = "agrees with “the longer answer wins”"
        assert exposed in (comparison.path / "report.md").read_text(encoding="utf-8")
        assert [text for text in cautions(comparison.metrics) if exposed in text]

    def test_that_fails_leaves_the_comparison_as_it_was(self, copied, judges):
        path = copied / "runs" / "toy"
        before = stamps(path)
        judges.write_text("def longest(prompt, first, second):\n    return 1 / 0\n")
        result = CliRunner().invoke(app, ["compare", str(path), "--judge", f"{judges}:longest"])
        assert result.exit_code == 2 and "failed on prompt 1: ZeroDivisionError" in result.stderr
        assert stamps(path) == before

    def test_that_fails_costs_no_answers(self, copied, judges, monkeypatch):
        path = copied / "runs" / "toy"
        right = judges.read_text()
        judges.write_text("def longest(prompt, first, second):\n    return 1 / 0\n")
        settings = [f"compare.judge={judges}:longest", "compare.prompts=6"]
        with pytest.raises(kit.KitError, match="ZeroDivisionError"):
            compare_run(path, settings)
        judges.write_text(right)
        with monkeypatch.context() as patched:
            trains_nothing(patched)
            assert compare_run(path, settings).metrics["prompts"] == 6
        assert not list(path.glob(".answers*"))


class TestSeveralSeeds:
    @pytest.fixture(scope="class")
    @staticmethod
    def twice(run, tmp_path_factory):
        folder = tmp_path_factory.mktemp("seeds")
        shutil.copytree(run.path, folder / "runs" / "toy")
        return kit.run_pipeline(toy(folder), ["compare.seeds=2"])

    def test_train_each_stage_but_sft_once_more(self, run, twice):
        again = {"reward-seed-1", "ppo-seed-1", "dpo-seed-1"}
        assert set(twice.stages) == set(run.stages) | again
        hashes = {name: record.adapter_sha256 for name, record in twice.stages.items() if name != "compare"}
        assert len(set(hashes.values())) == len(hashes)
        assert all(run.stages[name].adapter_sha256 == hashes[name] for name in ("sft", "reward", "ppo", "dpo"))

    def test_start_from_one_sft_and_their_own_reward_model(self, twice):
        hashes = {name: record.adapter_sha256 for name, record in twice.stages.items() if name != "compare"}
        adapters = twice.stages["ppo-seed-1"].inputs["adapters"]
        assert adapters == {"sft": hashes["sft"], "reward-seed-1": hashes["reward-seed-1"]}

    def test_give_the_spread_of_training_apart(self, run, twice):
        metrics = twice.comparison.metrics
        assert metrics["seeds"] == [0, 1]
        for arm in ("ppo", "dpo"):
            spread = metrics["arms"][arm]["seed_spread"]["true_reward"]
            first = run.comparison.metrics["arms"][arm]["true_reward"]["mean"]
            assert spread["values"][0] == pytest.approx(first) and len(spread["values"]) == 2
            assert metrics["arms"][arm]["true_reward"]["mean"] == pytest.approx(sum(spread["values"]) / 2)
        assert len(metrics["pairs"]["ppo_vs_dpo"]["seed_spread"]["values"]) == 2
        assert metrics["arms"]["best_of_n"]["seed_spread"] is None

    def test_cost_what_the_first_training_cost(self, twice):
        seconds = twice.stages["ppo"].seconds + twice.stages["reward"].seconds
        assert twice.comparison.metrics["arms"]["ppo"]["train_seconds"] == pytest.approx(seconds)


class TestTheGate:
    def test_stops_ppo_on_a_weak_reward_model_with_exit_code_3_and_force_goes_on(self, copied, monkeypatch):
        import kit.stages.ppo

        path, config = copied / "runs" / "toy", copied / "run.yaml"
        config.write_text(dump_config(toy(copied, ppo=TOY["ppo"] | {"force": False, "kl_coef": 0.2})))
        before = stamps(path)
        result = CliRunner().invoke(app, ["run", str(config)])
        assert result.exit_code == 3 and "PPO not started: the reward model is too weak" in result.stderr
        assert stamps(path) == before
        assert json.loads((path / "run.json").read_text())["status"] == "stopped"
        monkeypatch.setattr(kit.stages.ppo, "train_ppo", raising(kit.RunError("PPO was started")))
        result = CliRunner().invoke(app, ["run", str(config), "ppo.force=true"])
        assert result.exit_code == 2 and "PPO was started" in result.stderr


class TestMemory:
    def test_the_base_is_in_memory_once_in_every_stage(self, tmp_path, monkeypatch):
        import kit.stages.dpo
        import kit.stages.ppo
        import kit.stages.reward
        import kit.stages.sft

        seen = {}

        def embeddings():
            return {m.weight.data_ptr() for m in gc.get_objects() if issubclass(type(m), torch.nn.Embedding)}

        def counting(train):
            def trained(trainer, stage, *places):
                seen[stage] = len(embeddings() - before)
                return train(trainer, stage, *places)

            return trained

        for module in (kit.stages.sft, kit.stages.reward, kit.stages.ppo, kit.stages.dpo):
            monkeypatch.setattr(module, "train_with_progress", counting(module.train_with_progress))
        gc.collect()
        before = embeddings()  # of other tests
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
    file.write_text("\n".join(json.dumps(row) for row in transcripts(150)) + "\n")
    data = {"preferences": str(file), "eval_fraction": 0.2, "max_prompt_tokens": 128, "max_response_tokens": 32}
    return kit.run_pipeline(toy(folder), data=data, model={"quantization": "nf4"})


class TestPeoplesData:
    def test_on_a_4_bit_base_every_stage_ends_with_the_files_of_the_contract(self, people):
        assert set(people.stages) == {"sft", "reward", "ppo", "dpo", "judge", "compare"}
        assert (people.path / "compare" / "report.html").exists()

    def test_no_truth_is_known_and_a_reward_model_of_its_own_judges(self, people):
        metrics = people.comparison.metrics
        assert metrics["judge"] == "held_out" and metrics["arms"]["ppo"]["true_reward"] is None
        assert metrics["arms"]["ppo"]["judge_score"] != metrics["arms"]["ppo"]["proxy_reward"]
        assert (people.path / "judge" / "adapter_model.safetensors").exists()

    def test_the_judge_tells_how_often_it_is_right_on_held_out_pairs(self, people):
        accuracy, judge = people.comparison.metrics["judge_facts"]["accuracy"], people.stages["judge"].metrics
        assert (accuracy["mean"], accuracy["pairs"]) == (judge["accuracy"], judge["pairs"])
        assert 0 <= accuracy["ci95"][0] <= accuracy["mean"] <= accuracy["ci95"][1] <= 1

    def test_no_arm_saw_the_pairs_of_the_judge(self, people):
        """150 prompts: 30 held out, 24 of the other 120 for the judge, 96 for all else."""
        rows = {name: people.stages[name].metrics["rows"] for name in ("sft", "reward", "dpo", "judge")}
        assert rows == {"sft": 96, "reward": 96, "dpo": 96, "judge": 24}

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
        data = {"preferences": rows, "eval_fraction": 0.2, "max_prompt_tokens": 64, "max_response_tokens": 32}
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
