"""The configuration: every mistake is told at once, with its place and with what to write instead."""

import datetime

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.config import (
    DEFAULT_STAGES,
    NAME_PATTERN,
    STAGES,
    Config,
    DPOSettings,
    GRPOSettings,
    PPOSettings,
    RewardSettings,
    RLOOSettings,
    SFTSettings,
)
from kit.config_file import MAX_BYTES, did_you_mean, dump_config
from kit.errors import ConfigError
from kit.pipeline import load_config


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes config.yaml into an empty working directory; the path is relative, as users give it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "config.yaml") -> str:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


def refusal(source, overrides=(), **keywords) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides, **keywords)
    return str(caught.value)


def problems(source, overrides=(), **keywords) -> list[str]:
    """The problems, one line each, without the line that counts them."""
    return [line.strip() for line in refusal(source, overrides, **keywords).splitlines()[1:]]


class TestDefaults:
    def test_an_empty_file_is_the_default_configuration(self, write):
        assert load_config(write("")) == Config()

    def test_a_file_of_comments_is_the_default_configuration(self, write):
        assert load_config(write("# nothing yet\n")) == Config()

    def test_they_run_the_demo_through_all_stages_but_the_optional_ones(self):
        found = Config().model.base, Config().data.preferences, Config().stages
        assert found == ("demo", "demo", list(DEFAULT_STAGES))
        assert set(STAGES) - set(DEFAULT_STAGES) == {"rloo", "grpo"}

    def test_every_setting_says_what_it_is(self):
        models = [Config, *(type(getattr(Config(), name)) for name in Config.model_fields if name in _sections())]
        silent = [
            f"{model.__name__}.{name}"
            for model in models
            for name, field in model.model_fields.items()
            if not field.description and name not in _sections()
        ]
        assert not silent

    def test_settings_do_not_change_afterwards(self):
        with pytest.raises(ValueError, match="frozen"):
            Config().seed = 3


def _sections() -> set[str]:
    return {"model", "lora", "data", "compare", *STAGES}


class TestTheMessage:
    def test_names_file_line_key_and_the_likely_name(self, write):
        path = write("name: x\nmodel:\n  base: demo\ndata:\n  preferences: demo\nppo:\n  learing_rate: 1.0e-4\n")
        assert problems(path) == ["config.yaml:7 ppo.learing_rate: unknown key, did you mean learning_rate?"]

    def test_lists_all_problems_in_the_order_of_the_file(self, write):
        path = write("pppo: {}\nsft:\n  epochs: many\nseed: -1\n")
        assert problems(path) == [
            "config.yaml:1 pppo: unknown key, did you mean ppo?",
            "config.yaml:3 sft.epochs: a number is wanted, found 'many'",
            "config.yaml:4 seed: greater than or equal to 0 is wanted, found -1",
        ]

    def test_counts_the_problems_in_its_first_line(self, write):
        assert refusal(write("seed: -1\nnaem: x\n")).splitlines()[0] == "2 problems in the configuration:"

    def test_says_problem_for_one(self, write):
        assert refusal(write("seed: -1\n")).splitlines()[0] == "1 problem in the configuration:"

    def test_lists_the_known_keys_where_none_is_near(self, write):
        (line,) = problems(write("lora: {zzz: 1}\n"))
        assert line == "config.yaml:1 lora.zzz: unknown key; known: alpha, dropout, dtype, rank, targets"

    def test_names_the_line_of_an_item_in_a_list(self, write):
        (line,) = problems(write("stages:\n  - sft\n  - rewrd\n"))
        assert line.startswith("config.yaml:3 stages.1: ") and line.endswith("found 'rewrd'")

    def test_names_the_line_of_the_nearest_key_where_the_key_itself_is_absent(self, write):
        (line,) = problems(write("seed: 1\ndata:\n  preferences: {split: train}\n"))
        assert line == "config.yaml:3 data.preferences.path: is missing"

    def test_knows_the_keys_of_one_of_several_sources(self, write):
        (line,) = problems(write("data:\n  preferences:\n    - {path: demo, wieght: 2}\n    - demo\n"))
        assert line == "config.yaml:2 data.preferences.wieght: unknown key, did you mean weight?"

    def test_knows_the_keys_of_a_data_source(self, write):
        (line,) = problems(write("data:\n  preferences:\n    path: demo\n    splitt: train\n"))
        assert line == "config.yaml:4 data.preferences.splitt: unknown key, did you mean split?"

    @pytest.mark.parametrize("text", ["sft:\n", "sft: 3\n", "sft: [1]\n"])
    def test_wants_a_mapping_where_a_section_is_none(self, write, text):
        (line,) = problems(write(text))
        assert line.startswith("config.yaml:1 sft: a mapping (key: value) is wanted, found ")

    def test_does_not_speak_of_pydantic(self, write):
        text = refusal(
            write("sft: 3\nstages: []\nname:\nlora: {targets: 3, rank: x}\ndpo: {trl: {1: 2}}\nreport_to: 1\n")
        )
        assert not any(word in text for word in ("Input should", "instance", "dictionary", "list[str]", "pydantic"))


