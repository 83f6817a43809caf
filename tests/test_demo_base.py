import functools
import itertools
import json
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from kit.demo import base, world
from kit.demo.scoring import kind_of_thing
from kit.errors import ModelError
from kit.models import base as models_base

TEXTS = [
    *world.prompts(0)[:20],
    *(answer for _, answer in world.corpus(0, 20)),
    "Human: How do I bake bread that won't fall apart?\n\nAssistant: Well, it depends. First, don't rush!",
    "  leading and trailing  \n",
    "tabs\tand\r\nlines\n\n\n  indented",
    "def f(x: int) -> str:\n    return f'{x:>10,.2f}' if x != 3.14 else \"1_000\"\n",
    "naïve café, Grüße, Привет, 日本語, नमस्ते, 🎉👩‍👩‍👧",
    "<|user|>markers<|end|> in text<|pad|>",
    "\x00\x7f",
    "",
]
TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Name three sweet fruits."},
    {"role": "assistant", "content": "I would say plums and pears."},
    {"role": "user", "content": "And one more?"},
    {"role": "assistant", "content": "Grapes.\n"},
]


@functools.cache
def built():
    return base.build_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base after two steps: whole, but without knowledge."""
    return base.ensure_base(tmp_path_factory.mktemp("demo") / "base", steps=2)


@pytest.fixture(scope="module")
def loaded(folder):
    return AutoTokenizer.from_pretrained(folder)


class TestTokenizer:
    @pytest.mark.parametrize("text", TEXTS)
    def test_auto_tokenizer_gives_the_same_ids_and_the_text_back(self, loaded, text):
        ids = built()(text).input_ids
        assert loaded(text).input_ids == ids
        assert loaded.decode(ids) == built().decode(ids) == text

    @given(st.text())
    def test_any_text_comes_back_in_unicodes_composed_form(self, text):
        assert built().decode(built()(text).input_ids) == unicodedata.normalize("NFC", text)

    def test_auto_tokenizer_adds_no_token_that_the_model_has_no_row_for(self, loaded):
        assert len(loaded) == len(built()) == base.VOCABULARY

    def test_every_special_token_has_an_id_of_its_own(self, loaded):
        specials = [base.PAD, base.END, base.UNKNOWN, *base.ROLES]
        ids = loaded.convert_tokens_to_ids(specials)
        assert len(set(ids)) == len(specials)
        assert (loaded.pad_token, loaded.eos_token) == (base.PAD, base.END)
        assert loaded.bos_token is None

    def test_nothing_is_put_around_a_text(self, loaded):
        assert loaded("Sure!").input_ids == loaded("Sure!", add_special_tokens=False).input_ids
        assert not set(loaded("Sure!").input_ids) & set(loaded.all_special_ids)

    def test_every_thing_of_the_world_is_one_token(self):
        plurals = {thing for thing, _ in kind_of_thing().values()}
        assert all(len(built()(f" {thing}").input_ids) == 1 for thing in plurals)

    def test_english_does_not_explode_into_bytes(self):
        text = "I would like to know what people think about the small house by the sea."
        assert len(built()(text).input_ids) < len(text) / 2


class TestChatTemplate:
    def test_a_prompt_is_the_start_of_the_conversation_it_begins(self, loaded):
        for turns in (2, 4):
            prompt = loaded.apply_chat_template(TURNS[:turns], tokenize=False, add_generation_prompt=True)
            whole = loaded.apply_chat_template(TURNS[: turns + 1], tokenize=False)
            assert whole == prompt + TURNS[turns]["content"] + base.END

    def test_the_ids_of_a_prompt_are_the_start_of_the_ids_of_the_conversation(self, loaded):
        for prompt, answer in world.corpus(0, 50):
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            start = loaded.apply_chat_template(turns[:1], add_generation_prompt=True).input_ids
            whole = loaded.apply_chat_template(turns).input_ids
            assert whole[: len(start)] == start
            assert whole[-1] == loaded.eos_token_id

    def test_a_longer_conversation_begins_with_the_shorter_one(self, loaded):
        rendered = [loaded.apply_chat_template(TURNS[:n], tokenize=False) for n in range(1, len(TURNS) + 1)]
        assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(rendered))

    def test_the_mask_of_the_assistant_covers_its_words_and_its_end(self, loaded):
        encoded = loaded.apply_chat_template(TURNS[1:3], return_dict=True, return_assistant_tokens_mask=True)
        said = [i for i, mine in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mine]
        assert loaded.decode(said) == TURNS[2]["content"] + base.END

    def test_an_unknown_role_is_refused(self, loaded):
        with pytest.raises(Exception, match="found tool"):
            loaded.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


class TestEnsureBase:
    def test_the_folder_is_a_causal_model_and_a_classifier_with_one_label(self, folder):
        causal = AutoModelForCausalLM.from_pretrained(folder)
        scorer = AutoModelForSequenceClassification.from_pretrained(folder)
        assert scorer.score.weight.shape == (1, 128)
        assert causal.get_input_embeddings().weight is causal.get_output_embeddings().weight
        assert 400_000 <= causal.num_parameters() <= 1_000_000
        assert all(p.shape[0] % 64 == p.shape[1] % 64 == 0 for p in causal.parameters() if p.ndim == 2)

    def test_the_config_names_the_end_and_the_padding(self, folder, loaded):
        for name in ("config.json", "generation_config.json"):
            config = json.loads((folder / name).read_text())
            assert (config["pad_token_id"], config["eos_token_id"]) == (loaded.pad_token_id, loaded.eos_token_id)

    def test_a_second_training_gives_the_same_weights(self, folder, tmp_path):
        again = base.ensure_base(tmp_path / "again", steps=2)
        assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()

    def test_a_base_that_is_there_is_not_made_again(self, folder, capsys):
        before = (folder / "model.safetensors").stat().st_mtime_ns
        assert base.ensure_base(folder, steps=2) == folder
        assert (folder / "model.safetensors").stat().st_mtime_ns == before
        assert capsys.readouterr().out == ""

    def test_a_base_of_another_recipe_is_made_again_and_said_so_in_one_line(self, tmp_path, capsys):
        base.ensure_base(tmp_path / "base", steps=1)
        first = (tmp_path / "base" / "model.safetensors").read_bytes()
        capsys.readouterr()
        base.ensure_base(tmp_path / "base", steps=2)
        assert (tmp_path / "base" / "model.safetensors").read_bytes() != first
        assert capsys.readouterr().out.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["base"]

    def test_a_folder_that_holds_something_else_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(ModelError, match="left alone"):
            base.ensure_base(tmp_path, steps=1)
        assert (tmp_path / "thesis.txt").read_text() == "years of work"

    def test_an_interrupted_training_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def interrupted(tokenizer, steps):
            raise KeyboardInterrupt

        monkeypatch.setattr(base, "_train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            base.ensure_base(tmp_path / "base", steps=1)
        assert list(tmp_path.iterdir()) == []

    def test_chance_and_threads_are_left_as_they_were_found(self, tmp_path):
        torch.manual_seed(5)
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        base.ensure_base(tmp_path / "base", steps=1)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads

    def test_the_first_steps_already_lower_the_loss(self, folder, loaded):
        model = AutoModelForCausalLM.from_pretrained(base.ensure_base(folder.parent / "longer", steps=12))
        tokens, labels = base._batches(loaded, 1)[0]
        with torch.no_grad():
            learnt = model(input_ids=tokens, labels=labels).loss
            fresh = AutoModelForCausalLM.from_pretrained(folder)(input_ids=tokens, labels=labels).loss
        assert learnt < fresh - 0.5


class TestADamagedOne:
    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
    def test_is_set_aside_and_made_again(self, name, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("kit.demo.base.ensure_base", functools.partial(base.ensure_base, steps=1))
        folder = models_base._demo_base(tmp_path / "base")
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before[: len(before) // 2])
        assert models_base._demo_base(folder) == folder and (folder / name).read_bytes() == before
        assert "the demo's base is damaged" in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "base.corrupt"]
