"""What each setting of PPO does to a rollout, a step and the log."""

import json
import math
import statistics

import pytest
import torch
from ppo_toy import PROMPTS, first_rollout, metrics_rows, moved, trainer, weights

import kit
from kit.ppo import math as ppo_math
from kit.ppo.carried import Moments
from kit.ppo.config import PPOConfig
from kit.stages.reward_funcs import reward_funcs

SCORES = [5.0, -7.0, 0.5, 1.0, -0.25, 2.0, 3.0, -1.0]


def fixed_scores(prompts, **_):
    """The same scores for every rollout, some of them far out."""
    return SCORES


def paid(ppo, rollout):
    """What each response of a rollout was paid in all, the KL penalty left out; needs gamma 1 and lam 1."""
    kl = ppo_math.token_kl(rollout.logps, rollout.ref_logps, rollout.mask, ppo.args.kl_estimator).sum(1)
    return rollout.returns[:, 0] + ppo.args.kl_coef * kl


class TestScores:
    def test_the_clip_range_holds_at_both_ends_and_touches_nothing_inside(self, tmp_path):
        ppo = trainer(tmp_path, reward_funcs=[fixed_scores], reward_clip_range=(-2.0, 2.5), lam=1.0)
        torch.testing.assert_close(
            paid(ppo, first_rollout(ppo)), torch.tensor(SCORES).clamp(-2, 2.5), rtol=0, atol=1e-4
        )

    def test_the_penalty_of_a_cut_off_response_comes_after_the_clip(self, tmp_path):
        ppo = trainer(
            tmp_path, reward_funcs=[fixed_scores], reward_clip_range=(-1.0, 1.0), missing_eos_penalty=4.0, lam=1.0
        )
        end = ppo.eos_token_ids[0]
        ppo._generate = lambda prompts: ([[5, 6, 7]] * 8, [[30, end], [30, 31]] * 4, ["x"] * 8)
        wanted = torch.tensor(SCORES).clamp(-1, 1) - torch.tensor([0.0, 4.0] * 4)
        torch.testing.assert_close(paid(ppo, first_rollout(ppo)), wanted, rtol=0, atol=1e-4)

    def test_any_of_the_end_of_turn_ids_spares_the_penalty_and_one_in_the_prompt_does_not(self, tmp_path):
        ppo = trainer(tmp_path, reward_funcs=[fixed_scores], missing_eos_penalty=4.0, lam=1.0)
        end = ppo.eos_token_ids[0]
        ppo.eos_token_ids = [end, 77]
        ppo._generate = lambda prompts: ([[5, end, 7]] * 8, [[30, end], [30, 77], [30, 31], [77]] * 2, ["x"] * 8)
        wanted = torch.tensor(SCORES) - torch.tensor([0.0, 0.0, 4.0, 0.0] * 2)
        torch.testing.assert_close(paid(ppo, first_rollout(ppo)), wanted, rtol=0, atol=1e-4)

    def test_normalised_scores_are_those_of_the_running_moments_then_clipped(self, tmp_path):
        batches = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) * 4 + 2
        given = iter(batches.tolist())
        settings = {"normalize_rewards": True, "reward_clip_range": (-1.5, 1.5), "lam": 1.0}
        ppo = trainer(tmp_path, reward_funcs=[lambda prompts, **_: next(given)], **settings)
        for i in range(3):
            so_far = batches[: i + 1].flatten().double().numpy()
            wanted = ((batches[i].double() - so_far.mean()) / so_far.std(ddof=1)).clamp(-1.5, 1.5).float()
            torch.testing.assert_close(paid(ppo, first_rollout(ppo)), wanted, rtol=0, atol=1e-4)
        assert (wanted.abs() < 1.5).any()

    def test_the_logged_score_is_the_one_before_normalising_clipping_and_penalty(self, tmp_path):
        settings = {"normalize_rewards": True, "reward_clip_range": (-1.0, 1.0), "missing_eos_penalty": 9.0}
        ppo = trainer(tmp_path, reward_funcs=[fixed_scores], **settings)
        first_rollout(ppo)
        assert ppo._metrics["train"]["objective/scores"] == [pytest.approx(statistics.mean(SCORES))]