class TestOverrides:
    def test_win_over_the_file(self, write):
        assert load_config(write("ppo: {kl_coef: 0.3}\n"), ["ppo.kl_coef=0.1"]).ppo.kl_coef == 0.1

    def test_leave_the_rest_of_a_section(self, write):
        config = load_config(write("ppo: {kl_coef: 0.3, episodes: 64}\n"), ["ppo.kl_coef=0.1"])
        assert config.ppo.episodes == 64

    def test_are_named_as_the_origin_of_their_problems(self, write):
        path = write("ppo:\n  kl_coef: 0.3\n")
        (line,) = problems(path, ["ppo.kl_coef=-1"])
        assert line.startswith("override `ppo.kl_coef=-1` ppo.kl_coef: ")

    def test_are_named_also_where_a_part_of_the_key_is_wrong(self, write):
        (line,) = problems(write("ppo: {}\n"), ["pppo.kl_coef=1"])
        assert line == "override `pppo.kl_coef=1` pppo: unknown key, did you mean ppo?"

    def test_read_values_as_yaml(self):
        config = load_config({}, ["stages=[sft, dpo]", "data.prompts=null", "sft.learning_rate=1e-3", "name='7'"])
        assert (config.stages, config.data.prompts, config.sft.learning_rate, config.name) == (
            ["sft", "dpo"], None, 1e-3, "7",
        )  # fmt: skip

    def test_keep_an_equals_sign_in_the_value(self):
        assert load_config({}, ["output_dir=a=b"]).output_dir == "a=b"

    @pytest.mark.parametrize("text", ["ppo.kl_coef", "=3", ""])
    def test_without_key_or_value_are_refused_with_an_example(self, text):
        assert refusal({}, [text]) == f"override `{text}`: key.path=value is wanted, e.g. ppo.kl_coef=0.1"

    def test_the_last_of_two_wins(self):
        assert load_config({}, ["seed=1", "seed=2"]).seed == 2


class TestKeywordOverrides:
    def test_may_be_nested(self):
        assert load_config({"ppo": {"episodes": 64}}, ppo={"kl_coef": 0.1}).ppo.model_dump(
            include={"episodes", "kl_coef"}
        ) == {"episodes": 64, "kl_coef": 0.1}

    def test_may_be_dotted(self):
        assert load_config({}, **{"ppo.kl_coef": 0.1}).ppo.kl_coef == 0.1

    def test_win_over_text_overrides(self):
        assert load_config({}, ["seed=1"], seed=2).seed == 2

    def test_are_named_as_the_origin_of_their_problems(self, write):
        path = write("seed: 1\nppo: {}\n")
        assert problems(path, seed=-2, ppo={"klcoef": 1}) == [
            "keyword argument seed: greater than or equal to 0 is wanted, found -2",
            "keyword argument ppo.klcoef: unknown key, did you mean kl_coef?",
        ]


