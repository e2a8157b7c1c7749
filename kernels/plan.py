"""Mask plans: a frozen, compact description of a family of masks, shared by every backend.

A plan holds boxes, low-resolution grids or a label map, never the masks themselves: 4,000 RISE
masks of 224 x 224 are 225 kB here and 800 MB as float32 arrays. `families.py` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Edges",
    "GridPlan",
    "MapPlan",
    "Plan",
    "SegmentPlan",
    "WindowPlan",
    "frozen",
    "taps",
]

Edges: TypeAlias = Literal["clip", "valid"]
Shape: TypeAlias = tuple[int, int, int]


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """An array that nobody changes."""
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """Boxes that hide what they cover.

    shape: (C, H, W) of the image. boxes: int32 [n, 6], half open: (c0, c1, y0, y1, x0, x1),
    row-major: x fastest, channels slowest. counts: windows per axis (c, y, x), or None when the
    boxes are a selection. channelwise: the heat map is [C, H, W] instead of [H, W].
    """

    shape: Shape
    boxes: NDArray[np.int32]
    counts: Shape | None = None
    channelwise: bool = False

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, indices: ArrayLike) -> WindowPlan:
        """The plan of some of the windows: an index array or a Boolean mask [n]."""
        boxes = self.boxes[np.asarray(indices)]
        return WindowPlan(self.shape, frozen(boxes), None, self.channelwise)


@dataclass(frozen=True, eq=False)
class GridPlan:
    """RISE's random grids, upsampled bilinearly and shifted; each keeps what it covers.

    grids: uint8 [n, rows, cols], 1 = kept. shifts: int32 [n, 2], pixels (y, x) that the crop
    starts at, each below its cell's size. step: grid points per pixel (y, x).
    probability: of a grid point being kept.
    """

    shape: Shape
    grids: NDArray[np.uint8]
    shifts: NDArray[np.int32]
    step: tuple[float, float]
    probability: float

    channelwise = False

    def __len__(self) -> int:
        return len(self.grids)

    def select(self, indices: ArrayLike) -> GridPlan:
        """The plan of some of the masks: an index array or a Boolean mask [n]."""
        pick = np.asarray(indices)
        grids, shifts = frozen(self.grids[pick]), frozen(self.shifts[pick])
        return GridPlan(self.shape, grids, shifts, self.step, self.probability)


@dataclass(frozen=True, eq=False)
class SegmentPlan:
    """Superpixels switched off by a table.

    labels: int32 [H, W], 0..S-1. table: uint8 [n, S], 1 = kept, 0 = replaced by the baseline.
    """

    shape: Shape
    labels: NDArray[np.int32]
    table: NDArray[np.uint8]

    channelwise = False

    def __len__(self) -> int:
        return len(self.table)

    def select(self, indices: ArrayLike) -> SegmentPlan:
        """The plan of some rows of the table: an index array or a Boolean mask [n]."""
        return SegmentPlan(self.shape, self.labels, frozen(self.table[np.asarray(indices)]))


@dataclass(frozen=True, eq=False)
class MapPlan:
    """Maps enlarged bilinearly; each keeps as much of a pixel as it says there.

    maps: float32 [n, rows, cols]; enlarged, from 0 (replaced by the baseline) to 1 (kept), up to
    rounding. step: points of a map per pixel (y, x).
    """

    shape: Shape
    maps: NDArray[np.float32]
    step: tuple[float, float]

    channelwise = False

    def __len__(self) -> int:
        return len(self.maps)

    def select(self, indices: ArrayLike) -> MapPlan:
        """The plan of some of the maps: an index array or a Boolean mask [n]."""
        return MapPlan(self.shape, frozen(self.maps[np.asarray(indices)]), self.step)


Plan: TypeAlias = WindowPlan | GridPlan | SegmentPlan | MapPlan


def taps(
    size: int, shift: int, cells: int, step: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Between which two points each pixel of an axis falls, and how far along: [size] each."""
    position = np.arange(shift, shift + size, dtype=np.float32)
    source = (position + np.float32(0.5)) * np.float32(step) - np.float32(0.5)
    source = np.clip(source, np.float32(0), np.float32(cells - 1))
    low = source.astype(np.intp)
    return low, np.minimum(low + 1, cells - 1), source - low.astype(np.float32)
