"""Points snapped to the cells of a grid, one to a cell, each near its place."""

from __future__ import annotations

import importlib
import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["snap"]

# An optimal assignment takes time with the cube of the number: a second at this one.
OPTIMAL = 1500


def snap(
    points: NDArray[np.float64], ratio: float = 1.0
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Cells for points [N, 2]: int64 [N, 2] (row, column), no two the same, and the grid's size
    (rows, columns), about `ratio` times as wide as it is high.

    Up to 1,500 points the assignment with the least sum of squared distances, beyond it by halving
    the grid and the points in turn. The plane's y grows upwards, rows grow downwards.
    """
    count = len(points)
    columns = max(math.ceil(math.sqrt(count * ratio)), 1)
    rows = max(math.ceil(count / columns), 1)
    low, high = points.min(axis=0, initial=0), points.max(axis=0, initial=0)
    if count:
        low, high = points.min(axis=0), points.max(axis=0)
    unit = (points - low) / np.where(high > low, high - low, 1)
    placed = np.stack([(1 - unit[:, 1]) * (rows - 1), unit[:, 0] * (columns - 1)], axis=1)
    if count <= OPTIMAL:
        try:
            optimize = importlib.import_module("scipy.optimize")
        except ImportError:
            return _halved(placed, rows, columns), (rows, columns)
        cells = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)
        cost = ((placed[:, None] - cells[None]) ** 2).sum(axis=2)
        _, chosen = optimize.linear_sum_assignment(cost)
        return np.asarray(cells[chosen], np.int64), (rows, columns)
    return _halved(placed, rows, columns), (rows, columns)


def _halved(placed: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.int64]:
    """Split the grid across its longer side, and the points in proportion, until cells are left."""
    cells = np.zeros((len(placed), 2), np.int64)
    waiting = [(np.arange(len(placed)), 0, 0, rows, columns)]
    while waiting:
        index, top, left, tall, wide = waiting.pop()
        if len(index) == 0:
            continue
        if tall * wide == 1:
            cells[index[0]] = top, left
            continue
        axis = 0 if tall > wide else 1
        half = (tall if axis == 0 else wide) // 2
        first = half * (wide if axis == 0 else tall)
        # Free cells are shared out evenly; neither side gets more points than it has cells.
        share = round(len(index) * first / (tall * wide))
        share = min(max(share, len(index) - (tall * wide - first)), first)
        order = index[np.argsort(placed[index, axis], kind="stable")]
        one, other = order[:share], order[share:]
        if axis == 0:
            waiting.append((one, top, left, half, wide))
            waiting.append((other, top + half, left, tall - half, wide))
        else:
            waiting.append((one, top, left, tall, half))
            waiting.append((other, top, left + half, tall, wide - half))
    return cells
