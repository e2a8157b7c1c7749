"""MaxPool's gradient for the CPU: where each window's maximum lies, found in the blocked layout.

MaxPool's own Indices come from a loop that branches at every element, outside the layout: at
SqueezeNet's stem thirty times what the pool itself costs. Here two small convolutions per offset
say it, at the pooled size: one compares what the windows hold there with their maximum, the other
keeps the first offset that matched. What is left to do outside is one scatter.

Rectified inputs are never below 0, so that 0 stands for what lies outside. And a cotangent
that is to be gated by [h > 0] behind the pool may as well be gated by [y > 0] before: what h holds
at the place of a maximum is y.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ..emit import Emitter
from ..rules import Cotangents, Op, rectifier
from ..rules.max_pool import MOST_OFFSETS
from ..rules.pool import pool_window
from ..rules.window import Window
from . import indices
from .blocked import blocked, channels_of, depthwise, gate, sized

# A mark on a cotangent: it is zero already where the tensor named here is not between its bounds.
GATED = "backlight.gated"
# Above all distances within a plane; sums of it and them are exact.
FAR = 2.0**22
# What becomes of zeros where zeros lie outside too. Nothing above 1e-23 notices.
ABOVE_ZERO = 2.0**-100


def gated(ct: ir.Value, primal: ir.Value) -> bool:
    """Whether a cotangent is zero wherever the rectified primal holds it back."""
    return any(v is primal for v in ct.meta.get(GATED, ()))


def mark(ct: ir.Value, primals: list[ir.Value]) -> ir.Value:
    """Say so of a cotangent of all the primals."""
    ct.meta[GATED] = tuple(primals)
    return ct


def ceiling(value: ir.Value) -> float | None:
    """The upper bound of a tensor that a rectifier made, or several of one bound; None: of others.

    Infinite for Relu, 6 for ReLU6.
    """
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    op = Op(node, ())
    if node.op_type == "Relu":
        return float("inf")
    if node.op_type == "Clip" and rectifier.is_rectifier(op):
        high = op.const(2)
        if op.input(2) is None:
            return float("inf")
        return None if high is None else float(high.reshape(()))
    if node.op_type == "Concat" and op.attr("axis") in (1, -3):
        found = {ceiling(v) for v in node.inputs if v is not None}
        return found.pop() if len(found) == 1 else None
    return None


def max_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The portable rule's numbers. ct: [N,C,P,Q] -> [N,C,H,W]."""
    win = pool_window(op)
    if len(op.node.outputs) > 1 or op.x.dtype != ir.DataType.FLOAT:
        return indices.max_pool(e, op, ct)
    unpooled = _unpooled(e, op, ct, win)
    if unpooled is not None:
        return (unpooled,)
    if _held_by(op, win):
        return (_scattered(e, op, ct, win),)
    return indices.max_pool(e, op, ct)


