"""Pooling, local and global."""

from __future__ import annotations

from functools import reduce
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..emit import fits
from . import Cotangents, Emitter, Op, vjp
from .conv import by_transposed
from .op import FIXED
from .reduction import many
from .window import Window, sizes_of, window_of

INT64 = ir.DataType.INT64


def pool_window(op: Op) -> Window:
    """As `any_window`. Raises UnsupportedNode where only the run knows the pads, too."""
    win = any_window(op)
    if win.auto:
        raise op.unsupported(f"auto_pad = {win.auto} on dynamic sizes", f"{FIXED}, or pads")
    return win


def any_window(op: Op) -> Window:
    """The window of a pool. Raises UnsupportedNode where its place or output's size is in doubt.

    In ceil_mode no window may start in the end pads: version 22 says so and runtimes do so at any
    version, but for those before 22 ONNX infers one position more.
    """
    kernel = op.attr("kernel_shape")
    if kernel is None:
        raise op.unsupported("it lacks kernel_shape", "a valid model")
    win = window_of(op, tuple(int(k) for k in kernel))
    if any(d > 1 for d in win.dilations) and str(op.attr("auto_pad", "")).startswith("SAME"):
        raise op.unsupported(
            f"auto_pad = {op.attr('auto_pad')} with dilations, which ONNX Runtime ignores there",
            "pads",
        )
    sizes, outs = sizes_of(op.x), sizes_of(op.y)
    for i in win.axes:
        n, out = sizes[i], outs[i]
        if n is not None and out is not None and (out - 1) * win.strides[i] >= n + win.begins[i]:
            raise op.unsupported(
                "ceil_mode with a last window that starts in the end pads", "the same at opset 22"
            )
    return win


def extents(op: Op, win: Window) -> tuple[int, ...]:
    """How far the last window reaches past each padded axis (ceil_mode); fixed sizes only."""
    over = []
    for i in win.axes:
        n, out = sizes_of(op.x)[i], sizes_of(op.y)[i]
        if n is None or out is None:
            over.append(0)
            continue
        end = (out - 1) * win.strides[i] + win.reach[i]
        over.append(max(end - (n + win.begins[i] + win.ends[i]), 0))
    return tuple(over)


def spread_windows(e: Emitter, op: Op, ct: ir.Value, win: Window) -> ir.Value:
    """Each window's cotangent at every position of the window, summed: [N,C,P..] -> like x.

    A depthwise transposed convolution with ones; for windows that tile the input, a repetition.
    """
    sizes, outs = sizes_of(op.x), sizes_of(op.y)
    tiles = (
        win.kernel == win.strides
        and not any(win.begins)
        and not any(win.ends)
        and all(d == 1 for d in win.dilations)
        and all(
            n is not None and p is not None and n == p * k
            for n, p, k in zip(sizes, outs, win.kernel, strict=True)
        )
    )
    if tiles:
        shape: list[int] = [0, 0]
        repeat: list[int] = [1, 1]
        for p, k in zip(outs, win.kernel, strict=True):
            shape += [p or 1, 1]
            repeat += [1, k]
        return op.like(e, e.Tile(e.Reshape(ct, shape), repeat))
    op.bounded("a window", *win.kernel)
    # One weight for all: the channels become the batch.
    ones = e.const(np.ones((1, 1, *win.kernel)), ct.dtype)
    flat = _one_channel(e, ct, op.y)
    space = [None, 1, *list(op.x.shape or ())[2:]]
    # Of the primal, only its sizes are read, and its values not at all.
    dynamic = None in sizes or None in outs
    primal = _one_channel(e, op.x, op.x) if dynamic else ir.Value(shape=ir.Shape(space))
    return op.like(e, by_transposed(e, flat, ones, win, primal))


def _one_channel(e: Emitter, value: ir.Value, primal: ir.Value) -> ir.Value:
    """[N, C, ...] -> [N C, 1, ...], for a value of the shape of a primal."""
    shape = e.op("Concat", [e.const([-1, 1]), e.Shape(value, start=2)], axis=0, _dtype=INT64)[0]
    return e.Reshape(value, shape, _shape=[None, 1, *list(primal.shape or ())[2:]])


@vjp("AveragePool", 11, 19, 22)
def average_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Divided by what each window divided by, then spread over the window."""
    win = any_window(op)
    return (spread_windows(e, op, _shared(e, op, ct, win), win),)


def _shared(e: Emitter, op: Op, ct: ir.Value, win: Window) -> ir.Value:
    """The cotangent over each window's count: constant, or smaller at the borders."""
    full = prod(win.kernel)
    uneven = any(extents(op, win)) or (
        not op.attr("count_include_pad", 0) and (any(win.begins) or any(win.ends) or win.auto)
    )
    sizes, outs = sizes_of(op.x), sizes_of(op.y)
    if op.attr("ceil_mode", 0) and (None in sizes or None in outs) and not win.auto:
        return e.Div(ct, _counts_of_run(e, op, win, ct), _shape=op.y.shape)
    if not uneven:
        return e.Mul(ct, 1.0 / full)
    if None in sizes or None in outs:
        # The run counts: the sum pool of ones over the real positions.
        attributes = {a.name: a.value for a in op.node.attributes.values()}
        attributes["count_include_pad"] = 1
        assert ct.dtype is not None
        ones = e.Expand(e.const(1, ct.dtype), e.Shape(op.x), _dtype=ct.dtype, _shape=op.x.shape)
        share = e.op("AveragePool", [ones], **attributes)[0]
        return e.Div(ct, e.Mul(share, float(full)), _shape=op.y.shape)
    include = bool(op.attr("count_include_pad", 0))
    counts = []
    for i in win.axes:
        n, out = sizes[i] or 0, outs[i] or 0
        op.bounded("an axis", out)
        low, high = (-win.begins[i], n + win.ends[i]) if include else (0, n)
        starts = np.arange(out) * win.strides[i] - win.begins[i]
        counts.append(_taps_below(starts, win, i, high) - _taps_below(starts, win, i, low))
    if fits(*(o or 0 for o in outs)):
        shares = [1.0 / np.maximum(reduce(np.multiply.outer, counts), 1)]
    else:
        # One by one along the axes: together they would be as large as an activation.
        shares = [
            1.0 / np.maximum(count, 1).reshape([-1 if i == a else 1 for a in win.axes])
            for i, count in enumerate(counts)
        ]
    for share in shares:
        ct = e.Mul(ct, e.const(share[None, None], ct.dtype), _shape=op.y.shape)
    return ct


