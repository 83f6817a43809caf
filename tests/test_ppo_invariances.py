"""What must change nothing: how a batch is cut, padded and ordered, what is recomputed, which roles ran in between."""

import dataclasses
import functools
import tempfile
import types
from unittest.mock import patch

import ppo_toy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ppo_toy import PROMPTS, differing, first_rollout, metrics_rows, roles, trainer, weights
from toy import rows, toy_base

from kit.models.decoding import pad_rows
from kit.ppo.rollout import Rollout, lay_out

CRITICS = ["adapter", "shared"]


def gradients(tmp_path, micro, critic="adapter", nf4=False, order=None, **changes):
    """Gradients of one mini-batch of 8 frozen responses, cut into micro-batches of `micro`."""
    ppo = trainer(
        tmp_path, critic, nf4=nf4, per_device_train_batch_size=micro, gradient_accumulation_steps=8 // micro, **changes
    )
    ppo.model.train()
    recomputed = _checkpointing_on(ppo) if ppo.args.gradient_checkpointing else None
    batch = lay_out(rows(9, 4, 6, 7, 3, 12, 5, 8, seed=1), rows(6, 2, 5, 3, 1, 6, 4, 2, seed=2), 0, "cpu")
    ppo._prompts = list(range(8))
    noise = torch.Generator().manual_seed(0)
    names = ("logps", "ref_logps", "values", "advantages", "returns")
    numbers = {n: torch.randn(batch["mask"].shape, generator=noise) for n in names}
    numbers["logps"] = numbers["logps"] * 0.1 - 7
    rollout = Rollout(**batch, **numbers)
    ppo.current_gradient_accumulation_steps = 8 // micro
    for index in (torch.arange(8) if order is None else torch.tensor(order)).split(micro):
        loss = ppo._compute_loss(ppo.model, {**rollout.rows(index), "mini_batch_tokens": batch["mask"].sum()})
        ppo.accelerator.backward(loss / ppo.current_gradient_accumulation_steps)
    assert recomputed is None or len(recomputed) >= 2 * 8 // micro  # both layers of every micro-batch, at least
    found = {n: p.grad for n, p in ppo.model.named_parameters() if p.grad is not None}
    assert set(found) == {n for n, p in ppo.model.named_parameters() if p.requires_grad}
    assert all(g.abs().max() > 0 for n, g in found.items() if "lora_B" in n or "value_head" in n)
    return found


def _checkpointing_on(ppo):
    """As `train()` switches it on; the list grows with every layer's forward that is checkpointed."""
    ppo.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=ppo.args.gradient_checkpointing_kwargs)
    calls = []
    for module in ppo.model.modules():
        if getattr(module, "gradient_checkpointing", False):
            own = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = lambda *args, own=own, **kw: calls.append(1) or own(*args, **kw)
    return calls


def same(one, other, rtol=1e-3, atol=1e-6):
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


