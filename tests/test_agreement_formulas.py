"""The formulas of how far people agree, each beside a slow one, a published number or scipy."""

import math
from itertools import combinations

import numpy as np
import pytest
from judged import choice, judged, ranked, rated

from kit.crowd.judgements import Judgement
from kit.crowd.model import GRID, chance, fit, predict
from kit.crowd.votes import votes_of
from kit.feedback.alpha import alpha_nominal, alpha_ordinal, alphas, concordance, kendalls_w
from kit.feedback.bias import logistic
from kit.feedback.drift import change_point, cusum
from kit.feedback.flags import benjamini_hochberg
from kit.feedback.groups import groups_of
from kit.feedback.people import matches, people_of

N = None


# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability": four observers, twelve units.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]


def random_choices(people, items, seed=0):
    rng = np.random.default_rng(seed)
    return [choice(f"p{p}", f"i{i}", int(rng.integers(-1, 2))) for p in range(people) for i in range(items)]


def slow_alpha(units, distance):
    """Alpha by its definition: mean distance within units over mean distance of all pairable values."""
    units = [unit for unit in units if len(unit) > 1]
    every = [value for unit in units for value in unit]
    observed = sum(distance(a, b) / (len(unit) - 1) for unit in units for a, b in permuted(unit)) / len(every)
    expected = sum(distance(a, b) for a, b in permuted(every)) / (len(every) * (len(every) - 1))
    return 1 - observed / expected


