"""PPO's arithmetic against slow definitions written as loops, and its properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.ppo import math as ppo_math


def batch(lengths, seed=0):
    """(values, rewards, mask) for responses of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()
    return (
        torch.randn(len(lengths), width, generator=generator),
        torch.randn(len(lengths), width, generator=generator),
        mask,
    )


def slow_gae(rewards, values, gamma, lam):
    """Schulman et al. 2016, eq. 16, as the double sum it is, for one response without padding."""
    n = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t)) for t in range(n)]


class TestGAE:
    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.integers(1, 7), min_size=1, max_size=4),
        st.floats(0.5, 1.0), st.floats(0.0, 1.0), st.integers(0, 1000),
    )  # fmt: skip
    def test_it_is_the_double_sum_of_the_paper_for_every_row_whatever_the_padding(self, lengths, gamma, lam, seed):
        values, rewards, mask = batch(lengths, seed)
        got = ppo_math.advantages_gae(rewards, values, mask, gamma, lam)
        for i, n in enumerate(lengths):
            wanted = slow_gae(rewards[i, :n].tolist(), values[i, :n].tolist(), gamma, lam)
            assert got[i, :n].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)
            assert (got[i, n:] == 0).all()

    def test_with_lambda_1_and_gamma_1_it_is_the_rest_of_the_rewards_minus_the_value(self):
        values, rewards, mask = batch([5])
        got = ppo_math.advantages_gae(rewards, values, mask, 1.0, 1.0)
        wanted = rewards.flip(1).cumsum(1).flip(1) - values
        torch.testing.assert_close(got, wanted)

    def test_with_lambda_0_it_is_the_one_step_error(self):
        values, rewards, mask = batch([4])
        got = ppo_math.advantages_gae(rewards, values, mask, 0.9, 0.0)
        following = torch.cat([values[:, 1:], torch.zeros(1, 1)], 1)
        torch.testing.assert_close(got, rewards + 0.9 * following - values)

    def test_values_and_rewards_on_padding_do_not_matter(self):
        values, rewards, mask = batch([3, 5])
        clean = ppo_math.advantages_gae(rewards, values, mask, 1.0, 0.95)
        values[0, 3:], rewards[0, 3:] = 1e6, -1e6
        torch.testing.assert_close(ppo_math.advantages_gae(rewards, values, mask, 1.0, 0.95), clean)


class TestTokenRewards:
    def test_the_score_lies_on_the_last_real_token_and_not_one_later(self):
        mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
        zero = torch.zeros(3, 4)
        rewards = ppo_math.token_rewards(torch.tensor([2.0, 3.0, 5.0]), zero, mask, kl_coef=0.1)
        assert rewards.tolist() == [[0, 0, 2, 0], [0, 0, 0, 3], [5, 0, 0, 0]]

    def test_the_kl_penalty_is_minus_kl_coef_times_the_log_ratio_to_the_reference(self):
        mask = torch.tensor([[1, 1, 0]])
        logps, ref = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[-1.5, -1.0, -3.0]])
        kl = ppo_math.token_kl(logps, ref, mask)
        rewards = ppo_math.token_rewards(torch.tensor([1.0]), kl, mask, kl_coef=0.2)
        torch.testing.assert_close(rewards, torch.tensor([[-0.2 * 0.5, -0.2 * -1.0 + 1.0, 0.0]]))


class TestTokenKL:
    LOGPS, REF = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[-1.5, -1.0, -3.0]])
    MASK = torch.tensor([[1, 1, 0]])

    def test_k1_is_the_log_ratio_and_may_be_negative(self):
        assert ppo_math.token_kl(self.LOGPS, self.REF, self.MASK, "k1").tolist() == [[0.5, -1.0, 0.0]]

    def test_k3_is_ratio_minus_1_minus_log_ratio_and_never_negative(self):
        wanted = [[math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0, 0.0]]
        torch.testing.assert_close(ppo_math.token_kl(self.LOGPS, self.REF, self.MASK, "k3"), torch.tensor(wanted))

    @pytest.mark.parametrize("estimator", ["k1", "k3"])
    def test_the_mean_over_samples_is_the_kl_of_the_two_distributions(self, estimator):
        p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.3])
        per_outcome = ppo_math.token_kl(p.log()[None], q.log()[None], torch.ones(1, 3), estimator)[0]
        torch.testing.assert_close((p * per_outcome).sum(), (p * (p / q).log()).sum())


class TestAdaptedKLCoef:
    def test_it_rises_above_the_target_and_falls_below(self):
        assert ppo_math.adapted_kl_coef(0.1, 12.0, 6.0, 100, 1000) == pytest.approx(0.1 * 1.02)
        assert ppo_math.adapted_kl_coef(0.1, 5.7, 6.0, 100, 1000) == pytest.approx(0.1 * 0.995)
        assert ppo_math.adapted_kl_coef(0.1, 6.0, 6.0, 100, 1000) == 0.1

    def test_one_rollout_never_moves_it_by_more_than_a_fifth_of_its_share_of_the_horizon(self):
        assert ppo_math.adapted_kl_coef(0.1, 1e6, 6.0, 100, 1000) == pytest.approx(0.1 * 1.02)
        assert ppo_math.adapted_kl_coef(0.1, -1e6, 6.0, 100, 1000) == pytest.approx(0.1 * 0.98)


