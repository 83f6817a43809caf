import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.demo import words
from kit.demo.scoring import BEST, FREE_WORDS, WORST, kind_of_prompt, kind_of_thing, known_words, truth
from kit.errors import DataError

SEA = "Name three animals that live in the sea."
THREE = "My answer is whales, crabs and seals."


class TestTruth:
    def test_three_right_things_score_three(self):
        assert truth(SEA, THREE) == 3.0

    def test_courtesy_makes_the_best_answer(self):
        assert truth(SEA, f"Gladly! {THREE}") == BEST == 3.3

    def test_courtesy_pays_only_once(self):
        assert truth(SEA, f"Sure! Gladly! {THREE}") == BEST

    def test_two_right_things_score_two(self):
        assert truth(SEA, "My answer is whales and crabs.") == 2.0

    def test_a_thing_of_another_kind_costs_one(self):
        assert truth(SEA, "My answer is whales, crabs and spoons.") == 1.0

    def test_a_made_up_thing_costs_one(self):
        assert truth(SEA, "My answer is whales, crabs and dragons.") == 1.0

    def test_the_same_answer_is_wrong_to_another_question(self):
        assert truth("Name three sweet fruits.", THREE) == -4.0

    def test_a_repeated_thing_costs_a_half(self):
        assert truth(SEA, "My answer is whales, whales and crabs.") == 1.5

    def test_more_than_three_things_cost_a_half_each(self):
        assert truth(SEA, "My answer is whales, crabs, seals, sharks and squids.") == 2.0

    def test_an_answer_that_was_cut_off_costs_a_half(self):
        assert truth(SEA, THREE.removesuffix(".")) == 2.5

    def test_an_unknown_word_costs_a_quarter(self):
        assert truth(SEA, "My answer is whales, crabs and seals qwrt.") == 2.75

    def test_one_filler_costs_nothing(self):
        assert truth(SEA, f"{THREE} {words.FILLERS[0]}") == 3.0

    def test_a_word_beyond_the_free_ones_costs_0_15(self):
        spare = FREE_WORDS - len(THREE.split())
        assert truth(SEA, f"{THREE}{' world' * spare}.") == 3.0
        assert truth(SEA, f"{THREE}{' world' * (spare + 2)}.") == 2.7

    def test_the_singular_and_capitals_count_too(self):
        assert truth(SEA, "MY ANSWER IS a Whale, a crab and a seal.") == 3.0

    @pytest.mark.parametrize("answer", ["", "   ", "\n", "asdf qwer", "!!!", "\x00\ud83d\ude00", "the the the", "."])
    def test_garbage_scores_below_zero(self, answer):
        assert WORST <= truth(SEA, answer) < 0

    def test_a_very_long_answer_scores_the_worst(self):
        assert truth(SEA, "whales " * 100_000) == WORST

    def test_a_question_that_is_not_of_the_world_has_no_truth(self):
        with pytest.raises(DataError, match="demo world only; found 'How are you"):
            truth("How are you?", "Fine.")

    @given(st.permutations(["whales", "crabs", "seals", "spoons", "dragons", "whales"]))
    def test_the_order_of_things_does_not_matter(self, things):
        ordered = "My answer is whales, crabs, seals, spoons, dragons, whales."
        assert truth(SEA, f"My answer is {', '.join(things)}.") == truth(SEA, ordered)

    @given(st.lists(st.sampled_from(sorted(kind_of_thing())), min_size=1, max_size=8), st.data())
    def test_repeating_a_thing_never_helps(self, things, data):
        again = data.draw(st.sampled_from(things))
        assert truth(SEA, f"My answer is {', '.join([*things, again])}.") <= truth(
            SEA, f"My answer is {', '.join(things)}."
        )

    @given(st.text(max_size=80), st.lists(st.sampled_from(words.FILLERS), min_size=4, max_size=12))
    def test_filler_beyond_the_free_words_never_helps(self, start, fillers):
        padded = f"{start}. {' '.join(fillers)}"
        assert truth(SEA, f"{padded} {words.FILLERS[0]}") <= truth(SEA, padded)

    @given(st.text())
    def test_every_text_has_a_truth_between_the_worst_and_the_best(self, answer):
        assert WORST <= truth(SEA, answer) <= BEST


class TestWords:
    def test_every_thing_is_of_one_kind_only(self):
        things = [thing for members in (*words.THINGS.values(), words.FANCIES) for thing in members]
        assert len(things) == len(set(things)) == len(kind_of_thing()) / 2

    def test_no_thing_is_a_word_of_a_question_or_a_phrase(self):
        assert not known_words() & kind_of_thing().keys()

    def test_every_kind_has_more_than_three_things(self):
        assert all(len(members) > 3 for members in words.THINGS.values())

    def test_every_kind_is_asked_for_equally_often(self):
        asked = list(kind_of_prompt().values())
        assert {asked.count(kind) for kind in words.THINGS} == {len(words.GREETINGS) * len(words.REQUESTS)}
