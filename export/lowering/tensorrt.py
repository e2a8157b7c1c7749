"""For TensorRT, through its own parser or ONNX Runtime's provider.

Its parser rejects a MaxPool with Indices: the portable gradient has none either. And it takes the
weights of a convolution as they stand in the file; mirrored ones are the output of a Slice and a
Transpose, which the builder would have to fold before it may choose a kernel. A transposed
convolution reads the very weights of the forward pass. But not of as many channels in as out:
other runtimes take one packed weight for the other there (see `rules/apart.py`), and the file is to
be right on those too.
"""

from __future__ import annotations

import onnx_ir as ir

from ..emit import Emitter
from ..rules import Cotangents, Op, Rule, registry
from ..rules.apart import alike_both_ways
from ..rules.window import kernel_of, window_of

__all__ = ["RULES"]


def conv(e: Emitter, op: Op, ct: ir.Value) -> Cotangents:
    """The gradient by X as a transposed convolution at stride 1 too, with the pads as they are."""
    w = op.need(1)
    win = window_of(op, kernel_of(op, w))
    strided = any(s > 1 for s in win.strides)
    if not op.wants[0] or strided or alike_both_ways(w, win.group):
        return registry()["Conv"](e, op, (ct,))
    others = Op(op.node, (False, *op.wants[1:]))
    _, *rest = registry()["Conv"](e, others, (ct,))
    d_x = e.ConvTranspose(
        ct,
        w,
        group=win.group,
        dilations=list(win.dilations),
        kernel_shape=list(win.kernel),
        pads=[*win.begins, *win.ends],
        _shape=op.x.shape,
    )
    return (d_x, *rest)


RULES: dict[str, Rule] = {"Conv": Rule("Conv", registry()["Conv"].versions, conv)}
