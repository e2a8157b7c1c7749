"""For ONNX Runtime's CPU provider: keep the backward pass in its blocked layout (NCHWc).

Its layout pass knows convolutions, pools, Add, Mul of equal shapes, Concat and nearest Resize.
Greater, Where and Cast are not among them: each would cost a reorder out and one back. So a mask
is a depthwise 1x1 convolution that saturates, which the runtime fuses with its Clip; a cotangent
that starts outside enters through a depthwise identity, so that the residual Adds after it stay
inside; the global pool's gradient is a nearest Resize. What each brings is in
benchmarks/README.md.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..emit import Emitter
from ..rules import Cotangents, Op, Rule, rectifier, registry

# A power of two: products are exact. y * HUGE >= 1 for every y above 1e-30.
HUGE = 2.0**100
# The runtime's blocks are of 8 or 16 channels; tensors of fewer stay outside anyway.
BLOCK = 8


def blocked(value: ir.Value) -> bool:
    """Whether the runtime may keep a tensor in its blocked layout: float32 [N, C, H, W]."""
    if value.dtype != ir.DataType.FLOAT or value.shape is None or len(value.shape) != 4:
        return False
    channels = value.shape[1]
    return isinstance(channels, int) and channels % BLOCK == 0


def depthwise(
    e: Emitter, x: ir.Value, weight: float, bias: float | None = None, *more: float
) -> ir.Value:
    """weight * x + bias as a depthwise 1x1 convolution; `more`: the bounds of a fused Clip."""
    assert x.shape is not None
    channels = int(x.shape[1])  # type: ignore[arg-type]
    w = e.const(np.full((channels, 1, 1, 1), weight, np.float32))
    b = None if bias is None else e.const(np.full((channels,), bias, np.float32))
    y = e.Conv(x, w, b, group=channels, _shape=x.shape)
    return e.Clip(y, *more, _shape=x.shape) if more else y


def above(e: Emitter, y: ir.Value) -> ir.Value:
    """[y > 0] as 0.0 or 1.0, for y >= 0."""
    return depthwise(e, y, HUGE, None, 0.0, 1.0)


def below(e: Emitter, y: ir.Value, high: float) -> ir.Value:
    """[y < high] as 0.0 or 1.0, for y <= high: the last float below is further than 1/HUGE."""
    return depthwise(e, y, -HUGE, high * HUGE, 0.0, 1.0)


def relu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[h > 0] g."""
    if not blocked(op.y):
        return rectifier.relu(e, op, ct)
    return (e.Mul(ct, above(e, op.y), _shape=op.y.shape),)


def relu_guided(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[h > 0] max(g, 0): the runtime fuses the Relu into the convolution that made g."""
    if not blocked(op.y):
        return rectifier.relu_guided(e, op, (ct,))
    return (e.Mul(e.Relu(ct), above(e, op.y), _shape=op.y.shape),)


def _clip_gate(e: Emitter, op: Op, ct: ir.Value) -> ir.Value | None:
    high = op.const(2)
    if not rectifier.is_rectifier(op) or not blocked(op.y) or any(op.wants[1:]):
        return None
    gated = e.Mul(ct, above(e, op.y), _shape=op.y.shape)
    if op.input(2) is None:
        return gated
    if high is None or not 0 < float(high.reshape(())) < 2.0**20:
        return None
    return e.Mul(gated, below(e, op.y, float(high.reshape(()))), _shape=op.y.shape)


def clip(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[0 < h < high] g, from the clipped y: it equals a bound exactly where h is beyond it."""
    gated = _clip_gate(e, op, ct)
    return rectifier.clip(e, op, ct) if gated is None else (gated, None, None)


def clip_guided(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """[0 < h < high] max(g, 0)."""
    gated = _clip_gate(e, op, e.Relu(ct))
    return rectifier.clip_guided(e, op, (ct,)) if gated is None else (gated, None, None)


def enter(e: Emitter, ct: ir.Value) -> ir.Value:
    """Bring a cotangent into the blocked layout."""
    return depthwise(e, ct, 1.0)


def conv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The portable rule; a transposed convolution's result enters the blocked layout again."""
    d_x, *rest = registry()["Conv"](e, op, (ct,))
    strided = any(s > 1 for s in op.attr("strides", ()))
    if d_x is not None and strided and blocked(op.x):
        d_x = enter(e, d_x)
    return (d_x, *rest)


def _spread(e: Emitter, op: Op, ct: ir.Value, scale: float) -> ir.Value | None:
    """[N, C, 1, 1] times `scale` to every position of [N, C, H, W] by a nearest Resize."""
    dims = op.dims()
    if not blocked(op.x) or dims[2] is None or dims[3] is None:
        return None
    factors = e.const(np.array([1, 1, dims[2], dims[3]], np.float32))
    return e.Resize(
        e.Mul(ct, scale),
        None,
        factors,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        _shape=op.x.shape,
    )


def global_average_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    dims = op.dims()
    spread = _spread(e, op, ct, 1.0 / ((dims[2] or 1) * (dims[3] or 1))) if blocked(op.x) else None
    return registry()["GlobalAveragePool"](e, op, (ct,)) if spread is None else (spread,)


def reduce_mean(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """A mean over height and width, as PyTorch's exporter writes the global pool."""
    if blocked(op.x) and op.const(1) is not None and op.axes(1, 4) in ((2, 3), (3, 2)):
        dims = op.dims()
        if not op.attr("keepdims", 1):
            assert op.x.shape is not None
            ct = e.Unsqueeze(ct, [2, 3], _shape=[*list(op.x.shape)[:2], 1, 1])
        spread = _spread(e, op, ct, 1.0 / ((dims[2] or 1) * (dims[3] or 1)))
        if spread is not None:
            return (spread, None)
    return registry()["ReduceMean"](e, op, (ct,))


def _like(op_type: str, function: object) -> Rule:
    """A rule that covers the versions of the registry's own."""
    known = registry().get(op_type)
    assert callable(function)
    return Rule(op_type, known.versions if known else frozenset(), function)


RULES: dict[str, Rule] = {
    "Conv": _like("Conv", conv),
    "GlobalAveragePool": _like("GlobalAveragePool", global_average_pool),
    "ReduceMean": _like("ReduceMean", reduce_mean),
}
BY_VARIANT: dict[str, dict[str, Rule]] = {
    "vanilla": {"Relu": _like("Relu", relu), "Clip": _like("Clip", clip)},
    "guided": {"Relu": _like("Relu", relu_guided), "Clip": _like("Clip", clip_guided)},
}
