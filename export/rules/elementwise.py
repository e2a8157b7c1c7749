"""Arithmetic, element by element, with broadcasting (the walk un-broadcasts)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from . import Cotangents, Emitter, Op, vjp
from .rectifier import spelled
from .roots import is_norm


@vjp("Add", 14)
def add(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return ct, ct


@vjp("Sub", 14)
def sub(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return ct, e.Neg(ct) if op.wants[1] else None


@vjp("Mul", 14)
def mul(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    a, b = op.need(0), op.need(1)
    return e.Mul(ct, b) if op.wants[0] else None, e.Mul(ct, a) if op.wants[1] else None


@vjp("Div", 14)
def div(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    d_a = e.Div(ct, op.need(1))
    return d_a, e.Neg(e.Mul(d_a, op.y)) if op.wants[1] else None


@vjp("Mod", 13, 28)
def modulo(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """y = a - n b with the whole number n = trunc(a / b), which has no slope (PyTorch's fmod)."""
    if not op.attr("fmod", 0):
        raise op.unsupported("fmod = 0, which is of whole numbers", "fmod = 1")
    if not op.wants[1]:
        return ct, None
    times = e.Round(e.Div(e.Sub(op.need(0), op.y), op.need(1)))
    return ct, e.Neg(e.Mul(ct, times))


@vjp("Pow", 15)
def power(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """d_x = p x^(p-1) ct, 0 where p = 0; d_p = y log(x) ct, 0 where x = 0 (as PyTorch has it)."""
    x, p = op.need(0), op.need(1)
    assert x.dtype is not None
    d_x = d_p = None
    if op.wants[0]:
        known = op.const(1)
        if known is not None and known.size == 1:
            exponent = float(np.asarray(known, np.float64).reshape(()))
            if exponent == 0:
                d_x = e.Mul(ct, 0.0)
            elif exponent == 1:
                d_x = ct
            elif exponent == 2:
                d_x = e.Mul(ct, e.Mul(x, 2.0))
            else:
                if exponent < 1 and is_norm(x):
                    x = _not_0(e, x)
                d_x = e.Mul(ct, e.Mul(e.Pow(x, e.const(exponent - 1, x.dtype)), exponent))
        else:
            q = e.cast(p, x.dtype)
            slope = e.Mul(q, e.Pow(x, e.Sub(q, 1.0)))
            d_x = e.Mul(ct, e.Where(e.Equal(q, 0.0), 0.0, slope, _dtype=x.dtype))
    if op.wants[1]:
        zero = e.Equal(x, 0.0)
        log = e.Log(e.Where(zero, 1.0, x, _dtype=x.dtype, _shape=x.shape))
        d_p = e.Mul(ct, e.Mul(op.y, log))
    return d_x, d_p


def _extremum(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Ties share evenly, as PyTorch's maximum and minimum have it."""
    if len(op) == 1:
        return (ct,)
    rectified = spelled(e, op, ct)
    if rectified is not None:
        return rectified
    hits = [e.cast(_leads(e, op, i), ct.dtype) for i in range(len(op))]
    count = hits[0]
    for hit in hits[1:]:
        count = e.Add(count, hit)
    share = e.Div(ct, count)
    return tuple(e.Mul(share, hit) if op.wants[i] else None for i, hit in enumerate(hits))


def _leads(e: Emitter, op: Op, index: int) -> ir.Value:
    """Where an operand is the extremum. By the operands alone, not the output: of half floats, a
    runtime may have rounded that and not those, so that none would be equal to it."""
    compare = e.GreaterOrEqual if op.node.op_type == "Max" else e.LessOrEqual
    mine, others = op.need(index), [op.need(i) for i in range(len(op)) if i != index]
    made = compare(mine, others[0])
    for other in others[1:]:
        made = e.And(made, compare(mine, other))
    return made


@vjp("Max", 13)
def maximum(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return _extremum(e, op, ct)


@vjp("Min", 13)
def minimum(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return _extremum(e, op, ct)


@vjp("Sum", 13)
def sum_of(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (ct,) * len(op)


@vjp("Mean", 13)
def mean_of(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Mul(ct, 1.0 / len(op)),) * len(op)


@vjp("Neg", 13)
def neg(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Neg(ct),)


@vjp("Abs", 13)
def absolute(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Mul(ct, e.Sign(op.x)),)


@vjp("Sqrt", 13)
def sqrt(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """Of a norm 0 where that is 0, by the squares' own slope: see `roots`."""
    root = _not_0(e, op.y) if is_norm(op.x) else op.y
    return (e.Div(e.Mul(ct, 0.5), root),)


def _not_0(e: Emitter, x: ir.Value) -> ir.Value:
    """x; 1 where it is 0."""
    if x.dtype == ir.DataType.FLOAT16:
        # A runtime may ask of the number that it hasn't rounded to 0 yet.
        rounded = e.LessOrEqual(e.Abs(x), 6e-8)
        return e.Where(rounded, 1.0, x, _dtype=x.dtype, _shape=x.shape)
    return e.Where(e.Equal(x, 0.0), 1.0, x, _dtype=x.dtype, _shape=x.shape)


@vjp("Reciprocal", 13)
def reciprocal(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Neg(e.Mul(ct, e.Mul(op.y, op.y))),)


@vjp("Exp", 13)
def exp(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Mul(ct, op.y),)


@vjp("Log", 13)
def log(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Div(ct, op.x),)


@vjp("Sin", 7, 22)
def sin(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Mul(ct, e.Cos(op.x)),)


@vjp("Cos", 7, 22)
def cos(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Neg(e.Mul(ct, e.Sin(op.x))),)


@vjp("Tan", 7, 22)
def tan(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Mul(ct, e.Add(e.Mul(op.y, op.y), 1.0)),)


@vjp("Atan", 7, 22)
def atan(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Div(ct, e.Add(e.Mul(op.x, op.x), 1.0)),)


@vjp("Sinh", 9, 22)
def sinh(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Mul(ct, e.Cosh(op.x)),)


@vjp("Cosh", 9, 22)
def cosh(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Mul(ct, e.Sinh(op.x)),)


@vjp("Asin", 7, 22)
def asin(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Div(ct, e.Sqrt(e.Sub(1.0, e.Mul(op.x, op.x)))),)


@vjp("Acos", 7, 22)
def acos(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Neg(e.Div(ct, e.Sqrt(e.Sub(1.0, e.Mul(op.x, op.x))))),)


@vjp("Asinh", 9, 22)
def asinh(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Div(ct, e.Sqrt(e.Add(e.Mul(op.x, op.x), 1.0))),)


@vjp("Acosh", 9, 22)
def acosh(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Div(ct, e.Sqrt(e.Sub(e.Mul(op.x, op.x), 1.0))),)


@vjp("Atanh", 9, 22)
def atanh(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (e.Div(ct, e.Sub(1.0, e.Mul(op.x, op.x))),)
