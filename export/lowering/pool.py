"""MaxPool's gradient without indices, for runtimes whose MaxPool gives none (TensorRT, OpenVINO).

What the windows hold at one offset is a strided slice of the input. Where it equals the pooled
output, the cotangent is delivered and leaves: of equal maxima the first in row-major order gets
it. Offsets that differ by whole strides then add up, shifted; the others interleave.
"""

from __future__ import annotations

from itertools import product
from math import prod

import onnx_ir as ir

from ..emit import Emitter
from ..rules import Cotangents, Op, Rule, registry
from ..rules.conv import Window, fitted, sizes_of
from ..rules.pool import pool_window

INT64 = ir.DataType.INT64
Offset = tuple[int, ...]

# Positions of a window: a pool over a whole map of 64 x 64 has as many.
MOST_OFFSETS = 4096


def max_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The portable rule's numbers, bit for bit. ct: [N,C,P,...] -> [N,C,H,...].

    A window with NaN passes nothing on. Raises UnsupportedNode as the portable rule does.
    """
    win = pool_window(op)
    if prod(win.kernel) > MOST_OFFSETS:
        raise op.unsupported(
            f"a window of {prod(win.kernel)} positions, each of which is a few nodes",
            f"{MOST_OFFSETS} positions at most, or --for portable",
        )
    delivered: dict[Offset, ir.Value] = {}
    left = ct
    for offset, held in _held(e, op, win).items():
        hit = e.Equal(held, op.y)
        delivered[offset] = e.Where(hit, left, 0.0, _shape=op.y.shape)
        left = e.Where(hit, 0.0, left, _shape=op.y.shape)
    return (_put_back(e, op, win, delivered),)


def _held(e: Emitter, op: Op, win: Window) -> dict[Offset, ir.Value]:
    """What all windows hold at each offset, in the pooled shape; offsets in row-major order."""
    n, x, outs = len(win.kernel), op.x, sizes_of(op.y)
    assert x.dtype is not None
    # In ceil_mode the last window may reach beyond the pads, by less than a stride.
    over = [s - 1 if op.attr("ceil_mode", 0) else 0 for s in win.strides]
    ends = [end + more for end, more in zip(win.ends, over, strict=True)]
    if any(win.begins) or any(ends):
        lowest = e.const(float(x.dtype.min), x.dtype)
        x = e.Pad(x, e.const([0, 0, *win.begins, 0, 0, *ends]), lowest)
    # One past where the last window starts.
    stop: list[int] | ir.Value = [
        ((p or 1) - 1) * s + 1 for p, s in zip(outs, win.strides, strict=True)
    ]
    if None in outs:
        stop = e.Add(e.Mul(e.Sub(e.Shape(op.y, start=2), 1), list(win.strides)), 1)
    found = {}
    for offset in product(*(range(0, r, d) for r, d in zip(win.reach, win.dilations, strict=True))):
        if isinstance(stop, ir.Value):
            until: list[int] | ir.Value = e.Add(stop, list(offset))
        else:
            until = [a + b for a, b in zip(stop, offset, strict=True)]
        axes, steps = list(range(2, 2 + n)), list(win.strides)
        found[offset] = e.Slice(x, list(offset), until, axes, steps, _shape=op.y.shape)
    return found


def _put_back(e: Emitter, op: Op, win: Window, delivered: dict[Offset, ir.Value]) -> ir.Value:
    """The sum of what was delivered at each offset, each at its place in the input."""
    # Behind the last window's first stride: as many strides as cover the input.
    behind = [-(-(r - 1) // s) for r, s in zip(win.reach, win.strides, strict=True)]
    sizes, outs = sizes_of(op.x), sizes_of(op.y)
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
    return result if whole else fitted(e, result, list(win.begins), op.x)


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


RULES: dict[str, Rule] = {"MaxPool": Rule("MaxPool", registry()["MaxPool"].versions, max_pool)}
