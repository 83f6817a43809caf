"""What happens when the GPU's memory runs out: the same work again, in halves, from where it was.

`AtOnce` is for passes without gradients, `HalvesMicroBatch` for training steps. Both keep what they have learnt: a size
that was too large once is not tried again. The random state is put back first, so the work done again is the work that
a run would have done that began with the smaller size.

Shapes: b rows of a micro-batch; a pair is one row of its micro-batch and two of its tensors.
"""

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from kit import notices
from kit.errors import MachineError

T = TypeVar("T")

# What TRL's trainers and ours note during a step; a step that is done again must not count twice.
_RECORDS = ("_metrics", "_total_train_tokens", "_token_sums")


class AtOnce:
    """How many rows a pass takes at once; halved, for good, where they do not fit."""

    def __init__(self, rows: int, setting: str) -> None:
        self.rows, self.setting = rows, setting

    def run(self, work: Callable[[int], T]) -> T:
        """`work(rows)`, again with half as many rows where memory runs out; MachineError where 1 is too many."""
        state = _random_state()
        while True:
            done, result = _try(lambda: work(self.rows), self.setting, self.rows)
            if done:
                return result  # type: ignore[return-value]
            rows, self.rows = self.rows, self.rows // 2
            _set_random_state(state)
            notices.warn(
                f"{self.setting}: out of GPU memory with {rows} rows at once; goes on with {self.rows}. Set "
                f"{self.setting}={self.rows} to begin there"
            )


class HalvesMicroBatch:
    """Before a trainer of transformers in a class's bases: a step that ran out of memory is done again in halves.

    The micro-batch is halved and the accumulation doubled, so that the step is the one of a run that began with the
    smaller micro-batch; the gradients of its earlier micro-batches are made again too.

    `paired` trainers take a mean over pairs. Theirs is weighted by the pairs in the step, so that the step's loss is
    the mean over all of them also at the end of an epoch, where the last micro-batch may be short (transformers weighs
    each micro-batch the same, and a single pair there would count as much as the others together).
    """

    paired: ClassVar[bool] = False
    loss_is_scaled_for_ga = True  # `compute_loss` back-propagates and scales by itself
    _parts = 1  # that each micro-batch goes through in
    _step_rows = 0
    current_gradient_accumulation_steps: int
    args: Any
    _step_inputs: list[dict[str, Any]]  # the micro-batches of this step so far
    _step_began: "tuple[Any, dict[str, Any]]"

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: Any) -> tuple[list, Any]:
        """A step begins: how many rows it has."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        self._step_inputs = []
        self._step_rows = sum(self._rows(sample) for sample in samples) if self.paired else 0
        return samples, items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """In training: back-propagates, and returns the loss as a leaf, for the trainer to back-propagate in vain."""
        if return_outputs or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        if not self._step_inputs:
            self._step_began = (
                _random_state(),
                {name: copy.deepcopy(getattr(self, name)) for name in _RECORDS if hasattr(self, name)},
            )
        self._step_inputs.append(dict(inputs))
        todo = self._step_inputs[-1:]
        while True:
            rows = self._rows(inputs) // self._parts
            work = partial(self._back_propagate, model, todo, num_items_in_batch)
            done, loss = _try(work, self._setting, rows)
            if done:
                return loss.requires_grad_()  # type: ignore[union-attr]
            self._begin_again(rows)
            todo = self._step_inputs

    def _back_propagate(self, model: Any, micro_batches: list[dict[str, Any]], num_items_in_batch: Any) -> Tensor:
        """The last one's share of the step's loss, without a graph."""
        for inputs in micro_batches:
            loss = self._back_propagate_one(model, inputs, num_items_in_batch)
        return loss

    def _back_propagate_one(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        """A micro-batch's share of the step's loss, part by part."""
        parts = list(_split(inputs, self._parts, self._rows(inputs)))
        scaled = super().loss_is_scaled_for_ga  # type: ignore[misc]
        if scaled is None:  # then it is a sum by the items of the whole step, where they were counted
            scaled = num_items_in_batch is not None
        total = torch.zeros((), device=self.args.device)
        with self._as_if_smaller(len(parts)):
            for part in parts:
                loss = super().compute_loss(model, dict(part), False, num_items_in_batch)  # type: ignore[misc]
                if self.paired:
                    loss = loss * self._rows(part) / self._step_rows
                elif not scaled:
                    loss = loss / self.current_gradient_accumulation_steps
                self.accelerator.backward(loss)  # type: ignore[attr-defined]
                total += loss.detach()
                del loss
        return total

    @contextmanager
    def _as_if_smaller(self, parts: int) -> Iterator[None]:
        """What the trainers scale their losses by, as it would be with a micro-batch so many times smaller."""
        places = [(self, "current_gradient_accumulation_steps"), (self.args, "gradient_accumulation_steps")]
        if hasattr(self.args, "steps_per_generation"):
            places.append((self.args, "steps_per_generation"))
        before = [getattr(owner, name) for owner, name in places]
        try:
            for (owner, name), count in zip(places, before, strict=True):
                setattr(owner, name, count * parts)
            yield
        finally:
            for (owner, name), count in zip(places, before, strict=True):
                setattr(owner, name, count)

    def _begin_again(self, rows: int) -> None:
        """Back to the beginning of the step, with twice as many parts; with `rows` at once it ran out of memory."""
        self._parts *= 2
        for parameter in self.model.parameters():  # type: ignore[attr-defined]
            parameter.grad = None
        state, records = self._step_began
        _set_random_state(state)
        for name, record in records.items():
            setattr(self, name, copy.deepcopy(record))
        notices.warn(
            f"{self._setting}: out of GPU memory with {rows} at once; the step is done again with {rows // 2}, and so "
            f"are the following. The batch of an optimizer step stays. Set {self._setting}={rows // 2} to begin there"
        )

    @property
    def _setting(self) -> str:
        return f"{self._name.lower()}.micro_batch_size"  # type: ignore[attr-defined]

    def _rows(self, inputs: dict[str, Any]) -> int:
        tensors = [value for value in inputs.values() if isinstance(value, Tensor) and value.dim()]
        return len(tensors[0]) // (2 if self.paired else 1)


def _try(work: Callable[[], T], setting: str, rows: int) -> tuple[bool, T | None]:
    """(True, the result), or (False, None) where memory ran out that fewer rows may do without; it is free again."""
    try:
        return True, work()
    except torch.OutOfMemoryError as error:
        if rows <= 1:
            raise MachineError(f"{setting}: {_no_memory(error)}") from None
    gc.collect()  # after the block: the error's traceback held its tensors
    torch.cuda.empty_cache()
    return False, None


@contextmanager
def memory_errors(stage: str) -> Iterator[None]:
    """An error of memory that nothing smaller can cure, as a MachineError that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MachineError(f"{stage}: {_no_memory(error)}") from None


