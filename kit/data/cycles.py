"""Python's search for cyclic garbage, kept from looking again and again through millions of rows that hold none."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_search() -> Iterator[None]:
    """Inside, there is no search at all: for code that makes rows, and nothing that is garbage."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def search_of_new() -> Iterator[None]:
    """Inside, what was there before is not looked through: a chat template's macros leave garbage, rows do not."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