def permuted(values):
    return [(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j]


class TestAlpha:
    def test_ordinal_is_the_published_number(self):
        assert alpha_ordinal(rated(PUBLISHED)).value == pytest.approx(0.815, abs=5e-4)

    def test_nominal_is_the_published_number(self):
        units = [[row[at] for row in PUBLISHED if row[at] is not None] for at in range(12)]
        counts = np.array([[unit.count(v) for v in range(1, 6)] for unit in units if len(unit) > 1], float)
        each = [(np.outer(c, c) - np.diag(c)) / (c.sum() - 1) for c in counts]
        assert alphas(np.sum(each, axis=0)[None], ordinal=False)[0] == pytest.approx(0.743, abs=5e-4)

    def test_of_pairs_is_the_slow_one(self):
        rows = random_choices(4, 15)[:-7]
        units = {}
        for row in rows:
            units.setdefault(row.item, []).append(np.sign(row.values[0] - row.values[1]))
        slow = slow_alpha(list(units.values()), lambda a, b: float(a != b))
        assert alpha_nominal(votes_of(judged(rows))).value == pytest.approx(slow)

    def test_of_ranks_is_the_slow_one(self):
        rng = np.random.default_rng(1)
        rows = [ranked(f"p{p}", f"i{i}", rng.permutation(4) + 1) for p in range(3) for i in range(6)]
        units = [[-row.values[at] for row in rows if row.item == f"i{i}"] for i in range(6) for at in range(4)]
        n = {rank: sum(unit.count(rank) for unit in units) for rank in (1, 2, 3, 4)}

        def ordinal(a, b):
            low, high = sorted((a, b))
            return (sum(n[g] for g in n if low <= g <= high) - (n[low] + n[high]) / 2) ** 2

        assert alpha_ordinal(rows).value == pytest.approx(slow_alpha(units, ordinal))

    def test_is_one_where_all_agree_and_unknown_where_all_say_the_same(self):
        rows = [choice(p, f"i{i}", (-1) ** i) for p in "xyz" for i in range(12)]
        assert alpha_nominal(votes_of(judged(rows))).value == 1
        assert alpha_nominal(votes_of(judged([choice(p, f"i{i}", 1) for p in "xy" for i in range(5)]))) is None

    def test_without_overlap_is_unknown(self):
        assert alpha_nominal(votes_of(judged([choice("x", "i1", 1), choice("y", "i2", -1)]))) is None

    def test_has_an_interval_over_items_that_covers_chance_for_dice(self):
        found = alpha_nominal(votes_of(judged(random_choices(3, 200))))
        assert found.ci95[0] < 0 < found.ci95[1] and found.ci95[1] - found.ci95[0] < 0.3

    def test_interval_is_that_of_units_drawn_one_by_one(self):
        rows = random_choices(3, 40, seed=3)
        units = {}
        for row in rows:
            units.setdefault(row.item, []).append(np.sign(row.values[0] - row.values[1]))
        rng, listed = np.random.default_rng(0), list(units.values())
        drawn = [
            slow_alpha([listed[at] for at in rng.integers(0, 40, 40)], lambda a, b: float(a != b)) for _ in range(120)
        ]
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert alpha_nominal(votes_of(judged(rows))).ci95 == pytest.approx((low, high), abs=0.06)

    def test_repeats_do_not_count(self):
        rows = [choice(p, f"i{i}", (-1) ** i) for p in "xyz" for i in range(12)]
        again = [choice("x", f"i{i}", -((-1) ** i), repeat=True) for i in range(12)]
        assert alpha_nominal(votes_of(judged(rows + again))).value == 1

    def test_of_ranks_leaves_repeats_out_too(self):
        rows = [ranked(p, f"i{i}", [1, 2, 3]) for p in "xy" for i in range(4)]
        assert alpha_ordinal([*rows, ranked("x", "i0", [3, 2, 1], repeat=True)]).value == 1


class TestKendallsW:
    def test_is_one_where_all_rank_alike_and_zero_where_sums_are_equal(self):
        assert concordance([[1, 2, 3]] * 4) == 1
        assert concordance([[1, 2, 3], [3, 2, 1]]) == 0

    def test_with_ties_is_friedmans_chi_squared_by_m_times_k_less_one(self):
        from scipy.stats import friedmanchisquare

        table = np.random.default_rng(2).integers(0, 4, size=(6, 5)).astype(float)
        chi2 = friedmanchisquare(*table.T).statistic
        assert concordance(table) == pytest.approx(chi2 / (6 * 4))

    def test_is_unknown_of_one_person_and_of_ties_only(self):
        assert concordance([[1, 2, 3]]) is None and concordance([[1, 1, 1], [2, 2, 2]]) is None

    def test_takes_people_who_ranked_the_same_answers_in_another_order(self):
        turned = Judgement("y", "i", "rank", ("c", "b", "a"), (-3.0, -2.0, -1.0), "row")
        assert kendalls_w([ranked("x", "i", [1, 2, 3]), turned]).value == 1


class TestVotes:
    def test_a_ranking_weighs_as_many_choices_as_the_variance_of_tau_says(self):
        rng = np.random.default_rng(0)
        for k in (2, 4, 6):
            votes = votes_of(judged([ranked("x", "i", range(1, k + 1))]))
            shares = [np.mean([a < b for a, b in combinations(rng.permutation(k), 2)]) for _ in range(6000)]
            assert votes.weight.sum() == pytest.approx(0.25 / np.var(shares), rel=0.08)

    def test_of_a_pair_stand_in_one_order_whoever_names_the_answers(self):
        other = Judgement("y", "i", "pair", ("b", "a"), (0.0, 1.0), "row")
        assert votes_of(judged([choice("x", "i", 1), other])).value.tolist() == [1, 1]

    def test_know_which_answer_was_shown_first_and_which_is_longer(self):
        votes = votes_of(judged([choice("x", "i", 1, shown=("b", "a"), lengths=(10, 30))]))
        assert votes.position[0] == -1 and votes.length[0] == pytest.approx(math.log(11 / 31))

    def test_of_ratings_say_which_steps_are_reached(self):
        votes = votes_of(judged(rated([[1, 2, 3]])))
        assert votes.value.tolist() == [0, 0, 1, 0, 1, 1] and votes.weight.sum() == 3

    def test_matches_are_shares_of_the_others(self):
        rows = [choice("x", "i", 1), choice("y", "i", 1), choice("z", "i", -1), choice("x", "alone", 1)]
        assert np.nan_to_num(matches(votes_of(judged(rows))), nan=-1).tolist() == [0.5, 0.5, 0, -1]


class TestCrowd:
    def test_expected_is_the_integral_over_the_others_votes(self):
        rows = [choice("x", "i", 1), choice("y", "i", 1), choice("z", "i", -1)]
        votes = votes_of(judged(rows))
        crowd = fit(votes)
        d = np.linspace(-12 * crowd.tau, 12 * crowd.tau, 20_001)
        read = 1 / (1 + np.exp(-d))
        # The fit's last step of eta comes after its last look at expected; both have settled.
        said = [chance(np.full(len(d), crowd.eta[w]), np.full(len(d), 0.5), read) for w in range(3)]
        density = np.exp(-((d / crowd.tau) ** 2) / 2) * said[1] * (1 - said[2])
        assert crowd.expected[0] == pytest.approx((density * read).sum() / density.sum(), abs=0.02)

    def test_eta_is_the_best_of_a_slow_likelihood(self):
        rng = np.random.default_rng(5)
        rows = []
        for i in range(60):
            truth = rng.choice([-1, 1])
            rows += [choice(p, f"i{i}", truth) for p in ("x", "y", "z")]
            rows.append(choice("dice", f"i{i}", int(rng.choice([-1, 1]))))
        votes = votes_of(judged(rows))
        crowd = fit(votes)
        who = votes.people.index("dice")
        mine = votes.who == who
        slow = [
            sum(
                math.log(e * r + (1 - e) * (1 - r) if v else e * (1 - r) + (1 - e) * r)
                for r, v in zip(crowd.expected[mine], votes.value[mine], strict=True)
            )
            for e in GRID[1:-1]
        ]
        assert np.allclose(crowd.loglik[who][1:-1], slow)
        assert 0.35 < crowd.eta[who] < 0.65 and min(np.delete(crowd.eta, who)) > 0.9

    def test_an_adversary_is_near_zero_and_helps_the_others(self):
        rng = np.random.default_rng(6)
        rows = []
        for i in range(80):
            truth = int(rng.choice([-1, 1]))
            rows += [choice(p, f"i{i}", truth if rng.random() < 0.9 else -truth) for p in ("x", "y")]
            rows.append(choice("adversary", f"i{i}", -truth))
        votes = votes_of(judged(rows))
        crowd = fit(votes)
        assert crowd.eta[votes.people.index("adversary")] < 0.1
        assert crowd.against(0.5, below=True)[votes.people.index("adversary")] < 1e-6

    def test_who_shares_nothing_has_the_prior_and_an_interval_of_everything(self):
        votes = votes_of(judged([choice("x", f"i{i}", 1) for i in range(30)] + [choice("y", "other", 1)]))
        crowd = fit(votes)
        assert crowd.overlap.tolist() == [0, 0] and np.allclose(crowd.ci95, [0, 1])

    def test_ratings_have_a_base_rate_for_each_step_and_each_person(self):
        rng = np.random.default_rng(0)
        rows = rated([[int(rng.random() < 0.9) for _ in range(80)] for _ in range(3)] + [[0] * 40])
        crowd = fit(votes_of(judged(rows)))
        assert crowd.mu[0] == 0 and crowd.mu[1] > 0.5
        assert crowd.habit[0, 1] > 0.8 and crowd.habit[3, 1] < 0.2

    def test_predicts_new_votes_from_all_it_saw_on_the_unit(self):
        votes = votes_of(judged([choice("x", "i", 1), choice("y", "i", 1), choice("z", "i", -1)]))
        seen = votes.of(votes.who < 2)
        crowd = fit(seen)
        d = np.linspace(-12 * crowd.tau, 12 * crowd.tau, 20_001)
        read = 1 / (1 + np.exp(-d))
        density = np.exp(-((d / crowd.tau) ** 2) / 2)
        for who in (0, 1):
            density = density * (crowd.eta[who] * read + (1 - crowd.eta[who]) * (1 - read))
        expected = (density * read).sum() / density.sum()
        slow = crowd.eta[2] * expected + (1 - crowd.eta[2]) * (1 - expected)
        assert predict(seen, crowd, votes)[2] == pytest.approx(slow, abs=0.01)

    def test_with_a_base_rate_of_half_it_is_chens_equation(self):
        for eta in (0.1, 0.5, 0.8):
            told = chance(np.array([eta]), np.array([0.5]), np.array([0.7]))
            assert told[0] == pytest.approx(eta * 0.7 + (1 - eta) * 0.3)


class TestGroups:
    def test_within_and_across_are_shares_of_pairs_of_people(self):
        verdicts = {"a": (1, 1), "b": (1, -1), "c": (-1, -1), "d": (-1, -1)}
        rows = [
            choice(name, f"i{item}", verdict, group="x" if name < "c" else "y")
            for name, both in verdicts.items()
            for item, verdict in enumerate(both)
        ]
        votes = votes_of(judged(rows))
        first, second = groups_of(votes, rows, people_of(votes, rows))
        assert (first.within.value, first.across.value, first.annotators) == (0.5, 0.25, 2)
        assert (second.within.value, second.across.value) == (1, 0.25)

    def test_one_group_alone_is_none(self):
        rows = [choice(name, "i", 1, group="x") for name in "ab"]
        votes = votes_of(judged(rows))
        assert groups_of(votes, rows, people_of(votes, rows)) == []


class TestLeans:
    def test_the_regression_is_scipys_optimum(self):
        from scipy.optimize import minimize

        rng = np.random.default_rng(0)
        table, weight = rng.normal(size=(80, 3)), rng.uniform(0.3, 1, 80)
        value = (rng.random(80) < 1 / (1 + np.exp(-table @ [1, -1, 0.5]))).astype(float)

        def below(b):
            z = table @ b
            return -(weight * (value * z - np.logaddexp(0, z))).sum() + 0.01 * (b**2).sum()

        best = minimize(below, np.zeros(3))
        found, height = logistic(table, value, weight)
        assert found == pytest.approx(best.x, abs=1e-3) and height == pytest.approx(-best.fun, abs=1e-6)

    def test_a_fixed_coefficient_stays(self):
        found, height = logistic(np.eye(3), np.array([1.0, 0, 1]), np.ones(3), fixed={1: 0.5})
        assert found[1] == 0.5 and height < logistic(np.eye(3), np.array([1.0, 0, 1]), np.ones(3))[1]


class TestDrift:
    def test_the_statistic_is_the_slow_one(self):
        marks = np.random.default_rng(0).normal(size=60)
        slow = [
            abs(marks[:k].sum() - k * marks.mean()) / (marks.std() * math.sqrt(k * (60 - k) / 60)) for k in range(7, 54)
        ]
        assert cusum(marks[None])[0] == pytest.approx(slow)

    def test_a_change_is_found_where_it_is(self):
        marks = np.random.default_rng(1).normal(size=100) + np.repeat([1.5, 0], [60, 40])
        cut, p = change_point(marks)
        assert abs(cut - 60) < 5 and p < 0.001

    def test_without_a_change_p_is_uniform(self):
        rng = np.random.default_rng(2)
        found = [change_point(rng.exponential(size=40), seed)[1] for seed in range(150)]
        assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.07)


class TestBenjaminiAndHochberg:
    def test_rejects_as_their_procedure_says(self):
        p = dict.fromkeys(((n, "x") for n in range(15)), 0.0)
        published = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
                     0.6528, 0.7590, 1.0]  # fmt: skip
        p = dict(zip(p, published, strict=True))  # the example of their paper, section 3.2: four are rejected
        assert len(benjamini_hochberg(p, 0.05)) == 4

    def test_of_nothing_rejects_nothing(self):
        assert benjamini_hochberg({}, 0.05) == set()
