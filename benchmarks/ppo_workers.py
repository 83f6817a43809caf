"""One measurement of benchmarks/ppo_vs_trl.py, in a process of its own: `python benchmarks/ppo_workers.py JSON`.

The JSON holds a case, a side, a folder, how many updates to measure after the first, and a limit on GPU memory. Without
a side the worker makes what all sides start from: a base with random weights, a tokenizer, an SFT and a reward adapter.
The last line printed is JSON: the seconds of every measured update (a rollout, its scoring, its training) with their
split, the mean response length, bytes of the idle process and the peak above them. `{"out_of_memory": true}` says that
the GPU's memory did not suffice.
"""

import json
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import bitsandbytes  # noqa: F401  (imported by all sides, so that none of them pays for it after the idle mark)
import peft
import torch
import transformers
from datasets import Dataset
from ppo_cases import TRL_VERSION, Case, Shape, Side
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM, Qwen2ForSequenceClassification

LEARNING_RATE = 1e-5
RESERVED_WORDS = ("<pad>", "<eos>")  # the last of the vocabulary


# ---- what all sides start from ----------------------------------------------------------------------------------


def make_models(case: Case, folder: Path) -> None:
    """The base with a word-level tokenizer, and fresh adapters as the kit's SFT and reward stages would leave them."""
    from kit.config import LoraSettings
    from kit.models.adapters import SCORE_KEY, new_policy

    transformers.set_seed(0)
    tokenizer = make_tokenizer(case.shape)
    shape = case.shape
    config = transformers.Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096, tie_word_embeddings=shape.tied, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    dtype = torch.bfloat16 if case.device == "cuda" else torch.float32
    with torch.device(case.device):
        base = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base.name_or_path = str(folder / "base")
    new_policy(base, LoraSettings()).save_pretrained(folder / "sft", save_embedding_layers=False)
    shutil.copytree(folder / "sft", folder / "reward")
    weights = folder / "reward" / "adapter_model.safetensors"
    save_file({**load_file(weights), SCORE_KEY: torch.randn(1, shape.hidden) * 0.02}, weights)


def make_tokenizer(shape: Shape) -> Any:
    """A word is a token: `w0 w1 …`; so prompts have any length one likes."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [f"w{i}" for i in range(shape.vocabulary - len(RESERVED_WORDS))] + list(RESERVED_WORDS)
    model = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %} <eos>{% endif %} {% endfor %}"
    )
    return tokenizer


def load_tokenizer(folder: Path) -> Any:
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder / "base", padding_side="left")


def prompts_of(case: Case, updates: int) -> list[str]:
    """Texts of exactly `prompt_tokens` words: the same ones for every side."""
    draw, words = random.Random(0), case.shape.vocabulary - len(RESERVED_WORDS)
    count = case.rollout * (1 + updates)
    return [" ".join(f"w{draw.randrange(words)}" for _ in range(case.prompt_tokens)) for _ in range(count)]


# ---- time and memory --------------------------------------------------------------------------------------------


class Meter:
    """Idle and peak bytes of this process, from where it is made: once all libraries are imported, before any model."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.idle = torch.cuda.memory_allocated() if self.cuda else resident_peak()

    def read(self) -> dict[str, Any]:
        """The numbers, and on a GPU its name and the bytes that torch had reserved."""
        if not self.cuda:
            return {"idle_bytes": self.idle, "peak_bytes": resident_peak() - self.idle}
        return {
            "idle_bytes": self.idle, "peak_bytes": torch.cuda.max_memory_allocated() - self.idle,
            "reserved_bytes": torch.cuda.max_memory_reserved(), "device": torch.cuda.get_device_name(),
        }  # fmt: skip


