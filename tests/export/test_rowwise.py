"""What works place by place: run on a few of the places, it gives those of the whole."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backlight.export.emit import Emitter
from backlight.export.rowwise import operand_axes, resized

from .. import models

ort = pytest.importorskip("onnxruntime")
# The node, what it reads, the axis of its output, the axis of each operand; None: not place by
# place.
CASES = [
    ("y = Relu(a)", {"a": (2, 6, 4)}, 1, [1]),
    ("y = Add(a, b)", {"a": (2, 6, 4), "b": (6, 4)}, 1, [1, 0]),
    ("y = Add(a, b)", {"a": (2, 6, 4), "b": (2, 1, 4)}, 1, [1, None]),
    ("y = Mul(a, b)", {"a": (4,), "b": (2, 6, 4)}, 1, [None, 1]),
    ("y = MatMul(a, b)", {"a": (2, 6, 4), "b": (4, 5)}, 1, [1, None]),
    ("y = MatMul(a, b)", {"a": (2, 6, 4), "b": (4, 5)}, 2, [None, 1]),
    ("y = MatMul(a, b)", {"a": (6, 2, 4), "b": (6, 4, 5)}, 0, [0, 0]),
    ("y = MatMul(a, b)", {"a": (6, 3, 4), "b": (4, 5)}, 0, [0, None]),
    ("y = MatMul(a, b)", {"a": (6, 4), "b": (4,)}, 0, None),
    ("y = Gemm(a, b, c)", {"a": (6, 4), "b": (4, 5), "c": (5,)}, 0, [0, None, None]),
    ("y = Gemm<transA=1>(a, b, c)", {"a": (4, 6), "b": (4, 5), "c": (6, 5)}, 0, [1, None, 0]),
    ("y = Gemm(a, b)", {"a": (6, 4), "b": (4, 5)}, 1, None),
    ("y = Softmax<axis=-1>(a)", {"a": (2, 6, 4)}, 1, [1]),
    ("y = Softmax<axis=1>(a)", {"a": (2, 6, 4)}, 1, None),
    ("y = LayerNormalization<axis=-1>(a, b)", {"a": (2, 6, 4), "b": (4,)}, 1, [1, None]),
    ("y = LayerNormalization<axis=1>(a, b)", {"a": (2, 6, 4), "b": (6, 4)}, 1, None),
    ("y = Transpose<perm=[2,0,1]>(a)", {"a": (2, 6, 4)}, 2, [1]),
    ("y = ReduceMean<keepdims=1>(a, i)", {"a": (2, 6, 4), "i": [-1]}, 1, [1, None]),
    ("y = ReduceMean<keepdims=0>(a, i)", {"a": (2, 3, 6), "i": [1]}, 1, [2, None]),
    ("y = ReduceMean<keepdims=1>(a, i)", {"a": (2, 6, 4), "i": [1, 2]}, 1, None),
    ("y = Reshape(a, i)", {"a": (2, 6, 4), "i": [2, 6, 2, 2]}, 1, [1, None]),
    ("y = Reshape(a, i)", {"a": (2, 6, 4), "i": [1, -1, 6, 4]}, 2, [1, None]),
    ("y = Reshape(a, i)", {"a": (6, 1, 4), "i": [6, 4]}, 0, [0, None]),
    ("y = Reshape(a, i)", {"a": (2, 6, 4), "i": [12, 4]}, 0, None),
    ("y = Reshape(a, i)", {"a": (6, 6, 4), "i": [4, 6, 6]}, 1, None),
    ("y = Unsqueeze(a, i)", {"a": (2, 6, 4), "i": [0]}, 2, [1, None]),
    ("y = Squeeze(a, i)", {"a": (6, 1, 4), "i": [1]}, 0, [0, None]),
    ("y = Flatten<axis=1>(a)", {"a": (6, 2, 4)}, 0, [0]),
    ("y = CumSum(a, i)", {"a": (2, 6, 4), "i": [1]}, 1, None),
    ("y = Conv(a, b)", {"a": (2, 3, 6), "b": (4, 3, 3)}, 2, None),
]


@pytest.mark.parametrize(("text", "read", "axis", "want"), CASES)
def test_the_few_of_the_whole(text: str, read: dict, axis: int, want: list | None):
    rng = np.random.default_rng(0)
    given = {k: rng.standard_normal(v).astype(np.float32) for k, v in read.items() if k != "i"}
    constants = {"i": np.array(read["i"])} if "i" in read else {}
    inputs = ", ".join(f"float[{','.join(map(str, v.shape))}] {k}" for k, v in given.items())
    model = models.parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
one ({inputs}) => (float y) {{
    {text}
}}""",
        constants,
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    held = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    (node,) = held.graph
    assert operand_axes(node, axis) == want
    if want is None:
        return
    (whole,) = ort.InferenceSession(model.SerializeToString()).run(None, given)
    e = Emitter(held.graph, 18)
    shape = ir.Shape([2 if a == axis else d for a, d in enumerate(whole.shape)])
    told = resized(e, node, list(node.inputs), shape)
    few, axes = {}, dict(zip([v.name for v in node.inputs], want, strict=True))
    for name, value in given.items():
        few[name] = value if axes[name] is None else value.take([3, 4], axes[name])
    for value in held.graph.inputs:
        value.shape = ir.Shape(few[value.name].shape)
    for at, value in enumerate(told):
        node.replace_input_with(at, value)
    node.outputs[0].shape = None
    short = ir.serde.serialize_model(held)
    (got,) = ort.InferenceSession(short.SerializeToString()).run(None, few)
    np.testing.assert_allclose(got, whole.take([3, 4], axis), atol=1e-6)
