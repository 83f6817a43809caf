"""Intervals over groups: exact where they can be, honest about pairs that share a prompt, joint over many measures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, spearmanr

from kit.statistics import FEWEST, joint_intervals, mean_over_groups, rank_correlation, resampled_means, share
from kit.statistics import share_interval as interval


class TestShareInterval:
    @pytest.mark.parametrize("ones, zeros", [(0, 5), (5, 0), (3, 9), (60, 40)])
    def test_without_ties_it_is_the_exact_one_of_clopper_and_pearson(self, ones, zeros):
        wanted = binomtest(ones, ones + zeros).proportion_ci(method="exact")
        assert interval(np.array([1.0] * ones + [0.0] * zeros)) == pytest.approx(tuple(wanted))

    def test_ties_pull_it_towards_one_half(self):
        low, high = interval(np.array([1.0] * 10 + [0.5] * 10))
        alone = interval(np.ones(10))
        assert (low, high) == pytest.approx((0.25 + alone[0] / 2, 0.25 + alone[1] / 2))


class TestShare:
    def test_five_right_of_five_are_not_certain(self):
        assert share(np.ones(5))[1:] == pytest.approx((0.478, 1), abs=1e-3)

    def test_pairs_of_one_prompt_say_less_than_pairs_of_many(self):
        rng = np.random.default_rng(0)
        by_prompt = np.repeat(rng.random(40) < 0.6, 10).astype(float)
        low, high = share(by_prompt, np.repeat(np.arange(40), 10).tolist())[1:]
        alone_low, alone_high = share(by_prompt)[1:]
        assert high - low > 2 * (alone_high - alone_low)

    def test_many_right_pairs_of_a_single_prompt_are_one_outcome(self):
        assert share(np.ones(30), [7] * 30)[1] == pytest.approx(0.025)

    def test_the_interval_holds_the_truth_95_times_of_100_where_pairs_share_prompts(self):
        rng, held = np.random.default_rng(1), 0
        for seed in range(200):
            right = np.repeat(rng.beta(2, 1, 60), 3) > rng.random(180)
            _, low, high = share(right.astype(float), np.repeat(np.arange(60), 3).tolist(), seed)
            held += low <= 2 / 3 <= high
        assert held >= 180


class TestResampledMeans:
    def test_without_groups_they_spread_like_a_mean(self):
        values = np.random.default_rng(0).normal(size=400)
        drawn = resampled_means(values, seed=0)
        assert drawn.mean() == pytest.approx(values.mean(), abs=0.01)
        assert drawn.std() == pytest.approx(values.std() / 20, rel=0.1)

    def test_the_order_and_the_names_of_groups_do_not_matter(self):
        values, groups = np.arange(12.0), [i // 3 for i in range(12)]
        renamed = resampled_means(values, 0, groups=[-5 * g for g in groups])
        assert np.array_equal(resampled_means(values, 0, groups=groups), renamed)

    def test_a_single_group_never_varies(self):
        assert np.ptp(resampled_means(np.arange(5.0), 0, groups=[0] * 5)) == 0

    def test_a_value_without_its_group_is_refused(self):
        with pytest.raises(ValueError, match="3 values and 2 groups"):
            mean_over_groups(np.arange(3.0), [0, 1])


class TestRankCorrelation:
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=20))
    def test_it_is_spearmans_with_ties(self, points):
        x, y = zip(*points, strict=True)
        found = rank_correlation(x, y)
        if len(set(x)) == 1 or len(set(y)) == 1:
            assert found is None
        else:
            assert found[0] == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)

    def test_each_draw_ranks_anew(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=60)
        y = x + rng.normal(size=60)
        low, high = rank_correlation(x, y)[1:]
        draws = [spearmanr(x[i], y[i]).statistic for i in rng.integers(0, 60, (500, 60))]
        assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.05)

    def test_a_curve_that_only_rises_is_1(self):
        x = np.arange(30.0)
        assert rank_correlation(x, np.exp(x)) == pytest.approx((1, 1, 1))


class TestJointIntervals:
    def test_where_nothing_differs_some_column_is_flagged_in_5_of_100_at_most(self):
        rng, flagged = np.random.default_rng(0), 0
        for seed in range(200):
            columns = rng.normal(size=(60, 15)) + rng.normal(size=(60, 1))
            columns[:, 3] **= 3
            columns[:, 4] = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.9, 0.05], size=60)
            flagged += any(j.ci95_joint[0] > 0 or j.ci95_joint[1] < 0 for j in joint_intervals(columns, seed, 500))
        assert flagged <= 18  # 10 expected of an exact method

    def test_more_columns_make_wider_intervals_but_the_same_column_twice_does_not(self):
        rng = np.random.default_rng(0)
        columns = rng.normal(size=(100, 40))
        one, many = (joint_intervals(columns[:, :k])[0].ci95_joint for k in (1, 40))
        same = joint_intervals(np.repeat(columns[:, :1], 40, 1))[0].ci95_joint
        assert many[1] - many[0] > 1.3 * (one[1] - one[0])
        assert same == pytest.approx(one, abs=0.01)

    def test_one_column_has_students_interval_for_its_mean(self):
        values = np.random.default_rng(2).normal(size=(80, 1))
        (found,) = joint_intervals(values)
        error = values.std(ddof=1) / np.sqrt(80)
        assert found.ci95_joint[1] - found.mean == pytest.approx(1.99 * error, rel=0.06)

    def test_what_is_unknown_is_left_out_and_a_column_of_it_is_none(self):
        values = np.random.default_rng(0).normal(size=(40, 2))
        values[5:15, 0], values[:, 1] = np.nan, np.nan
        found = joint_intervals(values)
        assert found[1] is None and found[0].n == 30
        assert found[0].mean == pytest.approx(np.nanmean(values[:, 0]))

    def test_few_rows_get_no_joint_interval(self):
        assert joint_intervals(np.ones((FEWEST - 1, 1)))[0].ci95_joint is None

    def test_a_column_that_never_varies_is_sure_and_widens_no_other(self):
        values = np.random.default_rng(0).normal(size=(50, 1))
        alone, (beside, constant) = joint_intervals(values), joint_intervals(np.hstack([values, np.full((50, 1), 0.1)]))
        assert constant.ci95_joint == pytest.approx((0.1, 0.1))
        assert beside.ci95_joint == pytest.approx(alone[0].ci95_joint)
