"""What a model or adapter folder from a stranger tries, and that nothing of it runs or is unpickled."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from toy import adapters, base_folder, toy_base

from kit.config import ModelSettings
from kit.errors import ModelError
from kit.models import template_trial
from kit.models.adapters import load_policy
from kit.models.plan.planner import base_shape
from kit.models.tokenizer import load_tokenizer


class Trap:
    """Pickled, it makes the file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.fixture
def trap(tmp_path):
    """The file that appears if any code of the stranger's runs."""
    file = tmp_path / "it-ran"
    yield file
    assert not file.exists(), "code of the model's own ran"


@pytest.fixture
def folder(tmp_path, trap):
    """A base that loads, with a Python file beside it that springs the trap when it is imported."""
    place = tmp_path / "base"
    shutil.copytree(base_folder(), place)
    (place / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Evil: pass\n")
    return place


def change(folder: Path, file: str, **settings) -> None:
    path = folder / file
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**found, **settings}))


def template(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_text(text)


def load(folder: Path):
    """What `kit check` loads of a base."""
    return load_tokenizer(ModelSettings(base=str(folder)), folder)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


TURNS = "{% for m in messages %}{{ m.content }}{% endfor %}"


class TestWeights:
    def test_a_pickle_is_refused_before_weights_load(self, folder, trap):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(trap)))
        assert "pytorch_model.bin, a pickle" in refusal(folder)

    def test_a_pickle_is_not_loaded_either_where_nothing_was_checked_before(self, folder, trap):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(trap)))
        base = toy_base()
        with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
            type(base)(ModelSettings(base=str(folder)), str(folder), base.precision, base.codec).causal_lm()

    def test_a_pickle_beside_safetensors_is_passed_over(self, folder, trap):
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(trap)))
        base = toy_base()
        type(base)(ModelSettings(base=str(folder)), str(folder), base.precision, base.codec).causal_lm()

    @pytest.mark.parametrize("shard", ["evil.bin", "../evil.safetensors", "/tmp/evil.safetensors", None, 3])
    def test_an_index_names_safetensors_of_its_own_folder_only(self, folder, trap, shard):
        (folder / "evil.bin").write_bytes(pickle.dumps(Trap(trap)))
        change(folder, "model.safetensors.index.json", weight_map={"model.norm.weight": shard})
        assert f"model.safetensors.index.json names {shard!r}" in refusal(folder)

    def test_a_config_cannot_name_another_file_of_weights(self, folder, trap):
        (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(trap)))
        change(folder, "config.json", transformers_weights="adapter_model.bin")
        assert "transformers_weights" in refusal(folder)

    def test_an_adapter_inside_a_model_is_refused(self, folder, trap):
        (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(trap)))
        change(folder, "adapter_config.json", peft_type="LORA", base_model_name_or_path="someone/else")
        assert "it is an adapter, or a model with one inside" in refusal(folder)

    def test_a_damaged_file_ends_in_a_message(self, folder):
        (folder / "model.safetensors").write_bytes(b"\xff" * 64)
        base = toy_base()
        moved = type(base)(
            base.settings.model_copy(update={"base": str(folder)}), str(folder), base.precision, base.codec
        )
        with pytest.raises(ModelError, match="cannot be loaded from this folder"):
            moved.causal_lm()


