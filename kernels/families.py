"""The families of masks, each made into a plan.

sliding((3, 224, 224), 16, 8)             Zeiler and Fergus 2014
rise((3, 224, 224), 4000, seed=0)         Petsiuk et al. 2018
segments((3, 224, 224), labels, table)    what LIME and SHAP switch
maps((3, 224, 224), feature_maps)         Wang et al. 2020
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError, hint
from .plan import Edges, GridPlan, MapPlan, SegmentPlan, Shape, WindowPlan, frozen, taps

__all__ = ["maps", "rise", "segments", "sliding"]


def sliding(
    shape: Sequence[int],
    window: int | Sequence[int],
    stride: int | Sequence[int],
    *,
    edges: Edges = "clip",
) -> WindowPlan:
    """Windows slid over an image of shape (C, H, W).

    window: an int or (h, w), over all channels; or (c, h, w), and the map is [C, H, W].
    stride: an int, (h, w) or (c, h, w). An int is the channels' stride too, but at most the
    window's channels; with (h, w) it is the window's channels.
    edges: "clip": ceil((size - window) / stride) + 1 positions, the last one cut off at the
    border, as captum.attr.Occlusion; "valid": whole windows only.
    A stride above the window leaves gaps; the map is 0 there. A last position that lies outside
    the image, which captum runs to no effect, is left out.

    Raises UsageError: a window larger than the image, a window or stride below 1.
    """
    size = _shape(shape)
    extent, step, channelwise = _window_and_stride(size, window, stride)
    if edges not in ("clip", "valid"):
        near = hint(edges, ("clip", "valid"))
        raise UsageError(f"edges {edges!r} is unknown; accepted: 'clip', 'valid'{near}")
    starts = []
    for length, win, hop in zip(size, extent, step, strict=True):
        last = length - win
        count = (-(-last // hop) if edges == "clip" else last // hop) + 1
        # A stride above the window can put the clipped one outside: it would hide nothing.
        count = min(count, -(-length // hop))
        starts.append(np.arange(count, dtype=np.int32) * np.int32(min(hop, length)))
    corner = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3)
    boxes = np.empty((len(corner), 6), np.int32)
    boxes[:, 0::2] = corner
    boxes[:, 1::2] = np.minimum(corner + np.array(extent, np.int32), np.array(size, np.int32))
    counts = (len(starts[0]), len(starts[1]), len(starts[2]))
    return WindowPlan(size, frozen(boxes), counts, channelwise)


# Of all grids of a plan: a byte each, eight while they are drawn.
MOST_CELLS = 2**28


def rise(
    shape: Sequence[int],
    n: int = 4000,
    *,
    cells: int | Sequence[int] = 7,
    probability: float = 0.5,
    seed: int = 0,
) -> GridPlan:
    """Random grids for an image of shape (C, H, W); the same seed gives the same plan.

    cells: grid points per axis, an int or (rows, cols). A grid is upsampled to (cells + 1) times
    ceil(size / cells) pixels, then cropped at a random shift below one cell. Bilinear, with
    half-pixel centres and clamped edges. Petsiuk et al. 2018, section 3.2.

    Raises UsageError: n or cells below 1, more cells than pixels, more than MOST_CELLS in all, a
    probability outside (0, 1], a seed below 0.
    """
    size = _shape(shape)
    if n < 1:
        raise UsageError(f"{n} masks; accepted: 1 or more")
    if not 0 < probability <= 1:
        raise UsageError(f"mask probability {probability}; accepted: above 0, at most 1")
    rows, cols = _numbers("cells", cells, (2,))
    if rows < 1 or cols < 1 or rows > size[1] or cols > size[2]:
        raise UsageError(f"{rows}x{cols} cells; accepted: 1 to the image's {size[1]}x{size[2]}")
    if n * rows * cols > MOST_CELLS:
        most = MOST_CELLS // (rows * cols)
        raise UsageError(f"{n} masks of {rows}x{cols} cells; accepted: at most {most}")
    cell = (-(-size[1] // rows), -(-size[2] // cols))
    if seed < 0:
        raise UsageError(f"seed {seed}; accepted: 0 or more")
    random = np.random.default_rng(seed)
    grids = (random.random((n, rows, cols)) < probability).astype(np.uint8)
    shifts = random.integers(0, cell, size=(n, 2), dtype=np.int32)
    # Rounded to float32 once, here, so that every backend multiplies by the same number.
    step = (
        float(np.float32(rows / ((rows + 1) * cell[0]))),
        float(np.float32(cols / ((cols + 1) * cell[1]))),
    )
    return GridPlan(size, frozen(grids), frozen(shifts), step, float(probability))


def segments(shape: Sequence[int], labels: ArrayLike, table: ArrayLike) -> SegmentPlan:
    """Superpixels of an image of shape (C, H, W), switched by a 0/1 table.

    labels: integers [H, W], 0..S-1. table: 0/1 [n, S], 1 = kept, 0 = replaced.

    Raises UsageError: a label map of another size, labels that are negative or have no column
    in the table, a table with other values than 0 and 1.
    """
    size = _shape(shape)
    label = np.asarray(labels)
    switch = np.asarray(table)
    if label.dtype.kind not in "iu":
        raise UsageError(f"segment map has dtype {label.dtype}; accepted: integers")
    if label.shape != size[1:]:
        raise UsageError(
            f"segment map has shape {list(label.shape)}; accepted: the image's {list(size[1:])}"
        )
    if switch.ndim != 2 or 0 in switch.shape:
        raise UsageError(f"segment table has shape {list(switch.shape)}; accepted: [n, segments]")
    if label.min() < 0 or label.max() >= switch.shape[1]:
        raise UsageError(
            f"segment labels {label.min()}..{label.max()}; accepted: 0..{switch.shape[1] - 1}, "
            "one per column of the table"
        )
    if not np.isin(switch, (0, 1)).all():
        raise UsageError("segment table has other values than 0 (replaced) and 1 (kept)")
    return SegmentPlan(size, frozen(label.astype(np.int32)), frozen(switch.astype(np.uint8)))


def maps(shape: Sequence[int], values: ArrayLike, *, stretch: bool = False) -> MapPlan:
    """Maps over an image of shape (C, H, W), enlarged to it: linear, half-pixel centres, edges
    clamped.

    values: [n, rows, cols], no larger than the image; 0..1, or with stretch of any size: each map's
    own range as enlarged then becomes 0..1, as Score-CAM has it, and a constant one keeps nothing
    (Wang et al. 2020).

    Raises UsageError: another rank, no map, values that aren't finite or outside 0..1.
    """
    size = _shape(shape)
    given = np.asarray(values)
    if given.ndim != 3 or 0 in given.shape or given.dtype.kind not in "fiub":
        raise UsageError(
            f"maps are {given.dtype} {list(given.shape)}; accepted: numbers [n, rows, cols]"
        )
    made = given.astype(np.float32)
    rows, cols = made.shape[1:]
    if rows > size[1] or cols > size[2]:
        raise UsageError(
            f"maps of {rows}x{cols}; accepted: no larger than the image's {size[1]}x{size[2]}"
        )
    if not np.isfinite(made).all():
        raise UsageError("maps have values that are not finite")
    # Rounded to float32 once, here, so that every backend multiplies by the same number.
    step = (float(np.float32(rows / size[1])), float(np.float32(cols / size[2])))
    if stretch:
        low, high = _extremes(made, size, step)
        span = high - low
        made = np.where(span > 0, (made - low) / np.where(span > 0, span, 1), 0)
        made = made.astype(np.float32)
    elif made.min() < 0 or made.max() > 1:
        raise UsageError("maps have values outside 0 (replaced) to 1 (kept)")
    return MapPlan(size, frozen(made), step)


def _extremes(
    values: NDArray[np.float32], size: Shape, step: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and the largest value of each map as enlarged, [n, 1, 1]. Between four points a map
    is bilinear: its extremes over the pixels there are at the outermost ones."""
    picked = []
    for length, cells, hop in zip(size[1:], values.shape[1:], step, strict=True):
        low, high, weight = taps(length, 0, cells, hop)
        turns = np.flatnonzero(np.diff(low))
        outer = np.unique(np.concatenate([[0], turns, turns + 1, [length - 1]]))
        picked.append((low[outer], high[outer], weight[outer]))
    (top, bottom, down), (left, right, along) = picked
    wide = values[:, :, left] + along * (values[:, :, right] - values[:, :, left])
    made = wide[:, top] + down[:, None] * (wide[:, bottom] - wide[:, top])
    return made.min(axis=(1, 2), keepdims=True), made.max(axis=(1, 2), keepdims=True)


