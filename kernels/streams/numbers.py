"""Arrays of numbers in JSON, read without a Python object for each number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["lift"]

try:
    from .._native import lift_numbers as native
except ImportError:  # a tree that nobody has built
    native = None  # type: ignore[assignment]

Lifted = tuple[bytes | memoryview, list[tuple[NDArray[np.float64], tuple[int, ...], bool]], int]


def lift(text: bytes | memoryview, least: int) -> Lifted:
    """Take arrays of `least` numbers or more out of a text; other threads run meanwhile.

    Returns what is left, where `[k,null]` stands in place of array k; the arrays: float64, flat,
    with the shape of their nesting, and whether all are whole numbers; and how many values, at
    most, are in what is left. What isn't an array by JSON's grammar, regular, of numbers that a
    double holds as any reader of JSON would read them, stays where it is. Where the native module
    isn't built, everything does.
    """
    return (text, [], 0) if native is None else native(text, least)
