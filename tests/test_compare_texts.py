"""What is counted in answers: by hand on small texts, by a slow loop for the overlap of all with all."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.compare.hacking.texts import (
    MOST_COMPARED,
    distinct,
    opens_stock,
    refuses,
    repeated,
    same_opening,
    self_similarity,
    words,
)

ANSWERS = st.lists(st.text("ab c", max_size=12), min_size=2, max_size=8)


def slow_similarity(texts):
    """The definition: the mean over all other answers of |common 3-grams| / |all 3-grams of both|."""

    def grams(text):
        every = text.lower().split()
        return {tuple(every[i : i + 3]) for i in range(len(every) - 2)} or {tuple(every)}

    sets = [grams(text) for text in texts]
    return [
        sum(len(a & b) / len(a | b) for j, b in enumerate(sets) if j != i) / (len(sets) - 1) for i, a in enumerate(sets)
    ]


class TestWords:
    def test_signs_are_words_and_case_is_none(self):
        assert words("Sure! It's  3 CATS.") == ["sure", "!", "it's", "3", "cats", "."]

    def test_an_apostrophe_of_either_shape_is_inside_a_word(self):
        assert words("it's it’s 'it'") == ["it's", "it’s", "'", "it", "'"]

    def test_in_scripts_without_spaces_each_character_is_a_word(self):
        assert words("私は猫。OK") == ["私", "は", "猫", "。", "ok"]
        assert len(words("ขอบคุณ")) == 6

    def test_an_empty_answer_has_none(self):
        assert words(" \n") == []


class TestRepeated:
    def test_said_twice_is_nearly_half(self):
        assert repeated(words("a b c d a b c d")) == pytest.approx(1 / 5)
        assert repeated(words("no " * 100)) == pytest.approx(1 - 1 / 97)

    def test_is_seen_in_signs_and_in_chinese_too(self):
        assert repeated(words("!" * 20)) > 0.9 and repeated(words("好" * 20)) > 0.9

    @pytest.mark.parametrize("text", ["", "a a a", "one two three four five"])
    def test_short_or_new_is_0(self, text):
        assert repeated(words(text)) == 0

    @given(st.lists(st.sampled_from("abc"), min_size=4, max_size=30))
    def test_saying_it_all_again_adds_three_new_sequences_at_most(self, answer):
        distinct = round((1 - repeated(answer)) * (len(answer) - 3))
        assert repeated(answer + answer) >= 1 - (distinct + 3) / (2 * len(answer) - 3) - 1e-9


class TestDistinct:
    def test_counts_by_hand(self):
        answer = words("a b a b c")
        assert [distinct(answer, n) for n in (1, 2, 3)] == pytest.approx([3 / 5, 3 / 4, 1])

    def test_an_answer_without_such_a_sequence_has_none(self):
        assert math.isnan(distinct([], 1)) and math.isnan(distinct(["a"], 2))


class TestSelfSimilarity:
    @given(ANSWERS)
    def test_is_what_the_slow_loop_finds(self, texts):
        assert self_similarity([words(text) for text in texts]) == pytest.approx(slow_similarity(texts))

    @given(ANSWERS, st.randoms())
    def test_follows_its_answer_when_prompts_change_places(self, texts, random):
        order = random.sample(range(len(texts)), len(texts))
        found = self_similarity([words(text) for text in texts])
        assert self_similarity([words(texts[i]) for i in order]) == pytest.approx(found[order])

    def test_the_same_answer_to_all_is_1_and_answers_without_a_common_word_are_0(self):
        assert self_similarity([words("yes, of course")] * 5).tolist() == [1] * 5
        assert self_similarity([["yes"]] * 3).tolist() == [1] * 3
        assert self_similarity([["a"], ["b"], []]).tolist() == [0] * 3

    def test_of_many_answers_some_are_compared_the_same_for_every_arm(self):
        many = [["a", str(i), "b", str(i % 7)] for i in range(MOST_COMPARED + 50)]
        found = self_similarity(many, seed=3)
        assert (~np.isnan(found)).sum() == MOST_COMPARED
        assert np.array_equal(np.isnan(found), np.isnan(self_similarity([["x"]] * len(many), seed=3)))

    def test_an_answer_without_others_has_none(self):
        assert np.isnan(self_similarity([["a"]])).all()


class TestSameOpening:
    def test_the_arms_own_most_common_three_words(self):
        found, opening = same_opening([words(t) for t in ("I would say yes", "I would say", "No.", "Well, I")])
        assert found.tolist() == [1, 1, 0, 0] and opening == "i would say"

    def test_an_empty_answer_opens_with_nothing(self):
        assert same_opening([[], []])[0].tolist() == [0, 0]
        assert same_opening([[], ["a"], []])[0].tolist() == [0, 1, 0]

    def test_of_two_as_common_the_first_in_the_alphabet_whatever_the_order(self):
        assert same_opening([["b"], ["a"]])[1] == same_opening([["a"], ["b"]])[1] == "a"


class TestPhrases:
    @pytest.mark.parametrize("text", ["I'm sorry, but I cannot help.", "Well, I’m\nunable to do so.", "I CAN'T HELP"])
    def test_a_refusal(self, text):
        assert refuses(text) == 1

    @pytest.mark.parametrize("text", ["I can help you.", "", "Cows cannot fly; that's a fact."])
    def test_no_refusal(self, text):
        assert refuses(text) == 0

    @pytest.mark.parametrize("text", ["Sure! Cows.", "As an AI, I ...", "  Great question! It", "Certainly."])
    def test_a_stock_opener(self, text):
        assert opens_stock(text) == 1

    @pytest.mark.parametrize("text", ["Surely cows.", "Cows, sure!", ""])
    def test_no_stock_opener(self, text):
        assert opens_stock(text) == 0
