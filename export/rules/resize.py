"""Resize and Upsample are linear in x: the gradient is the transposed interpolation, per axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..emit import dim_of
from . import Cotangents, Emitter, Op, vjp
from .indexing import along

Matrix = NDArray[np.float64]


@vjp("Resize", 18, 19)
def resize(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return _transposed(e, op, ct, scales_at=2), *(None,) * (len(op) - 1)


@vjp("Upsample", 10)
def upsample(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return _transposed(e, op, ct, scales_at=1), *(None,) * (len(op) - 1)


def _transposed(e: Emitter, op: Op, ct: ir.Value, scales_at: int) -> ir.Value:
    rank = op.rank()
    if op.attr("antialias", 0):
        raise op.unsupported("antialias = 1", "antialias = 0")
    if op.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise op.unsupported("coordinate_transformation_mode = tf_crop_and_resize", "the others")
    axes = [int(a) % rank for a in op.attr("axes", range(rank))]
    scales = op.const(scales_at) if op.input(scales_at) is not None else None
    if scales is not None and scales.size == 0:
        scales = None
    result = ct
    for place, axis in enumerate(axes):
        if _same(op, axis):
            continue
        size, out = op.dims()[axis], op.dims(op.y)[axis]
        if size is None or out is None:
            if scales is not None and float(scales[place]) == 1.0:
                continue
            raise op.unsupported(f"axis {axis} has a dynamic size", "fixed sizes of resized axes")
        scale = _scale(op, size, out, None if scales is None else float(scales[place]))
        matrix = interpolation(op, size, out, scale)
        factor = out // size
        if factor * size == out and np.array_equal(matrix, np.repeat(np.eye(size), factor, axis=0)):
            result = _folded(e, result, axis, size, factor, rank)
        else:
            result = along(e, result, matrix, axis, rank)
    result.shape = op.x.shape
    return result


def _same(op: Op, axis: int) -> bool:
    x, y = op.x.shape, op.y.shape
    if x is None or y is None:
        return False
    return dim_of(x, axis) is not None and dim_of(x, axis) == dim_of(y, axis)


def _scale(op: Op, size: int, out: int, given: float | None) -> float:
    if given is not None:
        return given
    policy = op.attr("keep_aspect_ratio_policy", "stretch")
    sizes = op.const(3)
    if policy == "stretch" or sizes is None:
        return out / size
    axes = [int(a) % op.rank() for a in op.attr("axes", range(op.rank()))]
    ratios = [int(s) / (op.dims()[a] or 1) for s, a in zip(sizes, axes, strict=True)]
    return min(ratios) if policy == "not_larger" else max(ratios)


def _folded(e: Emitter, ct: ir.Value, axis: int, size: int, factor: int, rank: int) -> ir.Value:
    """Sum `factor` neighbours along an axis: the transpose of repeating each element."""
    split = e.Reshape(ct, [*(0,) * axis, size, factor, *_rest(ct, axis, rank)])
    return e.ReduceSum(split, [axis + 1], keepdims=0)


def _rest(ct: ir.Value, axis: int, rank: int) -> list[int]:
    """What Reshape needs to know of the axes after `axis`: one of them may stay open."""
    dims: list[int] = []
    for later in range(axis + 1, rank):
        dim = None if ct.shape is None else dim_of(ct.shape, later)
        dims.append(dim if isinstance(dim, int) else -1)
    return dims


def interpolation(op: Op, size: int, out: int, scale: float) -> Matrix:
    """The matrix [out, size] that resizes an axis. ONNX Operators, Resize."""
    mode = str(op.attr("mode", "nearest"))
    x = _source(op, size, out, scale)
    matrix = np.zeros((out, size))
    rows = np.arange(out)
    if mode == "nearest":
        matrix[rows, np.clip(_rounded(op, x), 0, size - 1)] = 1
    elif mode in ("linear", "bilinear", "trilinear"):
        low = np.floor(x).astype(np.int64)
        ratio = x - low
        np.add.at(matrix, (rows, np.clip(low, 0, size - 1)), 1 - ratio)
        np.add.at(matrix, (rows, np.clip(low + 1, 0, size - 1)), ratio)
    elif mode == "cubic":
        _cubic(op, matrix, x)
    else:
        raise op.unsupported(f"mode = {mode}", "nearest, linear, cubic")
    return matrix


def _source(op: Op, size: int, out: int, scale: float) -> NDArray[np.float64]:
    """Where each output position lies in the input."""
    default = "asymmetric" if op.node.op_type == "Upsample" else "half_pixel"
    how = str(op.attr("coordinate_transformation_mode", default))
    at = np.arange(out, dtype=np.float64)
    if how == "asymmetric":
        return at / scale
    if how == "align_corners":
        return at * ((size - 1) / (out - 1)) if out > 1 else np.zeros(1)
    if how == "pytorch_half_pixel" and out == 1:
        return np.zeros(1)
    if how == "tf_half_pixel_for_nn":
        return (at + 0.5) / scale
    center = (at + 0.5) / scale - 0.5
    if how == "half_pixel_symmetric":
        return center + size / 2 * (1 - out / (scale * size))
    if how in ("half_pixel", "pytorch_half_pixel"):
        return center
    raise op.unsupported(f"coordinate_transformation_mode = {how}", "half_pixel, asymmetric ...")


def _rounded(op: Op, x: NDArray[np.float64]) -> NDArray[np.int64]:
    default = "floor" if op.node.op_type == "Upsample" else "round_prefer_floor"
    how = str(op.attr("nearest_mode", default))
    ways: dict[str, Any] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }
    if how not in ways:
        raise op.unsupported(f"nearest_mode = {how}", ", ".join(ways))
    return np.asarray(ways[how](x), np.int64)


def _cubic(op: Op, matrix: Matrix, x: NDArray[np.float64]) -> None:
    """Keys' kernel on the four neighbours; those outside are the border, or left out."""
    size = matrix.shape[1]
    a = float(op.attr("cubic_coeff_a", -0.75))
    low = np.floor(x).astype(np.int64)
    taps = low[:, None] + np.arange(-1, 3)
    distance = np.abs(x[:, None] - taps)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weight = np.where(distance <= 1, near, far)
    if op.attr("exclude_outside", 0):
        weight = np.where((taps >= 0) & (taps < size), weight, 0)
        weight /= weight.sum(axis=1, keepdims=True)
    np.add.at(matrix, (np.arange(len(x))[:, None], np.clip(taps, 0, size - 1)), weight)