class TestSources:
    def test_a_mapping_is_not_changed(self):
        given = {"ppo": {"kl_coef": 0.3}}
        load_config(given, ["ppo.kl_coef=0.1"])
        assert given == {"ppo": {"kl_coef": 0.3}}

    def test_a_problem_in_a_mapping_is_placed_by_its_key_alone(self):
        assert problems({"seed": -1}) == ["config seed: greater than or equal to 0 is wanted, found -1"]

    def test_a_config_can_be_the_source_of_another(self):
        assert load_config(Config(seed=3, name="a"), seed=4) == Config(seed=4, name="a")

    def test_rows_in_memory_stay_the_same_object(self):
        rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
        assert load_config({"data": {"preferences": rows}}).data.preferences is rows

    def test_a_local_path_becomes_absolute(self, write, tmp_path):
        write("{}", "rows.jsonl")
        assert load_config({"data": {"preferences": "rows.jsonl"}}).data.preferences == str(tmp_path / "rows.jsonl")

    def test_a_hub_id_stays_as_it_is(self):
        assert load_config({"model": {"base": "org/model"}}).model.base == "org/model"

    def test_a_folder_called_demo_does_not_hide_the_demo(self, write, tmp_path):
        (tmp_path / "demo").mkdir()
        write("")
        config = load_config({})
        assert (config.model.base, config.data.preferences) == ("demo", "demo")

    @pytest.mark.parametrize("text", ["x" * 5000, "~no-such-person/rows.jsonl", "a\0b"])
    def test_a_text_that_can_be_no_path_is_left_to_the_data_layer(self, text):
        assert load_config({"data": {"preferences": text}}).data.preferences == text


class TestTheFile:
    def test_a_key_given_twice_is_refused_with_its_second_line(self, write):
        assert refusal(write("ppo:\n  kl_coef: 1\n  kl_coef: 2\n")) == "config.yaml:3 ppo.kl_coef: key given twice"

    def test_an_alias_is_refused_with_its_line(self, write):
        text = refusal(write("sft: &same {epochs: 1}\ndpo: *same\n"))
        assert text == "config.yaml:2: YAML aliases (*same) are not allowed; write the value out"

    def test_a_tab_is_refused_with_what_to_do(self, write):
        text = refusal(write("sft:\n\tepochs: 1\n"))
        assert text.startswith("config.yaml:2: not valid YAML") and "spaces, not tabs" in text

    @pytest.mark.parametrize("text, kind", [("- a\n", "list"), ("hello\n", "str"), ("3\n", "int")])
    def test_what_is_no_mapping_is_refused(self, write, text, kind):
        assert refusal(write(text)) == f"config.yaml: a mapping of settings is wanted (key: value), found {kind}"

    def test_a_key_that_is_a_list_is_refused(self, write):
        assert refusal(write("seed: 1\n? [a]\n: 2\n")).startswith("config.yaml:2: not valid YAML: a key must be")

    def test_two_documents_are_refused(self, write):
        assert "a single document" in refusal(write("seed: 1\n---\nseed: 2\n"))

    def test_a_tag_that_would_run_code_is_refused(self, write, tmp_path):
        refusal(write("seed: !!python/object/apply:os.mkdir [made]\n"))
        assert not (tmp_path / "made").exists()

    def test_a_huge_file_is_refused_unread(self, write):
        assert "a configuration has at most" in refusal(write(b"#" * (MAX_BYTES + 1)))

    def test_a_deeply_nested_file_is_refused(self, write):
        refusal(write("a: " + "[" * 600 + "]" * 600))

    def test_a_byte_order_mark_is_no_part_of_the_first_key(self, write):
        assert load_config(write(b"\xef\xbb\xbfseed: 3\n")).seed == 3

    def test_windows_line_ends_keep_the_line_numbers(self, write):
        assert problems(write(b"seed: 1\r\nname: x\r\nsed: 2\r\n")) == [
            "config.yaml:3 sed: unknown key, did you mean seed?"
        ]

    def test_other_encodings_are_refused(self, write):
        assert refusal(write("seed: 3\n".encode("utf-16"))) == "config.yaml: not UTF-8 text (byte 0)"

    def test_a_control_character_is_refused(self, write):
        assert refusal(write(b"name: a\x00b\n")).startswith("config.yaml: cannot be read as YAML")

    def test_a_missing_file_is_told_with_the_near_name(self, write):
        write("", "quickstart.yaml")
        assert refusal("quikstart.yaml").startswith("quikstart.yaml: no such file; did you mean quickstart.yaml?")

    def test_a_missing_file_in_an_empty_folder_is_told_what_a_configuration_is(self, write, tmp_path):
        assert refusal(tmp_path / "a.yaml").endswith("(a configuration is a YAML file, e.g. configs/quickstart.yaml)")

    def test_a_folder_is_refused_with_the_file_in_it(self, write, tmp_path):
        write("")
        assert refusal(".") == ".: is a folder; name the YAML file in it, e.g. config.yaml"

    def test_a_number_may_be_written_without_a_point(self, write):
        assert load_config(write("sft: {learning_rate: 1e-4, trl: {weight_decay: 1e-2}}\n")).sft.trl == {
            "weight_decay": 0.01
        }

    def test_a_date_is_a_name(self, write):
        assert load_config(write("name: 2024-01-31\n")).name == "2024-01-31"


