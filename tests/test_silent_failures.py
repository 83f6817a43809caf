"""Faults that libraries let pass, put back one by one: each stops the stage or is said (docs/silent-failures.md)."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file, save_file
from toy import adapters, toy_base
from toy_stages import Watched, toy_config, toy_encoded
from trl import GRPOTrainer, RLOOTrainer

from kit.data.rows import Split
from kit.errors import ModelError, TrainingStopped
from kit.models import adapters as adapters_module
from kit.models.adapters import SCORE_KEY
from kit.models.encoding import Encoded
from kit.runs.folder import ADAPTER_FILE
from kit.stages import dpo, online, ppo, reward, sft
from kit.stages.checks import require_all_rows, require_finite
from kit.stages.dpo import FirstStepCheck
from kit.stages.ppo import FirstRolloutCheck
from kit.stages.sft import FirstLossCheck

STEPS = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2}
GROUPS = {"episodes": 16, "batch_size": 8, "num_generations": 4, "learning_rate": 1e-2}
STAGES = {
    "sft": (sft, STEPS), "reward": (reward, STEPS), "dpo": (dpo, STEPS), "rloo": (online, GROUPS),
    "grpo": (online, GROUPS),
    "ppo": (ppo, {"episodes": 8, "batch_size": 4, "num_mini_batches": 1, "num_ppo_epochs": 1, "learning_rate": 1e-2}),
}  # fmt: skip
OF_PAIRS_OR_ROWS = pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
OF_SCORES = pytest.mark.parametrize("stage", ["ppo", "rloo", "grpo"])
LIKE_DPO = pytest.mark.parametrize("loss_type", [["sigmoid"], ["ipo"], ["hinge"]])


def train(stage, tmp_path, before=lambda trainer: None, data=None, **changes):
    module, settings = STAGES[stage]
    more = {} if data is None else {"data": data}
    config = toy_config(**{stage: settings | changes})
    return Watched(module, f"train_{stage}", config, tmp_path / "out", before=before, **more)


def parameters(trainer, part):
    return [p for n, p in trainer.model.named_parameters() if part in n]


def no_gradient(part):
    """Gradients of these weights arrive as 0, as where a graph is cut."""

    def spoil(trainer):
        for parameter in parameters(trainer, part):
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient * 0)

    return spoil


def another_reference(trainer):
    with torch.no_grad():
        for parameter in parameters(trainer, ".ref."):
            parameter.add_(0.3)


class TestRowsThatATrainerLeavesOut:
    @OF_PAIRS_OR_ROWS
    def test_stop_the_stage_before_it_trains(self, stage, tmp_path, monkeypatch):
        trainer = {"sft": sft.KitSFTTrainer, "reward": reward.KitRewardTrainer, "dpo": dpo.EncodedDPOTrainer}[stage]
        prepare = trainer._prepare_dataset
        monkeypatch.setattr(trainer, "_prepare_dataset", lambda *a, **k: prepare(*a, **k).select(range(5)))
        with pytest.raises(TrainingStopped, match=rf"{stage} not started: the trainer was given 7 rows and holds 5"):
            train(stage, tmp_path)

    def test_are_looked_for_among_those_held_out_too(self):
        trainer = SimpleNamespace(train_dataset=[1, 2], eval_dataset=[3])
        require_all_rows(trainer, "dpo", [1, 2], [3])
        with pytest.raises(TrainingStopped, match="4 held-out rows and holds 1"):
            require_all_rows(trainer, "dpo", [1, 2], [3, 4, 5, 6])


class TestPromptsThatATrainerReadsOtherwise:
    @OF_SCORES
    def test_stop_the_stage_before_it_trains(self, stage, tmp_path, monkeypatch):
        """As a second BOS, or a template with other arguments, would have it."""
        trainer = GRPOTrainer if stage == "grpo" else RLOOTrainer
        read = trainer._tokenize_prompts

        def with_bos(self, prompts):
            ids, *rest = read(self, prompts)
            return [[1, *row] for row in ids], *rest

        monkeypatch.setattr(trainer, "_tokenize_prompts", with_bos)
        with pytest.raises(TrainingStopped, match=rf"{stage} not started: the trainer reads a prompt as other tokens"):
            train(stage, tmp_path)


class TestAnAdapterThatLearnsNothing:
    @OF_PAIRS_OR_ROWS
    def test_stops_the_stage(self, stage, tmp_path):
        with pytest.raises(TrainingStopped, match=rf"{stage} stopped: after the training the adapter is, to the bit"):
            train(stage, tmp_path, before=no_gradient("lora_"))

    @OF_SCORES
    def test_is_said_where_equal_scores_may_be_why(self, stage, tmp_path, capsys):
        train(stage, tmp_path, before=no_gradient(".default."))
        assert f"{stage}: the policy is, to the bit, the SFT policy" in capsys.readouterr().err

    @OF_SCORES
    def test_is_not_said_of_one_that_learns(self, stage, tmp_path, capsys):
        train(stage, tmp_path)
        assert "to the bit" not in capsys.readouterr().err


class TestTheScoreHead:
    def test_that_no_gradient_reaches_stops_the_stage(self, tmp_path):
        with pytest.raises(TrainingStopped, match="the score head is, to the bit, the random one it began with"):
            train("reward", tmp_path, before=no_gradient("score"))

    def test_that_a_lora_without_its_task_freezes_stops_the_stage(self, tmp_path, monkeypatch):
        """TRL and PEFT train and save such a model without a word, and without its head."""
        config = adapters_module._config

        def without_task(folder, task):
            found = config(folder, task)
            found.task_type = None
            return found

        monkeypatch.setattr(adapters_module, "_config", without_task)
        with pytest.raises(ModelError, match="the score head is frozen"):
            train("reward", tmp_path)

    def test_scores_alike_when_it_is_loaded_afresh_without_the_kit(self, tmp_path):
        data = toy_encoded()
        both = Encoded(data.sft, Split(data.pairs.train[:4], data.pairs.train[4:]), data.prompts, [], data.judge)
        train("reward", tmp_path, data=both)
        model = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=1).eval()
        model.config.pad_token_id = toy_base().tokenizer.pad_token_id
        kept = [json.loads(line) for line in (tmp_path / "out" / "held_out.jsonl").read_text().splitlines()]
        for pair, row in zip(both.pairs.held_out, kept, strict=True):
            with torch.no_grad():
                score = model(torch.tensor([pair["prompt_ids"] + pair["chosen_ids"]])).logits.item()
            assert score == pytest.approx(row["chosen_score"], abs=1e-4)


class TestTheSavedFile:
    @pytest.mark.parametrize("stage", STAGES)
    def test_without_a_weight_that_was_trained_stops_the_stage(self, stage, tmp_path, monkeypatch):
        adapters()
        monkeypatch.setattr(PeftModel, "save_pretrained", losing(SCORE_KEY if stage == "reward" else None))
        with pytest.raises(ModelError, match=r"1 of .* trained weights did not reach"):
            train(stage, tmp_path)

    def test_with_another_value_of_one_stops_the_stage(self, tmp_path, monkeypatch):
        monkeypatch.setattr(PeftModel, "save_pretrained", losing(changed=True))
        with pytest.raises(ModelError, match=r"1 of .* trained weights did not reach"):
            train("sft", tmp_path)

    def test_of_weights_that_are_no_numbers_is_not_published(self, tmp_path):
        model = adapters_module.load_policy(toy_base().causal_lm(), adapters()[0])
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(math.inf)
        with pytest.raises(TrainingStopped, match=r"1 of \d+ trained weights hold numbers that are not finite"):
            adapters_module.save_adapter(model, tmp_path, toy_base().tokenizer, "card")


def losing(name=None, changed=False):
    """`save_pretrained` that loses a weight, or changes it."""
    save = PeftModel.save_pretrained

    def lossy(self, folder, **more):
        save(self, folder, **more)
        weights = load_file(Path(folder) / ADAPTER_FILE)
        lost = name or sorted(weights)[0]
        tensor = weights.pop(lost)
        save_file(weights | ({lost: tensor + 1} if changed else {}), Path(folder) / ADAPTER_FILE)

    return lossy


class TestTheFirstNumbersOfDPO:
    @LIKE_DPO
    def test_with_another_reference_stop_the_stage(self, tmp_path, loss_type):
        with pytest.raises(TrainingStopped, match=r"DPO stopped: the first batch's rewards/\w+ is .*, not 0"):
            train("dpo", tmp_path, before=another_reference, trl={"loss_type": loss_type})

    @LIKE_DPO
    def test_are_0_otherwise(self, tmp_path, loss_type):
        train("dpo", tmp_path, trl={"loss_type": loss_type})

    def test_a_reference_equally_far_on_both_answers_is_seen(self):
        logs = {"loss": math.log(2), "rewards/margins": 0.0, "rewards/chosen": -0.5, "rewards/rejected": -0.5}
        with pytest.raises(TrainingStopped, match=r"rewards/chosen is -0\.5000, not 0"):
            FirstStepCheck().on_log(_args(), SimpleNamespace(global_step=1), None, logs)

    def test_a_loss_that_is_not_ln_2_is_seen(self):
        with pytest.raises(TrainingStopped, match=r"loss is 0\.6000, not ln 2"):
            FirstStepCheck().on_log(_args(), SimpleNamespace(global_step=1), None, {"loss": 0.6})

    def test_later_ones_are_what_they_are(self):
        logs = {"loss": 0.1, "rewards/margins": 3.0}
        FirstStepCheck().on_log(_args(), SimpleNamespace(global_step=2), None, logs)


def _args(**changes):
    return SimpleNamespace(**{"loss_type": ["sigmoid"], "label_smoothing": 0.0, "logging_steps": 4, **changes})


class TestTheFirstKLOfPPO:
    def test_with_another_reference_stops_the_stage(self, tmp_path):
        with pytest.raises(TrainingStopped, match=r"PPO stopped: the first rollout's KL is .* not the SFT policy"):
            train("ppo", tmp_path, before=another_reference)

    def test_is_that_of_the_first_rollout_alone(self):
        check = FirstRolloutCheck()
        check.on_log(_args(), SimpleNamespace(global_step=8), None, {"objective/kl": 3.0})
        with pytest.raises(TrainingStopped, match=r"KL is 3\.0000 nats"):
            check.on_log(_args(), SimpleNamespace(global_step=4), None, {"objective/kl": 3.0})


class TestALossThatIsNoNumber:
    @OF_PAIRS_OR_ROWS
    def test_stops_the_stage_at_once(self, stage, tmp_path):
        def spoil(trainer):
            compute = trainer.compute_loss
            trainer.compute_loss = lambda *a, **k: compute(*a, **k) * math.nan

        with pytest.raises(TrainingStopped, match=rf"{stage} stopped at step 1: the loss is nan"):
            train(stage, tmp_path, before=spoil)

    def test_on_the_held_out_rows_stops_the_stage(self):
        with pytest.raises(TrainingStopped, match="on the held-out rows eval_loss is no finite number"):
            require_finite("sft", {"eval_loss": math.nan, "eval_runtime": 1.0})


class TestTheFirstLossOfSFT:
    def told(self, loss, capsys, step=1):
        FirstLossCheck("a/base", 1_000).on_log(None, SimpleNamespace(global_step=step), None, {"loss": loss})
        return capsys.readouterr().err

    def test_of_a_base_that_guesses_is_said(self, capsys):
        assert "the first batch costs 7.5 nats a token, and guessing among 1,000 tokens 6.9" in self.told(7.5, capsys)

    def test_of_a_base_that_knows_the_language_is_not(self, capsys):
        assert self.told(4.0, capsys) == "" and self.told(7.5, capsys, step=2) == ""

    def test_shows_the_tokenizer_of_another_model(self, tmp_path, capsys):
        """The demo's base, its ids dealt out anew: the ids fit, every text comes back, and nothing else is right."""
        from kit.demo.base import ensure_base

        found = {}
        for shuffled in (False, True):
            model, codec = _demo(ensure_base(tmp_path), shuffled)
            ids = codec.prompt([{"role": "user", "content": "Name three animals."}])
            with torch.no_grad():
                found[shuffled] = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
        guessing = math.log(model.config.vocab_size)
        assert found[False] < guessing < found[True]


def _demo(folder, shuffled):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kit.models.encoding import Codec

    model = AutoModelForCausalLM.from_pretrained(folder)
    if shuffled:
        order = torch.randperm(model.config.vocab_size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight[order])
    return model, Codec(AutoTokenizer.from_pretrained(folder))
