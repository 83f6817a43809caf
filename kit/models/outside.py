"""What a model or adapter folder from outside may not bring: pickles, code, kernels.

`trust_remote_code=False` alone does not keep code out: transformers takes the name of a kernel to download, the name of
a pickle to load and the class of a tokenizer from the model's own files. So these files are read here first, as plain
JSON, before any library loads something from beside them.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kit import notices
from kit.config import ModelSettings
from kit.errors import ModelError

MAX_JSON_BYTES = 10_000_000
_MAX_LAYERS = 10_000
_CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json")
_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
_ATTENTION = {"eager", "sdpa", "flex_attention"}  # any other name may fetch a kernel, that is a program
_QUANTISED = {"bitsandbytes"}
# Keys of a config.json, at any depth, that load something else than this model's own weights: why each is refused.
_REFUSED = {
    "trust_remote_code": "would run Python code that comes with the model",
    "custom_generate": "would run Python code that comes with the model",
    "kernel_config": "would download compiled code",
    "use_kernels": "would download compiled code",
    "fusion_config": "would exchange parts of the model's code",
    "transformers_weights": "would load its weights from another file than model.safetensors",
    "configuration_files": "would read its settings from another file than config.json",
    "distributed_config": "would decide how this machine loads it",
    "model_args": "would reach a library that loads files by name",
    "use_pretrained_backbone": "would download a second model",
}
# What an adapter of the kit is made of, and what PEFT notes besides and the kit decides itself; all else is a default.
_LORA = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "fan_in_fan_out")
_LORA_NAMES = (
    "peft_type", "task_type", "inference_mode", "auto_mapping", "base_model_name_or_path", "revision", "peft_version",
    "modules_to_save", "ensure_weight_tying", "use_bdlora",
)  # fmt: skip
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_TOKENIZER = re.compile(
    r"(?!Auto)\w*Tokenizer(Fast)?|TokenizersBackend|PythonBackend|SentencePieceBackend|MistralCommonBackend"
)


def check_folder(settings: ModelSettings, base: str | Path) -> None:
    """Read a base's JSON files before a library does; say where code of its own is passed over.

    Raises ModelError where they would switch code on, or where its weights are pickles. Files that are not there, or
    that the hub does not give, are left to the library, whose message says so.
    """
    find = _finder(settings, base)
    name = f"model.base {settings.base}"
    for file in _CONFIGS:
        path = find(file)
        if path is None:
            continue
        found = read_json(path, name)
        check_config(found, name, file)
        if found.get("auto_map"):
            notices.warn(f"{name}: {file} names Python code of its own (auto_map); it is not run, transformers' own is")
    if find("adapter_config.json") is not None:
        raise ModelError(
            f"{name}: adapter_config.json stands in it, so it is an adapter, or a model with one inside. Name the "
            "model alone: its config.json, tokenizer and model*.safetensors"
        )
    index = find(_INDEX)
    if index is not None:
        _check_index(read_json(index, name), name)
    _check_weights_are_safetensors(name, _names(settings, base))


def check_config(found: Mapping[str, Any], name: str, file: str = "config.json") -> None:
    """Raise ModelError where a model's settings would switch on code, kernels or other files; `name` is the model's."""
    for path, key, value in _entries(found, ()):
        where = f"{name}: {file}: {'.'.join((*path, key))}"
        remedy = "remove the key from a local copy of the model, or choose another"
        if key in _REFUSED and value not in (None, False, "", [], {}):
            raise ModelError(f"{where} {_REFUSED[key]}, which the kit never does; {remedy}")
        if _IMPLEMENTATION.fullmatch(key) and key.lstrip("_").startswith("attn"):
            strange = [text for text in _leaves(value) if text not in _ATTENTION]
            if strange:
                raise ModelError(
                    f"{where} names {strange[0]!r}, for which code may be downloaded, which the kit never does; "
                    f"known: {', '.join(sorted(_ATTENTION))}; {remedy}"
                )
        elif _IMPLEMENTATION.fullmatch(key) and any("/" in str(text) for text in _leaves(value)):
            raise ModelError(f"{where} names a kernel of the hub, which the kit never loads; {remedy}")
        if key == "quantization_config" and isinstance(value, Mapping):
            method = value.get("quant_method")
            if not (method in _QUANTISED or value.get("load_in_4bit") or value.get("load_in_8bit")):
                raise ModelError(
                    f"{where} says it is quantised by {method!r}, which needs other libraries and kernels; the kit "
                    "trains on models that are not quantised, or by bitsandbytes. Choose the original of this model"
                )
        if key == "tokenizer_class" and value is not None and not _TOKENIZER.fullmatch(str(value)):
            raise ModelError(f"{where} names {value!r}, which is no tokenizer; {remedy}")
        if key in ("num_hidden_layers", "n_layer", "num_layers") and isinstance(value, int) and value > _MAX_LAYERS:
            raise ModelError(f"{where} is {value:,}; at most {_MAX_LAYERS:,} can be meant")


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A model's JSON file as a mapping. Raises ModelError where it is none, or too large; `name` is the model's."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ModelError(f"{name}: {path.name} has {size:,} bytes; at most {MAX_JSON_BYTES:,} can be meant")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{name}: {path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{name}: {path.name} holds {type(found).__name__}, where a mapping is wanted")
    return found


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The LoRA shape in an adapter folder's adapter_config.json, and nothing else that PEFT would act on.

    Raises ModelError where it asks for more: another method, an initialisation that changes the base, modules by name.
    """
    from peft import LoraConfig

    found, plain = read_json(folder / "adapter_config.json", str(folder)), LoraConfig().to_dict()
    if found.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: adapter_config.json says peft_type {found.get('peft_type')!r}; LORA is wanted")
    strange = sorted(
        key
        for key, value in found.items()
        if key not in (*_LORA, *_LORA_NAMES) and value not in (None, False, [], {}, plain.get(key))
    )
    if strange:
        raise ModelError(
            f"{folder}: adapter_config.json sets {strange[0]} to {found[strange[0]]!r}, as no adapter of the kit "
            "does; it was made or changed elsewhere. Train the stage again"
        )
    return {key: found[key] for key in _LORA if key in found}


