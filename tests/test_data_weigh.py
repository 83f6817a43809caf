"""Every prompt weighs the same whatever its number of answers; sources are mixed by weight."""

import json
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.config import DataSettings
from kit.data import Pair, load_data, prompt_key
from kit.data.kept import Kept
from kit.data.weigh import balance_prompts, resample, shares
from kit.errors import DataError


def ranked(prompt: str, k: int) -> list[Pair]:
    """All ordered pairs of k answers to a prompt."""
    turns = [{"role": "user", "content": prompt}]
    return [Pair(turns, f"{better}", f"{worse}", prompt) for better, worse in combinations(range(k), 2)]


def by_prompt(pairs) -> Counter:
    return Counter(prompt_key(pair.prompt) for pair in pairs)


def rankings(*sizes):
    return [
        {"prompt": f"Question {n}?", "responses": [f"{n} answer {k}" for k in range(size)], "ranks": list(range(size))}
        for n, size in enumerate(sizes)
    ]


SIZES = [2 + n % 8 for n in range(60)]


def load(seed=0, **settings):
    return load_data(DataSettings(**{"eval_fraction": 0.2, **settings}), seed)


def kept(pairs):
    return Kept().add(pairs, Pair)


class TestBalancePrompts:
    @given(st.lists(st.integers(2, 9), min_size=1, max_size=12))
    def test_every_prompt_gives_the_same_number_of_pairs(self, sizes):
        pairs = [pair for number, k in enumerate(sizes) for pair in ranked(f"prompt {number}", k)]
        counts = by_prompt(balance_prompts(kept(pairs), seed=0))
        assert len(counts) == len(sizes) and len(set(counts.values())) == 1

    def test_that_number_is_the_mean_so_that_a_pass_keeps_its_length(self):
        pairs = ranked("a", 2) + ranked("b", 4)  # 1 and 6
        assert set(by_prompt(balance_prompts(kept(pairs), seed=0)).values()) == {4}

    def test_pairs_of_a_prompt_with_many_answers_are_all_different(self):
        found = [p for p in balance_prompts(kept(ranked("a", 2) + ranked("b", 9)), seed=0) if p.where == "b"]
        assert len({(p.chosen, p.rejected) for p in found}) == len(found)

    def test_which_are_kept_differs_from_prompt_to_prompt(self):
        pairs = ranked("a", 2) + ranked("b", 9) + ranked("c", 9)
        found = [
            {(p.chosen, p.rejected) for p in balance_prompts(kept(pairs), seed=0) if p.where == name} for name in "bc"
        ]
        assert found[0] != found[1]

    def test_another_seed_keeps_others_and_the_same_seed_the_same(self):
        pairs = kept(ranked("a", 2) + ranked("b", 9))
        assert balance_prompts(pairs, 0) == balance_prompts(pairs, 0) != balance_prompts(pairs, 1)

    def test_prompts_of_equal_size_are_left_as_they_are(self):
        pairs = ranked("a", 4) + ranked("b", 4)
        assert balance_prompts(kept(pairs), seed=0) == pairs


class TestResample:
    @given(st.integers(1, 20), st.integers(0, 50))
    def test_gives_the_number_that_is_wanted_each_row_as_often_as_another_or_once_more(self, size, wanted):
        counts = Counter(resample(range(size), wanted, "seed"))
        assert counts.total() == wanted
        assert max(counts.values(), default=0) - min(counts[n] for n in range(size)) <= 1

    def test_keeps_the_order(self):
        rows = resample(range(10), 25, "seed")
        assert rows == sorted(rows)


class TestShares:
    def test_stand_in_the_ratio_of_the_weights_and_keep_the_sum(self):
        assert shares([900, 100], [1, 1]) == [500, 500]
        assert shares([900, 100], [3, 1]) == [750, 250]

    def test_nothing_comes_of_an_empty_source(self):
        assert shares([10, 0], [1, 1]) == [10, 0]