def max_pool_gated(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The same, for rules that hold back what the rectifier before the pool held back."""
    high = ceiling(op.x)
    if high is not None and blocked(op.y) and op.x.dtype == ir.DataType.FLOAT:
        held = gate(e, ct, op.y, high)
        if held is not None:
            (found,) = max_pool(e, op, held)
            assert found is not None
            return (mark(found, [op.x]),)
    return max_pool(e, op, ct)


def _held_by(op: Op, win: Window) -> bool:
    """Whether the layout can tell where maxima lie: a 2-D pool of known size over what is >= 0."""
    known = len(win.kernel) == 2 and sized(op.x) and sized(op.y)
    plane = max(prod(max(1, d or 0) for d in op.dims(v)[2:]) for v in (op.x, op.y))
    # Each position of the window is a few nodes.
    few = prod(win.kernel) <= MOST_OFFSETS
    return known and few and plane < FAR and ceiling(op.x) is not None and win.kernel != (1, 1)


def _scattered(e: Emitter, op: Op, ct: ir.Value, win: Window) -> ir.Value:
    _, channels, height, width = (int(d or 0) for d in op.dims())
    _, _, rows, columns = (int(d or 0) for d in op.dims(op.y))
    where = e.Reshape(_places(e, op, win), [0, channels, rows * columns])
    given = e.Reshape(ct, [0, channels, rows * columns])
    planes = [e.Shape(op.x, start=0, end=1), e.const([channels, height * width])]
    zeros = e.Expand(e.const(0, ct.dtype), e.op("Concat", planes, axis=0)[0], _dtype=ct.dtype)
    got = e.ScatterElements(zeros, where, given, axis=2, reduction="add", _dtype=ct.dtype)
    return op.like(e, got)


def _places(e: Emitter, op: Op, win: Window) -> ir.Value:
    """Where in its plane each window's first maximum lies: int64 [N, C, P, Q]."""
    width = op.dims()[3] or 0
    x, y = op.x, op.y
    if any(win.begins):
        # A window may begin outside, where the convolutions below hold 0: no match, then.
        x, y = (depthwise(e, v, 1.0, ABOVE_ZERO) for v in (x, y))
    taps = list(product(range(win.kernel[0]), range(win.kernel[1])))
    lines = [i * win.dilations[0] * width + j * win.dilations[1] for i, j in taps]
    # From the last offset backwards: how far behind this offset is the first match from it on?
    ahead: ir.Value | None = None
    for at in reversed(range(len(taps) - 1)):
        missed = _missed(e, x, y, win, taps[at])
        step = float(lines[at + 1] - lines[at])
        if ahead is None:
            ahead = depthwise(e, missed, step)
        else:
            kept = depthwise(e, missed, FAR, step - FAR)
            ahead = e.Relu(e.Add(kept, ahead, _shape=y.shape), _shape=y.shape)
    assert ahead is not None
    first = [
        np.arange(int(n or 0)) * s - b
        for n, s, b in zip(op.dims(op.y)[2:], win.strides, win.begins, strict=True)
    ]
    start = (first[0][:, None] * width + first[1]).astype(np.float32)
    found = e.Cast(e.Add(ahead, e.const(start), _shape=y.shape), to=int(ir.DataType.INT64))
    # What is not finite is nowhere: it must not lead out of its plane.
    height = op.dims()[2] or 0
    return e.Min(e.Max(found, 0, _shape=y.shape), height * width - 1, _shape=y.shape)


def _missed(e: Emitter, x: ir.Value, y: ir.Value, win: Window, tap: tuple[int, int]) -> ir.Value:
    """0 where the windows hold their maximum at this place of the kernel, 1 where they don't.

    A difference of floats is 0 only for equal ones; 2^126 lifts all others above 1.
    """
    assert x.shape is not None and y.shape is not None
    axes = [
        _sampling(int(x.shape[2 + i]), int(y.shape[2 + i]), win, i, tap[i])  # type: ignore[arg-type]
        for i in (0, 1)
    ]
    channels = channels_of(x)
    w = np.zeros((channels, 1, axes[0].kernel, axes[1].kernel), np.float32)
    w[:, 0, axes[0].tap, axes[1].tap] = -1
    held = e.Conv(
        x,
        e.const(w),
        group=channels,
        kernel_shape=[a.kernel for a in axes],
        strides=list(win.strides),
        dilations=[a.dilation for a in axes],
        pads=[*win.begins, *(a.end for a in axes)],
        _shape=y.shape,
    )
    away = e.Add(held, y, _shape=y.shape)
    return e.HardSigmoid(away, alpha=2.0**126, beta=0.0, _shape=y.shape)


class _Sampling(NamedTuple):
    """One axis of a convolution that picks a single tap of each window."""

    kernel: int
    dilation: int
    tap: int
    end: int


def _sampling(size: int, out: int, win: Window, axis: int, tap: int) -> _Sampling:
    """The smallest such kernel whose output is as long as the pool's."""
    offset = tap * win.dilations[axis]
    stride, last = win.strides[axis], (out - 1) * win.strides[axis] - win.begins[axis]
    whole = _Sampling(win.kernel[axis], win.dilations[axis], tap, 0)
    small = [_Sampling(1, 1, 0, 0)] if offset == 0 else [_Sampling(2, offset, 1, 0)]
    if offset == 0 and size - last > 1:
        small.append(_Sampling(2, size - last - 1, 0, 0))
    for kernel in (*small, whole):
        # What lies behind the last window of this kernel; outside the input: pads.
        left = size - last - ((kernel.kernel - 1) * kernel.dilation + 1)
        if left < stride:
            return kernel._replace(end=max(-left, 0))
    raise AssertionError("the pool's own kernel fits")


def _unpooled(e: Emitter, op: Op, ct: ir.Value, win: Window) -> ir.Value | None:
    """Where windows don't overlap, MaxUnpool is a scatter in half the time.

    It overwrites where a scatter adds: no good for windows that overlap. None there.
    """
    apart = all(k <= s for k, s in zip(win.reach, win.strides, strict=True))
    # The runtime refuses other sizes of its output.
    if not apart or any((*win.begins, *win.ends)) or op.attr("ceil_mode", 0):
        return None
    attributes = {a.name: a.value for a in op.node.attributes.values() if a.name != "storage_order"}
    where = e.op("MaxPool", [op.x], _outputs=2, **attributes)[1]
    where.dtype, where.shape = ir.DataType.INT64, op.y.shape
    return e.MaxUnpool(
        ct,
        indices.within(e, op, where),
        e.Shape(op.x),
        kernel_shape=list(win.kernel),
        strides=list(win.strides),
        _shape=op.x.shape,
    )
