"""Write trl-1.12.0.safetensors beside this file: what TRL 1.12's PPOTrainer computes on frozen rollouts.

    python tests/parity/record.py

It installs trl==1.12.0 into build/trl-1.12.0 (alone; everything else comes from the environment it runs in), starts
itself again with that folder first on the path, and runs TRL's own `PPOTrainer.train()` for one update per case, in
float32 on the CPU. Nothing of TRL is edited: the module's `batch_generation` hands back the frozen responses with the
policy's logits, its `empty_cache` and a hook before the optimizer's step read the local variables of `train`.

The record holds the weights, so tests/test_ppo_parity.py needs neither TRL 1.12 nor torch's random numbers:
    base/NAME                       the base's weights, by their names in Qwen2ForCausalLM
    ROLE/layers.N.MODULE.lora_A|B   LoRA weights of policy, reference, reward and critic; ROLE/head of the last two
    CASE/NAME                       the rollout, under the names of TRL's local variables; [b, r] unless obvious
    CASE/metrics/NAME               what TRL logged
    CASE/STEP/NAME                  losses and gradient norm at each optimizer step; logps and values in the order of
                                    the rollout, or the order of the rows and the micro-batches' losses, [epoch,
                                    mini-batch, micro-batch]; for `full` also gradients, and weights from step 1 on

Shapes: b = 8 responses in rows; r = 6 tokens of the longest response.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

TRL = "1.12.0"
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / f"trl-{TRL}"
RECORD = Path(__file__).with_name(f"trl-{TRL}.safetensors")

PAD, END, VOCABULARY = 0, 1, 40
BASE = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True,
    "pad_token_id": PAD, "eos_token_id": END, "num_labels": 1,
}  # fmt: skip
LORA = {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj", "down_proj"]}
ADAPTERS = ["policy", "reference", "reward", "critic"]

# TRL's names. cliprange and cliprange_value are small enough that both clip in the second epoch.
SETTINGS = {
    "kl_coef": 0.2, "gamma": 0.99, "lam": 0.9, "vf_coef": 0.3, "cliprange": 0.05, "cliprange_value": 0.05,
    "num_ppo_epochs": 2, "learning_rate": 0.01, "temperature": 1.0, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1, "num_mini_batches": 1,
}  # fmt: skip
RAGGED = {"stop_token": "eos", "missing_eos_penalty": 0.5}
MINI_BATCHES = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_mini_batches": 2}
CASES = {
    "full": {},
    "whitened": {"whiten_rewards": True},
    "ragged": RAGGED,
    "ragged_k3": RAGGED | {"kl_estimator": "k3"},
    "pad_is_eos": RAGGED,
    "mini_batches": RAGGED | MINI_BATCHES,
    "last_batch": RAGGED | MINI_BATCHES,  # the last one that the dataset holds; `mini_batches` is not
}
PROMPT_TOKENS = [3, 5, 7, 4, 8, 6, 3, 5]
RESPONSE_TOKENS = {"full": [6] * 8, "whitened": [6] * 8}  # all END-less
RAGGED_TOKENS = [6, 6, 5, 4, 3, 2, 1, 6]  # all but the first and the last row finish with END


# --- also used by tests/test_ppo_parity.py ------------------------------------------------------------------------


def tokenizer(pad="<pad>"):
    """One id a word; <end> ends a turn and, on request, pads too."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<end>": END} | {f"w{i}": i for i in range(2, VOCABULARY)}
    core = Tokenizer(models.WordLevel(words, unk_token="w2"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token=pad, padding_side="left")


def base_model(kind, weights):
    """A Qwen2 of this class on the recorded base, frozen."""
    from transformers import Qwen2Config

    model = kind(Qwen2Config(**BASE))
    fill({n: p for n, p in model.named_parameters() if n != "score.weight"}, part(weights, "base"))
    return model.requires_grad_(False)


def lora_parameters(model, adapter):
    """The weights of one adapter, by the names they have in the record."""
    pattern = re.compile(rf"(layers\..*lora_[AB])\.{adapter}\.weight$")
    found = [(pattern.search(name), parameter) for name, parameter in model.named_parameters()]
    return {match[1]: parameter for match, parameter in found if match}


def part(record, prefix):
    """What the record holds under `prefix/`."""
    return {k.removeprefix(f"{prefix}/"): v for k, v in record.items() if k.startswith(f"{prefix}/")}


def fill(parameters, values):
    """Set parameters; neither side may hold a name that the other lacks."""
    import torch

    assert set(parameters) == set(values), set(parameters) ^ set(values)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name].reshape(parameter.shape))


