"""MaxPool's gradient, without MaxPool's Indices: most runtimes have none, or wrong ones.

What the windows hold at one offset is a strided slice of the input. Where it equals the pooled
output, the cotangent is delivered and leaves: of equal maxima the first in row-major order gets
it. Offsets that differ by whole strides then add up, shifted; the others interleave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod

import onnx_ir as ir

from ..emit import all_dims, dim_of
from . import Cotangents, Emitter, Op, vjp
from .conv import fitted
from .pool import any_window
from .window import Window, pads_of_run, sizes_of

INT64 = ir.DataType.INT64
Offset = tuple[int, ...]

# Positions of a window: a pool over a whole map of 64 x 64 has as many.
MOST_OFFSETS = 4096


# Windows of more positions are taken axis by axis: 13 + 13 offsets instead of 169.
MANY = 25
# What lies between windows is put together of as many zeros.
MANY_PHASES = 1 << 16


@vjp("MaxPool", 12, 22)
def max_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """To the first maximum of each window in row-major order. ct: [N,C,P,...] -> [N,C,H,...].

    A window whose maximum is NaN passes nothing on.
    """
    win = any_window(op)
    if max(win.kernel) > MOST_OFFSETS:
        raise op.unsupported(
            f"a window of {list(win.kernel)}, each position of which is a few nodes",
            f"{MOST_OFFSETS} positions an axis at most",
        )
    if prod(win.strides) > MANY_PHASES:
        raise op.unsupported(
            f"strides of {list(win.strides)}", f"{MANY_PHASES} positions between windows at most"
        )
    if not win.auto:
        return (_gradient(e, op.x, op.y, ct, win, bool(op.attr("ceil_mode", 0))),)
    # Only the run knows the pads: they are put around x first, and taken off what comes back.
    before, after = pads_of_run(e, win, op.x, op.y)
    assert op.x.dtype is not None and op.x.shape is not None
    none = e.const([0, 0])
    pads = e.op("Concat", [none, before, none, after], axis=0, _dtype=INT64)[0]
    lowest = e.const(float(op.x.dtype.min), op.x.dtype)
    n = len(win.kernel)
    shape = [dim_of(op.x.shape, 0), dim_of(op.x.shape, 1), *[None] * n]
    large = e.Pad(op.x, pads, lowest, _shape=shape)
    bare = replace(win, begins=(0,) * n, ends=(0,) * n, auto="")
    found = _gradient(e, large, op.y, ct, bare, False)
    end = e.Add(before, e.Shape(op.x, start=2))
    return (e.Slice(found, before, end, list(range(2, 2 + n)), _shape=op.x.shape),)


def _gradient(
    e: Emitter, x: ir.Value, y: ir.Value, ct: ir.Value, win: Window, ceil: bool
) -> ir.Value:
    """The gradient of y, the maxima of the windows of x."""
    wide = [i for i in win.axes if win.kernel[i] > 1]
    if len(wide) > 1 and prod(win.kernel) > MANY:
        lines, rest = _along(win, wide[-1], True), _along(win, wide[-1], False)
        z = _maxima(e, x, y, lines, wide[-1], ceil)
        return _gradient(e, x, z, _gradient(e, z, y, ct, rest, ceil), lines, ceil)
    delivered: dict[Offset, ir.Value] = {}
    left = ct
    for offset, held in _held(e, x, y, win, ceil).items():
        hit = e.Equal(held, y)
        delivered[offset] = e.Where(hit, left, 0.0, _shape=y.shape)
        left = e.Where(hit, 0.0, left, _shape=y.shape)
    return _put_back(e, x, y, win, delivered)


def _along(win: Window, axis: int, inside: bool) -> Window:
    """The window of one axis alone, or of all the others."""

    def kept(values: Offset, neutral: int) -> Offset:
        return tuple(v if (i == axis) == inside else neutral for i, v in enumerate(values))

    return Window(
        kept(win.kernel, 1),
        kept(win.strides, 1),
        kept(win.dilations, 1),
        kept(win.begins, 0),
        kept(win.ends, 0),
    )


def _maxima(e: Emitter, x: ir.Value, y: ir.Value, win: Window, axis: int, ceil: bool) -> ir.Value:
    """What the windows of one axis hold at most: as long as y there, as x elsewhere."""
    assert x.shape is not None and y.shape is not None
    shape = all_dims(x.shape)
    shape[2 + axis] = dim_of(y.shape, 2 + axis)
    # By hand: ONNX's evaluator fails at pads of one axis alone.
    return e.MaxPool(
        _padded(e, x, win.begins, win.ends),
        kernel_shape=list(win.kernel),
        strides=list(win.strides),
        dilations=list(win.dilations) if any(d > 1 for d in win.dilations) else None,
        ceil_mode=1 if ceil else None,
        _shape=shape,
    )


def _padded(e: Emitter, x: ir.Value, begins: Sequence[int], ends: Sequence[int]) -> ir.Value:
    """x with the lowest number around it."""
    if not any(begins) and not any(ends):
        return x
    assert x.dtype is not None
    lowest = e.const(float(x.dtype.min), x.dtype)
    return e.Pad(x, e.const([0, 0, *begins, 0, 0, *ends]), lowest)


def _held(e: Emitter, x: ir.Value, y: ir.Value, win: Window, ceil: bool) -> dict[Offset, ir.Value]:
    """What all windows hold at each offset, in the pooled shape; offsets in row-major order."""
    n, outs = len(win.kernel), sizes_of(y)
    # In ceil_mode the last window may reach beyond the pads, by less than a stride.
    ends = [end + (s - 1 if ceil else 0) for end, s in zip(win.ends, win.strides, strict=True)]
    x = _padded(e, x, win.begins, ends)
    # One past where the last window starts.
    stop: list[int] | ir.Value = [
        ((p or 1) - 1) * s + 1 for p, s in zip(outs, win.strides, strict=True)
    ]
    if None in outs:
        stop = e.Add(e.Mul(e.Sub(e.Shape(y, start=2), 1), list(win.strides)), 1)
    found = {}
    for offset in product(*(range(0, r, d) for r, d in zip(win.reach, win.dilations, strict=True))):
        if isinstance(stop, ir.Value):
            until: list[int] | ir.Value = e.Add(stop, list(offset))
        else:
            until = [a + b for a, b in zip(stop, offset, strict=True)]
        axes, steps = list(range(2, 2 + n)), list(win.strides)
        found[offset] = e.Slice(x, list(offset), until, axes, steps, _shape=y.shape)
    return found


def _put_back(
    e: Emitter, x: ir.Value, y: ir.Value, win: Window, delivered: dict[Offset, ir.Value]
) -> ir.Value:
    """The sum of what was delivered at each offset, each at its place in the input."""
    # Behind the last window's first stride: as many strides as cover the input.
    behind = [-(-(r - 1) // s) for r, s in zip(win.reach, win.strides, strict=True)]
    sizes, outs = sizes_of(x), sizes_of(y)
    whole = True
    for i, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        stride, begin = win.strides[i], win.begins[i]
        if size is None or out is None:
            whole = False
            continue
        behind[i] = max((win.reach[i] - 1) // stride, -(-(begin + size) // stride) - out)
        whole = whole and begin == 0 and (out + behind[i]) * stride == size
    phases: dict[Offset, ir.Value] = {}
    # Backwards: an input position then adds its windows in their row-major order, as a scatter.
    for offset, part in reversed(delivered.items()):
        shift = [o // s for o, s in zip(offset, win.strides, strict=True)]
        after = [b - f for b, f in zip(behind, shift, strict=True)]
        if any(behind):
            part = e.Pad(part, e.const([0, 0, *shift, 0, 0, *after]))
        phase = tuple(o % s for o, s in zip(offset, win.strides, strict=True))
        phases[phase] = e.Add(phases[phase], part) if phase in phases else part
    result = _interleaved(e, phases, win.strides)
    return result if whole else fitted(e, result, list(win.begins), x)


def _interleaved(e: Emitter, phases: dict[Offset, ir.Value], strides: Offset) -> ir.Value:
    """Position p of phase f goes to p stride + f; phases that are not there are 0."""
    n, first = len(strides), next(iter(phases.values()))
    if all(s == 1 for s in strides):
        return first
    assert first.dtype is not None
    order = list(product(*map(range, strides)))
    if len(phases) < len(order):  # strides beyond the kernel
        zeros = e.Expand(e.const(0, first.dtype), e.Shape(first), _dtype=first.dtype)
        phases = {**dict.fromkeys(order, zeros), **phases}
    stacked = e.op("Concat", [phases[f] for f in order], axis=1)[0]
    if n == 2 and strides[0] == strides[1]:
        return e.DepthToSpace(stacked, blocksize=strides[0], mode="DCR")
    # [N, strides C, P...] -> [N, strides, C, P...] -> [N, C, P, stride, ...] -> [N, C, P stride...]
    apart = [e.const([0, *strides]), e.Shape(first, start=1)]
    split = e.Reshape(stacked, e.op("Concat", apart, axis=0, _dtype=INT64)[0])
    turned = e.Transpose(split, perm=[0, n + 1, *(a for i in range(n) for a in (n + 2 + i, 1 + i))])
    together = [e.const([0, 0]), e.Mul(e.Shape(first, start=2), list(strides))]
    return e.Reshape(turned, e.op("Concat", together, axis=0, _dtype=INT64)[0])
