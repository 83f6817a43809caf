"""Every shipped YAML is loaded: no key is unknown, every value arrives, and TRL takes the arguments."""

from pathlib import Path

import pytest
import torch
import yaml

import kit
from kit.config import Config
from kit.config_file import dump_config
from kit.models.device import Precision

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.y*ml"))
TRAINED = ("sft", "reward", "ppo", "rloo", "grpo", "dpo")
shipped = pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)


def leaves(value, path=()):
    """(path, value) of everything that is written in a YAML."""
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    return [(path, value)]


def at(value, path):
    """What the config holds at a path."""
    for key in path:
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    return value


class TestShippedConfigs:
    def test_are_all_found(self):
        assert {"quickstart.yaml", "qwen2.5-0.5b.yaml", "llama-3.1-8b-qlora.yaml"} <= {file.name for file in CONFIGS}

    @shipped
    def test_hold_no_key_that_is_unknown(self, file):
        assert isinstance(kit.load_config(file), Config)

    @shipped
    def test_hold_no_value_that_is_ignored(self, file):
        config = kit.load_config(file)
        written = leaves(yaml.safe_load(file.read_text(encoding="utf-8")))
        assert {path: at(config, path) for path, _ in written} == dict(written)

    @shipped
    def test_survive_the_round_trip_through_the_run_folder(self, file, tmp_path):
        config = kit.load_config(file)
        (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        assert kit.load_config(tmp_path / "config.yaml") == config

    @shipped
    def test_give_their_run_a_folder_of_its_own(self, file):
        names = [kit.load_config(other).name for other in CONFIGS]
        assert names.count(kit.load_config(file).name) == 1

    @shipped
    def test_begin_with_the_command_that_runs_them(self, file):
        first = file.read_text(encoding="utf-8").splitlines()[:3]
        assert f"kit run configs/{file.name}" in [line.removeprefix("#").strip() for line in first]

    @shipped
    @pytest.mark.parametrize("stage", TRAINED)
    def test_are_arguments_that_trl_takes(self, file, stage, tmp_path):
        from kit.models.plan.choice import choose, on_gpu
        from kit.models.plan.planner import base_shape
        from kit.stages.arguments import build_arguments

        config = kit.load_config(file)
        cpu = Precision(torch.device("cpu"), torch.float32, nf4=False)
        choice = choose(config, base_shape(config.model), stage, 24 * 2**30, on_gpu(config))
        arguments = build_arguments(config, stage, cpu, tmp_path, choice, rows=1000)
        settings = getattr(config, stage)
        effective = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        assert (arguments.learning_rate, effective) == (settings.learning_rate, settings.batch_size)
        assert {name: getattr(arguments, name) for name in settings.trl} == settings.trl

    @shipped
    def test_say_of_real_models_what_memory_is_predicted_and_that_it_was_not_measured(self, file):
        if kit.load_config(file).model.base != "demo":
            comments = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
            text = " ".join(line.removeprefix("#").strip() for line in comments)
            assert "GiB of GPU memory PREDICTED" in text and "not been measured on a GPU" in text


class TestAKeyThatNoCodeReads:
    @shipped
    def test_would_be_refused_in_every_section(self, file, tmp_path):
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        for section in [None, *(key for key, value in raw.items() if isinstance(value, dict))]:
            spoilt = yaml.safe_load(file.read_text(encoding="utf-8"))
            (spoilt if section is None else spoilt[section])["nobody_reads_this"] = 1
            with pytest.raises(kit.ConfigError, match="nobody_reads_this: unknown key"):
                kit.load_config(spoilt)