class TestMoments:
    def test_they_are_those_of_all_scores_however_these_are_cut(self):
        numbers = (torch.randn(40, generator=torch.Generator().manual_seed(0)) * 3 + 1e4).double().tolist()
        moments = Moments()
        for start, stop in ((0, 1), (1, 17), (17, 40)):
            moments.add(numbers[start:stop])
        assert moments.mean == pytest.approx(statistics.mean(numbers), rel=1e-12)
        assert moments.deviation == pytest.approx(statistics.stdev(numbers), rel=1e-9)

    @pytest.mark.parametrize("scores", [[3.0], [2.0, 2.0, 2.0]])
    def test_scores_that_do_not_differ_are_not_divided_by_0(self, scores):
        moments = Moments()
        moments.add(scores)
        assert moments.deviation == 1.0 and moments.mean == scores[0]


class TestKL:
    def test_k3_is_what_is_penalised_and_logged_from_end_to_end(self, tmp_path):
        ppo = trainer(tmp_path, kl_estimator="k3", kl_coef=0.5, lam=1.0, reward_funcs=[fixed_scores], rollouts=1)
        ppo.train()
        ppo._metrics["train"].clear()
        rollout = first_rollout(ppo)
        log_ratio = (rollout.ref_logps - rollout.logps) * rollout.mask
        k3 = (log_ratio.exp() - 1 - log_ratio).sum(1)
        assert (k3 - (-log_ratio).sum(1)).abs().max() > 1e-2
        torch.testing.assert_close(rollout.returns[:, 0], torch.tensor(SCORES) - 0.5 * k3, rtol=1e-4, atol=1e-4)
        logged = ppo._metrics["train"]
        assert logged["objective/kl"][0] == pytest.approx(k3.mean().item(), rel=1e-5)
        assert logged["objective/non_score_reward"][0] == pytest.approx(-0.5 * k3.mean().item(), rel=1e-5)
        assert logged["objective/rlhf_reward"][0] == pytest.approx(
            statistics.mean(SCORES) - 0.5 * k3.mean().item(), rel=1e-4
        )

    def test_adaptive_control_moves_the_coefficient_of_the_next_rollout(self, tmp_path):
        settings = {"kl_control": "adaptive", "kl_coef": 0.1, "target_kl": 1e-3, "kl_horizon": 80}
        ppo = trainer(tmp_path, rollouts=3, **settings)
        ppo.train()
        coefs = [row["kl_coef"] for row in metrics_rows(ppo)]
        kls = [row["objective/kl"] for row in metrics_rows(ppo)]
        assert coefs[0] == 0.1 and kls[1] > 1
        assert coefs[1] == pytest.approx(0.1 * (1 - 0.2 * 8 / 80))  # the first rollout's KL is 0, below the target
        assert coefs[2] == pytest.approx(coefs[1] * (1 + 0.2 * 8 / 80))

    def test_fixed_control_does_not(self, tmp_path):
        ppo = trainer(tmp_path, rollouts=2, kl_coef=0.1, kl_horizon=80, target_kl=1e-3)
        ppo.train()
        assert [row["kl_coef"] for row in metrics_rows(ppo)] == [0.1, 0.1]


