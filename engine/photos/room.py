"""Memory for pictures: a budget over all that is decoded at once, in whatever threads.

A photo of a few kilobytes may decode to hundreds of megabytes, and a model may ask for pictures of
any size: side by side they would take what the machine has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

__all__ = ["BATCHES", "BUDGET", "DECODED", "Room", "rows_in"]

# Of the pictures that are being decoded, and of the batches made of them, each.
BUDGET = 1 << 30


class Room:
    """So many bytes, shared by threads. What is larger than all of it gets it alone."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._taken = 0
        self._freed = Condition()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, and have them. Not to be nested."""
        size = min(max(size, 0), self.total)
        with self._freed:
            self._freed.wait_for(lambda: self._taken + size <= self.total)
            self._taken += size
        try:
            yield
        finally:
            with self._freed:
                self._taken -= size
                self._freed.notify_all()


DECODED = Room(BUDGET)
# A thread that has room for its batch waits for room to decode, never the other way around.
BATCHES = Room(BUDGET)


def rows_in(each: int, wanted: int, ahead: int = 1) -> int:
    """How many rows of `each` bytes a batch may have, at least 1, where `ahead` batches are there
    at once."""
    return max(min(wanted, BUDGET // max(each * ahead, 1)), 1)
