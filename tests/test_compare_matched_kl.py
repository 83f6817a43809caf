"""Two arms at the same KL from SFT, against a slow loop, properties and simulated truth."""

import math
from itertools import pairwise

import numpy as np
import pytest

from kit.compare.numbers.matched_kl import Checkpoint, matched_kl

NAMES = ("ppo", "dpo")


def curve(rng, kls, score_at, prompts=100, noise=0.3, quality=None) -> list[Checkpoint]:
    """Checkpoints at these mean KLs, the first at SFT; prompts differ in KL and in score."""
    quality = rng.normal(0, 1, prompts) if quality is None else quality
    found = []
    for kl in kls:
        spread = rng.gamma(4, kl / 4, prompts) if kl else np.zeros(prompts)
        scores = quality + (score_at(kl) + rng.normal(0, noise, prompts) if kl else 0)
        found.append(Checkpoint(spread.tolist(), scores.tolist()))
    return found


def point(kl: float, score: float, prompts: int = 12) -> Checkpoint:
    return Checkpoint([kl] * prompts, [score] * prompts)


def slowly(first, second, rows) -> tuple[float, float]:
    """(matched KL, difference) of the prompts `rows`, by loops and a straight line worked out by hand."""
    sides = []
    for checkpoints in (first, second):
        points = []
        for c in checkpoints:
            known = [(c.kl_nats[i], c.scores[i]) for i in rows if None not in (c.kl_nats[i], c.scores[i])]
            points.append((sum(k for k, _ in known) / len(known), sum(s for _, s in known) / len(known)))
        sides.append(sorted(points))
    matched = min(points[-1][0] for points in sides)
    values = []
    for points in sides:
        for (k0, s0), (k1, s1) in pairwise(points):
            if k0 <= matched <= k1:
                share = (math.sqrt(matched) - math.sqrt(k0)) / (math.sqrt(k1) - math.sqrt(k0))
                values.append(s0 + share * (s1 - s0))
                break
    return matched, values[0] - values[1]


class TestReference:
    def test_difference_and_interval_equal_those_of_a_slow_loop(self):
        rng = np.random.default_rng(0)
        first = curve(rng, [0, 1.0, 4.0, 9.0], lambda kl: math.sqrt(kl), 30)
        second = curve(rng, [0, 2.0, 5.0], lambda kl: 0.5 * math.sqrt(kl), 30)
        first[1].scores[3] = None
        second[2].kl_nats[5] = None
        found = matched_kl(first, second, NAMES, seed=3, draws=200)
        kl, difference = slowly(first, second, range(30))
        assert (found.kl_nats, found.difference.mean) == pytest.approx((kl, difference))
        counts = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), size=200)
        drawn = [slowly(first, second, np.repeat(np.arange(30), row))[1] for row in counts]
        low, high = np.quantile(drawn, [0.025, 0.975])
        half = 2.0484 * np.std(drawn) * math.sqrt(29 / 28)  # Student's t with 28 degrees of freedom
        assert found.difference.n == 29
        assert found.difference.low == pytest.approx(min(low, difference - half), rel=1e-4)
        assert found.difference.high == pytest.approx(max(high, difference + half), rel=1e-4)

    def test_between_checkpoints_the_score_is_a_line_in_the_root_of_the_kl(self):
        found = matched_kl([point(0, 0), point(16, 4)], [point(0, 0), point(4, 0)], NAMES)
        assert (found.kl_nats, found.difference.mean) == pytest.approx((4, 2))

    def test_it_is_read_at_the_shorter_curve_s_end(self):
        far = [point(0, 0), point(4, 1), point(100, -50)]
        assert matched_kl(far, [point(0, 0), point(4, 1)], NAMES).difference.mean == pytest.approx(0)