class TestCritic:
    @pytest.mark.parametrize("critic", ["adapter", "shared"])
    def test_while_it_warms_up_the_policy_stays_to_the_bit_and_the_critic_moves(self, tmp_path, critic):
        ppo = trainer(tmp_path, critic, rollouts=1, critic_warmup_rollouts=1, weight_decay=0.1)
        before = weights(ppo.model)
        ppo.train()
        after = weights(ppo.model)
        assert not moved(before, after, ".default.") and moved(before, after, "value_head")
        assert bool(moved(before, after, ".critic.")) == (critic == "adapter")

    @pytest.mark.parametrize("critic", ["adapter", "shared"])
    def test_after_the_warm_up_the_policy_learns(self, tmp_path, critic):
        ppo = trainer(tmp_path, critic, rollouts=2, critic_warmup_rollouts=1)
        before = weights(ppo.model)
        ppo.train()
        assert moved(before, weights(ppo.model), ".default.")

    @pytest.mark.parametrize("critic, count", [("adapter", 29), ("shared", 1)])
    def test_its_learning_rate_reaches_its_weights_and_no_others(self, tmp_path, critic, count):
        ppo = trainer(tmp_path, critic, critic_learning_rate=3e-3, learning_rate=1e-4)
        optimizer = ppo.create_optimizer()
        names = {id(p): n for n, p in ppo.model.named_parameters()}
        rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        own = {n for n in rates if ".critic." in n or "value_head" in n}
        assert len(own) == count and set(rates) == {n for n, p in ppo.model.named_parameters() if p.requires_grad}
        assert {rates[n] for n in own} == {3e-3} and {rates[n] for n in set(rates) - own} == {1e-4}

    def test_unset_it_learns_at_the_policys_rate(self, tmp_path):
        assert {g["lr"] for g in trainer(tmp_path, learning_rate=7e-4).create_optimizer().param_groups} == {7e-4}

    @pytest.mark.parametrize("critic", ["adapter", "shared"])
    def test_policy_and_critic_are_clipped_apart_and_logged_as_they_were(self, tmp_path, critic):
        ppo = trainer(tmp_path, critic)
        sizes = {"policy": 3.0, "critic": 40.0}
        for part, parameters in ppo._trained_parts().items():
            total = sum(p.numel() for p in parameters)
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, sizes[part] / math.sqrt(total))
        assert ppo._clip_grad_norm(ppo.model) == pytest.approx(math.hypot(3, 40), rel=1e-5)
        for part, parameters in ppo._trained_parts().items():
            norm = torch.stack([p.grad.norm() for p in parameters]).norm().item()
            assert norm == pytest.approx(ppo.args.max_grad_norm, rel=1e-4)
            assert ppo._metrics["train"][f"grad_norm/{part}"] == [pytest.approx(sizes[part], rel=1e-5)]

    def test_a_small_gradient_of_one_is_not_shrunk_by_a_large_one_of_the_other(self, tmp_path):
        ppo = trainer(tmp_path)
        parts = ppo._trained_parts()
        for part, size in (("policy", 1e-4), ("critic", 1e4)):
            for parameter in parts[part]:
                parameter.grad = torch.full_like(parameter, size)
        ppo._clip_grad_norm(ppo.model)
        assert all((p.grad == 1e-4).all() for p in parts["policy"])


def length_reward(completion_ids, **_):
    """A token is worth a tenth."""
    return [0.1 * len(ids) for ids in completion_ids]


class TestSchedule:
    @pytest.mark.parametrize("critic_rate", [None, 4e-3])
    def test_all_updates_on_a_rollout_have_one_rate_and_the_last_rollouts_is_not_0(self, tmp_path, critic_rate):
        """As TRL 1.12: rollout k of n learns at rate x (1 - k / n)."""
        ppo = trainer(tmp_path, rollouts=3, learning_rate=1e-3, critic_learning_rate=critic_rate)
        rates = rates_of(ppo)
        steps = ppo._steps_per_rollout
        assert steps > 1 and len(rates) == 3 * steps
        for i, (policy, critic) in enumerate(rates):
            left = 1 - i // steps / 3
            assert (policy, critic) == (pytest.approx(1e-3 * left), pytest.approx((critic_rate or 1e-3) * left))

    def test_warm_up_counts_rollouts_as_well(self, tmp_path):
        ppo = trainer(tmp_path, rollouts=4, learning_rate=1e-3, warmup_steps=2, lr_scheduler_type="cosine")
        by_rollout = [policy for policy, _ in rates_of(ppo)][:: ppo._steps_per_rollout]
        assert by_rollout == pytest.approx([0, 5e-4, 1e-3, 5e-4])


def rates_of(ppo):
    """The learning rates of policy and critic at each optimizer step of a whole training."""
    ppo.create_optimizer_and_scheduler(ppo.args.max_steps)
    rates, policy = [], {id(p) for p in ppo._trained_parts()["policy"]}
    for _ in range(ppo.args.max_steps):
        by_part = {id(group["params"][0]) in policy: group["lr"] for group in ppo.optimizer.param_groups}
        rates.append((by_part[True], by_part[False]))
        ppo.optimizer.step()
        ppo.lr_scheduler.step()
    return rates


class TestRewardFunctions:
    def test_several_are_weighed_summed_and_logged_by_their_names(self, tmp_path):
        ppo = trainer(
            tmp_path, reward_funcs=["reward_model", fixed_scores, length_reward], reward_weights=[2.0, 0.5, -1.0]
        )
        rollout = first_rollout(ppo)
        logged = {n: x[0] for n, x in ppo._metrics["train"].items()}
        lengths = rollout.mask.sum(1).float()
        assert logged["rewards/fixed_scores"] == pytest.approx(statistics.mean(SCORES))
        assert logged["rewards/length_reward"] == pytest.approx(0.1 * lengths.mean().item())
        wanted = 2 * logged["rewards/reward_model"] + 0.5 * statistics.mean(SCORES) - 0.1 * lengths.mean().item()
        assert logged["objective/scores"] == pytest.approx(wanted, rel=1e-5)

    def test_without_the_reward_model_its_score_is_not_logged(self, tmp_path):
        ppo = trainer(tmp_path, reward_funcs=[fixed_scores])
        first_rollout(ppo)
        assert [n for n in ppo._metrics["train"] if n.startswith("rewards/")] == ["rewards/fixed_scores"]