def _shape(shape: Sequence[int]) -> Shape:
    size = tuple(int(v) for v in shape)
    if len(size) != 3 or min(size) < 1:
        raise UsageError(f"image shape {list(size)}; accepted: (channels, height, width)")
    if size[0] * size[1] * size[2] >= 2**31:
        raise UsageError(f"image shape {list(size)}; accepted: below 2**31 elements")
    return size[0], size[1], size[2]


def _numbers(name: str, value: int | Sequence[int], lengths: tuple[int, ...]) -> tuple[int, ...]:
    """`value` as integers: an int stands for both axes of the image."""
    try:
        if not isinstance(value, Sequence | np.ndarray):
            return (operator.index(value),) * 2
        given = tuple(operator.index(v) for v in value)
    except TypeError:
        given = ()
    if len(given) not in lengths:
        accepted = "an integer, (h, w) or (c, h, w)" if 3 in lengths else "an integer or (h, w)"
        raise UsageError(f"{name} {value!r}; accepted: {accepted}")
    return given


def _window_and_stride(
    size: Shape, window: int | Sequence[int], stride: int | Sequence[int]
) -> tuple[Shape, Shape, bool]:
    win = _numbers("window", window, (2, 3))
    if min(win) < 1:
        raise UsageError(f"window {window}; accepted: 1 or more on each axis")
    channelwise = len(win) == 3
    limit = size[3 - len(win) :]
    if any(w > s for w, s in zip(win, limit, strict=True)):
        raise UsageError(
            f"window {'x'.join(map(str, win))} is larger than the image, "
            f"{'x'.join(map(str, limit))}"
        )
    hop = _numbers("stride", stride, (2, 3))
    if min(hop) < 1:
        raise UsageError(f"stride {stride}; accepted: 1 or more on each axis")
    channels = win[0] if channelwise else size[0]
    if len(hop) == 3:
        channel_hop = hop[0]
    else:
        both = isinstance(stride, Sequence | np.ndarray)
        channel_hop = channels if both else min(hop[0], channels)
    return (channels, win[-2], win[-1]), (channel_hop, hop[-2], hop[-1]), channelwise
