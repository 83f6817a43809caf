"""The one place that loads a base model: from the hub, a folder or the demo; quantised; ready for adapters."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from kit import notices
from kit.config import Config, ModelSettings
from kit.errors import ConfigError, ModelError
from kit.models.codec import Codec
from kit.models.device import Precision, choose_precision
from kit.models.gpu import tell_about_gpus
from kit.models.host_embedding import keep_embedding_on_host
from kit.models.identity import identify, recorded_revision
from kit.models.plan.choice import embedding_on_host
from kit.models.plan.planner import base_shape
from kit.models.plan.shape import Shape
from kit.models.tokenizer import end_of_turn_ids, generation_stops, hub_or_cache, load_tokenizer, model_error
from kit.runs.checkpoints import names_aside
from kit.runs.folder import RunFolder

# Activations beyond float16's 65,504 (huggingface/transformers#36822 and #39972; unsloth.ai/blog/gemma3 and gemma-3n).
_OVERFLOWING = ("gemma2", "gemma3", "gemma4")


@dataclass(frozen=True)
class Base:
    """The base a run stands on: where it is, how it is loaded, and how text becomes its tokens. No weights yet."""

    settings: ModelSettings
    location: str
    precision: Precision
    codec: Codec
    embedding_on_host: bool = False

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of every stage."""
        return self.codec.tokenizer

    @property
    def shape(self) -> Shape:
        """Its sizes, from its config.json; see `kit.models.plan`."""
        return base_shape(self.settings.model_copy(update={"base": self.location}))

    def causal_lm(self) -> Any:
        """The frozen base with its language-model head, loaded afresh."""
        return self._placed(load_causal_lm(self.settings, self.location, self.precision, self.tokenizer))

    def scorer(self) -> Any:
        """The frozen base with a fresh score head, loaded afresh."""
        return self._placed(load_scorer(self.settings, self.location, self.precision, self.tokenizer))

    def _placed(self, model: Any) -> Any:
        identify(model, self.settings.base, self.location, self.settings.revision, self.tokenizer)
        if self.embedding_on_host and self.precision.device.type == "cuda":
            keep_embedding_on_host(model)
        return model


def find_base(config: Config, weights: bool = True) -> Base:
    """The base of a run, checked as far as can be without loading weights.

    The demo's base is made if it is not there; with `weights=False` only its tokenizer is.

    Raises ModelError for a model that does not exist or does not fit, MachineError for a dtype this machine lacks.
    """
    precision = choose_precision(config.model)
    if config.lora.dtype == "bfloat16" and precision.dtype == torch.float16:
        raise ConfigError(
            "lora.dtype: bfloat16 needs a base that computes in it, and this GPU computes in float16; use float32"
        )
    tell_about_gpus()
    location = config.model.base
    if location == "demo":
        from kit.demo.base import build_tokenizer

        if not weights:
            return Base(config.model, location, precision, Codec(build_tokenizer()))
        location = str(_demo_base(demo_folder(config)))
    settings = _pinned(config)
    tokenizer = load_tokenizer(settings, location)
    _warn_of_dtype(settings, location, precision)
    with hub_or_cache(settings, location):
        codec = Codec(tokenizer, generation_stops(settings, location))
    return Base(settings, location, precision, codec, embedding_on_host(config))


def _pinned(config: Config) -> ModelSettings:
    """The model's settings with the commit for the revision of a hub id: a branch moves on, a run's base does not.

    The commit is the one that the run's SFT adapter was trained on, by its base.json, where these settings made it;
    else the one that the revision stands for now. What cannot be had is left to the loading, which says why.
    """
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    settings = config.model
    if settings.base == "demo" or Path(settings.base).exists():
        return settings
    sft = RunFolder(config.run_path).stage("sft")
    commit = None
    if sft is not None and sft.inputs.get("model") == settings.model_dump(mode="json"):
        commit = recorded_revision(sft.path)
    if commit is None:
        with hub_or_cache(settings, settings.base), suppress(Exception):  # each HTTP library has its own classes
            commit = extract_commit_hash(cached_file(settings.base, "config.json", revision=settings.revision), None)
    return settings.model_copy(update={"revision": commit or settings.revision})


