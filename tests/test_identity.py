"""An adapter knows the base it was trained on: it is refused on another, however alike, and taken on the same again."""

import json
import shutil

import pytest
import torch
from toy import adapters, base_folder, toy_base
from toy_tokenizers import CHATML
from transformers import AutoModelForCausalLM, AutoTokenizer

import kit
from kit.models.adapters import add_adapter, load_policy, new_reward
from kit.models.base import Base
from kit.models.encoding import Codec
from kit.models.identity import BASE_FILE, require_same_base, tokenizer_sha256, weights_sha256


@pytest.fixture
def copy(tmp_path):
    """The toy base in a folder of its own, to be changed."""
    shutil.copytree(base_folder(), tmp_path / "base")
    return tmp_path / "base"


def base_at(folder):
    toy = toy_base()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return Base(toy.settings.model_copy(update={"base": str(folder)}), str(folder), toy.precision, Codec(tokenizer))


def with_other_weights(folder):
    """As a later version of a model, or its chat variant: every shape is the same."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save_pretrained(folder)


def with_another_template(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)


class TestAnAdapterOfAnotherBase:
    @pytest.mark.parametrize(
        ("change", "what"),
        [(with_other_weights, "weights"), (with_another_template, "tokenizer or chat template")],
        ids=["weights", "template"],
    )
    def test_of_the_very_shapes_is_refused_by_every_stage_that_starts_from_it(self, copy, change, what):
        change(copy)
        base, sft = base_at(copy), adapters()[0]
        with pytest.raises(kit.ModelError, match=rf"trained on another base: .* \({what} \w+… there and \w+… here\)"):
            load_policy(base.causal_lm(), sft)
        with pytest.raises(kit.ModelError, match="trained on another base"):
            new_reward(base.scorer(), sft)

    def test_is_refused_beside_one_that_fits(self, tmp_path):
        other = tmp_path / "other"
        shutil.copytree(adapters()[1], other)
        written = json.loads((other / BASE_FILE).read_text())
        (other / BASE_FILE).write_text(json.dumps(written | {"base": "a/model", "hidden_size": 96}))
        model = load_policy(toy_base().causal_lm(), adapters()[0])
        with pytest.raises(kit.ModelError, match=r"another base: a/model, .*\(hidden size 96 there and 64 here\)"):
            add_adapter(model, "reward", other)


class TestAnAdapterOfThisBase:
    def test_is_taken_where_the_base_lies_elsewhere_now(self, copy):
        load_policy(base_at(copy).causal_lm(), adapters()[0])

    def test_is_taken_in_another_precision(self):
        load_policy(toy_base(nf4=True).causal_lm(), adapters()[0])

    def test_of_an_earlier_version_is_taken_unchecked(self, tmp_path):
        shutil.copytree(adapters()[0], tmp_path / "old")
        (tmp_path / "old" / BASE_FILE).unlink()
        load_policy(toy_base().causal_lm(), tmp_path / "old")

    def test_with_a_damaged_file_is_told(self, tmp_path):
        (tmp_path / BASE_FILE).write_text("{")
        with pytest.raises(kit.ModelError, match="not readable; remove it"):
            require_same_base(toy_base().causal_lm(), tmp_path)


class TestTheHashes:
    def test_of_weights_see_a_change_that_keeps_every_shape(self, copy):
        before = weights_sha256(str(copy), None, None)
        assert before == weights_sha256(str(base_folder()), None, None)
        with_other_weights(copy)
        assert weights_sha256(str(copy), None, None) not in (before, None)

    def test_of_a_base_without_safetensors_are_none(self, tmp_path):
        assert weights_sha256(str(tmp_path), None, None) is None

    def test_of_a_base_in_the_hubs_cache_are_those_of_its_folder(self, tmp_path, monkeypatch):
        from huggingface_hub import constants

        snapshot = tmp_path / "models--toy--base" / "snapshots" / ("a" * 40)
        shutil.copytree(base_folder(), snapshot)
        (tmp_path / "models--toy--base" / "refs").mkdir()
        (tmp_path / "models--toy--base" / "refs" / "main").write_text("a" * 40)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
        import functools

        import transformers.utils as utils

        monkeypatch.setattr(utils, "cached_file", functools.partial(utils.cached_file, cache_dir=str(tmp_path)))
        assert weights_sha256("toy/base", None, None) == weights_sha256(str(base_folder()), None, None)

    def test_of_a_tokenizer_do_not_depend_on_what_pads_or_on_which_side(self):
        one, other = (AutoTokenizer.from_pretrained(base_folder()) for _ in range(2))
        other.padding_side = "left"
        other(["a", "a b c"], padding=True, truncation=True, max_length=2)
        assert tokenizer_sha256(one) == tokenizer_sha256(other)
