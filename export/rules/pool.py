"""Pooling."""

from __future__ import annotations

import onnx_ir as ir

from . import Cotangents, Emitter, Op, vjp


@vjp("GlobalAveragePool", 1, 22)
def global_average_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    dims = op.dims()
    n = 1
    for d in dims[2:]:
        n *= d or 1
    return (e.Expand(e.Div(ct, float(n)), e.Shape(op.x), _shape=op.x.shape),)


@vjp("MaxPool", 12, 22)
def max_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    node = op.node
    attributes = {a.name: a.value for a in node.attributes.values()}
    _, where = e.op("MaxPool", [op.x], _outputs=2, **attributes)
    flat = e.Mul(e.Cast(e.Reshape(op.x, [-1]), to=1), 0.0)
    got = e.ScatterElements(flat, e.Reshape(where, [-1]), e.Reshape(ct, [-1]), reduction="add")
    return (op.like(e, got),)
