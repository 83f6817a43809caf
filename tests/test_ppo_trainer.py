"""PPOTrainer on a toy base: what holds at the first update, after it, and over a save and a resume."""

import copy
import math

import pytest
import torch
from datasets import Dataset
from toy import QUESTIONS, rows, toy_base, toy_roles

import kit
from kit.models.roles import ADAPTERS
from kit.ppo import math as ppo_math
from kit.ppo.config import PPOConfig
from kit.ppo.guards import NAMES
from kit.ppo.rollout import PromptOrder, in_place, lay_out, response_places
from kit.ppo.trainer import PPOTrainer

PROMPTS = [{"prompt": [{"role": "user", "content": f"{question} ({i})"}]} for i in range(4) for question in QUESTIONS]


def trainer(tmp_path, nf4=False, rollouts=2, prompts=PROMPTS, reward_funcs=("reward_model",), **changes):
    """A PPOTrainer with rollouts of 8: 2 mini-batches of 4, 2 epochs, so 4 optimizer steps a rollout."""
    arguments = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "generation_batch_size": 8, "num_ppo_epochs": 2, "max_completion_length": 6, "max_steps": 4 * rollouts,
        "learning_rate": 1e-2, "logging_steps": 4, "report_to": "none", "save_strategy": "no", "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "seed": 3, "guards_off": list(NAMES),
    }  # fmt: skip
    return PPOTrainer(
        roles=toy_roles(nf4),
        args=PPOConfig(**{**arguments, **changes}),
        train_dataset=Dataset.from_list(prompts),
        processing_class=toy_base(nf4).tokenizer,
        reward_funcs=reward_funcs,
    )


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(before, after, part):
    """Names of weights of one adapter (or `base`) that differ."""
    own = lambda n: part in n if part != "base" else not any(k in n for k in ("lora_", "value_head"))  # noqa: E731
    return {n for n in before if own(n) and not torch.equal(before[n], after[n])}


def first_rollout(ppo):
    ppo.model.train()
    return ppo._generate_and_score_completions(PROMPTS[:8])


class TestFirstUpdate:
    @pytest.mark.parametrize("nf4", [False, True])
    def test_kl_from_the_reference_is_0_and_the_ratio_1(self, tmp_path, nf4):
        ppo = trainer(tmp_path, nf4)
        rollout = first_rollout(ppo)
        assert ((rollout.logps - rollout.ref_logps).abs() * rollout.mask).max() < 1e-5
        ppo.current_gradient_accumulation_steps = 2
        part = rollout.rows(torch.tensor([5, 1]))
        logps = in_place(ppo.passes.logps(part, ppo.passes.states(part))[0], part["mask"])
        assert (logps - part["logps"]).abs().max() < 1e-4

    def test_log_probabilities_are_those_of_a_plain_forward_without_padding(self, tmp_path):
        ppo = trainer(tmp_path)
        rollout = first_rollout(ppo)
        for i in range(len(rollout.mask)):
            length, n = int(rollout.attention_mask[i].sum()), int(rollout.mask[i].sum())
            ids = rollout.input_ids[i : i + 1, :length]
            with torch.no_grad():
                full = torch.log_softmax(ppo.model(ids).logits, -1)[0]
            wanted = full[length - n - 1 : -1].gather(1, ids[0, length - n :, None])[:, 0]
            torch.testing.assert_close(rollout.logps[i, :n], wanted, rtol=1e-4, atol=1e-5)

    def test_values_are_the_critics_before_each_token(self, tmp_path):
        ppo = trainer(tmp_path)
        rollout = first_rollout(ppo)
        length, n = int(rollout.attention_mask[0].sum()), int(rollout.mask[0].sum())
        ids = rollout.input_ids[:1, :length]
        with torch.no_grad(), ppo.roles.use("critic"):
            alone = ppo.roles.values(ppo.roles.hidden(ids, torch.ones_like(ids)))[0]
        torch.testing.assert_close(rollout.values[0, :n], alone[length - n - 1 : -1], rtol=1e-4, atol=1e-5)

    def test_advantages_are_whitened_gae_of_score_and_kl(self, tmp_path):
        ppo = trainer(tmp_path, missing_eos_penalty=1.0)
        rollout = first_rollout(ppo)
        lengths = rollout.mask.sum(1)
        sequences = [
            row[: int(m.sum())].tolist() for row, m in zip(rollout.input_ids, rollout.attention_mask, strict=True)
        ]
        prompts = [s[: len(s) - int(n)] for s, n in zip(sequences, lengths, strict=True)]
        answers = [s[len(p) :] for s, p in zip(sequences, prompts, strict=True)]
        scores = torch.tensor(ppo.reward_model(completion_ids=answers, prompt_ids=prompts))
        scores -= torch.tensor([0.0 if a[-1] in ppo.eos_token_ids else 1.0 for a in answers])
        kl = ppo_math.token_kl(rollout.logps, rollout.ref_logps, rollout.mask)
        rewards = ppo_math.token_rewards(scores, kl, rollout.mask, ppo.args.kl_coef)
        gae = ppo_math.advantages_gae(rewards, rollout.values, rollout.mask, 1.0, 0.95)
        torch.testing.assert_close(rollout.advantages, ppo_math.masked_whiten(gae, rollout.mask))
        torch.testing.assert_close(rollout.returns, gae + rollout.values * rollout.mask)


