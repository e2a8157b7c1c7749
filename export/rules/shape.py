"""Operators that move, cut, join or repeat elements without changing them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..emit import dim_of
from . import Cotangents, Emitter, Op, vjp

INT64 = ir.DataType.INT64

# Dimensions of a tensor: what NumPy holds.
MOST_AXES = 64
# A size: a number where it is known, else an int64 [1] made at run time.
Amount = int | ir.Value


def size_of(e: Emitter, value: ir.Value, axis: int) -> Amount:
    """A dimension of a value."""
    dim = None if value.shape is None else dim_of(value.shape, axis)
    return dim if isinstance(dim, int) else e.Shape(value, start=axis, end=axis + 1)


def minus(e: Emitter, a: Amount, b: Amount) -> Amount:
    """a - b."""
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    if isinstance(a, ir.Value) and isinstance(b, int):
        return e.Add(a, [-b]) if b else a
    return e.Sub([a] if isinstance(a, int) else a, b)


def vector(e: Emitter, parts: Sequence[Amount]) -> ir.Value:
    """Sizes as one int64 vector: an initializer where all are known."""
    joined: list[ir.Value] = []
    run: list[int] = []
    for part in parts:
        if isinstance(part, int):
            run.append(part)
            continue
        if run:
            joined.append(e.const(np.array(run, np.int64)))
            run = []
        joined.append(part)
    if run or not joined:
        joined.append(e.const(np.array(run, np.int64)))
    return joined[0] if len(joined) == 1 else e.op("Concat", joined, axis=0, _dtype=INT64)[0]


def even_parts(e: Emitter, value: ir.Value, axis: int, count: int) -> list[ir.Value]:
    """A value cut into equal parts along an axis."""
    if count == 1:
        return [value]
    parts = e.op("Split", [value], axis=axis, num_outputs=count, _outputs=count)
    if value.dtype is not None:
        for part in parts:
            part.dtype = value.dtype
    return list(parts)


def zeros_like(e: Emitter, value: ir.Value) -> ir.Value:
    """Zeros in the shape and dtype of a value. Raises TypeError where that isn't known."""
    if value.dtype is None:
        raise TypeError(f"the element type of '{value.name}' is unknown")
    shape = shape_of(e, value)
    return e.Expand(e.const(0, value.dtype), shape, _shape=value.shape, _dtype=value.dtype)


def shape_of(e: Emitter, value: ir.Value) -> ir.Value:
    """The shape of a value: an initializer where all of it is known."""
    shape = value.shape
    if shape is not None and all(isinstance(d, int) for d in shape):
        return e.const(np.array(shape.numpy(), np.int64))
    return e.Shape(value)


