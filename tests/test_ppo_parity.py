"""PPO's numbers beside those of TRL 1.12's PPOTrainer, recorded by tests/parity/record.py on frozen rollouts.

Where TRL 1.12 was right ours agree to 1e-5 of the largest entry in float32. Where they differ on purpose, a test in
`TestDifferencesOnPurpose` or `TestLoggedDifferences` shows both numbers; where it can, it shows that nothing else
differs. In `full` and `whitened` every response fills the width, so that padding plays no part; in the other cases
some end early.
"""

import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from parity.record import BASE, END, LORA, PAD, RECORD, base_model, fill, lora_parameters, part, tokenizer
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import Qwen2ForCausalLM, Qwen2ForSequenceClassification, TrainerCallback

from kit.config import LoraSettings
from kit.models.adapters import new_policy, new_reward, save_adapter
from kit.models.roles import ADAPTERS, policy_roles
from kit.ppo import math as ppo_math
from kit.ppo.config import PPOConfig
from kit.ppo.rollout import lay_out
from kit.ppo.trainer import PPOTrainer

RAGGED = ["ragged", "ragged_k3", "pad_is_eos"]


def freeze(ppo, prompts, responses):
    """Let `ppo` find these ids instead of sampling. This function and the next one know the trainer's private parts."""
    ppo._generate = lambda _: (prompts, responses, ["w2"] * len(prompts))


def our_numbers(ppo, prompts, responses, steps):
    """What `ppo` computes on these ids: the rollout; for each of `steps` (weights) losses, gradients and metrics."""
    freeze(ppo, prompts, responses)
    ppo.model.train()
    rollout = ppo._generate_and_score_completions([{"prompt": "w2"}] * len(prompts))
    ppo.current_gradient_accumulation_steps, numbers = 1, []
    whole = {**rollout.rows(torch.arange(len(prompts))), "mini_batch_tokens": rollout.mask.sum()}
    for weights in steps:
        fill(trained(ppo), weights)
        ppo.model.zero_grad()
        pg_loss = ppo._compute_loss(ppo.model, whole)  # the critic's gradient is there when it returns
        ppo.accelerator.backward(pg_loss)
        metrics = {name: values[-1] for name, values in ppo._metrics["train"].items()}
        metrics |= {name: total / count for name, (total, count) in ppo._token_sums.items()}
        ppo._token_sums.clear()
        gradients = {name: parameter.grad.clone() for name, parameter in trained(ppo).items()}
        numbers.append({"pg_loss": pg_loss, "vf_loss": metrics["loss/value"], "gradients": gradients, **metrics})
    return rollout, numbers


def trainer(folder, case, **changes):
    """Our PPOTrainer on the recorded weights with the recorded settings."""
    record, settings = load(), settings_of(case)
    policy = new_policy(base_model(Qwen2ForCausalLM, record), LoraSettings(**LORA, dropout=0.0))
    save_adapter(policy, folder / "sft", tokenizer(), "card")
    reward = new_reward(base_model(Qwen2ForSequenceClassification, record), folder / "sft")
    save_adapter(reward, folder / "reward", tokenizer(), "card")
    shared = ["kl_coef", "gamma", "lam", "vf_coef", "cliprange", "cliprange_value", "num_ppo_epochs", "learning_rate",
              "temperature", "whiten_rewards", "missing_eos_penalty", "kl_estimator"]  # fmt: skip
    arguments = {name: settings[name] for name in shared if name in settings} | {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "generation_batch_size": 8, "max_steps": 2,
        "max_completion_length": 6, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "disable_tqdm": True,
    }  # fmt: skip
    ppo = PPOTrainer(
        roles=policy_roles(base_model(Qwen2ForCausalLM, record), folder / "sft", folder / "reward"),
        args=PPOConfig(**{**arguments, **changes}),
        train_dataset=Dataset.from_list([{"prompt": "w2"}] * 8),
        processing_class=tokenizer(),
    )
    heads = {"reward": ppo.roles.reward_head, "critic": ppo.roles.value_head}
    for role, adapter in ADAPTERS.items():
        head = {"head": heads[role].weight} if role in heads else {}
        fill(lora_parameters(ppo.model, adapter) | head, part(record, role))
    return ppo


def trained(ppo):
    """The trainable weights, by the names they have in the record."""
    policy, critic = (lora_parameters(ppo.model, ADAPTERS[role]) for role in ("policy", "critic"))
    own = {f"policy/{n}": p for n, p in policy.items()} | {f"critic/{n}": p for n, p in critic.items()}
    return own | {"critic/head": ppo.roles.value_head.weight}