class TestAnUpdate:
    @pytest.mark.parametrize("nf4", [False, True])
    def test_moves_policy_critic_and_value_head_and_nothing_else(self, tmp_path, nf4):
        ppo = trainer(tmp_path, nf4, rollouts=1)
        before = weights(ppo.model)
        ppo.train()
        after = weights(ppo.model)
        assert moved(before, after, ".default.") and moved(before, after, ".critic.")
        assert moved(before, after, "value_head")
        assert not moved(before, after, "base") and not moved(before, after, ".ref.")
        assert not moved(before, after, ".reward.")

    def test_leaves_the_reference_the_sft_policy_that_the_kl_is_measured_from(self, tmp_path):
        ppo = trainer(tmp_path, rollouts=1)
        ppo.train()
        rollout = first_rollout(ppo)
        untouched = trainer(tmp_path)
        whole = rollout.rows(torch.arange(8))
        sft = in_place(untouched.passes.logps(whole, untouched.passes.states(whole))[0], rollout.mask)
        torch.testing.assert_close(rollout.ref_logps, sft.detach(), rtol=1e-4, atol=1e-5)
        assert ((rollout.logps - rollout.ref_logps).abs() * rollout.mask).max() > 1e-2

    def test_with_learning_rate_0_the_ratio_stays_1_through_all_epochs(self, tmp_path):
        ppo = trainer(tmp_path, learning_rate=1e-30, rollouts=2)
        ppo.train()
        logged = [row for row in ppo.state.log_history if "policy/ratio" in row]
        assert logged and all(row["policy/approxkl"] < 1e-9 and row["policy/clipfrac"] == 0 for row in logged)
        assert all(abs(row["objective/kl"]) < 1e-4 for row in logged)

    def test_gradients_are_clipped(self, tmp_path):
        ppo = trainer(tmp_path, rollouts=1, max_grad_norm=1e-9, learning_rate=1e-3, optim="sgd")
        before = weights(ppo.model)
        ppo.train()
        assert max((weights(ppo.model)[n] - before[n]).abs().max() for n in before) < 1e-10

    def test_the_score_rises_where_the_reward_is_easy(self, tmp_path):
        def low_ids(completion_ids, **_):
            return [sum(i < 300 for i in ids) / len(ids) for ids in completion_ids]

        large = {"generation_batch_size": 64, "per_device_train_batch_size": 16, "prompts": PROMPTS * 4}
        steep = {"learning_rate": 3e-2, "lr_scheduler_type": "constant", "kl_coef": 0.0}
        ppo = trainer(tmp_path, rollouts=18, reward_funcs=[low_ids], **large, **steep)
        ppo.train()
        scores = [row["objective/scores"] for row in ppo.state.log_history if "objective/scores" in row]
        assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.1

    def test_the_same_seed_gives_the_same_run_to_the_bit(self, tmp_path):
        runs = []
        for name in ("one", "two"):
            ppo = trainer(tmp_path / name, rollouts=1)
            ppo.train()
            runs.append(weights(ppo.model))
        assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])


