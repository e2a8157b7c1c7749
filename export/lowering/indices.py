"""MaxPool's gradient by its own Indices, for ONNX Runtime's CPU and CUDA providers.

Not for others: OpenCV 5's lack the batch's offset, IREE's are wrong, TensorRT, WebGPU, TVM and JAX
have none, and OpenVINO's come from its reference kernel.
"""

from __future__ import annotations

import onnx_ir as ir

from ..emit import Emitter
from ..rules import Cotangents, Op, Rule, registry
from ..rules.pool import any_window

__all__ = ["RULES", "max_pool", "within"]

INT64 = ir.DataType.INT64


def max_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """To the first maximum of each window in row-major order, as MaxPool's own Indices say.

    Indices count through the whole tensor, so the cotangent is scattered into it as one line.
    """
    any_window(op)
    attributes = {a.name: a.value for a in op.node.attributes.values() if a.name != "storage_order"}
    if len(op.node.outputs) > 1 and op.node.outputs[1].name and not op.attr("storage_order", 0):
        where = op.node.outputs[1]
    else:
        where = e.op("MaxPool", [op.x], _outputs=2, **attributes)[1]
        where.dtype, where.shape = INT64, op.y.shape
    where = within(e, op, where)
    assert ct.dtype is not None
    line = e.Expand(e.const(0, ct.dtype), e.Reshape(e.Size(op.x), [1]), _dtype=ct.dtype)
    got = e.ScatterElements(
        line, e.Reshape(where, [-1]), e.Reshape(ct, [-1]), reduction="add", _dtype=ct.dtype
    )
    return (op.like(e, got),)


def within(e: Emitter, op: Op, where: ir.Value) -> ir.Value:
    """Indices that stay in their row: the first of their plane for a window of NaN or -inf alone.

    ONNX Runtime's kernel finds no maximum there and gives a negative number, which a scatter counts
    from the last row's end.
    """
    planes, plane = e.Shape(op.x, start=0, end=2), e.Shape(op.x, start=2)
    count, size = (e.ReduceProd(v, keepdims=0, _shape=[]) for v in (planes, plane))
    starts = e.Mul(e.Range(0, count, 1, _dtype=INT64), size)
    ones = e.const([1] * (op.rank() - 2))
    lined = e.Reshape(starts, e.op("Concat", [planes, ones], axis=0, _dtype=INT64)[0])
    return e.Where(e.Less(where, 0), lined, where, _dtype=INT64, _shape=op.y.shape)


RULES: dict[str, Rule] = {"MaxPool": Rule("MaxPool", registry()["MaxPool"].versions, max_pool)}
