"""MaxPool's gradient by its own Indices, for ONNX Runtime's CPU and CUDA providers.

Not for others: OpenCV 5's lack the batch's offset, IREE's are wrong, TensorRT, WebGPU, TVM and JAX
have none, and OpenVINO's come from its reference kernel.
"""

from __future__ import annotations

import onnx_ir as ir

from ..emit import Emitter
from ..rules import Cotangents, Op, Rule, registry
from ..rules.pool import pool_window

__all__ = ["RULES", "max_pool"]

INT64 = ir.DataType.INT64


def max_pool(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """To the first maximum of each window in row-major order, as MaxPool's own Indices say.

    Indices count through the whole tensor, so the cotangent is scattered into it as one line.
    """
    pool_window(op)
    attributes = {a.name: a.value for a in op.node.attributes.values() if a.name != "storage_order"}
    if len(op.node.outputs) > 1 and op.node.outputs[1].name and not op.attr("storage_order", 0):
        where = op.node.outputs[1]
    else:
        where = e.op("MaxPool", [op.x], _outputs=2, **attributes)[1]
        where.dtype = INT64
    assert ct.dtype is not None
    line = e.Expand(e.const(0, ct.dtype), e.Reshape(e.Size(op.x), [1]), _dtype=ct.dtype)
    got = e.ScatterElements(
        line, e.Reshape(where, [-1]), e.Reshape(ct, [-1]), reduction="add", _dtype=ct.dtype
    )
    return (op.like(e, got),)


RULES: dict[str, Rule] = {"MaxPool": Rule("MaxPool", registry()["MaxPool"].versions, max_pool)}