class TestMicroBatches:
    def gradients(self, tmp_path, micro, **changes):
        """Gradients of the first mini-batch of 4 of one and the same rollout, cut into micro-batches of `micro`."""
        ppo = trainer(tmp_path, per_device_train_batch_size=micro, gradient_accumulation_steps=4 // micro, **changes)
        ppo.model.train()
        batch = lay_out(rows(9, 4, 6, 7, seed=1), rows(6, 2, 5, 3, seed=2), 0, "cpu")
        ppo._prompts = list(range(4))
        noise = torch.Generator().manual_seed(0)
        numbers = {
            n: torch.randn(batch["mask"].shape, generator=noise) for n in ("logps", "values", "advantages", "returns")
        }
        numbers["logps"] = numbers["logps"] * 0.1 - 7
        ppo.current_gradient_accumulation_steps = 4 // micro
        tokens = batch["mask"].sum()
        for index in torch.arange(4).split(micro):
            part = {n: t[index] for n, t in (batch | numbers).items()}
            loss = ppo._compute_loss(ppo.model, {**part, "mini_batch_tokens": tokens})
            ppo.accelerator.backward(loss / ppo.current_gradient_accumulation_steps)
        return {n: p.grad for n, p in ppo.model.named_parameters() if p.grad is not None}

    @pytest.mark.parametrize("micro", [1, 2])
    def test_1_x_4_equals_4_x_1(self, tmp_path, micro):
        small, whole = self.gradients(tmp_path, micro), self.gradients(tmp_path, 4)
        assert set(small) == set(whole)
        for name in whole:
            torch.testing.assert_close(small[name], whole[name], rtol=1e-3, atol=1e-6, msg=name)

    def test_every_row_is_seen_once_a_pass_in_a_new_order(self, tmp_path):
        ppo = trainer(tmp_path)
        rollout = first_rollout(ppo)
        passes = [ppo._shuffled_micro_batches(rollout) for _ in range(2)]
        for slices in passes:
            seen = torch.cat([s["logps"] for s in slices])
            assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, rollout.logps.tolist()))
            assert len(slices) == 4 and slices[0]["mini_batch_tokens"] == sum(s["mask"].sum() for s in slices[:2])
        assert not torch.equal(passes[0][0]["logps"], passes[1][0]["logps"])


class TestCheckpoints:
    @pytest.mark.parametrize("step", [4, 8])
    def test_resumed_equals_unbroken_to_the_bit(self, tmp_path, step):
        whole = trainer(tmp_path / "whole", rollouts=3)
        whole.train()
        broken = trainer(tmp_path / "broken", rollouts=3, save_strategy="steps", save_steps=4)
        broken.train()
        resumed = trainer(tmp_path / "broken", rollouts=3, save_strategy="steps", save_steps=4)
        resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / f"checkpoint-{step}"))
        wanted, got = weights(whole.model), weights(resumed.model)
        assert [n for n in wanted if not torch.equal(wanted[n], got[n])] == []
        assert resumed.state.log_history[-2]["episode"] == 24

    def test_a_checkpoint_holds_policy_critic_and_value_head_and_no_pickled_arguments(self, tmp_path):
        trainer(tmp_path, rollouts=1, save_strategy="steps", save_steps=4).train()
        names = {path.name for path in (tmp_path / "checkpoint-4").iterdir()}
        assert {"adapter_model.safetensors", "critic.safetensors", "optimizer.pt", "trainer_state.json"} <= names
        assert "training_args.bin" not in names

    def test_inside_a_rollout_there_is_none(self, tmp_path):
        with pytest.raises(ValueError, match="multiple"):
            trainer(tmp_path, rollouts=1, save_strategy="steps", save_steps=3).train()