# --- the frozen inputs --------------------------------------------------------------------------------------------


def new_weights():
    """Random weights of base, adapters and heads; nothing is zero, or a fault could hide behind it."""
    import torch
    from transformers import Qwen2ForCausalLM

    noise = torch.Generator().manual_seed(0)
    draw = lambda like, scale: torch.randn(like.shape, generator=noise) * scale  # noqa: E731
    base = _with_adapters(Qwen2ForCausalLM, None, ADAPTERS)
    named = {n.removeprefix("base_model.model.").replace(".base_layer", ""): p for n, p in base.named_parameters()}
    plain = {n: p for n, p in named.items() if "lora_" not in n}
    weights = {f"base/{n}": draw(p, 0.3) + ("norm" in n) for n, p in plain.items()}
    for role in ADAPTERS:
        weights |= {f"{role}/{n}": draw(p, 0.3) for n, p in lora_parameters(base, role).items()}
    return weights | {f"{role}/head": draw(torch.empty(1, BASE["hidden_size"]), 0.3) for role in ("reward", "critic")}


def frozen_rollout(case):
    """Prompts and responses: lists of ids. The third prompt holds an END, as a chat of several turns does."""
    import torch

    noise = torch.Generator().manual_seed(1)
    draw = lambda n: torch.randint(2, VOCABULARY, (n,), generator=noise).tolist()  # noqa: E731
    prompts = [draw(n) for n in PROMPT_TOKENS]
    prompts[2][3] = END
    responses = [draw(n) for n in RESPONSE_TOKENS.get(case, RAGGED_TOKENS)]
    if case not in RESPONSE_TOKENS:
        responses[1:-1] = [[*ids[:-1], END] for ids in responses[1:-1]]
    return prompts, responses


# --- TRL 1.12 -----------------------------------------------------------------------------------------------------