def resident_peak() -> int:
    """The process's highest resident bytes so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Stopwatch(transformers.TrainerCallback):
    """The end of each update, with its split in seconds; an update's seconds reach from the end of the one before it.

    The first update warms up and gives the time from which the others are measured.
    """

    def __init__(self) -> None:
        self.last: float | None = None
        self.updates: list[dict[str, float]] = []
        self.tokens: list[float] = []

    def lap(self, split: dict[str, float], tokens: float) -> None:
        """An update is over; `split` holds its seconds of rollout, scoring and training."""
        end = now()
        if self.last is not None:
            total = end - self.last
            self.updates.append({"total": total, **split, "rest": total - sum(split.values())})
        self.tokens.append(tokens)
        self.last = end

    def read(self) -> dict[str, Any]:
        return {"updates": self.updates, "response_tokens": sum(self.tokens) / len(self.tokens)}


# ---- the kit ----------------------------------------------------------------------------------------------------


def run_kit(case: Case, side: Side, folder: Path, updates: int) -> dict[str, Any]:
    """PPO as the kit's stage sets it up, on its own defaults where the comparison leaves them open."""
    from kit.models.roles import policy_roles
    from kit.ppo import PPOTrainer
    from kit.runs.checkpoints import Checkpoints
    from kit.stages.arguments import build_arguments
    from kit.stages.sizes import choose_sizes

    class KitStopwatch(Stopwatch):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            if logs and "seconds/training" in logs:
                split = {part: logs[f"seconds/{part}"] for part in ("rollout", "scoring", "training")}
                self.lap(split, logs["lengths/mean"])

    meter = Meter(case.device)
    config, base = kit_config(case, side, folder, updates), kit_base(case, side, folder)
    prompts = prompts_of(case, updates)
    checkpoints = Checkpoints(folder / "out")
    choice = choose_sizes(config, "ppo", base, case.prompt_tokens + case.response_tokens, checkpoints)
    stopwatch = KitStopwatch()
    trainer = PPOTrainer(
        roles=policy_roles(base.causal_lm(), folder / "sft", folder / "reward", critic=side.critic),
        args=build_arguments(config, "ppo", base.precision, folder / "out", choice, len(prompts)),
        train_dataset=Dataset.from_list([{"prompt": text} for text in prompts]),
        processing_class=base.tokenizer,
        callbacks=[stopwatch],
    )
    trainer.roles.model.generation_config.eos_token_id = None  # TRL 1.12 generates to the end whatever it draws
    trainer.train()
    return {**stopwatch.read(), **meter.read(), "notes": []}


def run_sft(case: Case, side: Side, folder: Path) -> dict[str, Any]:
    """Two optimizer steps of the kit's SFT stage on rows of the same length."""
    from kit.data.rows import Split
    from kit.models.encoding import IGNORE, Encoded, EncodedPrompt
    from kit.runs.checkpoints import Checkpoints
    from kit.stages.sft import train_sft

    meter = Meter(case.device)
    config, base = kit_config(case, side, folder, updates=1), kit_base(case, side, folder)
    draw = random.Random(0)
    rows = []
    for _ in range(2 * case.rollout):
        ids = [draw.randrange(case.shape.vocabulary - 2) for _ in range(case.prompt_tokens + case.response_tokens)]
        rows.append({"input_ids": ids, "labels": [IGNORE] * case.prompt_tokens + ids[case.prompt_tokens :]})
    none, prompt = Split([], []), EncodedPrompt([], rows[0]["input_ids"][: case.prompt_tokens])
    data = Encoded(Split(rows, []), none, Split([prompt], []), [], none)
    train_sft(config, data, base, folder / "out", Checkpoints(folder / "out" / "checkpoints"))
    return {"updates": [], "response_tokens": case.response_tokens, **meter.read(), "notes": []}


def kit_config(case: Case, side: Side, folder: Path, updates: int) -> Any:
    """The kit's settings for PPO and SFT with one optimizer step for a rollout's worth of rows."""
    import kit
    from kit.ppo.guards import NAMES

    batch = {"batch_size": case.rollout, "micro_batch_size": side.micro_batches[0]}
    return kit.Config(
        output_dir=str(folder / "runs"),
        model={
            "base": str(folder / "base"), "dtype": side.dtype, "quantization": "nf4" if side.nf4 else "none",
        },
        data={"max_response_tokens": case.response_tokens},
        sft={**batch, "max_steps": 2},
        ppo={
            **batch, "num_mini_batches": 1, "num_ppo_epochs": case.epochs, "episodes": case.rollout * (1 + updates),
            "learning_rate": LEARNING_RATE, "temperature": 1.0, "critic": side.critic,
            "guards_off": list(NAMES),  # an untrained model never ends its turns
        },
    )  # fmt: skip


def kit_base(case: Case, side: Side, folder: Path) -> Any:
    """The base without `find_base`, which would refuse a tokenizer that knows no English."""
    from kit.models.base import Base
    from kit.models.device import choose_precision
    from kit.models.encoding import Codec

    settings = kit_config(case, side, folder, updates=1).model
    return Base(settings, settings.base, choose_precision(settings), Codec(load_tokenizer(folder)))


# ---- TRL 1.12 ---------------------------------------------------------------------------------------------------


