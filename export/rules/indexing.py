"""Operators that pick and scatter by indices or a mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..emit import fits
from . import Cotangents, Emitter, Op, vjp
from .crop import LAST, placed, scatter_back
from .shape import INT64, minus, shape_of, size_of, vector, zeros_like

Ints = NDArray[np.int64]
# Above this many repeats of one element, a scatter is the smaller graph.
REPEATS = 4


@vjp("Where", 16)
def where(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    mask = op.need(0)
    first = e.Where(mask, ct, 0.0, _dtype=ct.dtype, _shape=op.y.shape) if op.wants[1] else None
    second = e.Where(mask, 0.0, ct, _dtype=ct.dtype, _shape=op.y.shape) if op.wants[2] else None
    return None, first, second


@vjp("Gather", 13)
def gather(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Zeros around neighbours, a Gather from where each element went for other constant lists;
    a scatter for lists that repeat much and for those of the run."""
    axis = int(op.attr("axis", 0)) % op.rank()
    indices, known = op.need(1), op.const(1)
    if known is not None and known.dtype.kind not in "iu":
        raise op.unsupported(f"indices of {known.dtype}", "int64 or int32")
    inner = op.rank(indices)
    if inner == 0:
        ct = e.Unsqueeze(ct, [axis])
    elif inner > 1:
        after = [size_of(e, op.x, i) for i in range(axis + 1, op.rank())]
        ct = e.Reshape(ct, vector(e, [*(0,) * axis, -1, *after]))
    if known is not None:
        d_x = _ungathered(e, op, ct, np.asarray(known, np.int64).reshape(-1), axis)
        if d_x is not None:
            return d_x, None
    column = e.Reshape(indices, [-1 if i == axis else 1 for i in range(op.rank())])
    places = e.Expand(column, e.Shape(ct))
    return _added(e, op, places, ct, axis), None


def _added(e: Emitter, op: Op, indices: ir.Value, ct: ir.Value, axis: int) -> ir.Value:
    """Zeros like the first input, with `ct` added along an axis at its indices."""
    zeros = zeros_like(e, op.x)
    return e.ScatterElements(zeros, indices, ct, axis=axis, reduction="add", _shape=op.x.shape)


def _ungathered(e: Emitter, op: Op, ct: ir.Value, index: Ints, axis: int) -> ir.Value | None:
    """The adjoint of picking a constant list along an axis; None where a scatter is smaller."""
    assert op.x.shape is not None
    size = size_of(e, op.x, axis)
    if not len(index):
        return zeros_like(e, op.x)
    if isinstance(size, int):
        index = index % size
    first, last = int(index[0]), int(index[-1])
    if (np.diff(index) == 1).all() and (first >= 0) == (last >= 0):
        before = first if first >= 0 else minus(e, size, -first)
        after = minus(e, size, last + 1) if last >= 0 else -1 - last
        return placed(e, ct, {axis: (before, after)}, op.x.shape)
    if not isinstance(size, int) or not fits(size):
        return None
    # The j-th place that an element went to; one past the end, a zero, where there is none.
    went: list[Ints] = []
    seen = np.zeros(size, np.int64)
    for at, element in enumerate(index):
        if seen[element] == len(went):
            if len(went) == REPEATS:
                return None
            went.append(np.full(size, len(index), np.int64))
        went[seen[element]][element] = at
        seen[element] += 1
    if any((places == len(index)).any() for places in went):
        ct = placed(e, ct, {axis: (0, 1)}, ir.Shape([None] * op.rank()))
    total: ir.Value | None = None
    for places in went:
        part = e.Gather(ct, places, axis=axis, _shape=op.x.shape)
        total = part if total is None else e.Add(total, part, _shape=op.x.shape)
    return total


