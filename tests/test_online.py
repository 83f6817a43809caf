"""RLOO and GRPO on a toy base: what moves and what does not, whose score they follow, and what is logged."""

import functools
import gc
import json
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from toy import adapters, base_folder, rows, toy_base
from toy_stages import Watched, toy_config, toy_encoded, weights
from trl import GRPOTrainer, RLOOTrainer
from trl.trainer.utils import RepeatSampler

from kit.errors import TrainingStopped
from kit.models.adapters import load_policy
from kit.models.roles import Roles
from kit.stages import online

TOY = {"episodes": 24, "batch_size": 8, "num_generations": 4, "learning_rate": 1e-2}
FOLDERS = []
STAGES = pytest.mark.parametrize("stage", ["rloo", "grpo"])
NF4 = pytest.mark.parametrize("nf4", [False, True], ids=["fp32", "nf4"])
TRAINERS = {"rloo": RLOOTrainer, "grpo": GRPOTrainer}


def train(stage, out, nf4=False, before=lambda trainer: None, data=None, **changes):
    config = toy_config(**{stage: TOY | changes})
    more = {} if data is None else {"data": data}
    return Watched(online, f"train_{stage}", config, Path(out), nf4, before=before, **more)


@functools.cache
def trained(stage, nf4=False):
    """A finished run, made once."""
    FOLDERS.append(tempfile.TemporaryDirectory(prefix="kit-toy-"))
    return train(stage, FOLDERS[-1].name, nf4)


def log(run):
    return [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]


def moved(run, part):
    after = weights(run.trainer.model)
    return [n for n, x in run.weights.items() if part(n) and not torch.equal(x, after[n])]


class TestWhatMoves:
    @STAGES
    @NF4
    def test_every_part_of_the_policy(self, stage, nf4):
        run = trained(stage, nf4)
        assert set(moved(run, lambda n: ".default." in n)) == {n for n in run.weights if ".default." in n}

    @STAGES
    @NF4
    def test_neither_reference_nor_reward_nor_base(self, stage, nf4):
        run = trained(stage, nf4)
        assert {n.split(".")[-2] for n in run.weights if "lora_" in n} == {"default", "ref", "reward"}
        assert moved(run, lambda n: ".default." not in n) == []

    @STAGES
    def test_nothing_at_a_learning_rate_that_is_lost_in_rounding(self, stage, tmp_path):
        assert moved(train(stage, tmp_path, learning_rate=1e-30), lambda n: True) == []

    @STAGES
    @NF4
    def test_the_policys_flags_alone_ask_for_gradients_after_all_switches(self, stage, nf4):
        model = trained(stage, nf4).trainer.model
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {
            n for n, _ in model.named_parameters() if ".default." in n
        }


class TestStart:
    @STAGES
    @NF4
    def test_policy_and_reference_are_the_sft_adapter_to_the_bit(self, stage, nf4):
        """TRL casts the adapters of a 4-bit base to bfloat16 when it is built."""
        run, sft = trained(stage, nf4), load_file(adapters(nf4)[0] / "adapter_model.safetensors")
        for name in ("default", "ref"):
            mine = {n.replace(f".{name}.", "."): x for n, x in run.weights.items() if f".{name}." in n}
            assert mine.keys() == sft.keys() and all(torch.equal(mine[n], sft[n]) for n in sft)

    @STAGES
    @NF4
    def test_the_first_kl_is_0(self, stage, nf4):
        first = log(trained(stage, nf4))[0]
        assert abs(first["kl"]) < 1e-6 and abs(first["objective/kl"]) < 1e-5

    @STAGES
    def test_later_ones_are_not(self, stage):
        assert abs(log(trained(stage))[-1]["objective/kl"]) > 1e-4

    @STAGES
    def test_another_reference_stops_it(self, stage, tmp_path):
        def spoil(trainer):
            with torch.no_grad():
                [p.add_(0.3) for n, p in trainer.model.named_parameters() if ".ref." in n]

        with pytest.raises(TrainingStopped, match=f"{stage} stopped: the first rollout's KL is .* not the SFT policy"):
            train(stage, tmp_path, before=spoil)

    @STAGES
    def test_the_base_is_in_memory_once_and_there_is_no_second_model(self, stage, tmp_path):
        seen = []

        def count(trainer):
            embeddings = [m.weight for m in gc.get_objects() if type(m) is torch.nn.Embedding]
            seen.append(len({weight.data_ptr() for weight in embeddings}))
            assert trainer.ref_model is None

        trained.cache_clear()
        gc.collect()
        train(stage, tmp_path, before=count)
        assert seen == [1]

    @STAGES
    def test_there_is_no_dropout(self, stage, tmp_path):
        found = []

        def look(trainer):
            found.extend(m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout))

        with patch.object(online, "load_policy", with_dropout):
            train(stage, tmp_path, before=look)
        assert found and set(found) == {0.0}


