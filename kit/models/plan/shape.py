"""The shape of a base model: what its config.json says about bytes.

Counts are exact for the families the kit knows (`FAMILIES`), without torch; any other causal model is built by
transformers on the device `meta`, where a tensor has a shape and no bytes, and counted there.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kit.errors import ModelError


@dataclass(frozen=True)
class Linear:
    """`count` linear layers of one name and size; `inputs` x `outputs` weights each."""

    name: str
    inputs: int
    outputs: int
    count: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Weights of one of them, its bias left out."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Shape:
    """A decoder: sizes in units, `linears` without embeddings and head, `others` parameters in neither (norms).

    `tied`: the head is the embedding. `sliding_layers` of the layers keep keys and values of `window` tokens only.
    `eager_attention`: attention writes out its scores, as softcapping needs (Gemma 2). `head_bias`: biases of the head.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    linears: tuple[Linear, ...]
    others: int
    norms_per_layer: int = 2
    qk_norm: bool = False
    sliding_layers: int = 0
    window: int | None = None
    eager_attention: bool = False
    head_bias: int = 0

    @property
    def linear_weights(self) -> int:
        """Weights that 4-bit quantisation takes: those of all linear layers but the head."""
        return sum(linear.count * linear.weights for linear in self.linears)

    @property
    def biases(self) -> int:
        """Biases of the linear layers."""
        return sum(linear.count * linear.outputs for linear in self.linears if linear.bias)

    @property
    def embeddings(self) -> int:
        """Weights of the input embedding."""
        return self.vocab * self.hidden

    @property
    def head(self) -> int:
        """Parameters of a head of its own; 0 where it is tied to the embedding."""
        return self.head_bias + (0 if self.tied else self.vocab * self.hidden)

    @property
    def parameters(self) -> int:
        """All parameters, a tied head counted once."""
        return self.linear_weights + self.biases + self.embeddings + self.head + self.others

    def adapter(self, rank: int, targets: str | list[str] = "all-linear") -> int:
        """Weights of one LoRA adapter: rank x (inputs + outputs) of each linear layer that `targets` name."""
        chosen = [
            linear for linear in self.linears
            if targets == "all-linear" or linear.name in targets or linear.name == targets
        ]  # fmt: skip
        return rank * sum(linear.count * (linear.inputs + linear.outputs) for linear in chosen)