def run_trl(case: Case, side: Side, folder: Path, updates: int) -> dict[str, Any]:
    """TRL's own trainer, unmodified; functions of its module are timed from outside."""
    import trl
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    if trl.__version__ != TRL_VERSION:
        raise RuntimeError(f"found TRL {trl.__version__} where {TRL_VERSION} was to be measured")

    meter = Meter(case.device)
    policy, value, reward = trl_models(case, side, folder)
    tokenizer = load_tokenizer(folder)
    micro = side.micro_batches[0]
    prompts = prompts_of(case, updates)
    args = PPOConfig(
        str(folder / "out"), total_episodes=len(prompts), num_ppo_epochs=case.epochs, num_mini_batches=1,
        per_device_train_batch_size=micro, gradient_accumulation_steps=case.rollout // micro,
        local_rollout_forward_batch_size=side.chunks[0], response_length=case.response_tokens, temperature=1.0,
        learning_rate=LEARNING_RATE, missing_eos_penalty=1.0, num_sample_generations=0, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=case.device == "cpu", bf16=side.dtype == "bfloat16",
    )  # fmt: skip
    stopwatch = trl_stopwatch(ppo_trainer)
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = PPOTrainer(
        args=args, processing_class=tokenizer, model=policy, ref_model=None, reward_model=reward, value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in prompts]),
        peft_config=lora if side.lora else None, callbacks=[stopwatch],
    )  # fmt: skip
    notes = []
    if side.nf4:
        trained = sum(p.numel() for p in value.parameters() if p.requires_grad)
        notes = [f"of TRL's value model {trained:,} weights train: embeddings, norms, biases, score; 4-bit ones cannot"]
    del policy, value, reward
    trainer.train()
    return {**stopwatch.read(), **meter.read(), "notes": notes}


def trl_models(case: Case, side: Side, folder: Path) -> tuple[Any, Any, Any]:
    """Policy, value and reward model, loaded as TRL's examples load them."""
    dtype = getattr(torch, side.dtype)
    nf4 = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    device = 0 if case.device == "cuda" else "cpu"
    how = {"dtype": dtype, "device_map": {"": device}, "quantization_config": nf4 if side.nf4 else None}
    policy = Qwen2ForCausalLM.from_pretrained(folder / "base", **how)
    value = Qwen2ForSequenceClassification.from_pretrained(folder / "base", num_labels=1, **how)
    reward = Qwen2ForSequenceClassification.from_pretrained(folder / "base", num_labels=1, **how)
    return policy, value, reward


def trl_stopwatch(module: Any) -> Stopwatch:
    """Times TRL's update: generation; scoring, up to the end of its last forward pass without gradients; training."""
    spent = {"rollout": 0.0, "generated": 0.0, "scored": 0.0, "tokens": 0.0}
    generate, get_reward, forward = module.batch_generation, module.get_reward, module.forward

    def timed_generation(model: Any, queries: Any, *args: Any, **kwargs: Any) -> Any:
        started = now()
        answers, logits = generate(model, queries, *args, **kwargs)
        spent["generated"] = now()
        spent["rollout"] = spent["generated"] - started
        spent["tokens"] = answers.shape[1] - queries.shape[1]  # no row ends early: TRL gives generate no EOS
        return answers, logits

    def timed_scoring(function: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if not torch.is_grad_enabled():
                spent["scored"] = now()
            return result

        return run

    module.batch_generation = timed_generation
    module.get_reward, module.forward = timed_scoring(get_reward), timed_scoring(forward)

    class TrlStopwatch(Stopwatch):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            split = {"rollout": spent["rollout"], "scoring": spent["scored"] - spent["generated"]}
            self.lap({**split, "training": now() - spent["scored"]}, spent["tokens"])

    return TrlStopwatch()


# ---- the command ------------------------------------------------------------------------------------------------


def measure(task: dict) -> dict[str, Any]:
    """What the task asks for."""
    case, folder = Case(**{**task["case"], "shape": Shape(**task["case"]["shape"])}), Path(task["folder"])
    if task["side"] is None:
        make_models(case, folder)
        return {}
    side = Side(**task["side"])
    if task["memory_gib"] and case.device == "cuda":
        share = task["memory_gib"] * 2**30 / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    try:
        if side.trainer == "sft":
            return run_sft(case, side, folder)
        return {"kit": run_kit, "trl": run_trl}[side.trainer](case, side, folder, task["updates"])
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error):  # cuBLAS words it so
            return {"out_of_memory": True}
        raise


def main() -> int:
    with redirect_stdout(sys.stderr):  # trainers print their logs
        found = measure(json.loads(sys.argv[1]))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