class TestRankingsOfARun:
    def test_every_training_prompt_weighs_the_same(self):
        data = load(preferences=rankings(*SIZES))
        (each,) = set(by_prompt(data.pairs.train).values())
        assert (
            f"data.preferences: each of 48 prompts gives {each} training pairs, whatever its number of answers "
            "(data.prompt_weights: pairs takes every pair once)"
        ) in data.notes

    def test_held_out_pairs_stand_once_each(self):
        held_out = load(preferences=rankings(*SIZES)).pairs.held_out
        assert len({(p.chosen, p.rejected) for p in held_out}) == len(held_out)

    def test_every_ordered_pair_once_where_that_is_asked_for(self):
        data = load(preferences=rankings(*SIZES), prompt_weights="pairs")
        assert len(data.pairs.train) + len(data.pairs.held_out) == sum(k * (k - 1) // 2 for k in SIZES)
        assert not any("gives" in note for note in data.notes)

    def test_pairs_of_one_prompt_stay_on_one_side(self):
        data = load(preferences=rankings(*SIZES))
        assert not by_prompt(data.pairs.train).keys() & by_prompt(data.pairs.held_out).keys()

    def test_plain_pairs_are_never_repeated_or_left_out(self):
        rows = [{"prompt": f"{n % 7}?", "chosen": f"good {n}", "rejected": "bad"} for n in range(20)]
        assert max(Counter(p.chosen for p in load(preferences=rows).pairs.train).values()) == 1

    def test_only_the_best_answers_are_imitated(self):
        shown = load(preferences=rankings(*SIZES)).demonstrations
        assert len(shown.train) == 48 and all(d.response.endswith("answer 0") for d in shown.train)

    def test_votes_that_are_each_a_pair_weigh_their_prompt_once(self):
        rows = [
            {"prompt": f"{n}?", "response1": "x", "response2": "y", **{f"annotator{a}": 1 + a % 2 for a in range(1, k)}}
            for n, k in enumerate([4, 6] * 10)
        ]
        counts = by_prompt(load(preferences=rows, votes="each").pairs.train)
        assert set(counts.values()) == {4}

    def test_another_seed_holds_other_prompts_out(self):
        one, two = (by_prompt(load(seed, preferences=rankings(*SIZES)).pairs.held_out).keys() for seed in (0, 1))
        assert one != two


class TestMixOfSources:
    @pytest.fixture
    def files(self, tmp_path):
        paths = []
        for name, count in (("big", 100), ("small", 20)):
            path = tmp_path / f"{name}.jsonl"
            rows = [{"prompt": f"{name} {n}?", "chosen": f"{name} good", "rejected": "bad"} for n in range(count)]
            path.write_text("\n".join(json.dumps(row) for row in rows))
            paths.append(str(path))
        return paths

    @staticmethod
    def counts(data):
        return Counter(pair.chosen.split()[0] for pair in data.pairs.train)

    def test_without_weights_every_row_counts_the_same(self, files):
        data = load(preferences=files)
        assert self.counts(data).total() == 96 and len(data.pairs.held_out) == 24
        assert "big.jsonl: recognised as prompt, chosen and rejected; 100 pairs" in data.notes

    def test_weights_set_the_ratio_of_training_rows(self, files):
        big, small = ({"path": path, "weight": weight} for path, weight in zip(files, (1, 2), strict=True))
        data = load(preferences=[big, small])
        assert self.counts(data) == {"big": 32, "small": 64}
        assert "data.preferences: mixed by weight: big.jsonl 32, small.jsonl 64" in data.notes

    def test_what_is_held_out_is_neither_repeated_nor_left_out(self, files):
        weighted = [{"path": path, "weight": 1} for path in files]
        assert load(preferences=weighted).pairs.held_out == load(preferences=files).pairs.held_out

    def test_demonstrations_taken_from_the_pairs_are_mixed_likewise(self, files):
        big, small = ({"path": path, "weight": weight} for path, weight in zip(files, (1, 2), strict=True))
        shown = load(preferences=[big, small]).demonstrations.train
        assert Counter(d.response.split()[0] for d in shown) == {"big": 32, "small": 64}

    def test_one_weight_alone_is_refused(self, files):
        with pytest.raises(DataError, match="1 of 2 sources have a weight"):
            load(preferences=[{"path": files[0], "weight": 1}, files[1]])

    def test_a_prompt_of_two_sources_stays_on_one_side(self, files):
        data = load(preferences=[files[0], files[0], files[1]])
        assert not by_prompt(data.pairs.train).keys() & by_prompt(data.pairs.held_out).keys()

    def test_sources_of_different_forms_go_together(self, files, tmp_path):
        path = tmp_path / "ranked.json"
        path.write_text(json.dumps(rankings(3, 4, 5)))
        data = load(preferences=[files[1], str(path)])
        assert any("rankings" in note for note in data.notes)

    def test_rows_in_memory_are_no_list_of_sources(self):
        assert load(preferences=[{"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in range(5)]).pairs.train


class TestColumns:
    ROWS = tuple({"ask": f"{n}?", "winner": "good", "loser": "bad"} for n in range(5))
    NAMES = dict(prompt="ask", chosen="winner", rejected="loser")  # noqa: RUF012, C408

    def refusal(self, **settings):
        with pytest.raises(DataError) as caught:
            load(**settings)
        return str(caught.value)

    def test_are_read_under_the_kits_names(self):
        data = load(preferences=list(self.ROWS), columns=self.NAMES)
        assert {(p.chosen, p.rejected) for p in data.pairs.train} == {("good", "bad")}

    def test_a_missing_one_is_refused_with_the_columns_and_a_near_name(self):
        text = self.refusal(preferences=list(self.ROWS), columns=self.NAMES | {"chosen": "winer"})
        assert "data.columns names 'winer' as chosen, but the columns are prompt, rejected, winner" in text
        assert "did you mean 'winner'?" in text

    def test_a_name_the_kit_does_not_know_is_refused(self):
        assert "did you mean 'chosen'?" in self.refusal(preferences=list(self.ROWS), columns={"choosen": "winner"})

    def test_names_the_wrong_way_round_are_told(self):
        text = self.refusal(preferences=list(self.ROWS), columns={"loser": "rejected"})
        assert "perhaps the other way round, rejected: loser" in text

    def test_of_another_source_do_not_disturb_one_with_the_kits_names(self):
        prompts = [{"prompt": f"other {n}?"} for n in range(5)]
        assert load(preferences=list(self.ROWS), prompts=prompts, columns=self.NAMES).prompts.train

    def test_a_taken_name_is_refused(self):
        rows = [row | {"chosen": "taken"} for row in self.ROWS]
        assert "there is a column 'chosen' too" in self.refusal(
            preferences=[*rows], columns={**self.NAMES, "chosen": "winner"}
        )

    def test_can_be_swapped(self):
        rows = [{"prompt": f"{n}?", "chosen": "bad", "rejected": "good"} for n in range(5)]
        data = load(preferences=rows, columns={"chosen": "rejected", "rejected": "chosen"})
        assert data.pairs.train[0].chosen == "good"

    def test_a_dotted_name_reaches_inside_an_object(self):
        rows = [{"post": {"body": f"{n}?"}, "winner": "good", "loser": "bad"} for n in range(5)]
        data = load(preferences=rows, columns=self.NAMES | {"prompt": "post.body"})
        assert data.pairs.train[0].prompt[0]["content"].endswith("?")

    def test_a_key_of_listed_answers_is_found(self):
        rows = [
            {"prompt": f"{n}?", "answers": [{"text": "bad", "quality": 1}, {"text": "good", "quality": 2}]}
            for n in range(5)
        ]
        assert load(preferences=rows, columns={"score": "quality"}).pairs.train[0].chosen == "good"

    def test_of_one_source_stand_beside_its_path(self, tmp_path):
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, self.ROWS)))
        data = load(preferences={"path": str(tmp_path / "a.jsonl"), "columns": self.NAMES})
        assert data.pairs.train[0].chosen == "good"


class TestSkippedRows:
    ROWS = [{"prompt": f"{n}?", "chosen": "good", "rejected": "bad"} for n in range(20)]  # noqa: RUF012

    def test_are_none_by_default(self):
        with pytest.raises(DataError, match=r"data\.skip_bad_rows"):
            load(preferences=[*self.ROWS, {"prompt": "?", "chosen": None, "rejected": "bad"}])

    def test_are_counted_where_they_are_allowed(self):
        bad = [{"prompt": "?", "chosen": None, "rejected": "bad"}, {"prompt": "?"}]
        data = load(preferences=[*self.ROWS, *bad], skip_bad_rows=2)
        assert (
            "data.preferences: skipped 2 bad rows, as data.skip_bad_rows: 2 allows (first: data.preferences row 21)"
        ) in data.notes
        assert len(data.pairs.train) + len(data.pairs.held_out) == 20

    def test_over_the_number_are_all_told(self):
        with pytest.raises(DataError, match="3 problems"):
            load(preferences=[*self.ROWS, 1, 2, 3], skip_bad_rows=2)
