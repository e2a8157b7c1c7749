"""Smooth activations, and softmax. They keep their own derivative under every variant."""

from __future__ import annotations

import math

import onnx_ir as ir

from . import Cotangents, Emitter, Op, vjp


@vjp("Sigmoid", 13, smooth=True)
def sigmoid(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Mul(ct, e.Mul(op.y, e.Sub(1.0, op.y))),)


@vjp("Tanh", 13, smooth=True)
def tanh(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Mul(ct, e.Sub(1.0, e.Mul(op.y, op.y))),)


@vjp("Softplus", 1, 22, smooth=True)
def softplus(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    # Sigmoid(x), which ONNX Runtime has to 1e-8: too little where it is smaller than that.
    return (e.Mul(ct, e.Exp(e.Sub(op.x, op.y))),)


@vjp("Softsign", 1, 22, smooth=True)
def softsign(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    side = e.Add(e.Abs(op.x), 1.0)
    return (e.Div(ct, e.Mul(side, side)),)


def _exponential(e: Emitter, op: Op, ct: ir.Value, below: ir.Value, above: float) -> Cotangents:
    """`below` times the cotangent for x <= 0, `above` times for x > 0."""
    factor = e.Where(e.Greater(op.x, 0.0), above, below, _dtype=ct.dtype, _shape=op.x.shape)
    return (e.Mul(ct, factor),)


@vjp("Elu", 6, 22, smooth=True)
def elu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """For x <= 0 the derivative is alpha exp(x) = y + alpha, from y: exp(x) may overflow."""
    return _exponential(e, op, ct, e.Add(op.y, float(op.attr("alpha", 1.0))), 1.0)


@vjp("Selu", 6, 22, smooth=True)
def selu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    alpha = float(op.attr("alpha", 1.67326319217681884765625))
    gamma = float(op.attr("gamma", 1.05070102214813232421875))
    return _exponential(e, op, ct, e.Add(op.y, alpha * gamma), gamma)


@vjp("Celu", 12, 28, smooth=True)
def celu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    alpha = float(op.attr("alpha", 1.0))
    return _exponential(e, op, ct, e.Exp(e.Div(e.Min(op.x, 0.0, _shape=op.x.shape), alpha)), 1.0)


@vjp("HardSigmoid", 6, 22, smooth=True)
def hard_sigmoid(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Slope alpha strictly inside: y equals 0 or 1 exactly where the line is cut."""
    alpha = float(op.attr("alpha", 0.2))
    inside = e.And(e.Greater(op.y, 0.0), e.Less(op.y, 1.0))
    return (e.Where(inside, e.Mul(ct, alpha), 0.0, _shape=op.x.shape, _dtype=ct.dtype),)


@vjp("HardSwish", 14, 22, smooth=True)
def hard_swish(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """0 up to -3, 1 from 3 on, x / 3 + 1/2 between."""
    line = e.Add(e.Mul(op.x, 1.0 / 3.0), 0.5)
    rising = e.Where(e.Less(op.x, 3.0), line, 1.0, _dtype=ct.dtype, _shape=op.x.shape)
    factor = e.Where(e.Greater(op.x, -3.0), rising, 0.0, _dtype=ct.dtype, _shape=op.x.shape)
    return (e.Mul(ct, factor),)


@vjp("Erf", 13, smooth=True)
def erf(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    bell = e.Exp(e.Neg(e.Mul(op.x, op.x)))
    return (e.Mul(ct, e.Mul(bell, 2.0 / math.sqrt(math.pi))),)


@vjp("Gelu", 20, smooth=True)
def gelu(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    x = op.x
    half_square = e.Mul(e.Mul(x, x), 0.5)
    if op.attr("approximate", "none") == "tanh":
        # y = x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3)
        root = math.sqrt(2 / math.pi)
        cubic = e.Mul(x, e.Add(e.Mul(half_square, 2 * 0.044715), 1.0))
        t = e.Tanh(e.Mul(cubic, root))
        slope = e.Mul(e.Add(e.Mul(half_square, 6 * 0.044715), 1.0), root)
        bend = e.Mul(e.Mul(x, slope), e.Sub(1.0, e.Mul(t, t)))
        return (e.Mul(ct, e.Mul(e.Add(e.Add(t, 1.0), bend), 0.5)),)
    cdf = e.Mul(e.Add(e.Erf(e.Mul(x, math.sqrt(0.5))), 1.0), 0.5)
    pdf = e.Mul(e.Exp(e.Neg(half_square)), 1 / math.sqrt(2 * math.pi))
    return (e.Mul(ct, e.Add(cdf, e.Mul(x, pdf))),)


@vjp("Mish", 18, 22, smooth=True)
def mish(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """y = x t, t = tanh(softplus(x)): y' = t + x (1 - t^2) sigmoid(x)."""
    t = e.Tanh(e.Softplus(op.x))
    bend = e.Mul(e.Mul(op.x, e.Sigmoid(op.x)), e.Sub(1.0, e.Mul(t, t)))
    return (e.Mul(ct, e.Add(t, bend)),)


@vjp("Swish", 24, smooth=True)
def swish(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """y = x s, s = sigmoid(alpha x): y' = s + alpha x s (1 - s)."""
    alpha = float(op.attr("alpha", 1.0))
    s = e.Sigmoid(e.Mul(op.x, alpha))
    bend = e.Mul(e.Mul(op.x, alpha), e.Mul(s, e.Sub(1.0, s)))
    return (e.Mul(ct, e.Add(s, bend)),)


@vjp("Softmax", 13)
def softmax(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    weighed = e.Mul(ct, op.y)
    total = e.ReduceSum(weighed, [int(op.attr("axis", -1))], keepdims=1)
    return (e.Sub(weighed, e.Mul(op.y, total), _shape=op.x.shape),)


@vjp("LogSoftmax", 13)
def log_softmax(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    axis = int(op.attr("axis", -1))
    total = e.ReduceSum(ct, [axis], keepdims=1)
    return (e.Sub(ct, e.Mul(e.Softmax(op.x, axis=axis), total), _shape=op.x.shape),)
