"""Work done side by side: small boxes keep one core busy, and leave several waiting for each other
at every node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_lanes(work: Callable[[Item], Made], items: Iterable[Item], lanes: int = 1) -> Iterator[Made]:
    """`work` of each item, in order, so many at a time, each in a thread of its own.

    Items are taken as they are needed, one ahead of the lanes. What `work` raises is raised here;
    then, and where the caller stops early, what hasn't begun is left out and what has is waited
    for.
    """
    if lanes == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(lanes, "lane")
    running: deque[Future[Made]] = deque()
    try:
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) > lanes:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
