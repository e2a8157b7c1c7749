"""What ONNX Runtime's CPU provider does inside its blocked layout (NCHWc), as building blocks.

Its layout pass knows convolutions, pools, Add, Mul of equal shapes, Concat and nearest Resize; any
other operator costs a reorder out and one back. So comparisons are depthwise convolutions that
saturate, and positions are put apart by a Resize times a pattern of zeros and ones. All of it is
exact: products with powers of two, sums with zero. (An infinity gives NaN: 0 x inf. Where a
cotangent may be infinite, a gate leaves the layout and chooses.)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..emit import Emitter, dim_of, fits
from ..rules import rectifier
from .steep import steep_behind

# A power of two: products are exact. y * HUGE >= 1 for every y above 1e-30.
HUGE = 2.0**100
# Above every cotangent: what is taken from one to make it negative. 2^126 y >= BAR from 2^-78 on.
BAR = 2.0**48
# The runtime's blocks are of 8 or 16 channels; tensors of fewer stay outside anyway.
BLOCK = 8

Pair = tuple[int, int]


def blocked(value: ir.Value) -> bool:
    """Whether the runtime may keep a tensor in its blocked layout: float32 [N, C, H, W]."""
    if value.dtype != ir.DataType.FLOAT or value.shape is None or len(value.shape) != 4:
        return False
    channels = value.shape[1]
    # Masks are made with a weight per channel, whatever the file says there are.
    return isinstance(channels, int) and channels % BLOCK == 0 and fits(channels, BLOCK)


def sized(value: ir.Value) -> bool:
    """Whether a tensor is `blocked` and of a known height and width, of which patterns are made."""
    sizes = [d for d in list(value.shape or ())[2:] if isinstance(d, int)]
    return blocked(value) and len(sizes) == 2 and fits(*sizes, BLOCK)


def channels_of(x: ir.Value) -> int:
    """C of [N, C, H, W]."""
    assert x.shape is not None
    return int(x.shape[1])  # type: ignore[arg-type]


def resized(x: ir.Value, height: int, width: int, channels: int | None = None) -> ir.Shape:
    """The shape of x with other sizes."""
    assert x.shape is not None
    n = dim_of(x.shape, 0)
    return ir.Shape([n, channels_of(x) if channels is None else channels, height, width])


def depthwise(
    e: Emitter, x: ir.Value, weight: float, bias: float | None = None, *more: float
) -> ir.Value:
    """weight * x + bias as a depthwise 1x1 convolution; `more`: the bounds of a fused Clip."""
    channels = channels_of(x)
    w = e.const(np.full((channels, 1, 1, 1), weight, np.float32))
    b = None if bias is None else e.const(np.full((channels,), bias, np.float32))
    y = e.Conv(x, w, b, group=channels, _shape=x.shape)
    return e.Clip(y, *more, _shape=x.shape) if more else y


def above(e: Emitter, y: ir.Value) -> ir.Value:
    """[y > 0] as 0.0 or 1.0, for y >= 0."""
    return depthwise(e, y, HUGE, None, 0.0, 1.0)


def folded(e: Emitter, y: ir.Value, high: float) -> ir.Value:
    """0 becomes high, all else stays: for 0 <= y <= high, so that one bound tells what two did.

    y - t is y itself from 2^24 t on, and -t for 0, which a leaky rectifier of slope -high / t turns
    into high. The runtime fuses it into the convolution.
    """
    t = 2.0**-80
    return e.LeakyRelu(depthwise(e, y, 1.0, -t), alpha=-high / t, _shape=y.shape)


def _step(high: float) -> float:
    """A power of two that lifts the distance from high to the next float below it to 1."""
    mantissa, exponent = np.frexp(np.float32(high))
    return float(2.0 ** (24 + (mantissa == 0.5) - int(exponent)))


def between(e: Emitter, y: ir.Value, high: float) -> ir.Value:
    """[0 < y < high] as 0.0 or 1.0, for 0 <= y <= high."""
    step = _step(high)
    return depthwise(e, folded(e, y, high), -step, high * step, 0.0, 1.0)


def shut(e: Emitter, y: ir.Value, high: float) -> ir.Value:
    """0 where 0 < y < high, else -BAR; high may be infinite."""
    if high == float("inf"):
        return depthwise(e, y, 2.0**126, -BAR, -BAR, 0.0)
    step = _step(high) * BAR
    return depthwise(e, folded(e, y, high), -step, high * step - BAR, -BAR, 0.0)


def rectified(e: Emitter, ct: ir.Value, y: ir.Value, high: float) -> ir.Value | None:
    """max(ct, 0) where 0 < y < high, else 0, as max(ct + shut, 0); None where that gains nothing.

    Sum and rectifier are fused into the convolution that made ct: no product, no pass of its own.
    A convolution has one sum to give, but where ct is a sum of two, the other one has it.
    """
    made = ct.producer()
    if made is None or ct.uses() or not inside(high) or steep_behind(y):
        return None
    if made.op_type == "Conv":
        return e.Relu(e.Add(ct, shut(e, y, high), _shape=y.shape), _shape=y.shape)
    parts = [v for v in made.inputs if v is not None]
    alone = [len(v.uses()) == 1 and _made_by_conv(v) for v in parts]
    if made.op_type == "Add" and len(parts) == 2 and all(alone):
        first = e.Add(parts[0], shut(e, y, high), _shape=y.shape)
        return e.Relu(e.Add(first, parts[1], _shape=y.shape), _shape=y.shape)
    return None


def gate(e: Emitter, ct: ir.Value, y: ir.Value, high: float) -> ir.Value | None:
    """ct where 0 < y < high, else 0, in the layout; None for bounds that can't be told there."""
    if not inside(high):
        return None
    if steep_behind(y):
        mask = e.Greater(y, 0.0)
        if high != float("inf"):
            mask = e.And(mask, e.Less(y, high), _shape=y.shape)
        return rectifier.gate(e, ct, mask)
    mask = above(e, y) if high == float("inf") else between(e, y, high)
    return e.Mul(ct, mask, _shape=y.shape)


