"""The tiny base model of the demo world: a Qwen2 of 0.6 M weights that speaks the world before any fine-tuning.

No weights are shipped: `ensure_base` trains them on the spot, on a CPU, in about 20 seconds, always the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kit.demo import people, scoring, words, world
from kit.demo.scoring import kind_of_prompt
from kit.errors import ModelError
from kit.notices import say

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
VOCABULARY = 1024
CONTEXT = 1024  # tokens
STEPS = 240
BATCH = 32  # conversations per step
LEARNING_RATE = 5e-3

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('The demo model knows the roles system, user and assistant; found ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- message['content'] + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 1,024 tokens with a chat template: text (in Unicode's NFC) comes back unchanged.

    A word of the world is one token; common English is one or a few; what is unknown falls back to bytes. No two of the
    special tokens share an id, so padding is never the end of a turn, and there is no token for a beginning.

    It is of Qwen2's own class, because AutoTokenizer puts that class beside a Qwen2 model whatever was saved there: a
    tokenizer that splits text in another way would be loaded back as Qwen2's, and the model fed with other tokens.
    """
    from transformers import Qwen2Tokenizer

    empty = Qwen2Tokenizer(
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )
    return empty.train_new_from_iterator(_texts_for_the_tokenizer(), vocab_size=VOCABULARY, show_progress=False)


def ensure_base(folder: Path, steps: int = STEPS) -> Path:
    """`folder` with the tiny base model and its tokenizer in it, trained now (about 20 s) unless it is there already.

    The folder appears only when it is whole, and is made again when the demo world has changed since. `steps` are
    optimizer steps; fewer are for tests, and give a worse model. The random state and the number of threads of torch
    are left as they were found. Raises ModelError where `folder` holds something else, which is not touched.
    """
    folder = Path(folder)
    recipe = _recipe(steps)
    found = _recipe_of(folder)
    if found == recipe:
        return folder
    if not found and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is not a demo model and is left alone. Remove it, or choose another folder.")
    say(f"training the tiny demo model (about 20 s on a CPU, once) into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / "whole"
        _make(whole, steps, recipe)
        _put(whole, folder, Path(scratch) / "outdated", recipe)
    return folder


def _recipe(steps: int) -> str:
    """A fingerprint of all that the base is made from: these lines, the world's text and the number of steps."""
    modules = (sys.modules[__name__], people, scoring, words, world)
    sources = [Path(module.__file__ or "").read_bytes() for module in modules]
    return hashlib.sha256(b"".join([*sources, str(steps).encode()])).hexdigest()


def _recipe_of(folder: Path) -> str | None:
    """The recipe that the base in `folder` was made by; None where there is no whole demo base."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("demo_recipe") if (folder / "model.safetensors").is_file() else None


def _make(folder: Path, steps: int, recipe: str) -> None:
    """Train the base and write it to `folder`, on the CPU and with few threads: more only wait for one another."""
    import torch
    from transformers.utils import logging

    tokenizer = build_tokenizer()
    threads, bars = torch.get_num_threads(), logging.is_progress_bar_enabled()
    try:
        torch.set_num_threads(min(threads, 4))
        logging.disable_progress_bar()
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(0)
            model = _train(tokenizer, steps)
        model.config.demo_recipe = recipe
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        torch.set_num_threads(threads)
        if bars:
            logging.enable_progress_bar()


def _put(whole: Path, folder: Path, outdated: Path, recipe: str) -> None:
    """Move `whole` to `folder`, and what stood there to `outdated`; another process may have been faster."""
    try:
        if folder.exists() and _recipe_of(folder) != recipe:
            folder.rename(outdated)
        if not folder.exists():
            whole.rename(folder)
    except OSError:
        if _recipe_of(folder) != recipe:
            raise


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    """Three layers of width 128; every linear layer divides into the blocks of 64 that 4-bit NF4 uses."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.08,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        id2label={0: "reward"},
        label2id={"reward": 0},
    )


def _train(tokenizer: PreTrainedTokenizerFast, steps: int) -> Qwen2ForCausalLM:
    """Next-token training over whole conversations: AdamW, warm-up, cosine decay to nothing."""
    import torch
    from transformers import GenerationConfig, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(_config(tokenizer)).float().train()
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    with torch.enable_grad():
        for tokens, labels in _batches(tokenizer, steps):
            loss = model(input_ids=tokens, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval()


def _pace(step: int, steps: int) -> float:
    """The share of the learning rate at `step`: up over a tenth of the way, then down along a cosine."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _batches(tokenizer: PreTrainedTokenizerFast, steps: int) -> list[tuple[Tensor, Tensor]]:
    """`steps` batches (tokens, labels), each [b, s], of conversations padded on the right; padding has no label."""
    import torch

    conversations = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for prompt, answer in world.corpus(seed=0, size=steps * BATCH)
    ]
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in conversations]
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    batches = []
    for start in range(0, len(ids), BATCH):
        rows = [torch.tensor(row) for row in ids[start : start + BATCH]]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        batches.append((tokens, tokens.masked_fill(tokens == tokenizer.pad_token_id, -100)))
    return batches


def _texts_for_the_tokenizer() -> list[str]:
    """The words of the world often, common English once: the first become whole tokens, the second parts."""
    things = [f" {thing} and {thing}" for members in (*words.THINGS.values(), words.FANCIES) for thing in members]
    phrases = [*words.LEADS, *words.FILLERS, *words.COURTESIES]
    world_often = [*things, *phrases, *(f" {phrase}" for phrase in phrases)] * 30
    return [*kind_of_prompt(), *world_often, *(f" {word} {word}" for word in words.ENGLISH.split())]
