"""Shapes: every model of the table against transformers and against its published size; models of no table."""

import json
import time

import pytest

from kit.config import Config, ModelSettings
from kit.errors import ModelError
from kit.models.plan.choice import choose, on_gpu
from kit.models.plan.planner import base_shape
from kit.models.plan.shape import FAMILIES, _by_transformers, shape_of
from kit.models.plan.table import MODELS

# Parameters as the models' hub pages count them, a tied head once. Written down from memory; the counts of Qwen2.5-7B,
# Llama-3.1-8B and Mistral-Small-24B were then found in public listings.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mistral-Small-24B-Base-2501": 23_572_403_200,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-pt": 999_885_952,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "HuggingFaceTB/SmolLM3-3B-Base": 3_075_098_624,
}
NEOX = {
    "model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 256, "vocab_size": 1000, "tie_word_embeddings": False,
}  # fmt: skip


def folder(tmp_path, fields):
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return ModelSettings(base=str(tmp_path))


class TestTheTable:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_has_the_published_parameters(self, name):
        assert shape_of(MODELS[name], name).parameters == PUBLISHED[name]

    def test_has_no_model_whose_size_is_not_checked(self):
        checked = [MODELS[name] for name in (*PUBLISHED, "demo")]
        assert [name for name, fields in MODELS.items() if fields not in checked] == []

    @pytest.mark.parametrize("name", [*PUBLISHED, "demo"])
    def test_counts_as_transformers_does(self, name):
        """The same fields, built on the device `meta`."""
        ours, built = shape_of(MODELS[name], name), _by_transformers(MODELS[name], name)
        assert set(ours.linears) == set(built.linears)
        for what in ("parameters", "linear_weights", "biases", "head", "others", "kv_heads", "head_dim", "tied"):
            assert getattr(ours, what) == getattr(built, what), what
        assert ours.eager_attention == built.eager_attention

    def test_holds_the_demos_base(self):
        from kit.demo.base import _config, build_tokenizer

        made = _config(build_tokenizer()).to_dict()
        assert {name: made[name] for name in MODELS["demo"]} == MODELS["demo"]

    def test_needs_seconds_for_the_largest_model(self):
        started = time.perf_counter()
        _by_transformers(MODELS["Qwen/Qwen2.5-32B"], "a model that is built")
        assert time.perf_counter() - started < 2


class TestAModelOfNoTable:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_of_a_known_family_counts_as_transformers_does_with_any_sizes(self, family, tmp_path):
        fields = {
            "model_type": family, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "head_dim": 16,
            "num_key_value_heads": 2, "intermediate_size": 200, "vocab_size": 777, "tie_word_embeddings": False,
            "pad_token_id": None,
        }  # fmt: skip
        ours, built = base_shape(folder(tmp_path, fields)), _by_transformers(fields, family)
        assert (set(ours.linears), ours.parameters) == (set(built.linears), built.parameters)

    @pytest.mark.parametrize("setting", ["attention_bias", "mlp_bias"])
    def test_may_have_biases(self, setting):
        fields = MODELS["HuggingFaceTB/SmolLM2-135M"] | {setting: True}
        ours, built = shape_of(fields, "x"), _by_transformers(fields, "x")
        assert (set(ours.linears), ours.parameters) == (set(built.linears), built.parameters)

    def test_of_gpt_2_has_linear_layers_of_its_own_kind(self, tmp_path):
        """124,439,808 parameters, as published; 12 layers of 12 x 768 x 768 weights in `Conv1D`."""
        fields = {
            "model_type": "gpt2",
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
        }
        shape = base_shape(folder(tmp_path, fields))
        assert (shape.parameters, shape.linear_weights) == (124_439_808, 12 * 12 * 768**2)
        made = Config(model={"base": str(tmp_path)})
        assert choose(made, shape, "ppo", 8 * 2**30, on_gpu(made)).sizes.micro == 4

    def test_of_another_family_is_counted_by_transformers(self, tmp_path):
        shape = base_shape(folder(tmp_path, NEOX))
        one_layer = 64 * 192 + 192 + 64 * 64 + 64 + 2 * 64 * 256 + 256 + 64 + 4 * 64
        assert shape.parameters == 2 * one_layer + 2 * 1000 * 64 + 2 * 64
        assert {linear.name for linear in shape.linears} == {
            "query_key_value",
            "dense",
            "dense_h_to_4h",
            "dense_4h_to_h",
        }

    def test_that_is_no_language_model_is_refused_with_a_reason(self, tmp_path):
        with pytest.raises(ModelError, match=r"config\.json \(model_type 'vit'\) describes no causal language model"):
            base_shape(folder(tmp_path, {"model_type": "vit"}))

    def test_without_a_config_is_refused(self, tmp_path):
        with pytest.raises(ModelError, match=r"config\.json cannot be read"):
            base_shape(ModelSettings(base=str(tmp_path)))

    def test_on_the_hub_alone_is_refused_offline_with_what_is_needed(self):
        with pytest.raises(ModelError, match=r"not in the kit's table.*config\.json alone, no weights"):
            base_shape(ModelSettings(base="nobody/unheard-of-7b"))

    def test_in_the_hubs_cache_is_read_there(self, tmp_path, monkeypatch):
        file = tmp_path / "config.json"
        file.write_text(json.dumps(MODELS["Qwen/Qwen2.5-3B"]))
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(file))
        assert base_shape(ModelSettings(base="somebody/finetuned-3b")).parameters == PUBLISHED["Qwen/Qwen2.5-3B"]
