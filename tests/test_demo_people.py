import itertools
import random
import statistics
from collections import defaultdict

import pytest

from kit.demo import words
from kit.demo.people import ANNOTATORS, INDIFFERENT, Annotator, rank, write_answer
from kit.demo.scoring import kind_of_prompt, kind_of_thing, known_words, truth, words_of
from kit.demo.world import prompts, rankings

SEA = "Name three animals that live in the sea."
GOOD, FAIR, BAD = (f"My answer is {things}." for things in ("whales, crabs and seals", "whales and crabs", "dragons"))
EXACT = Annotator("exact", noise=0.0)


def agreement(seed):
    """The share of pairs on which two people who ranked the same answers agree, where both see a difference."""
    by_prompt = defaultdict(list)
    for row in rankings(seed):
        by_prompt[row["prompt"]].append(row["ranks"])
    products = [
        (first[i] - first[j]) * (second[i] - second[j])
        for of_prompt in by_prompt.values()
        for first, second in itertools.combinations(of_prompt, 2)
        for i, j in itertools.combinations(range(len(first)), 2)
    ]
    seen = [product for product in products if product]
    return sum(product > 0 for product in seen) / len(seen), len(seen)


class TestAnnotators:
    def test_a_person_without_noise_or_taste_ranks_by_the_truth(self):
        assert rank(SEA, [FAIR, BAD, GOOD], EXACT, random.Random(0)) == [2, 3, 1]

    def test_answers_that_feel_the_same_share_a_rank(self):
        assert rank(SEA, [GOOD, "I would say seals, crabs and whales.", BAD], EXACT, random.Random(0)) == [1, 1, 2]

    def test_one_who_likes_length_prefers_filler_to_a_right_answer(self):
        padded = f"{FAIR} {' '.join(words.FILLERS)}"
        fond = Annotator("fond of length", noise=0.0, per_word=0.12)
        assert truth(SEA, padded) < truth(SEA, GOOD)
        assert rank(SEA, [GOOD, padded], fond, random.Random(0)) == [2, 1]

    def test_nobody_feels_what_padding_costs(self):
        assert EXACT.impression(SEA, f"{GOOD} {' '.join(words.FILLERS * 3)}", random.Random(0)) == pytest.approx(3.0)

    def test_people_have_names_of_their_own(self):
        assert len({annotator.name for annotator in ANNOTATORS}) == len(ANNOTATORS)

    def test_on_the_whole_people_like_length(self):
        assert statistics.mean(annotator.per_word for annotator in ANNOTATORS) > 0.02


class TestAgreement:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_two_people_agree_on_about_four_pairs_in_five(self, seed):
        share, pairs = agreement(seed)
        assert pairs > 1_000
        assert 0.70 <= share <= 0.85

    def test_few_answers_share_a_rank(self):
        ties = [a == b for row in rankings(0) for a, b in itertools.combinations(row["ranks"], 2)]
        assert statistics.mean(ties) < 0.1
        assert INDIFFERENT > 0


class TestWriters:
    def test_a_skilled_writer_is_better_and_nobody_is_perfect(self):
        means = {}
        for skill in (0.0, 0.5, 1.0):
            rng = random.Random(0)
            means[skill] = statistics.mean(truth(p, write_answer(p, rng, skill)) for p in prompts(0)[:500])
        assert means[0.0] + 1 < means[0.5] < means[1.0] - 1
        assert means[1.0] < 3.2

    def test_answers_are_short_enough_for_a_tiny_model(self):
        rng = random.Random(0)
        lengths = [len(words_of(write_answer(p, rng, rng.random()))) for p in prompts(0)[:500]]
        assert max(lengths) <= 50
        assert 8 <= statistics.mean(lengths) <= 25

    def test_every_word_of_a_whole_answer_is_of_the_world(self):
        known = known_words() | kind_of_thing().keys()
        rng = random.Random(0)
        for prompt in list(kind_of_prompt())[:200]:
            assert set(words_of(write_answer(prompt, rng, 0.5))) <= known
