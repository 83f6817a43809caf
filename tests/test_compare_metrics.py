"""metrics.json from answer sheets and verdicts that are made up: every number against what was put in."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.compare.answers import TEST, VALIDATION, Sheet, bound_nats
from kit.compare.judges.scores import judge_by_scores
from kit.compare.metrics import (
    Cost,
    best_steps,
    build_metrics,
    curves_of,
    head_to_heads,
    judge_agreement,
    name_of,
    pairs_to_judge,
)
from kit.compare.result import Answer
from kit.compare.verdicts import Verdicts

N = 24


def sheet(arm, part=TEST, step=None, seed=0, n=N, true=0.0, proxy=0.0, kl=0.0, tokens=10, ended=True) -> Sheet:
    """An arm's answers; each number is one for all prompts, or a list of one per prompt."""
    columns = [x if isinstance(x, list) else [x] * n for x in (true, proxy, kl, tokens, ended)]
    answers = [Answer("a", t, p, k, length, end, 0.5, t) for t, p, k, length, end in zip(*columns, strict=True)]
    return Sheet(arm, seed, step, part, f"{arm} {part} {step} {seed}", answers)


def scored(sheets, part=TEST, judge="truth") -> Verdicts:
    """A judge that scores, by the true reward."""
    scores = {name_of(s, 0): [a.true_reward for a in s.answers] for s in sheets if s.part == part}
    return judge_by_scores(judge, "somebody", scores, pairs_to_judge(sheets, part, 0), {"calls": 7})


def compared(outcomes) -> Verdicts:
    """A judge that compares: no scores."""
    return Verdicts("llm", "a model", outcomes)


def metrics(*sheets, **more):
    validation = scored(sheets, VALIDATION) if any(s.part == VALIDATION for s in sheets) else None
    found = build_metrics(sheets, scored(sheets), validation, 0, **more)
    json.dumps(found, allow_nan=False)
    return found


def three(sft=0.0, dpo=1.0, ppo=2.0):
    return sheet("sft", true=sft), sheet("dpo", true=dpo, kl=1.0), sheet("ppo", true=ppo, kl=2.0)


def curve(arm, *scores, last=1.0):
    """An arm's checkpoints on the validation prompts at steps 10, 20, …, and its last policy."""
    points = [sheet(arm, VALIDATION, 10 * at, true=score, kl=at) for at, score in enumerate(scores, 1)]
    return [*points, sheet(arm, VALIDATION, true=last, kl=len(scores) + 1.0)]


START = sheet("sft", VALIDATION)