class TestNumbers:
    @pytest.mark.parametrize("value", [True, False])
    @pytest.mark.parametrize("key", ["seed", "ppo.batch_size", "sft.learning_rate", "sft.epochs", "lora.rank"])
    def test_a_boolean_is_none(self, key, value):
        assert problems({}, **{key: value}) == [f"keyword argument {key}: a number is wanted, found a boolean"]

    @pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
    def test_nan_and_infinity_are_refused(self, write, value):
        (line,) = problems(write(f"sft:\n  epochs: {value}\n"))
        assert line.startswith("config.yaml:2 sft.epochs: a finite number is wanted")

    @pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": float("nan")}])
    def test_nan_and_infinity_are_refused_also_for_trl(self, value):
        """The ledger refuses them: without this check the stage would train and then be lost."""
        (line,) = problems({}, **{"sft.trl": {"weight_decay": value}})
        assert "sft.trl.weight_decay" in line and "finite number" in line

    def test_a_whole_number_is_not_rounded_to(self):
        assert problems({"sft": {"batch_size": 4.5}}) == ["config sft.batch_size: a whole number is wanted, found 4.5"]

    @pytest.mark.parametrize(
        "key, value",
        [
            ("data.eval_fraction", 0), ("data.eval_fraction", 1), ("sft.learning_rate", 0), ("sft.learning_rate", 1),
            ("ppo.kl_coef", -0.1), ("ppo.gamma", 1.1), ("ppo.cliprange", 0), ("dpo.beta", 0), ("lora.rank", 0),
            ("lora.dropout", 1), ("seed", 2**32), ("compare.temperature", -1), ("ppo.temperature", 0),
            ("data.min_margin", -1), ("data.skip_bad_rows", -1), ("data.votes", "most"), ("data.best_value", "first"),
        ],
    )  # fmt: skip
    def test_a_value_outside_its_range_is_refused(self, key, value):
        (line,) = problems({}, **{key: value})
        assert line.startswith(f"keyword argument {key}: ")


