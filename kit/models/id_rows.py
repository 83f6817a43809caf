"""Rows of token ids, kept as numbers of four bytes: as lists of Python's they would take ten times the memory."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap
from typing import Generic, NamedTuple, TypeVar, overload

T = TypeVar("T")


class Glance(NamedTuple):
    """The ids of a row as they are stored, without a copy: to look at, not to keep."""

    prompt: memoryview
    answers: tuple[memoryview, ...]


class Store:
    """Sequences of token ids, end to end in one array; each is known by its number."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._ends = array("q", [0])

    def add(self, ids: "array[int] | list[int]") -> int:
        """Keep a sequence; its number."""
        self._ids.extend(ids)
        self._ends.append(len(self._ids))
        return len(self._ends) - 2

    def __getitem__(self, number: int) -> list[int]:
        return self._ids[self._ends[number] : self._ends[number + 1]].tolist()

    def look(self, number: int) -> memoryview:
        """A sequence without a copy; while one is looked at, nothing can be added."""
        return memoryview(self._ids)[self._ends[number] : self._ends[number + 1]]


class Rows(Sequence[T], Generic[T]):
    """Rows that are made when they are asked for, each by `make` from its few numbers; reads like a list."""

    def __init__(
        self, make: Callable[..., T], numbers: Iterable[tuple[int, ...]], glance: Callable[..., Glance] | None = None
    ) -> None:
        self._make, self._glance = make, glance
        self._numbers = array("i")
        self._width = 1  # numbers a row
        for own in numbers:
            self._width = len(own)
            self._numbers.extend(own)

    def __len__(self) -> int:
        return len(self._numbers) // self._width

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        first = range(len(self))[index] * self._width
        return self._make(*self._numbers[first : first + self._width])

    def __iter__(self) -> Iterator[T]:
        return (self[row] for row in range(len(self)))

    def glances(self) -> Iterator[Glance]:
        """A look at the ids of every row, where they were made with `glance`."""
        assert self._glance is not None
        return starmap(self._glance, zip(*[iter(self._numbers)] * self._width, strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def glances(rows: Sequence) -> Iterator[Glance]:
    """A look at the ids of every encoded row, at a fifth of the cost of making it."""
    assert isinstance(rows, Rows)
    return rows.glances()