# model_type: what differs between the families. `qkv_bias`, `bias` (all four of attention) and `mlp_bias` may also be
# settings of the config; `defaults` are those that a config.json may leave out.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tied": False},
    "mistral": {"tied": False},
    "smollm3": {"tied": True},
    "qwen2": {"tied": False, "qkv_bias": True},
    "qwen3": {"tied": False, "qk_norm": True, "head_dim": 128},
    "gemma": {"tied": True, "head_dim": 256},
    "gemma2": {"tied": True, "head_dim": 256, "norms": 4},
    "gemma3_text": {"tied": True, "head_dim": 256, "norms": 4, "qk_norm": True},
}
_NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def shape_of(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that a config.json describes; `name` is the model's, for messages.

    Raises ModelError for what is no causal language model that transformers knows.
    """
    inner = config.get("text_config")
    text = inner if isinstance(inner, Mapping) and "vision_config" not in config else config
    if text.get("model_type") in FAMILIES and all(isinstance(text.get(key), int) for key in _NEEDED):
        return _by_formula(text)
    return _by_transformers(config, name)


def _by_formula(config: Mapping[str, Any]) -> Shape:
    kind = config["model_type"]
    family = FAMILIES[kind]
    hidden, layers, heads, mlp, vocab = (config[key] for key in _NEEDED)
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or family.get("head_dim") or hidden // heads
    bias = bool(config.get("attention_bias"))
    qkv = bias or bool(family.get("qkv_bias"))
    mlp_bias = bool(config.get("mlp_bias"))
    linears = (
        Linear("q_proj", hidden, heads * head_dim, layers, qkv),
        Linear("k_proj", hidden, kv_heads * head_dim, layers, qkv),
        Linear("v_proj", hidden, kv_heads * head_dim, layers, qkv),
        Linear("o_proj", heads * head_dim, hidden, layers, bias),
        Linear("gate_proj", hidden, mlp, layers, mlp_bias),
        Linear("up_proj", hidden, mlp, layers, mlp_bias),
        Linear("down_proj", mlp, hidden, layers, mlp_bias),
    )
    norms, qk_norm = family.get("norms", 2), bool(family.get("qk_norm"))
    sliding, window = _sliding(config)
    return Shape(
        hidden, layers, heads, kv_heads, head_dim, mlp, vocab,
        tied=bool(config.get("tie_word_embeddings", family["tied"])),
        linears=linears,
        others=layers * (norms * hidden + (2 * head_dim if qk_norm else 0)) + hidden,
        norms_per_layer=norms, qk_norm=qk_norm, sliding_layers=sliding, window=window,
        eager_attention=kind == "gemma2" and config.get("attn_logit_softcapping", 50.0) is not None,
    )  # fmt: skip


def _sliding(config: Mapping[str, Any]) -> tuple[int, int | None]:
    """(layers that see a window alone, its tokens)."""
    window, layers = config.get("sliding_window"), config["num_hidden_layers"]
    if not window or config.get("use_sliding_window") is False:
        return 0, None
    kinds = config.get("layer_types")
    if kinds:
        return kinds.count("sliding_attention"), window
    if config["model_type"] == "gemma2":
        return (layers + 1) // 2, window
    if config["model_type"] == "gemma3_text":
        return layers - layers // (config.get("sliding_window_pattern") or 6), window
    return (layers, window) if config["model_type"] == "mistral" else (0, None)


def _by_transformers(config: Mapping[str, Any], name: str) -> Shape:
    """Any other causal model, counted on the device `meta`; this alone imports torch and transformers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, whose weight is [inputs, outputs]

    try:
        settings = {key: value for key, value in config.items() if key not in ("quantization_config", "auto_map")}
        described = AutoConfig.for_model(**settings)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(described, trust_remote_code=False)
        text = described.get_text_config()
        hidden, layers, heads = text.hidden_size, text.num_hidden_layers, text.num_attention_heads
        head = model.get_output_embeddings()
        vocab = model.get_input_embeddings().weight.shape[0]
    except Exception as error:  # each architecture refuses in its own way
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model.base {name}: its config.json (model_type {config.get('model_type')!r}) describes no causal "
            f"language model that transformers can build: {first}"
        ) from None
    modules = Counter(
        (path.rsplit(".", 1)[-1], *_sizes(module), module.bias is not None)
        for path, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    )
    linears = tuple(Linear(label, i, o, count, bias) for (label, i, o, bias), count in modules.items())
    tied = head.weight is model.get_input_embeddings().weight or bool(getattr(text, "tie_word_embeddings", False))
    total = sum(parameter.numel() for parameter in model.parameters())
    if tied and head.weight is not model.get_input_embeddings().weight:
        total -= head.weight.numel()
    shape = Shape(
        hidden, layers, heads, getattr(text, "num_key_value_heads", None) or heads,
        getattr(text, "head_dim", None) or hidden // heads,
        getattr(text, "intermediate_size", None) or max((linear.outputs for linear in linears), default=hidden),
        vocab, tied, linears, others=0, head_bias=0 if head.bias is None else head.bias.numel(),
        eager_attention=getattr(described, "_attn_implementation", None) == "eager",
    )  # fmt: skip
    return Shape(**{**vars(shape), "others": total - shape.parameters})


def _sizes(module: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer of either kind."""
    return (module.nx, module.nf) if hasattr(module, "nx") else (module.in_features, module.out_features)
