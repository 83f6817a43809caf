"""The tokenizer: pad ends no turn, a text comes back, a template is there, and what does not fit is refused."""

import json
import shutil
from pathlib import Path

import pytest
from toy_tokenizers import CHATML, byte_level, character_level, word_level
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
)

from kit.config import ModelSettings
from kit.demo.base import build_tokenizer
from kit.errors import ModelError
from kit.models import tokenizer as unit
from kit.models.tokenizer import (
    DEFAULT_CHAT_TEMPLATE,
    end_of_turn_id,
    end_of_turn_ids,
    hub_answers,
    hub_or_cache,
    load_tokenizer,
    model_error,
    special_texts,
)


@pytest.fixture
def save(tmp_path):
    """Saves a tokenizer beside a model's config, with as many embeddings as it has ids and `spare` more."""

    def save(tokenizer, config: type[PretrainedConfig] = LlamaConfig, spare: int = 0, stops=None) -> Path:
        folder = tmp_path / "base"
        tokenizer.save_pretrained(folder)
        rows = max(tokenizer.get_vocab().values()) + 1 + spare
        config(vocab_size=rows, eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
        if stops is not None:
            GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
        return folder

    return save


def load(folder: Path):
    return load_tokenizer(ModelSettings(base=str(folder)), folder)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    return str(caught.value)


def assert_pad_is_free(tokenizer, rows: int) -> None:
    """Pad ends no turn, needs no new embedding row, and its text is one token."""
    assert tokenizer.pad_token_id not in end_of_turn_ids(tokenizer)
    assert tokenizer.pad_token_id < rows
    assert tokenizer.convert_tokens_to_ids(tokenizer.pad_token) == tokenizer.pad_token_id


class TestPad:
    def test_of_the_demo_is_kept(self, save):
        assert load(save(build_tokenizer(), Qwen2Config)).pad_token == "<|pad|>"

    def test_a_pad_of_its_own_is_kept(self, save):
        tokenizer = byte_level(eos_token="<|end|>", pad_token="<blank>")
        assert load(save(tokenizer)).pad_token == "<blank>"

    @pytest.mark.parametrize("name", ["<|finetune_right_pad_id|>", "<|fim_pad|>", "<pad>", "<unk>"])
    def test_equal_to_eos_gives_way_to_a_token_made_for_it(self, save, name):
        tokenizer = byte_level(name, eos_token="<|end|>", pad_token="<|end|>")
        loaded = load(save(tokenizer, GPT2Config))
        assert loaded.pad_token == name
        assert_pad_is_free(loaded, len(tokenizer))

    def test_equal_to_eos_gives_way_to_a_reserved_token(self, save):
        tokenizer = byte_level("<|reserved_special_token_0|>", eos_token="<|end|>", pad_token="<|end|>")
        assert load(save(tokenizer)).pad_token == "<|reserved_special_token_0|>"

    def test_takes_a_spare_embedding_row_where_there_is_one(self, save):
        tokenizer = byte_level(eos_token="<|end|>")
        loaded = load(save(tokenizer, spare=1))
        assert (loaded.pad_token, loaded.pad_token_id) == ("<|pad|>", len(tokenizer))
        assert_pad_is_free(loaded, len(tokenizer) + 1)

    @pytest.mark.parametrize("config", [GPT2Config, LlamaConfig, Qwen2Config])
    def test_takes_the_nul_byte_where_nothing_else_is_free(self, save, config):
        tokenizer = byte_level(eos_token="<|endoftext|>")
        loaded = load(save(tokenizer, config))
        assert loaded.pad_token_id == tokenizer("\0", add_special_tokens=False)["input_ids"][0]
        assert_pad_is_free(loaded, len(tokenizer))

    def test_equal_to_the_templates_end_of_turn_gives_way(self, save):
        tokenizer = byte_level(
            "<|im_start|>", "<pad>", eos_token="<|end|>", pad_token="<|im_end|>", chat_template=CHATML
        )
        assert load(save(tokenizer)).pad_token == "<pad>"

    def test_that_the_models_own_generation_config_stops_at_gives_way(self, save):
        """Qwen2.5-Instruct: pad is <|endoftext|>, and its generation config stops at that as well as at <|im_end|>."""
        tokenizer = byte_level("<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML)
        stops = [tokenizer.eos_token_id, tokenizer.pad_token_id]
        loaded = load(save(tokenizer, Qwen2Config, spare=8, stops=stops))
        assert loaded.pad_token_id not in stops
        assert_pad_is_free(loaded, len(tokenizer) + 8)

    def test_is_never_a_token_the_generation_config_stops_at(self, save):
        tokenizer = byte_level("<pad>", "<unk>", eos_token="<|end|>")
        stops = tokenizer.convert_tokens_to_ids(["<|end|>", "<pad>"])
        assert load(save(tokenizer, stops=stops)).pad_token == "<unk>"

    def test_is_refused_where_no_token_is_free(self, save):
        text = refusal(save(character_level(eos_token="<|end|>", pad_token="<|end|>")))
        assert "padding must differ from the end-of-turn token, and no token is free" in text

    def test_that_was_chosen_is_told(self, save, capsys):
        load(save(byte_level("<pad>", eos_token="<|end|>")))
        assert "'<pad>' pads (it must differ from the end-of-turn token)" in capsys.readouterr().out

    def test_stays_the_same_when_it_is_saved_with_an_adapter_and_loaded_without_the_kit(self, save, tmp_path):
        loaded = load(save(byte_level(eos_token="<|endoftext|>"), Qwen2Config))
        loaded.save_pretrained(tmp_path / "adapter")
        again = AutoTokenizer.from_pretrained(tmp_path / "adapter")
        assert again.pad_token_id == loaded.pad_token_id
        assert again("the cat\0")["input_ids"] == loaded("the cat\0")["input_ids"]

    def test_stands_on_the_left_for_generation(self, save):
        loaded = load(save(build_tokenizer(), Qwen2Config))
        assert loaded(["the", "the cat and the dog"], padding=True)["attention_mask"][0][0] == 0


class TestChatTemplate:
    def test_of_the_model_is_kept(self, save):
        tokenizer = byte_level("<|im_start|>", "<pad>", eos_token="<|im_end|>", chat_template=CHATML)
        assert load(save(tokenizer)).chat_template == CHATML

    def test_a_plain_one_is_chosen_where_there_is_none(self, save, capsys):
        loaded = load(save(byte_level("<pad>", eos_token="<|end|>")))
        assert loaded.chat_template == DEFAULT_CHAT_TEMPLATE
        assert "has no chat template" in capsys.readouterr().out

    def test_the_plain_one_is_saved_with_the_tokenizer(self, save, tmp_path):
        load(save(byte_level("<pad>", eos_token="<|end|>"))).save_pretrained(tmp_path / "adapter")
        assert AutoTokenizer.from_pretrained(tmp_path / "adapter").chat_template == DEFAULT_CHAT_TEMPLATE

    def test_the_plain_one_ends_an_answer_with_the_models_eos(self, save):
        loaded = load(save(byte_level("<pad>", eos_token="<|end|>")))
        turns = [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ]
        text = loaded.apply_chat_template(turns, tokenize=False)
        assert text == "Be kind.\n\nUser: Hi\n\nAssistant: Hello<|end|>\n\n"

    def test_the_plain_ones_prompt_is_a_prefix_of_the_whole(self, save):
        loaded = load(save(byte_level("<pad>", eos_token="<|end|>", bos_token="<s>")))
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        prompt = loaded.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
        assert loaded.apply_chat_template(turns, tokenize=False).startswith(prompt) and prompt.startswith("<s>User:")

    def test_one_that_cannot_be_rendered_is_refused(self, save):
        broken = "{{ raise_exception('only robots may speak') }}"
        text = refusal(save(byte_level("<pad>", eos_token="<|end|>", chat_template=broken)))
        assert "chat template" in text and "only robots may speak" in text

    def test_one_that_leaves_the_answer_out_is_refused(self, save):
        silent = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
        template = silent.replace("m.content", "'?'")
        assert "chat template" in refusal(save(byte_level("<pad>", eos_token="<|end|>", chat_template=template)))


class TestRoundTrip:
    @pytest.mark.parametrize("config", [GPT2Config, LlamaConfig, Qwen2Config])
    def test_a_byte_level_tokenizer_gives_a_text_back(self, save, config):
        load(save(byte_level("<pad>", eos_token="<|endoftext|>"), config))

    @pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config])
    def test_a_tokenizer_that_loses_english_is_refused(self, save, config):
        """Beside a Qwen2 config AutoTokenizer takes Qwen2's class, whatever was saved: training "worked" on garbage."""
        text = refusal(save(word_level(eos_token="<|end|>", pad_token="<pad>"), config))
        assert "does not give a text back" in text and "Training on it would learn garbage" in text

    def test_a_tokenizer_that_loses_other_alphabets_is_told(self, save, capsys):
        load(save(character_level(eos_token="<|end|>", pad_token="<pad>")))
        assert "does not give back unchanged: " in capsys.readouterr().err