class TestRewards:
    def test_a_callable_sees_prompts_completions_and_ids(self, tmp_path):
        seen = {}

        def reward(prompts, completions, completion_ids, prompt_ids, **_):
            seen.update(prompts=prompts, completions=completions, ids=completion_ids, prompt_ids=prompt_ids)
            return [float(i) for i in range(len(prompts))]

        rollout = first_rollout(trainer(tmp_path, reward_funcs=[reward]))
        assert seen["prompts"] == [row["prompt"] for row in PROMPTS[:8]]
        assert [len(ids) for ids in seen["ids"]] == rollout.mask.sum(1).tolist()
        assert seen["completions"][0][0]["role"] == "assistant"

    def test_a_cut_off_response_pays_the_penalty_and_one_that_ends_does_not(self, tmp_path):
        ppo = trainer(tmp_path, reward_funcs=[lambda prompts, **_: [0.0] * len(prompts)], missing_eos_penalty=5.0)
        end = ppo.eos_token_ids[0]
        answers = [[30, 31, end], [30, 31, 32]] * 4
        ppo._generate = lambda prompts: (rows(*[4] * 8), answers, ["x"] * 8)
        rollout = ppo._generate_and_score_completions(PROMPTS[:8])
        totals = (rollout.returns - rollout.values * rollout.mask)[:, -1] + rollout.values[:, -1]
        assert totals.tolist() == pytest.approx([0.0, -5.0] * 4, abs=1e-5)

    def test_a_score_that_is_not_finite_stops_before_any_step_and_names_the_row(self, tmp_path):
        ppo = trainer(tmp_path, reward_funcs=[lambda prompts, **_: [0.0, math.nan] + [0.0] * (len(prompts) - 2)])
        before = weights(ppo.model)
        with pytest.raises(kit.TrainingStopped, match=r"score is not finite in row\(s\) \[1\]"):
            ppo.train()
        assert all(torch.equal(before[n], value) for n, value in weights(ppo.model).items())


class TestRefusals:
    def test_fewer_prompts_than_a_rollout_is_an_error_and_not_a_wait(self, tmp_path):
        with pytest.raises(kit.DataError, match="7 prompts, but one rollout takes 8"):
            trainer(tmp_path, prompts=PROMPTS[:7])

    def test_a_pad_token_that_ends_a_turn_is_refused(self, tmp_path):
        tokenizer = copy.deepcopy(toy_base().tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
        with pytest.raises(kit.DataError, match="pad token"):
            PPOTrainer(
                roles=toy_roles(),
                args=trainer(tmp_path).args,
                train_dataset=Dataset.from_list(PROMPTS),
                processing_class=tokenizer,
            )

    def test_one_response_per_prompt_is_allowed(self, tmp_path):
        assert trainer(tmp_path).args.num_generations == 1

    def test_batches_that_do_not_divide_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="divisible"):
            trainer(tmp_path, generation_batch_size=7)


class TestPromptOrder:
    def test_every_prompt_is_used_before_any_comes_again_though_rollouts_do_not_divide_them(self):
        order = list(PromptOrder(prompts=10, rollouts=5, rollout_size=4, repeats=1, seed=0))
        assert sorted(order[:10]) == sorted(order[10:]) == list(range(10)) and order[:10] != order[10:]

    def test_a_rollout_is_repeated_for_each_micro_batch_of_each_epoch(self):
        order = list(PromptOrder(prompts=10, rollouts=2, rollout_size=4, repeats=3, seed=0))
        assert order[:4] == order[4:8] == order[8:12] != order[12:16] and len(order) == 24


class TestLayout:
    def test_rows_are_prompt_and_response_without_a_gap(self):
        batch = lay_out([[1, 2], [3]], [[4], [5, 6, 7]], pad=0, device="cpu")
        assert batch["input_ids"].tolist() == [[1, 2, 4, 0], [3, 5, 6, 7]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
        assert batch["mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
        assert batch["predictor"][0, 0] == 1 and batch["predictor"][1].tolist() == [0, 1, 2]

    def test_a_responses_token_counts_even_where_it_equals_the_pad(self):
        batch = lay_out([[1, 2], [3]], [[0], [5, 0]], pad=0, device="cpu")
        rows, places = response_places(batch)
        assert batch["input_ids"][rows, places + 1].tolist() == [0, 5, 0]


class TestNames:
    def test_policy_and_reference_have_the_names_trl_looks_for(self, tmp_path):
        assert set(trainer(tmp_path).model.peft_config) == set(ADAPTERS.values())