class TestMicroBatchSize:
    @pytest.mark.parametrize("model", [SFTSettings, RewardSettings, PPOSettings, DPOSettings])
    @given(batch=st.integers(1, 64), micro=st.integers(1, 80))
    @settings(max_examples=60)
    def test_divides_the_batch_size_or_is_refused(self, model, batch, micro):
        try:
            model(batch_size=batch, micro_batch_size=micro)
            accepted = True
        except ValueError:
            accepted = False
        assert accepted == (batch % micro == 0)

    def test_the_possible_values_are_listed_at_its_own_line(self, write):
        assert problems(write("ppo:\n  batch_size: 12\n  micro_batch_size: 5\n")) == [
            "config.yaml:3 ppo.micro_batch_size: 5 does not divide batch_size 12; possible: [1, 2, 3, 4, 6, 12]"
        ]

    def test_the_default_batch_size_counts(self):
        assert "does not divide batch_size 32" in refusal({}, ["sft.micro_batch_size=5"])

    @pytest.mark.parametrize("value", [0, -1, True, 2.0, "many", None])
    def test_is_auto_or_a_whole_number(self, value):
        (line,) = problems({"sft": {"micro_batch_size": value}})
        assert line == f"config sft.micro_batch_size: auto or a whole number from 1 is wanted, found {value!r}"

    def test_a_wrong_batch_size_is_told_once(self):
        assert len(problems({"sft": {"batch_size": 0, "micro_batch_size": 3}})) == 1


@pytest.mark.parametrize("model", [RLOOSettings, GRPOSettings])
class TestGroups:
    @given(batch=st.integers(1, 64), group=st.integers(1, 80))
    @settings(max_examples=60)
    def test_fill_a_rollout_or_are_refused(self, model, batch, group):
        try:
            model(batch_size=batch, num_generations=group)
            accepted = True
        except ValueError:
            accepted = False
        assert accepted == (group >= 2 and batch % group == 0)

    def test_of_the_default_size_count(self, model):
        with pytest.raises(ValueError, match="4 does not divide batch_size 6; a rollout holds whole groups"):
            model(batch_size=6)


class TestCompare:
    @pytest.mark.parametrize(
        "judge", ["auto", "truth", "held_out", "reward_model", "my.judges:best", "v.jsonl", "v.csv"]
    )
    def test_a_judge_is_a_name_a_function_or_a_file_of_votes(self, judge):
        assert load_config({"compare": {"judge": judge}}).compare.judge == judge

    @pytest.mark.parametrize("judge", ["trith", "votes.txt", "judge.py", "judge.py:", "judge.py:a b", 3, None])
    def test_anything_else_is_refused_with_what_is_wanted(self, judge):
        (line,) = problems({"compare": {"judge": judge}})
        assert line.startswith("config compare.judge: auto, truth, held_out, reward_model, llm, human, a file of votes")

    @pytest.mark.parametrize("name", ["judge.py", "votes.jsonl"])
    def test_the_file_of_a_judge_is_found_from_any_folder(self, tmp_path, monkeypatch, name):
        (tmp_path / name).touch()
        monkeypatch.chdir(tmp_path)
        judge = f"{name}:best" if name.endswith(".py") else name
        assert load_config({"compare": {"judge": judge}}).compare.judge == str(tmp_path / judge)

    def test_a_language_model_must_be_named(self):
        (line,) = problems({"compare": {"judge": "llm"}})
        assert line.startswith("config compare.llm: judge llm needs to know the model")
        assert load_config({"compare": {"judge": "llm", "llm": {"model": "m"}}}).compare.llm.model == "m"

    def test_the_best_checkpoint_is_that_of_one_training(self):
        (line,) = problems({"compare": {"checkpoint": "best", "seeds": 2}})
        assert line.startswith("config compare.checkpoint: best is chosen for one training seed")
        assert load_config({"compare": {"checkpoint": "best"}}).compare.checkpoint == "best"

    @pytest.mark.parametrize(
        "key, value",
        [("prompts", 0), ("validation_prompts", -1), ("judge_fraction", 0), ("judge_fraction", 1), ("best_of", -1),
         ("seeds", 0), ("seeds", 21), ("checkpoint", "first"), ("batch_size", 0)],
    )  # fmt: skip
    def test_a_value_outside_its_range_is_refused(self, key, value):
        (line,) = problems({"compare": {key: value}})
        assert line.startswith(f"config compare.{key}: ")