class TestGradients:
    @pytest.mark.parametrize("critic", CRITICS)
    def test_1_x_8_equals_8_x_1(self, tmp_path, critic):
        same(gradients(tmp_path, 1, critic), gradients(tmp_path, 8, critic))

    @pytest.mark.parametrize("critic", CRITICS)
    def test_gradient_checkpointing_changes_none(self, tmp_path, critic):
        plain = gradients(tmp_path, 4, critic)
        same(gradients(tmp_path, 4, critic, gradient_checkpointing=True), plain, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("critic", CRITICS)
    def test_gradient_checkpointing_changes_none_beyond_noise_on_a_4_bit_base(self, tmp_path, critic):
        plain = gradients(tmp_path, 4, critic, nf4=True)
        same(gradients(tmp_path, 4, critic, nf4=True, gradient_checkpointing=True), plain, rtol=1e-3, atol=1e-5)

    def test_the_order_of_the_rows_changes_none(self, tmp_path):
        same(gradients(tmp_path, 2, order=[7, 2, 5, 0, 1, 6, 3, 4]), gradients(tmp_path, 2))


@functools.cache
def ready(critic):
    """A trainer whose rollouts are frozen by `scored`; nothing in it is trained."""
    folder = tempfile.TemporaryDirectory(prefix="kit-toy-")
    ppo = trainer(folder.name, critic, whiten_advantages=False)
    ppo.folder = folder
    ppo.model.train()
    with torch.no_grad():  # so that policy and reference differ
        for name, parameter in ppo.model.named_parameters():
            if ".default." in name:
                parameter.mul_(1.1)
    return ppo


def scored(prompts, answers, critic="adapter", size=2):
    """The rollout of these ids: log-probabilities by a forward pass, as nothing was sampled."""
    ppo = ready(critic)
    ppo.passes.scoring_batch_size = size
    ppo._generate = lambda _: (prompts, answers, ["x"] * len(prompts))
    return ppo._generate_and_score_completions([{"prompt": "x"}] * len(prompts))


def by_row(rollout, i):
    """A row's numbers of its response tokens alone."""
    n = int(rollout.mask[i].sum())
    return {name: getattr(rollout, name)[i, :n] for name in ("logps", "ref_logps", "values", "advantages", "returns")}


FROZEN = rows(9, 4, 6, 7, 3, 12, 5, 8, seed=1), rows(6, 2, 5, 3, 1, 6, 4, 2, seed=2)


@pytest.mark.parametrize("critic", CRITICS)
class TestScoring:
    def test_a_very_long_row_changes_nobody_elses_numbers(self, tmp_path, critic):
        prompts, answers = FROZEN
        plain = scored(prompts, answers, critic, size=8)
        padded = scored([*prompts[:-1], *rows(200)], [*answers[:-1], *rows(60)], critic, size=8)
        for i in range(7):
            same(by_row(plain, i), by_row(padded, i), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(by_row(plain, 7)["logps"], by_row(padded, 7)["logps"][:2])
        assert (plain.logps - plain.ref_logps).abs().max() > 0.05

    def test_outside_the_mask_every_number_is_0(self, tmp_path, critic):
        rollout = scored(*FROZEN, critic)
        for name in ("logps", "ref_logps", "values", "advantages", "returns"):
            assert (getattr(rollout, name)[rollout.mask == 0] == 0).all(), name

    @settings(max_examples=10)
    @given(
        lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=8, max_size=8),
        order=st.permutations(range(8)), size=st.integers(1, 8), seed=st.integers(0, 99),
    )  # fmt: skip
    def test_neither_the_order_of_the_rows_nor_the_scoring_batch_changes_any_number(
        self, critic, lengths, order, size, seed
    ):
        prompts = rows(*[p for p, _ in lengths], seed=seed)
        answers = rows(*[r for _, r in lengths], seed=seed + 100)
        plain = scored(prompts, answers, critic, size=8)
        other = scored([prompts[i] for i in order], [answers[i] for i in order], critic, size)
        for place, i in enumerate(order):
            same(by_row(plain, i), by_row(other, place), rtol=1e-3, atol=2e-4)


class TestRewardScores:
    @settings(max_examples=10)
    @given(
        lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=8),
        size=st.integers(1, 8), seed=st.integers(0, 99), data=st.data(),
    )  # fmt: skip
    def test_scores_follow_their_rows_whatever_the_order_and_the_scoring_batch(self, lengths, size, seed, data):
        ppo = ready("adapter")
        order = data.draw(st.permutations(range(len(lengths))))
        prompts = rows(*[p for p, _ in lengths], seed=seed)
        answers = rows(*[r for _, r in lengths], seed=seed + 100)
        ppo.passes.scoring_batch_size = 1
        alone = ppo.reward_model(answers, prompts)
        ppo.passes.scoring_batch_size = size
        together = ppo.reward_model([answers[i] for i in order], [prompts[i] for i in order])
        assert together == pytest.approx([alone[i] for i in order], rel=1e-3, abs=1e-4)

    def test_a_score_is_the_reward_models_own(self):
        ppo = ready("adapter")
        prompts, answers = FROZEN
        wanted = [
            ppo.roles.scores(*pad_rows([p + r], 0)).item() for p, r in zip(prompts, answers, strict=True)
        ]  # fmt: skip
        assert ppo.reward_model(answers, prompts) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert max(wanted) - min(wanted) > 0.1


