"""How alike two maps are: cosine, structural similarity, overlap of the strongest values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["cosine", "ssim", "top_overlap"]

Map = NDArray[np.floating[Any]]

# The window and the constants of Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality
# assessment: from error visibility to structural similarity".
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
TOP = 0.01


def cosine(a: Map, b: Map) -> float:
    """Of two arrays of one shape, as vectors, in float64: -1 to 1. Two zeros are alike (1), one
    is like nothing (0)."""
    left, right = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    if norms == 0:
        return float(not left.any() and not right.any())
    return float(left @ right) / norms


def ssim(a: Map, b: Map) -> float:
    """Mean structural similarity of [H, W] maps: 1 for equal ones. `b` is the reference: its own
    range is the dynamic range L. Gaussian windows, whole ones only; smaller maps get one of
    their own size. Wang et al. 2004, equation 13."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    span = float(np.ptp(right))
    if span == 0:
        return float(np.array_equal(left, right))
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    mean_a, mean_b = _blurred(left), _blurred(right)
    var_a = _blurred(left * left) - mean_a**2
    var_b = _blurred(right * right) - mean_b**2
    both = _blurred(left * right) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return float(np.mean(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))))


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in (0, 1):
        size = min(WINDOW, values.shape[axis])
        at = np.arange(size) - (size - 1) / 2
        weights = np.exp(-(at**2) / (2 * SIGMA**2))
        values = sliding_window_view(values, size, axis=axis) @ (weights / weights.sum())
    return values


def top_overlap(a: Map, b: Map, share: float = TOP) -> float:
    """How many of the top positions of one [H, W] map are among those of the other: 0 to 1.
    At least one position counts; of equal values the first in row-major order is on top."""
    count = max(1, math.floor(share * a.size + 0.5))
    first, second = (np.argsort(-m.ravel(), kind="stable")[:count] for m in (a, b))
    return len(np.intersect1d(first, second)) / count
