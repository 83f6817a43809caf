"""Is the reward model good enough: what stops PPO, what only warns, and what the numbers say."""

import json
import math
import random

import numpy as np
import pytest

from kit.errors import TrainingStopped
from kit.stages.gate import judge_reward_model, require_good_reward_model


def pair(prompt, margin, longer, length=20):
    """A held-out pair whose chosen answer scores `margin` more and is `longer` tokens longer."""
    return {
        "prompt": prompt, "chosen_score": margin, "rejected_score": 0.0,
        "chosen_tokens": length + longer, "rejected_tokens": length,
    }  # fmt: skip


def pairs(n, right, longer=0.5, seed=0, sure=1.0):
    """n pairs of as many prompts; a share `right` is ranked right, the chosen one is the longer one in `longer`."""
    rng = random.Random(seed)
    return [
        pair(i, sure if i < right * n else -sure, rng.randint(1, 9) * (1 if rng.random() < longer else -1))
        for i in range(n)
    ]


def stage(rows):
    return {"pairs": len(rows), "gate": judge_reward_model(rows)}


class TestTheGate:
    def test_a_good_reward_model_passes_without_a_word(self, capsys):
        rows = pairs(400, 0.75, sure=math.log(3))
        found = stage(rows)
        require_good_reward_model(found, force=False)
        assert found["gate"]["verdict"] == "good" and not any(capsys.readouterr())

    def test_a_coin_stops_ppo_and_the_message_says_all(self):
        with pytest.raises(TrainingStopped) as stopped:
            require_good_reward_model(stage(pairs(200, 0.5)), force=False)
        text = str(stopped.value)
        for part in ("reward model", "0.50 (95 % interval 0.43 to 0.57)", "200 held-out pairs", "above 0.5",
                     "data.eval_fraction", "reward.epochs", "ppo.force=true"):  # fmt: skip
            assert part in text
        assert stopped.value.exit_code == 3

    def test_too_few_pairs_to_tell_stop_ppo_too(self):
        found = stage(pairs(5, 1.0))
        with pytest.raises(TrainingStopped, match="5 held-out pairs of 5 prompts"):
            require_good_reward_model(found, force=False)
        assert found["gate"]["verdict"] == "weak"

    def test_many_pairs_of_a_few_prompts_are_few(self):
        rows = [pair(i % 3, 1.0, 1) for i in range(60)]
        with pytest.raises(TrainingStopped, match="not shown to beat a coin"):
            require_good_reward_model(stage(rows), force=False)

    def test_a_handful_of_prompts_does_not_say_that_a_ruler_is_better(self):
        with pytest.raises(TrainingStopped) as stopped:
            require_good_reward_model(stage([pair(i, -1.0, 5) for i in range(5)]), force=False)
        assert "answer wins" not in str(stopped.value)

    @pytest.mark.parametrize("longer, rule", [(0.9, "longer"), (0.1, "shorter")])
    def test_a_model_that_a_ruler_beats_stops_ppo(self, longer, rule):
        found = stage(pairs(400, 0.6, longer))
        assert found["gate"]["accuracy"]["ci95"][0] > 0.5 and found["gate"]["verdict"] == "no better than length"
        with pytest.raises(TrainingStopped, match=f'"the {rule} answer wins" is right more often'):
            require_good_reward_model(found, force=False)

    def test_a_model_as_good_as_a_ruler_goes_on_with_a_warning(self, capsys):
        found = stage(pairs(400, 0.75, 0.75, sure=math.log(3)))
        require_good_reward_model(found, force=False)
        warned = capsys.readouterr().err
        assert 'not shown better than "the longer answer wins"' in warned and warned.count("warning") == 1
        assert found["gate"]["verdict"] == "no better than length"

    def test_force_goes_on_with_one_warning_that_holds_the_numbers(self, capsys):
        require_good_reward_model(stage(pairs(200, 0.5)), force=True)
        warned = capsys.readouterr().err
        assert warned.count("warning") == 1 and "0.50 (95 % interval 0.43 to 0.57)" in warned

    def test_nothing_held_out_is_no_proof(self):
        with pytest.raises(TrainingStopped, match="no pair was held out"):
            require_good_reward_model({"pairs": 0}, force=False)

    def test_a_reward_model_of_an_earlier_version_only_warns(self, capsys):
        require_good_reward_model({"pairs": 80, "accuracy": 0.8}, force=False)
        assert "earlier version" in capsys.readouterr().err

    def test_a_score_that_follows_length_warns(self, capsys):
        rng = np.random.default_rng(0)
        margins = rng.normal(1, 1, 300)
        rows = [pair(i, m, round(5 * m + rng.normal())) for i, m in enumerate(margins)]
        require_good_reward_model(stage(rows), force=False)
        assert "its score follows length" in capsys.readouterr().err

    def test_a_model_that_is_far_too_sure_warns(self, capsys):
        require_good_reward_model(stage(pairs(400, 0.75, sure=8.0)), force=False)
        assert "wrong about how sure it is" in capsys.readouterr().err


