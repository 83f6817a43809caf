"""The tokenizer, set right once for all stages.

pad is never an end-of-turn token (TRL 1.12 masked the EOS away where they were equal); the template's own
end-of-turn is among the ids that end a response; a text comes back unchanged; a model without a chat
template gets one that needs no new token, and it is saved with every adapter.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit import notices
from kit.config import ModelSettings
from kit.errors import ModelError
from kit.models.outside import check_folder
from kit.models.template_trial import check_template

# A template for base models: plain words, no token the model has never seen; a turn ends with the model's own EOS.
DEFAULT_CHAT_TEMPLATE = (
    "{%- if bos_token %}{{ bos_token }}{% endif -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{{ message.content + '\n\n' }}"
    "{%- elif message.role == 'user' -%}{{ 'User: ' + message.content + '\n\n' }}"
    "{%- else -%}{{ 'Assistant: ' + message.content + eos_token + '\n\n' }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)
_PAD_NAMES = (
    "<|finetune_right_pad_id|>", "<|fim_pad|>", "<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<unk>", "[UNK]",
)  # fmt: skip
_CONNECT_SECONDS = 5.0
_NUL = "\u0100"  # how byte-level BPE writes the byte 0, which no text of ours holds
_ROUND_TRIP = (
    "Hello, world! It's 3:45 p.m., isn't it?",
    "Two  spaces, a tab\tand a\nnew line.",
    "def f(x):\n    return x ** 2  # code",
    "Zażółć gęślą jaźń; 你好; 😀",
)


def load_tokenizer(settings: ModelSettings, base: str | Path) -> Any:
    """The base's tokenizer, ready for every stage: left padding, a pad token of its own, a chat template.

    Raises ModelError where there is no such model, where the tokenizer does not give a text back, or where no
    token is free for padding.
    """
    from transformers import AutoConfig, AutoTokenizer

    with hub_or_cache(settings, base):
        check_folder(settings, base)
        try:
            config = AutoConfig.from_pretrained(base, revision=settings.revision, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(base, revision=settings.revision, trust_remote_code=False)
            also = generation_stops(settings, base)
        except Exception as error:
            raise model_error(settings, error) from None
    check_template(tokenizer, settings)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.base {settings.base}: its tokenizer has no EOS token; choose a causal language model")
    rows = config.get_text_config().vocab_size
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"model.base {settings.base}: the tokenizer has ids up to {highest}, the model only {rows} embeddings; "
            "the tokenizer belongs to another model"
        )
    tokenizer.padding_side = "left"
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        notices.say(f"{settings.base} has no chat template: a plain one (User: … Assistant: …) is used and saved")
    stops = _end_of_turn_ids_checked(tokenizer, settings, also)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in stops:
        _choose_pad(tokenizer, rows, settings, stops)
    _check_round_trip(tokenizer, settings)
    _check_model_ends_in_its_words(tokenizer, settings, also)
    _check_saved_copy(tokenizer, settings)
    return tokenizer


@contextmanager
def hub_or_cache(settings: ModelSettings, base: str | Path) -> Iterator[None]:
    """Inside, the libraries read the cache alone where the hub cannot be reached.

    Left to themselves they retry a dead connection for 24 s a file, even for files that are in the cache.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub_answers(settings, base)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_answers(settings: ModelSettings, base: str | Path) -> bool:
    """Whether the hub can be asked about the model: False for a folder, and without a connection within seconds."""
    import huggingface_hub
    from huggingface_hub import errors

    if Path(base).exists():
        return False
    try:
        huggingface_hub.HfApi().model_info(str(base), revision=settings.revision, timeout=_CONNECT_SECONDS)
    except errors.HFValidationError:
        return False
    except errors.HfHubHTTPError as error:
        return error.response.status_code < 500  # it refuses: transformers will say so
    except Exception:  # offline mode, no route, no name, timeout: each HTTP library has its own classes for them
        return False
    return True


def end_of_turn_id(tokenizer: Any) -> int:
    """The token the chat template writes at the end of an assistant's turn; the tokenizer's EOS if it writes none."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    tail = tokenizer(text[text.rindex("b") + 1 :], add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    return next((token for token in tail if token in special), tokenizer.eos_token_id)


def end_of_turn_ids(tokenizer: Any, also: int | list[int] | None = None) -> list[int]:
    """Every id that ends a response: the template's, the tokenizer's EOS, and the generation config's (`also`)."""
    more = also if isinstance(also, list) else [also]
    return list(dict.fromkeys(i for i in [end_of_turn_id(tokenizer), tokenizer.eos_token_id, *more] if i is not None))


