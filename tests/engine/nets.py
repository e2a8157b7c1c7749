"""Networks that several tests look into, and what they show of them."""

from __future__ import annotations

import numpy as np
import onnx

from .. import models
from ..models import parsed, weights

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


# How many pictures there are in `folders`.
COUNT = 21
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


_RNG = np.random.default_rng(0)


TWO = {
    "w": _RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "v": _RNG.standard_normal((6, 5)).astype(np.float32),
}


TWO_TEXT = """<ir_version: 8, opset_import: ["": 18]>
two (float[N,3,8,6] x, KIND[ROWS] meta) => (float[N,5] y) {
    h = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    m = Cast<to=1>(meta)
    q = JOIN
    g = Concat<axis=1>(f, q)
    s = MatMul(g, v)
    y = Softmax(s)
}"""


def two(kind: str = "float", rows: str = "N,2") -> onnx.ModelProto:
    """An image and two numbers; of the numbers a row per image, or one for all."""
    join = "Identity(m)"
    if rows == "2":
        join = "Expand(m, shape)"
    text = TWO_TEXT.replace("KIND", kind).replace("ROWS", rows).replace("JOIN", join)
    if rows == "2":
        text = text.replace(
            "    q =",
            "    d = Shape<start=0, end=1>(x)\n    t = Constant<value_ints=[2]>()\n"
            "    shape = Concat<axis=0>(d, t)\n    q =",
        )
    return models.parsed(text, TWO)


MATMUL = """
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    p = ReduceMean<axes=[2,3], keepdims=0>(r)
    d = Dropout(p)
    m = MatMul(d, u)
    scores = Add(m, c)
"""


def with_body(body: str, classes: int = 5) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    more = {
        "u": rng.standard_normal((4, 5)).astype(np.float32),
        "q": rng.standard_normal((5, 4, 1, 1)).astype(np.float32),
    }
    return parsed(
        f"""<ir_version: 8, opset_import: ["": 13]>
m (float[N,3,8,8] x) => (float[N,{classes}] prob) {{ {body} prob = Softmax(scores) }}""",
        weights() | more,
    )
