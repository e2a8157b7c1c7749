"""What the fuzzers found, at its smallest: one line each, and no memory beyond what is needed."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

import backlight
from backlight.errors import ModelError, UnsupportedNode
from backlight.export.graph import load

from ..models import parsed

UNROLLED = """<ir_version: 9, opset_import: ["": 18]>
g (float[1000000,2,2] x) => (float[1000000,1,2,3] y) { y = LSTM<hidden_size = 3>(x, w, r) }"""
PHASES = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,3,70000,70000] x) => (float[N,3,2,2] y) {
    y = MaxPool<kernel_shape = [3, 3], strides = [69000, 69000]>(x)
}"""

WINDOW = """<ir_version: 9, opset_import: ["": 22]>
g (float[N,3,H,W] x) => (float[N,3,P,Q] y) {
    y = AveragePool<kernel_shape = [3, 2147483647], ceil_mode = 1>(x)
}"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (UNROLLED, "1000000 steps"),
        (PHASES, "positions between windows"),
        (WINDOW, "a window of 2147483647 elements"),
    ],
)
def test_what_would_take_a_node_or_a_number_each(text: str, says: str) -> None:
    weights = {"w": np.zeros((1, 12, 2), np.float32), "r": np.zeros((1, 12, 3), np.float32)}
    model = parsed(text, {k: v for k, v in weights.items() if "LSTM" in text})
    tracemalloc.start()
    with pytest.raises(UnsupportedNode, match=says):
        backlight.export(model, ("vanilla",), of="y", wrt="x", cotangent="input")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 << 20


def test_a_place_that_is_no_text() -> None:
    """protobuf gives bytes for a string that is no UTF-8."""
    model = parsed(UNROLLED.replace("1000000", "2"), {"w": np.zeros((1, 12, 2), np.float32)})
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="WEIGHTS!")
    data = model.SerializeToString().replace(b"WEIGHTS!", b"W\xff\xfeGHTS!")
    with pytest.raises(ModelError) as caught:
        load(data)
    assert "\n" not in str(caught.value)


def test_a_model_that_can_not_be_copied() -> None:
    model = ir.from_proto(
        parser.parse_model(
            '<ir_version: 9, opset_import: ["": 18]>'
            "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }"
        )
    )
    stray = ir.Value(name="stray")
    model.graph.append(ir.Node("", "Neg", [stray], name="n"))
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load(model)