def settings_with(*specs):
    return kit.Config(ppo={"reward_funcs": dict.fromkeys(specs, 1.0)}).ppo


class TestRewardFunctionsThatFail:
    """The user's own code stops the run with a message, not with a traceback."""

    def function(self, tmp_path, body):
        (tmp_path / "mine.py").write_text(f"def f(completions, **_):\n    {body}\n")
        return reward_funcs(settings_with(f"{tmp_path / 'mine.py'}:f"))[0]

    def test_an_exception_is_named_with_its_function(self, tmp_path):
        with pytest.raises(kit.TrainingStopped, match=r"mine.py:f failed: KeyError: 'score'"):
            self.function(tmp_path, "return {}['score']")(completions=["a"])

    def test_a_wrong_number_of_numbers_is_told(self, tmp_path):
        with pytest.raises(kit.TrainingStopped, match="returned 1 numbers for 2 completions"):
            self.function(tmp_path, "return [1.0]")(completions=["a", "b"])


class TestRewardFunctionsOfTheConfiguration:
    def test_a_file_and_a_module_and_the_reward_model_come_in_the_order_given(self, tmp_path):
        (tmp_path / "mine.py").write_text("def short(completions, **_):\n    return [1.0] * len(completions)\n")
        found = reward_funcs(settings_with(f"{tmp_path / 'mine.py'}:short", "reward_model", "math:hypot"))
        assert found[0](completions=["a", "b"]) == [1.0, 1.0]
        assert found[1] == "reward_model" and found[2].__wrapped__ is math.hypot

    def test_a_function_from_a_file_pays_the_rollout_under_its_name(self, tmp_path):
        (tmp_path / "mine.py").write_text("def seven(completions, **_):\n    return [7.0] * len(completions)\n")
        ppo = trainer(tmp_path, reward_funcs=reward_funcs(settings_with(f"{tmp_path / 'mine.py'}:seven")))
        first_rollout(ppo)
        assert ppo._metrics["train"]["rewards/seven"] == ppo._metrics["train"]["objective/scores"] == [7.0]

    @pytest.mark.parametrize(
        "spec, message",
        [
            ("gone.py:f", r"no file .*gone\.py"),
            ("mine.py:longer", r"has no function longer; it has short"),
            ("mine.py:NUMBER", r"has no function NUMBER; it has short"),
            ("broken.py:f", r"importing .*broken\.py failed: ZeroDivisionError"),
            ("no_such_package_of_mine:f", r"importing no_such_package_of_mine failed: ModuleNotFoundError"),
            ("just_a_name", r"wanted reward_model, file\.py:name or package\.module:name"),
            ("mine.py:", r"wanted reward_model, file\.py:name"),
        ],
    )
    def test_one_that_cannot_be_had_is_an_error_that_says_what_was_found(self, tmp_path, monkeypatch, spec, message):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine.py").write_text("NUMBER = 3\ndef short(**_):\n    return []\n")
        (tmp_path / "broken.py").write_text("1 / 0\n")
        with pytest.raises(kit.ConfigError, match=r"ppo\.reward_funcs .*" + message):
            reward_funcs(settings_with(spec))


class TestRefusals:
    @pytest.mark.parametrize(
        "name, value",
        [("top_k", 50), ("top_p", 0.9), ("min_p", 0.1), ("repetition_penalty", 1.2), ("num_generations", 2),
         ("generation_kwargs", {"min_length": 3}), ("normalize_advantages", True), ("epsilon_high", 0.3),
         ("mask_truncated_completions", True), ("sync_ref_model", True)],
    )  # fmt: skip
    def test_what_bends_the_distribution_or_needs_a_group_is_refused_by_name(self, tmp_path, name, value):
        with pytest.raises(ValueError, match=rf"{name}=.*PPO does not take it"):
            PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **{name: value})


