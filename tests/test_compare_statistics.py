"""Intervals, win rates and verdicts of the comparison, against slow references and simulated truth."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from kit.compare.result import Answer, Arm, build_metrics
from kit.compare.statistics import (
    mean_difference,
    mean_interval,
    paired_outcomes,
    resampled_means,
    sign_interval,
    verdict,
    win_rate,
)


def arm(name: str, true: list, proxy: list | None = None, **changes) -> Arm:
    proxy = true if proxy is None else proxy
    answers = [Answer("a", t, p, 1.0, 5, True) for t, p in zip(true, proxy, strict=True)]
    return Arm(name, answers, **{"train_seconds": 1.0, "peak_bytes": 2, **changes})


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
        found = sign_interval(np.array([1.0] * wins + [0.0] * losses + [0.5] * ties))
        assert found == pytest.approx(expected)


class TestCoverage:
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


class TestMetrics:
    def test_they_keep_the_contract(self):
        arms = [arm("sft", [0.0] * 20), arm("dpo", [1.0] * 20), arm("ppo", [2.0] * 20)]
        found = build_metrics(arms, [[]] * 20, "truth", seed=0)
        assert (found["judge"], found["prompts"]) == ("truth", 20)
        ppo = found["arms"]["ppo"]
        assert ppo["true_reward"] == {"mean": 2.0, "ci95": [2.0, 2.0]}
        assert ppo["kl_nats"] == {"mean": 1.0, "ci95": [1.0, 1.0]}
        assert ppo["response_tokens"] == {"mean": 5.0}
        assert ppo["win_rate_vs_sft"]["mean"] == 1.0
        assert (ppo["train_seconds"], ppo["peak_bytes"]) == (1.0, 2)
        assert found["arms"]["sft"]["win_rate_vs_sft"] is None
        pair = found["pairs"]["ppo_vs_dpo"]
        assert (pair["win_rate"], pair["tie_rate"], pair["verdict"]) == (1.0, 0.0, "ppo")
        assert pair["score_difference"]["mean"] == 1.0

    def test_the_judge_decides_by_which_score_arms_win(self):
        arms = [arm("dpo", [0.0] * 20, [1.0] * 20), arm("ppo", [1.0] * 20, [0.0] * 20)]
        verdicts = {j: build_metrics(arms, [[]] * 20, j, 0)["pairs"]["ppo_vs_dpo"]["verdict"] for j in JUDGES}
        assert verdicts == {"truth": "ppo", "reward_model": "dpo"}

    def test_what_nobody_knows_is_null_and_never_nan(self):
        unknown = [arm(n, [None] * 3, [math.nan] * 3, train_seconds=math.nan, peak_bytes=None) for n in ("sft", "ppo")]
        found = build_metrics(unknown, [[]] * 3, "reward_model", 0)
        json.dumps(found, allow_nan=False)
        keys = ("true_reward", "proxy_reward", "win_rate_vs_sft", "train_seconds", "peak_bytes")
        assert [found["arms"]["ppo"][key] for key in keys] == [None] * 5

    def test_without_sft_nobody_wins_against_it_and_without_both_there_is_no_pair(self):
        found = build_metrics([arm("ppo", [1.0, 2.0])], [[], []], "truth", 0)
        assert found["arms"]["ppo"]["win_rate_vs_sft"] is None
        assert found["pairs"] == {}

    def test_no_pair_is_made_of_answers_nobody_scored(self):
        found = build_metrics([arm("dpo", [None], [1.0]), arm("ppo", [None], [2.0])], [[]], "truth", 0)
        assert found["pairs"] == {}

    def test_any_number_of_arms_is_welcome(self):
        arms = [arm(name, [1.0, 2.0]) for name in ("sft", "dpo", "ppo", "best_of_n", "dpo_iter")]
        assert len(build_metrics(arms, [[], []], "truth", 0)["arms"]) == 5
        assert build_metrics([], [], "truth", 0)["arms"] == {}

    @pytest.mark.parametrize(
        ("arms", "judge", "message"),
        [
            ([arm("sft", [1.0])], "truth", "1 answers to 2 prompts"),
            ([arm("sft", [1.0, 2.0])] * 2, "truth", "names of their own"),
            ([arm("sft", [1.0, 2.0])], "oracle", "judge must be"),
        ],
    )
    def test_input_that_does_not_fit_is_refused(self, arms, judge, message):
        with pytest.raises(ValueError, match=message):
            build_metrics(arms, [[], []], judge, 0)


JUDGES = ("truth", "reward_model")
