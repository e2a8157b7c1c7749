"""Where a layer's cells are in a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...export.graph import Loaded
from ...export.receptive import ReceptiveField, receptive_fields
from .cells import Grid

__all__ = ["boxes"]


def boxes(model: Loaded, layer: str, grid: Grid, size: tuple[int, int]) -> NDArray[np.float64]:
    """Where the cells are in pictures of a size: float64 [cells, 4], top, left, bottom, right in
    pixels: around the middle of what each sees; of layers that see all, parts of the picture."""
    field = receptive_fields(model, [layer], size)[layer]
    rows, columns = np.divmod(np.arange(len(grid)), grid.columns)
    ends = []
    for axis, index, count in ((0, rows, grid.rows), (1, columns, grid.columns)):
        middle, step = _line(field, axis, count)
        ends.append((middle[index] - step / 2, middle[index] + step / 2, size[axis]))
    (top, bottom, high), (left, right, wide) = ends
    made = [np.clip(v, 0, most) for v, most in
            ((top, high), (left, wide), (bottom, high), (right, wide))]  # fmt: skip
    return np.stack(made, axis=1)


def _line(field: ReceptiveField, axis: int, count: int) -> tuple[NDArray[np.float64], float]:
    """The middle of what each row (axis 0) or column sees, in pixels, and how far these are apart;
    equal parts of the picture where all see the same."""
    size = field.image[axis]
    jump = field.jump
    if jump is None or jump[axis] <= 0 or field.axes is None:
        step = size / count
        return np.asarray((np.arange(count) + 0.5) * step, np.float64), step
    span = (field.free_rows, field.free_columns)[axis]
    line = np.moveaxis(span, field.axes[1 + axis] + 1, -1).reshape(2, -1, count)[:, -1]
    first = float(line[0, 0] + 1 - line[1, 0]) / 2
    step = float(jump[axis])
    return np.asarray(first + np.arange(count) * step, np.float64), step
