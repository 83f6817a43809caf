"""Toy objects for the tests: an untrained tiny base, adapters with weights that matter, a few rows of ids."""

import functools
import tempfile
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

import kit
from kit.config import LoraSettings
from kit.demo.base import build_tokenizer
from kit.models.adapters import new_policy, new_reward, save_adapter
from kit.models.base import Base
from kit.models.device import Precision
from kit.models.encoding import Codec
from kit.models.roles import Roles, policy_roles

_FOLDERS: list[tempfile.TemporaryDirectory] = []  # removed when the tests end
LORA = LoraSettings(rank=4, alpha=8, dropout=0.0)
QUESTIONS = ["Name three animals.", "Name three red fruits, please.", "What is the time?", "Say hello."]


@functools.cache
def base_folder() -> Path:
    """A saved Qwen2 of two layers with random weights and the demo's tokenizer."""
    folder = _folder()
    tokenizer = build_tokenizer()
    set_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        num_labels=1,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def toy_base(nf4: bool = False) -> Base:
    """The toy base on the CPU, in float32 or 4-bit."""
    settings = kit.Config(model={"base": str(base_folder()), "quantization": "nf4" if nf4 else "none"}).model
    precision = Precision(torch.device("cpu"), torch.float32, nf4)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_folder(), padding_side="left")
    return Base(settings, str(base_folder()), precision, Codec(tokenizer))


@functools.cache
def adapters(nf4: bool = False) -> tuple[Path, Path]:
    """(SFT, reward) adapter folders whose weights differ from each other and from the base."""
    base, root = toy_base(nf4), _folder()
    set_seed(1)
    policy = new_policy(base.causal_lm(), LORA)
    _shake(policy, 0.2)
    save_adapter(policy, root / "sft", base.tokenizer, "card")
    reward = new_reward(base.scorer(), root / "sft")
    _shake(reward, 0.2)
    save_adapter(reward, root / "reward", base.tokenizer, "card")
    return root / "sft", root / "reward"


def toy_roles(nf4: bool = False) -> Roles:
    """Policy, reward and critic on one toy base, loaded afresh."""
    return policy_roles(toy_base(nf4).causal_lm(), *adapters(nf4))


def rows(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Rows of random ordinary token ids."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(20, 200, (length,), generator=generator).tolist() for length in lengths]


def _folder() -> Path:
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="kit-toy-"))
    return Path(_FOLDERS[-1].name)


def _shake(model: torch.nn.Module, scale: float) -> None:
    """Add noise to the trainable weights: a fresh LoRA adapter changes nothing, so it could hide a fault."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale)