class TestLog:
    NAMES = (
        "objective/kl", "objective/scores", "objective/rlhf_reward", "objective/non_score_reward", "objective/entropy",
        "policy/approxkl", "policy/clipfrac", "policy/entropy", "policy/ratio", "val/explained_variance",
        "val/clipfrac", "loss/policy", "loss/value", "lengths/mean", "eos_rate", "kl_coef", "grad_norm/policy",
        "grad_norm/critic", "seconds/rollout", "seconds/scoring", "seconds/training", "episode",
    )  # fmt: skip

    @pytest.mark.parametrize("critic", ["adapter", "shared"])
    def test_there_is_one_row_a_rollout_with_a_number_under_every_name(self, tmp_path, critic):
        ppo = trainer(tmp_path, critic, rollouts=3)
        ppo.train()
        rows = [row for row in ppo.state.log_history if "train_runtime" not in row]
        assert [(row["step"], row["episode"]) for row in rows] == [(4, 8), (8, 16), (12, 24)]
        for row in rows:
            assert [n for n in self.NAMES if not math.isfinite(row.get(n, math.nan))] == []

    def test_the_numbers_are_of_the_responses_tokens(self, tmp_path):
        ppo = trainer(tmp_path)
        rollout = first_rollout(ppo)
        logged = {n: x[0] for n, x in ppo._metrics["train"].items()}
        assert logged["objective/entropy"] == pytest.approx(-rollout.logps.sum().item() / 8, rel=1e-5)
        assert logged["lengths/mean"] == rollout.mask.sum().item() / 8
        last = rollout.mask.sum(1) - 1
        ended = rollout.input_ids[torch.arange(8), rollout.attention_mask.sum(1) - 1]
        assert logged["eos_rate"] == sum(int(i) in ppo.eos_token_ids for i in ended) / 8 and (last >= 0).all()

    def test_completions_hold_the_first_rows_of_every_rollout(self, tmp_path):
        ppo = trainer(tmp_path, rollouts=2, reward_funcs=[fixed_scores, length_reward])
        ppo.train()
        rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
        assert [row["rollout"] for row in rows] == [1] * 8 + [2] * 8
        asked = [row["prompt"] for row in PROMPTS]
        for i, row in enumerate(rows):
            assert row["prompt"] in asked and row["completion"][0]["role"] == "assistant"
            assert row["rewards"] == {
                "fixed_scores": SCORES[i % 8], "length_reward": pytest.approx(0.1 * row["tokens"], rel=1e-5)
            }  # fmt: skip
            assert row["score"] == pytest.approx(sum(row["rewards"].values()), rel=1e-5)
            assert row["ended"] == (row["tokens"] < 6) or row["tokens"] == 6
        assert max(abs(row["kl_nats"]) for row in rows[:8]) < 1e-4 < max(abs(row["kl_nats"]) for row in rows[8:])

    def test_ratio_and_its_kin_are_means_over_tokens_that_padding_does_not_dilute(self, tmp_path):
        ppo = trainer(tmp_path, reward_funcs=[fixed_scores])
        ppo._generate = lambda prompts: (
            [[5, 6, 7]] * 8,
            [[30, 31, 32, 33, 34, 35][: 1 + i % 6] for i in range(8)],
            [""] * 8,
        )
        part = first_rollout(ppo).rows(torch.arange(8))
        part["logps"] = part["logps"] - math.log(2) * part["mask"]
        assert part["mask"].float().mean() < 0.6
        ppo.current_gradient_accumulation_steps = 1
        ppo._compute_loss(ppo.model, {**part, "mini_batch_tokens": part["mask"].sum()})
        logged = {name: total / count for name, (total, count) in ppo._token_sums.items()}
        assert logged["policy/ratio"] == pytest.approx(2, rel=1e-4) and logged["policy/clipfrac"] == 1
        assert logged["policy/approxkl"] == pytest.approx(0.5 * math.log(2) ** 2, rel=1e-3)

    def test_a_resumed_run_writes_no_completion_twice(self, tmp_path):
        saved = {"rollouts": 2, "save_strategy": "steps", "save_steps": 4}
        trainer(tmp_path, **saved).train()
        trainer(tmp_path, **saved).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
        assert [row["rollout"] for row in rows] == [1] * 8 + [2] * 8


class TestRewardsThatDoNotApply:
    def test_none_counts_for_nothing_where_another_function_gives_a_number(self, tmp_path):
        def sometimes(prompts, **_):
            return [None, 2.0] * 4

        ppo = trainer(tmp_path, reward_funcs=[fixed_scores, sometimes], lam=1.0)
        wanted = torch.tensor(SCORES) + torch.tensor([0.0, 2.0] * 4)
        torch.testing.assert_close(paid(ppo, first_rollout(ppo)), wanted, rtol=0, atol=1e-4)
