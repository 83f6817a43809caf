"""Common open models by hub id, so that `kit plan` answers offline and before anything is downloaded.

Each entry holds the fields of the model's config.json that decide bytes; tests/test_plan_shapes.py builds every entry
with transformers on the device `meta` and compares the counts with the published ones.
"""

from typing import Any

_Q25: dict[str, Any] = {"model_type": "qwen2", "num_key_value_heads": 2, "vocab_size": 151_936}
_Q3: dict[str, Any] = {"model_type": "qwen3", "head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151_936}
_L3: dict[str, Any] = {"model_type": "llama", "num_key_value_heads": 8, "vocab_size": 128_256}
_MISTRAL: dict[str, Any] = {"model_type": "mistral", "head_dim": 128, "num_key_value_heads": 8}
_SMOL: dict[str, Any] = {"model_type": "llama", "vocab_size": 49_152}
_G2: dict[str, Any] = {"model_type": "gemma2", "head_dim": 256, "vocab_size": 256_000, "sliding_window": 4096}
_G3: dict[str, Any] = {
    "model_type": "gemma3_text", "head_dim": 256, "vocab_size": 262_144, "sliding_window": 512,
}  # fmt: skip


def _of(family: dict[str, Any], hidden: int, layers: int, heads: int, mlp: int, tied: bool, **more: Any) -> dict:
    return {
        **family, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": mlp, "tie_word_embeddings": tied, **more,
    }  # fmt: skip


_CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": _of(_Q25, 896, 24, 14, 4864, True),
    "Qwen/Qwen2.5-1.5B": _of(_Q25, 1536, 28, 12, 8960, True),
    "Qwen/Qwen2.5-3B": _of(_Q25, 2048, 36, 16, 11_008, True),
    "Qwen/Qwen2.5-7B": _of(_Q25, 3584, 28, 28, 18_944, False, num_key_value_heads=4, vocab_size=152_064),
    "Qwen/Qwen2.5-14B": _of(_Q25, 5120, 48, 40, 13_824, False, num_key_value_heads=8, vocab_size=152_064),
    "Qwen/Qwen2.5-32B": _of(_Q25, 5120, 64, 40, 27_648, False, num_key_value_heads=8, vocab_size=152_064),
    "Qwen/Qwen3-0.6B": _of(_Q3, 1024, 28, 16, 3072, True),
    "Qwen/Qwen3-1.7B": _of(_Q3, 2048, 28, 16, 6144, True),
    "Qwen/Qwen3-4B": _of(_Q3, 2560, 36, 32, 9728, True),
    "Qwen/Qwen3-8B": _of(_Q3, 4096, 36, 32, 12_288, False),
    "Qwen/Qwen3-14B": _of(_Q3, 5120, 40, 40, 17_408, False),
    "Qwen/Qwen3-32B": _of(_Q3, 5120, 64, 64, 25_600, False),
    "meta-llama/Llama-3.2-1B": _of(_L3, 2048, 16, 32, 8192, True),
    "meta-llama/Llama-3.2-3B": _of(_L3, 3072, 28, 24, 8192, True),
    "meta-llama/Llama-3.1-8B": _of(_L3, 4096, 32, 32, 14_336, False),
    "mistralai/Mistral-7B-v0.3": _of(_MISTRAL, 4096, 32, 32, 14_336, False, vocab_size=32_768),
    "mistralai/Mistral-Small-24B-Base-2501": _of(_MISTRAL, 5120, 40, 32, 32_768, False, vocab_size=131_072),
    "google/gemma-2-2b": _of(_G2, 2304, 26, 8, 9216, True, num_key_value_heads=4),
    "google/gemma-2-9b": _of(_G2, 3584, 42, 16, 14_336, True, num_key_value_heads=8),
    "google/gemma-2-27b": _of(_G2, 4608, 46, 32, 36_864, True, num_key_value_heads=16, head_dim=128),
    "google/gemma-3-270m": _of(_G3, 640, 18, 4, 2048, True, num_key_value_heads=1),
    "google/gemma-3-1b-pt": _of(_G3, 1152, 26, 4, 6912, True, num_key_value_heads=1),
    "HuggingFaceTB/SmolLM2-135M": _of(_SMOL, 576, 30, 9, 1536, True, num_key_value_heads=3),
    "HuggingFaceTB/SmolLM2-360M": _of(_SMOL, 960, 32, 15, 2560, True, num_key_value_heads=5),
    "HuggingFaceTB/SmolLM2-1.7B": _of(_SMOL, 2048, 24, 32, 8192, True, num_key_value_heads=32),
    "HuggingFaceTB/SmolLM3-3B-Base": _of(
        {"model_type": "smollm3", "vocab_size": 128_256}, 2048, 36, 16, 11_008, True, num_key_value_heads=4
    ),
    "demo": _of({"model_type": "qwen2", "vocab_size": 1024}, 128, 3, 4, 256, True, num_key_value_heads=2),
}
# The same weights' shape under further ids.
_TWINS = {
    **{f"Qwen/Qwen2.5-{s}-Instruct": f"Qwen/Qwen2.5-{s}" for s in ("0.5B", "1.5B", "3B", "7B", "14B", "32B")},
    **{f"Qwen/Qwen3-{size}-Base": f"Qwen/Qwen3-{size}" for size in ("0.6B", "1.7B", "4B", "8B", "14B")},
    **{f"meta-llama/Llama-{s}-Instruct": f"meta-llama/Llama-{s}" for s in ("3.2-1B", "3.2-3B", "3.1-8B")},
    "meta-llama/Meta-Llama-3-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3-8B-Instruct": "meta-llama/Llama-3.1-8B",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistralai/Mistral-7B-v0.3",
    "mistralai/Mistral-Small-24B-Instruct-2501": "mistralai/Mistral-Small-24B-Base-2501",
    **{f"google/gemma-2-{size}-it": f"google/gemma-2-{size}" for size in ("2b", "9b", "27b")},
    "google/gemma-3-270m-it": "google/gemma-3-270m",
    "google/gemma-3-1b-it": "google/gemma-3-1b-pt",
    **{f"HuggingFaceTB/SmolLM2-{s}-Instruct": f"HuggingFaceTB/SmolLM2-{s}" for s in ("135M", "360M", "1.7B")},
    "HuggingFaceTB/SmolLM3-3B": "HuggingFaceTB/SmolLM3-3B-Base",
}
MODELS: dict[str, dict[str, Any]] = {**_CONFIGS, **{name: _CONFIGS[twin] for name, twin in _TWINS.items()}}
