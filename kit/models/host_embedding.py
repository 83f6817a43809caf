"""An input embedding that stays in the host's memory: a lookup, which needs no GPU, and up to a GiB that is one there.

Shapes: v vocabulary, h hidden units.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class HostEmbedding(nn.Module):
    """Looks its rows up in the host's memory and sends them to the device; frozen.

    The table is no parameter, so that moving the model leaves it where it is. `weight` is an empty one of its dtype on
    the device: transformers reads device and dtype of a model off its first parameter, which is the embedding's.
    """

    def __init__(self, table: Tensor, device: torch.device) -> None:
        super().__init__()
        self.table = table.detach().to("cpu")  # [v, h]
        self.weight = nn.Parameter(torch.empty(0, table.shape[1], dtype=table.dtype, device=device), False)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings [..., h] of ids [...]."""
        return functional.embedding(ids.to("cpu"), self.table).to(self.weight.device)


def keep_embedding_on_host(model: Any) -> None:
    """Move a plain input embedding to the host, unless the head is tied to it or it is more than a lookup."""
    embedding = model.get_input_embeddings()
    tied = model.config.get_text_config().tie_word_embeddings
    if type(embedding) is nn.Embedding and not tied and embedding.max_norm is None:
        model.set_input_embeddings(HostEmbedding(embedding.weight, embedding.weight.device))