class TestFit:
    def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(self, save):
        text = refusal(save(byte_level("<pad>", eos_token="<|end|>"), spare=-1))
        assert "the tokenizer belongs to another model" in text and "embeddings" in text

    def test_fewer_ids_than_embeddings_are_normal(self, save):
        load(save(byte_level("<pad>", eos_token="<|end|>"), spare=100))

    def test_a_tokenizer_without_eos_is_refused(self, save):
        assert "has no EOS token" in refusal(save(byte_level("<pad>")))


class TestTheTokenizerOfAnotherModel:
    def test_is_said_where_the_models_end_is_an_ordinary_word_of_it(self, save, capsys):
        load(save(byte_level("<pad>", eos_token="<|end|>"), stops=[65]))
        said = capsys.readouterr().err
        assert "the model ends its answers with token 65 (" in said and "tokenizer of another model?" in said

    def test_is_said_where_the_tokenizer_has_no_such_id(self, save, capsys):
        load(save(byte_level("<pad>", eos_token="<|end|>"), stops=50_256))
        assert "with token 50256 (None)" in capsys.readouterr().err

    def test_is_not_said_where_one_of_the_models_ends_is_special(self, save, capsys):
        tokenizer = byte_level("<pad>", eos_token="<|end|>")
        load(save(tokenizer, stops=[65, tokenizer.eos_token_id]))
        assert "another model" not in capsys.readouterr().err