def _finder(settings: ModelSettings, base: str | Path) -> Callable[[str], Path | None]:
    """Finds a file of the base by name, in its folder, the hub's cache or the hub; None where it cannot be had."""
    if Path(base).is_dir():
        return lambda name: path if (path := Path(base) / name).is_file() else None

    def from_hub(name: str) -> Path | None:
        from transformers.utils import cached_file

        try:
            path = cached_file(
                str(base), name, revision=settings.revision, _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
            )  # fmt: skip
        except Exception:  # no such model, no access: the library that loads it has the message
            return None
        return Path(path) if path else None

    return from_hub


def _names(settings: ModelSettings, base: str | Path) -> list[str]:
    """Names of the base's files; none where the hub cannot be asked."""
    from huggingface_hub import HfApi, constants

    if Path(base).is_dir():
        return sorted(path.name for path in Path(base).iterdir())
    if constants.HF_HUB_OFFLINE:
        return []
    try:
        return [name for name in HfApi().list_repo_files(str(base), revision=settings.revision) if "/" not in name]
    except Exception:  # each HTTP library has its own classes; loading will say it
        return []


def _check_weights_are_safetensors(name: str, files: list[str]) -> None:
    pickles = [file for file in files if file.endswith(_PICKLES) and file != "training_args.bin"]
    if pickles and not any(file.endswith(".safetensors") for file in files):
        raise ModelError(
            f"{name}: its weights are in {pickles[0]}, a pickle, which can run any code when it is loaded; only "
            "safetensors are read. Choose a model with model.safetensors, or convert this one where you trust it "
            "(load it, then save_pretrained)"
        )


def _check_index(found: Mapping[str, Any], name: str) -> None:
    """The index of a model in several files names its own safetensors files, and no others."""
    files = found.get("weight_map")
    values = files.values() if isinstance(files, Mapping) else [None]
    strange = [file for file in values if not (isinstance(file, str) and re.fullmatch(r"[\w.-]+\.safetensors", file))]
    if strange:
        raise ModelError(
            f"{name}: {_INDEX} names {strange[0]!r}, where a safetensors file of the same folder is wanted; nothing "
            "else is read"
        )


def _entries(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """(path to it, key, value) of every entry of nested JSON."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield path, key, inner
            yield from _entries(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, path)


def _leaves(value: Any) -> Iterator[Any]:
    """The values at the ends of nested JSON, null left out."""
    if isinstance(value, (Mapping, list)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(inner)
    elif value is not None:
        yield value
