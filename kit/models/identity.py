"""Which base an adapter was trained on, written beside it in `base.json`, and refused on another.

An adapter of another base with equal shapes loads without a word from any library, and answers nonsense. A name alone
does not tell: a branch on the hub moves on, and a folder can be written anew.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.errors import ModelError
from kit.runs.files import value_sha256, write_json

BASE_FILE = "base.json"
_ATTRIBUTE = "kit_identity"  # where a loaded base carries its own
_SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
_COMPARED = {
    "model_type": "kind of model", "hidden_size": "hidden size", "num_hidden_layers": "layers",
    "vocab_size": "embeddings", "weights_sha256": "weights", "tokenizer_sha256": "tokenizer or chat template",
}  # fmt: skip
_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of each file of weights
_PROBES = ("Hello, world! It's 3:45 p.m.", "two  spaces\tand a\nline", "Zażółć gęślą jaźń; 你好; 😀")


def identify(model: Any, name: str, location: str, revision: str | None, tokenizer: Any) -> None:
    """Let a base that was just loaded carry its identity, for `save_identity` and `require_same_base`."""
    config = model.config.get_text_config()
    shape = {key: getattr(config, key, None) for key in _SHAPE}
    weights = weights_sha256(location, revision, getattr(model.config, "_commit_hash", None))
    found = {"base": name, "revision": revision, **shape, "weights_sha256": weights}
    setattr(model, _ATTRIBUTE, found | {"tokenizer_sha256": tokenizer_sha256(tokenizer)})


def save_identity(model: Any, folder: Path) -> None:
    """Write the identity of the base under an adapter into the adapter's folder."""
    identity = _identity(model)
    if identity is not None:
        write_json(folder / BASE_FILE, identity)


def recorded_revision(folder: Path) -> str | None:
    """The revision of the base under the adapter in a folder; None where nothing readable says it."""
    try:
        found = json.loads((folder / BASE_FILE).read_text(encoding="utf-8")).get("revision")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def require_same_base(model: Any, folder: Path) -> None:
    """Raise ModelError where the adapter in `folder` was trained on another base than the one of `model`.

    A folder without `base.json`, as other programs and earlier versions write it, is not judged.
    """
    here = _identity(model)
    try:
        trained_on = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (ValueError, RecursionError):
        trained_on = None
    if not isinstance(trained_on, dict):
        raise ModelError(f"{folder / BASE_FILE}: not readable; remove it to load the adapter unchecked")
    if here is None:
        return
    known = [(what, trained_on.get(key), here[key]) for key, what in _COMPARED.items()]
    differing = [(what, there, mine) for what, there, mine in known if None not in (there, mine) and there != mine]
    if differing:
        details = ", ".join(f"{what} {_short(there)} there and {_short(mine)} here" for what, there, mine in differing)
        raise ModelError(
            f"{folder}: this adapter was trained on another base: {_named(trained_on)}, and here is {_named(here)} "
            f"({details}). Its answers would be nonsense. Load the base it was trained on (model.base, "
            "model.revision), or train it again on this one under another name="
        )


def weights_sha256(location: str, revision: str | None, commit: str | None) -> str | None:
    """A hash of the base's files of weights as they lie on disk, whatever they are cast or quantised to when loaded.

    Of each safetensors file its table of contents and 64 samples, so that no second pass over gigabytes is needed;
    None where no such file is found.
    """
    digest, found = hashlib.sha256(), False
    for file in _weight_files(location, revision, commit):
        found = True
        digest.update(_sampled(file))
    return digest.hexdigest() if found else None


def tokenizer_sha256(tokenizer: Any) -> str:
    """A hash of what decides a conversation's ids: vocabulary, how text is cut, chat template, end of turn."""
    probes = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in _PROBES]
    pad = {tokenizer.pad_token}  # the kit may have chosen it
    vocabulary = sorted((token, number) for token, number in tokenizer.get_vocab().items() if token not in pad)
    return value_sha256([vocabulary, probes, tokenizer.chat_template, tokenizer.eos_token_id])


def _identity(model: Any) -> dict[str, Any] | None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, _ATTRIBUTE, None)


def _weight_files(location: str, revision: str | None, commit: str | None) -> Iterator[Path]:
    """The base's safetensors files, in a folder or in the hub's cache."""
    from transformers.utils import cached_file

    if Path(location).is_dir():
        yield from sorted(Path(location).glob("model*.safetensors"))
        return

    def cached(name: str) -> Path | None:
        path = cached_file(
            location, name, revision=commit or revision, local_files_only=True,
            _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        return Path(path) if path else None

    index = cached("model.safetensors.index.json")
    names = ["model.safetensors"]
    if index is not None:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    yield from (path for name in names if (path := cached(name)) is not None)


def _sampled(file: Path) -> bytes:
    """SHA-256 of a safetensors file's table of contents and of samples spread evenly over its tensors."""
    digest = hashlib.sha256()
    size = file.stat().st_size
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        digest.update(opened.read(length))
        start = 8 + length
        for at in range(_SAMPLES):
            opened.seek(start + (size - start) * at // _SAMPLES)
            digest.update(opened.read(_SAMPLE_BYTES))
    return digest.digest()


def _named(identity: dict[str, Any]) -> str:
    revision = identity.get("revision")
    return f"{identity.get('base')}{f' at {revision}' if revision else ''}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 12 else f"{text[:8]}…"