@functools.cache
def load():
    return load_file(RECORD)


def settings_of(case):
    with safe_open(RECORD, "pt") as file:
        metadata = file.metadata()
    return json.loads(metadata["settings"]) | json.loads(metadata["cases"])[case]


def theirs(case):
    """TRL's numbers of a case, under its local variables' names."""
    return part(load(), case)


def rollout_ids(case):
    """The prompts and responses of a case, without padding, in the order in which TRL took them."""
    trl, pad = theirs(case), END if case == "pad_is_eos" else PAD
    prompts = [query[int((query != pad).long().argmax()) :].tolist() for query in trl["queries"]]
    tails = trl["query_responses"][:, trl["queries"].shape[1] :].tolist()
    return prompts, [ids[: ids.index(END) + 1] if END in ids else ids for ids in tails]


def response_mask(case):
    """1 on the response's tokens, END included: ours, from the lengths."""
    prompts, responses = rollout_ids(case)
    return lay_out(prompts, responses, 0, "cpu")["mask"]


def trl_masks(case):
    """TRL's two masks, 1 on what counts: actions, and the position after them, which counts for value and reward."""
    numbers = theirs(case)
    return (~numbers["padding_mask"]).long(), (~numbers["padding_mask_p1"]).long()


def our_rewards(case, mask):
    """Our reward of each token from TRL's scores and log-probabilities, under this mask."""
    trl, settings = theirs(case), settings_of(case)
    kl = ppo_math.token_kl(trl["logprobs"], trl["ref_logprobs"], mask, settings.get("kl_estimator", "k1"))
    return ppo_math.token_rewards(trl["scores"], kl, mask, settings["kl_coef"])


@functools.cache
def ours(case):
    """(rollout, numbers at each step): our trainer on a case, with TRL's weights at each of its optimizer steps."""
    start = {n: w for n, w in load().items() if n.startswith(("policy/", "critic/"))}
    later = part(theirs(case), "1/weights")
    with tempfile.TemporaryDirectory() as folder:
        ppo = trainer(Path(folder), case)
        return our_numbers(ppo, *rollout_ids(case), [start, *([later] if later else [])])


def agree(got, wanted, size=None):
    """To 1e-5 of the largest entry, or of `size` where that entry is what is left of larger ones."""
    got, wanted = torch.as_tensor(got).detach().float(), torch.as_tensor(wanted).float()
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * (size or wanted.abs().max().item()))


class TestRecord:
    def test_it_was_made_by_trl_1_12_0_and_is_small(self):
        with safe_open(RECORD, "pt") as file:
            assert file.metadata()["trl"] == "1.12.0"
        assert RECORD.stat().st_size < 300_000 and BASE["hidden_size"] == 16

    def test_nothing_in_it_is_zero_that_could_hide_a_fault(self):
        full = theirs("full")
        for name in ("kl", "rewards", "values", "advantages", "scores"):
            assert (full[name].abs() > 1e-4).all(), name
        assert all(g.abs().max() > 1e-3 for n, g in full.items() if "/gradients/" in n)

    def test_in_the_second_epoch_policy_and_value_are_clipped(self):
        full, settings = theirs("full"), settings_of("full")
        ratio = (full["1/new_logprobs"] - full["logprobs"]).exp()
        assert 0.2 < ((ratio - 1).abs() > settings["cliprange"]).float().mean() < 0.9
        off = (full["1/vpred"] - full["values"]).abs()
        assert 0.2 < (off > settings["cliprange_value"]).float().mean() < 0.9


