"""Resize is linear in x: its gradient is the transposed interpolation, axis by axis.

Upsample, which opset 10 withdrew, is a Resize by the time that rules see it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..emit import dim_of, fits
from . import Cotangents, Emitter, Op, vjp
from .op import FIXED
from .resize_late import matrix_of_run
from .shape import Amount, size_of, vector

Matrix = NDArray[np.float64]
Precision = type[np.floating[Any]]
Places = NDArray[np.floating[Any]]

CROP = "tf_crop_and_resize"
# A few positions stand for all of an axis of unknown size where these are in force.
SHIFTED = ("half_pixel", "half_pixel_symmetric", "asymmetric")


@vjp("Resize", 18, 19)
def resize(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """A MatMul per resized axis, or a sum over the copies of each element where it was repeated.
    Raises UnsupportedNode for dynamic axes by what `matrix_of_run` can't do."""
    rank = op.rank()
    axes = [int(a) % rank for a in op.attr("axes", range(rank))]
    folds: dict[int, int] = {}
    result = ct
    for place, axis in enumerate(axes):
        scale = _scale(op, place, axes)
        if scale in (None, 1.0) and (_same(op, axis) or _asked_same(op, place, axis)):
            continue
        size, out = op.dims()[axis], op.dims(op.y)[axis]
        if size is None or out is None:
            factor = _repeats_anywhere(op, scale)
            if factor is None:
                result = along(e, result, matrix_of_run(e, op, axis, scale), axis, rank)
            else:
                folds[axis] = factor
            continue
        if min(size, out) < 1:
            raise op.unsupported(f"axis {axis} is of size {min(size, out)}", "sizes above 0")
        exact = out / size if scale is None else scale
        factor = _repeats(op, size, out, exact, place)
        if factor is not None:
            folds[axis] = factor
        else:
            result = along(e, result, interpolation(op, size, out, exact, place), axis, rank)
    folds = {axis: factor for axis, factor in folds.items() if factor > 1}
    if folds:
        result = _folded(e, op, result, folds)
    result.shape = op.x.shape
    return result, None, None, None


