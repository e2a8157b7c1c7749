"""A message made by copies of few sizes says what onnx-ir's own says."""

import onnx
import onnx_ir as ir
import pytest

from backlight.engine.cli.options import BUNDLED
from backlight.export.message import message
from backlight.export.saliency import explain_graph

ODD = """
<ir_version: 10, opset_import: ["": 18]>
g (float[N, 3, H, W] x, int64[1] k) => (float[N, 3, H, W] y, seq(float[N]) s)
<float[N, 3, H, W] a, float b, seq(float[N, 3, H, W]) c, float[] d, float[unknown, 2] e>
{
    a = Relu(x)
    b = ReduceMax<keepdims = 0>(a)
    c = SequenceConstruct(a, a)
    d = Identity(b)
    e = Reshape(a, k)
    s = SequenceConstruct(d)
    y = Identity(a)
}
"""


def as_said(proto: onnx.ModelProto) -> tuple[bytes, list[bytes]]:
    """The message without its sizes, and those, in an order of their own."""
    infos = sorted(v.SerializeToString(deterministic=True) for v in proto.graph.value_info)
    proto.graph.ClearField("value_info")
    return proto.SerializeToString(deterministic=True), infos


def odd() -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(ODD))
    by_name = {v.name: v for n in model.graph for v in n.outputs}
    by_name["a"].doc_string = "said of a"
    by_name["b"].metadata_props["by"] = "hand"
    by_name["e"].shape = ir.Shape([None, 2], denotations=["DATA_BATCH", None])
    model.graph.append(node := ir.node("Relu", [by_name["a"]], name="unsized"))
    node.outputs[0].name = "unsized"
    return model


@pytest.mark.parametrize("of", ["odd", "explained"])
def test_it_says_what_onnx_ir_says(of: str):
    model = odd() if of == "odd" else explain_graph(BUNDLED).model
    sizes = {v: (v.type, v.shape) for n in model.graph for v in n.outputs}
    made, expected = message(model), ir.to_proto(model)
    assert expected.graph.value_info
    assert as_said(made) == as_said(expected)
    assert sizes == {v: (v.type, v.shape) for n in model.graph for v in n.outputs}


def test_a_model_that_is_none_keeps_its_sizes():
    """What onnx-ir refuses is raised, and nothing is lost on the way."""
    model = odd()
    next(iter(model.graph)).attributes.add(ir.Attr("broken", ir.AttributeType.TENSOR, object()))
    before = [(v.type, v.shape) for n in model.graph for v in n.outputs]
    with pytest.raises(Exception, match="serialize_attribute_into"):
        message(model)
    assert before == [(v.type, v.shape) for n in model.graph for v in n.outputs]