def inside(high: float) -> bool:
    """Whether a bound can be told in the layout."""
    return high == float("inf") or 2.0**-20 < high < 2.0**20


def _made_by_conv(value: ir.Value) -> bool:
    made = value.producer()
    return made is not None and made.op_type == "Conv"


def enter(e: Emitter, ct: ir.Value) -> ir.Value:
    """Bring a tensor into the blocked layout: what follows then stays there."""
    return depthwise(e, ct, 1.0)


def from_pattern(
    e: Emitter, pattern: NDArray[np.float32], like: ir.Value, channels: int
) -> ir.Value:
    """A constant pattern [H, W] in all rows and channels: [N, C, H, W], N as in `like`.

    A convolution makes it in every run, from a block of channels: as an initializer it would be as
    large as an activation, and for one batch size only.
    """
    height, width = pattern.shape
    size = e.const([BLOCK, height, width])
    batch = e.op("Concat", [e.Shape(like, start=0, end=1), size], axis=0)[0]
    block = np.zeros((1, BLOCK, height, width), np.float32)
    block[:, 0] = pattern
    source = e.Expand(e.const(block), batch, _shape=resized(like, height, width, BLOCK))
    w = np.zeros((channels, BLOCK, 1, 1), np.float32)
    w[:, 0] = 1
    return e.Conv(source, e.const(w), _shape=resized(like, height, width, channels))


def repeated(e: Emitter, x: ir.Value, times: Pair) -> ir.Value:
    """Each position as a block of so many rows and columns: a nearest Resize."""
    assert x.shape is not None
    if times == (1, 1):
        return x
    height, width = (int(x.shape[2 + i]) * times[i] for i in (0, 1))  # type: ignore[arg-type]
    return e.Resize(
        x,
        None,
        e.const(np.array([1, 1, *times], np.float32)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        _shape=resized(x, height, width),
    )


def put_apart(e: Emitter, x: ir.Value, strides: Pair) -> ir.Value:
    """Position p goes to p * strides, zeros between: [N,C,P,Q] -> [N,C,P s,Q s]."""
    wide = repeated(e, x, strides)
    if wide is x:
        return x
    assert wide.shape is not None
    height, width = (int(d) for d in list(wide.shape)[2:])  # type: ignore[arg-type]
    pattern = np.zeros((height, width), np.float32)
    pattern[:: strides[0], :: strides[1]] = 1
    return e.Mul(wide, from_pattern(e, pattern, x, channels_of(x)), _shape=wide.shape)
