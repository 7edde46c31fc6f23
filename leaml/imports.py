"""Imports of large packages at three quarters of their cost."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's garbage collector away while packages are imported and models built.

    Millions of objects are made that live as long as the process. The collector would go through them again and again: it is
    4 of the 15 s of processor time that importing vLLM takes, and 2 of the 6 s that its engine takes to start. Afterwards it
    passes them over (`gc.freeze`).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
