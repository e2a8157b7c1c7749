"""Operators that cut a window out of a tensor or put a border around it, without a scatter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from ..emit import all_dims, dim_of
from . import Cotangents, Emitter, Op, vjp
from .shape import INT64, Amount, minus, shape_of, size_of, vector, zeros_like

# Exporters write "to the end" as one of several large numbers.
OPEN = 2**31 - 1
LAST, FIRST = 2**63 - 1, -(2**63)

Spans = Mapping[int, tuple[Amount, Amount]]


def placed(e: Emitter, ct: ir.Value, spans: Spans, shape: ir.Shape) -> ir.Value:
    """`ct` with zeros around it, to a shape: per axis, how many before and how many after."""
    ends: list[list[Amount]] = [[0] * len(shape), [0] * len(shape)]
    for axis, (before, after) in spans.items():
        ends[0][axis], ends[1][axis] = before, after
    if all(amount == 0 for amount in ends[0] + ends[1]):
        return ct
    return e.Pad(ct, vector(e, ends[0] + ends[1]), _shape=shape)


def scatter_back(
    e: Emitter, op: Op, ct: ir.Value, pick: Callable[[ir.Value], ir.Value], repeats: bool = True
) -> ir.Value:
    """The adjoint of any operator that picks elements of its first input: `pick` is that
    operator, run on the elements' own numbers; it says where each element of `ct` belongs.

    repeats: an element may be picked twice. Costs an int64 tensor of the input's size.
    """
    x = op.x
    assert x.dtype is not None
    shape, size = shape_of(e, x), e.Size(x)
    numbers = e.Reshape(e.op("Range", [0, size, 1], _dtype=INT64)[0], shape)
    zeros = e.Expand(e.const(0, x.dtype), e.Reshape(size, [1]), _dtype=x.dtype)
    flat = e.ScatterElements(
        zeros,
        e.Reshape(pick(numbers), [-1]),
        e.Reshape(ct, [-1]),
        axis=0,
        reduction="add" if repeats else None,
    )
    return e.Reshape(flat, shape, _shape=x.shape)


@vjp("Slice", 13)
def slice_(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Zeros around the window, and between its elements for steps other than 1; a scatter where
    too little is known before the run."""
    d_x = _uncut(e, op, ct)
    if d_x is None:
        rest = op.node.inputs[1:]
        d_x = scatter_back(e, op, ct, lambda n: e.Slice(n, *rest, _dtype=INT64), repeats=False)
    return d_x, None, None, None, None


def _uncut(e: Emitter, op: Op, ct: ir.Value) -> ir.Value | None:
    """The adjoint of a Slice by padding; None where axes, steps or where it begins forbid it."""
    rank, dims = op.rank(), op.dims()
    starts, ends = op.const(1), op.const(2)
    length = op.dims(op.need(1))[0]
    axes = op.const(3) if op.input(3) is not None else np.arange(rank)[:length]
    steps = op.const(4) if op.input(4) is not None else np.ones(rank, np.int64)
    if axes is None or steps is None or length is None:
        return None
    given = [known for known in (starts, ends, axes) if known is not None]
    if op.input(4) is not None:
        given.append(steps)
    if {known.shape for known in given} != {(length,)}:
        raise op.unsupported(
            f"starts, ends, axes and steps of {[known.size for known in given]} numbers",
            "a number of each per axis",
        )
    spans: dict[int, tuple[Amount, Amount]] = {}
    strides: dict[int, tuple[int, int]] = {}
    flipped: list[int] = []
    for index, (a, k) in enumerate(zip(axes, steps, strict=False)):
        axis, step = int(a) % rank, int(k)
        if step == 0:
            raise op.unsupported("a step of 0", "other steps")
        size = dims[axis]
        start = None if starts is None else int(starts[index])
        end = None if ends is None else int(ends[index])
        if size is not None and start is not None and end is not None:
            window = _window(start, end, step, size)
            if not window:
                return zeros_like(e, op.x)
            if step < 0 and len(window) > 1:
                flipped.append(axis)
                window = window[::-1]
            if window.step == 1 or len(window) == 1:
                spans[axis] = (window[0], size - window[-1] - 1)
            else:
                strides[axis] = (window[0], window.step)
        elif step == 1:
            spans[axis] = _open_span(e, op, index, axis, start, end)
        elif step > 1 and start is not None and start >= 0:
            strides[axis] = (start, step)
        elif step == -1 and start in (-1, *_OPEN_ENDS) and end is not None and end <= -OPEN:
            flipped.append(axis)
        else:
            return None
    if flipped:
        n = len(flipped)
        ct = e.Slice(ct, [-1] * n, [FIRST] * n, flipped, [-1] * n, _shape=ct.shape)
    if strides:
        return _spread(e, op, ct, spans, strides)
    assert op.x.shape is not None
    return placed(e, ct, spans, op.x.shape)