class TestStages:
    @pytest.mark.parametrize(
        "stages, missing",
        [
            (["reward"], "reward needs stage sft"),
            (["dpo"], "dpo needs stage sft"),
            (["compare"], "compare needs stage sft"),
            (["sft", "ppo"], "ppo needs stage reward"),
            (["ppo"], "ppo needs stage sft; ppo needs stage reward"),
            (["sft", "rloo"], "rloo needs stage reward"),
            (["sft", "grpo"], "grpo needs stage reward"),
        ],
    )
    def test_need_their_predecessors(self, stages, missing):
        assert problems({"stages": stages})[0].startswith(f"config stages: {missing}; add it to `stages`")

    def test_run_in_their_own_order_once_each(self):
        assert load_config({"stages": ["dpo", "sft", "reward", "sft"]}).stages == ["sft", "reward", "dpo"]
        assert load_config({"stages": [*reversed(STAGES)]}).stages == list(STAGES)

    def test_none_is_refused(self):
        assert problems({"stages": []}) == ["config stages: at least one is wanted, found nothing"]

    def test_one_name_is_no_list(self):
        assert problems({"stages": "sft"}) == ["config stages: a list is wanted, found 'sft'"]


class TestName:
    @given(name=st.from_regex(NAME_PATTERN, fullmatch=True).filter(lambda name: not name.endswith("\n")))
    @settings(max_examples=60)
    def test_is_one_folder_below_output_dir(self, name):
        config = Config(name=name, output_dir="runs")
        assert config.run_path.parent.name == "runs" and config.run_path.name == name

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", ".a", "a" * 65, "a\n", "ä", "a\\b"])
    def test_what_could_leave_output_dir_or_surprise_a_shell_is_refused(self, name):
        (line,) = problems({"name": name})
        assert line.startswith("config name: at most 64 letters, digits")

    def test_a_number_needs_quotes(self, write):
        assert problems(write("name: 7\n")) == ["config.yaml:1 name: a text is wanted, found 7"]


class TestTrackers:
    @pytest.mark.parametrize("value", ["none", "wandb", ["wandb", "tensorboard"]])
    def test_known_ones_are_accepted(self, value):
        assert load_config({"report_to": value}).report_to == value

    @pytest.mark.parametrize("value", ["wanbd", ["wandb", "mlflw"], [1], [], None])
    def test_others_are_refused_before_a_stage_starts(self, value):
        (line,) = problems({"report_to": value})
        assert line.startswith("config report_to: ")


