"""Answer sheets: every policy's answers to the same prompts, sampled once; and the controls drawn from SFT."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import LORA, _shake, adapters, toy_base
from toy_stages import toy_config, toy_encoded
from transformers import set_seed

from kit.compare import answers
from kit.compare.answers import (
    ANSWERS_FILE,
    TEST,
    VALIDATION,
    Policy,
    answer_all,
    choose_parts,
    write_answers,
)
from kit.config import Config
from kit.demo import world
from kit.models.adapters import new_policy, save_adapter
from kit.models.encoding import EncodedPrompt

SETTINGS = {"prompts": 5, "validation_prompts": 9, "batch_size": 4, "best_of": 3}
CONFIG = toy_config(compare=SETTINGS)
PROMPTS = toy_encoded(8).prompts.train
PARTS = choose_parts(CONFIG, PROMPTS)
SFT, REWARD = adapters()


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """Adapters that differ from SFT's: two arms, a checkpoint of the second, and one more."""
    folders = {}
    for seed, name in enumerate(("dpo", "ppo", "step", "other"), 10):
        set_seed(seed)
        folders[name] = tmp_path_factory.mktemp(name)
        model = new_policy(toy_base().causal_lm(), LORA)
        _shake(model, 0.2)
        save_adapter(model, folders[name], toy_base().tokenizer, "card")
    return folders


def policies(arms, **changed):
    """SFT, DPO and PPO on both parts, and a repetition and a checkpoint of PPO."""
    dpo = Policy("dpo", changed.get("dpo", arms["dpo"]), 3)
    sft, ppo, again = Policy("sft", SFT, 3), Policy("ppo", arms["ppo"], 3), Policy("ppo", arms["ppo"], 4)
    both = [(policy, part) for policy in (sft, dpo, ppo) for part in (TEST, VALIDATION)]
    return [*both, (again, TEST), (Policy("ppo", arms["step"], 3, step=7), VALIDATION)]


@pytest.fixture
def drawn(monkeypatch):
    """(role, number of prompts, seed) of each call of `sample`."""
    calls, sample = [], answers.sample

    def samples(roles, role, ids, length, temperature, seed, size):
        calls.append((role, len(ids), seed))
        return sample(roles, role, ids, length, temperature, seed, size)

    monkeypatch.setattr(answers, "sample", samples)
    return calls


@pytest.fixture(scope="module")
def kept(arms, tmp_path_factory):
    """The sheets of a first comparison, and the file that keeps them."""
    file = tmp_path_factory.mktemp("kept") / ANSWERS_FILE
    sheets = answer_all(CONFIG, toy_base(), PARTS, policies(arms), SFT, REWARD, file)
    write_answers(file, sheets)
    return sheets, file


def of(sheets, arm, part=TEST, seed=3, step=None):
    (found,) = [s.answers for s in sheets if (s.arm, s.part, s.seed, s.step) == (arm, part, seed, step)]
    return found


def texts(sheets, *which, **more):
    return [answer.text for answer in of(sheets, *which, **more)]


def again(arms, file, config=CONFIG, reward=REWARD, unfinished=None, **changed):
    return answer_all(config, toy_base(), PARTS, policies(arms, **changed), SFT, reward, file, unfinished)


