"""Convolutions."""

from __future__ import annotations

import onnx_ir as ir

from . import Cotangents, Emitter, Op, vjp


@vjp("Conv", 11, 22)
def conv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    w = op.need(1)
    assert op.x.shape is not None and w.shape is not None and op.y.shape is not None
    k = [int(d) for d in w.shape[2:]]
    s = op.attr("strides", (1,) * len(k))
    p = op.attr("pads", (0,) * (2 * len(k)))
    d = op.attr("dilations", (1,) * len(k))
    n = [int(v) for v in op.x.shape[2:]]
    out = [int(v) for v in op.y.shape[2:]]
    op_pad = [
        n[i] - ((out[i] - 1) * s[i] + (k[i] - 1) * d[i] + 1 - p[i] - p[i + len(k)])
        for i in range(len(k))
    ]
    ct = e.ConvTranspose(
        ct, w, group=op.attr("group", 1), strides=s, pads=p, dilations=d, output_padding=op_pad
    )
    return (ct, None, None)
