"""The pairs that are kept for the judge: nothing else of the run sees their prompts, in training or held out."""

import json

import pytest

from kit.compare.who_judges import load_run_data
from kit.config import Config
from kit.data import load_data, prompt_key
from kit.data.found import Stops
from kit.data.rows import messages_of
from kit.data.split import keep_for_judge
from kit.demo.world import preference_rows
from kit.errors import DataError
from kit.runs.folder import RunFolder

ROWS = [  # two pairs of each prompt, so that a split by rows would be seen
    {"prompt": f"Question {number}?", "chosen": f"good {number} {copy}", "rejected": "bad"}
    for copy in range(2)
    for number in range(60)
]
DATA = {"preferences": ROWS, "eval_fraction": 0.2}


def loaded(seed=0, **data):
    return load_data(Config(data={**DATA, **data}).data, seed)


def keys(rows) -> set[str]:
    return {prompt_key(messages_of(row)) for row in rows}


def of_run(tmp_path, **settings):
    return load_run_data(Config(**{"data": DATA, **settings}), RunFolder(tmp_path))


@pytest.fixture
def kept():
    return keep_for_judge(loaded(), 0.25, seed=0)


class TestKeepForJudge:
    def test_no_list_holds_a_prompt_of_the_judges_pairs(self, kept):
        others = [rows for s in (kept.pairs, kept.demonstrations, kept.prompts) for rows in (s.train, s.held_out)]
        assert kept.judge and all(rows and not keys(rows) & keys(kept.judge) for rows in others)

    def test_nor_do_demonstrations_and_prompts_of_other_files(self):
        asked = [{"prompt": f"Question {number}?"} for number in range(60)]
        shown = [{"prompt": f"Question  {number}? ", "completion": "An answer."} for number in range(60)]
        kept = keep_for_judge(loaded(prompts=asked, demonstrations=shown), 0.25, seed=0)
        assert not keys(kept.judge) & (keys(kept.prompts.train) | keys(kept.demonstrations.train))

    def test_every_pair_of_training_is_the_judges_or_the_arms(self, kept):
        assert sorted(p.chosen for p in [*kept.judge, *kept.pairs.train]) == sorted(
            p.chosen for p in loaded().pairs.train
        )

    def test_the_fraction_is_one_of_the_training_prompts(self, kept):
        assert len(keys(kept.judge)) == round(0.25 * 48) and len(kept.judge) == 24

    def test_what_is_held_out_stays_as_it_was(self, kept):
        for name in ("pairs", "demonstrations", "prompts"):
            assert getattr(kept, name).held_out == getattr(loaded(), name).held_out

    def test_another_seed_keeps_others(self, kept):
        assert keys(keep_for_judge(loaded(), 0.25, seed=1).judge) != keys(kept.judge)

    def test_the_order_of_the_rows_keeps_the_same(self, kept):
        turned = keep_for_judge(loaded(preferences=ROWS[::-1]), 0.25, seed=0)
        assert keys(turned.judge) == keys(kept.judge)

    def test_which_are_kept_is_drawn_anew_and_not_by_the_first_split(self):
        """The split's own order would keep the very prompts that a larger eval_fraction holds out."""
        kept = keys(keep_for_judge(loaded(), 0.25, seed=0).judge)
        assert kept != keys(loaded(eval_fraction=0.4).pairs.held_out) - keys(loaded().pairs.held_out)

    def test_the_fingerprint_is_another_one_and_depends_on_the_fraction(self, kept):
        assert len({loaded().fingerprint, kept.fingerprint, keep_for_judge(loaded(), 0.5, 0).fingerprint}) == 3
        assert keep_for_judge(loaded(), 0.25, 0).fingerprint == kept.fingerprint

    def test_a_note_tells_how_many(self, kept):
        assert kept.notes[-1] == "judge: 24 pairs of 12 training prompts kept for it alone"


class TestTheDataOfARun:
    def test_are_without_the_judges_pairs_where_one_is_trained(self, tmp_path):
        found = of_run(tmp_path)
        assert found.judge and not keys(found.judge) & keys(found.pairs.train)

    def test_are_all_where_the_truth_judges(self, tmp_path):
        rows = [json.loads(json.dumps(row)) for row in preference_rows(seed=0)[:60]]
        assert not of_run(tmp_path, data={"preferences": rows}).judge

    @pytest.mark.parametrize("settings", [{"stages": ["sft", "dpo"]}, {"compare": {"judge": "my.judges:best"}}])
    def test_are_all_where_no_reward_model_judges(self, tmp_path, settings):
        found = of_run(tmp_path, **settings)
        assert not found.judge and found.fingerprint == loaded().fingerprint

    def test_leave_a_judge_twenty_pairs_at_least(self, tmp_path):
        few = {"preferences": ROWS[:60], "eval_fraction": 0.2}
        with pytest.raises(DataError, match=r"10 pairs would be left for the judge .* raise compare\.judge_fraction"):
            of_run(tmp_path, data=few)
        assert of_run(tmp_path, data=few, compare={"judge_fraction": 0.5}).judge

    def test_leave_sft_something_to_imitate(self, tmp_path):
        mine = keep_for_judge(loaded(), 0.2, 0).judge[0].prompt[0]["content"]
        shown = [{"prompt": mine, "completion": "An answer."}]
        with pytest.raises(DataError, match="would leave no demonstrations to train on"):
            of_run(tmp_path, data={**DATA, "demonstrations": shown})


class TestAnotherJudgeOfAFinishedRun:
    """Its arms were trained without the judge's pairs: with all pairs, they would have to be trained again."""

    def finished(self, tmp_path, data):
        (tmp_path / "sft").mkdir()
        (tmp_path / "sft" / "adapter_model.safetensors").touch()
        record = {"inputs": {"data": {"fingerprint": data.fingerprint}}, "seconds": 1, "peak_bytes": 1, "metrics": {}}
        (tmp_path / "sft" / "stage.json").write_text(json.dumps(record))

    def test_finds_the_data_they_were_trained_on(self, tmp_path):
        self.finished(tmp_path, of_run(tmp_path))
        found = of_run(tmp_path, compare={"judge": "my.judges:best"})
        assert found.judge and found.fingerprint == of_run(tmp_path).fingerprint

    def test_keeps_nothing_from_arms_that_were_trained_on_all(self, tmp_path):
        self.finished(tmp_path, loaded())
        assert not of_run(tmp_path, compare={"judge": "my.judges:best"}).judge

    def test_is_refused_nothing_by_a_record_it_cannot_read(self, tmp_path):
        self.finished(tmp_path, loaded())
        record = {"inputs": {}, "seconds": 1, "peak_bytes": 1, "metrics": {}}
        (tmp_path / "sft" / "stage.json").write_text(json.dumps(record))
        assert not of_run(tmp_path, compare={"judge": "my.judges:best"}).judge


FEW = {"preferences": ROWS[:20], "eval_fraction": 0.2}


class TestTooFewPairsForAJudge:
    def test_stop_a_run(self, tmp_path):
        with pytest.raises(DataError, match="6 pairs would be left for the judge to learn from, 20 are wanted"):
            of_run(tmp_path, data=FEW, compare={"judge_fraction": 0.4})

    def test_are_one_of_the_things_that_a_check_gathers(self, tmp_path):
        stops = Stops(gather=True)
        settings = Config(data=FEW, compare={"judge_fraction": 0.4})
        assert load_run_data(settings, RunFolder(tmp_path), stops).judge
        assert len(stops.texts) == 1 and "20 are wanted at least" in stops.texts[0]