class TestMaskedMean:
    def test_padding_does_not_dilute_it(self):
        assert ppo_math.masked_mean(torch.tensor([[2.0, 4.0, 99.0]]), torch.tensor([[1, 1, 0]])) == 3.0


class TestWhitening:
    def test_mean_0_and_unbiased_variance_1_over_real_tokens(self):
        x, _, mask = batch([3, 6, 2])
        inside = ppo_math.masked_whiten(x * 7 + 3, mask)[mask.bool()]
        assert inside.mean().item() == pytest.approx(0, abs=1e-6)
        assert inside.var().item() == pytest.approx(1, rel=1e-4)

    def test_without_shift_the_mean_stays(self):
        x, _, mask = batch([3, 6])
        inside = ppo_math.masked_whiten(x + 3, mask, shift_mean=False)[mask.bool()]
        assert inside.mean().item() == pytest.approx((x + 3)[mask.bool()].mean().item(), rel=1e-5)

    def test_padding_is_zero(self):
        x, _, mask = batch([2, 4])
        assert (ppo_math.masked_whiten(x, mask)[0, 2:] == 0).all()

    def test_a_single_token_is_left_as_it_is(self):
        got = ppo_math.masked_whiten(torch.tensor([[3.0, 8.0]]), torch.tensor([[1, 0]]))
        assert got.tolist() == [[3.0, 0.0]]


def slow_policy_loss(logp, old, advantage, c):
    ratio = math.exp(logp - old)
    return max(-advantage * ratio, -advantage * min(max(ratio, 1 - c), 1 + c))


class TestPolicyLoss:
    @settings(max_examples=60, deadline=None)
    @given(st.floats(-3, 0), st.floats(-3, 0), st.floats(-2, 2), st.floats(0.05, 0.5))
    def test_it_is_the_clipped_surrogate_of_the_paper(self, logp, old, advantage, c):
        as_tensor = lambda x: torch.tensor([[x]], dtype=torch.float64)  # noqa: E731
        one = torch.ones(1, 1)
        got = ppo_math.policy_loss(as_tensor(logp), as_tensor(old), as_tensor(advantage), one, c).item()
        assert got == pytest.approx(slow_policy_loss(logp, old, advantage, c), rel=1e-9, abs=1e-12)

    def test_a_good_token_beyond_the_clip_has_no_gradient(self):
        logps = torch.tensor([[0.5]], requires_grad=True)
        ppo_math.policy_loss(logps, torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1), 0.2).sum().backward()
        assert logps.grad.item() == 0

    def test_a_bad_token_beyond_the_clip_still_has_one(self):
        logps = torch.tensor([[0.5]], requires_grad=True)
        ppo_math.policy_loss(logps, torch.zeros(1, 1), -torch.ones(1, 1), torch.ones(1, 1), 0.2).sum().backward()
        assert logps.grad.item() > 0

    def test_a_good_token_is_made_more_likely(self):
        logps = torch.zeros(1, 1, requires_grad=True)
        ppo_math.policy_loss(logps, torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1), 0.2).sum().backward()
        assert logps.grad.item() == -1

    def test_padding_costs_nothing_even_where_its_numbers_are_wild(self):
        wild = torch.tensor([[0.0, 500.0]])
        loss = ppo_math.policy_loss(wild, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[1, 0]]), 0.2)
        assert loss.tolist() == [[-1.0, 0.0]]


class TestValueLoss:
    @settings(max_examples=60, deadline=None)
    @given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), st.floats(0.05, 1))
    def test_it_is_half_the_larger_of_the_plain_and_the_clipped_square(self, value, old, target, c):
        as_tensor = lambda x: torch.tensor([[x]], dtype=torch.float64)  # noqa: E731
        got = ppo_math.value_loss(as_tensor(value), as_tensor(old), as_tensor(target), torch.ones(1, 1), c).item()
        clipped = min(max(value, old - c), old + c)
        assert got == pytest.approx(0.5 * max((value - target) ** 2, (clipped - target) ** 2), rel=1e-9, abs=1e-12)

    def test_padding_costs_nothing(self):
        loss = ppo_math.value_loss(
            torch.full((1, 2), 9.0), torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[0, 1]]), 0.2
        )
        assert loss[0, 0] == 0 and loss[0, 1] > 0


class TestExplainedVariance:
    def test_a_perfect_critic_explains_all(self):
        _, returns, mask = batch([3, 5])
        assert ppo_math.explained_variance(returns, returns, mask).item() == 1

    def test_a_constant_critic_explains_nothing(self):
        _, returns, mask = batch([3, 5])
        assert ppo_math.explained_variance(torch.full_like(returns, 7.0), returns, mask).item() == pytest.approx(
            0, abs=1e-6
        )

    def test_padding_does_not_count(self):
        values, returns, mask = batch([2, 4])
        clean = ppo_math.explained_variance(values, returns, mask)
        values[0, 2:] = 1e6
        assert ppo_math.explained_variance(values, returns, mask) == clean

    def test_returns_that_do_not_vary_give_no_number(self):
        assert ppo_math.explained_variance(torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3)).isnan()