class TestRolloutBatch:
    def test_how_many_are_scored_at_once_changes_nothing_of_a_rollout_but_rounding(self, tmp_path):
        made = []
        for size in (1, 3, 8):
            ppo = trainer(tmp_path, scoring_batch_size=size)
            torch.manual_seed(0)
            made.append(first_rollout(ppo))
        for other in made[1:]:
            assert torch.equal(made[0].input_ids, other.input_ids)
            for field in dataclasses.fields(Rollout):
                one, two = getattr(made[0], field.name).float(), getattr(other, field.name).float()
                torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4, msg=field.name)

    @pytest.mark.parametrize("critic", CRITICS)
    @pytest.mark.parametrize("size", [1, 3])
    def test_however_many_are_sampled_at_once_the_log_probabilities_are_the_forwards(self, tmp_path, critic, size):
        ppo = trainer(tmp_path, critic, rollout_batch_size=size)
        rollout = first_rollout(ppo)
        lengths, n = rollout.attention_mask.sum(1).tolist(), rollout.mask.sum(1).tolist()
        ids = [row[:length].tolist() for row, length in zip(rollout.input_ids, lengths, strict=True)]
        prompts = [row[: len(row) - k] for row, k in zip(ids, n, strict=True)]
        wanted = [ppo.processing_class.apply_chat_template(p["prompt"], add_generation_prompt=True, return_dict=True)
                  ["input_ids"] for p in PROMPTS[:8]]  # fmt: skip
        assert prompts == wanted
        ppo._generate = lambda _: (prompts, [row[-k:] for row, k in zip(ids, n, strict=True)], ["x"] * 8)
        forward = ppo._generate_and_score_completions(PROMPTS[:8])
        for i in range(8):
            same(by_row(rollout, i), by_row(forward, i), rtol=1e-3, atol=1e-4)


class TestLearningRate0:
    @pytest.mark.parametrize("critic, nf4", [("shared", False), ("shared", True), ("adapter", True)])
    def test_leaves_the_ratio_1_through_all_epochs(self, tmp_path, critic, nf4):
        ppo = trainer(tmp_path, critic, nf4=nf4, learning_rate=1e-30, rollouts=2)
        ppo.train()
        logged = metrics_rows(ppo)
        assert len(logged) == 2
        for row in logged:
            assert row["policy/approxkl"] < 1e-8 and row["policy/clipfrac"] == 0 and row["val/clipfrac"] == 0
            assert row["policy/first_log_ratio"] < 1e-4 and abs(row["objective/kl"]) < 1e-4