class TestArithmetic:
    """kit.ppo.math on TRL's inputs and with TRL's masks: all of TRL's numbers, also of responses that end early.

    TRL's mask of rewards and values is one token longer than the response. Under it ours put the score where TRL does.
    """

    @pytest.mark.parametrize("case", ["full", *RAGGED])
    def test_rewards(self, case):
        agree(our_rewards(case, trl_masks(case)[1]), theirs(case)["rewards"])

    def test_whitened_rewards(self):
        trl, (_, mask) = theirs("whitened"), trl_masks("whitened")
        rewards = trl["non_score_reward"].clone()
        rewards[:, -1] += trl["scores"]
        agree(ppo_math.masked_whiten(rewards, mask, shift_mean=False), trl["rewards"])

    @pytest.mark.parametrize("case", ["full", "whitened", *RAGGED])
    def test_advantages_and_returns(self, case):
        trl, settings, (actions, longer) = theirs(case), settings_of(case), trl_masks(case)
        got = ppo_math.advantages_gae(trl["rewards"], trl["values"], longer, settings["gamma"], settings["lam"])
        agree(got, trl["unwhitened_advantages"])
        agree(got + trl["values"], trl["returns"])
        agree(ppo_math.masked_whiten(got, actions), trl["advantages"])

    @pytest.mark.parametrize("case", ["full", "whitened", *RAGGED])
    @pytest.mark.parametrize("step", [0, 1])
    def test_losses(self, case, step):
        trl, settings, (actions, longer) = theirs(case), settings_of(case), trl_masks(case)
        policy = ppo_math.policy_loss(
            trl[f"{step}/new_logprobs"], trl["logprobs"], trl["advantages"], actions, settings["cliprange"]
        )
        value = ppo_math.value_loss(
            trl[f"{step}/vpred"], trl["values"], trl["returns"], longer, settings["cliprange_value"]
        )
        vf_loss = ppo_math.masked_mean(value, longer)
        agree(vf_loss, trl[f"{step}/vf_loss"])
        pg_loss = ppo_math.masked_mean(policy, actions)
        agree(pg_loss, trl[f"{step}/pg_loss"], size=1)  # near 0: a mean of terms that are whitened, so of size 1
        agree(pg_loss + settings["vf_coef"] * vf_loss, trl[f"{step}/loss"])


class TestTrainer:
    """Our whole PPOTrainer on the frozen rollout: adapters on one base, padding on the right, a fused head."""

    @pytest.mark.parametrize("case", ["full", "ragged"])
    def test_log_probabilities_reference_values_and_kl_of_every_response_token(self, case):
        (rollout, _), trl, mask = ours(case), theirs(case), response_mask(case)
        agree(rollout.logps, trl["logprobs"] * mask)
        agree(rollout.ref_logps, trl["ref_logprobs"] * mask)
        agree(rollout.values, trl["values"] * mask)
        agree(rollout.logps - rollout.ref_logps, trl["kl"])

    @pytest.mark.parametrize("case", ["full", "whitened"])
    def test_advantages_and_returns(self, case):
        (rollout, _), trl = ours(case), theirs(case)
        agree(rollout.returns - rollout.values, trl["unwhitened_advantages"])
        agree(rollout.returns, trl["returns"])
        agree(rollout.advantages, trl["advantages"])

    @pytest.mark.parametrize("case", ["ragged", "ragged_k3"])
    def test_returns_and_penalty_of_the_responses_that_fill_the_width_though_others_end_early(self, case):
        (rollout, _), trl, mask = ours(case), theirs(case), response_mask(case)
        wide = mask.sum(1) == mask.shape[1]
        assert wide.tolist().count(True) == 3 and (trl["query_responses"][wide, -1] != END).any()
        agree(rollout.returns[wide], trl["returns"][wide])

    def test_scores(self, tmp_path):
        ppo, trl = trainer(tmp_path, "ragged"), theirs("ragged")
        prompts, responses = rollout_ids("ragged")
        got = torch.tensor(ppo.reward_model(completion_ids=responses, prompt_ids=prompts))
        penalty = settings_of("ragged")["missing_eos_penalty"]
        agree(got - torch.tensor([0.0 if ids[-1] == END else penalty for ids in responses]), trl["scores"])

    @pytest.mark.parametrize("step", [0, 1])
    def test_losses(self, step):
        (_, numbers), trl = ours("full"), theirs("full")
        got, vf_coef = numbers[step], settings_of("full")["vf_coef"]
        agree(got["vf_loss"], trl[f"{step}/vf_loss"])
        agree(got["pg_loss"] + vf_coef * got["vf_loss"], trl[f"{step}/loss"])
        agree(got["pg_loss"], trl[f"{step}/pg_loss"], size=1)  # near 0: a mean of terms of size 1

    @pytest.mark.parametrize("step", [0, 1])
    def test_the_gradient_of_every_weight_of_policy_critic_and_value_head(self, step):
        (_, numbers), wanted = ours("full"), part(theirs("full"), f"{step}/gradients")
        got = numbers[step]["gradients"]
        assert set(got) == set(wanted) and len(got) == 25
        for name in wanted:
            agree(got[name], wanted[name])

    @pytest.mark.parametrize("case", ["full", "whitened", "ragged"])  # whitening keeps the sum of the rewards
    def test_logged_kl_and_reward(self, case):
        (_, numbers), trl = ours(case), part(theirs(case), "metrics/objective")
        agree(numbers[0]["objective/kl"], trl["kl"])
        agree(numbers[0]["objective/rlhf_reward"], trl["rlhf_reward"])


