"""Work done side by side, its results in order.

Small work keeps one core busy and leaves several waiting for each other at every node: a run and a
thread each is faster than several threads of one run.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_lanes(
    work: Callable[[Item], Made], items: Iterable[Item], lanes: int, depth: int | None = None
) -> Generator[Made, None, None]:
    """`work` of each item, in order; `lanes` run at a time, each in a thread of its own.

    depth: items begun or waiting while one is handed out, at most; default: one more than lanes.
    One lane is the caller's own thread, if depth isn't given. What `work` raises is raised here;
    then, and where the caller stops early, what hasn't begun is left out and what has is waited
    for.
    """
    if lanes == 1 and depth is None:
        yield from map(work, items)
        return
    coming = iter(items)
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(lanes, "lane") as pool:
        try:
            first = itertools.islice(coming, depth or lanes + 1)
            waiting.extend(pool.submit(work, item) for item in first)
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in itertools.islice(coming, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