def _demo_base(folder: Path) -> Path:
    """The demo's tiny base in `folder`, made where it is not there; a damaged one is set aside and made again."""
    from kit.demo.base import ensure_base

    ensure_base(folder)
    try:
        for file in folder.glob("*.json"):
            json.loads(file.read_text(encoding="utf-8"))
        with safe_open(folder / "model.safetensors", framework="pt"):
            return folder
    except (OSError, ValueError, SafetensorError) as error:
        aside = next(path for path in names_aside(folder) if not path.exists())
        folder.rename(aside)
        notices.warn(f"{folder}: the demo's base is damaged ({error}); set aside as {aside.name}, and made again")
    return ensure_base(folder)


def demo_folder(config: Config) -> Path:
    """Where the demo's tiny base lives: beside the runs, shared by all of them."""
    return (Path(config.output_dir).expanduser() / ".demo-base").resolve()


def load_causal_lm(settings: ModelSettings, base: str, precision: Precision, tokenizer: Any) -> Any:
    """The base as `AutoModelForCausalLM`, all its weights frozen, in memory once.

    Its generation config is reset to the pure softmax (temperature 1, no top-k, no repetition penalty), as a
    policy that samples from anything else has no log-probability that PPO or a KL could use.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = _load(AutoModelForCausalLM, settings, base, precision, tokenizer)
    stops = end_of_turn_ids(tokenizer, model.generation_config.eos_token_id)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0,
        eos_token_id=stops, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    return model


def load_scorer(settings: ModelSettings, base: str, precision: Precision, tokenizer: Any) -> Any:
    """The base as `AutoModelForSequenceClassification` with one label: a fresh scalar head on the frozen trunk.

    The head is float32 on any base, as adapters are: it is trained, AdamW's small steps would be lost in 16 bits, and
    a gradient scaler refuses float16 gradients.
    """
    from transformers import AutoModelForSequenceClassification

    model = _load(AutoModelForSequenceClassification, settings, base, precision, tokenizer, num_labels=1)
    if isinstance(getattr(model, "score", None), torch.nn.Linear) and model.score.weight.shape[0] == 1:
        model.score.float()
        return model
    raise ModelError(f"model.base {settings.base}: {type(model).__name__} has no `score` head, which the kit needs")


def _warn_of_dtype(settings: ModelSettings, base: str, precision: Precision) -> None:
    """Warn where the GPU only emulates bfloat16, and of a base whose activations leave float16's range."""
    if precision.device.type == "cpu" or precision.dtype == torch.float32:
        return
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision.dtype == torch.bfloat16:
        if not native:
            notices.warn(f"model.dtype: this GPU only emulates bfloat16, slowly ({precision}); auto would take float16")
        return
    from transformers import AutoConfig

    with hub_or_cache(settings, base):
        config = AutoConfig.from_pretrained(base, revision=settings.revision, trust_remote_code=False)
    if config.model_type.startswith(_OVERFLOWING):
        wider = "bfloat16" if native else "float32 (slower, and more memory; a 4-bit base stays 4-bit)"
        notices.warn(
            f"model.base {settings.base}: activations of {config.model_type} are known to overflow float16, in which "
            f"this run computes ({precision}); losses and scores may not be finite. Remedy: model.dtype={wider}"
        )


def nf4_config(precision: Precision) -> Any:
    """4-bit NormalFloat with double quantisation (Dettmers et al. 2023, arXiv:2305.14314); None where not asked."""
    if not precision.nf4:
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.dtype,
    )  # fmt: skip


def _load(auto: Any, settings: ModelSettings, base: str, precision: Precision, tokenizer: Any, **kwargs: Any) -> Any:
    try:
        with hub_or_cache(settings, base):
            model = auto.from_pretrained(
                base, revision=settings.revision, dtype=precision.dtype, quantization_config=nf4_config(precision),
                device_map={"": precision.device}, trust_remote_code=False, use_safetensors=True, **kwargs,
            )  # fmt: skip
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # damaged files: each library has its own classes
        raise model_error(settings, error) from None
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.requires_grad_(False)
    return model