class TestDifferencesOnPurpose:
    def test_the_score_lies_on_the_last_real_token_and_in_trl_one_token_later(self):
        trl, mask = theirs("ragged"), response_mask("ragged")
        lengths, place = mask.sum(1), lambda rewards: (rewards - trl["non_score_reward"]).abs().argmax(1).tolist()
        assert place(our_rewards("ragged", mask)) == (lengths - 1).tolist()
        assert place(trl["rewards"]) == lengths.clamp(max=5).tolist()

    def test_so_in_trl_a_response_of_one_token_is_paid_by_the_critics_guess_after_it(self):
        (rollout, _), trl, s = ours("ragged"), theirs("ragged"), settings_of("ragged")
        row = int((response_mask("ragged").sum(1) == 1).nonzero())
        kl, score = trl["kl"][row, 0], trl["scores"][row]
        agree(rollout.returns[row, 0], score - s["kl_coef"] * kl)
        after = trl["values"][row, 1]  # of a state in which nothing is left to do
        mixed = s["gamma"] * (s["lam"] * score + (1 - s["lam"]) * after)
        agree(trl["returns"][row, 0], mixed - s["kl_coef"] * kl)
        assert (mixed - score).abs() > 0.01

    def test_the_value_loss_is_a_mean_over_response_tokens_and_in_trl_over_the_position_after_the_end_too(self):
        trl, (_, longer), mask = theirs("ragged"), trl_masks("ragged"), response_mask("ragged")
        assert (mask.sum(), longer.sum()) == (33, 38)  # five of the eight end before the width
        per_token = ppo_math.value_loss(trl["1/vpred"], trl["values"], trl["returns"], longer, 0.05)
        agree(ppo_math.masked_mean(per_token, longer), trl["1/vf_loss"])
        on_padding = ppo_math.masked_mean(per_token, longer - mask)
        agree((33 * ppo_math.masked_mean(per_token, mask) + 5 * on_padding) / 38, trl["1/vf_loss"])
        assert on_padding > 0.01

    def test_where_pad_ends_turns_trl_drops_the_end_from_every_response_and_ours_keeps_it(self):
        _, responses = rollout_ids("pad_is_eos")
        lengths = [len(ids) for ids in responses]
        ended = [ids[-1] == END for ids in responses]
        assert response_mask("pad_is_eos").sum(1).tolist() == lengths
        assert trl_masks("pad_is_eos")[0].sum(1).tolist() == [n - e for n, e in zip(lengths, ended, strict=True)]
        assert sum(ended) == 6 and min(lengths) == 1  # a response of END alone has no action left in TRL

    def test_where_pad_ends_turns_trl_scores_the_token_before_the_end(self):
        same_rollout, trl = theirs("ragged")["scores"], theirs("pad_is_eos")["scores"]
        _, responses = rollout_ids("pad_is_eos")
        ended = torch.tensor([ids[-1] == END for ids in responses])
        assert ended.sum() == 6 and ((same_rollout - trl).abs() > 1e-3)[ended].sum() >= 5

    def test_where_pad_ends_turns_trl_hides_the_ends_inside_a_prompt_from_the_model(self):
        prompts, _ = rollout_ids("pad_is_eos")
        (rollout, _), trl, (actions, _) = ours("ragged"), theirs("pad_is_eos"), trl_masks("pad_is_eos")
        off = ((rollout.logps - trl["logprobs"]).abs() * actions).amax(1) > 1e-3
        assert off.tolist() == [END in ids for ids in prompts] and off.sum() == 1

    def test_gradients_of_policy_and_critic_are_clipped_each_to_1_and_in_trl_they_are_not(self, tmp_path):
        norms = []

        class Norm(TrainerCallback):
            def on_pre_optimizer_step(self, *_, **__):
                policy = [p.grad.norm() for n, p in trained(ppo).items() if n.startswith("policy/")]
                norms.append(torch.stack(policy).norm().item())

        ppo = trainer(tmp_path, "full", max_grad_norm=1.0, logging_steps=1)
        ppo.add_callback(Norm())
        freeze(ppo, *rollout_ids("full"))
        ppo.train()
        assert theirs("full")["0/gradient_norm"] > 4
        assert norms[0] == pytest.approx(1.0, rel=1e-4) and max(norms) < 1.0001
        agree(ppo.state.log_history[0]["grad_norm"], theirs("full")["0/gradient_norm"])  # logged as it was

    def test_a_mini_batch_is_an_optimizer_step_and_in_trl_an_epoch_is_one_however_many_mini_batches(self, tmp_path):
        halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 4}
        ppo = trainer(tmp_path, "ragged", **halves, logging_steps=1)
        freeze(ppo, *rollout_ids("ragged"))
        ppo.train()
        assert [row.get("episode") for row in ppo.state.log_history[:4]] == [8, None, None, None]  # one rollout
        settings = settings_of("mini_batches")
        assert settings["num_ppo_epochs"] == settings["num_mini_batches"] == 2
        assert steps_of("mini_batches") == 2  # and 4 as documented
        assert steps_of("last_batch") == 8  # each micro-batch, where the batch is the last one of the data set

    def test_a_mini_batch_is_a_mean_over_tokens_and_in_trl_a_mean_over_micro_batches_of_unequal_length(self):
        trl, (actions, _) = theirs("mini_batches"), trl_masks("mini_batches")
        order, stats = trl["0/b_inds"], trl["1/pg_loss_stats"][0]
        micro = [ppo_math.masked_mean(-trl["advantages"][rows], actions[rows]) for rows in order.split(2)]
        agree(torch.stack(micro), stats[:, :2].flatten())
        first = order[:4]
        by_token = ppo_math.masked_mean(-trl["advantages"][first], actions[first])
        assert actions[order].split(2)[0].sum() != actions[order].split(2)[1].sum()
        assert abs(by_token - stats[0, :2].mean()) > 0.01
        agree(
            (by_token * actions[first].sum()), sum(micro[i] * actions[order[2 * i : 2 * i + 2]].sum() for i in (0, 1))
        )


