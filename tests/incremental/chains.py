"""Networks whose boxes grow layer by layer."""

from __future__ import annotations

import onnx


def chain(layers: int, side: int = 64) -> onnx.ModelProto:
    """Convolutions of 3 x 3 at one size: their boxes grow by 2 each."""
    from .occlude import network  # needs a runtime

    weights = "".join(f"float[16,16,3,3] w{i}, " for i in range(1, layers))
    body = "c0 = Conv<pads=[1,1,1,1]>(x, w0) "
    for i in range(1, layers):
        body += f"r{i} = Relu(c{i - 1}) c{i} = Conv<pads=[1,1,1,1]>(r{i}, w{i}) "
    return network(
        f"net (float[N,3,{side},{side}] x, float[16,3,3,3] w0, {weights}float[16,5] d) "
        f"=> (float[N,5] y) {{ {body} m = GlobalAveragePool(c{layers - 1}) v = Flatten(m) "
        "y = MatMul(v, d) }"
    )
