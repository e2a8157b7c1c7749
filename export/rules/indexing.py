"""Operators that pick, scatter, cut and pad by indices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from . import Cotangents, Emitter, Op, vjp
from .shape import zeros_like

END = 2**63 - 1
INT64 = ir.DataType.INT64


@vjp("Where", 16)
def where(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    mask = op.need(0)
    first = e.Where(mask, ct, 0.0, _dtype=ct.dtype, _shape=op.y.shape) if op.wants[1] else None
    second = e.Where(mask, 0.0, ct, _dtype=ct.dtype, _shape=op.y.shape) if op.wants[2] else None
    return None, first, second


@vjp("Slice", 13)
def slice_(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Zeros elsewhere: a Pad for steps of 1, a scatter along each axis for others."""
    rank = op.rank()
    none: Cotangents = (None,) * (len(op) - 1)
    starts, ends = op.const(1), op.const(2)
    axes = op.const(3) if op.input(3) is not None else np.arange(rank)[: op.dims(op.need(1))[0]]
    steps = op.const(4) if op.input(4) is not None else None
    if axes is None or (op.input(4) is not None and steps is None):
        raise op.unsupported("its axes or steps are computed at run time", "constant ones")
    count = len(axes)
    steps = np.ones(count, np.int64) if steps is None else steps
    dims = op.dims()
    at = [int(a) % rank for a in axes]
    static = starts is not None and ends is not None and all(dims[a] is not None for a in at)
    if static:
        assert starts is not None
        assert ends is not None
        ranges = [
            range(dims[a] or 0)[_python(int(s), int(t), int(k))]
            for a, s, t, k in zip(at, starts, ends, steps, strict=True)
        ]
        if all(len(r) == 0 for r in ranges):
            return zeros_like(e, op.x), *none
        if all(r.step == 1 or len(r) == 1 for r in ranges):
            before, after = [0] * rank, [0] * rank
            for axis, r in zip(at, ranges, strict=True):
                before[axis], after[axis] = r[0], (dims[axis] or 0) - 1 - r[-1]
            return e.Pad(ct, [*before, *after], _shape=op.x.shape), *none
    # Positions along an axis are what Slice itself picks from 0..n-1.
    result = ct
    for index in reversed(range(count)):
        axis = at[index]
        size = e.Shape(op.x, start=axis, end=axis + 1)
        line = e.Range(0, e.Squeeze(size, [0]), 1, _dtype=INT64)
        start, end = (_element(e, op.need(i), index) for i in (1, 2))
        picked = e.Slice(line, start, end, [0], [int(steps[index])], _dtype=INT64)
        result = _scatter_axis(e, result, picked, axis, size, rank)
    result.shape = op.x.shape
    return result, *none


def _python(start: int, end: int, step: int) -> slice:
    """ONNX's start and end as Python's: an end beyond the front means all the way down."""
    return slice(start, None if step < 0 and end < -(2**31) + 1 else end, step)


def _element(e: Emitter, vector: ir.Value, index: int) -> ir.Value:
    taken = e.Gather(vector, [index], axis=0)
    return e.Cast(taken, to=int(INT64))


def _scatter_axis(
    e: Emitter, ct: ir.Value, picked: ir.Value, axis: int, size: ir.Value, rank: int
) -> ir.Value:
    """Zeros of `size` along an axis, with the cotangent added at the picked positions."""
    order = [axis, *(i for i in range(rank) if i != axis)]
    front = e.Transpose(ct, perm=order) if axis else ct
    rest = e.Shape(front, start=1)
    shape = e.op("Concat", [size, rest], axis=0, _dtype=INT64)[0]
    assert ct.dtype is not None
    zeros = e.Expand(e.const(0, ct.dtype), shape, _dtype=ct.dtype)
    rows = e.Unsqueeze(picked, [1], _dtype=INT64)
    filled = e.ScatterND(zeros, rows, front, reduction="add", _dtype=ct.dtype)
    return e.Transpose(filled, perm=[int(i) for i in np.argsort(order)]) if axis else filled