def steps_of(case):
    """How often TRL's optimizer stepped."""
    return sum(name.endswith("/gradient_norm") for name in theirs(case))


class TestLoggedDifferences:
    def test_the_ratio_is_a_mean_over_tokens_and_in_trl_padding_pulls_it_to_1(self):
        trl, (mask, _) = theirs("ragged"), trl_masks("ragged")
        ratios = [((trl[f"{step}/new_logprobs"] - trl["logprobs"]) * mask).exp() for step in (0, 1)]
        agree(torch.stack([r.mean() for r in ratios]).mean(), trl["metrics/val/ratio"])
        by_token = torch.stack([ppo_math.masked_mean(r, mask) for r in ratios]).mean()
        real = mask.float().mean()
        agree(trl["metrics/val/ratio"] - 1, real * (by_token - 1))
        assert real < 0.7 and (by_token - 1) > 1.4 * (trl["metrics/val/ratio"] - 1) > 0.01

    def test_approximate_kl_is_a_mean_over_tokens_and_in_trl_padding_makes_it_smaller(self):
        trl, (mask, _) = theirs("ragged"), trl_masks("ragged")
        squares = [((trl[f"{step}/new_logprobs"] - trl["logprobs"]) * mask).square() for step in (0, 1)]
        by_token = torch.stack([0.5 * ppo_math.masked_mean(s, mask) for s in squares]).mean()
        agree(mask.float().mean() * by_token, trl["metrics/policy/approxkl_avg"])

    def test_clip_fractions_count_what_lies_outside_the_range_and_in_trl_only_where_that_changed_the_loss(self):
        (_, numbers), trl = ours("full"), part(theirs("full"), "metrics")
        assert numbers[1]["policy/clipfrac"] / 2 > trl["policy/clipfrac_avg"] > 0  # the first epoch has none
        assert numbers[1]["val/clipfrac"] / 2 > trl["val/clipfrac_avg"] > 0

    def test_objective_entropy_is_trls_minus_log_p_of_the_response_and_policy_entropy_is_masked(self):
        (_, numbers), trl = ours("ragged"), theirs("ragged")
        agree(torch.tensor(numbers[0]["objective/entropy"]), trl["metrics/objective/entropy"])
        assert trl["metrics/objective/entropy"] > 10
        assert 0 < numbers[0]["policy/entropy"] < torch.tensor(float(BASE["vocab_size"])).log()

    def test_with_mini_batches_trl_averages_over_slots_that_nothing_fills(self):
        trl = theirs("mini_batches")
        assert (trl["1/pg_loss_stats"][0] != 0).tolist() == [[True, True, False, False]] * 2
        assert trl["metrics/val/ratio"] < 0.6  # half of a ratio near 1

    def test_the_score_is_logged_before_the_penalty_and_in_trl_after_it(self):
        (_, numbers), trl = ours("ragged"), theirs("ragged")
        _, responses = rollout_ids("ragged")
        cut = sum(ids[-1] != END for ids in responses)
        agree(numbers[0]["objective/scores"], trl["metrics/objective/scores"] + 0.5 * cut / 8)
