"""Sampling with transformers' `generate`, and what was seen on the way: each token's log-probability and value.

Shapes: b prompts of p tokens, r tokens of the longest response, v vocabulary, h hidden units.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from kit.models.plan.memory import prompt_columns
from kit.runs import signals

_DROP_SHARE = 0.25  # finished rows leave the batch once they are this much of it; the cache is copied each time


@dataclass(frozen=True)
class Sampled:
    """Responses in the order of their prompts, end-of-turn token included where it came.

    `logps` and `values` hold a number per token of each response: its log-probability at the sampling temperature, in
    nats, and, where a value head was given, the value before it, in score units.
    """

    ids: list[list[int]]
    logps: list[list[float]]
    values: list[list[float]] | None


def sample_responses(
    model: Any,
    prompts: list[list[int]],
    max_tokens: int,
    batch_size: int,
    temperature: float = 1.0,
    value_head: Callable[[Tensor], Tensor] | None = None,
    told: Callable[[int], None] | None = None,
    **settings: Any,
) -> Sampled:
    """One response per prompt under the adapter in use, from the pure softmax at this temperature; greedy at 0.

    Prompts are taken in order of length, `batch_size` at a time, so that little is padded; a row that has ended leaves
    its batch. `told` hears how many responses there are, after each batch. Draws from the global random state. Raises
    AskedToStop, between two tokens, where the run was asked to end (`kit.runs.signals`).
    """
    pad = model.generation_config.pad_token_id
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: list[tuple[list[int], list[float], list[float]]] = [([], [], [])] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask = (x.to(model.device) for x in pad_rows([prompts[i] for i in rows], pad, left=True))
        seen = _Seen(len(rows), value_head)
        with torch.no_grad(), _pure_softmax(model, temperature) as causal:
            causal.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, custom_generate=_decode, seen=seen,
                prefill_chunk_size=_columns_at_once(*ids.shape), **settings,
            )  # fmt: skip
        for i, row in zip(rows, seen.rows(), strict=True):
            found[i] = row
        if told is not None:
            told(start + len(rows))
    ids, logps, values = (list(column) for column in zip(*found, strict=True))
    return Sampled(ids, logps, values if value_head is not None else None)


def _columns_at_once(rows: int, longest: int) -> int | None:
    """Columns of the prompts that go through the model in one pass; None: all of them."""
    columns = prompt_columns(rows, longest)
    return columns if columns < longest else None


@contextmanager
def _pure_softmax(model: Any, temperature: float) -> Iterator[Any]:
    """The causal model, its own generation settings laid aside but for the ends of a turn.

    Many bases ship a top-k, a repetition penalty or a minimal length: what they sample has another distribution than
    the one whose log-probabilities ratio and KL are made of.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = causal.generation_config
    how = {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature, "top_k": 0}
    ends = {name: getattr(own, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    causal.generation_config = GenerationConfig(**how, **ends)
    try:
        yield causal
    finally:
        causal.generation_config = own


class _Seen:
    """What the decoding loop saw, step by step: which rows had ended, which row is which, tokens, logps and values."""

    def __init__(self, rows: int, value_head: Callable[[Tensor], Tensor] | None) -> None:
        self.count, self.value_head = rows, value_head
        self.steps: list[tuple[Tensor, ...]] = []

    def rows(self) -> list[tuple[list[int], list[float], list[float]]]:
        """(ids, logps, values) of each row; the tensors come to the CPU once."""
        rows: list[tuple[list[int], list[float], list[float]]] = [([], [], []) for _ in range(self.count)]
        columns = (torch.cat(column).tolist() for column in zip(*self.steps, strict=True))
        for ended, place, *numbers in zip(*columns, strict=True):
            if not ended:
                for column, number in zip(rows[place], numbers, strict=True):
                    column.append(number)
        return rows


def _decode(
    model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any,
    seen: _Seen, **model_kwargs: Any,
) -> Tensor:  # fmt: skip
    """The decoding loop that `generate` runs here: `_sample`, where rows that ended leave the batch.

    A batch in which one response is long and the others are short then costs little more than the long one.
    """
    states: list[Tensor] = []
    hook = model.base_model.register_forward_hook(lambda _, __, out: states.append(out.last_hidden_state[:, -1]))
    place = torch.arange(len(input_ids), device=input_ids.device)  # which row of the batch each live row is
    ended = torch.zeros_like(place, dtype=torch.bool)
    if model_kwargs.get("past_key_values") is None:  # a state of another kind (Mamba) takes the prompt whole
        generation_config.prefill_chunk_size = None
    try:
        outputs = model._prefill(input_ids, generation_config, model_kwargs)
        while True:
            signals.stop_if_asked()
            model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
            scores = logits_processor(input_ids, outputs.logits[:, -1].float())
            logps = torch.log_softmax(scores, -1)
            if generation_config.do_sample:
                tokens = torch.multinomial(logps.exp(), 1)
            else:
                tokens = scores.argmax(-1, keepdim=True)
            values = torch.zeros_like(logps[:, 0]) if seen.value_head is None else seen.value_head(states[-1])
            seen.steps.append((ended, place, tokens[:, 0], logps.gather(1, tokens)[:, 0], values))
            input_ids = torch.cat([input_ids, tokens], 1)
            ended = ended | stopping_criteria(input_ids, None)
            del outputs, scores, logps
            states.clear()
            finished = int(ended.sum())  # the only number a step waits for
            if finished == len(ended):
                return input_ids
            if finished >= _DROP_SHARE * len(ended) and type(model_kwargs.get("past_key_values")) is DynamicCache:
                live = (~ended).nonzero()[:, 0]
                model_kwargs = _take_rows(model_kwargs, live, len(ended))
                input_ids, place, ended = input_ids[live], place[live], ended[live]
            inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **model_kwargs)
            outputs = model(**inputs, return_dict=True)
    finally:
        hook.remove()


def _take_rows(model_kwargs: dict[str, Any], live: Tensor, count: int) -> dict[str, Any]:
    """The model's arguments with the live rows alone; the cache is cut in place."""
    model_kwargs["past_key_values"].batch_select_indices(live)
    per_row = {k: v for k, v in model_kwargs.items() if isinstance(v, Tensor) and v.dim() and len(v) == count}
    return model_kwargs | {name: tensor[live] for name, tensor in per_row.items()}


def pad_rows(rows: list[list[int]], pad: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """(ids, attention mask), both [b, s]; the mask comes from the lengths, never from the ids."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row, dtype=torch.long), 1
    return ids, mask
