"""Adapter folders: made, copied, loaded and saved. Every stage's output is one ordinary PEFT folder on the same base.

SFT starts fresh; the others start from a copy of the SFT adapter. A reward adapter carries its score head in the
file. Nothing is merged: a merge into a 4-bit base would lose quality.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kit.config import LoraSettings
from kit.errors import ModelError, TrainingStopped
from kit.models.identity import require_same_base, save_identity
from kit.models.outside import read_adapter_config
from kit.runs.files import write_text
from kit.runs.folder import ADAPTER_FILE

SCORE_KEY = "base_model.model.score.weight"


def new_policy(base: Any, lora: LoraSettings) -> PeftModel:
    """A fresh trainable adapter, named `default`, on a causal base. Raises ModelError where no module matches."""
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets, bias="none",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    try:
        model = get_peft_model(base, config)
    except ValueError as error:
        names = sorted({n.rsplit(".", 1)[-1] for n, m in base.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ModelError(f"lora.targets {lora.targets!r}: {error}. Linear modules of this base: {names}") from None
    _cast(model, "default", getattr(torch, lora.dtype))
    return model


def load_policy(base: Any, folder: Path, trainable: bool = True) -> PeftModel:
    """The adapter of `folder`, named `default`, on a causal base."""
    return _attach(base, folder, "CAUSAL_LM", trainable)


def new_reward(base: Any, sft: Path) -> PeftModel:
    """A trainable copy of the SFT adapter, with a fresh score head, on a scorer (`kit.models.base.load_scorer`)."""
    return _attach(base, sft, "SEQ_CLS", trainable=True)


def add_adapter(model: PeftModel, name: str, folder: Path, trainable: bool = False) -> None:
    """Lay one more adapter on the base that `model` already holds. A score head in the file is left out."""
    model.add_adapter(name, _config(folder, "CAUSAL_LM"))
    _load_weights(model, name, folder)
    model.set_requires_grad(name, trainable)
    shrink_frozen(model)


def shrink_frozen(model: PeftModel) -> None:
    """Frozen adapters in the dtype that autocast would make of them anyway: half the bytes, the same numbers."""
    dtype = autocast_dtype(model)
    for name, parameter in model.named_parameters():
        if dtype is not None and "lora_" in name and not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def autocast_dtype(model: Any) -> torch.dtype | None:
    """The dtype that passes of this model autocast to: the base's own, on a GPU; None where they do not."""
    return model.dtype if model.device.type == "cuda" and model.dtype != torch.float32 else None


def score_head(folder: Path) -> torch.Tensor:
    """The reward adapter's head, [1, h]. Raises ModelError where the file holds none: it was never trained."""
    weights = _weights(folder)
    if SCORE_KEY not in weights:
        raise ModelError(f"{folder}: holds no score head; it is not a reward adapter. Train it with stage `reward`")
    return weights[SCORE_KEY]


def save_adapter(model: PeftModel, folder: Path, tokenizer: Any, card: str) -> None:
    """Write adapter `default`, the tokenizer (with its template), what base it needs, and a card that says how to load.

    Raises TrainingStopped where a weight is no finite number, ModelError where one that is trained did not reach the
    file as it is (PEFT leaves a score head out, without a word, unless the task is SEQ_CLS).
    """
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    save_identity(model, folder)
    write_text(folder / "README.md", card)
    _check_saved(model, folder)
    if model.peft_config["default"].task_type == "SEQ_CLS":
        score_head(folder)  # raises when the head did not reach the file


def has_moved(model: PeftModel, started_from: Path | None) -> bool:
    """Whether adapter `default` is another one than at its start: a fresh one, or that of a folder.

    Fresh LoRA matrices B are 0, and stay 0 where no gradient arrives (huggingface/transformers#42489).
    """
    trained = _trained(model)
    if started_from is None:
        return any(bool(weight.any()) for name, weight in trained.items() if "lora_B" in name)
    before = load_file(started_from / ADAPTER_FILE)
    return any(
        not torch.equal(weight.cpu(), before[name].to(weight.dtype))
        for name, weight in trained.items()
        if name in before
    )


def trained_score_head(model: PeftModel) -> torch.Tensor:
    """The score head of a reward model in training, [1, h]. Raises ModelError where it is frozen."""
    head = _trained(model).get(SCORE_KEY)
    if head is None:
        raise ModelError(
            "reward: the score head is frozen, so the scores would be random numbers. This is a fault of the kit or of "
            "PEFT (a LoRA whose task is not SEQ_CLS leaves it out); please report it"
        )
    return head


def _trained(model: PeftModel) -> dict[str, torch.Tensor]:
    """The trainable weights of adapter `default`, its score head included, under their names in an adapter file."""
    return {
        name.replace(".modules_to_save.default", "").replace(".default", ""): parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".default" in name
    }


def _check_saved(model: PeftModel, folder: Path) -> None:
    """The file holds every trained weight, as it is in memory: whoever loads it has what was trained."""
    stored, trained = load_file(folder / ADAPTER_FILE), _trained(model)
    broken = [name for name, weight in trained.items() if not bool(weight.isfinite().all())]
    if broken:
        raise TrainingStopped(
            f"{folder.name}: {len(broken)} of {len(trained)} trained weights hold numbers that are not finite (first: "
            f"{broken[0]}), so the training broke the model. Lower the stage's learning_rate"
        )
    lost = [name for name, weight in trained.items() if name not in stored or not _same(stored[name], weight)]
    if lost:
        raise ModelError(
            f"{folder}: {len(lost)} of {len(trained)} trained weights did not reach {ADAPTER_FILE} as they are (first: "
            f"{lost[0]}). This is a fault of the kit or of PEFT; please report it"
        )


