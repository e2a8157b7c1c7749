"""The kernels in NumPy: what every backend must agree with, written to be read, not to be fast."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .baseline import Layout
from .plan import GridPlan, MapPlan, Plan, SegmentPlan, WindowPlan, taps

__all__ = ["ReferenceBackend", "kept"]


def _enlarged(plan: GridPlan | MapPlan, k: int) -> NDArray[np.float32]:
    """Mask k of a plan of grids or maps: float32 [H, W], 0..1."""
    _, height, width = plan.shape
    if isinstance(plan, GridPlan):
        grid, (y, x) = plan.grids[k].astype(np.float32), plan.shifts[k].tolist()
    else:
        grid, (y, x) = plan.maps[k], (0, 0)
    rows, cols = grid.shape
    top, bottom, down = taps(height, y, rows, plan.step[0])
    left, right, along = taps(width, x, cols, plan.step[1])
    wide = grid[:, left] + along * (grid[:, right] - grid[:, left])
    mask: NDArray[np.float32] = wide[top] + down[:, None] * (wide[bottom] - wide[top])
    return mask


def kept(plan: Plan, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
    """Masks start..stop in full: how much of the image each keeps, 0..1.

    Returns float32 [n, C, H, W], or [n, 1, H, W] where a mask is the same for all channels.
    """
    picks = range(len(plan))[start:stop]
    _, height, width = plan.shape
    masks = np.ones((len(picks), plan.shape[0] if plan.channelwise else 1, height, width), "f4")
    for mask, k in zip(masks, picks, strict=True):
        if isinstance(plan, WindowPlan):
            c0, c1, y0, y1, x0, x1 = plan.boxes[k]
            mask[c0:c1, y0:y1, x0:x1] = 0
        elif isinstance(plan, GridPlan | MapPlan):
            mask[0] = _enlarged(plan, k)
        else:
            mask[0] = plan.table[k, plan.labels]
    return masks


class ReferenceBackend:
    """Backend "numpy". Arguments are checked in masks.py; see there for what they mean."""

    name = "numpy"
    xp = np

    def apply(
        self, image: Any, plan: Plan, base: Any, out: Any, start: int, stop: int, layout: Layout
    ) -> None:
        if layout == "nhwc":
            image, out = image.transpose(2, 0, 1), out.transpose(0, 3, 1, 2)
            base = base if base.ndim == 1 else base.transpose(2, 0, 1)
        if base.ndim == 1:
            base = base[:, None, None]
        for row, k in zip(out, range(start, stop), strict=True):
            keep = kept(plan, k, k + 1)[0]
            if not isinstance(plan, GridPlan | MapPlan):
                row[...] = np.where(keep != 0, image, base)
                continue
            if out.dtype == np.uint8:
                # Whole numbers, in parts of 2^15; see masks.h for how close it comes.
                x, b = image.astype(np.int32), base.astype(np.int32)
                parts = (keep * np.float32(32767) + np.float32(0.5)).astype(np.int32)
                row[...] = b + (((x - b) * parts + 0x4000) >> 15)
            else:
                x, b = image.astype(np.float32), base.astype(np.float32)
                row[...] = x * keep + b * (1 - keep)

    def accumulate(
        self, total: Any, values: NDArray[np.float64], plan: Plan, start: int, stop: int
    ) -> None:
        if isinstance(plan, SegmentPlan):
            total += values @ (1.0 - plan.table[start:stop])
            return
        for k in range(start, stop):
            keep = kept(plan, k, k + 1)[0].astype(np.float64)
            weight = keep if isinstance(plan, GridPlan | MapPlan) else 1 - keep
            total += values[:, k - start, None, None, None] * weight

    def paint(self, values: Any, plan: SegmentPlan) -> NDArray[np.float32]:
        return np.asarray(values, np.float32)[:, plan.labels]