class TestTheContract:
    def test_every_key_is_there(self):
        found = metrics(*three(), costs={"ppo": Cost(3.0, 5, 7, 9)})
        assert (found["judge"], found["prompts"], found["seed"], found["seeds"]) == ("truth", N, 0, [0])
        wanted = {"true_reward", "proxy_reward", "kl_nats", "response_tokens", "win_rate_vs_sft", "train_seconds",
                  "peak_bytes", "judge_score", "kl_bound_nats", "win_rate_vs_sft_length_controlled", "generated_tokens",
                  "trained_tokens", "ended_rate", "scored", "checkpoint", "best_checkpoint", "seed_spread"}  # fmt: skip
        assert list(found["arms"]) == ["sft", "dpo", "ppo"]
        assert all(set(arm) == wanted for arm in found["arms"].values())
        assert set(found["pairs"]["ppo_vs_dpo"]) == {
            "win_rate", "ci95", "tie_rate", "verdict", "prompts", "score_difference", "length_controlled",
            "prompts_needed", "seed_spread", "matched_kl",
        }  # fmt: skip

    def test_each_number_is_that_of_its_arm(self):
        values = [float(i) for i in range(N)]
        found = metrics(
            *three()[:2],
            sheet("ppo", true=2.0, proxy=values, kl=3.0, tokens=[8, 12] * (N // 2), ended=[True, True, False] * 8),
            costs={"ppo": Cost(3.0, 5, 7, 9)},
        )
        ppo = found["arms"]["ppo"]
        assert ppo["true_reward"] == ppo["judge_score"] == {"mean": 2.0, "ci95": [2.0, 2.0]}
        assert ppo["proxy_reward"]["mean"] == sum(values) / N
        low, high = ppo["proxy_reward"]["ci95"]
        assert 6 < low < ppo["proxy_reward"]["mean"] < high < 17
        assert (ppo["kl_nats"]["mean"], ppo["response_tokens"]["mean"]) == (3.0, 10.0)
        assert (ppo["ended_rate"], ppo["scored"]) == (pytest.approx(2 / 3), N)
        costs = ("train_seconds", "peak_bytes", "generated_tokens", "trained_tokens")
        assert [ppo[name] for name in costs] == [3.0, 5, 7, 9]
        assert [found["arms"]["dpo"][name] for name in costs] == [None] * 4

    def test_sft_wins_nothing_against_itself(self):
        assert metrics(*three())["arms"]["sft"]["win_rate_vs_sft"] is None

    def test_what_nobody_knows_is_null_and_never_nan(self):
        unknown = [sheet(arm, true=None, proxy=math.nan, kl=math.inf) for arm in ("sft", "dpo", "ppo")]
        found = metrics(*unknown)
        for arm in found["arms"].values():
            keys = ("true_reward", "proxy_reward", "judge_score", "kl_nats", "win_rate_vs_sft", "seed_spread")
            assert [arm[key] for key in keys] == [None] * 6 and arm["scored"] == 0
        assert found["pairs"] == {} and found["judge_facts"]["longer_wins"] is None

    def test_what_the_judge_says_of_itself_stands_beside_how_often_the_longer_answer_won(self):
        arms = [sheet("sft", tokens=10), sheet("dpo", true=1.0, tokens=20), sheet("ppo", true=2.0, tokens=30)]
        facts = metrics(*arms)["judge_facts"]
        assert (facts["description"], facts["calls"]) == ("somebody", 7)
        assert (facts["longer_wins"]["mean"], facts["longer_wins"]["n"]) == (1.0, N)


class TestArms:
    def test_ppo_alone_has_a_win_rate_against_sft_and_no_pair(self):
        found = metrics(*(s for s in three() if s.arm != "dpo"))
        assert found["arms"]["ppo"]["win_rate_vs_sft"]["mean"] == 1.0 and found["pairs"] == {}

    def test_only_controls_have_a_bound_of_their_kl(self):
        found = metrics(*three(), sheet("best_of_n", kl=None), sheet("longest_of_n", kl=None), best_of=4)["arms"]
        bounds = {name: arm["kl_bound_nats"] for name, arm in found.items()}
        assert bounds["best_of_n"] == bounds["longest_of_n"] == pytest.approx(math.log(4) - 3 / 4)
        assert [bounds[name] for name in ("sft", "dpo", "ppo")] == [None] * 3
        assert found["best_of_n"]["kl_nats"] is None

    def test_the_bound_is_that_of_the_exact_distribution_where_all_answers_differ(self):
        """KL of the best of n from the uniform distribution over m answers, which it nears from below."""
        n, m = 4, 2_000
        chances = [((i + 1) / m) ** n - (i / m) ** n for i in range(m)]
        exact = sum(chance * math.log(chance * m) for chance in chances)
        assert exact <= bound_nats(n) == pytest.approx(exact, abs=1e-3) and bound_nats(1) == 0


class TestWinRates:
    def test_are_the_mean_of_the_outcomes(self):
        wins = [1.0] * 12 + [0.5] * 6 + [0.0] * 4 + [None] * 2
        verdicts = compared({("ppo", "sft"): wins, ("dpo", "sft"): [1.0] * N, ("ppo", "dpo"): [0.0] * N})
        found = build_metrics(three(), verdicts, None, 0)
        assert found["arms"]["ppo"]["win_rate_vs_sft"]["mean"] == 15 / 22 and found["arms"]["ppo"]["scored"] == 22
        pair = found["pairs"]["ppo_vs_dpo"]
        assert (pair["win_rate"], pair["tie_rate"], pair["verdict"], pair["prompts"]) == (0.0, 0.0, "dpo", N)

    def test_of_a_pair_go_to_the_arm_that_is_named_first(self):
        pair = metrics(*three(ppo=3.0, dpo=1.0))["pairs"]["ppo_vs_dpo"]
        assert (pair["win_rate"], pair["verdict"], pair["score_difference"]["mean"]) == (1.0, "ppo", 2.0)

    @given(st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=N, max_size=N))
    @settings(max_examples=40)
    def test_name_a_winner_exactly_where_the_interval_leaves_out_a_half(self, outcomes):
        verdicts = compared({("ppo", "dpo"): outcomes})
        pair = build_metrics(three(), verdicts, None, 0)["pairs"].get("ppo_vs_dpo")
        if pair is None:
            assert set(outcomes) == {None}
            return
        low, high = pair["ci95"]
        assert pair["verdict"] == (
            "no difference" if low <= 0.5 <= high else "ppo" if pair["win_rate"] > 0.5 else "dpo"
        )
        assert low <= pair["win_rate"] <= high


class TestWhoMeetsWhom:
    def test_ppo_against_dpo_comes_first_then_what_was_trained_against_all_but_sft(self):
        arms = ["sft", "dpo", "ppo", "rloo", "best_of_n", "longest_of_n"]
        found = head_to_heads(arms)
        assert found[0] == ("ppo", "dpo")
        assert ("ppo", "best_of_n") in found and ("rloo", "dpo") in found and ("dpo", "longest_of_n") in found
        assert ("best_of_n", "longest_of_n") not in found and not [pair for pair in found if "sft" in pair]
        assert len({frozenset(pair) for pair in found}) == len(found) == 3 + 6

    def test_on_the_test_prompts_seeds_meet_their_like_and_controls_meet_every_seed(self):
        sheets = [sheet("sft"), sheet("best_of_n"), *(sheet(arm, seed=s) for arm in ("ppo", "dpo") for s in (0, 1))]
        found = pairs_to_judge(sheets, TEST, 0)
        heads = {("ppo", "dpo"), ("ppo@seed 1", "dpo@seed 1"), ("ppo", "best_of_n"), ("ppo@seed 1", "best_of_n"),
                 ("dpo", "best_of_n"), ("dpo@seed 1", "best_of_n")}  # fmt: skip
        against_sft = {(name, "sft") for name in ("ppo", "dpo", "ppo@seed 1", "dpo@seed 1", "best_of_n")}
        assert set(found) == heads | against_sft and len(found) == len(set(found))

    def test_on_the_validation_prompts_every_policy_meets_sft_and_no_other(self):
        sheets = [START, *curve("ppo", 1.0), *curve("dpo", 1.0)]
        found = pairs_to_judge(sheets, VALIDATION, 0)
        assert set(found) == {(name, "sft") for name in ("ppo", "ppo@step 10", "dpo", "dpo@step 10")}

    def test_pairs_of_metrics_are_named_so(self):
        found = metrics(*three(), sheet("best_of_n", kl=None))["pairs"]
        assert list(found) == ["ppo_vs_dpo", "ppo_vs_best_of_n", "dpo_vs_best_of_n"]


class TestSeveralSeeds:
    def seeds(self, first, second, **more):
        arms = [sheet(arm, seed=s, true=v) for arm, v in (("dpo", 0.5), ("ppo", first)) for s in (0,)]
        arms += [sheet("dpo", seed=1, true=0.5), sheet("ppo", seed=1, true=second)]
        return metrics(sheet("sft"), *arms, sheet("best_of_n", true=0.5), **more)

    def test_are_averaged_per_prompt_with_their_spread_apart(self):
        found = self.seeds(1.0, -1.0)
        ppo = found["arms"]["ppo"]
        assert found["seeds"] == [0, 1]
        assert ppo["true_reward"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
        assert ppo["win_rate_vs_sft"]["mean"] == 0.5
        spread = ppo["seed_spread"]
        assert spread["true_reward"] == {"values": [1.0, -1.0], "sd": pytest.approx(math.sqrt(2))}
        assert spread["win_rate_vs_sft"]["values"] == [1.0, 0.0]
        pair = found["pairs"]["ppo_vs_dpo"]
        assert (pair["win_rate"], pair["seed_spread"]["values"], pair["prompts"]) == (0.5, [1.0, 0.0], N)
        assert pair["score_difference"]["mean"] == -0.5

    def test_meet_a_control_that_has_one_sampling_only(self):
        found = self.seeds(1.0, 0.0)
        assert found["pairs"]["ppo_vs_best_of_n"]["seed_spread"]["values"] == [1.0, 0.0]
        assert found["arms"]["best_of_n"]["seed_spread"] is found["arms"]["sft"]["seed_spread"] is None

    def test_that_are_one_have_no_spread(self):
        found = metrics(*three())
        assert found["arms"]["ppo"]["seed_spread"] is found["pairs"]["ppo_vs_dpo"]["seed_spread"] is None

    def test_the_share_of_ended_answers_is_that_over_all_seeds(self):
        found = metrics(sheet("sft"), sheet("ppo"), sheet("ppo", seed=1, ended=False))
        assert found["arms"]["ppo"]["ended_rate"] == 0.5


class TestCurves:
    def test_begin_at_sft_and_end_with_the_last_policy_in_the_order_of_training(self):
        points = curve("ppo", 0.5, 2.0, last=1.0)
        random.Random(0).shuffle(points)
        found = metrics(*three(), START, *points)["curves"]
        assert list(found) == ["ppo"] and [p["step"] for p in found["ppo"]] == [0, 10, 20, None]
        assert [p["judge"]["mean"] for p in found["ppo"]] == [0.0, 0.5, 2.0, 1.0]
        assert [p["kl_nats"]["mean"] for p in found["ppo"]] == [0.0, 1.0, 2.0, 3.0]
        assert found["ppo"][0]["win_rate_vs_sft"] is None and found["ppo"][1]["win_rate_vs_sft"]["mean"] == 1.0

    def test_stand_on_the_validation_prompts_alone(self):
        found = metrics(*three(ppo=-99.0), START, *curve("ppo", 0.5))
        assert [p["judge"]["mean"] for p in found["curves"]["ppo"]] == [0.0, 0.5, 1.0]

    def test_of_a_judge_that_compares_are_win_rates_and_begin_at_a_half(self):
        sheets = [*three(), START, *curve("ppo", 0.0)]
        validation = compared({("ppo", "sft"): [1.0] * N, ("ppo@step 10", "sft"): [0.75] * N})
        found = build_metrics(sheets, compared({("ppo", "sft"): [1.0] * N}), validation, 0)
        assert [p["judge"]["mean"] for p in found["curves"]["ppo"]] == [0.5, 0.75, 1.0]
        assert found["curve_unit"] == "win rate against SFT"

    def test_tell_their_unit(self):
        sheets = [*three(), START, *curve("ppo", 1.0)]
        assert metrics(*sheets)["curve_unit"] == "true reward"
        held_out = [scored(sheets, part, "held_out") for part in (TEST, VALIDATION)]
        assert build_metrics(sheets, *held_out, 0)["curve_unit"] == "judge's score"

    def test_leave_out_repetitions(self):
        sheets = [START, *curve("ppo", 1.0), sheet("ppo", VALIDATION, 10, seed=1)]
        assert len(curves_of(sheets, scored(sheets, VALIDATION), 0)["ppo"]) == 3

    def test_are_none_where_nothing_was_judged_on_validation_prompts(self):
        found = build_metrics([*three(), START, *curve("ppo", 1.0)], scored(three()), None, 0)
        assert found["curves"] == {} and found["arms"]["ppo"]["best_checkpoint"] is None
        assert found["pairs"]["ppo_vs_dpo"]["matched_kl"] is None


class TestTheBestCheckpoint:
    def test_is_the_judges_choice_on_the_validation_prompts_whatever_the_test_prompts_say(self):
        for on_test in (-9.0, 9.0):
            found = metrics(*three(ppo=on_test), START, *curve("ppo", 0.5, 3.0, 1.0, last=2.0))
            best = found["arms"]["ppo"]["best_checkpoint"]
            assert (best["step"], best["validation_prompts"]) == (20, N)
            assert best["validation_win_rate"]["mean"] == 1.0

    def test_may_be_the_last_policy(self):
        found = metrics(*three(), START, *curve("ppo", 0.5, last=2.0))
        assert found["arms"]["ppo"]["best_checkpoint"]["step"] is None

    def test_is_never_sft_itself_and_of_equals_the_later(self):
        points = [{"step": s, "judge": {"mean": m}} for s, m in ((0, 9.0), (10, 1.0), (20, 1.0), (None, 0.0))]
        assert best_steps({"ppo": points}) == {"ppo": 20}

    def test_is_none_where_no_checkpoint_has_a_score(self):
        assert best_steps({"ppo": [{"step": 0, "judge": {"mean": 1}}, {"step": 10, "judge": None}]}) == {}

    def test_is_what_was_compared_only_where_it_could_be_chosen(self):
        found = metrics(*three(), START, *curve("ppo", 2.0), checkpoint="best")["arms"]
        assert {name: arm["checkpoint"] for name, arm in found.items()} == {"sft": "last", "dpo": "last", "ppo": "best"}


class TestMatchedKL:
    def test_compares_at_the_kl_that_both_arms_reached(self):
        sheets = [*three(), START, *curve("ppo", 1.0, 2.0, last=2.5), *curve("dpo", last=3.0)]
        found = metrics(*sheets)["pairs"]["ppo_vs_dpo"]["matched_kl"]
        assert (found["kl_nats"], found["unit"], found["verdict"]) == (1.0, "true reward", "dpo")
        assert found["difference"]["mean"] == pytest.approx(1.0 - 3.0)

    def test_is_null_where_an_arm_has_no_curve(self):
        found = metrics(*three(), sheet("best_of_n", kl=None), START, *curve("ppo", 1.0))["pairs"]
        assert found["ppo_vs_dpo"]["matched_kl"] is found["ppo_vs_best_of_n"]["matched_kl"] is None


class TestLengthControl:
    def test_on_few_prompts_is_withheld_and_says_why(self):
        found = metrics(*three())
        assert found["arms"]["ppo"]["win_rate_vs_sft_length_controlled"] is None
        assert found["pairs"]["ppo_vs_dpo"]["length_controlled"] is None
        assert found["length_control"]["withheld"].startswith(f"only {N} prompts have a verdict")

    def test_that_is_withheld_of_some_pairs_says_of_which(self):
        rng, n = random.Random(0), 60
        quality = [rng.gauss(0, 1) for _ in range(n)]
        tokens = [[rng.randint(15, 25) for _ in range(n)] for _ in range(3)]
        scores = {"sft": [0.0] * n, "dpo": quality, "ppo": [99.0] * n}  # ppo wins always, so its rate cannot be told
        arms = [sheet(arm, n=n, true=x, tokens=y) for (arm, x), y in zip(scores.items(), tokens, strict=True)]
        found = metrics(*arms)
        assert found["length_control"]["withheld"].startswith("ppo against sft, ppo against dpo: one arm won nearly")
        assert found["arms"]["ppo"]["win_rate_vs_sft_length_controlled"] is None
        assert found["arms"]["dpo"]["win_rate_vs_sft_length_controlled"] is not None

    def test_takes_a_taste_for_length_out_of_the_win_rates(self):
        rng, n, arms = random.Random(0), 300, []
        for arm, longer in (("sft", 0), ("dpo", 1), ("ppo", 3)):
            tokens = [max(1, round(rng.gauss(20 + longer, 5))) for _ in range(n)]
            arms.append(sheet(arm, n=n, tokens=tokens, true=[x + rng.gauss(0, 4) for x in tokens]))
        found = metrics(*arms)
        ppo, control = found["arms"]["ppo"], found["length_control"]
        assert ppo["win_rate_vs_sft"]["ci95"][0] > 0.5
        low, high = ppo["win_rate_vs_sft_length_controlled"]["ci95"]
        assert low <= 0.5 <= high
        assert control["withheld"] is None and control["phi"] > 0 and 0 < control["near_equal_share"] < 1
        pair = found["pairs"]["ppo_vs_dpo"]
        assert pair["length_controlled"]["win_rate"] < pair["win_rate"]


class TestJudgeAgreement:
    def agreement(self, outcomes, ppo, sft=None):
        return judge_agreement(compared({("ppo", "sft"): outcomes}), {"ppo": ppo, "sft": sft or [0.0] * len(ppo)})

    def test_is_how_often_the_proxy_prefers_what_the_judge_preferred(self):
        assert self.agreement([1.0, 1.0, 0.0, 0.0], [5.0, -5.0, -5.0, -5.0])["mean"] == 0.75

    def test_counts_equal_scores_half_and_ties_and_unknowns_not_at_all(self):
        found = self.agreement([1.0, 0.5, None, 0.0], [0.0, 5.0, 5.0, None])
        assert (found["mean"], found["n"]) == (0.5, 1)

    def test_is_none_where_nothing_was_decided(self):
        assert self.agreement([0.5, None], [1.0, 1.0]) is None