class TestASavedCopy:
    """Every adapter folder carries the tokenizer, and is loaded without the kit."""

    def test_that_splits_text_otherwise_is_refused(self, save, monkeypatch):
        folder, real = save(byte_level("<pad>", eos_token="<|end|>")), AutoTokenizer.from_pretrained
        other = byte_level("<pad>", eos_token="<|end|>", vocabulary=320)
        monkeypatch.setattr(
            AutoTokenizer, "from_pretrained", lambda at, **more: real(at, **more) if at == folder else other
        )
        assert "is saved and comes back as another one" in refusal(folder)

    def test_that_pads_otherwise_is_refused(self, save, monkeypatch):
        tokenizer = byte_level("<pad>", "<|end|>", eos_token="<|end|>", pad_token="<pad>")
        folder, keep = save(tokenizer), type(tokenizer).save_pretrained

        def without_pad(self, place, **more):
            self.pad_token, pad = None, self.pad_token
            keep(self, place, **more)
            self.pad_token = pad

        monkeypatch.setattr(type(tokenizer), "save_pretrained", without_pad)
        assert "is saved and comes back as another one" in refusal(folder)


class TestUnknownModel:
    @pytest.fixture
    def seconds(self):
        """Importing the library is not the point here; a retry without a connection would take 24 s."""
        import huggingface_hub
        from transformers import AutoConfig  # noqa: F401

        assert huggingface_hub.constants.HF_HUB_OFFLINE
        yield

    def text_of(self, base: str) -> str:
        with pytest.raises(ModelError) as caught:
            load_tokenizer(ModelSettings(base=base), base)
        return str(caught.value)

    def test_an_unknown_hub_id_is_told_within_seconds(self, seconds):
        text = self.text_of("nobody/no-such-model")
        assert text.startswith("model.base nobody/no-such-model: not in the local cache, and the hub could not be")

    @pytest.mark.parametrize("base", ["./no-such-folder", "no-such-folder", "/no/such/folder", "~/no-such-folder"])
    def test_an_unknown_folder_is_told_within_seconds(self, seconds, base):
        assert self.text_of(base).startswith(f"model.base {base}: no such folder, and not a hub id")

    def test_a_folder_without_a_model_is_told(self, tmp_path):
        assert f"model.base {tmp_path}: cannot be loaded from this folder: " in self.text_of(str(tmp_path))

    def test_a_folder_without_a_tokenizer_is_told(self, tmp_path):
        LlamaConfig(vocab_size=8).save_pretrained(tmp_path)
        assert "cannot be loaded from this folder: " in self.text_of(str(tmp_path))

    def test_a_damaged_tokenizer_is_told(self, save):
        folder = save(byte_level("<pad>", eos_token="<|end|>"))
        (folder / "tokenizer.json").write_text("{")
        assert "cannot be loaded from this folder: " in refusal(folder)

    def test_a_model_with_code_of_its_own_is_told(self, save):
        folder = save(byte_level("<pad>", eos_token="<|end|>"))
        (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
        assert "needs Python code of its own, which the kit never runs" in refusal(folder)


class TestModelError:
    def text_of(self, error: Exception, base: str = "org/model") -> str:
        return str(model_error(ModelSettings(base=base), error))

    @pytest.mark.parametrize(
        "text", ["401 Client Error.", "403 Client Error: Forbidden", "You are trying to access a gated repo."]
    )
    def test_a_refusal_of_the_hub_names_the_licence(self, text):
        assert "the hub refused access" in self.text_of(OSError(text))

    def test_an_unknown_id_is_told(self):
        error = OSError("org/model is not a local folder and is not a valid model identifier")
        assert "no such model on the hub" in self.text_of(error)

    def test_a_number_in_the_name_is_no_answer_of_the_hub(self):
        error = OSError("We couldn't connect to 'https://huggingface.co' to load org/gated-401")
        assert "could not be reached" in self.text_of(error, "org/gated-401")

    def test_a_number_in_a_folders_name_is_no_answer_of_the_hub(self, tmp_path):
        (tmp_path / "gated-401").mkdir()
        base = str(tmp_path / "gated-401")
        assert "cannot be loaded from this folder: bad file" in self.text_of(OSError(f"bad file {base}"), base)

    def test_another_error_is_shown_in_its_first_line(self):
        assert self.text_of(ValueError("unknown architecture `foo`\nmore")).endswith(
            "loaded: unknown architecture `foo`"
        )


class TestHubAnswers:
    """Asked before transformers is, which retries a dead connection for 24 s a file."""

    @pytest.fixture
    def hub(self, monkeypatch):
        """Lets the hub answer with an error, or None."""
        import huggingface_hub

        asked = []

        def answer(error):
            def model_info(self, repo, revision=None, timeout=None):
                asked.append((repo, revision, timeout))
                if error is not None:
                    raise error

            monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
            return asked

        return answer

    def ask(self, base="org/model", revision=None) -> bool:
        return hub_answers(ModelSettings(base=base, revision=revision), base)

    def status(self, code: int) -> Exception:
        from types import SimpleNamespace

        from huggingface_hub.errors import HfHubHTTPError

        error = HfHubHTTPError.__new__(HfHubHTTPError)
        error.response = SimpleNamespace(status_code=code)
        return error

    def test_yes_where_it_knows_the_model(self, hub):
        hub(None)
        assert self.ask()

    @pytest.mark.parametrize("code", [401, 403, 404])
    def test_yes_where_it_refuses(self, hub, code):
        hub(self.status(code))
        assert self.ask()

    @pytest.mark.parametrize("error", [ConnectionError(), TimeoutError(), OSError()])
    def test_no_without_a_connection(self, hub, error):
        hub(error)
        assert not self.ask()

    def test_no_where_it_is_broken(self, hub):
        hub(self.status(503))
        assert not self.ask()

    def test_asks_once_for_that_revision_and_not_for_long(self, hub):
        asked = hub(None)
        self.ask(revision="abc")
        assert asked == [("org/model", "abc", unit._CONNECT_SECONDS)] and unit._CONNECT_SECONDS <= 5

    def test_is_not_asked_about_a_folder(self, hub, tmp_path):
        asked = hub(None)
        self.ask(str(tmp_path))
        assert asked == []


class TestHubOrCache:
    @pytest.fixture
    def reachable(self, monkeypatch):
        """A machine that may use the hub, which answers or not."""
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        return lambda answer: monkeypatch.setattr(unit, "hub_answers", lambda *_: answer)

    @pytest.mark.parametrize("answer", [True, False])
    def test_reads_the_cache_alone_where_the_hub_does_not_answer(self, reachable, answer):
        import huggingface_hub

        reachable(answer)
        with hub_or_cache(ModelSettings(base="org/model"), "org/model"):
            assert huggingface_hub.constants.HF_HUB_OFFLINE is not answer

    def test_leaves_the_library_as_it_was_also_after_an_error(self, reachable):
        import huggingface_hub

        reachable(False)
        with pytest.raises(KeyError), hub_or_cache(ModelSettings(base="org/model"), "org/model"):
            raise KeyError
        assert huggingface_hub.constants.HF_HUB_OFFLINE is False

    def test_a_cached_model_is_found_at_once(self, reachable, save, monkeypatch, tmp_path):
        import huggingface_hub

        reachable(False)
        folder, commit = save(byte_level("<pad>", eos_token="<|end|>")), "a" * 40
        cache = tmp_path / "cache" / "models--org--model"
        shutil.copytree(folder, cache / "snapshots" / commit)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(commit)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        assert load_tokenizer(ModelSettings(base="org/model"), "org/model").pad_token == "<pad>"


class TestEndOfTurn:
    def test_of_chatml_is_im_end_and_not_eos(self):
        tokenizer = byte_level("<|im_start|>", "<|im_end|>", eos_token="<|end|>", chat_template=CHATML)
        assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")

    def test_of_a_template_that_writes_none_is_eos(self):
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        tokenizer = byte_level(eos_token="<|end|>", chat_template=template)
        assert end_of_turn_id(tokenizer) == tokenizer.eos_token_id

    def test_all_ids_hold_the_templates_first_then_eos_then_the_generation_configs_once_each(self):
        tokenizer = byte_level("<|im_start|>", "<|im_end|>", "<x>", eos_token="<|end|>", chat_template=CHATML)
        im_end, x = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<x>"])
        assert end_of_turn_ids(tokenizer, [im_end, x]) == [im_end, tokenizer.eos_token_id, x]

    def test_one_id_may_be_given_bare(self):
        tokenizer = build_tokenizer()
        assert end_of_turn_ids(tokenizer, 3) == [tokenizer.eos_token_id, 3]


class TestSpecialTexts:
    def test_hold_roles_end_and_pad(self):
        assert {"<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"} <= set(special_texts(build_tokenizer()))

    def test_hold_the_nul_byte_once_it_pads(self, save):
        assert "\u0100" in special_texts(load(save(byte_level(eos_token="<|end|>"))))

    def test_hold_no_ordinary_word(self):
        assert not {"the", " ", ""} & set(special_texts(build_tokenizer()))
