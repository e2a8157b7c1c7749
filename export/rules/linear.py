"""Dense layers."""

from __future__ import annotations

import onnx_ir as ir

from . import Cotangents, Emitter, Op, vjp


@vjp("Gemm", 13)
def gemm(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    alpha, b = float(op.attr("alpha", 1.0)), op.need(1)
    if op.attr("transA", 0):
        d_a = e.Gemm(b, ct, alpha=alpha, transA=op.attr("transB", 0), transB=1)
    else:
        d_a = e.Gemm(ct, b, alpha=alpha, transB=1 - op.attr("transB", 0))
    return (d_a, None, None)
