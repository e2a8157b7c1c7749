"""Networks that several tests look into, and what they show of them."""

from __future__ import annotations

import numpy as np
import onnx

from .. import models

# Two convolutions, a pool and a residual branch, over 20 x 17 pixels.
BODY = """
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    d = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(r)
    k = Conv<pads=[1,1,1,1]>(d, u)
    s = Add(k, d)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v, c)
"""
X = models.images(2, 3, 20, 17)
# Of one tile of 80 pixels: the heading and two lines of detail end above row 86.
TILE = (slice(86, 166), slice(12, 92))


def net(**given: object) -> onnx.ModelProto:
    model = models.tiny(**{"shape": "N,3,20,17", "body": BODY, **given})  # type: ignore[arg-type]
    u = np.random.default_rng(5).standard_normal((4, 4, 3, 3)).astype(np.float32) / 6
    for tensor in model.graph.initializer:
        if tensor.name == "v":  # logits so small that probabilities move
            small = onnx.numpy_helper.to_array(tensor) / 8
            tensor.CopyFrom(onnx.numpy_helper.from_array(small, "v"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(u, "u"))
    return model


def patch_embedding() -> onnx.ModelProto:
    """The beginning of a vision transformer, and a dense end."""
    rng = np.random.default_rng(0)
    return models.parsed(
        """<ir_version: 8, opset_import: ["": 18]>
vit (float[N,3,16,16] x) => (float[N,16,6] y) {
    e = Conv<strides=[4,4]>(x, w)
    s = Constant<value_ints=[0,6,16]>()
    f = Reshape(e, s)
    t = Transpose<perm=[0,2,1]>(f)
    y = MatMul(t, m)
}""",
        {
            "w": rng.standard_normal((6, 3, 4, 4)).astype(np.float32),
            "m": rng.standard_normal((6, 6)).astype(np.float32),
        },
    )