@vjp("Gather", 13)
def gather(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Cotangents are added up at the gathered positions; neighbours in a row are a Pad."""
    rank, axis = op.rank(), int(op.attr("axis", 0)) % op.rank()
    indices, known = op.need(1), op.const(1)
    size = op.dims()[axis]
    inner = op.rank(indices)
    if known is not None and size is not None:
        flat = np.asarray(known, np.int64).reshape(-1) % size
        if flat.size and inner <= 1 and np.array_equal(flat, flat[0] + np.arange(flat.size)):
            if inner == 0:
                ct = e.Unsqueeze(ct, [axis])
            pads = [0] * (2 * rank)
            pads[axis], pads[rank + axis] = int(flat[0]), int(size - 1 - flat[-1])
            return e.Pad(ct, pads, _shape=op.x.shape), None
    # [.., indices.., ..] -> the gathered axes flattened to one.
    if inner == 0:
        ct = e.Unsqueeze(ct, [axis])
    elif inner > 1:
        shape = e.op(
            "Concat",
            [e.Shape(op.x, end=axis), e.const([-1]), e.Shape(op.x, start=axis + 1)],
            axis=0,
            _dtype=INT64,
        )[0]
        ct = e.Reshape(ct, shape)
    picked = e.Reshape(e.Cast(indices, to=int(INT64)), [-1], _dtype=INT64)
    length = e.Shape(op.x, start=axis, end=axis + 1)
    positive = e.Where(e.Less(picked, 0), e.Add(picked, length), picked, _dtype=INT64)
    result = _scatter_axis(e, ct, positive, axis, length, rank)
    result.shape = op.x.shape
    return result, None


@vjp("GatherElements", 13)
def gather_elements(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    axis = int(op.attr("axis", 0))
    zeros = zeros_like(e, op.x)
    return e.ScatterElements(
        zeros, op.need(1), ct, axis=axis, reduction="add", _shape=op.x.shape, _dtype=ct.dtype
    ), None


@vjp("GatherND", 13)
def gather_nd(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """ScatterND knows no batch axes: their own indices are put in front."""
    indices = op.need(1)
    batch = int(op.attr("batch_dims", 0))
    if batch:
        rank = op.rank(indices)
        head = e.Shape(indices, end=rank - 1)
        one = e.op("Concat", [head, e.const([1])], axis=0, _dtype=INT64)[0]
        columns = []
        for axis in range(batch):
            size = e.Squeeze(e.Shape(indices, start=axis, end=axis + 1), [0])
            line = e.Range(0, size, 1, _dtype=INT64)
            shaped = e.Reshape(line, [-1 if i == axis else 1 for i in range(rank)])
            columns.append(e.Expand(shaped, one, _dtype=INT64))
        indices = e.op("Concat", [*columns, indices], axis=-1, _dtype=INT64)[0]
    return e.ScatterND(
        zeros_like(e, op.x), indices, ct, reduction="add", _shape=op.x.shape, _dtype=ct.dtype
    ), None


def _scatter_kind(op: Op) -> str:
    kind = str(op.attr("reduction", "none"))
    if kind not in ("none", "add"):
        raise op.unsupported(f"reduction = {kind}", "reduction = none or add")
    return kind


@vjp("ScatterElements", 18)
def scatter_elements(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Overwritten data gets nothing; with duplicates the standard leaves open who wins."""
    axis, kind = int(op.attr("axis", 0)), _scatter_kind(op)
    indices, updates = op.need(1), op.need(2)
    d_updates = e.GatherElements(ct, indices, axis=axis, _shape=updates.shape)
    d_data = ct
    if kind == "none":
        d_data = e.ScatterElements(
            ct, indices, zeros_like(e, updates), axis=axis, _shape=op.x.shape, _dtype=ct.dtype
        )
    return d_data, None, d_updates


@vjp("ScatterND", 18)
def scatter_nd(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    kind = _scatter_kind(op)
    indices, updates = op.need(1), op.need(2)
    d_updates = e.GatherND(ct, indices, _shape=updates.shape)
    d_data = ct
    if kind == "none":
        zeros = zeros_like(e, updates)
        d_data = e.ScatterND(ct, indices, zeros, _shape=op.x.shape, _dtype=ct.dtype)
    return d_data, None, d_updates


@vjp("TopK", 11, 24, outputs="all")
def top_k(e: Emitter, op: Op, cts: Cotangents) -> Cotangents:
    """The values' cotangent goes back to where they were found."""
    if cts[0] is None:
        return (None, None)
    axis = int(op.attr("axis", -1))
    indices = op.node.outputs[1]
    return e.ScatterElements(
        zeros_like(e, op.x), indices, cts[0], axis=axis, _shape=op.x.shape, _dtype=op.x.dtype
    ), None


def _indices_of_pad(mode: str, size: int, before: int, after: int) -> np.ndarray:
    """For each padded position along an axis, the position that it copies."""
    at = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(at, 0, size - 1)
    if mode == "wrap":
        return at % size
    period = max(2 * (size - 1), 1)
    at = np.abs(at) % period
    return np.minimum(at, period - at) if size > 1 else np.zeros_like(at)


@vjp("Pad", 18, 19, 21, 23, 24, 25)
def pad(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Constant: cut the padding off. Edge, reflect, wrap: add it where it was copied from."""
    rank = op.rank()
    mode = str(op.attr("mode", "constant"))
    none: Cotangents = (None,) * (len(op) - 1)
    axes = tuple(range(rank)) if op.input(3) is None else op.axes(3, rank) or ()
    known = op.const(1)
    if mode == "constant":
        if known is not None:
            pads = np.asarray(known, np.int64)
            negative = [-int(p) for p in pads]
            full = [0] * (2 * rank)
            for i, axis in enumerate(axes):
                full[axis], full[rank + axis] = negative[i], negative[len(axes) + i]
            target: list[int] | ir.Value = full
        elif op.input(3) is None:
            target = e.Neg(op.need(1))
        else:
            raise op.unsupported("its pads are computed at run time for some axes", "all axes")
        d_x = e.Pad(ct, target, _shape=op.x.shape)
        if op.input(2) is not None and len(op.wants) > 2 and op.wants[2]:
            outside = e.Sub(e.ReduceSum(ct, keepdims=0), e.ReduceSum(d_x, keepdims=0))
            d_value = e.Reshape(outside, e.Shape(op.need(2)), _shape=op.need(2).shape)
            return d_x, None, d_value, *none[2:]
        return d_x, *none
    if known is None:
        raise op.unsupported("its pads are computed at run time", "constant pads")
    pads = np.asarray(known, np.int64)
    result = ct
    for i, axis in enumerate(axes):
        before, after = int(pads[i]), int(pads[len(axes) + i])
        if before == 0 and after == 0:
            continue
        size = op.dims()[axis]
        if size is None:
            raise op.unsupported(f"mode {mode} along a dynamic axis", "a fixed size")
        source = _indices_of_pad(mode, size, before, after)
        matrix = np.zeros((len(source), size))
        matrix[np.arange(len(source)), source] = 1
        result = along(e, result, matrix, axis, rank)
    result.shape = op.x.shape
    return result, *none


def along(e: Emitter, ct: ir.Value, matrix: np.ndarray, axis: int, rank: int) -> ir.Value:
    """ct times a matrix [m, n] along an axis of size m, which becomes n."""
    weights = e.const(matrix, ct.dtype)
    if axis == rank - 1:
        return e.MatMul(ct, weights)
    if axis == rank - 2:
        return e.MatMul(e.const(matrix.T.copy(), ct.dtype), ct, _dtype=ct.dtype)
    order = [i for i in range(rank) if i != axis] + [axis]
    product = e.MatMul(e.Transpose(ct, perm=order), weights)
    return e.Transpose(product, perm=[int(i) for i in np.argsort(order)])
