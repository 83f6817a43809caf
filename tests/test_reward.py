"""The reward stage's held-out pairs: their scores, and the rows that are kept of them."""

import math

import pytest
import torch
from toy import adapters, rows, toy_base, toy_roles

from kit.errors import TrainingStopped
from kit.models.adapters import new_reward
from kit.models.generation import score
from kit.stages.reward import held_out_rows, score_pairs

PAD = toy_base().tokenizer.pad_token_id
PROMPTS, CHOSEN, REJECTED = rows(5, 9, 3, seed=1), rows(4, 1, 8, seed=2), rows(2, 6, 3, seed=3)
PAIRS = [
    {"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
]


def whole(pairs):
    return [{f"{s}_ids": pair["prompt_ids"] + pair[f"{s}_ids"] for s in ("chosen", "rejected")} for pair in pairs]


class TestScoresOfPairs:
    def test_are_those_that_ppo_gives_the_same_answers(self):
        found = score_pairs(_trained(), whole(PAIRS), PAD, batch_size=4)
        roles = toy_roles()
        wanted = [score(roles, PROMPTS, answers, batch_size=3) for answers in (CHOSEN, REJECTED)]
        assert [c for c, _ in found] == pytest.approx(wanted[0], rel=1e-4, abs=1e-5)
        assert [r for _, r in found] == pytest.approx(wanted[1], rel=1e-4, abs=1e-5)

    def test_that_are_no_numbers_stop_the_run(self):
        model = new_reward(toy_base().scorer(), adapters()[0])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "score" in name:
                    parameter.fill_(math.nan)
        with pytest.raises(TrainingStopped, match=r"6 of 6 held-out answers .* Lower reward.learning_rate"):
            score_pairs(model, whole(PAIRS), PAD, batch_size=2)


class TestRowsOfPairs:
    def test_hold_the_response_tokens_and_a_number_that_pairs_of_one_prompt_share(self):
        found = held_out_rows(
            [*PAIRS, PAIRS[1] | {"chosen_ids": [7]}], [(1.0, 0.5), (0.0, 2.0), (3.0, -1.0), (0.25, 0.0)]
        )
        assert [row["prompt"] for row in found] == [0, 1, 2, 1]
        assert found[0] == {
            "prompt": 0, "chosen_score": 1.0, "rejected_score": 0.5, "chosen_tokens": 4, "rejected_tokens": 2,
        }  # fmt: skip


def _trained():
    from peft import PeftModel

    return PeftModel.from_pretrained(toy_base().scorer(), adapters()[1])
