"""Four answers after each stage that trains a policy: what is kept and said of them, and that nothing else changes."""

import json
import random
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from toy import toy_base, toy_roles
from toy_stages import Watched, toy_config, toy_encoded, weights

from kit.data.rows import Split
from kit.stages import dpo, online, ppo, sft, smoke
from kit.stages.smoke import smoke_test

BASE = toy_base()
END, WORDS = BASE.codec.end_of_turn, [40, 41, 42, 43, 44]
STAGES = {
    "train_sft": (sft, {"sft": {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2}}),
    "train_dpo": (dpo, {"dpo": {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2}}),
    "train_ppo": (ppo, {"ppo": {"episodes": 8, "batch_size": 4, "num_mini_batches": 1, "num_ppo_epochs": 1}}),
    "train_rloo": (online, {"rloo": {"episodes": 16, "batch_size": 8, "num_generations": 4}}),
    "train_grpo": (online, {"grpo": {"episodes": 16, "batch_size": 8, "num_generations": 4}}),
}


def encoded(ends=True, count=7):
    """Toy rows whose demonstrations come to their end, or none of them."""
    rows = toy_encoded(count)
    for row in rows.sft.train:
        row["input_ids"][-1] = row["labels"][-1] = END if ends else WORDS[0]
    return rows


def smoked(answers, tmp_path, data=None, max_response_tokens=40):
    """(figures, words) of a stage whose policy gives these answers."""
    toy = toy_config()
    lengths = toy.data.model_copy(update={"max_response_tokens": max_response_tokens})
    config = toy.model_copy(update={"data": lengths})
    with patch.object(smoke, "sample", lambda *_: answers):
        figures, words = smoke_test("sft", config, data or encoded(), BASE, None, tmp_path)
    return figures["smoke"], words


def rows_of(folder: Path):
    return [json.loads(line) for line in (folder / "smoke.jsonl").read_text(encoding="utf-8").splitlines()]


def random_state():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


class TestWhatIsKept:
    def test_are_four_answers_and_the_share_that_ends(self, tmp_path):
        figures, words = smoked([[*WORDS, END], WORDS, [*WORDS, END], [*WORDS, END]], tmp_path)
        assert figures == {"answers": 4, "ended": 0.75, "empty": 0, "repeated": 0, "max_tokens": 40}
        assert words == "3 of 4 sampled answers end"
        assert [row["ended"] for row in rows_of(tmp_path)] == [True, False, True, True]
        assert rows_of(tmp_path)[0]["prompt"][0]["role"] == "user" and rows_of(tmp_path)[0]["response_tokens"] == 6

    def test_are_answers_to_held_out_prompts_where_there_are_any(self, tmp_path):
        data = encoded()
        prompts = data.prompts.train
        held = encoded().__class__(data.sft, data.pairs, Split(prompts[:4], prompts[4:]), [], data.judge)
        smoked([[*WORDS, END]] * 3, tmp_path, held)
        assert [row["prompt"] for row in rows_of(tmp_path)] == [prompt.messages for prompt in prompts[4:]]

    def test_are_no_longer_than_64_tokens(self, tmp_path):
        assert smoked([[*WORDS, END]] * 4, tmp_path, max_response_tokens=1_000)[0]["max_tokens"] == 64


class TestWarnings:
    def test_there_are_none_where_answers_end(self, tmp_path, capsys):
        smoked([[*WORDS, END], WORDS, WORDS, WORDS], tmp_path)
        assert capsys.readouterr().err == ""

    def test_none_ends_though_the_demonstrations_do(self, tmp_path, capsys):
        smoked([WORDS] * 4, tmp_path)
        assert (
            "sft: none of 4 sampled answers ends within 40 tokens, though 100% of the demonstrations do: the end of a "
            "turn is not learnt; see sft/smoke.jsonl"
        ) in capsys.readouterr().err

    def test_none_ends_where_the_demonstrations_do_not_either_is_no_surprise(self, tmp_path, capsys):
        smoked([WORDS] * 4, tmp_path, encoded(ends=False))
        assert capsys.readouterr().err == ""

    def test_nor_is_it_where_they_end_later(self, tmp_path, capsys):
        """They have 3 to 15 tokens here."""
        smoked([WORDS] * 4, tmp_path, max_response_tokens=5)
        assert capsys.readouterr().err == ""

    def test_empty_answers(self, tmp_path, capsys):
        figures, _ = smoked([[END], [*WORDS, END], [END], [*WORDS, END]], tmp_path)
        assert figures["empty"] == 2 and "2 of 4 sampled answers are empty" in capsys.readouterr().err

    def test_one_token_over_and_over(self, tmp_path, capsys):
        figures, _ = smoked([[40] * 9, [41] * 5 + [END], [*WORDS, END], [42, END]], tmp_path)
        assert figures["repeated"] == 2 and "answers are one token over and over" in capsys.readouterr().err

    def test_one_such_answer_of_four_may_be_chance(self, tmp_path, capsys):
        smoked([[END], [40] * 9, [*WORDS, END], [*WORDS, END]], tmp_path)
        assert capsys.readouterr().err == ""


class TestOnARealPolicy:
    def test_nothing_is_left_changed(self, tmp_path):
        roles = toy_roles()
        before, state = weights(roles.model), random_state()
        flags = [(p.requires_grad, m) for p, m in zip(roles.model.parameters(), roles.model.modules(), strict=False)]
        modes = [module.training for module in roles.model.modules()]
        smoke_test("ppo", toy_config(), encoded(), BASE, roles, tmp_path)
        assert random_state() == state
        assert all(torch.equal(p, before[n]) for n, p in roles.model.named_parameters())
        assert flags == [
            (p.requires_grad, m) for p, m in zip(roles.model.parameters(), roles.model.modules(), strict=False)
        ]
        assert modes == [module.training for module in roles.model.modules()]

    def test_the_same_seed_gives_the_same_answers(self, tmp_path):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            smoke_test("ppo", toy_config(), encoded(), BASE, toy_roles(), tmp_path / name)
        assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b") and len(rows_of(tmp_path / "a")) == 4


class TestInTheStages:
    @pytest.mark.parametrize("name", STAGES)
    def test_every_stage_that_trains_a_policy_says_it(self, name, tmp_path):
        module, settings = STAGES[name]
        stage = Watched(module, name, toy_config(**settings), tmp_path / "out", data=encoded())
        figures = stage.result.metrics["smoke"]
        assert figures["answers"] == 4 == len(rows_of(tmp_path / "out"))
        assert stage.result.headline.endswith(f"{figures['ended'] * 4:.0f} of 4 sampled answers end")