_OPEN_ENDS = (OPEN, LAST)


def _window(start: int, end: int, step: int, size: int) -> range:
    """What Slice takes of an axis, by the standard's clamping."""
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def _open_span(
    e: Emitter, op: Op, index: int, axis: int, start: int | None, end: int | None
) -> tuple[Amount, Amount]:
    """How many elements a slice of step 1 leaves out at both ends of an axis, where its size,
    start or end are known at run time only. A start known to count from the front, and an end
    from the back, are taken to lie inside: the Pad is then constant."""
    before: Amount | None = start if start is not None and start >= 0 else None
    after: Amount | None = None
    if end is not None and (end < 0 or end >= OPEN):
        after = 0 if end >= OPEN else -end
    if before is not None and after is not None:
        return before, after
    size, taken = size_of(e, op.x, axis), size_of(e, op.y, axis)
    rest = minus(e, size, taken)
    if before is not None:
        return before, minus(e, rest, before)
    if after is not None:
        return minus(e, rest, after), after
    first = e.cast(e.Gather(op.need(1), [index], axis=0), INT64)
    length = [size] if isinstance(size, int) else size
    first = e.Where(e.Less(first, [0]), e.Add(first, length), first)
    first = e.Min(e.Max(first, [0]), length)
    return first, minus(e, rest, first)


