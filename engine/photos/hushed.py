"""The warnings of readers about files, which our own words replace: quiet in all threads at once.

`warnings.catch_warnings` is not for threads: each puts back the filters that it found, and may take
away those of another that still reads.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["hushed"]

_lock = threading.Lock()
_inside = 0
_caught: warnings.catch_warnings | None = None


@contextmanager
def hushed() -> Iterator[None]:
    """No warning is shown, nor made an error, while any thread is in here."""
    global _inside, _caught
    with _lock:
        _inside += 1
        if _inside == 1:
            _caught = warnings.catch_warnings()
            _caught.__enter__()
            warnings.simplefilter("ignore")
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _caught is not None:
                _caught.__exit__(None, None, None)
                _caught = None
