"""Length-controlled win rates against simulated judges whose truth is known, and against a slow fit."""

import math
import time

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from kit.compare.numbers.length_control import length_control
from kit.compare.numbers.length_fit import Cells, best_fit, equal_length_rates, fit
from kit.compare.numbers.statistics import outcome_rate

PPO, DPO, HEAD = ("ppo", "sft"), ("dpo", "sft"), ("ppo", "dpo")


def judged(rng, prompts, pairs, quality, longer=None, taste=0.0, difficulty=0.0):
    """(outcomes, lengths): arms `longer` times as long as SFT; the judge's taste, in log-odds, saturates."""
    longer, quality, hard = longer or {}, {"sft": 0.0, **quality}, rng.normal(0, difficulty, prompts)
    lengths = {arm: 100 * longer.get(arm, 1) * rng.lognormal(0, 0.4, prompts) for arm in quality}
    outcomes = {}
    for a, b in pairs:
        against = hard * ((b == "sft") - (a == "sft"))
        odds = quality[a] - quality[b] + taste * np.tanh((lengths[a] - lengths[b]) / 75) + against
        outcomes[a, b] = (rng.random(prompts) < expit(odds)).astype(float).tolist()
    return outcomes, {arm: values.tolist() for arm, values in lengths.items()}


def cells(rng, comparisons, seeds, prompts, facing) -> Cells:
    """Any outcomes and lengths, some unknown."""
    shape = (comparisons, seeds, prompts)
    known = (rng.random(shape) < 0.9).astype(float)
    tanh = rng.uniform(-1, 1, shape) * known
    return Cells(rng.choice([0.0, 0.3, 0.5, 1.0], shape) * known, known, tanh, np.array(facing, dtype=float))