def _spread(
    e: Emitter, op: Op, ct: ir.Value, spans: Spans, strides: Mapping[int, tuple[int, int]]
) -> ir.Value:
    """Zeros between, for steps above 1: n -> [n, 1] -> pad to [blocks, step] -> blocks x step."""
    before: list[Amount] = []
    after: list[Amount] = []
    merged: list[Amount] = []
    single: list[int] = []
    crop: dict[int, Amount] = {}
    for axis in range(op.rank()):
        size = size_of(e, op.x, axis)
        if axis not in strides:
            low, high = spans.get(axis, (0, 0))
            before.append(low)
            after.append(high)
            merged.append(size)
            continue
        first, step = strides[axis]
        block, offset = divmod(first, step)
        blocks: Amount
        whole: Amount
        if isinstance(size, int):
            blocks, whole = -(-size // step), -(-size // step) * step
        else:
            blocks = e.Div(e.Add(size, [step - 1]), [step])
            whole = e.Mul(blocks, [step])
        single.append(len(before) + 1)
        before += [block, offset]
        after += [minus(e, minus(e, blocks, size_of(e, op.y, axis)), block), step - 1 - offset]
        merged.append(whole)
        if whole != size:
            crop[axis] = size
    ct = e.Pad(e.Unsqueeze(ct, single), vector(e, before + after))
    if sum(not isinstance(m, int) for m in merged) == 1:
        merged = [m if isinstance(m, int) else -1 for m in merged]
    ct = e.Reshape(ct, vector(e, merged), _shape=None if crop else op.x.shape)
    if crop:
        sizes = vector(e, list(crop.values()))
        ct = e.Slice(ct, [0] * len(crop), sizes, list(crop), _shape=op.x.shape)
    return ct


@vjp("Pad", 18, 19, 21, 23, 24, 25)
def pad(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """constant: the window back. edge, reflect, wrap: the borders are added to what they copy."""
    mode, rank = str(op.attr("mode", "constant")), op.rank()
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise op.unsupported(f"mode = {mode}", "constant, edge, reflect, wrap")
    spans = _pads(op, rank)
    if mode == "constant":
        if spans is None:
            d_x = e.Pad(ct, e.Neg(op.need(1)), None, op.input(3), _shape=op.x.shape)
        else:
            d_x = _cut(e, op, ct, spans)
        return d_x, None, _filling(e, op, ct, d_x), None
    if spans is not None and all(_once(op, mode, axis, *spans[axis]) for axis in spans):
        return _folded(e, op, ct, spans, mode), None, None, None
    pads, axes = op.need(1), op.input(3)
    d_x = scatter_back(e, op, ct, lambda n: e.Pad(n, pads, None, axes, mode=mode, _dtype=INT64))
    return d_x, None, None, None


def _pads(op: Op, rank: int) -> dict[int, tuple[int, int]] | None:
    """What Pad puts before and after each axis that it changes; None where the run decides."""
    known = op.const(1)
    axes = op.const(3) if op.input(3) is not None else np.arange(rank)
    if known is None or axes is None:
        return None
    n = len(axes)
    if known.shape != (2 * n,):
        raise op.unsupported(f"{known.size} pads for {n} axes", "two for each axis")
    pairs = zip(axes, known[:n], known[n:], strict=True)
    return {int(a) % rank: (int(low), int(high)) for a, low, high in pairs if low or high}


def _cut(e: Emitter, op: Op, ct: ir.Value, spans: Mapping[int, tuple[int, int]]) -> ir.Value:
    """The window that was padded; where Pad has cut instead (negative pads), zeros around it."""
    if not spans:
        return ct
    assert op.x.shape is not None
    if any(min(span) < 0 for span in spans.values()):
        return placed(e, ct, {a: (-low, -high) for a, (low, high) in spans.items()}, op.x.shape)
    starts = [low for low, _ in spans.values()]
    ends = [-high or LAST for _, high in spans.values()]
    return e.Slice(ct, starts, ends, list(spans), _shape=op.x.shape)


def _filling(e: Emitter, op: Op, ct: ir.Value, inside: ir.Value) -> ir.Value | None:
    """The cotangent of the constant that fills the border: all of `ct` but what is inside."""
    value = op.input(2)
    if value is None or not op.wants[2]:
        return None
    border = e.Sub(e.ReduceSum(ct, keepdims=0), e.ReduceSum(inside, keepdims=0))
    return e.Reshape(border, shape_of(e, value), _shape=value.shape)


def _once(op: Op, mode: str, axis: int, low: int, high: int) -> bool:
    """Whether each border copies a part of the input once over. On an axis of unknown size,
    reflect always does (runtimes refuse more), and wrap may go round and round."""
    size = op.dims()[axis]
    if min(low, high) < 0 or size == 0:
        return False
    if mode == "edge":
        return True
    if size is None:
        return mode == "reflect"
    return max(low, high) <= (size - 1 if mode == "reflect" else size)


def _folded(
    e: Emitter, op: Op, ct: ir.Value, spans: Mapping[int, tuple[int, int]], mode: str
) -> ir.Value:
    """Fold the borders of each axis onto what they copy. ct: like y; returns one like x."""
    assert op.x.shape is not None
    shape = ir.Shape([None] * op.rank()) if op.y.shape is None else op.y.shape
    dims = all_dims(shape)
    for axis, (low, high) in spans.items():
        size = size_of(e, op.x, axis)
        dims[axis] = dim_of(op.x.shape, axis)
        now = ir.Shape(dims)
        total = e.Slice(ct, [low], [-high or LAST], [axis], _shape=now)
        for front, length in ((True, low), (False, high)):
            if not length:
                continue
            bounds = ([0], [length]) if front else ([-length], [LAST])
            border = e.Slice(ct, *bounds, [axis])
            near, far = 0, length  # what lies between the copied part and the end near it
            if mode == "edge":
                border, far = e.ReduceSum(border, [axis], keepdims=1), 1
            elif mode == "reflect":
                border = e.Slice(border, [-1], [FIRST], [axis], [-1])
                near, far = 1, length + 1
            rest = minus(e, size, far)
            at_front = front == (mode != "wrap")
            span = (near, rest) if at_front else (rest, near)
            total = e.Add(total, placed(e, border, {axis: span}, now), _shape=now)
        ct = total
    return ct
