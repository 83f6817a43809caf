"""Sampling, scoring and the exact KL on a toy base."""

import math

import pytest
import torch
from toy import rows, toy_roles

from kit.models.decoding import pad_rows
from kit.models.generation import distances, sample, score


@pytest.fixture(scope="module")
def roles():
    return toy_roles()


PROMPTS, RESPONSES = rows(5, 9, 3, seed=1), rows(4, 1, 70, seed=2)


def slow_kl(roles, prompt, response):
    """The definition: at each prefix, the sum over the vocabulary of p (log p - log q)."""
    total = 0.0
    for t in range(len(response)):
        ids = torch.tensor([prompt + response[:t]])
        logps = []
        for role in ("critic", "policy"):
            with roles.use(role), torch.no_grad():
                logps.append(torch.log_softmax(roles.model(ids).logits[0, -1], -1))
        total += (logps[0].exp() * (logps[0] - logps[1])).sum().item()
    return total


def slow_entropy(roles, role, prompt, response):
    """The definition: the mean over prefixes of -sum p log p over the vocabulary."""
    total = 0.0
    for t in range(len(response)):
        with roles.use(role), torch.no_grad():
            p = torch.softmax(roles.model(torch.tensor([prompt + response[:t]])).logits[0, -1], -1)
        total -= sum(x * math.log(x) for x in p.tolist() if x > 0)
    return total / len(response)


class TestSequenceKL:
    def test_it_is_the_sum_over_tokens_and_vocabulary(self, roles):
        got = [d.kl_nats for d in distances(roles, "critic", "policy", PROMPTS, RESPONSES, batch_size=2)]
        wanted = [slow_kl(roles, p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        assert got == pytest.approx(wanted, rel=1e-3) and min(got) > 0.01

    def test_from_itself_it_is_0(self, roles):
        assert [d.kl_nats for d in distances(roles, "policy", "policy", PROMPTS, RESPONSES, batch_size=3)] == [0.0] * 3


class TestEntropy:
    def test_it_is_the_mean_over_tokens_of_the_roles_own_distribution(self, roles):
        found = distances(roles, "critic", "policy", PROMPTS, RESPONSES, batch_size=2)
        wanted = [slow_entropy(roles, "critic", p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        assert [each.entropy_nats for each in found] == pytest.approx(wanted, rel=1e-4)
        assert wanted != pytest.approx(
            [slow_entropy(roles, "policy", p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)], rel=1e-2
        )

    def test_a_role_is_its_own_reference_at_the_cost_of_one_pass(self, roles, monkeypatch):
        passes, whole = [], roles.hidden
        monkeypatch.setattr(roles, "hidden", lambda *x: passes.append(1) or whole(*x))
        found = distances(roles, "policy", "policy", PROMPTS, RESPONSES, batch_size=3)
        wanted = [slow_entropy(roles, "policy", p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        assert len(passes) == 1 and [each.kl_nats for each in found] == [0.0] * 3
        assert [each.entropy_nats for each in found] == pytest.approx(wanted, rel=1e-4)

    def test_the_batch_does_not_matter(self, roles):
        one, all_at_once = (distances(roles, "critic", "policy", PROMPTS, RESPONSES, n) for n in (1, 3))
        assert [each.kl_nats for each in one] == pytest.approx([each.kl_nats for each in all_at_once], rel=1e-3)
        entropies = [each.entropy_nats for each in all_at_once]
        assert [each.entropy_nats for each in one] == pytest.approx(entropies, rel=1e-4)


class TestSample:
    def test_the_same_seed_draws_the_same_and_leaves_the_global_state_alone(self, roles):
        state = torch.get_rng_state()
        first, second = (sample(roles, "policy", PROMPTS, 8, 1.0, seed=5, batch_size=2) for _ in range(2))
        assert first == second and torch.equal(state, torch.get_rng_state())
        assert first != sample(roles, "policy", PROMPTS, 8, 1.0, seed=6, batch_size=2)

    def test_greedy_does_not_depend_on_the_batch(self, roles):
        together = sample(roles, "policy", PROMPTS, 8, 0, seed=0, batch_size=3)
        assert together == sample(roles, "policy", PROMPTS, 8, 0, seed=0, batch_size=1)

    def test_an_answer_ends_at_its_end_of_turn(self, roles):
        stop = roles.model.generation_config.eos_token_id[0]
        answers = sample(roles, "policy", PROMPTS * 20, 8, 3.0, seed=0, batch_size=20)
        assert all(stop not in answer[:-1] and 1 <= len(answer) <= 8 for answer in answers)

    def test_sampling_is_from_the_pure_softmax(self, roles):
        config = roles.model.generation_config
        assert (config.temperature, config.top_k, config.top_p, config.repetition_penalty) == (1.0, 0, 1.0, 1.0)


class TestScore:
    def test_order_and_batch_do_not_matter(self, roles):
        together = score(roles, PROMPTS, RESPONSES, batch_size=3)
        assert together == pytest.approx(score(roles, PROMPTS, RESPONSES, batch_size=1), rel=1e-4, abs=1e-5)


class TestPadRows:
    def test_left_and_right(self):
        assert pad_rows([[1], [2, 3]], pad=0, left=True)[0].tolist() == [[0, 1], [2, 3]]
        ids, mask = pad_rows([[0], [2, 3]], pad=0)
        assert ids.tolist() == [[0, 0], [2, 3]] and mask.tolist() == [[1, 0], [1, 1]]
