"""The reward stage's held-out pairs: their scores, and the rows that are kept of them."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid
from toy import adapters, rows, toy_base, toy_roles
from toy_stages import Watched, toy_config, toy_encoded

import kit
from kit.config import DataSettings
from kit.data import Split, load_data
from kit.errors import TrainingStopped
from kit.models.adapters import new_reward
from kit.models.encoding import encode_data
from kit.models.generation import score
from kit.models.out_of_memory import _split
from kit.stages import reward
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


class TestMargins:
    @pytest.fixture
    def encoded(self):
        found = toy_encoded(4)
        rated = [row | {"margin": margin} for row, margin in zip(found.pairs.train, (0.5, 1.0, 4.0), strict=False)]
        return replace(found, pairs=Split([*rated, found.pairs.train[3]], []))

    def losses(self, encoded, tmp_path, margin):
        """The loss of all pairs before training, and what the formula makes of the scores."""
        found = {}

        def before(trainer):
            rows = list(trainer.train_dataset)
            batch = dict(trainer.data_collator(rows))
            trainer.model.eval()
            with torch.no_grad():
                loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
            trainer.model.train()
            chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
            found.update(loss=loss.item(), difference=chosen - rejected)

        config = toy_config(reward={"batch_size": 4, "margin": margin, "center_rewards_coefficient": None})
        Watched(reward, "train_reward", config, tmp_path / str(margin), before=before, data=encoded)
        return found["loss"], found["difference"]

    def test_are_taken_off_the_difference_of_the_scores_in_the_loss(self, encoded, tmp_path):
        loss, difference = self.losses(encoded, tmp_path, margin=0.5)
        margins = 0.5 * torch.tensor([0.5, 1.0, 4.0, 0.0])  # nobody rated the last pair
        assert loss == pytest.approx(-logsigmoid(difference - margins).mean().item(), rel=1e-5)
        assert loss != pytest.approx(-logsigmoid(difference).mean().item(), rel=1e-2)

    def test_are_left_alone_by_default(self, encoded, tmp_path):
        loss, difference = self.losses(encoded, tmp_path, margin=0.0)
        assert loss == pytest.approx(-logsigmoid(difference).mean().item(), rel=1e-5)

    def test_stay_with_their_pairs_where_a_micro_batch_is_halved(self):
        batch = {"input_ids": torch.arange(8).reshape(8, 1), "margin": torch.arange(4.0)}
        parts = list(_split(batch, 2, 4))
        assert [part["margin"].tolist() for part in parts] == [[0, 1], [2, 3]]
        assert [part["input_ids"].flatten().tolist() for part in parts] == [[0, 1, 4, 5], [2, 3, 6, 7]]

    def test_that_the_data_do_not_hold_are_said_before_anything_loads(self, tmp_path):
        rows = [{"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": "no"} for n in range(40)]
        config = {"output_dir": str(tmp_path), "stages": ["sft", "reward"], "reward": {"margin": 1}}
        with pytest.raises(kit.DataError, match=r"no pair of data\.preferences says by how much its answer is better"):
            kit.check(config | {"data": {"preferences": rows}})
        rows[0]["margin"] = 2.0
        assert kit.check(config | {"data": {"preferences": rows}}).ok

    def test_reach_the_reward_stage_from_ratings(self, tmp_path):
        given = [("yes", 5), ("no", 2), ("maybe", 3)]
        rows = [{"prompt": f"{n}?", "response": f"{text} {n}", "rating": r} for n in range(9) for text, r in given]
        data = load_data(DataSettings(preferences=rows), 0)
        found = encode_data(data, toy_base().codec, DataSettings()).pairs
        assert sorted({row["margin"] for row in [*found.train, *found.held_out]}) == [1.0, 2.0, 3.0]


def _trained():
    from peft import PeftModel

    return PeftModel.from_pretrained(toy_base().scorer(), adapters()[1])