class TestProperties:
    def test_swapping_the_arms_changes_the_sign_and_nothing_else(self):
        rng = np.random.default_rng(1)
        a, b = curve(rng, [0, 1, 4], lambda kl: kl, 40), curve(rng, [0, 2, 3], lambda kl: 0.2 * kl, 40)
        one, other = matched_kl(a, b, NAMES), matched_kl(b, a, NAMES[::-1])
        assert (one.kl_nats, one.verdict) == (other.kl_nats, other.verdict)
        assert -other.difference.mean == pytest.approx(one.difference.mean)
        assert (-other.difference.high, -other.difference.low) == pytest.approx(tuple(one.difference.ci95))

    def test_an_arm_does_not_differ_from_itself(self):
        a = curve(np.random.default_rng(2), [0, 1, 4], math.sqrt)
        found = matched_kl(a, a, NAMES)
        assert (found.difference.mean, found.difference.ci95, found.verdict) == (0, [0, 0], "no difference")

    def test_the_order_of_the_checkpoints_does_not_matter_so_a_kl_may_fall_again(self):
        rng = np.random.default_rng(3)
        a, b = curve(rng, [0, 5, 3, 4], math.sqrt), curve(rng, [0, 2, 4], math.sqrt)
        turned = matched_kl([a[2], a[0], a[3], a[1]], b, NAMES)
        assert turned.difference.mean == pytest.approx(matched_kl(a, b, NAMES).difference.mean)

    def test_an_arm_that_only_went_further_wins_at_its_end_but_not_at_equal_kl(self):
        rng = np.random.default_rng(4)
        quality = rng.normal(0, 1, 100)
        far = curve(rng, [0, 1, 4, 16, 36], math.sqrt, quality=quality)
        near = curve(rng, [0, 1, 4], math.sqrt, quality=quality)
        assert np.mean(far[-1].scores) > np.mean(near[-1].scores) + 3
        assert matched_kl(far, near, NAMES).verdict == "no difference"

    def test_an_arm_that_is_better_at_every_kl_wins(self):
        rng = np.random.default_rng(5)
        quality = rng.normal(0, 1, 100)
        strong = curve(rng, [0, 1, 4], lambda kl: 2 * math.sqrt(kl), quality=quality)
        weak = curve(rng, [0, 1, 9], math.sqrt, quality=quality)
        assert matched_kl(strong, weak, NAMES).verdict == "ppo"
        assert matched_kl(weak, strong, NAMES).verdict == "dpo"


class TestLimits:
    def test_an_arm_that_never_left_sft_cannot_be_matched(self):
        moved = [point(0, 0), point(1, 1)]
        assert matched_kl(moved, [point(0, 0)], NAMES) is None
        assert matched_kl([], moved, NAMES) is None

    def test_a_checkpoint_nobody_scored_is_left_out(self):
        a, b = [point(0, 0), point(1, 1)], [point(0, 0), point(4, 0)]
        unknown = Checkpoint([9.0] * 12, [None] * 3 + [math.nan] * 9)
        assert matched_kl([*a, unknown], b, NAMES) == matched_kl(a, b, NAMES)

    def test_nine_prompts_are_too_few(self):
        assert matched_kl([point(0, 0, 9), point(1, 1, 9)], [point(0, 0, 9), point(1, 0, 9)], NAMES) is None

    def test_a_curve_that_does_not_begin_at_sft_is_refused(self):
        with pytest.raises(ValueError, match="dpo: the curve must begin at SFT"):
            matched_kl([point(0, 0), point(1, 1)], [point(1, 1), point(2, 1)], NAMES)

    def test_checkpoints_of_different_prompts_are_refused(self):
        with pytest.raises(ValueError, match="same prompts"):
            matched_kl([point(0, 0), point(1, 1, 13)], [point(0, 0)], NAMES)
        with pytest.raises(ValueError, match="same prompts"):
            matched_kl([point(0, 0), point(1, 1)], [point(0, 0, 13), point(1, 1, 13)], NAMES)


class TestCoverage:
    def test_two_arms_that_are_equal_at_every_kl_show_no_difference_in_about_95_of_100_simulations(self):
        rng, none = np.random.default_rng(6), 0
        for trial in range(200):
            quality = rng.normal(0, 1, 60)
            a = curve(rng, [0, 1, 4, 9], math.sqrt, 60, quality=quality)
            b = curve(rng, [0, 2, 6], math.sqrt, 60, quality=quality)
            none += matched_kl(a, b, NAMES, seed=trial, draws=300).verdict == "no difference"
        assert 0.90 <= none / 200 <= 0.99