@vjp("Reshape", 14, 19, 21, 23, 24, 25)
def reshape(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return op.like(e, ct), None


@vjp("Flatten", 13, 21, 23, 24, 25)
def flatten(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (op.like(e, ct),)


@vjp("Squeeze", 13, 21, 23, 24, 25)
def squeeze(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    if op.input(1) is None:
        return op.like(e, ct), None
    return e.Unsqueeze(ct, op.need(1), _shape=op.x.shape), None


@vjp("Unsqueeze", 13, 21, 23, 24, 25)
def unsqueeze(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return e.Squeeze(ct, op.need(1), _shape=op.x.shape), None


@vjp("Transpose", 13, 21, 23, 24, 25)
def transpose(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    perm = op.attr("perm", tuple(range(op.rank()))[::-1])
    return (e.Transpose(ct, perm=[int(i) for i in np.argsort(perm)], _shape=op.x.shape),)


@vjp("Identity", 16, 19, 21, 23, 24, 25)
def identity(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (ct,)


@vjp("Dropout", 13, 22)
def dropout(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """As it infers. Where only the run knows its mode, a run that trains draws, and its map is
    none: NaN."""
    mode = op.input(2)
    training = op.const(2) if mode is not None else np.array(False)
    if training is None:
        return (e.Where(mode, e.const(np.nan, ct.dtype), ct, _shape=ct.shape),)
    if bool(np.asarray(training).reshape(())):
        raise op.unsupported("it is in training mode", "training_mode = false")
    return (ct,)


@vjp("Cast", 13, 19, 21, 23, 24, 25, 28)
def cast(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Between float types; a cast to or from integers ends the way."""
    return (e.cast(ct, op.x.dtype),)


@vjp("CastLike", 15, 19, 21, 23, 24, 25)
def cast_like(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return e.cast(ct, op.x.dtype), None


@vjp("Concat", 13)
def concat(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    axis = int(op.attr("axis"))
    values = [op.need(i) for i in range(len(op))]
    if len(values) == 1:
        return (ct,)
    if sum(op.wants) == 1:
        # One branch alone leads to `wrt`: a slice instead of a split.
        index = op.wants.index(True)
        before = [op.dims(v)[axis] for v in values[: index + 1]]
        if None not in before:
            end = sum(d for d in before if d is not None)
            start = end - (before[-1] or 0)
            only = e.Slice(ct, [start], [end], [axis], _shape=values[index].shape)
            return tuple(only if i == index else None for i in range(len(op)))
    at = axis % op.rank(values[0])
    sizes = vector(e, [size_of(e, v, at) for v in values])
    parts = e.op("Split", [ct, sizes], axis=axis, _outputs=len(values))
    for part, value in zip(parts, values, strict=True):
        part.shape = value.shape
        if ct.dtype is not None:
            part.dtype = ct.dtype
    return parts


@vjp("Split", 18, outputs="all")
def split(e: Emitter, op: Op, cts: Cotangents) -> Cotangents:
    axis = int(op.attr("axis", 0))
    parts = [
        ct if ct is not None else zeros_like(e, y)
        for ct, y in zip(cts, op.node.outputs, strict=True)
    ]
    return e.op("Concat", parts, axis=axis, _shape=op.x.shape)[0], None


@vjp("Expand", 13)
def expand(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The walk sums over what was broadcast; it needs to know the rank at least."""
    if ct.shape is None:
        length = op.dims(op.need(1))[0]
        if length is None:
            raise op.unsupported("the rank of its result is unknown", "a shape of known length")
        if not 0 <= length <= MOST_AXES:
            raise op.unsupported(f"a result of {length} dimensions", f"{MOST_AXES} at most")
        ct.shape = ir.Shape([None] * max(length, op.rank()))
    return ct, None


@vjp("Tile", 13)
def tile(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[r0*n0, r1*n1, ...] -> [r0, n0, r1, n1, ...], summed over the repeats."""
    rank = op.rank()
    repeats = op.const(1)
    if repeats is not None and all(int(r) == 1 for r in repeats):
        return ct, None
    dims = op.dims()
    if repeats is not None and dims.count(None) <= 1:
        pairs: list[int] = []
        for r, d in zip(repeats, dims, strict=True):
            pairs += [int(r), -1 if d is None else d]
        target: ir.Value | list[int] = pairs
    else:
        both = e.op(
            "Concat",
            [e.Unsqueeze(op.need(1), [1]), e.Unsqueeze(e.Shape(op.x), [1])],
            axis=1,
            _dtype=INT64,
        )[0]
        target = e.Reshape(both, [-1])
    summed = e.ReduceSum(e.Reshape(ct, target), list(range(0, 2 * rank, 2)), keepdims=0)
    summed.shape = op.x.shape
    return summed, None


@vjp("DepthToSpace", 13, 28)
def depth_to_space(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    block = int(op.attr("blocksize"))
    if op.attr("mode", "DCR") == "DCR":
        return (e.SpaceToDepth(ct, blocksize=block, _shape=op.x.shape),)
    # CRD has no inverse operator: SpaceToDepth puts the blocks before the channels.
    c, h, w = (size_of(e, op.x, axis) for axis in (1, 2, 3))
    outer = c // block**2 if isinstance(c, int) else -1
    six = e.Reshape(ct, vector(e, [0, outer, h, block, w, block]))
    moved = e.Transpose(six, perm=[0, 1, 3, 5, 2, 4])
    return (e.Reshape(moved, vector(e, [0, c, h, w]), _shape=op.x.shape),)


@vjp("SpaceToDepth", 13, 28)
def space_to_depth(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    block, mode = int(op.attr("blocksize")), op.attr("mode", "DCR")  # mode: from opset 28
    return (e.DepthToSpace(ct, blocksize=block, mode=mode, _shape=op.x.shape),)


@vjp("Trilu", 14)
def trilu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return e.Trilu(ct, op.input(1), upper=op.attr("upper", 1), _shape=op.x.shape), None