def _repeats(op: Op, size: int, out: int, scale: float, place: int) -> int | None:
    """How often each element of an axis is repeated; None where it isn't that simple."""
    factor = out // size
    if factor * size != out:
        return None
    op.bounded("an axis", out)
    if str(op.attr("mode", "nearest")) == "nearest":
        # Without the matrix, which is as large as both sizes together.
        picked, kept = _nearest(op, size, out, scale, place)
        same = kept.all() and np.array_equal(picked, np.arange(out) // factor)
        return factor if same else None
    if not fits(out, size):
        return None
    matrix = interpolation(op, size, out, scale, place)
    rows = np.arange(out)
    same = np.count_nonzero(matrix) == out and (matrix[rows, rows // factor] == 1).all()
    return factor if same else None


def _same(op: Op, axis: int) -> bool:
    """Whether an axis keeps its size, and with it, at scale 1, its elements."""
    x, y = op.x.shape, op.y.shape
    if x is None or y is None or op.attr("coordinate_transformation_mode") == CROP:
        return False
    return dim_of(x, axis) is not None and dim_of(x, axis) == dim_of(y, axis)


def _asked_same(op: Op, place: int, axis: int) -> bool:
    """Whether the size that the run computes for an axis is the one it has: what exporters write
    for a batch of any size is Concat(Shape(x)[:2], [h, w])."""
    sizes, crop = op.input(3), op.attr("coordinate_transformation_mode") == CROP
    if sizes is None or crop or op.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    origin = _origin(sizes, place)
    if origin is None:
        return False
    tensor, at = origin
    if tensor is op.x:
        return at == axis
    if tensor.shape is None or op.x.shape is None:
        return False
    dim = dim_of(op.x.shape, axis)
    return dim is not None and dim == dim_of(tensor.shape, at)


def _origin(value: ir.Value, index: int) -> tuple[ir.Value, int] | None:
    """The tensor and the axis whose size element `index` of an int vector (or a number) is."""
    node = value.producer()
    source = None if node is None or not node.inputs else node.inputs[0]
    if node is None or source is None:
        return None
    op = Op(node, ())
    if node.op_type == "Shape":
        start = int(op.attr("start", 0))
        return source, index + start if start >= 0 else index + op.rank() + start
    if node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
        return _origin(source, index)
    if node.op_type == "Gather":
        indices = op.const(1)
        if indices is None or index >= indices.size:
            return None
        at = int(indices.reshape(-1)[index])
        return _origin(source, at) if at >= 0 else None
    if node.op_type == "Slice":
        starts, steps = op.const(1), op.const(4) if op.input(4) is not None else None
        if starts is None or starts.size != 1 or int(starts.reshape(())) < 0:
            return None
        if op.input(4) is not None and (steps is None or (steps != 1).any()):
            return None
        return _origin(source, index + int(starts.reshape(())))
    if node.op_type == "Concat":
        for part in node.inputs:
            length = None if part is None or part.shape is None else dim_of(part.shape, 0)
            if part is None or not isinstance(length, int):
                return None
            if index < length:
                return _origin(part, index)
            index -= length
    return None


def _scale(op: Op, place: int, axes: list[int]) -> float | None:
    """The scale of the axis `axes[place]`; None where it is the ratio of the two sizes."""
    scales = op.const(2) if op.input(2) is not None else None
    if scales is not None and scales.size:
        scale = float(scales.reshape(-1)[place])
        if not 0 < scale < np.inf:
            raise op.unsupported(f"a scale of {scale}", "scales above 0")
        return scale
    policy = op.attr("keep_aspect_ratio_policy", "stretch")
    sizes = op.const(3) if op.input(3) is not None else None
    if policy == "stretch" or sizes is None:
        return None
    dims = [op.dims()[a] for a in axes]
    ratios = [int(s) / d for s, d in zip(sizes, dims, strict=True) if d]
    if len(ratios) < len(dims):
        raise op.unsupported(f"keep_aspect_ratio_policy = {policy}, dynamic sizes", FIXED)
    return min(ratios) if policy == "not_larger" else max(ratios)


def _repeats_anywhere(op: Op, scale: float | None) -> int | None:
    """How often each element of an axis is repeated, whatever the axis's size; None if not so."""
    if scale is None or scale != int(scale) or scale < 1:
        return None
    factor, few = int(scale), 4
    how = str(op.attr("coordinate_transformation_mode", "half_pixel"))
    if factor == 1 and how != CROP:
        return 1
    if str(op.attr("mode", "nearest")) != "nearest" or how not in SHIFTED:
        return None
    return _repeats(op, few, factor * few, scale, 0)


def _folded(e: Emitter, op: Op, ct: ir.Value, folds: dict[int, int]) -> ir.Value:
    """Sum neighbours along each axis, as many as it says."""
    target: list[Amount] = []
    over: list[int] = []
    for axis in range(op.rank()):
        target.append(size_of(e, op.x, axis))
        if axis in folds:
            over.append(len(target))
            target.append(folds[axis])
    if sum(not isinstance(t, int) for t in target) == 1:
        target = [t if isinstance(t, int) else -1 for t in target]
    return e.ReduceSum(e.Reshape(ct, vector(e, target)), over, keepdims=0)


def along(e: Emitter, ct: ir.Value, matrix: Matrix | ir.Value, axis: int, rank: int) -> ir.Value:
    """ct times a matrix [m, n] along an axis of size m, which becomes n."""
    known = None if isinstance(matrix, ir.Value) else matrix
    if known is not None and axis == rank - 2:
        return e.MatMul(e.const(known.T.copy(), ct.dtype), ct, _dtype=ct.dtype)
    weights = matrix if isinstance(matrix, ir.Value) else e.const(matrix, ct.dtype)
    if axis == rank - 1:
        return e.MatMul(ct, weights)
    if axis == rank - 2:
        return e.MatMul(e.Transpose(weights, perm=[1, 0]), ct, _dtype=ct.dtype)
    order = [i for i in range(rank) if i != axis] + [axis]
    product = e.MatMul(e.Transpose(ct, perm=order), weights)
    return e.Transpose(product, perm=[int(i) for i in np.argsort(order)])


def interpolation(op: Op, size: int, out: int, scale: float, place: int = 0) -> Matrix:
    """The matrix [out, size] that resizes an axis, the `place`-th of those that are resized.
    ONNX Operators, Resize."""
    mode = str(op.attr("mode", "nearest"))
    op.bounded("a matrix", out, size)
    matrix = np.zeros((out, size))
    rows = np.arange(out)
    if mode == "nearest":
        picked, kept = _nearest(op, size, out, scale, place)
        matrix[rows, picked] = kept
    elif mode in ("linear", "cubic") and op.attr("antialias", 0) and scale < 1:
        _antialiased(op, matrix, _source(op, size, out, scale, place, np.float64), scale)
    elif mode == "linear":
        x = _source(op, size, out, scale, place, np.float64)
        low = np.floor(x).astype(np.int64)
        ratio = x - low
        np.add.at(matrix, (rows, np.clip(low, 0, size - 1)), 1 - ratio)
        np.add.at(matrix, (rows, np.clip(low + 1, 0, size - 1)), ratio)
    elif mode == "cubic":
        _cubic(op, matrix, _source(op, size, out, scale, place, np.float64))
    else:
        raise op.unsupported(f"mode = {mode}", "nearest, linear, cubic")
    if mode != "nearest":
        matrix[~_inside(op, _single(op, size, out, scale, place), size)] = 0
    return matrix


def _single(op: Op, size: int, out: int, scale: float, place: int) -> Places:
    """Where each output position lies: what is rounded depends on the last bit, so in float32 as
    in runtimes."""
    return _source(op, size, out, scale, place, np.float32)


def _nearest(
    op: Op, size: int, out: int, scale: float, place: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which element each output position is, and whether it is one."""
    single = _single(op, size, out, scale, place)
    return np.clip(_rounded(op, single), 0, size - 1), _inside(op, single, size)


def _inside(op: Op, places: Places, size: int) -> NDArray[np.bool_]:
    """Which positions lie in the input; for others a crop has extrapolation_value."""
    if op.attr("coordinate_transformation_mode") != CROP:
        return np.ones(len(places), bool)
    return np.asarray((places >= 0) & (places <= size - 1))


def _source(op: Op, size: int, out: int, scale: float, place: int, sort: Precision) -> Places:
    """Where each output position lies in the input, computed in the given precision."""
    how = str(op.attr("coordinate_transformation_mode", "half_pixel"))
    at, s, n, m = np.arange(out, dtype=sort), sort(scale), sort(size), sort(out)
    half = sort(0.5)
    x: Places
    if how == "asymmetric":
        x = at / s
    elif how == "align_corners":
        x = at * (n - 1) / (m - 1) if out > 1 else np.zeros(1, sort)
    elif how == "pytorch_half_pixel" and out == 1:
        x = np.zeros(1, sort)
    elif how == "tf_half_pixel_for_nn":
        x = (at + half) / s
    elif how == CROP:
        start, end = op.need_const(1, "roi").astype(sort).reshape(2, -1)[:, place]
        if out == 1:
            x = at + half * (start + end) * (n - 1)
        else:
            x = start * (n - 1) + at * (end - start) * (n - 1) / (m - 1)
    elif how == "half_pixel_symmetric":
        # The offset alone is in the given precision, as in ONNX Runtime.
        offset = n / 2 * (1 - m / (s * n))
        x = (np.float64(offset) + (np.arange(out) + 0.5) / np.float64(s) - 0.5).astype(sort)
    elif how in ("half_pixel", "pytorch_half_pixel"):
        x = (at + half) / s - half
    else:
        raise op.unsupported(
            f"coordinate_transformation_mode = {how}", "half_pixel, asymmetric ..."
        )
    return x


def _rounded(op: Op, x: Places) -> NDArray[np.int64]:
    how = str(op.attr("nearest_mode", "round_prefer_floor"))
    ways: dict[str, Any] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda v: np.ceil(v.astype(np.float64) - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v.astype(np.float64) + 0.5),
    }
    if how not in ways:
        raise op.unsupported(f"nearest_mode = {how}", ", ".join(ways))
    return np.asarray(ways[how](x), np.int64)


def _cubic(op: Op, matrix: Matrix, x: Places) -> None:
    """Keys' kernel on the four neighbours; those outside are the border, or left out."""
    low = np.floor(x).astype(np.int64)
    taps = low[:, None] + np.arange(-1, 3)
    _weighed(op, matrix, taps, _keys(op, np.abs(x[:, None] - taps)))


def _keys(op: Op, distance: Places) -> Places:
    a = float(op.attr("cubic_coeff_a", -0.75))
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _antialiased(op: Op, matrix: Matrix, x: Places, scale: float) -> None:
    """The kernel of linear or cubic, widened by 1 / scale, on all that it then reaches."""
    linear = op.attr("mode") == "linear"
    if not scale > 0:
        raise op.unsupported(f"a scale of {scale}", "scales above 0")
    op.bounded("a kernel", len(x), int(4 / scale))
    start = int(np.floor(-(1 if linear else 2) / scale)) + 1
    low = np.ceil(x).astype(np.int64) - 1
    taps = low[:, None] + np.arange(start, 2 - start)
    distance = np.abs(x[:, None] - taps) * scale
    weight = np.maximum(1 - distance, 0) if linear else _keys(op, distance)
    _weighed(op, matrix, taps, weight / weight.sum(axis=1, keepdims=True))


def _weighed(op: Op, matrix: Matrix, taps: NDArray[np.int64], weight: Places) -> None:
    """Add each row's weights at its taps: those outside are the border, or left out."""
    size = matrix.shape[1]
    if op.attr("exclude_outside", 0):
        weight = np.where((taps >= 0) & (taps < size), weight, 0)
        weight = weight / weight.sum(axis=1, keepdims=True)
    rows = np.arange(len(taps))[:, None]
    np.add.at(matrix, (rows, np.clip(taps, 0, size - 1)), weight)