class TestTrlArguments:
    def test_fields_of_trls_config_pass(self):
        assert load_config({"sft": {"trl": {"weight_decay": 0.1}}}).sft.trl == {"weight_decay": 0.1}

    def test_unknown_ones_are_told_with_line_and_near_name(self, write):
        path = write("sft:\n  trl:\n    weight_decy: 0.1\n")
        assert problems(path) == [
            "config.yaml:3 sft.trl.weight_decy: no field of TRL's SFTConfig, did you mean weight_decay?"
        ]

    @pytest.mark.parametrize(
        "stage, name, setting",
        [
            ("sft", "num_train_epochs", "sft.epochs"),
            ("sft", "per_device_train_batch_size", "sft.micro_batch_size"),
            ("reward", "gradient_accumulation_steps", "reward.batch_size"),
            ("dpo", "bf16", "model.dtype"),
            ("dpo", "output_dir", "output_dir and name"),
            ("ppo", "max_completion_length", "data.max_response_tokens"),
            ("ppo", "num_iterations", "ppo.num_ppo_epochs"),
            ("rloo", "beta", "rloo.kl_coef"),
            ("grpo", "steps_per_generation", "grpo.batch_size"),
            ("grpo", "top_k", "grpo.temperature alone: the pure softmax, as PPO"),
        ],
    )
    def test_what_the_kit_sets_is_redirected(self, stage, name, setting):
        (line,) = problems({stage: {"trl": {name: 1}}})
        assert line == f"config {stage}.trl.{name}: is set by the kit; use {setting}"

    @pytest.mark.parametrize(
        "stage, name", [("sft", "learning_rate"), ("ppo", "kl_coef"), ("dpo", "beta"), ("rloo", "num_iterations")]
    )
    def test_a_setting_of_the_kit_does_not_belong_there(self, stage, name):
        (line,) = problems({stage: {"trl": {name: 0.1}}})
        assert line == f"config {stage}.trl.{name}: is a setting of the kit; write {stage}.{name}"

    def test_overrides_are_named(self):
        (line,) = problems({}, ["dpo.trl.betaa=3"])
        assert line.startswith("override `dpo.trl.betaa=3` dpo.trl.betaa: no field of TRL's DPOConfig")

    def test_their_problems_stand_in_the_same_message(self, write):
        assert len(problems(write("seed: -1\nsft: {trl: {zzz: 1}}\n"))) == 2

    def test_what_is_no_mapping_is_refused(self):
        assert problems({"sft": {"trl": [1]}}) == ["config sft.trl: a mapping (key: value) is wanted, found a list"]

    @pytest.mark.parametrize("value", [datetime.date(2024, 1, 1), object(), {"a": {1, 2}}])
    def test_what_no_file_can_hold_is_refused(self, value):
        assert problems({"sft": {"trl": {"weight_decay": value}}})[0].startswith("config sft.trl.weight_decay: ")


WORDS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12),
    st.sampled_from(
        ["1e4", "2024-01-01", "null", "yes", "0x10", "1_000", "~", "1:30", "=", "<<", ".5", "-", "#", "é\u2028"]
    ),
)
TRL_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


class TestDump:
    @given(
        name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True) | st.sampled_from(["1e4", "7", "0x1F"]),
        rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
        seed=st.integers(0, 2**32 - 1),
        batch=st.integers(1, 64),
        output=WORDS,
        extra=st.dictionaries(WORDS, TRL_VALUES, max_size=3),
        judge=st.sampled_from(["auto", "truth", "held_out", "reward_model", "my.judges:best"]),
        whiten=st.booleans(),
    )
    @settings(max_examples=60)
    def test_is_read_back_unchanged(self, tmp_path_factory, name, rate, seed, batch, output, extra, judge, whiten):
        config = Config(
            name=name, seed=seed, output_dir=output, sft={"learning_rate": rate, "batch_size": batch, "trl": extra},
            ppo={"whiten_rewards": whiten}, compare={"judge": judge}, lora={"targets": [output, "q_proj"]},
        )  # fmt: skip
        file = tmp_path_factory.mktemp("dump", numbered=True) / "config.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        from kit.config_file import load_config  # without the check of TRL's fields

        assert load_config(file) == config

    def test_holds_every_setting(self):
        assert yaml.safe_load(dump_config(Config())) == Config().model_dump(mode="json")

    def test_keeps_the_order_of_the_settings(self):
        assert list(yaml.safe_load(dump_config(Config()))) == list(Config.model_fields)


class TestDidYouMean:
    @given(word=st.text(max_size=8), known=st.lists(st.text("abc_", min_size=1, max_size=6), min_size=1, max_size=5))
    @settings(max_examples=60)
    def test_names_only_what_is_known(self, word, known):
        text = did_you_mean(word, known)
        assert (
            text.removeprefix(", did you mean ").removesuffix("?") in known
            or text == f"; known: {', '.join(sorted(known))}"
        )
