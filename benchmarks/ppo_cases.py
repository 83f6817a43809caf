"""What benchmarks/ppo_vs_trl.py measures: models, sides and targets. Plain data, imported by its workers as well."""

from dataclasses import dataclass, replace

TRL_VERSION = "1.12.0"  # the last release with a PPOTrainer, at trl.experimental.ppo


@dataclass(frozen=True)
class Shape:
    """A Qwen2-shaped model with random weights."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = True


@dataclass(frozen=True)
class Side:
    """One trainer and how it is set; of several micro-batches and chunks the first that fits is taken."""

    trainer: str  # kit, trl, or sft: the kit's SFT stage
    dtype: str = "float32"
    nf4: bool = False
    critic: str = "adapter"  # the kit's
    lora: bool = True  # TRL's policy; False: trained whole
    micro_batches: tuple[int, ...] = (32,)
    chunks: tuple[int, ...] = (64,)  # responses that TRL generates and scores at once; 64 is its default


@dataclass(frozen=True)
class Target:
    """A ratio of two sides; without a goal it is printed and not judged."""

    measure: str  # speed: episodes per second, at least the goal; memory: the peak, at most the goal
    side: str
    beside: str
    goal: float | None = None


@dataclass(frozen=True)
class Case:
    """A model on a device, the lengths and sizes of a rollout, the sides that take part and what is wanted of them."""

    name: str
    shape: Shape
    device: str
    prompt_tokens: int
    response_tokens: int
    rollout: int  # responses; one optimizer step sees them all
    epochs: int
    sides: dict[str, Side]
    targets: tuple[Target, ...]


SMALL = Shape(hidden=512, layers=9, intermediate=1408, heads=8, kv_heads=8, vocabulary=32_000)  # 45 M weights
TOY = Shape(hidden=64, layers=2, intermediate=128, heads=2, kv_heads=1, vocabulary=1000)
QWEN = {
    "0.5b": Shape(896, 24, 4864, 14, 2, 151_936),
    "1.5b": Shape(1536, 28, 8960, 12, 2, 151_936),
    "7b": Shape(3584, 28, 18_944, 28, 4, 152_064, tied=False),
}
GOALS = {4: (1.3, 2.0), 1: (1.2, 1.5)}  # PPO epochs: episodes per second of kit-adapter and kit-shared over TRL's


def cpu_case(nf4: bool, epochs: int) -> Case:
    """45 M weights on the CPU; 4-bit has no goals."""
    side = Side("kit", nf4=nf4)
    sides = {"kit-adapter": side, "kit-shared": replace(side, critic="shared"), "trl": replace(side, trainer="trl")}
    if not nf4:  # 4-bit weights cannot be trained whole
        sides["trl-full"] = replace(sides["trl"], lora=False)
    goals = (None, None) if nf4 else GOALS[epochs]
    targets = [
        Target("speed", kit, "trl", goal) for kit, goal in zip(("kit-adapter", "kit-shared"), goals, strict=True)
    ]
    targets += [Target("memory", kit, "trl", None if nf4 else 0.8) for kit in ("kit-adapter", "kit-shared")]
    targets += [Target("speed", kit, "trl-full") for kit in ("kit-adapter", "kit-shared")]
    return Case(f"cpu-{'nf4' if nf4 else 'fp32'}-{epochs}", SMALL, "cpu", 64, 64, 32, epochs, sides, tuple(targets))


def cuda_case(name: str) -> Case:
    """A Qwen2.5 shape on the GPU. The kit takes the micro-batch of its `auto` for 1,024 tokens."""
    bf16 = Side("kit", "bfloat16", micro_batches=(4,))
    nf4 = replace(bf16, nf4=True)
    tuned = Side("trl", "bfloat16", micro_batches=(16, 8, 4, 2, 1), chunks=(64, 16, 4))
    shipped = Side("trl", "float32", lora=False, micro_batches=(1,), chunks=(64, 16, 4))
    sides = {
        "kit-adapter-nf4": nf4, "kit-adapter-bf16": bf16, "trl": tuned, "trl-full": shipped,
        "sft-nf4": replace(nf4, trainer="sft"), "sft-bf16": replace(bf16, trainer="sft"),
    }  # fmt: skip
    targets = [Target("speed", "kit-adapter-bf16", "trl", 2.0), Target("speed", "kit-adapter-bf16", "trl-full", 4.0)]
    targets += [Target("speed", "kit-adapter-nf4", trl) for trl in ("trl", "trl-full")]
    targets += [Target("memory", f"kit-adapter-{kind}", f"sft-{kind}", 1.25) for kind in ("nf4", "bf16")]
    targets += [Target("memory", f"kit-adapter-{kind}", "trl") for kind in ("nf4", "bf16")]
    return Case(f"cuda-{name}", QWEN[name], "cuda", 512, 512, 64, 4, sides, tuple(targets))


CPU_CASES = [cpu_case(nf4, epochs) for nf4 in (False, True) for epochs in (4, 1)]
CUDA_CASES = [cuda_case(name) for name in QWEN]


def at_toy_size(case: Case) -> Case:
    """The same sides on a tiny model on the CPU in float32; nothing about it is worth a target."""
    sides = {
        name: replace(
            side, dtype="float32", micro_batches=tuple(min(m, 4) for m in side.micro_batches[:2]),
            chunks=tuple(min(c, 8) for c in side.chunks[:2]),
        )
        for name, side in case.sides.items()
    }  # fmt: skip
    targets = tuple(replace(target, goal=None) for target in case.targets)
    return replace(
        case, shape=TOY, device="cpu", prompt_tokens=8, response_tokens=8, rollout=8, sides=sides, targets=targets
    )