def _with_adapters(kind, weights, names):
    """A PEFT model of class `kind` with these adapters."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config

    base = kind(Qwen2Config(**BASE)) if weights is None else base_model(kind, weights)
    config = LoraConfig(r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=LORA["targets"])
    model = get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model


def _policy(weights):
    from transformers import Qwen2ForCausalLM

    model = _with_adapters(Qwen2ForCausalLM, weights, ["default", "ref"])
    for adapter, role in (("default", "policy"), ("ref", "reference")):
        fill(lora_parameters(model, adapter), part(weights, role))
    return model


def _scorer(weights, role):
    """Reward or value model: a LoRA adapter and a trainable score head."""
    from transformers import Qwen2ForSequenceClassification

    model = _with_adapters(Qwen2ForSequenceClassification, weights, ["default"])
    model.score.weight.requires_grad_(True)
    fill(lora_parameters(model, "default") | {"head": model.score.weight}, part(weights, role))
    return model


def run(case, weights, output_dir):
    """One update of TRL's PPOTrainer on the frozen rollout of `case`; the numbers under the names they have there."""
    import torch
    from datasets import Dataset
    from transformers import set_seed
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    prompts, responses = frozen_rollout(case)
    words = tokenizer("<end>" if case == "pad_is_eos" else "<pad>")
    pad, width = words.pad_token_id, max(map(len, responses))
    answer_to = {tuple(p): r + [pad] * (width - len(r)) for p, r in zip(prompts, responses, strict=True)}
    record, steps = {}, []
    set_seed(0)  # TRL shuffles with numpy, which its own `seed` leaves alone

    def batch_generation(model, queries, _, pad_token_id, __):
        lengths = (queries != pad_token_id).long().argmax(1)  # of the padding on the left
        rows = [answer_to[tuple(q[n:].tolist())] for q, n in zip(queries, lengths, strict=True)]
        both = torch.cat([queries, torch.tensor(rows)], 1)
        logits = ppo_trainer.forward(model, both, pad_token_id).logits[:, queries.shape[1] - 1 : -1]
        return both, logits / (SETTINGS["temperature"] + 1e-7)

    def train_frame():
        frame = sys._getframe(1)
        while frame.f_code is not PPOTrainer.train.__code__:
            frame = frame.f_back
        return frame.f_locals

    def empty_cache():
        here = train_frame()
        if "advantages" in here and "ppo_epoch_idx" not in here:
            names = ["queries", "query_responses", "logprobs", "ref_logprobs", "scores", "values", "kl", "rewards",
                     "advantages", "returns", "padding_mask", "padding_mask_p1", "non_score_reward"]  # fmt: skip
            record.update({n: here[n].clone() for n in names})
            record["unwhitened_advantages"] = torch.stack(here["advantages_reversed"][::-1], 1)

    def trained(model):
        value = model.value_model
        own = {f"policy/{n}": p for n, p in lora_parameters(model.policy, "default").items()}
        own |= {f"critic/{n}": p for n, p in lora_parameters(value, "default").items()}
        return own | {"critic/head": value.score.weight}

    def before_step(*_):
        here, number = train_frame(), len(steps)
        step = {n: here[n].detach().clone() for n in ("pg_loss", "vf_loss", "loss")}
        if CASES[case].get("num_mini_batches"):
            step |= {n: torch.as_tensor(here[n]).clone() for n in ("b_inds", "pg_loss_stats", "vf_loss_stats")}
        else:
            in_order = torch.as_tensor(here["b_inds"]).argsort()
            step |= {n: here[n].detach()[in_order] for n in ("new_logprobs", "vpred")}
        parameters = trained(here["model"])
        assert all(p.grad is not None for p in parameters.values())
        step["gradient_norm"] = torch.stack([p.grad.norm() for p in parameters.values()]).norm()
        if case == "full":
            step |= {f"gradients/{n}": p.grad.clone() for n, p in parameters.items()}
            step |= {f"weights/{n}": p.detach().clone() for n, p in parameters.items()} if number else {}
        steps.append(step)

    ppo_trainer.batch_generation, ppo_trainer.empty_cache = batch_generation, empty_cache
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=output_dir, total_episodes=8, response_length=width, model_adapter_name="default",
            ref_adapter_name="ref", num_sample_generations=0, bf16=False, use_cpu=True, gradient_checkpointing=False,
            report_to="none", save_strategy="no", disable_tqdm=True, seed=0, **(SETTINGS | CASES[case]),
        ),
        processing_class=words,
        model=_policy(weights),
        ref_model=None,
        reward_model=_scorer(weights, "reward").requires_grad_(False),
        value_model=_scorer(weights, "critic"),
        train_dataset=Dataset.from_list([{"input_ids": p} for p in prompts] * (2 if case == "mini_batches" else 1)),
    )  # fmt: skip
    trainer.optimizer.optimizer.register_step_pre_hook(before_step)
    trainer.train()
    for number, step in enumerate(steps):
        record |= {f"{number}/{n}": value for n, value in step.items()}
    logged = trainer.state.log_history[-1]
    record |= {f"metrics/{n}": torch.tensor(float(v)) for n, v in logged.items() if "/" in n}
    return {f"{case}/{name}": value for name, value in record.items()}


def write():
    """All cases into one file."""
    import peft
    import torch
    import transformers
    import trl
    from safetensors.torch import save_file

    assert trl.__version__ == TRL, f"found trl {trl.__version__} at {trl.__file__}"
    record = weights = new_weights()
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            record = record | run(case, weights, scratch)
    metadata = {
        "trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
        "peft": peft.__version__, "date": date.today().isoformat(), "command": "python tests/parity/record.py",
        "settings": json.dumps(SETTINGS), "cases": json.dumps(CASES),
    }  # fmt: skip
    save_file({name: tensor.contiguous() for name, tensor in record.items()}, RECORD, metadata=metadata)
    print(f"{RECORD.name}: {RECORD.stat().st_size / 1e3:.0f} KB, {len(record)} tensors")


def main():
    """Install TRL 1.12, then start again with it first on the path."""
    if not (FOLDER / "trl").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--target", str(FOLDER), f"trl=={TRL}"], check=True)
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, __file__, "--on-the-path"], env={**os.environ, **quiet, "PYTHONPATH": path}, check=True
    )


if __name__ == "__main__":
    write() if "--on-the-path" in sys.argv else main()