class TestTheNumbers:
    def test_are_json_without_nan_also_where_nothing_is_defined(self):
        rows = [pair(0, 0.0, 0)]
        found = judge_reward_model(rows)
        json.dumps(found, allow_nan=False)
        assert found["score_length_correlation"] is None and found["first_wins"] is None
        assert found["accuracy"]["mean"] == found["longer_wins"]["mean"] == 0.5

    def test_hold_what_was_asked_for_and_their_intervals_hold_their_means(self):
        found = judge_reward_model(pairs(120, 0.7, 0.6))
        for name in ("accuracy", "longer_wins", "accuracy_minus_length_rule", "score_length_correlation"):
            low, high = found[name]["ci95"]
            assert low <= found[name]["mean"] <= high
        assert found["accuracy"]["mean"] == pytest.approx(0.7) and found["pairs"] == found["prompts"] == 120

    def test_do_not_depend_on_the_order_of_the_pairs_but_for_the_draws(self):
        rows = pairs(200, 0.7, 0.6)
        a, b = judge_reward_model(rows), judge_reward_model(random.Random(1).sample(rows, len(rows)))
        assert a["accuracy"]["mean"] == pytest.approx(b["accuracy"]["mean"])
        assert a["score_length_correlation"]["mean"] == pytest.approx(b["score_length_correlation"]["mean"])
        assert a["accuracy"]["ci95"] == pytest.approx(b["accuracy"]["ci95"], abs=0.02)

    def test_who_was_shown_first_is_counted_where_the_data_say_it(self):
        found = judge_reward_model(pairs(40, 0.7), first_won=[1.0] * 30 + [0.0] * 10)
        assert found["first_wins"]["mean"] == 0.75 and found["first_wins"]["ci95"][0] > 0.5

    def test_within_a_pair_the_longer_scores_higher_or_not_whichever_was_chosen(self):
        rows = [pair(i, m, int(3 * m)) for i, m in enumerate((-1) ** i * (1 + i % 5) for i in range(60))]
        assert judge_reward_model(rows)["within_pair_length_correlation"]["mean"] > 0.9
        rng = np.random.default_rng(0)
        always = [pair(i, m, n) for i, (m, n) in enumerate(zip(rng.random(60), rng.integers(1, 9, 60), strict=True))]
        assert judge_reward_model(always)["within_pair_length_correlation"]["mean"] > 0.7
        swapped = [pair(r["prompt"], -r["chosen_score"], r["rejected_tokens"] - r["chosen_tokens"]) for r in rows]
        assert judge_reward_model(swapped)["within_pair_length_correlation"]["mean"] > 0.9


class TestCalibration:
    @staticmethod
    def drawn(n, stretch=1.0, seed=0):
        """Pairs whose margins, divided by `stretch`, say how likely the chosen one wins."""
        rng = np.random.default_rng(seed)
        sizes = rng.exponential(1.5, n)
        signs = np.where(rng.random(n) < 1 / (1 + np.exp(-sizes)), 1, -1)
        return [pair(i, float(stretch * m), (-1) ** i) for i, m in enumerate(sizes * signs)]

    def test_tenths_of_the_pairs_from_least_to_most_sure(self):
        bins = judge_reward_model(self.drawn(995))["calibration"]
        assert sum(b["pairs"] for b in bins) == 995 and {b["pairs"] for b in bins} == {99, 100}
        predicted = [b["predicted"] for b in bins]
        assert predicted == sorted(predicted) and predicted[0] >= 0.5 and predicted[-1] <= 1

    def test_the_error_is_the_mean_gap_of_the_bins(self):
        found = judge_reward_model(self.drawn(500, 3.0))
        by_hand = sum(b["pairs"] * abs(b["predicted"] - b["observed"]) for b in found["calibration"]) / 500
        assert found["expected_calibration_error"] == pytest.approx(by_hand)

    def test_a_calibrated_model_stays_under_what_chance_allows_and_a_stretched_one_does_not(self):
        right = [judge_reward_model(self.drawn(300, seed=s)) for s in range(20)]
        kept = [f["expected_calibration_error"] <= f["calibration_error_by_chance"] for f in right]
        assert sum(kept) >= 16
        sure = judge_reward_model(self.drawn(300, 4.0))
        assert sure["expected_calibration_error"] > sure["calibration_error_by_chance"]

    def test_the_error_that_small_bins_have_by_chance_is_no_warning(self, capsys):
        found = stage(self.drawn(60))
        require_good_reward_model(found, force=False)
        assert found["gate"]["expected_calibration_error"] > 0.1
        assert "how sure" not in capsys.readouterr().err