class TestParts:
    @given(st.integers(0, 60), st.integers(1, 80), st.integers(0, 80))
    def test_share_no_prompt_and_validation_has_at_most_a_quarter(self, count, prompts, validation):
        every = [EncodedPrompt([], [i]) for i in range(count)]
        config = Config(compare={"prompts": prompts, "validation_prompts": validation})
        parts = choose_parts(config, every)
        chosen = [prompt.ids[0] for part in parts.values() for prompt in part]
        assert len(set(chosen)) == len(chosen)
        assert len(parts[VALIDATION]) == min(validation, count // 4)
        assert len(parts[TEST]) == min(prompts, count - len(parts[VALIDATION]))

    def test_are_the_same_in_whatever_order_the_prompts_come(self):
        assert choose_parts(CONFIG, PROMPTS[::-1]) == PARTS

    def test_of_another_seed_are_others(self):
        every = [EncodedPrompt([], [i]) for i in range(40)]
        one, other = (choose_parts(Config(seed=seed, compare={"prompts": 10}), every)[TEST] for seed in (0, 1))
        assert one != other

    def test_keep_the_test_prompts_where_curves_are_not_wanted(self):
        every = [EncodedPrompt([], [i]) for i in range(40)]
        fewer = Config(compare={"prompts": 10, "validation_prompts": 0})
        assert choose_parts(fewer, every)[TEST] == choose_parts(Config(compare={"prompts": 10}), every)[TEST]
        assert choose_parts(fewer, every)[VALIDATION] == []


class TestSheets:
    def test_there_is_one_of_each_policy_and_part_and_of_both_controls(self, kept, arms):
        wanted = [(p.arm, part, p.seed, p.step) for p, part in policies(arms)]
        wanted += [("best_of_n", TEST, 3, None), ("longest_of_n", TEST, 3, None)]
        assert [(s.arm, s.part, s.seed, s.step) for s in kept[0]] == wanted
        assert len({s.key for s in kept[0]}) == len(kept[0])
        assert all(len(s.answers) == len(PARTS[s.part]) for s in kept[0])

    def test_an_answer_is_its_tokens_with_what_is_known_of_it(self, kept):
        codec = toy_base().codec
        for answer in of(kept[0], "ppo"):
            assert (answer.text, answer.response_tokens) == (codec.text(list(answer.ids)), len(answer.ids))
            assert answer.ended == (answer.ids[-1] in codec.stops)
            assert answer.kl_nats > 0 and answer.entropy_nats > 0 and math.isfinite(answer.proxy_reward)
            assert answer.true_reward is None and answer.judge_score is None

    def test_sft_is_0_away_from_itself_and_of_a_control_the_distance_is_unknown(self, kept):
        assert {answer.kl_nats for answer in of(kept[0], "sft")} == {0.0}
        assert {answer.kl_nats for answer in of(kept[0], "best_of_n")} == {None}

    def test_a_repetition_draws_with_a_seed_of_its_own(self, kept):
        assert texts(kept[0], "ppo") != texts(kept[0], "ppo", seed=4)

    def test_the_demo_worlds_questions_have_a_truth(self, arms, tmp_path):
        messages = [[{"role": "user", "content": text}] for text in world.prompts(0)[:4]]
        parts = {TEST: [EncodedPrompt(m, toy_base().codec.prompt(m)) for m in messages], VALIDATION: []}
        (sheet,) = answer_all(CONFIG, toy_base(), parts, [(Policy("sft", SFT, 3), TEST)], SFT, None, tmp_path / "no")
        assert all(answer.true_reward is not None for answer in sheet.answers)

    def test_without_a_reward_model_there_is_no_proxy_and_no_control(self, arms, tmp_path):
        (sheet,) = answer_all(CONFIG, toy_base(), PARTS, [(Policy("sft", SFT, 3), TEST)], SFT, None, tmp_path / "no")
        assert {answer.proxy_reward for answer in sheet.answers} == {None}

    def test_adapters_equal_to_the_byte_each_have_theirs(self, arms, tmp_path):
        """A checkpoint from the critic's warm-up is SFT still; once it took SFT's place and there was no curve."""
        same = [Policy("sft", SFT, 3), Policy("ppo", SFT, 3, step=1), Policy("ppo", SFT, 3, step=2)]
        asked = [(policy, VALIDATION) for policy in same]
        found = answer_all(CONFIG, toy_base(), PARTS, asked, SFT, None, tmp_path / "no")
        assert [(s.arm, s.step) for s in found] == [("sft", None), ("ppo", 1), ("ppo", 2)]
        assert found[0].answers == found[1].answers == found[2].answers


class TestKeptSheets:
    def test_are_read_back_whole_and_nothing_is_sampled_the_second_time(self, kept, arms, drawn):
        assert again(arms, kept[1]) == kept[0]
        assert drawn == []

    def test_of_a_changed_adapter_alone_are_sampled_again(self, kept, arms, drawn):
        found = again(arms, kept[1], dpo=arms["other"])
        assert [(role, size) for role, size, _ in drawn] == [("compared", len(PARTS[p])) for p in (TEST, VALIDATION)]
        assert [s for s in found if s.arm != "dpo"] == [s for s in kept[0] if s.arm != "dpo"]
        assert texts(found, "dpo") != texts(kept[0], "dpo")

    @pytest.mark.parametrize("changed", [{"temperature": 0.5}, {"batch_size": 3}])
    def test_of_another_decoding_are_none(self, kept, arms, drawn, changed):
        again(arms, kept[1], toy_config(compare=SETTINGS | changed))
        assert len(drawn) == 8 + 3

    def test_of_another_n_are_all_but_the_controls(self, kept, arms, drawn):
        found = again(arms, kept[1], toy_config(compare=SETTINGS | {"best_of": 2}))
        assert [role for role, *_ in drawn] == ["policy"] * 2
        assert [s for s in found if s.arm in ("sft", "dpo", "ppo")] == kept[0][:-2]

    def test_of_another_reward_model_are_none_for_the_proxy_is_another(self, kept, arms, drawn):
        again(arms, kept[1], reward=None)
        assert len(drawn) == 8

    def test_hold_no_judges_name(self, kept, arms, drawn):
        again(arms, kept[1], toy_config(compare=SETTINGS | {"judge": "my.judges:best"}))
        assert drawn == []

    @pytest.mark.parametrize("damage", [lambda text: text[:9], lambda _: "", lambda _: '{"key": 1}\n'])
    def test_that_cannot_be_read_are_sampled_again(self, kept, arms, drawn, tmp_path, damage):
        file = tmp_path / ANSWERS_FILE
        file.write_text(damage(kept[1].read_text()))
        assert again(arms, file) == kept[0] and len(drawn) == 8 + 3

    def test_of_a_comparison_that_was_cut_off_are_not_sampled_again(self, kept, arms, drawn, tmp_path):
        (tmp_path / "unfinished").write_text(kept[1].read_text()[:-9])  # the last control's line is cut
        found = again(arms, tmp_path / "none", unfinished=tmp_path / "unfinished")
        assert found == kept[0] and len(drawn) == 3
        drawn.clear()
        again(arms, tmp_path / "none", unfinished=tmp_path / "unfinished")
        assert drawn == []

    def test_stand_one_a_line(self, kept):
        rows = [json.loads(line) for line in kept[1].read_text().splitlines()]
        assert [row["key"] for row in rows] == [sheet.key for sheet in kept[0]]


class TestControls:
    def test_are_the_highest_proxy_and_the_longest_of_n_draws_from_sft(self, kept, arms, drawn, monkeypatch):
        scored, score = [], answers.score

        def scores(roles, ids, responses, size):
            scored.append((score(roles, ids, responses, size), [len(response) for response in responses]))
            return scored[-1][0]

        sample, lengths = answers.sample, random.Random(0)  # the toy base never ends a turn
        monkeypatch.setattr(answers, "sample", lambda *a: [ids[: lengths.randint(4, 6)] for ids in sample(*a)])
        monkeypatch.setattr(answers, "score", scores)
        sft = [(Policy("sft", SFT, 3), TEST)]
        found = answer_all(CONFIG, toy_base(), PARTS, sft, SFT, REWARD, kept[1].with_name("none"))
        assert [role for role, *_ in drawn] == ["policy"] * 4
        draws = scored[1:]  # the first are the arm sft's answers
        highest = [max(column) for column in zip(*(proxies for proxies, _ in draws), strict=True)]
        longest = [max(column) for column in zip(*(lengths for _, lengths in draws), strict=True)]
        assert [answer.proxy_reward for answer in of(found, "best_of_n")] == highest
        assert [answer.response_tokens for answer in of(found, "longest_of_n")] == longest
        assert len(draws) == 3 and len(set(highest)) > 1 and {5, 6} & set(longest)

    def test_draw_with_seeds_that_no_policy_has(self, kept, arms, drawn):
        answer_all(CONFIG, toy_base(), PARTS, policies(arms), SFT, REWARD, kept[1].with_name("none"))
        seeds = [seed for _, _, seed in drawn]
        assert seeds[:-3] == [3] * 6 + [4, 3] and len({3, 4, *seeds[-3:]}) == 5
        assert min(seeds[-3:]) > 3 + 20  # beyond all repetitions

    @pytest.mark.parametrize("changed", [{"temperature": 0}, {"best_of": 1}, {"best_of": 0}])
    def test_are_none_where_all_draws_would_be_one(self, arms, tmp_path, changed, capsys):
        config = toy_config(compare=SETTINGS | changed)
        found = answer_all(config, toy_base(), PARTS, [(Policy("sft", SFT, 3), TEST)], SFT, REWARD, tmp_path / "no")
        assert [s.arm for s in found] == ["sft"]
        assert ("no best_of_n and longest_of_n" in capsys.readouterr().out) == ("temperature" in changed)
