"""docs/memory.md against the planner: the table's numbers, the items and the settings it names."""

import re
from dataclasses import replace
from pathlib import Path

from kit.config_file import load_config
from kit.models.plan.advice import leanest, memories
from kit.models.plan.card import COMMON_GIB, GIB
from kit.models.plan.memory import CONTEXT_BYTES, SLACK, Arithmetic
from kit.models.plan.planner import base_shape
from kit.models.plan.stages import Sizes, stage_memory

SIZES = ["sft.micro_batch_size=4", "reward.micro_batch_size=2", "dpo.micro_batch_size=2", "ppo.micro_batch_size=4",
         "ppo.rollout_batch_size=16"]  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
MODELS = (
    "Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-1.5B", "HuggingFaceTB/SmolLM2-1.7B",
    "google/gemma-2-2b", "Qwen/Qwen2.5-3B", "meta-llama/Llama-3.2-3B", "Qwen/Qwen3-4B", "mistralai/Mistral-7B-v0.3",
    "Qwen/Qwen2.5-7B", "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-8B", "google/gemma-2-9b", "Qwen/Qwen2.5-14B",
    "Qwen/Qwen3-14B", "mistralai/Mistral-Small-24B-Base-2501", "Qwen/Qwen2.5-32B",
)  # fmt: skip


def rows() -> list[str]:
    """The table of docs/memory.md: `configs/gpu-12gb.yaml` with another base and set sizes, and its leanest form."""
    return [_row(name) for name in MODELS]


def _row(name: str) -> str:
    config = load_config(ROOT / "configs" / "gpu-12gb.yaml", [f"model.base={name}", *SIZES])
    shape = base_shape(config.model)
    found = memories(config, shape, 0)
    lean = max(memory.peak for memory in leanest(config, shape))
    largest = max(found, key=lambda memory: memory.peak)
    by_stage = {memory.stage: f"{memory.peak / GIB:.1f}" for memory in found}
    marks = ["yes" if largest.peak <= gib * GIB else "leaner" if lean <= gib * GIB else "no" for gib in COMMON_GIB]
    cells = [by_stage["sft"], by_stage["ppo"], by_stage["compare"], f"{lean / GIB:.1f}", *marks]
    return f"| {name.split('/')[1]} | " + " | ".join(cells) + " |"


def savings() -> dict[str, float]:
    """GiB that each setting saves PPO of Qwen2.5-7B with a micro-batch of 4 and 16 responses at once, on its own."""
    config = load_config(ROOT / "configs" / "gpu-12gb.yaml", ["model.base=Qwen/Qwen2.5-7B"])
    shape, plain = base_shape(config.model), Arithmetic(2, True, True)

    def peak(how: Arithmetic, rollout: int = 16) -> int:
        return stage_memory(config, shape, "ppo", Sizes(4, rollout, 4), how).peak

    frozen = 2 * shape.adapter(config.lora.rank) * 2  # two adapters of which two bytes an element are gone
    whole_logits = 4 * config.data.max_response_tokens * shape.vocab * 12 - 2**28  # the formula's, less the tiles
    saved = {
        "gradient checkpointing": peak(replace(plain, checkpointing=False)) - peak(plain),
        "`optim: paged_adamw_8bit`": peak(plain) - peak(replace(plain, optim_8bit=True)),
        "input embedding on the host": peak(plain) - peak(replace(plain, host_embedding=True)),
        "`lora.dtype: bfloat16`": peak(plain) - peak(replace(plain, trained=2)),
        "frozen adapters in 16 bits": SLACK * frozen,
        "log-probabilities in tiles": SLACK * whole_logits,
        "fewer responses at once": peak(plain, 64) - peak(plain, 16),
    }
    return {name: size / GIB for name, size in saved.items()}


class TestThePageOfMemory:
    def test_has_what_each_lean_setting_saves(self):
        for name, gib in savings().items():
            assert re.search(rf"^\| {re.escape(name)} .*\| {gib:.1f} ", TEXT, re.MULTILINE), (name, round(gib, 1))

    def test_has_the_numbers_that_the_planner_predicts(self):
        assert [line for line in TEXT.splitlines() if re.match(r"\| \S+ \| \d+\.\d \|", line)] == rows()

    def test_names_every_item_of_a_plan(self):
        config = load_config(ROOT / "configs" / "gpu-12gb.yaml")
        shape = base_shape(config.model)
        ways = [Arithmetic(2, True, checkpointing) for checkpointing in (True, False)]
        plans = [stage_memory(config, shape, stage, Sizes(4, 16, 4), how) for stage in config.stages for how in ways]
        items = {re.sub(r" \(\d\)", "", name) for plan in plans for part in plan.passes.values() for name in part}
        items |= {re.sub(r" \(\d\)", "", name) for plan in plans for name in plan.items}
        assert {name for name in items if f"| {name} |" not in TEXT} == set()

    def test_says_the_estimates_that_no_formula_gives(self):
        assert f"{CONTEXT_BYTES / 1e9:.1f} GB" in TEXT and f"{SLACK - 1:.0%}".replace("%", " %") in TEXT

    def test_names_only_tests_that_exist(self):
        named = re.findall(r"`(tests/test_plan\w*\.py)(?:::(\w+))?`", TEXT)
        assert named
        for file, test in named:
            assert not test or f" {test}" in (ROOT / file).read_text(encoding="utf-8")
