"""Operators that move elements without changing them."""

from __future__ import annotations

import onnx_ir as ir

from . import Cotangents, Emitter, Op, vjp


@vjp("Concat", 13)
def concat(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    axis = int(op.attr("axis"))
    sizes = [op.dims(v)[axis] for v in op.node.inputs]
    return e.op("Split", [ct, [s or 0 for s in sizes]], axis=axis, _outputs=len(sizes))


@vjp("Flatten", 13, 21, 23, 24, 25)
@vjp("Reshape", 14, 19, 21, 23, 24, 25)
def reshape(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    return (op.like(e, ct), None)
