"""Rectifiers: the one place where vanilla, deconv and guided differ.

Masks are taken from the output y, not the input h, where y > 0 says the same: the runtime keeps
y anyway, and a use of h would keep it from fusing the rectifier into the layer before.
"""

from __future__ import annotations

import onnx_ir as ir

from . import Cotangents, Emitter, Op, Rule, registry, rule, vjp
from .clamps import clamp, rectifies, uniform


def gate(e: Emitter, ct: ir.Value, mask: ir.Value) -> ir.Value:
    """`ct` where the mask holds, else 0."""
    return e.Where(mask, ct, 0.0, _shape=mask.shape, _dtype=ct.dtype)


@vjp("Relu", 14)
def relu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (gate(e, ct, e.Greater(op.y, 0.0)),)


@rule("Relu", 14)
def relu_deconv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Relu(ct),) if rectifies(op.node) else relu(e, op, ct)


@rule("Relu", 14)
def relu_guided(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    inside = gate(e, ct, e.Greater(op.y, 0.0))
    return (e.Relu(inside) if rectifies(op.node) else inside,)


def is_rectifier(op: Op) -> bool:
    """Whether a node rectifies, however it is spelled: see `clamps.rectifies`."""
    return rectifies(op.node)


def _alone(op: Op, ct: ir.Value) -> Cotangents:
    """`ct` for what a spelled rectifier holds back, nothing for its constants and tests."""
    found = clamp(op.node)
    assert found is not None
    return tuple(ct if i == found.index else None for i in range(len(op)))


def spelled(e: Emitter, op: Op, ct: ir.Value) -> Cotangents | None:
    """Max and Min where they rectify: strictly between the bounds the cotangent passes. None where
    they don't, or where a bound's own gradient is asked for."""
    return _alone(op, _open(e, op, ct)) if _is_spelled(op) else None


def spelled_deconv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    if not _is_spelled(op):
        return registry()[op.node.op_type](e, op, (ct,))
    return _alone(op, e.Relu(ct))


def spelled_guided(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    if not _is_spelled(op):
        return registry()[op.node.op_type](e, op, (ct,))
    return _alone(op, e.Relu(_open(e, op, ct)))


def _is_spelled(op: Op) -> bool:
    found = clamp(op.node)
    if found is None or not rectifies(op.node):
        return False
    # A bound's own gradient is no rectifier's.
    bounds = (i for i in range(len(op)) if i != found.index and op.wants[i])
    return not any(uniform(op.input(i)) is not None for i in bounds)


def _open(e: Emitter, op: Op, ct: ir.Value) -> ir.Value:
    found = clamp(op.node)
    assert found is not None
    if found.low is not None:
        ct = gate(e, ct, e.Greater(op.y if found.low == 0 else found.x, found.low))
    if found.high is not None:
        ct = gate(e, ct, e.Less(found.x, found.high))
    return ct


@vjp("Clip", 13)
def clip(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Strictly between the bounds the cotangent passes; the bounds get what they hold back."""
    low, high = op.input(1), op.input(2)
    for bound in (op.const(1), op.const(2)):
        if bound is not None and bound.size != 1:
            raise op.unsupported(f"a bound of {bound.size} elements", "bounds of one element")
    inside = ct
    if low is not None:
        inside = gate(e, inside, e.Greater(op.x, low))
    if high is not None:
        inside = gate(e, inside, e.Less(op.x, high))
    d_low = d_high = None
    # Min of Max: where the bounds cross, the upper one holds back everything.
    crossed = None if low is None or high is None else e.Greater(low, high)
    if high is not None and op.wants[2]:
        held = e.GreaterOrEqual(op.x, high)
        held = held if crossed is None else e.Or(held, crossed)
        d_high = _total(e, gate(e, ct, held), high)
    if low is not None and op.wants[1]:
        held = e.LessOrEqual(op.x, low)
        held = held if crossed is None else e.And(held, e.Not(crossed))
        d_low = _total(e, gate(e, ct, held), low)
    return inside, d_low, d_high


def _total(e: Emitter, ct: ir.Value, primal: ir.Value) -> ir.Value:
    return e.Reshape(e.ReduceSum(ct, keepdims=0), e.Shape(primal), _shape=primal.shape)


@rule("Clip", 13)
def clip_deconv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    if not is_rectifier(op):
        return clip(e, op, ct)
    return (e.Relu(ct), None, None)


@rule("Clip", 13)
def clip_guided(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    inside, *rest = clip(e, op, ct)
    if not is_rectifier(op):
        return (inside, *rest)
    assert inside is not None
    return (e.Relu(inside), *rest)


@vjp("LeakyRelu", 16)
def leaky_relu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    slope = float(op.attr("alpha", 0.01))
    return (e.Where(e.Greater(op.x, 0.0), ct, e.Mul(ct, slope), _dtype=ct.dtype),)


@vjp("PRelu", 16)
def prelu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    slope = op.need(1)
    positive = e.Greater(op.x, 0.0)
    d_x = e.Where(positive, ct, e.Mul(ct, slope), _dtype=ct.dtype)
    d_slope = None
    if op.wants[1]:
        d_slope = e.Mul(ct, e.Where(positive, 0.0, op.x, _dtype=ct.dtype, _shape=op.x.shape))
    return d_x, d_slope


@vjp("ThresholdedRelu", 10, 22)
def thresholded_relu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (gate(e, ct, e.Greater(op.x, float(op.attr("alpha", 1.0)))),)


@rule("LeakyRelu", 16)
def leaky_relu_rectified(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return leaky_relu(e, op, e.Relu(ct))


@rule("LeakyRelu", 16)
def leaky_relu_deconv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Relu(ct),) if rectifies(op.node) else leaky_relu(e, op, e.Relu(ct))


@rule("PRelu", 16)
def prelu_rectified(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return prelu(e, op, e.Relu(ct))


@rule("PRelu", 16)
def prelu_deconv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    if rectifies(op.node) and not op.wants[1]:
        return e.Relu(ct), None
    return prelu(e, op, e.Relu(ct))


@rule("ThresholdedRelu", 10, 22)
def thresholded_relu_guided(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return thresholded_relu(e, op, e.Relu(ct))


@rule("ThresholdedRelu", 10, 22)
def thresholded_relu_deconv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Relu(ct),)


_SPELLED = {"Max": 13, "Min": 13}

DECONV: dict[str, Rule] = {
    "Relu": relu_deconv,
    "Clip": clip_deconv,
    "ThresholdedRelu": thresholded_relu_deconv,
    "LeakyRelu": leaky_relu_deconv,
    "PRelu": prelu_deconv,
    **{op: rule(op, version)(spelled_deconv) for op, version in _SPELLED.items()},
}
GUIDED: dict[str, Rule] = {
    "Relu": relu_guided,
    "Clip": clip_guided,
    "ThresholdedRelu": thresholded_relu_guided,
    "LeakyRelu": leaky_relu_rectified,
    "PRelu": prelu_rectified,
    **{op: rule(op, version)(spelled_guided) for op, version in _SPELLED.items()},
}