class TestSeed:
    @pytest.mark.parametrize("critic", CRITICS)
    def test_the_same_one_gives_the_same_run_to_the_bit_and_another_another(self, tmp_path, critic):
        runs = []
        for name, seed in (("one", 3), ("two", 3), ("other", 4)):
            ppo = trainer(tmp_path / name, critic, rollouts=1, seed=seed)
            ppo.train()
            runs.append((weights(ppo.model), metrics_rows(ppo)))
        assert not differing(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
        assert differing(runs[0][0], runs[2][0])


class TestRolesInARollout:
    @pytest.mark.parametrize("nf4", [False, True])
    @pytest.mark.parametrize("critic", CRITICS)
    def test_what_is_trained_is_trained_still_and_the_policy_is_in_use(self, tmp_path, critic, nf4):
        ppo = trainer(tmp_path, critic, nf4=nf4)
        flags = {n: p.requires_grad for n, p in ppo.model.named_parameters()}
        assert any(on for n, on in flags.items() if ".default." in n) and flags["value_head.weight"]
        assert all(".default." in n or ".critic." in n or "value_head" in n for n, on in flags.items() if on)
        first_rollout(ppo)
        assert {n: p.requires_grad for n, p in ppo.model.named_parameters()} == flags
        assert ppo.model.active_adapter == "default"

    @pytest.mark.parametrize("critic", CRITICS)
    def test_every_weight_is_what_it_was_to_the_bit_and_in_its_own_memory(self, tmp_path, critic):
        ppo = trainer(tmp_path, critic)
        before = weights(ppo.model)
        places = {n: p.data_ptr() for n, p in ppo.model.named_parameters()}
        for _ in range(3):
            first_rollout(ppo)
        assert not differing(before, weights(ppo.model))
        assert {n: p.data_ptr() for n, p in ppo.model.named_parameters()} == places


@functools.cache
def merged_roles():
    """One set of roles for the tests below: each leaves it as it found it."""
    return roles()


class TestMerged:
    INPUTS = pad_rows(rows(9, 5, 7), pad=0)

    @pytest.fixture
    def toy(self):
        return merged_roles()

    def hidden(self, toy):
        with torch.no_grad():
            return toy.hidden(*self.INPUTS)

    @pytest.mark.parametrize("role", ["policy", "reward", "critic"])
    def test_a_merged_role_has_the_hidden_states_of_the_role(self, toy, role):
        with toy.use(role):
            wanted = self.hidden(toy)
        with toy.merged(role):
            got = self.hidden(toy)
        mask = self.INPUTS[1].bool()
        assert (got - wanted)[mask].norm() < 1e-5 * wanted[mask].norm()
        assert not torch.equal(got, wanted)  # it was not simply left unmerged

    def test_it_really_is_merged(self, toy):
        layer = toy.model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
        before = layer.get_base_layer().weight.clone()
        with toy.merged("reward"):
            assert layer.merged and (layer.get_base_layer().weight - before).abs().max() > 1e-3
        assert not layer.merged and torch.equal(layer.get_base_layer().weight, before)

    def test_the_base_is_put_back_to_the_bit_also_after_an_error(self, toy):
        before = weights(toy.model)
        with pytest.raises(ZeroDivisionError), toy.merged("reward"):
            _ = 1 / 0
        assert not differing(before, weights(toy.model))
        with toy.use("policy"):
            once = self.hidden(toy)
        with toy.merged("critic"):
            pass
        with toy.use("policy"):
            assert torch.equal(once, self.hidden(toy))

    @pytest.mark.parametrize("inner", ["use", "merged"])
    def test_another_role_inside_is_refused_and_the_outer_goes_on(self, toy, inner):
        with toy.merged("reward"):
            wanted = self.hidden(toy)
            with pytest.raises(RuntimeError, match="reward is merged"), getattr(toy, inner)("policy"):
                pass
            assert torch.equal(self.hidden(toy), wanted)
        with toy.use("policy"):
            pass

    def test_the_same_role_inside_stays_merged(self, toy):
        with toy.merged("reward"):
            wanted = self.hidden(toy)
            with toy.merged("reward"), toy.use("reward"):
                assert torch.equal(self.hidden(toy), wanted)
            assert torch.equal(self.hidden(toy), wanted)

    def test_the_reward_models_scores_run_merged(self, toy):
        layer = toy.model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
        merged = []
        hook = layer.register_forward_pre_hook(lambda *_: merged.append(layer.merged))
        with toy.merged("reward"):
            toy.scores(*self.INPUTS)
        hook.remove()
        assert merged == [True]

    def test_the_same_role_inside_has_the_same_hidden_states_and_leaves_the_base_to_the_bit(self, toy):
        before = weights(toy.model)
        with toy.use("reward"):
            wanted = self.hidden(toy)
        with toy.merged("reward"):
            with toy.merged("reward"), toy.use("reward"):
                torch.testing.assert_close(self.hidden(toy), wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(self.hidden(toy), wanted, rtol=1e-4, atol=1e-4)
        assert not differing(before, weights(toy.model))

    def test_a_4_bit_base_is_left_as_it_is(self):
        toy = roles(nf4=True)
        toy.model.train()  # in eval mode bitsandbytes repacks the weights by itself
        before = weights(toy.model)
        with toy.use("reward"):
            wanted = self.hidden(toy)
        with toy.merged("reward"):
            assert not differing(before, weights(toy.model))
            torch.testing.assert_close(self.hidden(toy), wanted, rtol=0, atol=0)


class TestSamplingDistribution:
    @pytest.mark.parametrize("ends", [5, [5, 9]])
    def test_all_ids_that_the_base_stops_at_count_as_ends(self, tmp_path, ends):
        with patch.object(ppo_toy, "toy_base", lambda nf4=False: _with_generation_config(eos_token_id=ends)):
            ppo = trainer(tmp_path)
        assert set(ppo.eos_token_ids) >= ({ends} if isinstance(ends, int) else set(ends))

    @pytest.mark.parametrize("own", [{"top_k": 3}, {"top_p": 0.2}, {"repetition_penalty": 5.0}, {"min_new_tokens": 6}])
    def test_a_base_with_a_generation_config_of_its_own_is_sampled_from_the_pure_softmax_all_the_same(
        self, tmp_path, own
    ):
        with patch.object(ppo_toy, "toy_base", lambda nf4=False: _with_generation_config(**own)):
            ppo = trainer(tmp_path)
        ppo.model.generation_config.eos_token_id = list(range(0, 1000, 3))
        rollout = first_rollout(ppo)
        assert ((rollout.logps - rollout.ref_logps).abs() * rollout.mask).max() < 1e-4


def _with_generation_config(**own):
    """A base as someone loads it without the kit, with what its generation_config.json says."""
    base = toy_base()

    def load():
        model = base.causal_lm()
        for name, value in own.items():
            setattr(model.generation_config, name, value)
        return model

    return types.SimpleNamespace(causal_lm=load, tokenizer=base.tokenizer)
