"""Reductions over axes."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from . import Cotangents, Emitter, Op, vjp


def kept(e: Emitter, op: Op, value: ir.Value) -> ir.Value:
    """`value`, shaped like the node's output, with the reduced axes back as 1."""
    if op.attr("keepdims", 1):
        return value
    axes = op.input(1)
    if axes is None or (op.const(1) is not None and op.axes(1, op.rank()) is None):
        # No axes: all of them, unless they were a no-op.
        return e.Reshape(value, [1] * op.rank(), _shape=[1] * op.rank())
    shape = None
    if op.const(1) is not None and op.x.shape is not None:
        gone = op.axes(1, op.rank()) or ()
        shape = [1 if i in gone else op.x.shape[i] for i in range(op.rank())]
    return e.Unsqueeze(value, axes, _shape=shape)


def is_noop(op: Op) -> bool:
    """Whether empty axes mean that nothing is reduced."""
    if not op.attr("noop_with_empty_axes", 0):
        return False
    return op.input(1) is None or (op.const(1) is not None and op.axes(1, op.rank()) is None)


def many(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
    """How many elements of x went into each of y, as int64. In a batch of none: 0, where 0 / 0
    would end the process, not the run."""
    return e.Div(e.Size(x), e.Max(e.Size(y), 1))


def again(e: Emitter, op: Op, op_type: str, value: ir.Value) -> ir.Value:
    """Reduce `value` over the node's axes, keeping them as 1."""
    # Axes that only the run knows may turn out empty: then they must mean what they mean there.
    noop = op.attr("noop_with_empty_axes")
    return e.op(op_type, [value, op.input(1)], keepdims=1, noop_with_empty_axes=noop)[0]


def spread(e: Emitter, op: Op, ct: ir.Value) -> ir.Value:
    """The cotangent at every element that was reduced to it."""
    return e.Expand(kept(e, op, ct), e.Shape(op.x), _shape=op.x.shape)


@vjp("ReduceSum", 13)
def reduce_sum(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (ct if is_noop(op) else spread(e, op, ct), None)


@vjp("ReduceMean", 18)
def reduce_mean(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    if is_noop(op):
        return ct, None
    dims = op.dims()
    axes = None if op.input(1) is None else op.const(1)
    count: ir.Value | float | None = None
    if op.input(1) is None or axes is not None:
        gone = op.axes(1, op.rank()) or tuple(range(op.rank()))
        sizes = [dims[a] for a in gone]
        known = [s for s in sizes if s is not None]
        if len(known) == len(sizes) and 0 not in known:
            return spread(e, op, e.Mul(ct, 1.0 / prod(known))), None
    count = e.cast(many(e, op.x, op.y), ct.dtype)
    return spread(e, op, e.Div(ct, count)), None


def _extreme(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Ties share evenly, as PyTorch's amax and amin have it."""
    if is_noop(op):
        return ct, None
    hit = e.cast(e.Equal(op.x, kept(e, op, op.y)), ct.dtype)
    hit.shape = op.x.shape
    share = e.Div(kept(e, op, ct), again(e, op, "ReduceSum", hit))
    return e.Mul(hit, share, _shape=op.x.shape), None


@vjp("ReduceMax", 18, 20)
def reduce_max(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return _extreme(e, op, ct)


@vjp("ReduceMin", 18, 20)
def reduce_min(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return _extreme(e, op, ct)


@vjp("ReduceL1", 18)
def reduce_l1(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    ct = ct if is_noop(op) else kept(e, op, ct)
    return e.Mul(e.Sign(op.x), ct, _shape=op.x.shape), None


@vjp("ReduceL2", 18)
def reduce_l2(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """x / |x|, and 0 at |x| = 0."""
    norm = op.y
    if is_noop(op):
        return e.Mul(e.Sign(op.x), ct), None
    share = e.Div(ct, e.Where(e.Equal(norm, 0.0), 1.0, norm, _dtype=ct.dtype, _shape=norm.shape))
    return e.Mul(op.x, kept(e, op, share), _shape=op.x.shape), None


@vjp("ReduceSumSquare", 18)
def reduce_sum_square(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    ct = ct if is_noop(op) else kept(e, op, ct)
    return e.Mul(e.Mul(op.x, 2.0), ct, _shape=op.x.shape), None


@vjp("ReduceLogSum", 18, 28)
def reduce_log_sum(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    if is_noop(op):
        return e.Div(ct, op.x), None
    return spread(e, op, e.Div(ct, e.Exp(op.y))), None


@vjp("ReduceLogSumExp", 18, 28)
def reduce_log_sum_exp(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    if is_noop(op):
        return ct, None
    share = e.Exp(e.Sub(op.x, kept(e, op, op.y), _shape=op.x.shape))
    return e.Mul(share, kept(e, op, ct), _shape=op.x.shape), None


@vjp("ReduceProd", 18)
def reduce_prod(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The product of the others: y / x, but also right where one factor is 0."""
    if is_noop(op):
        return ct, None
    zero = e.Equal(op.x, 0.0)
    safe = e.Where(zero, 1.0, op.x, _dtype=ct.dtype, _shape=op.x.shape)
    rest = again(e, op, "ReduceProd", safe)
    zeros = again(e, op, "ReduceSum", e.cast(zero, ct.dtype))
    only = e.Where(e.Equal(zeros, 1.0), rest, 0.0, _dtype=ct.dtype)
    none = e.Where(e.Equal(zeros, 0.0), rest, 0.0, _dtype=ct.dtype)
    others = e.Where(zero, only, e.Div(none, safe), _dtype=ct.dtype, _shape=op.x.shape)
    return e.Mul(others, kept(e, op, ct), _shape=op.x.shape), None


@vjp("CumSum", 14)
def cum_sum(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    back = e.CumSum(
        ct,
        op.need(1),
        exclusive=op.attr("exclusive", 0),
        reverse=1 - op.attr("reverse", 0),
        _shape=op.x.shape,
    )
    return back, None
