"""Which part of each feature map a masked variant changes: intervals per axis, boxes, indices.

Per axis, a changed interval [a, b] goes through a kernel k with dilation d, stride s and begin
pad p to lo = max(0, ceil((a + p - (k-1) d) / s)), hi = min(n-1, floor((b + p) / s)) (Nakandala,
Kumar and Papakonstantinou 2019, section 4). All windows are computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Pair = tuple[int, int]

# Rows that stand behind the H * W rows of every table: what padding reads.
ZERO, LOWEST = 0, 1
CONSTANT_ROWS = 2


@dataclass(frozen=True)
class Stencil:
    """What an output position reads, (y, x): positions o * stride - begin + i * dilation."""

    kernel: Pair
    dilation: Pair = (1, 1)
    stride: Pair = (1, 1)
    begin: Pair = (0, 0)

    def span(self, axis: int) -> int:
        """Positions from the first that is read to the last, both included."""
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    @property
    def picks(self) -> bool:
        """Whether it reads single positions with gaps between: a patch leaves the gaps out."""
        return self.kernel == (1, 1) and self.stride != (1, 1)

    @property
    def identity(self) -> bool:
        """Whether an output position reads the same input position alone."""
        return self == POINT


POINT = Stencil((1, 1))


@dataclass(frozen=True, eq=False)
class Extent:
    """The changed box of every window in a map of one size; lo, hi: int64 [2, n], closed."""

    size: Pair
    lo: Ints
    hi: Ints

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal extents."""
        return self.size, self.lo.tobytes(), self.hi.tobytes()

    @property
    def lengths(self) -> Ints:
        """Box sizes, int64 [2, n]."""
        return self.hi - self.lo + 1

    def through(self, stencil: Stencil, size: Pair) -> Extent:
        """What changes in the output, of the given size, of an operator that reads a stencil.

        A window that no output position reads still gets a box, of one unchanged position.
        """
        lo, hi = np.empty_like(self.lo), np.empty_like(self.hi)
        for axis in (0, 1):
            step, begin = stencil.stride[axis], stencil.begin[axis]
            first = self.lo[axis] + begin - (stencil.span(axis) - 1)
            lo[axis] = np.clip(-(-first // step), 0, size[axis] - 1)
            hi[axis] = np.clip((self.hi[axis] + begin) // step, lo[axis], size[axis] - 1)
        return Extent(size, lo, hi)

    def union(self, other: Extent) -> Extent:
        """The box around both."""
        assert self.size == other.size
        return Extent(self.size, np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi))


@dataclass(frozen=True, eq=False)
class Frame:
    """Boxes of one size at an origin per variant; they may reach beyond the map.

    origin: int64 [2, m]; size: (h, w); step: distance between positions that are read.
    """

    origin: Ints
    size: Pair
    step: Pair = (1, 1)

    def positions(self, axis: int) -> Ints:
        """Map positions along an axis, int64 [m, size]."""
        steps = np.arange(self.size[axis], dtype=np.int64) * self.step[axis]
        return np.asarray(self.origin[axis][:, None] + steps)

    def contains(self, other: Frame) -> bool:
        """Whether every position of the other's boxes is among these."""
        if self.step != (1, 1):
            return False
        ends = np.array([[s] for s in self.size]), np.array([[s] for s in other.size])
        low = (self.origin <= other.origin).all()
        return bool(low and (self.origin + ends[0] >= other.origin + ends[1]).all())

    def read_by(self, stencil: Stencil) -> Frame:
        """The frame that an operator reads to make this one."""
        step, begin = np.array(stencil.stride), np.array(stencil.begin)
        origin = self.origin * step[:, None] - begin[:, None]
        if stencil.picks:
            return Frame(origin, self.size, stencil.stride)
        h, w = ((self.size[a] - 1) * stencil.stride[a] + stencil.span(a) for a in (0, 1))
        return Frame(origin, (h, w))


def frame(extent: Extent, variants: Ints, sized_by: Ints | None = None) -> Frame:
    """Boxes of one size around the changes of some variants, each inside the map.

    sized_by: variants that the size must do for; default: the same. A box that is larger than
    the change is recomputed where nothing changed: still exact.
    """
    lo = extent.lo[:, variants]
    lengths = extent.lengths[:, variants if sized_by is None else sized_by]
    h, w = (int(v) for v in lengths.max(axis=1))
    room = np.array([extent.size[0] - h, extent.size[1] - w])[:, None]
    return Frame(np.minimum(lo, room), (h, w))


def whole(size: Pair, count: int) -> Frame:
    """The whole map, for every variant."""
    return Frame(np.zeros((2, count), np.int64), size)


def boxes_extent(boxes: NDArray[np.int32]) -> tuple[Ints, Ints]:
    """lo, hi of the windows themselves from int32 [n, 6]: (c0, c1, y0, y1, x0, x1), half open."""
    wide = boxes.astype(np.int64)
    return np.stack([wide[:, 2], wide[:, 4]]), np.stack([wide[:, 3], wide[:, 5]]) - 1


def clean_index(needed: Frame, size: Pair, pad_row: int) -> NDArray[np.int32]:
    """Rows of [the clean map's H * W; constants] that make patches: int32 [m, ph, pw].

    pad_row: the constant that is read outside the map.
    """
    area = size[0] * size[1]
    first = needed.origin
    reach = [[(n - 1) * step] for n, step in zip(needed.size, needed.step, strict=True)]
    if (first >= 0).all() and (first + reach < np.array(size)[:, None]).all():
        start = (first[0] * size[1] + first[1]).astype(np.int32)
        return np.asarray(start[:, None, None] + _grid(needed.size, needed.step, size[1]))
    # A sum with one term this large falls on the constant's row.
    ys, xs = needed.positions(0), needed.positions(1)
    beyond = 2 * area + CONSTANT_ROWS
    row = np.where(_within(ys, size[0]), ys * size[1], beyond).astype(np.int32)
    column = np.where(_within(xs, size[1]), xs, beyond).astype(np.int32)
    index = row[:, :, None] + column[:, None, :]
    return np.asarray(np.minimum(index, area + pad_row, out=index))


@lru_cache(maxsize=1024)
def _grid(size: Pair, step: Pair, width: int) -> NDArray[np.int32]:
    """Rows of a patch of a map `width` wide, from its first: int32 [h, w]."""
    ys, xs = np.arange(size[0]) * (step[0] * width), np.arange(size[1]) * step[1]
    return (ys[:, None] + xs).astype(np.int32)


@lru_cache(maxsize=1024)
def _corner(size: Pair) -> NDArray[np.int64]:
    """(0, y, x) of a box: int64 [h, w, 3]."""
    grid = np.zeros((*size, 3), np.int64)
    grid[..., 1] = np.arange(size[0])[:, None]
    grid[..., 2] = np.arange(size[1])
    return grid


def scatter_index(needed: Frame, have: Frame, rows: Ints) -> NDArray[np.int64]:
    """Where computed boxes go in the patches that contain them: int64 [m, bh, bw, 3].

    rows: int64 [m], the place of each variant in its batch.
    """
    first = np.stack([rows, *(have.origin - needed.origin)], axis=1)
    return first[:, None, None, :] + _corner(have.size)


def paste_index(
    needed: Frame, have: Frame, size: Pair, pad_row: int, rows: Ints
) -> NDArray[np.int32]:
    """Rows of [the clean map's H * W; constants; the boxes of a batch] that make patches.

    needed: the patches, [m, ph, pw]. have: the boxes that were computed, whose rows come after
    the constants, variant by variant in the order of `rows`, row-major.
    """
    base = size[0] * size[1] + CONSTANT_ROWS
    inner_y = needed.positions(0) - have.origin[0][:, None]
    inner_x = needed.positions(1) - have.origin[1][:, None]
    in_y, in_x = _within(inner_y, have.size[0]), _within(inner_x, have.size[1])
    block = rows[:, None] * have.size[0] + inner_y
    changed = base + block[:, :, None] * have.size[1] + inner_x[:, None, :]
    clean = clean_index(needed, size, pad_row)
    return np.where(in_y[:, :, None] & in_x[:, None, :], changed, clean).astype(np.int32)


def root_index(
    needed: Frame, lo: Ints, hi: Ints, group: Ints, size: Pair, pad_row: int
) -> NDArray[np.int32]:
    """The same where the changed values are whole backgrounds, one per channel group.

    lo, hi: int64 [2, m], the windows exactly. group: int64 [m], the background of each variant;
    backgrounds come after the constants, H * W rows each.
    """
    area = size[0] * size[1]
    ys, xs = needed.positions(0), needed.positions(1)
    in_y = (ys >= lo[0][:, None]) & (ys <= hi[0][:, None])
    in_x = (xs >= lo[1][:, None]) & (xs <= hi[1][:, None])
    index = clean_index(needed, size, pad_row)
    base = (area + CONSTANT_ROWS + group * area).astype(np.int32)
    index += base[:, None, None] * (in_y[:, :, None] & in_x[:, None, :])
    return index


def outside_mask(have: Frame, size: Pair) -> NDArray[np.float32]:
    """1 where a box is not, 0 under it: float32 [m, H * W]."""
    in_y = _within(np.arange(size[0]) - have.origin[0][:, None], have.size[0])
    in_x = _within(np.arange(size[1]) - have.origin[1][:, None], have.size[1])
    inside = in_y[:, :, None] & in_x[:, None, :]
    return 1.0 - inside.reshape(len(inside), -1).astype(np.float32)


def window_share(out: Frame, stencil: Stencil, limits: Sequence[Pair]) -> NDArray[np.float32]:
    """kernel area / positions inside `limits`, per output position: float32 [m, 1, h, w].

    limits: per axis the first and last position that an average counts.
    """
    counts = []
    for axis in (0, 1):
        first = out.positions(axis) * stencil.stride[axis] - stencil.begin[axis]
        taps = first[:, :, None] + np.arange(stencil.kernel[axis]) * stencil.dilation[axis]
        low, high = limits[axis]
        counts.append(((taps >= low) & (taps <= high)).sum(axis=2))
    area = stencil.kernel[0] * stencil.kernel[1]
    share = area / (counts[0][:, :, None] * counts[1][:, None, :])
    return np.asarray(share[:, None], np.float32)


def _within(inner: Ints, length: int) -> NDArray[np.bool_]:
    return (inner >= 0) & (inner < length)
