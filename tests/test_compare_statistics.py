"""Intervals, win rates and verdicts of the comparison, against slow references and simulated truth."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from kit.compare.numbers.statistics import (
    MOST_PROMPTS_NEEDED,
    added_interval,
    mean_difference,
    mean_interval,
    outcome_rate,
    outcomes_of,
    over_seeds,
    paired_outcomes,
    prompts_needed,
    resampled_means,
    seed_spread,
    verdict,
    win_rate,
)
from kit.statistics import share_interval


class TestBootstrap:
    def test_it_equals_a_loop_over_the_same_resamples(self):
        values = np.array([0.0, 1.0, 4.0, 9.0, 16.0])
        rows = np.random.default_rng(7).integers(0, 5, size=(50, 5))
        slow = [sum(values[i] for i in row) / 5 for row in rows]
        assert resampled_means(values, seed=7, draws=50) == pytest.approx(slow)

    def test_many_prompts_are_drawn_in_blocks_and_none_is_lost(self):
        assert resampled_means(np.ones(1_500_000), seed=0, draws=3) == pytest.approx([1, 1, 1])

    def test_the_ends_are_the_percentiles_of_the_resampled_means(self):
        scores = np.random.default_rng(1).normal(0, 1, 40).tolist()
        drawn = sorted(resampled_means(np.array(scores), seed=3))
        found = mean_interval(scores, seed=3)
        assert sum(m < found.low for m in drawn) == pytest.approx(50, abs=1)
        assert sum(m > found.high for m in drawn) == pytest.approx(50, abs=1)

    def test_its_width_is_that_of_the_normal_theory_on_many_prompts(self):
        scores = np.random.default_rng(0).normal(2, 3, 2_000)
        found = mean_interval(scores.tolist())
        assert found.high - found.low == pytest.approx(2 * 1.96 * scores.std() / math.sqrt(2_000), rel=0.08)

    def test_the_same_seed_gives_the_same_interval(self):
        assert mean_interval([1, 2, 5, 9], seed=4) == mean_interval([1, 2, 5, 9], seed=4)

    def test_moving_all_scores_moves_the_interval_with_them(self):
        here, there = mean_interval([1, 2, 5]), mean_interval([11, 12, 15])
        assert (there.low, there.high) == pytest.approx((here.low + 10, here.high + 10))


class TestUnknownScores:
    def test_none_nan_and_infinity_are_left_out(self):
        assert mean_interval([1.0, None, math.nan, 3.0, math.inf]).mean == 2.0

    def test_no_known_score_has_no_mean(self):
        assert mean_interval([None, math.nan]) is None
        assert mean_interval([]) is None

    def test_a_prompt_counts_only_if_both_scores_are_known(self):
        assert paired_outcomes([1, None, 3], [0, 5, None]).tolist() == [1.0]

    def test_no_common_prompt_has_no_win_rate(self):
        assert win_rate([1, None], [None, 2]) is None


class TestWinRate:
    def test_a_win_counts_one_a_tie_half_a_loss_nothing(self):
        found = win_rate([2, 1, 0, 1], [1, 1, 1, 0])
        assert (found.rate, found.tie_rate, found.n) == (0.625, 0.25, 4)

    def test_rounding_errors_are_ties(self):
        assert paired_outcomes([0.1 + 0.2], [0.3]).tolist() == [0.5]

    def test_swapping_the_arms_mirrors_rate_and_interval(self):
        rng = np.random.default_rng(2)
        a, b = rng.normal(0.3, 1, 80).round(1).tolist(), rng.normal(0, 1, 80).round(1).tolist()
        one, other = win_rate(a, b, seed=5), win_rate(b, a, seed=5)
        assert (1 - other.rate, 1 - other.high, 1 - other.low) == pytest.approx((one.rate, one.low, one.high))

    def test_pairing_beats_noise_that_both_arms_share(self):
        difficulty = np.random.default_rng(1).normal(0, 100, 60)
        found = mean_difference((difficulty + 1).tolist(), difficulty.tolist())
        assert (found.low, found.high) == pytest.approx((1, 1))

    def test_scores_of_different_prompts_are_refused(self):
        with pytest.raises(ValueError, match="same prompts"):
            win_rate([1, 2], [1])

    def test_five_wins_of_five_are_not_yet_a_result_and_six_are(self):
        assert verdict(win_rate([1] * 5, [0] * 5).ci95, "ppo", "dpo") == "no difference"
        assert verdict(win_rate([1] * 6, [0] * 6).ci95, "ppo", "dpo") == "ppo"

    def test_ties_alone_are_no_difference(self):
        found = win_rate([1] * 30, [1] * 30)
        assert found.ci95 == [0.5, 0.5]
        assert verdict(found.ci95, "ppo", "dpo") == "no difference"

    @pytest.mark.parametrize(("wins", "losses", "ties"), [(7, 3, 0), (0, 4, 2), (30, 14, 50), (1, 0, 9)])
    def test_the_exact_interval_is_that_of_clopper_and_pearson_on_the_decided_prompts(self, wins, losses, ties):
        n = wins + losses + ties
        exact = binomtest(wins, wins + losses).proportion_ci(0.95, method="exact")
        expected = [(ties / 2 + (n - ties) * q) / n for q in exact]
        found = share_interval(np.array([1.0] * wins + [0.0] * losses + [0.5] * ties))
        assert found == pytest.approx(expected)


class TestOutcomes:
    def test_scores_become_a_win_a_tie_a_loss_or_nothing_and_keep_their_places(self):
        assert outcomes_of([2, 1, None, 0], [1, 1, 1, 5]) == [1.0, 0.5, None, 0.0]

    def test_the_rate_of_outcomes_is_the_rate_of_the_scores_they_came_from(self):
        rng = np.random.default_rng(0)
        a, b = [*rng.integers(0, 4, 50).tolist(), None], [*rng.integers(0, 4, 50).tolist(), 1]
        assert outcome_rate(outcomes_of(a, b), seed=2) == win_rate(a, b, seed=2)

    def test_unknown_outcomes_are_left_out_and_nothing_known_is_no_rate(self):
        assert outcome_rate([1, None, 0, math.nan]).n == 2
        assert outcome_rate([None, None]) is None
        assert outcome_rate([]) is None

    def test_a_judge_s_probabilities_keep_their_plain_mean(self):
        chances = np.random.default_rng(1).random(400)
        found = outcome_rate(chances.tolist())
        assert found.rate == pytest.approx(chances.mean(), abs=1e-12)
        assert found.high - found.low == pytest.approx(2 * 1.96 * chances.std() / 20, rel=0.1)

    def test_an_outcome_that_is_none_is_refused(self):
        with pytest.raises(ValueError, match="or between; got 0 to 2"):
            outcome_rate([0, 1, 2])


class TestSeeds:
    def test_the_rate_is_the_mean_over_prompts_of_the_mean_over_known_seeds(self):
        found = outcome_rate([[1, 0.5, None, None], [0, 1, 1, None]])
        assert (found.rate, found.n) == (pytest.approx((0.5 + 0.75 + 1) / 3), 3)
        assert found.tie_rate == pytest.approx(1 / 5)

    def test_one_seed_is_the_list_itself(self):
        outcomes = np.random.default_rng(0).integers(0, 2, 40).tolist()
        assert outcome_rate([outcomes]) == outcome_rate(outcomes)

    def test_seeds_that_agree_add_no_certainty_about_the_prompts(self):
        outcomes = np.random.default_rng(1).choice([0, 0.5, 1], 40).tolist()
        assert outcome_rate([outcomes] * 3) == outcome_rate(outcomes)

    def test_seeds_that_err_on_their_own_do(self):
        coins = np.random.default_rng(2).integers(0, 2, (4, 200)).tolist()
        one, four = outcome_rate(coins[0]), outcome_rate(coins)
        assert four.high - four.low == pytest.approx((one.high - one.low) / 2, rel=0.15)

    def test_swapping_the_arms_mirrors_rate_and_interval(self):
        coins = np.random.default_rng(3).choice([0, 0.5, 1], (3, 30), p=[0.3, 0.2, 0.5])
        one, other = outcome_rate(coins.tolist(), seed=5), outcome_rate((1 - coins).tolist(), seed=5)
        assert (1 - other.rate, 1 - other.high, 1 - other.low) == pytest.approx((one.rate, one.low, one.high))

    def test_five_prompts_won_are_not_yet_a_result_and_six_are_as_in_the_sign_test(self):
        for wins, expected in ((5, "no difference"), (6, "ppo")):
            low, high = added_interval(np.ones(wins))
            assert verdict([low, high], "ppo", "dpo") == expected

    def test_one_prompt_says_nothing(self):
        assert outcome_rate([[1], [1], [0]]).ci95 == [0, 1]

    def test_many_prompts_have_the_plain_t_interval(self):
        values = np.random.default_rng(4).choice([0, 1 / 3, 2 / 3, 1], 5_000)
        low, high = added_interval(values)
        assert high - low == pytest.approx(2 * 1.9604 * values.std() / math.sqrt(5_000), rel=1e-3)

    def test_the_spread_is_that_of_the_seeds_means(self):
        found = seed_spread([[1, 0, None], [1, 1, 1], [0.5, None, None], [None, None, None]])
        assert found.values == [0.5, 1, 0.5]
        assert found.sd == pytest.approx(np.std([0.5, 1, 0.5], ddof=1))

    def test_one_seed_has_no_spread(self):
        assert seed_spread([1, 0, 1]) is None
        assert seed_spread([[1, 0, 1], [None, None, None]]) is None

    def test_scores_of_several_seeds_become_one_mean_a_prompt(self):
        assert over_seeds([[1.0, None, None], [3.0, 5.0, None]]) == [2.0, 5.0, None]
        assert over_seeds([1.0, None]) == [1.0, None]

    def test_seeds_that_answered_different_prompts_are_refused(self):
        with pytest.raises(ValueError, match="same prompts"):
            outcome_rate([[1, 0], [1]])


class TestPromptsNeeded:
    @pytest.mark.parametrize(("rate", "ties"), [(0.6, 0.0), (0.58, 0.3), (0.35, 0.1)])
    def test_that_many_prompts_find_the_difference_in_about_80_of_100_repetitions(self, rate, ties):
        wins = rate - ties / 2
        chances = [1 - ties - wins, ties, wins]
        observed = np.repeat([0, 0.5, 1], np.round(np.array(chances) * 1_000).astype(int))
        needed = prompts_needed(observed.tolist())
        rng = np.random.default_rng(0)
        again = rng.choice([0, 0.5, 1], (4_000, needed), p=chances)
        z = (again.mean(axis=1) - 0.5) / (again.std(axis=1, ddof=1) / math.sqrt(needed))
        assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.03)

    def test_the_verdict_itself_finds_it_about_as_often(self):
        needed = prompts_needed([1] * 62 + [0] * 38)
        rng = np.random.default_rng(1)
        coins = (rng.random((200, needed)) < 0.62).astype(float)
        found = sum(outcome_rate(row.tolist(), draws=300).low > 0.5 for row in coins)
        assert 0.70 <= found / 200 <= 0.86

    def test_half_the_difference_takes_four_times_the_prompts(self):
        far, near = [1] * 550 + [0] * 450, [1] * 525 + [0] * 475
        assert prompts_needed(near) / prompts_needed(far) == pytest.approx(4, rel=0.03)

    def test_swapping_the_arms_changes_nothing(self):
        assert prompts_needed([1] * 7 + [0] * 5) == prompts_needed([0] * 7 + [1] * 5)

    def test_a_rate_of_exactly_a_half_or_nine_prompts_cannot_be_planned_with(self):
        assert prompts_needed([1, 0] * 10) is None
        assert prompts_needed([0.5] * 20) is None
        assert prompts_needed([1] * 9) is None

    def test_it_is_never_below_the_sign_test_s_six_nor_above_the_cap(self):
        assert prompts_needed([1] * 20) == 6
        assert prompts_needed([1] * 5_001 + [0] * 4_999) == MOST_PROMPTS_NEEDED


class TestCoverage:
    @pytest.mark.parametrize("seeds", [1, 3])
    def test_equal_arms_with_ties_show_no_difference_in_about_95_of_100_simulations(self, seeds):
        rng, none = np.random.default_rng(10 + seeds), 0
        for trial in range(400):
            taste = rng.beta(2, 2, 60)  # some prompts suit one arm, some the other
            won = (rng.random((seeds, 60)) < taste).astype(float)
            outcomes = np.where(rng.random((seeds, 60)) < 0.2, 0.5, won)
            ci95 = outcome_rate(outcomes.tolist(), seed=trial, draws=400).ci95
            none += verdict(ci95, "ppo", "dpo") == "no difference"
        assert 0.92 <= none / 400 <= 0.99

    def test_a_fair_coin_lies_inside_about_95_of_100_intervals(self):
        rng = np.random.default_rng(11)
        held = 0
        for trial in range(400):
            coin = rng.integers(0, 2, 100)
            low, high = win_rate(coin.tolist(), (1 - coin).tolist(), seed=trial, draws=400).ci95
            held += low <= 0.5 <= high
        assert 0.92 <= held / 400 <= 0.99

    def test_the_mean_of_a_normal_lies_inside_about_95_of_100_intervals(self):
        rng = np.random.default_rng(12)
        found = [mean_interval(rng.normal(3, 2, 80).tolist(), seed=trial, draws=400) for trial in range(400)]
        assert 0.91 <= sum(i.low <= 3 <= i.high for i in found) / 400 <= 0.98


class TestVerdict:
    @pytest.mark.parametrize(
        ("ci95", "expected"),
        [
            ([0.51, 0.7], "ppo"),
            ([0.3, 0.49], "dpo"),
            ([0.4, 0.6], "no difference"),
            ([0.5, 0.7], "no difference"),
            ([0.3, 0.5], "no difference"),
        ],
    )
    def test_an_interval_that_holds_a_half_names_no_winner_its_ends_included(self, ci95, expected):
        assert verdict(ci95, "ppo", "dpo") == expected
