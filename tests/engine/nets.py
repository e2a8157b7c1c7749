"""A network whose windows reach a part of it, and images for it."""

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


def net(**given: object) -> onnx.ModelProto:
    model = models.tiny(**{"shape": "N,3,20,17", "body": BODY, **given})  # type: ignore[arg-type]
    u = np.random.default_rng(5).standard_normal((4, 4, 3, 3)).astype(np.float32) / 6
    for tensor in model.graph.initializer:
        if tensor.name == "v":  # logits so small that probabilities move
            small = onnx.numpy_helper.to_array(tensor) / 8
            tensor.CopyFrom(onnx.numpy_helper.from_array(small, "v"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(u, "u"))
    return model