def _taps_below(starts: NDArray[np.int64], win: Window, axis: int, end: int) -> NDArray[np.int64]:
    """How many positions of the windows that start here lie before an end."""
    taps = -((starts - end) // win.dilations[axis])
    return np.asarray(np.clip(taps, 0, win.kernel[axis]))


def _counts_of_run(e: Emitter, op: Op, win: Window, ct: ir.Value) -> ir.Value:
    """How many positions each window averages over, [P, ...]: along each axis those of its taps
    that lie inside, with the pads or without. For ceil_mode, whose last window may reach further,
    which runtimes count in different ways when asked to average ones."""
    include = bool(op.attr("count_include_pad", 0))
    total: ir.Value | None = None
    for i in win.axes:
        out = e.Squeeze(e.Shape(ct, start=2 + i, end=3 + i), [0])
        starts = e.op("Range", [0, out, 1], _dtype=INT64)[0]
        starts = e.Sub(e.Mul(starts, win.strides[i]), win.begins[i])
        op.bounded("a window", win.kernel[i])
        taps = e.const(np.arange(win.kernel[i], dtype=np.int64) * win.dilations[i])
        at = e.Add(e.Unsqueeze(starts, [1]), taps)
        low, high = (-win.begins[i], win.ends[i]) if include else (0, 0)
        end = e.Add(e.Shape(op.x, start=2 + i, end=3 + i), high)
        inside = e.And(e.GreaterOrEqual(at, low), e.Less(at, end))
        count = e.ReduceSum(e.cast(inside, ct.dtype), [1], keepdims=0)
        behind = len(win.kernel) - 1 - i
        if behind:
            count = e.Unsqueeze(count, list(range(1, 1 + behind)))
        total = count if total is None else e.Mul(total, count)
    assert total is not None
    return total


@vjp("LpPool", 18, 22)
def lp_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """y = (sum |x|^p)^(1/p): sign(x) |x|^(p-1) times the spread of ct y^(1-p); 0 where y = 0."""
    win = any_window(op)
    share = _norm_share(e, op, ct, int(op.attr("p", 2)))
    return (e.Mul(spread_windows(e, op, share, win), _norm_slope(e, op), _shape=op.x.shape),)


def _norm_slope(e: Emitter, op: Op) -> ir.Value:
    p = int(op.attr("p", 2))
    if p == 1:
        return e.Sign(op.x)
    if p == 2:
        return op.x
    size = e.Abs(op.x)
    return e.Mul(e.Sign(op.x), e.Pow(size, e.const(float(p - 1), op.x.dtype)))


def _norm_share(e: Emitter, op: Op, ct: ir.Value, p: int) -> ir.Value:
    if p == 1:
        return ct
    y = op.y
    safe = e.Where(e.Equal(y, 0.0), 1.0, y, _dtype=ct.dtype, _shape=y.shape)
    over = safe if p == 2 else e.Pow(safe, e.const(float(p - 1), ct.dtype))
    return e.Div(ct, over)


@vjp("GlobalAveragePool", 1, 22)
def global_average_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    sizes = sizes_of(op.x)
    known = [s for s in sizes if s is not None]
    if len(known) == len(sizes) and 0 not in known:
        share = e.Mul(ct, 1.0 / prod(known))
    else:
        share = e.Div(ct, e.cast(many(e, op.x, op.y), ct.dtype))
    return (e.Expand(share, e.Shape(op.x), _shape=op.x.shape),)


@vjp("GlobalMaxPool", 1, 22)
def global_max_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """To the first maximum in row-major order."""
    dtype = ct.dtype
    assert dtype is not None
    known = [s for s in sizes_of(op.x) if s is not None]
    line = prod(known) if len(known) == len(sizes_of(op.x)) else -1  # a batch may be of none
    flat = e.Reshape(op.x, [0, 0, line])
    first = e.ArgMax(flat, axis=2, keepdims=1)
    zeros = e.Expand(e.const(0, dtype), e.Shape(flat), _dtype=dtype)
    got = e.ScatterElements(zeros, first, e.Reshape(ct, [0, 0, 1]), axis=2, _dtype=dtype)
    return (op.like(e, got),)


@vjp("GlobalLpPool", 2, 22)
def global_lp_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    share = _norm_share(e, op, ct, int(op.attr("p", 2)))
    return (e.Mul(_norm_slope(e, op), share, _shape=op.x.shape),)