def with_dropout(base, folder):
    """The policy as SFT has it where lora.dropout is set."""
    model = load_policy(base, folder)
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = torch.nn.Dropout(0.5)
    return model


class TestRewards:
    def rewards(self, penalty=1.0):
        roles = Roles(load_policy(toy_base().causal_lm(), adapters()[0]))
        roles.add("reward", adapters()[1])
        settings = toy_config(rloo={"missing_eos_penalty": penalty}).rloo
        return online.GroupRewards("rloo", roles, toy_base(), settings, batch_size=2)

    def test_are_what_the_reward_adapter_gives_when_it_is_loaded_alone(self):
        prompts, responses, noted = rows(5, 9, 7), rows(3, 6, 1, seed=1), {}
        scores = self.rewards().reward_model(prompts, responses, noted.__setitem__)
        alone = AutoPeftModelForSequenceClassification.from_pretrained(adapters()[1], num_labels=1).eval()
        alone.config.pad_token_id = toy_base().tokenizer.pad_token_id
        with torch.no_grad():
            wanted = [alone(torch.tensor([p + r])).logits.item() for p, r in zip(prompts, responses, strict=True)]
        assert scores == pytest.approx(wanted, abs=1e-5) and len(set(scores)) == 3
        assert noted["objective/scores"] == pytest.approx(sum(wanted) / 3)
        assert (noted["lengths/mean"], noted["eos_rate"], noted["episode"]) == (10 / 3, 0, 3)

    def test_a_response_that_was_cut_off_pays_the_penalty(self):
        ended = [30, next(iter(toy_base().codec.stops))]
        assert self.rewards(penalty=0.7).missing_eos(completion_ids=[ended, [30, 31]]) == [0.0, -0.7]

    def test_without_a_penalty_it_pays_nothing(self):
        assert self.rewards(penalty=None).missing_eos(completion_ids=[[30, 31]]) == [0.0]

    def test_a_score_that_is_not_finite_stops_the_run(self):
        rewards = self.rewards()
        rewards.roles.reward_head.weight.data.fill_(float("nan"))
        with pytest.raises(TrainingStopped, match="the score of a response is not finite"):
            rewards.reward_model(rows(5), rows(3), lambda *_: None)

    @STAGES
    def test_are_given_for_the_very_ids_that_trl_sampled_from(self, stage):
        """The prompt's ids come from the kit's codec, TRL's from the chat template; they must be the same."""
        run, prompts = trained(stage), toy_encoded().prompts.train
        tokenized = run.trainer._tokenize_prompts([p.messages for p in prompts])[0]
        assert tokenized == [p.ids for p in prompts]

    @STAGES
    def test_a_loss_that_is_not_finite_stops_the_run(self, stage, tmp_path):
        spoilt = lambda *_, **__: torch.tensor(float("nan"), requires_grad=True)  # noqa: E731
        with (
            patch.object(TRAINERS[stage], "_compute_loss", spoilt),
            pytest.raises(TrainingStopped, match=f"the loss is not finite. Lower {stage}.learning_rate"),
        ):
            train(stage, tmp_path)


