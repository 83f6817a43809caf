"""Rows of token ids, made when they are asked for; the ids lie on disk where they are many, four bytes each."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from kit.data.kept import Numbers
from kit.data.spool import Spool

T = TypeVar("T")


class Store:
    """Sequences of token ids, each known by its number."""

    def __init__(self) -> None:
        self._spool = Spool()

    def add(self, ids: "array[int]") -> int:
        """Keep a sequence; its number."""
        return self._spool.add(ids.tobytes())

    def __len__(self) -> int:
        return len(self._spool)

    def __getitem__(self, number: int) -> list[int]:
        return self.look(number).tolist()

    def look(self, number: int) -> memoryview:
        """A sequence as it is stored: to look at, at less cost than a list."""
        return memoryview(self._spool[number]).cast("i")

    def lengths(self) -> NDArray[np.int64]:
        """The number of ids of every sequence."""
        return self._spool.sizes() // array("i").itemsize


class Rows(Sequence[T], Generic[T]):
    """Rows that are made when they are asked for, each by `make` from its few numbers; reads like a list.

    Where the rows are of token ids, the first numbers are those of sequences in `store`: the prompt, then its answers.
    """

    def __init__(self, make: Callable[..., T], numbers: Any, store: Store | None = None) -> None:
        self._make, self.store = make, store
        self.numbers: Numbers = np.asarray(numbers, dtype=np.int32)  # shape: [rows, numbers a row]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._make(*numbers) for numbers in self.numbers[index].tolist()]
        return self._make(*self.numbers[index].tolist())

    def __iter__(self) -> Iterator[T]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def sequences(rows: Sequence, which: int) -> tuple[Store, Numbers]:
    """The numbers of the prompts (0) or of an answer (1, 2) of encoded rows, and the store that holds them."""
    assert isinstance(rows, Rows) and rows.store is not None
    return rows.store, rows.numbers[:, which] if len(rows) else rows.numbers.reshape(0)