def _no_memory(error: BaseException) -> str:
    first = str(error).split(". ")[0]
    return (
        f"out of GPU memory ({first}), with no smaller size to try. `kit plan CONFIG` says where the memory goes and "
        "what to change; `memory: lean` needs least. Close what else uses the GPU (`nvidia-smi` shows it)"
    )


def _split(inputs: dict[str, Any], parts: int, rows: int) -> Iterator[dict[str, Any]]:
    """The inputs in at most `parts` parts of rows; what has no row for each of them is in every part."""
    if parts == 1:
        yield inputs
        return
    for index in torch.arange(rows).chunk(parts):
        yield _trimmed({name: _take(value, index, rows) for name, value in inputs.items()})


def _take(value: Any, index: Tensor, rows: int) -> Any:
    """Some rows of a tensor [b, ...]; of a tensor of pairs [2 b, ...], chosen first, those of both halves."""
    if not isinstance(value, Tensor) or not value.dim() or len(value) not in (rows, 2 * rows):
        return value
    both = index if len(value) == rows else torch.cat([index, index + rows])
    return value[both.to(value.device)]


def _trimmed(inputs: dict[str, Any]) -> dict[str, Any]:
    """Without the columns on the right that pad all of these rows: then dropout draws what it would have drawn."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return inputs
    columns = int(mask.any(0).nonzero().max()) + 1
    of_rows = {n for n, x in inputs.items() if isinstance(x, Tensor) and x.dim() > 1 and x.shape[1] == mask.shape[1]}
    return {name: value[:, :columns] if name in of_rows else value for name, value in inputs.items()}


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
