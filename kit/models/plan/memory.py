"""Bytes of the parts of a stage: weights, adapters, activations, log-probabilities, keys and values.

Letters: t tokens, n rows (sequences), h hidden, i intermediate, q and k units of all (key-value) heads, v vocabulary,
L layers, r LoRA rank, e bytes of an element. What the formulas follow is named beside each; what they were compared
with stands in tests/test_plan_measured.py. None was measured on a GPU.
"""

import math
from dataclasses import dataclass

from kit.models.plan.shape import Shape

CONTEXT_BYTES = 800_000_000  # CUDA's context, kernels and cuBLAS workspaces: an estimate, see docs/memory.md
SLACK = 1.05  # what the allocator holds in blocks that do not fit
_TILE_COLUMNS, _TILE_TOKENS = 32_768, 4096  # of TRL's fused head
_KIT_TILE_BYTES = 16 * 2**20  # of kit.ppo.head, which runs where Triton does not
TOKENS_AT_ONCE = 4096  # more are hardly faster: the GPU is busy with these
_NF4_BLOCK, _ABSMAX_BLOCK = 64, 256
_NF4_CODES = 16 * 4 + 256 * 4 + 4  # bytes of a layer's two code tables and its offset


@dataclass(frozen=True)
class Arithmetic:
    """How a stage computes: element size of base and activations, 4 bits or not, checkpointing, and where.

    `trained` are the bytes of an element of the adapters that are trained, `optim_8bit` AdamW's moments in 8 bits,
    `host_embedding` an input embedding outside of the device's memory. `context` counts CUDA's own memory and the
    allocator's slack; off where the process holds them already.
    """

    element: int
    nf4: bool
    checkpointing: bool
    cuda: bool = True
    context: bool = True
    trained: int = 4
    optim_8bit: bool = False
    host_embedding: bool = False

    @property
    def autocast(self) -> bool:
        """Where the dtype has 16 bits and the device is a GPU (`Precision.autocasts`)."""
        return self.cuda and self.element == 2

    @property
    def merges(self) -> bool:
        """Whether passes without gradients add the adapter to a copy of the weights (`Roles.merged`)."""
        return self.element == 4 and not self.nf4

    @property
    def frozen(self) -> int:
        """Bytes of an element of a frozen adapter: what autocast would make of it anyway (`shrink_frozen`)."""
        return 2 if self.autocast else 4


# --- weights -----------------------------------------------------------------------------------------------------


def linear_bytes(shape: Shape, how: Arithmetic) -> int:
    """The base's linear layers, in 4 bits as bitsandbytes stores NF4 with double quantisation, or in `element` bytes.

    A layer of w weights: w/2 bytes; an 8-bit scale for 64 weights; a 32-bit scale for 256 of those; two code tables.
    """
    if not how.nf4:
        return how.element * (shape.linear_weights + shape.biases)
    total = how.element * shape.biases
    for linear in shape.linears:
        blocks = math.ceil(linear.weights / _NF4_BLOCK)
        scales = blocks + 4 * math.ceil(blocks / _ABSMAX_BLOCK)
        total += linear.count * (math.ceil(linear.weights / 2) + scales + _NF4_CODES)
    return total


def embedding_bytes(shape: Shape, how: Arithmetic, head: bool = True) -> int:
    """Input embedding, head and norms, which stay in `element` bytes; the reward stage's base has no head.

    A tied embedding is the head too, and stays on the device.
    """
    on_device = 0 if how.host_embedding and not shape.tied else shape.embeddings
    return how.element * (on_device + (shape.head if head else 0) + shape.others)


def adam_bytes_per_weight(how: Arithmetic) -> float:
    """AdamW's two moments: in the weight's own dtype, or in 8 bits with a 32-bit scale for 256 of each."""
    return 2 * (1 + 4 / 256) if how.optim_8bit else 2 * how.trained


# --- one pass ----------------------------------------------------------------------------------------------------


def layer_bytes(shape: Shape, how: Arithmetic, rows: int, row_tokens: int, rank: int, dropout: float = 0.0) -> int:
    """What autograd keeps of one decoder layer with a frozen base and LoRA on all of its linear layers.

    Norms keep a float32 copy of their input; attention its queries, keys and values (repeated for every query head, as
    transformers' sdpa does with a mask) and its output; the MLP its gate, the gate's activation and the other factor;
    LoRA the input of each of its layers (shared by those that read the same one) and its r units. Frozen linear layers
    keep nothing of t tokens.
    """
    e, h, i, q = how.element, shape.hidden, shape.intermediate, shape.heads * shape.head_dim
    per_token = 4.0 * shape.norms_per_layer * h
    if shape.qk_norm:
        per_token += 4 * shape.head_dim * (shape.heads + shape.kv_heads)
    per_token += 4 * e * q + 4 * shape.heads
    if shape.eager_attention:
        per_token += 8 * shape.heads * row_tokens  # scores before and after the softmax, the latter in float32 too
    elif not how.cuda:
        per_token += e * q  # the CPU's kernel lays its output out anew
    per_token += 3 * e * i
    if dropout > 0:  # each layer's own copy, and a mask
        per_token += (e + (1 if how.cuda else 4)) * (5 * h + q + i)
    elif how.autocast or e == 4:
        per_token += e * (2 * h + i)
    else:  # without autocast PEFT casts each input to the adapter's float32
        per_token += 4 * (5 * h + q + i)
    per_token += 7 * rank * (2 if how.autocast else 4)
    return round(per_token * rows * row_tokens)


