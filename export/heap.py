"""Python's garbage collector, kept from walking a growing graph again and again."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["seldom_collected"]

# A graph is many small objects in circles, all alive: at the usual thresholds, half of the time
# on a graph of 100,000 nodes goes into finding no garbage, and a sixth at one of 200,000 objects.
# This many are a gigabyte or two.
_THRESHOLDS = (10_000_000, 20, 20)
P = ParamSpec("P")
R = TypeVar("R")


def seldom_collected(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with collections far apart while it runs."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        before = gc.get_threshold()
        if before[0] == 0 or before[0] >= _THRESHOLDS[0]:  # off, or inside such a function
            return function(*args, **kwargs)
        gc.set_threshold(*_THRESHOLDS)
        try:
            return function(*args, **kwargs)
        finally:
            gc.set_threshold(*before)

    return run
