"""How a Resize interpolates an axis whose size only the run knows: its matrix, made in the run."""

from __future__ import annotations

import onnx_ir as ir

from ..emit import HALVES
from . import Emitter, Op
from .op import FIXED
from .shape import INT64, size_of, vector

# Where an output position i lies, of m from n at a scale s: as a function of those.
_PLACES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric",
           "align_corners", "tf_half_pixel_for_nn")  # fmt: skip


def matrix_of_run(e: Emitter, op: Op, axis: int, scale: float | None) -> ir.Value:
    """The matrix [out, size] of a resized axis. scale: None for the ratio of the two sizes, or
    what the run has as scales.

    linear: a hat around each place. nearest: 1 where the rounded place is. Raises UnsupportedNode
    for cubic, antialias, a crop, and other policies than to stretch. ONNX Operators, Resize.
    """
    mode = str(op.attr("mode", "nearest"))
    how = str(op.attr("coordinate_transformation_mode", "half_pixel"))
    policy = op.attr("keep_aspect_ratio_policy", "stretch")
    stretched = op.input(2) is not None or policy == "stretch"
    if mode not in ("nearest", "linear") or op.attr("antialias", 0) or how not in _PLACES:
        raise op.unsupported(
            f"axis {axis} has a dynamic size and mode = {mode}, "
            f"coordinate_transformation_mode = {how}, antialias = {op.attr('antialias', 0)}",
            f"{FIXED}; on dynamic ones nearest and linear, neither cropped nor antialiased",
        )
    if not stretched:
        raise op.unsupported(f"keep_aspect_ratio_policy = {policy}, dynamic sizes", FIXED)
    dtype = ir.DataType.FLOAT if op.x.dtype in HALVES else op.x.dtype
    with e.in_float32():
        n, m = (e.cast(vector(e, [size_of(e, v, axis)]), dtype) for v in (op.x, op.y))
        count = e.Squeeze(e.Shape(op.y, start=axis, end=axis + 1), [0])
        at = e.cast(e.op("Range", [0, count, 1], _dtype=INT64)[0], dtype)
        at = _place(e, how, at, n, m, _scale(e, op, axis, scale, n, m))
        last = e.Sub(n, 1.0)
        if mode == "nearest":
            at = _rounded(e, op, at)
        at = e.Min(e.Max(at, 0.0), last)
        size = e.Squeeze(e.Shape(op.x, start=axis, end=axis + 1), [0])
        column = e.cast(e.op("Range", [0, size, 1], _dtype=INT64)[0], dtype)
        away = e.Abs(e.Sub(e.Unsqueeze(at, [1]), column))
        return e.cast(e.Max(e.Sub(1.0, away), 0.0), op.x.dtype)


def _scale(
    e: Emitter, op: Op, axis: int, scale: float | None, n: ir.Value, m: ir.Value
) -> ir.Value:
    if scale is not None:
        return e.const(scale, n.dtype)
    scales = op.input(2)
    if scales is None or op.dims(scales) == (0,):
        return e.Div(m, n)
    rank = op.rank()
    axes = [int(a) % rank for a in op.attr("axes", range(rank))]
    return e.cast(e.Gather(scales, [axes.index(axis)], axis=0), n.dtype)


def _place(
    e: Emitter, how: str, at: ir.Value, n: ir.Value, m: ir.Value, scale: ir.Value
) -> ir.Value:
    """Where output positions lie in the input, as `resize._source` has it."""
    if how == "asymmetric":
        return e.Div(at, scale)
    if how == "align_corners":
        return e.Div(e.Mul(at, e.Sub(n, 1.0)), e.Max(e.Sub(m, 1.0), 1.0))
    if how == "tf_half_pixel_for_nn":
        return e.Div(e.Add(at, 0.5), scale)
    if how == "half_pixel_symmetric":
        # The offset alone is in the given precision, as in ONNX Runtime.
        offset = e.Mul(e.Mul(n, 0.5), e.Sub(1.0, e.Div(m, e.Mul(scale, n))))
        wide, ratio, far = (e.cast(v, ir.DataType.DOUBLE) for v in (at, scale, offset))
        return e.cast(e.Sub(e.Add(far, e.Div(e.Add(wide, 0.5), ratio)), 0.5), at.dtype)
    middle = e.Sub(e.Div(e.Add(at, 0.5), scale), 0.5)
    if how == "pytorch_half_pixel":
        return e.Where(e.Greater(m, 1.0), middle, 0.0, _dtype=at.dtype)
    return middle


def _rounded(e: Emitter, op: Op, at: ir.Value) -> ir.Value:
    how = str(op.attr("nearest_mode", "round_prefer_floor"))
    if how == "floor":
        return e.Floor(at)
    if how == "ceil":
        return e.Ceil(at)
    if how == "round_prefer_floor":
        return e.Ceil(e.Sub(at, 0.5))
    if how == "round_prefer_ceil":
        return e.Floor(e.Add(at, 0.5))
    raise op.unsupported(
        f"nearest_mode = {how}", "floor, ceil, round_prefer_floor, round_prefer_ceil"
    )