class TestOutput:
    @STAGES
    @NF4
    def test_the_adapter_loads_with_peft_alone(self, stage, nf4):
        run = trained(stage, nf4)
        loaded = PeftModel.from_pretrained(toy_base(nf4).causal_lm(), run.out)
        after = weights(run.trainer.model)
        mine = {n: p for n, p in loaded.named_parameters() if ".default." in n}
        assert mine and all(torch.equal(p, after[n]) for n, p in mine.items())
        assert json.loads((run.out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
            base_folder()
        )

    @STAGES
    def test_metrics_are_those_of_first_and_last_rollout(self, stage):
        run = trained(stage)
        lines, metrics = log(run), run.result.metrics
        assert [line["episode"] for line in lines] == [8, 16, 24] and metrics["episodes"] == 24
        assert metrics["score_first"] == lines[0]["objective/scores"]
        assert metrics["score_last"] == lines[-1]["objective/scores"]
        assert metrics["kl_nats"] == lines[-1]["objective/kl"]
        assert "24 episodes;" in run.result.headline

    @STAGES
    def test_the_kl_of_a_response_is_that_of_a_token_times_its_length(self, stage):
        last = log(trained(stage))[-1]
        assert last["objective/kl"] == pytest.approx(last["kl"] * last["completions/mean_length"])

    @STAGES
    def test_without_a_kl_penalty_no_kl_is_known(self, stage, tmp_path):
        run = train(stage, tmp_path, kl_coef=0)
        assert run.result.metrics["kl_nats"] is None and "KL" not in run.result.headline

    @STAGES
    def test_fewer_prompts_than_a_rollout_takes_are_repeated(self, stage, tmp_path):
        run = train(stage, tmp_path, data=toy_encoded(1))
        assert run.result.metrics["episodes"] == 24 and run.result.metrics["prompts"] == 1


class TestTokens:
    @STAGES
    def test_are_counted_as_they_go_through_sampling_and_training(self, stage, tmp_path):
        """A count by hand: every micro-batch of the loss, every response that was sampled."""
        trainer_class, through, sampled = TRAINERS[stage], [], []
        compute, generate = trainer_class._compute_loss, trainer_class._generate

        def counted(self, model, inputs):
            through.append(int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum()))
            return compute(self, model, inputs)

        def noted(self, prompts):
            found = generate(self, prompts)
            sampled.extend(len(ids) for ids in found[1])
            return found

        with patch.multiple(trainer_class, _compute_loss=counted, _generate=noted):
            metrics = train(stage, tmp_path, num_iterations=2, micro_batch_size=2).result.metrics
        assert len(through) == 3 * 2 * 4 and len(sampled) == 24
        assert (metrics["trained_tokens"], metrics["generated_tokens"]) == (sum(through), sum(sampled))


class TestTheFirstRollout:
    def test_is_the_same_for_both(self):
        first = [log(trained(stage))[0] for stage in ("rloo", "grpo")]
        assert first[0]["objective/scores"] == pytest.approx(first[1]["objective/scores"], abs=1e-5)


@pytest.mark.pipeline
class TestInTheRun:
    def test_they_are_stages_like_the_others_and_run_again_alone(self, tmp_path):
        import kit

        sections = {"episodes": 16, "batch_size": 8}
        data = {"preferences": "demo", "eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 32}
        short = {"max_steps": 2, "batch_size": 8}
        config = kit.load_config(
            {"model": {"base": str(base_folder())}, "lora": {"rank": 4}, "data": data, "sft": short, "reward": short},
            output_dir=str(tmp_path), stages=["grpo", "rloo", "sft", "reward"], rloo=sections, grpo=sections,
            ppo={"force": True},
        )  # fmt: skip
        first = kit.run_pipeline(config)
        assert list(first.stages) == ["sft", "reward", "rloo", "grpo"]
        again = kit.run_pipeline(config, ["grpo.kl_coef=0.2", "rloo.snapshots=0"])
        assert [n for n, s in again.stages.items() if s.inputs != first.stages[n].inputs] == ["grpo"]
        assert "RLOO policy" in (again.path / "rloo" / "README.md").read_text()


class TestPromptOrder:
    def order(self, epochs, sampler):
        found = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            found.append(list(sampler))
        return found

    def sampler(self, kind=online.PromptOrder):
        return kind(data_source=range(7), mini_repeat_count=2, batch_size=2, repeat_count=2, seed=3)

    def test_is_trls_and_another_in_each_epoch(self):
        theirs = self.sampler(RepeatSampler)
        assert self.order(range(4), self.sampler()) == (expected := [list(theirs) for _ in range(4)])
        assert expected[0] != expected[1]

    def test_begins_in_any_epoch_where_the_unbroken_one_is(self):
        assert self.order([2, 3], self.sampler()) == self.order(range(4), self.sampler())[2:]