class TestCodeInAConfig:
    @pytest.mark.parametrize(
        "settings",
        [
            {"_attn_implementation": "evil/kernel"},
            {"attn_implementation": "evil/kernel@main:f"},
            {"_attn_implementation_internal": "evil/kernel"},
            {"attn_implementation": "kernels-community/flash-attn2"},
            {"attn_implementation": "flash_attention_2"},  # fetched from the hub where it is not installed
            {"attn_implementation": {"": "sdpa", "text_config": "evil/kernel"}},
            {"text_config": {"_attn_implementation": "evil/kernel"}},
            {"experts_implementation": "evil/kernel"},
            {"trust_remote_code": True},
            {"text_config": {"trust_remote_code": True}},
            {"configuration_files": ["config.4.0.0.json"]},
            {"fusion_config": {"patch": True}},
            {"kernel_config": {"RMSNorm": "evil/kernel"}},
            {"quantization_config": {"quant_method": "fp8"}},
            {"quantization_config": {"quant_method": "torchao", "quant_type": {"_type": "evil"}}},
            {"tokenizer_class": "AutoModel"},
            {"num_hidden_layers": 10**9},
        ],
        ids=lambda settings: json.dumps(settings)[:60],
    )
    def test_is_refused_by_name_by_the_check_and_by_the_plan(self, folder, settings):
        change(folder, "config.json", **settings)
        assert next(iter(settings)) in refusal(folder)
        with pytest.raises(ModelError, match=next(iter(settings))):
            base_shape(ModelSettings(base=str(folder)))

    @pytest.mark.parametrize("name", ["eager", "sdpa", None])
    def test_attention_that_is_part_of_torch_is_taken(self, folder, name):
        change(folder, "config.json", _attn_implementation=name)
        load(folder)

    @pytest.mark.parametrize("file, name", [("config.json", "AutoModelForCausalLM"), ("config.json", "AutoConfig"),
                                            ("tokenizer_config.json", "AutoTokenizer")])  # fmt: skip
    def test_a_class_of_its_own_is_passed_over_with_a_warning(self, folder, file, name, capsys):
        change(folder, file, auto_map={name: ["evil.Evil", "evil.Evil"] if "Tok" in name else "evil.Evil"})
        assert type(load(folder)).__module__.startswith("transformers.")
        assert f"{file} names Python code of its own (auto_map); it is not run" in capsys.readouterr().err

    def test_a_kind_of_model_that_only_its_code_knows_is_refused(self, folder):
        change(folder, "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
        assert "needs Python code of its own, which the kit never runs" in refusal(folder)

    def test_generation_settings_name_no_code(self, folder):
        change(folder, "generation_config.json", custom_generate="evil/generate")
        assert "custom_generate" in refusal(folder)

    @pytest.mark.parametrize("name", ["AutoModel", "AutoTokenizer", "pipeline", "Trainer", "../evil", "os.system"])
    def test_a_tokenizer_class_is_a_tokenizer(self, folder, name):
        change(folder, "tokenizer_config.json", tokenizer_class=name)
        assert f"names {name!r}, which is no tokenizer" in refusal(folder)

    @pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
    @pytest.mark.parametrize(
        "text", ["[1, 2]", "{", '{"a":' * 100_000 + "1" + "}" * 100_000, "", "null"],
        ids=["list", "cut", "deep", "empty", "null"],
    )  # fmt: skip
    def test_broken_json_ends_in_a_message(self, folder, file, text):
        (folder / file).write_text(text)
        assert file in refusal(folder)

    def test_control_characters_of_a_config_do_not_reach_the_terminal(self, folder):
        change(folder, "config.json", model_type="\x1b[2J\u202egpj")
        assert "\x1b" not in refusal(folder) and "\u202e" not in refusal(folder)


class TestChatTemplate:
    @pytest.mark.parametrize(
        "text",
        [
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{{ cycler.__init__.__globals__.os.popen('touch it-ran') }}",
            "{{ messages.__reduce__ }}{{ self._TemplateReference__context.environment.loader.x.y }}",
            "{% include '/etc/passwd' %}",
            "{{ 1 / 0 }}",
            "{% for i in range(10 ** 9) %}{% endfor %}",
            "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        ],
    )
    def test_that_leaves_the_sandbox_or_breaks_ends_in_a_message(self, folder, text):
        template(folder, TURNS + text)
        assert "its chat template does not write" in refusal(folder)

    @pytest.mark.parametrize(
        "text",
        [
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{{ 'a' * 9999999999 }}",
            "{{ 'a' * 9999999 }}",
        ],
        ids=["endless", "too large for memory", "too long"],
    )
    def test_without_an_end_is_refused_within_seconds(self, folder, text, monkeypatch):
        monkeypatch.setattr(template_trial, "_SECONDS", 1)
        template(folder, TURNS + text)
        assert "does not come to an end" in refusal(folder)

    def test_without_an_end_is_refused_where_only_a_longer_conversation_meets_it(self, folder, monkeypatch):
        monkeypatch.setattr(template_trial, "_SECONDS", 1)
        template(folder, TURNS + "{% if messages | length > 2 %}{{ 'a' * 9999999999 }}{% endif %}")
        assert "does not come to an end" in refusal(folder)

    def test_that_is_huge_is_refused(self, folder):
        template(folder, TURNS + "{#" + "x" * 1_000_000 + "#}")
        assert "1,000,0" in refusal(folder)

    def test_of_ordinary_make_passes_the_trial(self):
        ordinary = "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ raise_exception('no') }}"
        assert template_trial._comes_to_an_end(ordinary, "{}")


class TestAdapterFolder:
    @pytest.fixture
    def sft(self, tmp_path):
        place = tmp_path / "sft"
        shutil.copytree(adapters()[0], place)
        return place

    @pytest.mark.parametrize(
        "settings",
        [
            {"peft_type": "ADALORA"},
            {"peft_type": None},
            {"init_lora_weights": "pissa"},
            {"corda_config": {"cache_file": "evil.pt"}, "init_lora_weights": "corda"},
            {"megatron_config": {"x": 1}, "megatron_core": "evil"},
            {"rank_pattern": {"(a+)+$": 4}},
            {"layer_replication": [[0, 2]]},
            {"use_dora": True},
        ],
        ids=lambda settings: next(iter(settings)) + str(len(settings)),
    )
    def test_asks_for_nothing_that_the_kit_never_does(self, sft, settings):
        change(sft, "adapter_config.json", **settings)
        with pytest.raises(ModelError, match=r"adapter_config\.json (sets|says)"):
            load_policy(toy_base().causal_lm(), sft)

    def test_names_no_other_base_and_no_class_that_is_loaded(self, sft):
        change(
            sft, "adapter_config.json", base_model_name_or_path="evil/model", revision="evil",
            auto_mapping={"base_model_class": "system", "parent_library": "os"}, modules_to_save=["lm_head"],
        )  # fmt: skip
        model = load_policy(toy_base().causal_lm(), sft)
        assert model.peft_config["default"].auto_mapping is None
        assert model.peft_config["default"].modules_to_save is None

    def test_with_a_pickle_alone_is_refused(self, sft, trap):
        (sft / "adapter_model.safetensors").unlink()
        (sft / "adapter_model.bin").write_bytes(pickle.dumps(Trap(trap)))
        with pytest.raises(ModelError, match=r"adapter_model\.safetensors: cannot be read"):
            load_policy(toy_base().causal_lm(), sft)

    @pytest.mark.parametrize("content", [b"", b"\xff" * 64, pickle.dumps("x")], ids=["empty", "noise", "pickle"])
    def test_with_damaged_weights_is_refused(self, sft, content):
        (sft / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="cannot be read"):
            load_policy(toy_base().causal_lm(), sft)

    @pytest.mark.parametrize("text", ["[]", "[" * 100_000, "{"], ids=["list", "deep", "cut"])
    def test_with_a_broken_note_of_its_base_is_refused(self, sft, text):
        (sft / "base.json").write_text(text)
        with pytest.raises(ModelError, match=r"base\.json: not readable"):
            load_policy(toy_base().causal_lm(), sft)
