"""Small bases of different shapes, the kit's stages on them, and the bytes that torch really held.

Bytes at the peak come from torch's profiler, which sees every allocation of the CPU allocator; static bytes are those
of the distinct storages behind parameters, buffers, quantisation states and optimizer.
"""

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from kit.config import Config
from kit.data.rows import Split
from kit.demo.base import build_tokenizer
from kit.models.adapters import new_policy, new_reward, save_adapter
from kit.models.base import Base
from kit.models.device import Precision
from kit.models.encoding import Codec, Encoded, EncodedPrompt
from kit.models.plan.memory import Arithmetic
from kit.models.plan.planner import base_shape
from kit.models.plan.shape import Shape
from kit.models.plan.stages import Sizes, StageMemory, stage_memory
from kit.runs.checkpoints import Checkpoints

PROMPT, RESPONSE = 248, 8
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2": {
        "model_type": "qwen2", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 512, "tie_word_embeddings": True,
    },
    "llama": {
        "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 512, "tie_word_embeddings": False,
    },
    "qwen3": {
        "model_type": "qwen3", "hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 64, "intermediate_size": 768, "tie_word_embeddings": True,
    },
}  # fmt: skip


class Toy:
    """A base of one of SHAPES in float32 or NF4, with adapters of the kit's making, on the CPU."""

    def __init__(self, name: str, nf4: bool, root: Path) -> None:
        self.folder, self.nf4, self.root = root / "base", nf4, root
        tokenizer = build_tokenizer()
        fields = SHAPES[name] | {"vocab_size": len(tokenizer), "max_position_embeddings": 512}
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": None, "bos_token_id": None}
        set_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields, **ends)).save_pretrained(self.folder)
        tokenizer.save_pretrained(self.folder)
        self.base = Base(
            self.config().model, str(self.folder), Precision(torch.device("cpu"), torch.float32, nf4),
            Codec(AutoTokenizer.from_pretrained(self.folder, padding_side="left")),
        )  # fmt: skip
        policy = new_policy(self.base.causal_lm(), self.config().lora)
        save_adapter(policy, root / "sft", self.base.tokenizer, "card")
        save_adapter(new_reward(self.base.scorer(), root / "sft"), root / "reward", self.base.tokenizer, "card")

    def config(self, **sections: Any) -> Config:
        """Rows of PROMPT + RESPONSE tokens."""
        data = {"max_prompt_tokens": PROMPT, "max_response_tokens": RESPONSE}
        model = {"base": str(self.folder), "quantization": "nf4" if self.nf4 else "none", "dtype": "float32"}
        return Config(model=model, lora={"rank": 8, "dropout": 0.0}, data=data, **sections)

    @property
    def shape(self) -> Shape:
        """As the planner reads it from the folder's config.json."""
        return base_shape(self.config().model)

    def planned(self, config: Config, stage: Any, sizes: Sizes, checkpointing: bool = False) -> StageMemory:
        """The plan of a stage for a CPU."""
        how = Arithmetic(4, self.nf4, checkpointing, cuda=False, context=False)
        return stage_memory(config, self.shape, stage, sizes, how)

    def data(self, rows: int) -> Encoded:
        """Rows as long as the config allows, every other prompt a token shorter, so that there is padding."""
        generator = torch.Generator().manual_seed(0)

        def ids(count: int) -> list[int]:
            return torch.randint(20, 200, (count,), generator=generator).tolist()

        prompts = [ids(PROMPT - at % 2) for at in range(rows)]
        pairs = [{"prompt_ids": p, "chosen_ids": ids(RESPONSE), "rejected_ids": ids(RESPONSE)} for p in prompts]
        sft = [
            {"input_ids": r["prompt_ids"] + r["chosen_ids"], "labels": [-100] * len(r["prompt_ids"]) + r["chosen_ids"]}
            for r in pairs
        ]
        texts = [self._prompt(len(prompt)) for prompt in prompts]
        return Encoded(Split(sft, []), Split(pairs, []), Split(texts, []), [], Split([], []))

    def _prompt(self, tokens: int) -> EncodedPrompt:
        """A prompt of exactly so many tokens."""
        for count in range(1, 4 * tokens):
            messages = [{"role": "user", "content": "?" * count}]
            ids = self.base.codec.prompt(messages)
            if len(ids) == tokens:
                return EncodedPrompt(messages, ids)
        raise AssertionError(f"no prompt of {tokens} tokens")


class Run:
    """A stage of the kit, run on a toy: `static` bytes after its training, and bytes `above` the start at the peak."""

    def __init__(self, toy: Toy, module: ModuleType, stage: str, config: Config, rows: int = 4) -> None:
        train = module.train_with_progress

        def watched(trainer: Any, *rest: Any) -> Any:
            gc.collect()  # what an earlier stage left in cycles must not be freed while this one is measured
            before = static_bytes(trainer.model)
            with allocations() as seen:
                log = train(trainer, *rest)
            self.above, self.trainer = seen.peak, trainer
            self.model, self.optimizer = before, static_bytes(trainer.model, trainer.optimizer) - before
            return log

        out = Path(tempfile.mkdtemp(dir=toy.root))
        places = {"sft": (), "reward": (toy.root / "sft",), "dpo": (toy.root / "sft",)}
        more = places.get(stage, (toy.root / "sft", toy.root / "reward"))
        checkpoints = Checkpoints(out / "checkpoints")
        data = toy.data(rows).pairs if stage == "reward" else toy.data(rows)
        with patch.object(module, "train_with_progress", watched):
            getattr(module, f"train_{stage}")(config, data, toy.base, out, *more, checkpoints)


class Seen:
    """Bytes above those at the start: the most at once."""

    peak = 0


@contextmanager
def allocations() -> Iterator[Seen]:
    """What the CPU allocator gave out and took back during the block."""
    seen = Seen()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        yield seen
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        seen.peak = max(seen.peak, live)


def static_bytes(model: Any, optimizer: Any = None) -> int:
    """Bytes of all storages that the model (gradients left out) and the optimizer hold, each counted once."""
    tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    while optimizer is not None and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    for state in optimizer.state.values() if optimizer is not None else ():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
