"""GridSample and AffineGrid: what is read at places that a tensor names, and how it changes there.

Places are handled axis by axis: `_Axis` gives the neighbours that a place reads, with weights and
the weights' slopes. A sample is the product over the axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from ..emit import HALVES
from . import Cotangents, Emitter, Op, vjp
from .shape import INT64, Amount, size_of, vector, zeros_like

FLOAT = ir.DataType.FLOAT
_MODES = {"bilinear": "linear", "bicubic": "cubic"}  # as version 16 names them
# Keys' coefficient: the standard's, ONNX Runtime's and PyTorch's.
_A = -0.75


@dataclass(frozen=True)
class _Axis:
    """Along one axis, of the P places of each image: the indices of the neighbours that each
    reads, int64 [N, K, P], their weights, and these weights' slopes by the grid."""

    index: ir.Value
    weight: ir.Value
    slope: ir.Value


@vjp("AffineGrid", 20)
def affine_grid(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """theta: [N,r,r+1], size -> [N,O1,...,Or,r]: each place (x, y, 1) by theta. By theta: the sum
    over places of the cotangent times (x, y, 1), which are what the identity gives."""
    rank, theta = op.dims()[1], op.x
    if rank is None or theta.dtype is None:
        raise op.unsupported("a theta of unknown size", "[N,2,3] or [N,3,4]")
    one = e.Concat(np.array([1]), e.Slice(op.need(1), [1], [rank + 2], [0]), axis=0, _dtype=INT64)
    eye = e.const(np.eye(rank, rank + 1)[None], theta.dtype)
    aligned = op.attr("align_corners", 0)
    places = e.Reshape(e.op("AffineGrid", [eye, one], align_corners=aligned)[0], [-1, rank])
    turned = e.Transpose(e.Reshape(ct, [0, -1, rank]), perm=[0, 2, 1])  # [N, r, P]
    shift = e.ReduceSum(turned, [2], keepdims=1)
    return e.Concat(e.MatMul(turned, places), shift, axis=2, _shape=theta.shape), None


@vjp("GridSample", 16, 20, 22)
def grid_sample(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """X: [N,C,D1,...,Dr], grid: [N,O1,...,Or,r], the last axis' place first -> [N,C,O1,...,Or].

    By X: each neighbour gets its weight's part. By grid: the neighbours' values by the slopes of
    their weights, as PyTorch has it: 0 where a border holds a place back, the slope to the right
    on a pixel. nearest has none. Raises UnsupportedNode for modes that the standard doesn't name.
    """
    mode = str(op.attr("mode", "linear"))
    mode = _MODES.get(mode, mode)
    padding = str(op.attr("padding_mode", "zeros"))
    if mode not in ("linear", "nearest", "cubic"):
        raise op.unsupported(f"mode = {mode}", "linear, nearest, cubic")
    if padding not in ("zeros", "border", "reflection"):
        raise op.unsupported(f"padding_mode = {padding}", "zeros, border, reflection")
    rank, grid, dtype = op.rank() - 2, op.need(1), ct.dtype
    with e.in_float32():
        places = e.cast(grid, FLOAT if grid.dtype in HALVES else grid.dtype)
        places = e.Reshape(places, [0, -1, rank])
        axes = [
            _axis(e, op, e.Gather(places, rank - 1 - i, axis=2), i, mode, padding)
            for i in range(rank)
        ]
        index = _crossed(e, axes, [a.index for a in axes], _strides(e, op))
        weight = _crossed(e, axes, [a.weight for a in axes])
        wide = e.Unsqueeze(e.Reshape(e.cast(ct, places.dtype), [0, 0, -1]), [2])  # [N, C, 1, P]
        flat = e.Unsqueeze(e.Reshape(index, [0, -1]), [1])
        everywhere = e.Expand(flat, vector(e, [1, size_of(e, op.x, 1), 1]), _dtype=INT64)
        values = e.cast(e.Reshape(op.x, [0, 0, -1]), places.dtype)
        d_x = d_grid = None
        if op.wants[0]:
            parts = e.Reshape(e.Mul(wide, e.Unsqueeze(weight, [1])), [0, 0, -1])
            line = e.ScatterElements(
                zeros_like(e, values), everywhere, parts, axis=2, reduction="add"
            )
            d_x = op.like(e, e.cast(line, dtype))
        if op.wants[1]:
            if mode == "nearest":
                return d_x, zeros_like(e, grid)
            read = e.GatherElements(values, everywhere, axis=2)
            read = e.Reshape(read, vector(e, [0, 0, _taps(mode) ** rank, -1]))
            along = e.ReduceSum(e.Mul(read, wide), [1], keepdims=0)  # [N, K, P]
            found = []
            for i in reversed(range(rank)):
                turned = [a.slope if j == i else a.weight for j, a in enumerate(axes)]
                moved = e.ReduceSum(e.Mul(along, _crossed(e, axes, turned)), [1], keepdims=0)
                found.append(e.Unsqueeze(moved, [2]))
            line = e.op("Concat", found, axis=2)[0]
            d_grid = op.like(e, e.cast(line, grid.dtype), grid)
    return d_x, d_grid


def _taps(mode: str) -> int:
    return {"nearest": 1, "linear": 2, "cubic": 4}[mode]


def _strides(e: Emitter, op: Op) -> list[Amount]:
    """How far apart neighbours along each axis lie in an image's channel."""
    strides: list[Amount] = [1]
    for axis in range(op.rank() - 1, 2, -1):
        size, last = size_of(e, op.x, axis), strides[0]
        if isinstance(size, int) and isinstance(last, int):
            strides.insert(0, size * last)
        else:
            strides.insert(0, e.Mul(*(vector(e, [amount]) for amount in (size, last))))
    return strides


def _crossed(
    e: Emitter, axes: list[_Axis], parts: list[ir.Value], strides: list[Amount] | None = None
) -> ir.Value:
    """[N, K_i, P] of each axis -> [N, K, P] of all their neighbours: the products, or with
    strides the sums of so many times each."""
    placed = []
    for i, part in enumerate(parts):
        if strides is not None and strides[i] != 1:
            part = e.Mul(part, strides[i])
        others = [1 + j for j in range(len(axes)) if j != i]
        placed.append(e.Unsqueeze(part, others) if others else part)
    whole = reduce(e.Mul if strides is None else e.Add, placed)
    if len(axes) == 1:
        return whole
    count = vector(e, [e.Shape(whole, start=0, end=1), -1, e.Shape(whole, start=-1)])
    return e.Reshape(whole, count)


def _axis(e: Emitter, op: Op, at: ir.Value, axis: int, mode: str, padding: str) -> _Axis:
    """at: places along a spatial axis, -1 to 1, [N, P]."""
    align = bool(op.attr("align_corners", 0))
    amount = size_of(e, op.x, axis + 2)
    size = e.cast(vector(e, [amount]), at.dtype)
    last = e.Sub(size, 1.0)
    per_unit = e.Mul(last if align else size, 0.5)
    x = e.Mul(e.Add(at, 1.0), per_unit)
    if not align:
        x = e.Sub(x, 0.5)
    # What the place moves by as the grid does.
    pace = e.Expand(per_unit, e.Shape(x))
    if mode != "cubic" and padding != "zeros":
        if padding == "reflection":
            x, sign = _reflected(e, x, last, align)
            pace = e.Mul(pace, sign)
        free = e.And(e.Greater(x, 0.0), e.Less(x, last))
        pace = e.Where(free, pace, 0.0, _dtype=at.dtype)
        x = e.Min(e.Max(x, 0.0), last)
    low = e.Round(x) if mode == "nearest" else e.Floor(x)
    t = e.Unsqueeze(e.Sub(x, low), [1])
    steps = np.arange(_taps(mode)) - (1 if mode == "cubic" else 0)
    offsets = e.const(steps.astype(np.float64)[:, None], at.dtype)
    near = e.Add(e.Unsqueeze(low, [1]), offsets)  # [N, K, P]
    weight, slope = _weights(e, t, offsets, mode)
    slope = e.Mul(slope, e.Unsqueeze(pace, [1]))
    if padding == "zeros":
        inside = e.And(e.GreaterOrEqual(near, 0.0), e.LessOrEqual(near, last))
        weight = e.Where(inside, weight, 0.0, _dtype=at.dtype)
        slope = e.Where(inside, slope, 0.0, _dtype=at.dtype)
    elif padding == "reflection" and mode == "cubic":
        near, _ = _reflected(e, near, last, align)
    index = e.cast(e.Min(e.Max(near, 0.0), last), INT64)
    return _Axis(index, weight, slope)


def _weights(e: Emitter, t: ir.Value, offsets: ir.Value, mode: str) -> tuple[ir.Value, ir.Value]:
    """The weights of the neighbours at these offsets, for a place t beyond the one at 0, and
    their slopes by t."""
    if mode == "nearest":
        one = e.Add(e.Mul(t, 0.0), 1.0)
        return one, e.Mul(t, 0.0)
    signed = e.Sub(t, offsets)
    if mode == "linear":
        away = e.Where(e.Equal(offsets, 0.0), -1.0, 1.0, _dtype=t.dtype)
        return e.Sub(1.0, e.Abs(signed)), e.Add(e.Mul(t, 0.0), away)
    d = e.Abs(signed)
    inner = e.Add(e.Mul(e.Mul(e.Sub(e.Mul(d, _A + 2), _A + 3), d), d), 1.0)
    outer = e.Sub(e.Mul(e.Add(e.Mul(e.Sub(e.Mul(d, _A), 5 * _A), d), 8 * _A), d), 4 * _A)
    d_inner = e.Mul(e.Sub(e.Mul(d, 3 * (_A + 2)), 2 * (_A + 3)), d)
    d_outer = e.Add(e.Mul(e.Sub(e.Mul(d, 3 * _A), 10 * _A), d), 8 * _A)
    close = e.LessOrEqual(d, 1.0)
    slope = e.Mul(e.Where(close, d_inner, d_outer, _dtype=t.dtype), e.Sign(signed))
    return e.Where(close, inner, outer, _dtype=t.dtype), slope


def _reflected(e: Emitter, x: ir.Value, last: ir.Value, align: bool) -> tuple[ir.Value, ir.Value]:
    """Places thrown back at the borders until they are inside, and the sign that this leaves
    their motion with."""
    low = 0.0 if align else -0.5
    span = e.Max(last, 1.0) if align else e.Add(last, 1.0)
    far = e.Sub(x, low)
    t = e.Abs(far)
    turns = e.Floor(e.Div(t, span))
    rest = e.Sub(t, e.Mul(turns, span))
    even = e.Equal(e.Sub(turns, e.Mul(e.Floor(e.Mul(turns, 0.5)), 2.0)), 0.0)
    place = e.Add(e.Where(even, rest, e.Sub(span, rest), _dtype=x.dtype), low)
    turned = e.Xor(e.GreaterOrEqual(far, 0.0), even)
    return place, e.Where(turned, -1.0, 1.0, _dtype=x.dtype)


# Numbers that are written into the graph; more are made in the run.
MOST_BLOCK = 1 << 16


@vjp("Col2Im", 18)
def col2im(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Blocks are added up into an image; each gets back what lies under it.

    [N, C k1 k2, L1 L2] -> [N, C, H, W]; any number of axes. Raises UnsupportedNode for a block's
    size that the run computes. ONNX Operators, Col2Im.
    """
    block = [int(k) for k in op.need_const(2, "block_shape")]
    n = len(block)
    strides, hops = op.attr("strides", (1,) * n), op.attr("dilations", (1,) * n)
    pads = op.attr("pads", (0,) * (2 * n))
    if any(pads):
        ct = e.Pad(ct, e.const([0, 0, *pads[:n], 0, 0, *pads[n:]]))
    image = op.dims(op.y)[2:]
    if max(block, default=0) > MOST_BLOCK:
        raise op.unsupported(f"a block of {block}", f"{MOST_BLOCK} at most")
    for i in reversed(range(n)):
        reach = (block[i] - 1) * hops[i] + 1
        size = image[i]
        offsets = e.const((np.arange(block[i]) * hops[i])[:, None])
        if size is not None:
            count = (size + pads[i] + pads[i + n] - reach) // strides[i] + 1
            starts = (
                e.const(np.arange(count) * strides[i])
                if count <= MOST_BLOCK
                else e.op("Range", [0, count * strides[i], strides[i]], _dtype=INT64)[0]
            )
        else:
            length = e.Squeeze(e.Shape(ct, start=2 + i, end=3 + i), [0])
            end = e.Add(e.Sub(length, reach), 1)
            starts = e.op("Range", [0, end, strides[i]], _dtype=INT64)[0]
        ct = e.Gather(ct, e.Add(offsets, starts), axis=2 + i)
    # [N, C, k1, L1, k2, L2 ...]
    order = [0, 1, *range(2, 2 + 2 * n, 2), *range(3, 3 + 2 * n, 2)]
    return op.like(e, e.Transpose(ct, perm=order)), None, None