def slow_fit(data: Cells, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """(equal-length rates [c], phi [c]) by BFGS with numerical gradients, term by term; the mean phi is a parameter."""
    c, s, n = data.outcomes.shape
    mean_tanh = []
    for x in range(n):
        facing = [data.tanh[i, j, x] * data.facing[i] for i in range(c) for j in range(s)
                  if data.known[i, j, x] and data.facing[i]]  # fmt: skip
        mean_tanh.append(np.mean(facing) if facing else 0.0)

    def unpack(v):
        return v[:c], v[c : 2 * c], v[2 * c : 3 * c], v[3 * c : 3 * c + n], v[-2], v[-1]

    def loss(v):
        theta, phis, psi, gamma, phi, beta = unpack(v)
        total = ((gamma - beta * np.array(mean_tanh)) ** 2).sum() / (2 * sigma**2)
        total += 0.5e-4 * (theta**2).sum() + (phi**2 + beta**2) / (2 * 3.0**2)
        total += ((phis - phi) ** 2).sum() / (2 * 0.4**2) + ((psi - data.facing) ** 2).sum() / (2 * 0.2**2)
        for i in range(c):
            for j in range(s):
                odds = theta[i] + phis[i] * data.tanh[i, j] + psi[i] * gamma
                cost = np.logaddexp(0, odds) - data.outcomes[i, j] * odds
                total += (cost * data.known[i, j]).sum()
        return total

    start = np.zeros(3 * c + n + 2)
    start[2 * c : 3 * c] = data.facing
    theta, phis, psi, gamma, _, _ = unpack(minimize(loss, start, method="BFGS", options={"gtol": 1e-5}).x)
    rates = [
        sum(k * expit(theta[i] + psi[i] * g) for row in data.known[i] for k, g in zip(row, gamma, strict=True))
        / data.known[i].sum()
        for i in range(c)
    ]
    return np.array(rates), phis


class TestFit:
    @pytest.mark.parametrize(
        ("facing", "seeds", "sigma"),
        [([1, 1, 0], 1, 1.0), ([1, -1, 0], 2, 0.5), ([1] * 7 + [0], 1, 2.0), ([0], 2, 0.25)],
    )
    def test_it_is_that_of_a_slow_optimiser(self, facing, seeds, sigma):
        data = cells(np.random.default_rng(len(facing)), len(facing), seeds, 15, facing)
        rates, phi = slow_fit(data, sigma)
        found = fit(data, sigma)
        assert equal_length_rates(data, found) == pytest.approx(rates, abs=1e-4)
        assert found.weights[1] == pytest.approx(phi, abs=1e-3)

    def test_a_prompt_drawn_twice_is_two_prompts(self):
        data = cells(np.random.default_rng(4), 3, 1, 30, [1, 1, 0])
        times = np.random.default_rng(5).integers(0, 3, 30)
        doubled = [np.repeat(values, times, axis=2) for values in (data.outcomes, data.known, data.tanh)]
        one, other = fit(data, 1.0, times.astype(float)), fit(Cells(*doubled, data.facing), 1.0)
        assert one.weights == pytest.approx(other.weights, abs=1e-5)
        assert one.gamma[times > 0].repeat(times[times > 0]) == pytest.approx(other.gamma, abs=1e-5)
        twice = equal_length_rates(Cells(*doubled, data.facing), other)
        assert equal_length_rates(data, one, times.astype(float)) == pytest.approx(twice, abs=1e-5)

    def test_at_the_lengths_observed_it_reproduces_the_raw_win_rate(self):
        data = cells(np.random.default_rng(6), 3, 2, 60, [1, 1, 0])
        found = fit(data, 1.0)
        theta, phi, psi = found.weights[:, :, None, None]
        odds = theta + phi * data.tanh + psi * found.gamma
        fitted = (data.known * expit(odds)).sum(axis=(1, 2))
        assert fitted == pytest.approx(data.outcomes.sum(axis=(1, 2)), abs=1e-3)

    @pytest.mark.parametrize(("difficulty", "least", "most"), [(0.0, 0.25, 0.5), (3.0, 2.0, 4.0)])
    def test_the_spread_of_the_prompts_is_read_from_the_data(self, difficulty, least, most):
        rng = np.random.default_rng(7)
        hard = rng.normal(0, difficulty, 400)
        outcomes = (rng.random((5, 1, 400)) < expit(hard)).astype(float)
        data = Cells(outcomes, np.ones_like(outcomes), rng.uniform(-1, 1, outcomes.shape), np.ones(5))
        assert least <= best_fit(data)[1] <= most

    def test_six_comparisons_of_800_prompts_take_well_under_a_second(self):
        pairs = [(a, "sft") for a in ("ppo", "dpo", "rloo")] + [HEAD, ("ppo", "rloo"), ("dpo", "rloo")]
        data = judged(np.random.default_rng(8), 800, pairs, {"ppo": 1, "dpo": 0.5, "rloo": 0}, taste=1)
        start = time.process_time()
        length_control(*data, draws=1)
        assert time.process_time() - start < 0.5


class TestProperties:
    def test_answers_of_one_length_keep_their_raw_win_rate(self):
        rng = np.random.default_rng(0)
        outcomes, lengths = judged(rng, 100, [PPO, DPO, HEAD], {"ppo": 1, "dpo": 0}, difficulty=1)
        found = length_control(outcomes, {arm: [70] * 100 for arm in lengths}, draws=20)
        for pair, raw in outcomes.items():
            assert found.rates[pair].rate == pytest.approx(np.mean(raw), abs=1e-5)

    @pytest.mark.parametrize("swapped", [{PPO}, {HEAD}, {PPO, DPO, HEAD}])
    def test_swapping_the_arms_of_some_comparisons_mirrors_those_and_leaves_the_others(self, swapped):
        data = judged(np.random.default_rng(1), 100, [PPO, DPO, HEAD], {"ppo": 1, "dpo": 0}, {"ppo": 1.4}, 1.0, 2.0)
        turned = {
            pair[::-1] if pair in swapped else pair: [1 - y for y in outcome] if pair in swapped else outcome
            for pair, outcome in data[0].items()
        }
        one, other = length_control(*data, draws=40), length_control(turned, data[1], draws=40)
        assert one.phi.mean == pytest.approx(other.phi.mean, abs=1e-4)
        for pair, rate in one.rates.items():
            if pair in swapped:
                mirrored = other.rates[pair[::-1]]
                found = 1 - mirrored.rate, 1 - mirrored.high, 1 - mirrored.low
            else:
                found = other.rates[pair].rate, *other.rates[pair].ci95
            assert (rate.rate, *rate.ci95) == pytest.approx(found, abs=2e-3)

    def test_tokens_or_characters_make_no_difference(self):
        outcomes, lengths = judged(np.random.default_rng(2), 100, [PPO, HEAD], {"ppo": 1, "dpo": 0}, taste=1.0)
        one = length_control(outcomes, lengths, draws=20)
        other = length_control(outcomes, {arm: [4 * x for x in values] for arm, values in lengths.items()}, draws=20)
        assert other.length_unit == pytest.approx(4 * one.length_unit)
        assert other.near_equal_share == one.near_equal_share
        for pair in outcomes:
            assert other.rates[pair].ci95 == pytest.approx(one.rates[pair].ci95, abs=1e-6)

    def test_a_prompt_without_verdict_or_length_counts_nowhere(self):
        outcomes, lengths = judged(np.random.default_rng(3), 100, [PPO], {"ppo": 1}, taste=1.0)
        more = {PPO: outcomes[PPO] + [None, 1.0, 1.0]}
        longer = {"ppo": [*lengths["ppo"], 900, None, 900], "sft": [*lengths["sft"], 5, 5, math.nan]}
        found = length_control(more, longer, draws=20)
        assert found.rates[PPO].n == 100
        assert found.rates[PPO].rate == pytest.approx(length_control(outcomes, lengths, draws=1).rates[PPO].rate)

    def test_seeds_that_agree_add_no_certainty_about_the_prompts(self):
        outcomes, lengths = judged(np.random.default_rng(4), 150, [PPO], {"ppo": 0.5}, {"ppo": 1.3}, 1.0)
        one = length_control(outcomes, lengths, draws=50).rates[PPO]
        twice = {"ppo": [lengths["ppo"]] * 2, "sft": lengths["sft"]}
        two = length_control({PPO: [outcomes[PPO]] * 2}, twice, draws=50).rates[PPO]
        assert (two.rate, two.low, two.high) == pytest.approx((one.rate, one.low, one.high), abs=0.004)
        assert two.n == 150

    def test_a_comparison_without_seeds_beside_one_with_three_counts_once(self):
        pairs = [PPO, ("best_of_n", "longest_of_n")]
        quality = {"ppo": 1, "best_of_n": 1, "longest_of_n": 0}
        outcomes, lengths = judged(np.random.default_rng(5), 80, pairs, quality, taste=1.0)
        lengths["ppo"], outcomes[PPO] = [lengths["ppo"]] * 3, [outcomes[PPO]] * 3
        found = length_control(outcomes, lengths, draws=20)
        outcomes[pairs[1]] = [outcomes[pairs[1]], [None] * 80, [None] * 80]
        assert found == length_control(outcomes, lengths, draws=20)

    def test_raw_win_rates_of_preferences_from_1_to_2_are_their_plain_mean(self):
        preference = np.random.default_rng(6).uniform(1, 2, 805)
        assert outcome_rate((preference - 1).tolist(), draws=10).rate == pytest.approx(preference.mean() - 1, abs=1e-10)


class TestSimulatedJudges:
    def test_a_taste_for_length_is_taken_out_and_a_half_lies_inside_about_95_of_100_intervals(self):
        raw, inside = [], 0
        for trial in range(40):
            data = judged(np.random.default_rng(trial), 120, [PPO], {"ppo": 0}, {"ppo": 1.5}, 1.5)
            rate = length_control(*data, draws=80).rates[PPO]
            inside += rate.low <= 0.5 <= rate.high
            raw.append(np.mean(data[0][PPO]))
        assert np.mean(raw) > 0.6
        assert inside >= 34  # of 40; fewer happen once in 70 times if 95 % are true

    def test_without_a_taste_for_length_it_is_the_raw_win_rate_within_noise(self):
        data = judged(np.random.default_rng(1), 800, [PPO, DPO, HEAD], {"ppo": 0.8, "dpo": 0.3}, {"ppo": 1.3}, 0, 1)
        found = length_control(*data, draws=40)
        assert found.phi.low <= 0 <= found.phi.high
        for pair, outcome in data[0].items():
            assert found.rates[pair].rate == pytest.approx(np.mean(outcome), abs=0.025)

    def test_unequal_arms_of_unequal_lengths_get_the_rate_at_equal_length(self):
        quality, longer = {"ppo": 0.0, "dpo": 0.7}, {"ppo": 1.5, "dpo": 1.1}
        found = []
        for trial in range(20):
            data = judged(np.random.default_rng(trial), 500, [PPO, DPO, HEAD], quality, longer, 1.5, 1.0)
            found.append([rate.rate for rate in length_control(*data, draws=1).rates.values()])
            assert np.mean(data[0][PPO]) > 0.55
        prompts = np.random.default_rng(0).normal(0, 1, 100_000)
        truth = [expit(0 + prompts).mean(), expit(0.7 + prompts).mean(), expit(-0.7)]
        assert np.mean(found, axis=0) == pytest.approx(truth, abs=0.015)

    def test_many_models_against_one_baseline_each_get_their_own_taste_and_difficulty(self):
        rng, n, models = np.random.default_rng(2), 400, 16
        hard, base = rng.normal(0, 1.5, n), 2000 * rng.lognormal(0, 0.5, n)
        base *= np.exp(-0.1 * hard)  # easy prompts have short baseline answers
        outcomes, lengths, truth = {}, {"base": base.tolist()}, []
        for i in range(models):
            theta, psi, phi = rng.normal(-1, 1.2), rng.normal(0.9, 0.2), rng.normal(1.6, 0.4)
            length = 2000 * rng.lognormal(rng.uniform(-0.8, 0), 0.4, n)
            gap = length - base
            outcomes[f"m{i}", "base"] = expit(theta + phi * np.tanh(gap / gap.std()) + psi * hard).tolist()
            lengths[f"m{i}"] = length.tolist()
            truth.append(expit(theta + psi * hard).mean())
        found = length_control(outcomes, lengths, baseline="base", draws=2)
        rates = np.array([rate.rate for rate in found.rates.values()])
        raw = np.array([np.mean(outcome) for outcome in outcomes.values()])
        assert np.abs(raw - truth).mean() > 0.05
        assert np.abs(rates - truth).mean() < 0.01


class TestWithheld:
    def test_lengths_that_do_not_overlap(self):
        data = judged(np.random.default_rng(0), 200, [PPO, DPO], {"ppo": 0, "dpo": 0}, {"ppo": 6}, 0.5)
        found = length_control(*data, draws=20)
        assert set(found.rates) == {DPO}
        assert found.near_equal_share[PPO] < 0.1
        assert "lengths hardly overlap" in found.withheld[PPO]

    def test_the_extrapolation_can_be_asked_for(self):
        data = judged(np.random.default_rng(0), 200, [PPO, DPO], {"ppo": 0, "dpo": 0}, {"ppo": 6}, 0.5)
        assert set(length_control(*data, draws=20, least_near_share=0).rates) == {PPO, DPO}

    def test_too_few_prompts(self):
        data = judged(np.random.default_rng(1), 49, [PPO], {"ppo": 0})
        found = length_control(*data)
        assert found.withheld == {PPO: "only 49 prompts have a verdict and both lengths; 50 are needed"}
        assert (found.rates, found.phi) == ({}, None)

    def test_a_judge_who_looks_at_nothing_but_length(self):
        outcomes, lengths = judged(np.random.default_rng(2), 100, [PPO, HEAD], {"ppo": 0, "dpo": 0})
        outcomes = {(a, b): [float(x > y) for x, y in zip(lengths[a], lengths[b], strict=True)] for a, b in outcomes}
        found = length_control(outcomes, lengths)
        assert found.rates == {}
        assert "cannot be told apart" in found.withheld[PPO]
        outcomes[HEAD] = np.random.default_rng(0).integers(0, 2, 100).tolist()  # now phi has a best value
        assert set(length_control(outcomes, lengths, draws=2).rates) == {PPO, HEAD}

    def test_an_arm_that_won_nearly_always(self):
        _, lengths = judged(np.random.default_rng(3), 100, [PPO], {"ppo": 0})
        found = length_control({PPO: [1.0] * 96 + [0.0] * 4}, lengths)
        assert "the other has 4 wins of 100" in found.withheld[PPO]

    def test_nothing_known_or_nothing_compared(self):
        found = length_control({PPO: [None] * 60}, {"ppo": [1] * 60, "sft": [1] * 60})
        assert "only 0 prompts" in found.withheld[PPO]
        assert length_control({}, {}).rates == {}

    def test_a_comparison_nobody_judged_does_not_disturb_the_others(self):
        outcomes, lengths = judged(np.random.default_rng(4), 80, [PPO, DPO, HEAD], {"ppo": 0, "dpo": 0}, taste=1.0)
        alone = length_control({PPO: outcomes[PPO]}, lengths, draws=20)
        beside = length_control({PPO: outcomes[PPO], HEAD: [None] * 80}, lengths, draws=20)
        assert set(beside.rates) == {PPO}
        assert beside.rates[PPO].ci95 == pytest.approx(alone.rates[PPO].ci95, abs=1e-4)


class TestInput:
    @pytest.mark.parametrize(
        ("outcomes", "lengths", "message"),
        [
            ([1.0, 0.0], {"ppo": [1, 2]}, "no lengths for \\['sft'\\]"),
            ([1.0, 0.0], {"ppo": [1, 2], "sft": [1]}, "same prompts and seeds"),
            ([[1.0], [0.0]], {"ppo": [[1]] * 3, "sft": [1]}, "same prompts and seeds"),
            ([2.0, 0.0], {"ppo": [1, 2], "sft": [1, 2]}, "outside"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, outcomes, lengths, message):
        with pytest.raises(ValueError, match=message):
            length_control({PPO: outcomes}, lengths)
