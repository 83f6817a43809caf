"""The split goes by prompt, and `load_data` keeps it across all three sources."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.config import DataSettings
from kit.data import Pair, Prompt, load_data, prompt_key
from kit.data.data import fingerprint_of
from kit.data.kept import Kept, KeptSplit, joined
from kit.data.rows import messages_of
from kit.data.split import HELD_OUT, OPEN, TRAIN, hold_out
from kit.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[1]
KEYS = [f"key {number}" for number in range(100)]
ROWS = [
    {"prompt": f"Question {number}?", "chosen": f"good {number} {copy}", "rejected": "bad"}
    for number in range(30)
    for copy in range(2)
]


def load(seed=0, preferences=ROWS, demonstrations=None, prompts=None, eval_fraction=0.2):
    sources = {"preferences": preferences, "demonstrations": demonstrations, "prompts": prompts}
    return load_data(DataSettings(**sources, eval_fraction=eval_fraction), seed)


def held(keys, fraction=0.2, seed=0, decided=None):
    sides = np.array([(decided or {}).get(key, OPEN) for key in keys], dtype=np.int8)
    return {key for key, side in zip(keys, hold_out(keys, fraction, seed, sides), strict=True) if side == HELD_OUT}


def keys_of(rows: Iterable) -> set[str]:
    return {prompt_key(messages_of(row)) for row in rows}


def questions(*numbers):
    return [{"prompt": f"Question {number}?"} for number in numbers]


class TestPromptKey:
    def test_whitespace_does_not_count(self):
        assert prompt_key([{"role": "user", "content": "a  b\n"}]) == prompt_key([{"role": "user", "content": "a b"}])

    def test_roles_count(self):
        assert prompt_key([{"role": "user", "content": "a"}]) != prompt_key([{"role": "system", "content": "a"}])

    def test_where_one_turn_ends_counts(self):
        one = [{"role": "user", "content": "a user b"}]
        assert prompt_key(one) != prompt_key([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])


ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


class TestTheBytesThatAreHashed:
    """Put together by hand, for speed; splits and fingerprints of earlier runs hold as long as they are these."""

    @given(texts=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=4))
    def test_of_a_prompt_are_what_json_writes_of_its_turns(self, texts):
        messages = [{"role": role, "content": content} for role, content in texts]
        canonical = [[role, " ".join(content.split())] for role, content in texts]
        written = json.dumps(canonical, ensure_ascii=False) + "\n"
        assert prompt_key(messages) == hashlib.sha256(written.encode()).hexdigest()

    @given(texts=st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), max_size=4))
    def test_of_rows_are_what_json_writes_of_messages_and_answers(self, texts):
        pairs = [Pair([{"role": "user", "content": prompt}], a, b, "x:1") for prompt, a, b in texts]
        bare = [Prompt(pair.prompt, "x:1") for pair in pairs]
        rows = [[pair.prompt, [pair.chosen, pair.rejected]] for pair in pairs]
        kept = Kept()
        none = kept.add([], Pair)
        values = [*rows, None, None, *([pair.prompt, []] for pair in pairs), None, None]
        written = "".join(json.dumps(v, ensure_ascii=False, sort_keys=True) + "\n" for v in values)
        found = fingerprint_of(KeptSplit(kept.add(pairs, Pair), none), KeptSplit(kept.add(bare, Prompt), none))
        assert found == hashlib.sha256(written.encode()).hexdigest()


class TestHoldOut:
    def test_the_fraction_is_met(self):
        assert len(held(KEYS)) == 20

    def test_the_order_of_the_keys_does_not_matter(self):
        assert held(KEYS) == held(random.Random(0).sample(KEYS, len(KEYS)))

    def test_another_seed_holds_out_others(self):
        assert held(KEYS) != held(KEYS, seed=1)

    def test_of_two_prompts_one_is_held_out_however_small_the_fraction(self):
        assert len(held(KEYS[:2], fraction=0.001)) == 1

    def test_never_all_are_held_out(self):
        assert len(held(KEYS[:3], fraction=0.99)) == 2

    def test_a_single_prompt_is_trained_on(self):
        assert held(KEYS[:1], fraction=0.9) == set()

    def test_fraction_zero_holds_out_nothing(self):
        assert held(KEYS, fraction=0) == set()

    def test_decided_keys_keep_their_side(self):
        decided = dict.fromkeys(KEYS[:10], HELD_OUT) | dict.fromkeys(KEYS[10:50], TRAIN)
        assert set(KEYS[:10]) <= held(KEYS, decided=decided)
        assert not set(KEYS[10:50]) & held(KEYS, decided=decided)

    def test_decided_keys_count_towards_the_fraction(self):
        assert len(held(KEYS, decided=dict.fromkeys(KEYS[:15], HELD_OUT))) == 20


class TestSplitOfLoadedData:
    def test_no_prompt_is_on_both_sides(self):
        data = load()
        assert not keys_of(data.pairs.train) & keys_of(data.pairs.held_out)

    def test_repeated_prompts_count_once(self):
        assert keys_of(load(preferences=ROWS[::2]).pairs.held_out) == keys_of(load().pairs.held_out)

    def test_the_rows_of_a_side_keep_the_order_of_the_source(self):
        numbers = [int(pair.where.split()[-1]) for pair in load().pairs.train]
        assert numbers == sorted(numbers)

    def test_demonstrations_default_to_the_chosen_sides(self):
        data = load()
        assert [d.response for d in data.demonstrations.train] == [pair.chosen for pair in data.pairs.train]
        assert [d.response for d in data.demonstrations.held_out] == [pair.chosen for pair in data.pairs.held_out]

    def test_one_chosen_answer_with_two_rejected_ones_is_one_demonstration(self):
        rows = [{"prompt": "Q?", "chosen": "good", "rejected": text} for text in ("bad", "worse")]
        assert len(load(preferences=rows).demonstrations.train) == 1

    def test_prompts_default_to_those_of_the_pairs_each_once(self):
        data = load()
        assert (len(data.prompts.train), len(data.prompts.held_out)) == (24, 6)
        assert keys_of(data.prompts.train) == keys_of(data.pairs.train)

    @pytest.mark.parametrize("seed", range(5))
    def test_given_sources_never_train_on_a_held_out_prompt(self, seed):
        demonstrations = [row | {"completion": "x"} for row in questions(*range(20, 60))]
        data = load(seed, demonstrations=demonstrations, prompts=questions(*range(10, 80)))
        splits = (data.pairs, data.demonstrations, data.prompts)
        train = keys_of(row for split in splits for row in split.train)
        assert not train & keys_of(row for split in splits for row in split.held_out)

    def test_prompts_that_are_all_held_out_are_refused(self):
        held_out = load().prompts.held_out[0].messages[0]["content"]
        with pytest.raises(DataError, match=r"data\.prompts: every prompt of it is held out"):
            load(prompts=[{"prompt": held_out}])

    def test_without_pairs_the_prompts_are_those_of_the_demonstrations(self):
        data = load(preferences=None, demonstrations=[row | {"completion": "x"} for row in questions(1, 2, 3)])
        assert data.pairs.train == data.pairs.held_out == []
        assert keys_of(data.prompts.train) == keys_of(data.demonstrations.train)

    def test_neither_pairs_nor_demonstrations_are_refused_with_help(self):
        with pytest.raises(DataError, match=r"data\.preferences is null"):
            load(preferences=None)


class TestFingerprint:
    def test_the_same_data_has_the_same_one(self):
        assert load().fingerprint == load().fingerprint

    def test_it_is_the_same_in_another_process(self):
        code = "import sys; sys.path.insert(0, 'tests'); from test_data_split import load; print(load().fingerprint)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
        assert run.stdout.strip() == load().fingerprint

    def test_one_changed_letter_changes_it(self):
        assert load(preferences=[*ROWS[:-1], ROWS[-1] | {"rejected": "Bad"}]).fingerprint != load().fingerprint

    def test_another_split_changes_it(self):
        assert load(seed=1).fingerprint != load().fingerprint

    def test_the_side_of_a_row_counts(self):
        pairs = load().pairs
        one_side = KeptSplit(joined([pairs.train, pairs.held_out]), pairs.train.picked([]))
        assert fingerprint_of(pairs) != fingerprint_of(one_side)

    def test_the_origin_does_not_count(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
        assert load(preferences=str(path)).fingerprint == load().fingerprint
