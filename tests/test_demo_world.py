import statistics
import subprocess
import sys

import pytest

from kit.demo import world
from kit.demo.scoring import BEST
from kit.errors import DataError

LISTS = [world.prompts, world.rankings, world.preference_rows, world.demonstration_rows]


def asked(row):
    return row["prompt"][0]["content"]


class TestEveryList:
    @pytest.mark.parametrize("make", LISTS)
    def test_the_same_seed_gives_the_same_rows(self, make):
        assert make(3) == make(3)

    @pytest.mark.parametrize("make", LISTS)
    def test_another_seed_gives_other_rows(self, make):
        assert make(3) != make(4)

    def test_the_corpus_depends_on_its_seed_alone(self):
        assert world.corpus(0, 50) == world.corpus(0, 50) != world.corpus(1, 50)

    def test_another_process_gives_the_same_rows(self):
        code = "from kit.demo.world import preference_rows; print(preference_rows(0)[:20])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == str(world.preference_rows(0)[:20])

    def test_importing_the_world_loads_no_heavy_library(self):
        code = "import sys, kit.demo.world; print({'torch', 'transformers', 'numpy'} & sys.modules.keys())"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "set()"


class TestPrompts:
    def test_there_are_more_than_a_thousand_distinct_ones(self):
        assert len(set(world.prompts(0))) == len(world.prompts(0)) >= 1_000

    def test_the_seed_changes_the_order_only(self):
        assert world.prompts(0) != world.prompts(1)
        assert sorted(world.prompts(0)) == sorted(world.prompts(1))


class TestRankings:
    def test_every_row_ranks_four_to_nine_distinct_answers(self):
        sizes = {len(row["answers"]) for row in world.rankings(0)}
        assert sizes == {4, 5, 6, 7, 8, 9}
        assert all(len(set(row["answers"])) == len(row["answers"]) == len(row["ranks"]) for row in world.rankings(0))

    def test_ranks_count_from_one_without_gaps(self):
        assert all(set(row["ranks"]) == set(range(1, max(row["ranks"]) + 1)) for row in world.rankings(0))

    def test_some_prompts_are_ranked_by_two_different_people(self):
        people = [(row["prompt"], row["annotator"]) for row in world.rankings(0)]
        assert len(set(people)) == len(people) > len({prompt for prompt, _ in people}) + 50


class TestPreferenceRows:
    def test_there_are_a_few_thousand_pairs_over_many_prompts(self):
        rows = world.preference_rows(0)
        assert 2_000 <= len(rows) <= 4_000
        assert 600 <= len({asked(row) for row in rows}) <= 1_000

    def test_rows_are_conversations(self):
        row = world.preference_rows(0)[0]
        assert row.keys() == {"prompt", "chosen", "rejected"}
        assert [turn["role"] for side in row.values() for turn in side] == ["user", "assistant", "assistant"]

    def test_the_chosen_side_is_ranked_above_the_rejected_by_somebody(self):
        said = {}
        for row in world.rankings(0):
            said.setdefault(row["prompt"], []).append(dict(zip(row["answers"], row["ranks"], strict=True)))
        for row in world.preference_rows(0):
            chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
            assert any(ranks[chosen] < ranks[rejected] for ranks in said[asked(row)])

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_people_mostly_choose_the_truly_better_answer_and_not_always(self, seed):
        better = [
            world.truth_of_messages(row["prompt"], row["chosen"][0]["content"])
            > world.truth_of_messages(row["prompt"], row["rejected"][0]["content"])
            for row in world.preference_rows(seed)
        ]
        assert 0.80 <= statistics.mean(better) <= 0.95

    def test_imitating_the_chosen_side_leaves_room_to_improve(self):
        chosen = [world.truth_of_messages(r["prompt"], r["chosen"][0]["content"]) for r in world.preference_rows(0)]
        assert statistics.mean(chosen) < BEST - 1


class TestDemonstrationRows:
    def test_rows_are_conversations(self):
        row = world.demonstration_rows(0)[0]
        assert row.keys() == {"prompt", "completion"}
        assert [turn["role"] for side in row.values() for turn in side] == ["user", "assistant"]

    def test_they_are_far_from_the_best(self):
        rows = world.demonstration_rows(0)
        truths = [world.truth_of_messages(row["prompt"], row["completion"][0]["content"]) for row in rows]
        assert -0.5 < statistics.mean(truths) < BEST - 1


class TestConversations:
    question = "I need three sweet fruits."

    def test_a_conversation_that_ends_in_a_question_of_the_world_is_recognised(self):
        assert world.is_demo_prompt(
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": self.question}]
        )

    @pytest.mark.parametrize("last", [None, ("user", "How are you?"), ("assistant", "I need three sweet fruits.")])
    def test_others_are_not(self, last):
        assert not world.is_demo_prompt([{"role": last[0], "content": last[1]}] if last else [])

    def test_the_truth_of_a_conversation_is_that_of_its_last_question(self):
        messages = [{"role": "user", "content": self.question}]
        assert world.truth_of_messages(messages, "I would say plums, pears and grapes.") == 3.0

    def test_a_conversation_of_another_world_has_no_truth(self):
        with pytest.raises(DataError):
            world.truth_of_messages([{"role": "user", "content": "How are you?"}], "Fine.")
