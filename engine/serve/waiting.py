"""Requests that wait: a queue bounded in rows and bytes, from which batches are cut.

Rows that ask the same of the same model, in the same shapes, run together. A worker that is free
takes the rows that have waited longest, at once when there are enough for a run, else when the
first of them has waited for the latency bound. Of what waits it takes its share: a worker that
took all would leave the others idle, and have nothing to go on with itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from .refused import Refused, busy, late

__all__ = ["Batch", "Item", "Waiting"]

now = time.monotonic


@dataclass(eq=False)
class Item:
    """Rows of one request that run together.

    key: what they ask of which model; rows that have the same may share a run. most: rows of such
    a run. size: bytes. deadline: by the monotonic clock. payload: for the worker. answer: what
    comes of it; cancelled where nobody waits for it any more.
    """

    key: Hashable
    rows: int
    most: int
    size: int
    deadline: float
    payload: Any
    answer: asyncio.Future[Any]
    added: float = field(default_factory=now)


@dataclass(frozen=True)
class Batch:
    """Items for one run. queued: seconds that each waited for a worker; held: seconds that each
    waited for others while a worker was free."""

    items: tuple[Item, ...]
    queued: tuple[float, ...]
    held: tuple[float, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(item.rows for item in self.items)


class Waiting:
    """The queue. rows, size: what it holds at most; wait: seconds, the latency bound of a batch;
    workers: who share what waits. changed: is told of every change, for metrics."""

    def __init__(
        self, rows: int, size: int, wait: float, workers: int,
        changed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.most_rows, self.most_bytes, self.wait, self.workers = rows, size, wait, workers
        self.rows = self.bytes = 0
        self.seconds_per_row = 0.0
        self._keys: OrderedDict[Hashable, deque[Item]] = OrderedDict()
        self._takers: set[asyncio.Future[None]] = set()
        self._changed = changed

    @property
    def delay(self) -> float:
        """Seconds until what waits now will have run, about."""
        return self.rows * self.seconds_per_row / max(self.workers, 1)

    def reserve(self, size: int) -> None:
        """Take room for a body that is being read. Raises Refused (503)."""
        if self.bytes + size > self.most_bytes:
            raise busy(f"{self.bytes} bytes wait already, of {self.most_bytes} at most",
                       "queue_bytes", self.delay)  # fmt: skip
        self.bytes += size
        self._changed()

    def release(self, size: int) -> None:
        """Give that room back, when its request is answered."""
        self.bytes -= size
        self._changed()

    def check(self, rows: int) -> None:
        """Whether there is room for so many rows more. Raises Refused (503)."""
        if self.rows + rows > self.most_rows:
            raise busy(f"{self.rows} rows wait already, of {self.most_rows} at most",
                       "queue_rows", self.delay)  # fmt: skip

    def add(self, items: list[Item]) -> None:
        """Queue all of a request's items, or none. Raises Refused (503)."""
        self.check(sum(item.rows for item in items))
        for item in items:
            self._keys.setdefault(item.key, deque()).append(item)
            self.rows += item.rows
        self._changed()
        self.wake()

    def put_back(self, batch: Batch) -> None:
        """Have a batch's items wait again, before all others: who took it can't run it."""
        for item in reversed(batch.items):
            self._keys.setdefault(item.key, deque()).appendleft(item)
            self.rows += item.rows
        self._changed()
        self.wake()

    def wake(self) -> None:
        """Have those who wait for items look again."""
        for taker in self._takers:
            if not taker.done():
                taker.set_result(None)

    def fail_all(self, error: Refused) -> None:
        """Answer everything that waits with an error."""
        for items in self._keys.values():
            for item in items:
                if not item.answer.done():
                    item.answer.set_exception(error)
        self._keys.clear()
        self.rows = 0
        self._changed()

    async def take(self) -> Batch:
        """The next batch. Requests that were given up, and those past their deadline, are dropped
        here, before they cost anything."""
        free = now()
        while True:
            batch = self.ripe(free)
            if batch is not None:
                return batch
            first = self._first()
            await self._change(None if first is None else first.added + self.wait)

    def ripe(self, free: float) -> Batch | None:
        """The same where none of its rows has to wait for others. free: since when there is a
        worker for them."""
        self.sweep()
        first = self._first()
        if first is None:
            return None
        if self._rows_of(first.key) < first.most and now() < first.added + self.wait:
            return None
        return self._cut(first.key, free)

    def _first(self) -> Item | None:
        """What has waited longest."""
        return min((items[0] for items in self._keys.values()), key=lambda i: i.added, default=None)

    def _rows_of(self, key: Hashable) -> int:
        return sum(item.rows for item in self._keys[key])

    async def _change(self, until: float | None) -> None:
        taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._takers.add(taker)
        try:
            await asyncio.wait([taker], timeout=None if until is None else max(until - now(), 0))
        finally:
            self._takers.discard(taker)

    def sweep(self) -> None:
        """Drop what was given up and what is past its deadline."""
        at = now()
        for key in list(self._keys):
            kept = deque(item for item in self._keys[key] if self._kept(item, at))
            if kept:
                self._keys[key] = kept
            else:
                del self._keys[key]
        self._changed()

    def _kept(self, item: Item, at: float) -> bool:
        if not item.answer.done() and at < item.deadline:
            return True
        if not item.answer.done():
            item.answer.set_exception(late("its deadline passed while it waited"))
        self.rows -= item.rows
        return False

    def _cut(self, key: Hashable, free: float) -> Batch:
        """The worker's share of a key's rows, at least one item and at most a run's rows."""
        items = self._keys[key]
        share = math.ceil(self._rows_of(key) / max(self.workers, 1))
        most = min(items[0].most, max(share, items[0].rows))
        taken: list[Item] = []
        rows = 0
        while items and (not taken or rows + items[0].rows <= most):
            item = items.popleft()
            taken.append(item)
            rows += item.rows
        if not items:
            del self._keys[key]
        self.rows -= rows
        self._changed()
        at = now()
        begun = [max(item.added, free) for item in taken]
        return Batch(
            tuple(taken),
            tuple(b - item.added for b, item in zip(begun, taken, strict=True)),
            tuple(at - b for b in begun),
        )
