"""An adapter knows the base it was trained on: it is refused on another, however alike, and taken on the same again."""

import json
import shutil

import pytest
import torch
from toy import adapters, base_folder, toy_base
from toy_stages import toy_config
from toy_tokenizers import CHATML
from transformers import AutoModelForCausalLM, AutoTokenizer

import kit
from kit.models.adapters import add_adapter, load_policy, new_reward
from kit.models.base import Base, find_base
from kit.models.encoding import Codec
from kit.models.identity import (
    BASE_FILE,
    recorded_revision,
    require_same_base,
    save_identity,
    tokenizer_sha256,
    weights_sha256,
)
from kit.runs.folder import RunFolder, StageRecord


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


COMMITS = ("a" * 40, "b" * 40)


@pytest.fixture
def branch(tmp_path, monkeypatch):
    """Moves `main` of the hub model toy/base, which is in the cache with two commits, to one of them; no connection."""
    from huggingface_hub import constants

    kept = tmp_path / "cache" / "models--toy--base"
    for commit in COMMITS:
        shutil.copytree(base_folder(), kept / "snapshots" / commit)
    with_other_weights(kept / "snapshots" / COMMITS[1])
    (kept / "refs").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return lambda commit: (kept / "refs" / "main").write_text(commit)


def config_of(tmp_path):
    found = toy_config(output_dir=str(tmp_path))
    return found.model_copy(update={"model": found.model.model_copy(update={"base": "toy/base"})})


class TestABranchOfTheHubThatMovesOn:
    def test_moves_no_base_between_its_tokenizer_and_its_weights(self, branch, tmp_path):
        branch(COMMITS[0])
        base = find_base(config_of(tmp_path))
        branch(COMMITS[1])
        model = base.causal_lm()
        assert base.settings.revision == COMMITS[0]
        first, same = next(model.parameters()), next(toy_base().causal_lm().parameters())
        assert torch.equal(first, same), "the weights of the commit that the tokenizer is of"
        save_identity(model, tmp_path)
        assert recorded_revision(tmp_path) == COMMITS[0]
        kept = json.loads((tmp_path / BASE_FILE).read_text())
        assert kept["weights_sha256"] == weights_sha256(str(base_folder()), None, None)

    def test_leaves_a_run_on_the_commit_of_its_sft_adapter(self, branch, tmp_path, monkeypatch):
        branch(COMMITS[1])
        config = config_of(tmp_path)
        made = tmp_path / "sft"
        made.mkdir()
        (made / BASE_FILE).write_text(json.dumps({"base": "toy/base", "revision": COMMITS[0]}))
        inputs = {"model": config.model.model_dump(mode="json")}
        monkeypatch.setattr(RunFolder, "stage", lambda self, name: StageRecord(name, made, inputs, 1.0, None, {}))
        assert find_base(config).settings.revision == COMMITS[0]
        inputs["model"]["base"] = "toy/other"
        assert find_base(config).settings.revision == COMMITS[1], "of another base nothing is taken"