def forward_bytes(shape: Shape, how: Arithmetic, rows: int, row_tokens: int, keys: int | None = None) -> int:
    """The most that a pass without gradients holds at once: in the MLP, its factors and LoRA's sums beside the stream.

    On a CPU in 16 bits nothing autocasts, and LoRA's part is computed in float32. On a float32 base the adapter is
    merged, and there is none. `keys` are the tokens that each token may look at, where they are not the row's own.
    """
    e, i, h = how.element, shape.intermediate, shape.hidden
    mixed = e == 2 and not how.autocast
    per_token = (12 * i + 14 * h) if mixed else e * ((3 if how.merges else 4) * i + 4.5 * h)
    if shape.eager_attention:
        per_token = max(per_token, 8 * shape.heads * (keys or row_tokens) + 4 * e * h)
    return round(per_token * rows * row_tokens)


def dequantised_bytes(shape: Shape, how: Arithmetic) -> int:
    """The largest layer's weights, unpacked for one product."""
    return how.element * max((linear.weights for linear in shape.linears), default=0) if how.nf4 else 0


def training_bytes(
    shape: Shape, how: Arithmetic, rows: int, row_tokens: int, head: int, rank: int, dropout: float = 0.0
) -> dict[str, int]:
    """The items of a forward and backward pass at its peak; `head` are the bytes that the loss's head takes.

    With checkpointing each layer leaves its input, and one layer is computed anew with all it keeps. The head's
    backward pass is over before the layers' begins, so the larger of the two counts.
    """
    tokens = rows * row_tokens
    e, h = how.element, shape.hidden
    one = layer_bytes(shape, how, rows, row_tokens, rank, dropout)
    ends = (2 * e + 4) * h * tokens  # embedding's output; the final norm's float32 input, and its output
    backward = 2 * e * shape.intermediate * tokens
    unpacked = dequantised_bytes(shape, how)
    if how.checkpointing:
        kept = {"checkpoints": e * h * tokens * shape.layers + ends}
        live = {"one layer": one + backward, "dequantised layer": unpacked}
    else:
        kept = {"activations": shape.layers * one + ends}
        live = {"backward pass": backward, "dequantised layer": unpacked}
    return kept | ({"log-probability tiles": head} if head > sum(live.values()) else live)


def trl_head_bytes(shape: Shape, how: Arithmetic, rows: int, row_tokens: int, scored: int) -> int:
    """TRL's fused head (`ChunkedLogProbFunction`): `scored` tokens a row on a GPU; on a CPU it takes all of them."""
    n = rows * (scored if how.cuda else row_tokens - 1)
    tile = min(n, _TILE_TOKENS) * _TILE_COLUMNS * how.element
    if not how.cuda:  # without Triton a tile goes through torch, in float32
        tile += 4 * 4 * min(n, _TILE_TOKENS) * min(shape.vocab, _TILE_COLUMNS)
    return tile + n * shape.hidden * (4 + 2 * how.element)


def kit_head_bytes(shape: Shape, how: Arithmetic, rows: int, row_tokens: int, scored: int) -> int:
    """The head of `kit.ppo.head`: TRL's on a GPU; elsewhere tiles of rows."""
    if how.cuda:
        return trl_head_bytes(shape, how, rows, row_tokens, scored)
    n = rows * scored
    tile = min(4 * n * shape.vocab, max(_KIT_TILE_BYTES, 4 * shape.vocab))
    return 3 * tile + n * shape.hidden * (4 + 2 * how.element)


# --- sampling ----------------------------------------------------------------------------------------------------


def prompt_columns(rows: int, longest: int) -> int:
    """Columns of a batch of prompts that go through the model at once: of all rows together 4,096 tokens or so."""
    return min(longest, max(1, TOKENS_AT_ONCE // rows))


def rows_at_once(rows: int, longest: int) -> int:
    """Rows of a batch that are scored at once: no more than make 4,096 tokens, and no fewer than 1."""
    return min(rows, max(1, TOKENS_AT_ONCE // longest))


def cache_bytes(shape: Shape, how: Arithmetic, rows: int, tokens: int) -> int:
    """Keys and values of `tokens` tokens a row, in all layers; sliding layers keep their window."""
    a_token = 2 * shape.kv_heads * shape.head_dim * how.element
    short = min(tokens, shape.window) if shape.window else tokens
    return rows * a_token * ((shape.layers - shape.sliding_layers) * tokens + shape.sliding_layers * short)


def prompt_bytes(shape: Shape, how: Arithmetic, rows: int, prompt: int) -> dict[str, int]:
    """The first step of sampling: the prompts of the batch, so many columns at once; their keys and values kept."""
    columns = prompt_columns(rows, prompt)
    mask = rows * columns * prompt * how.element
    return {
        "KV cache": cache_bytes(shape, how, rows, prompt),
        "prompt pass": forward_bytes(shape, how, rows, columns, keys=prompt) + mask,
    }


def decoding_bytes(shape: Shape, how: Arithmetic, rows: int, tokens: int) -> dict[str, int]:
    """The last step of sampling: the longest keys and values, one layer's copy as it grows, and the distribution."""
    cache = cache_bytes(shape, how, rows, tokens)
    return {
        "KV cache": cache + cache // shape.layers,
        "next-token distribution": rows * shape.vocab * (how.element + 12),
    }


def distribution_bytes(shape: Shape) -> int:
    """Of the comparison's exact KL: both policies' distributions at 64 positions, and what is made of them."""
    return 64 * shape.vocab * 20