def _same(stored: torch.Tensor, weight: torch.Tensor) -> bool:
    return stored.shape == weight.shape and torch.equal(stored, weight.cpu().to(stored.dtype))


def _attach(base: Any, folder: Path, task: str, trainable: bool) -> PeftModel:
    model = get_peft_model(base, _config(folder, task))
    _load_weights(model, "default", folder)
    if not trainable:
        model.requires_grad_(False)
        shrink_frozen(model)
    return model


def _config(folder: Path, task: str) -> LoraConfig:
    """The folder's LoRA shape, for a task of its own."""
    try:
        return LoraConfig(**read_adapter_config(folder), task_type=task)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{folder}: not a PEFT adapter folder: {error}") from None


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapter folder. Raises ModelError where the file is damaged or holds no LoRA."""
    try:
        weights = load_file(folder / ADAPTER_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / ADAPTER_FILE}: cannot be read: {error}. Train the stage again") from None
    if not any("lora_" in key for key in weights):
        raise ModelError(f"{folder / ADAPTER_FILE}: holds no LoRA weights. Train the stage again")
    return weights


def _load_weights(model: PeftModel, name: str, folder: Path) -> None:
    """Fill adapter `name`; every LoRA weight must come from the file, and all of the file's must find a place.

    It has the file's dtype after that, whatever PEFT made it in: a run in bfloat16 (lora.dtype) stays in it.
    """
    require_same_base(model, folder)
    weights = _weights(folder)
    dtype = next(weight.dtype for key, weight in weights.items() if "lora_" in key)
    if model.peft_config[name].task_type == "SEQ_CLS":
        weights.setdefault(SCORE_KEY, model.get_submodule("base_model.model.score").weight)  # PEFT wants one; the fresh
    else:
        weights.pop(SCORE_KEY, None)
    result = set_peft_model_state_dict(model, weights, adapter_name=name)
    missing = [key for key in result.missing_keys if f".{name}." in key and "lora_" in key]
    if missing or result.unexpected_keys:
        raise ModelError(
            f"{folder}: does not fit this base: {len(missing)} weights missing, {len(result.unexpected_keys)} unknown "
            f"(first: {(missing + list(result.unexpected_keys))[0]}). It was trained on another base"
        )
    _cast(model, name, dtype)


def _cast(model: PeftModel, name: str, dtype: torch.dtype) -> None:
    for key, parameter in model.named_parameters():
        if "lora_" in key and f".{name}." in key:
            parameter.data = parameter.data.to(dtype)


@contextmanager
def keep_weights(model: PeftModel) -> Iterator[None]:
    """Weights and dtypes of trainable parameters are after the block what they were before it.

    TRL's trainers cast the adapters of a quantised base to bfloat16 when they are built, on any device; the rounding
    would part policy and reference at step 0, and AdamW's small steps would be lost in it. The frozen copy that they
    make for the reference is shrunk as other frozen adapters are.
    """
    before = [(p, p.data.clone()) for p in model.parameters() if p.requires_grad]
    yield
    for parameter, data in before:
        parameter.data = data
    shrink_frozen(model)


@contextmanager
def keep_dtypes(model: PeftModel) -> Iterator[None]:
    """All weights are after the block the tensors they were before it; nothing is copied.

    TRL's continuous batching casts the whole model to 16 bits for good, the float32 adapters included; a gradient
    scaler refuses such an adapter's gradients.
    """
    before = [(p, p.data) for p in model.parameters()]
    yield
    for parameter, data in before:
        parameter.data = data


def save_training_state(model: PeftModel, folder: str | Path) -> None:
    """What is trained: adapter `default` as an ordinary PEFT folder; critic and its head in `critic.safetensors`."""
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    save_identity(model, Path(folder))
    critic = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if _is_critic(n)}
    if critic:
        save_file(critic, Path(folder) / "critic.safetensors")


def load_training_state(model: PeftModel, folder: str | Path) -> None:
    """Fill adapter `default`, critic and value head from a folder that `save_training_state` wrote.

    Raises ModelError where it does not fit: another base, another shape, another kind of critic.
    """
    _load_weights(model, "default", Path(folder))
    parameters, file = dict(model.named_parameters()), Path(folder) / "critic.safetensors"
    stored = load_file(file) if file.exists() else {}
    if set(stored) != {name for name in parameters if _is_critic(name)}:
        raise ModelError(f"{folder}: its critic does not fit this run's base or LoRA shape")
    with torch.no_grad():
        for name, value in stored.items():
            parameters[name].copy_(value)


def policy_weights(roles: Any) -> dict[str, torch.Tensor]:
    """The policy adapter's weights under PEFT's names, as in an adapter file."""
    return get_peft_model_state_dict(roles.model, adapter_name="default", save_embedding_layers=False)


def set_policy_weights(roles: Any, weights: dict[str, torch.Tensor]) -> None:
    """Fill the policy adapter with what `policy_weights` returned."""
    set_peft_model_state_dict(roles.model, weights, adapter_name="default")


def _is_critic(name: str) -> bool:
    return ".critic." in name or "value_head." in name