@vjp("GatherElements", 13)
def gather_elements(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return _added(e, op, op.need(1), ct, int(op.attr("axis", 0))), None


@vjp("GatherND", 13)
def gather_nd(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """By flat numbers: ScatterND knows no batch axes, and TensorRT's adds nothing up."""
    indices, batch = op.need(1), int(op.attr("batch_dims", 0))
    return scatter_back(
        e, op, ct, lambda n: e.GatherND(n, indices, batch_dims=batch, _dtype=INT64)
    ), None


Pick = Callable[[ir.Value], ir.Value]
Put = Callable[..., ir.Value]


@vjp("ScatterElements", 18)
def scatter_elements(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Overwritten data gets nothing; with duplicates the standard leaves open who wins."""
    axis, indices = int(op.attr("axis", 0)), op.need(1)
    like = op.need(2).shape

    def pick(value: ir.Value) -> ir.Value:
        return e.GatherElements(value, indices, axis=axis, _shape=like)

    def put(data: ir.Value, updates: ir.Value, how: str | None = None) -> ir.Value:
        return e.ScatterElements(
            data, indices, updates, axis=axis, reduction=how, _shape=op.x.shape, _dtype=data.dtype
        )

    return _scattered(e, op, ct, pick, put)


@vjp("ScatterND", 18)
def scatter_nd(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    indices, like = op.need(1), op.need(2).shape

    def pick(value: ir.Value) -> ir.Value:
        return e.GatherND(value, indices, _shape=like)

    def put(data: ir.Value, updates: ir.Value, how: str | None = None) -> ir.Value:
        return e.ScatterND(
            data, indices, updates, reduction=how, _shape=op.x.shape, _dtype=data.dtype
        )

    return _scattered(e, op, ct, pick, put)


def _scattered(e: Emitter, op: Op, ct: ir.Value, pick: Pick, put: Put) -> Cotangents:
    """The adjoint of a scatter. pick: the elements at its indices; put: the scatter itself."""
    kind, updates = str(op.attr("reduction", "none")), op.need(2)
    if kind == "none":
        d_data = put(ct, zeros_like(e, updates)) if op.wants[0] else None
        return d_data, None, pick(ct) if op.wants[2] else None
    if kind == "add":
        return ct, None, pick(ct) if op.wants[2] else None
    if kind == "mul":
        return _multiplied(e, op, ct, pick, put)
    if kind in ("max", "min"):
        # Ties share evenly, as PyTorch's scatter_reduce has it.
        mine = e.cast(e.Equal(op.x, op.y), ct.dtype)
        theirs = e.cast(e.Equal(updates, pick(op.y)), ct.dtype)
        share = e.Div(ct, put(mine, theirs, "add"), _shape=op.x.shape)
        d_updates = e.Mul(pick(share), theirs) if op.wants[2] else None
        return e.Mul(share, mine) if op.wants[0] else None, None, d_updates
    raise op.unsupported(f"reduction = {kind}", "none, add, mul, max, min")


def _multiplied(e: Emitter, op: Op, ct: ir.Value, pick: Pick, put: Put) -> Cotangents:
    """Each factor gets the product of the others, also right where one of them is 0."""
    data, updates = op.x, op.need(2)
    d_data = d_updates = None
    if op.wants[0]:
        ones = e.Expand(e.const(1, ct.dtype), shape_of(e, data), _shape=data.shape, _dtype=ct.dtype)
        d_data = e.Mul(ct, put(ones, updates, "mul"))
    if op.wants[2]:
        zero = e.Equal(updates, 0.0)
        safe = e.Where(zero, 1.0, updates, _dtype=ct.dtype, _shape=updates.shape)
        product = pick(e.Mul(ct, put(data, safe, "mul")))
        zeros = pick(put(zeros_like(e, data), e.cast(zero, ct.dtype), "add"))
        only = e.Where(e.Equal(zeros, 1.0), product, 0.0, _dtype=ct.dtype)
        none = e.Where(e.Equal(zeros, 0.0), e.Div(product, safe), 0.0, _dtype=ct.dtype)
        d_updates = e.Where(zero, only, none, _dtype=ct.dtype, _shape=updates.shape)
    return d_data, None, d_updates


@vjp("TopK", 11, 24, outputs="all")
def top_k(e: Emitter, op: Op, cts: Cotangents) -> Cotangents:
    """The values' cotangent goes back to where they were found."""
    if cts[0] is None:
        return (None, None)
    return _added(e, op, op.node.outputs[1], cts[0], int(op.attr("axis", -1))), None


@vjp("ReverseSequence", 10, 28)
def reverse_sequence(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Turned back by turning it once more."""
    attributes = {a.name: a.value for a in op.node.attributes.values()}
    return e.ReverseSequence(ct, op.need(1), _shape=op.x.shape, **attributes), None


@vjp("CenterCropPad", 18)
def center_crop_pad(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Numbered from 1: what it pads with is 0, and that place is cut off again."""
    axes, x = op.attr("axes"), op.x
    assert x.dtype is not None
    size = e.Size(x)
    counted = e.op("Range", [1, e.Add(size, 1), 1], _dtype=INT64)[0]
    numbers = e.Reshape(counted, shape_of(e, x))
    places = e.CenterCropPad(numbers, op.need(1), axes=axes, _dtype=INT64)
    length = e.Reshape(e.Add(size, 1), [1])
    line = e.Expand(e.const(0, x.dtype), length, _dtype=x.dtype)
    flat = e.ScatterElements(line, e.Reshape(places, [-1]), e.Reshape(ct, [-1]), reduction="add")
    return op.like(e, e.Slice(flat, [1], [LAST], [0])), None


@vjp("Compress", 11, 28)
def compress(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    condition, axis = op.need(1), op.attr("axis")
    return scatter_back(
        e, op, ct, lambda n: e.Compress(n, condition, axis=axis, _dtype=INT64), repeats=False
    ), None
