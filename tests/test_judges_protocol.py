"""Judges that score, judges that compare in both orders, functions of the user's, and what gives a bad judge away."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.compare.judges.bias import cautions, exact_interval, longer_wins, rate_over_prompts
from kit.compare.judges.functions import check_function, judge_by_function
from kit.compare.judges.pairwise import judge_in_both_orders
from kit.compare.judges.scores import judge_by_scores
from kit.errors import ConfigError

PAIR = ("ppo", "dpo")
PROMPTS = [[{"role": "user", "content": f"question {i}"}] for i in range(60)]
# Half of ppo's answers are the longer ones, so that length, slot and quality are three different things.
ANSWERS = {
    "ppo": [f"good answer {i}" + " and more of it" * (i % 2) for i in range(60)],
    "dpo": [f"bad answer {i}" + " and more of it" * (1 - i % 2) for i in range(60)],
}
LENGTHS = {arm: [len(text) for text in texts] for arm, texts in ANSWERS.items()}


def judged(judge, prompts=PROMPTS, answers=ANSWERS, pairs=(PAIR,)):
    return judge_by_function(judge, prompts, answers, pairs)


def always_first(prompt, first, second):
    return "first"


def always_longer(prompt, first, second):
    return float(len(first) > len(second)) if len(first) != len(second) else 0.5


def quality(prompt, first, second):
    return "A" if first.startswith("good") else "B"


class TestScores:
    def test_the_higher_score_wins_and_equal_ones_tie(self):
        verdicts = judge_by_scores("truth", "", {"ppo": [1, 2, 0.1 + 0.2], "dpo": [2, 1, 0.3]}, [PAIR])
        assert verdicts.outcomes[PAIR] == [0, 1, 0.5]

    @pytest.mark.parametrize("missing", [None, math.nan, math.inf])
    def test_a_missing_score_leaves_no_outcome(self, missing):
        verdicts = judge_by_scores("truth", "", {"ppo": [missing, 1], "dpo": [0, 0]}, [PAIR])
        assert verdicts.outcomes[PAIR] == [None, 1]
        assert verdicts.scores["ppo"] == [None, 1]
        assert verdicts.facts["valid_prompts"] == 1

    def test_arms_of_different_length_are_refused(self):
        with pytest.raises(ValueError):
            judge_by_scores("truth", "", {"ppo": [1, 2], "dpo": [1]}, [PAIR])

    @given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1))
    def test_swapping_the_arms_turns_every_outcome_round(self, scores):
        a, b = (list(column) for column in zip(*scores, strict=True))
        verdicts = judge_by_scores("f", "", {"a": a, "b": b}, [("a", "b"), ("b", "a")])
        assert verdicts.outcomes["a", "b"] == [1 - outcome for outcome in verdicts.outcomes["b", "a"]]


def by_table(table, answers, pairs=(PAIR,)):
    """The protocol with verdicts looked up by (first, second)."""
    prompts = [[{"role": "user", "content": "q"}]] * len(answers["ppo"])
    return judge_in_both_orders(
        "table", "", prompts, answers, pairs, lambda questions: [table[q.first, q.second] for q in questions]
    )


class TestBothOrders:
    @pytest.mark.parametrize(
        "one, other, outcome",
        [
            (1, 0, 1), (0, 1, 0), (0.5, 0.5, 0.5),  # the orders agree
            (1, 1, 0.5), (0, 0, 0.5), (1, 0.5, 0.5), (0.5, 0, 0.5),  # they do not
            (1, None, None), (None, 0, None), (None, None, None),  # an invalid verdict is never a win
        ],
    )  # fmt: skip
    def test_make_an_outcome(self, one, other, outcome):
        verdicts = by_table({("x", "y"): one, ("y", "x"): other}, {"ppo": ["x"], "dpo": ["y"]})
        assert verdicts.outcomes[PAIR] == [outcome]
        assert verdicts.facts["invalid"] == [one, other].count(None)

    def test_identical_answers_tie_without_a_question(self):
        verdicts = by_table({}, {"ppo": ["x", "y"], "dpo": ["x", "y"]})
        assert verdicts.outcomes[PAIR] == [0.5, 0.5]
        assert verdicts.facts["calls"] == 0

    def test_the_same_question_is_asked_once_for_all_arms(self):
        answers = {"ppo": ["x"], "dpo": ["y"], "best_of_n": ["x"]}
        verdicts = by_table({("x", "y"): 1, ("y", "x"): 0}, answers, [PAIR, ("best_of_n", "dpo"), ("dpo", "ppo")])
        assert verdicts.facts["calls"] == 2
        assert [verdicts.outcomes[pair] for pair in [PAIR, ("best_of_n", "dpo"), ("dpo", "ppo")]] == [[1], [1], [0]]

    def test_consistency_is_the_share_of_pairs_judged_alike(self):
        answers = {"ppo": ["a", "b", "c", "d"], "dpo": ["w", "x", "y", "z"]}
        table = {("a", "w"): 1, ("w", "a"): 0, ("b", "x"): 1, ("x", "b"): 1, ("c", "y"): 0.5, ("y", "c"): 0.5,
                 ("d", "z"): 1, ("z", "d"): None}  # fmt: skip
        assert by_table(table, answers).facts["consistency"] == pytest.approx(2 / 3)

    def test_the_first_slots_rate_counts_decisions_alone(self):
        answers = {"ppo": ["a", "b"], "dpo": ["x", "y"]}
        table = {("a", "x"): 1, ("x", "a"): 1, ("b", "y"): 0.5, ("y", "b"): 0.5}
        assert by_table(table, answers).facts["first_slot_rate"] == 1

    def test_wrong_numbers_of_answers_are_refused(self):
        with pytest.raises(ValueError, match="'ppo' has 1 answers to 60 prompts"):
            judged(quality, answers={"ppo": ["x"], "dpo": ["y"]})


class TestABadJudgeIsExposed:
    def test_one_that_always_takes_the_first(self):
        verdicts = judged(always_first)
        assert set(verdicts.outcomes[PAIR]) == {0.5}  # it decides nothing
        assert verdicts.facts["consistency"] == 0
        assert verdicts.facts["first_slot_ci95"][0] > 0.9
        found = " ".join(cautions(verdicts.facts))
        assert "takes the answer shown first on 100 %" in found
        assert "keeps its verdict on only 0 %" in found

    def test_one_that_always_takes_the_second(self):
        found = " ".join(cautions(judged(lambda prompt, first, second: "second").facts))
        assert "takes the answer shown second on 100 %" in found

    def test_one_that_leans_to_the_first(self):
        coin = np.random.default_rng(0)

        def leaning(prompt, first, second):
            return 1 if coin.random() < 0.5 else quality(prompt, first, second)

        facts = judged(leaning).facts
        assert any("shown first" in text for text in cautions(facts))

    def test_one_that_always_takes_the_longer(self):
        verdicts = judged(always_longer)
        assert verdicts.facts["consistency"] == 1  # order cannot expose it
        longer = longer_wins(verdicts.outcomes, LENGTHS)
        assert longer["mean"] == 1
        assert any("“the longer answer wins” on 100 % of 60 prompts" in text for text in
                   cautions({**verdicts.facts, "longer_wins": longer}))  # fmt: skip

    def test_one_that_scores_by_length(self):
        verdicts = judged(lambda prompt, answer: len(answer))
        facts = {**verdicts.facts, "longer_wins": longer_wins(verdicts.outcomes, LENGTHS)}
        assert any("“the longer answer wins”" in text for text in cautions(facts))

    def test_one_that_always_takes_the_shorter(self):
        verdicts = judged(lambda prompt, answer: -len(answer))
        facts = {**verdicts.facts, "longer_wins": longer_wins(verdicts.outcomes, LENGTHS)}
        assert any("“the shorter answer wins” on 100 %" in text for text in cautions(facts))

    def test_one_that_says_tie_to_all(self):
        assert any("100 % of the verdicts are ties" in text for text in cautions(judged(lambda p, a, b: "tie").facts))

    def test_a_fair_judge_has_no_cautions(self):
        verdicts = judged(quality)
        assert verdicts.outcomes[PAIR] == [1] * 60
        assert verdicts.facts["first_slot_rate"] == 0.5
        longer = longer_wins(verdicts.outcomes, LENGTHS)
        accuracy = {"mean": 0.8, "ci95": [0.7, 0.88], "pairs": 90}
        assert cautions({**verdicts.facts, "longer_wins": longer, "accuracy": accuracy}) == []

    def test_a_held_out_reward_model_near_chance(self):
        (found,) = cautions({"accuracy": {"mean": 0.55, "ci95": [0.46, 0.64], "pairs": 120}})
        assert "55 % of 120 held-out pairs" in found and "coin" in found

    def test_a_held_out_reward_model_below_chance(self):
        assert cautions({"accuracy": {"mean": 0.3, "ci95": [0.2, 0.4], "pairs": 120}})

    def test_many_invalid_replies_and_few_prompts_left(self):
        found = cautions({"calls": 120, "invalid": 40, "valid_prompts": 30, "prompts": 60})
        assert "40 of this judge's 120 replies (33 %)" in found[0]
        assert "Only 30 of 60 prompts" in found[1]

    def test_people_who_disagree_and_votes_that_are_stale(self):
        found = " ".join(cautions({"agreement": 0.5, "stale": 3}))
        assert "agree on 50 %" in found and "3 votes" in found

    def test_nothing_known_gives_no_caution(self):
        assert cautions({}) == []


class TestTheInterval:
    def test_is_clopper_and_pearsons(self):
        # R: binom.test(7, 10)$conf.int
        assert exact_interval(7, 10) == pytest.approx([0.3475471, 0.9332605], abs=1e-6)

    def test_reaches_the_ends(self):
        assert exact_interval(0, 5)[0] == 0 and exact_interval(5, 5)[1] == 1

    def test_counts_a_prompt_once_however_many_pairs_it_was_asked_for(self):
        one, many = rate_over_prompts([[1.0]] * 20), rate_over_prompts([[1.0] * 6] * 20)
        assert one == many

    def test_is_none_where_nothing_is_known(self):
        assert rate_over_prompts([]) is None and rate_over_prompts([[None]]) is None

    def test_of_longer_wins_leaves_out_ties_and_equal_lengths(self):
        found = longer_wins({PAIR: [1, 0, 0.5, 1, None]}, {"ppo": [2, 2, 2, 1, 2], "dpo": [1, 1, 1, 1, 1]})
        assert (found["mean"], found["n"]) == (0.5, 2)


class TestAFunctionAsTheJudge:
    def test_with_two_parameters_scores(self):
        verdicts = judged(lambda prompt, answer: np.float32(answer.startswith("good")))
        assert verdicts.outcomes[PAIR] == [1] * 60
        assert verdicts.scores["ppo"] == [1] * 60

    def test_with_three_parameters_compares(self):
        verdicts = judged(quality)
        assert verdicts.scores is None
        assert verdicts.facts["calls"] == 120

    @pytest.mark.parametrize(
        "function, kind",
        [
            (lambda prompt, answer, strict=False: 1, "scores"),
            (lambda prompt, first, second=None: 1, "compares"),
            (lambda *texts: 1, "scores"),
            (max, "scores"),
        ],
    )
    def test_is_recognised_by_its_parameters(self, function, kind):
        if function is max:
            function = type("Judge", (), {"__call__": lambda self, prompt, answer: 1})()
        assert check_function(function) == kind

    @pytest.mark.parametrize("function", [lambda: 1, lambda prompt: 1, lambda a, b, c, d: 1])
    def test_with_other_parameters_is_refused(self, function):
        with pytest.raises(ConfigError, match=r"wanted judge\(prompt, answer\), which scores"):
            check_function(function)

    def test_that_is_async_is_refused(self):
        async def judge(prompt, answer):
            return 1

        with pytest.raises(ConfigError, match="async"):
            check_function(judge)

    def test_that_ends_the_process_is_a_failure_and_no_success(self):
        def judge(prompt, answer):
            raise SystemExit(0)

        with pytest.raises(ConfigError, match="failed on prompt 1: SystemExit"):
            judged(judge)

    def test_that_returns_more_than_a_float_holds_gives_no_score(self):
        with pytest.raises(ConfigError, match="gave no answer a score"):
            judged(lambda prompt, answer: 10**400)

    def test_is_found_in_a_file(self, tmp_path):
        (tmp_path / "mine.py").write_text("def judge(prompt, answer):\n    return len(prompt[0]['content'] + answer)\n")
        verdicts = judged(f"{tmp_path}/mine.py:judge")
        assert verdicts.judge == "mine.py:judge"
        assert verdicts.scores["ppo"][0] == len("question 0good answer 0")

    def test_is_found_in_a_module(self):
        with pytest.raises(ConfigError, match=r"compare\.judge operator:concat failed on prompt 1: TypeError"):
            judged("operator:concat")

    @pytest.mark.parametrize(
        "spec, says",
        [
            ("gone.py:judge", "compare.judge gone.py:judge: no file gone.py"),
            ("json:judge", "json has no function judge"),
            ("nothing_of_this_name:judge", "importing nothing_of_this_name failed"),
            ("judge", "wanted file.py:name or package.module:name"),
        ],
    )
    def test_that_is_not_there_is_named(self, spec, says):
        with pytest.raises(ConfigError, match=says):
            judged(spec)

    def test_that_fails_is_named_with_its_prompt(self):
        def judge(prompt, answer):
            return 1 / (0 if prompt[0]["content"] == "question 2" else 1)

        with pytest.raises(ConfigError, match=r"compare\.judge judge failed on prompt 3: ZeroDivisionError"):
            judged(judge)

    @pytest.mark.parametrize("value, verdict", [
        (1, 1), (0, 0), (0.5, 0.5), ("first", 1), ("SECOND ", 0), ("tie", 0.5), ("A", 1), ("b", 0), (True, 1),
        (np.int64(0), 0), (0.7, None), (-1, None), ("the first", None), (None, None), ([1, 0], None), (math.nan, None),
    ])  # fmt: skip
    def test_that_compares_may_return(self, value, verdict):
        def judge(prompt, first, second):
            return value if first == "x" else 0.5

        verdicts = judged(judge, PROMPTS[:1], {"ppo": ["x"], "dpo": ["y"]})
        assert verdicts.facts["invalid"] == (verdict is None)
        assert verdicts.outcomes[PAIR] == [None if verdict is None else 0.5]

    def test_that_scores_has_its_wrong_values_counted(self):
        values = iter([1, "2", None, math.nan, [3], 0])
        verdicts = judged(lambda prompt, answer: next(values), PROMPTS[:3], {"ppo": ["a"] * 3, "dpo": ["b"] * 3})
        assert verdicts.scores == {"ppo": [1, None, None], "dpo": [None, None, 0]}
        assert (verdicts.facts["calls"], verdicts.facts["invalid"]) == (6, 3)  # None says "cannot tell" and is right

    @pytest.mark.parametrize("judge", [lambda prompt, answer: "good", lambda prompt, first, second: "the first"])
    def test_whose_every_value_is_wrong_is_refused(self, judge):
        with pytest.raises(ConfigError, match=r"returned '(good|the first)', wanted"):
            judged(judge)

    def test_cannot_change_the_prompts(self):
        def judge(prompt, answer):
            prompt[0]["content"] = "changed"
            prompt.append("more")
            return 1

        judged(judge)
        assert PROMPTS[0] == [{"role": "user", "content": "question 0"}]