def special_texts(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer reads as special tokens; inside a user's text they would inject turns."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*tokenizer.all_special_tokens, *added} - {""})


def model_error(settings: ModelSettings, error: Exception) -> ModelError:
    """A library's error about a base model, in one line that says what to do."""
    text = str(error)
    name = f"model.base {settings.base}"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    if "trust_remote_code" in text:
        return ModelError(f"{name}: needs Python code of its own, which the kit never runs; choose a model without")
    if Path(settings.base).exists():
        return ModelError(f"{name}: cannot be loaded from this folder: {first}")
    if re.search(r"\b40[13]\b|gated repo", text.replace(settings.base, ""), re.IGNORECASE):
        return ModelError(f"{name}: the hub refused access. Accept its licence there and log in with `hf auth login`")
    if "/" not in settings.base or settings.base.startswith((".", "/", "~")):
        return ModelError(f"{name}: no such folder, and not a hub id (a hub id looks like Qwen/Qwen2.5-0.5B-Instruct)")
    if "404" in text or "RepositoryNotFound" in type(error).__name__ or "is not a valid model identifier" in text:
        return ModelError(f"{name}: no such model on the hub (or it is private). Check the spelling and model.revision")
    if "connect" in text or "offline" in text:
        return ModelError(
            f"{name}: not in the local cache, and the hub could not be reached. Check the spelling and the network, "
            "or give a local folder"
        )
    return ModelError(f"{name}: cannot be loaded: {first}")


def generation_stops(settings: ModelSettings, base: str | Path) -> int | list[int] | None:
    """The ids at which the base itself ends a response, of which it may name more than its tokenizer does.

    Qwen2.5-Instruct pads with one of them, and a pad that ends a turn would stop the run at PPO.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(base, revision=settings.revision).eos_token_id
    except OSError:  # there is none: transformers then takes the model's
        config = AutoConfig.from_pretrained(base, revision=settings.revision, trust_remote_code=False)
        return getattr(config.get_text_config(), "eos_token_id", None)


def _end_of_turn_ids_checked(tokenizer: Any, settings: ModelSettings, also: int | list[int] | None) -> list[int]:
    """`end_of_turn_ids`; raises ModelError where the chat template cannot be rendered at all."""
    try:
        return end_of_turn_ids(tokenizer, also)
    except Exception as error:  # a template may raise whatever Python does
        raise ModelError(
            f"model.base {settings.base}: its chat template does not write a user's and an assistant's turn: {error}"
        ) from None


def _choose_pad(tokenizer: Any, rows: int, settings: ModelSettings, stops: list[int]) -> None:
    """Take a token for padding that ends no turn and needs no new embedding row."""
    vocab = tokenizer.get_vocab()
    reserved = [t for t in vocab if "reserved_special_token" in t or "extra_id" in t]
    found = next((t for t in (*_PAD_NAMES, *sorted(reserved)) if t in vocab and vocab[t] not in stops), None)
    if found is not None:
        tokenizer.pad_token = found
    elif max(vocab.values()) + 1 < rows:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    elif _NUL in vocab:
        tokenizer.pad_token = _NUL
    else:
        raise ModelError(
            f"model.base {settings.base}: padding must differ from the end-of-turn token, and no token is free for "
            "it; use a model with a pad or reserved token"
        )
    notices.say(f"{settings.base}: {tokenizer.pad_token!r} pads (it must differ from the end-of-turn token)")


def _check_round_trip(tokenizer: Any, settings: ModelSettings) -> None:
    """Refuse a tokenizer that loses English, warn where it loses other text."""
    lost = []
    for text in _ROUND_TRIP:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids, clean_up_tokenization_spaces=False).lstrip(" ") != text:
            lost.append(text)
    if _ROUND_TRIP[0] in lost:
        ids = tokenizer(lost[0], add_special_tokens=False)["input_ids"]
        raise ModelError(
            f"model.base {settings.base}: its tokenizer does not give a text back: {lost[0]!r} becomes "
            f"{tokenizer.decode(ids)!r}. Training on it would learn garbage; the tokenizer files do not fit the model"
        )
    if lost:
        notices.warn(f"{settings.base}: its tokenizer does not give back unchanged: {', '.join(map(repr, lost))}")


def _check_model_ends_in_its_words(tokenizer: Any, settings: ModelSettings, also: int | list[int] | None) -> None:
    """Warn where the ids that end the model's own answers are no special tokens here: whose tokenizer is it then?"""
    ids = [i for i in (also if isinstance(also, list) else [also]) if i is not None]
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    if ids and not special.intersection(ids):
        read = ", ".join(f"{i} ({tokenizer.convert_ids_to_tokens(i)!r})" for i in ids[:3])
        notices.warn(
            f"{settings.base}: the model ends its answers with token {read}, which its tokenizer holds for no special "
            "token; is it the tokenizer of another model? The first loss of SFT will tell"
        )


def _check_saved_copy(tokenizer: Any, settings: ModelSettings) -> None:
    """Refuse a tokenizer that is another one once it was saved: every adapter folder carries it.

    AutoTokenizer goes by the class that the files name; a word-level tokenizer came back as a byte-level one.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="kit-tokenizer-") as place:
        tokenizer.save_pretrained(place)
        copy = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    ids, again = ([t(x, add_special_tokens=False)["input_ids"] for x in _ROUND_TRIP] for t in (tokenizer, copy))
    kept = ("eos_token_id", "pad_token_id", "chat_template")
    if ids != again or any(getattr(tokenizer, name) != getattr(copy, name) for name in kept):
        raise ModelError(
            f"model.base {settings.base}: its tokenizer ({type(tokenizer).__name__}) is saved and comes back as "
            f"another one ({type(copy).__name__}), so the adapters could not be used; tokenizer_class in its "
            "tokenizer_config.json does not fit its files"
        )
