"""What benchmarks/gpu_memory.py runs on: models of random weights that the kit loads itself, and rows of full length.

transformers loads and quantises as it would from a checkpoint, but the tensors of it are drawn on the device, one by
one, when they are asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu_memory_cases import ACCUMULATED, STEPS, Case
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from kit.config import Config
from kit.data.rows import Split
from kit.demo.base import build_tokenizer
from kit.models.base import Base, find_base
from kit.models.encoding import IGNORE, Codec, Encoded, EncodedPrompt

STD = 0.02  # of the weights: activations and logits stay finite at any depth, as norms are 1
FIRST_ID = 100  # ids below are the tokenizer's special ones and bytes


class RandomTensor:
    """A tensor of a checkpoint that is drawn where and when transformers reads it, as it would read a file's."""

    def __init__(self, name: str, like: torch.Tensor, device: torch.device, dtype: torch.dtype) -> None:
        self.is_norm, self.shape, self.device, self.dtype = "norm" in name, like.shape, device, dtype

    def __getitem__(self, _: Any) -> torch.Tensor:
        if self.is_norm:
            return torch.ones(self.shape, device=self.device, dtype=self.dtype)
        return torch.randn(self.shape, device=self.device, dtype=self.dtype).mul_(STD)


@contextmanager
def random_weights(folder: Path) -> Iterator[None]:
    """Inside, a model that is loaded from the folder, which holds a config.json alone, has random weights."""
    load = PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls: type, where: Any, *args: Any, **how: Any) -> Any:
        if str(where) != str(folder):
            return load(cls, where, *args, **how)
        config, device, dtype = how["config"], torch.device(how["device_map"][""]), how["dtype"]
        with torch.device("meta"):
            names = AutoModelForCausalLM.from_config(config).state_dict()
        if config.tie_word_embeddings:
            del names["lm_head.weight"]
        drawn = {name: RandomTensor(name, like, device, dtype) for name, like in names.items()}
        model = load(cls, None, *args, **how, state_dict=drawn)
        model.name_or_path = model.config.name_or_path = str(folder)
        return model

    with patch.object(PreTrainedModel, "from_pretrained", classmethod(from_pretrained)):
        yield


def random_base(case: Case, config: Config, folder: Path) -> Base:
    """The base of the case as the kit finds it in the folder, which gets a config.json and a tokenizer alone.

    The model keeps its own vocabulary size; the tokenizer, which knows fewer tokens, is the demo's.
    """
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    more = {
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
        "max_position_embeddings": 4096, "sliding_window": None,
    }  # fmt: skip
    AutoConfig.for_model(**more | case.config_json).save_pretrained(folder)
    model = config.model.model_copy(update={"base": str(folder)})
    return find_base(config.model_copy(update={"model": model}))


def random_data(case: Case, codec: Codec) -> Encoded:
    """Rows of full length for each stage: random ids, or prompts of exactly so many tokens."""
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(FIRST_ID, case.config_json["vocab_size"], (count,), generator=draw).tolist()

    def row() -> dict[str, list[int]]:
        prompt, response = ids(case.prompt_tokens), ids(case.response_tokens)
        return {"input_ids": prompt + response, "labels": [IGNORE] * len(prompt) + response}

    def pair() -> dict[str, list[int]]:
        sides = {f"{side}_ids": ids(case.response_tokens) for side in ("chosen", "rejected")}
        return {"prompt_ids": ids(case.prompt_tokens), **sides}

    sft = [row() for _ in range(STEPS * ACCUMULATED * case.micro)]
    pairs = [pair() for _ in range(STEPS * ACCUMULATED * case.pairs)]
    prompt = prompt_of(case.prompt_tokens, codec)
    prompts = Split([prompt] * case.rollout, [prompt] * case.answers)
    return Encoded(Split(sft, []), Split(pairs, []), prompts, [], Split([], []))


def prompt_of(tokens: int, codec: Codec) -> EncodedPrompt:
    """A prompt of exactly so many tokens, which the trainers take as text."""
    for count in range(1, 4 * tokens):
        messages = [{"role": "user", "content": "?" * count}]
        found = codec.prompt(messages)
        if len(found) == tokens:
            return EncodedPrompt(messages, found)
    raise SystemExit(f"no prompt of {tokens} tokens")
