"""What CUDA hands back and TensorRT rejects, by the tables: node by node, with what would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.defs
import pytest

from backlight.export.check import check
from backlight.export.graph import load
from backlight.export.lowering.operators import CUDA, TENSORRT
from backlight.export.lowering.support import TARGETS, Refusal, unsupported
from backlight.export.saliency import explain_graph

from .. import models

ROOT = Path(__file__).resolve().parents[2]
X = "float[N,4,8,8] x"


def refused(
    text: str, target: str, head: str = X, opset: int = 18, **weights: models.Array
) -> list[Refusal]:
    """Of a model of these node lines, as it is."""
    source = f'<ir_version: 10, opset_import: ["": {opset}, "com.example": 1]>\n'
    proto = models.parsed(f"{source}m ({head}) => (y) {{ {text} }}", weights)
    proto.graph.output[0].type.CopyFrom(onnx.helper.make_tensor_type_proto(1, None))
    return list(unsupported(load(proto), target))


W = {"w": np.ones((4, 2, 3, 3), np.float32)}
CASES: list[tuple[str, str, dict[str, Any], str | None]] = [
    # target, text, more, what the reason says (None: the target takes it)
    ("cuda", "y = ConvTranspose<pads=[1,1,1,1]>(x, w)", W, None),
    ("cuda", "y = ConvTranspose<strides=[2,2],output_padding=[1,1]>(x, w)", W, None),
    ("cuda", "y = ConvTranspose<pads=[1,1,0,1]>(x, w)", W, "asymmetric pads"),
    ("cuda", 'y = ConvTranspose<auto_pad="SAME_UPPER">(x, w)', W, "auto_pad"),
    ("tensorrt", "y = ConvTranspose<pads=[1,1,0,1]>(x, w)", W, None),
    ("cuda", "i = ArgMax<select_last_index=1>(x) y = Cast<to=1>(i)", {}, "select_last_index"),
    ("cuda", "y = LpPool<kernel_shape=[2,2]>(x)", {}, "no kernel for it"),
    ("tensorrt", "y = LpPool<kernel_shape=[2,2]>(x)", {}, None),
    ("cuda", "y = Equal(x, x)", {"opset": 18}, None),
    ("cuda", "y = Equal(x, x)", {"opset": 19}, "version 19 (opset 19)"),
    ("cuda", "y = Mish(x)", {"opset": 18}, None),  # written out by the runtime
    ("cuda", "y = com.example.Odd(x)", {}, "com.example"),
    ("tensorrt", "y = com.example.Odd(x)", {}, "com.example"),
    ("tensorrt", "y, i = MaxPool<kernel_shape=[2,2]>(x)", {}, "Indices"),
    ("cuda", "y, i = MaxPool<kernel_shape=[2,2]>(x)", {}, None),
    ("tensorrt", "y = MaxPool<kernel_shape=[2,2],dilations=[2,1]>(x)", {}, "dilations = [2, 1]"),
    ("tensorrt", "y = AveragePool<kernel_shape=[2]>(x)", {"head": "float[N,4,8] x"}, "1 axes"),
    ("tensorrt", "y = MaxUnpool<kernel_shape=[2,2]>(x, i)", {"head": f"{X}, int64[N,4,8,8] i"},
     "no such operator"),
    ("tensorrt", "y = ReduceSum(x, a)", {"head": f"{X}, int64[A] a"}, "axes computed in the run"),
    ("tensorrt", "y = ReduceSum(x, a)", {"a": np.array([2])}, None),
    ("tensorrt", "y = Unsqueeze(x, a)", {"head": f"{X}, int64[1] a"}, "axes computed"),
    ("tensorrt", 'y = ScatterND<reduction="add">(x, i, x)', {"head": f"{X}, int64[N,1] i"},
     "reduction = add"),
    ("tensorrt", "y = ScatterND(x, i, x)", {"head": f"{X}, int64[N,1] i"}, None),
    ("tensorrt", 'y = ScatterElements<reduction="add">(x, i, x)',
     {"head": f"{X}, int64[N,4,8,8] i"}, None),
    ("tensorrt", 'y = Resize<mode="cubic">(x, , s)', {"s": np.ones(4, np.float32)}, "cubic"),
    ("tensorrt", 'y = Resize<mode="linear",axes=[2,3]>(x, , s)', {"s": np.ones(2, np.float32)},
     "scales for axes = [2, 3]"),
    ("tensorrt", 'y = Resize<mode="linear",axes=[0,1,2,3]>(x, , s)',
     {"s": np.ones(4, np.float32)}, None),
    ("tensorrt", 'y = Resize<mode="linear",axes=[2,3]>(x, , , s)', {"s": np.array([9, 9])}, None),
    ("tensorrt", "y = Attention(x, x, x)", {"opset": 23}, None),
    ("tensorrt", "y = Attention<softcap=2.0>(x, x, x)", {"opset": 23}, "softcap = 2.0"),
    ("tensorrt", "y = Attention<q_num_heads=2,kv_num_heads=2>(x, x, x)",
     {"opset": 23, "head": "float[N,4,8] x"}, "inputs of 3 dimensions"),
    ("tensorrt", "y = Attention(x, x, x, , x, x)", {"opset": 23}, "past keys"),
    ("tensorrt", "y = LSTM<hidden_size=2,layout=1>(x, w, r)",
     {"head": "float[N,4,3] x", "w": np.ones((1, 8, 3), np.float32),
      "r": np.ones((1, 8, 2), np.float32)}, "layout = 1"),
    ("tensorrt", 'y = Einsum<equation="Aij,Ajk->Aik">(x, x)', {}, "equation"),
    ("tensorrt", "y = And(b, b)", {"head": "bool[N] b"}, None),
    ("tensorrt", "y = Add(b, b)", {"head": "uint8[N] b"}, "not for uint8"),
    ("cuda", "y = Pad(x, p)", {"head": "int64[N] x", "p": np.array([1, 0])}, "not for int64"),
    ("tensorrt", "y = Pad(x, p)", {"head": "int64[N] x", "p": np.array([1, 0])}, None),
    ("tensorrt", "y = Add(x, x)", {"head": "float[1,1,1,1,1,1,1,1,1] x"}, "8 dimensions"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "text", "more", "says"), CASES)
def test_nodes(target: str, text: str, more: dict[str, Any], says: str | None) -> None:
    found = refused(text, target, **more)
    assert len(found) == (says is not None), [r.line() for r in found]
    for refusal in found:
        assert says is not None and says in refusal.reason
        assert refusal.accepted and refusal.node and not refusal.ours
        assert refusal.line().startswith(f"{refusal.operator} '{refusal.node}': ")


def test_arithmetic_on_shapes_stays_on_the_host() -> None:
    """Shapes live there whatever the provider; but Size of a tensor would fetch the tensor."""
    text = "s = Shape(x) p = ReduceProd<keepdims=0>(s) f = Cast<to=1>(p) y = Mul(x, f)"
    assert not refused(text, "cuda")
    found = refused("s = Size(x) f = Cast<to=1>(s) y = Mul(x, f)", "cuda", opset=19)
    assert [r.operator for r in found] == ["Size"]


def test_constants_are_folded_on_loading() -> None:
    text = "v = Tan(w) y = Mul(x, v)"
    weights = {"w": np.ones((1, 1, 8, 8), np.float32)}
    assert not refused(text, "cuda", **weights)
    assert [r.operator for r in refused("v = Tan(x) y = Mul(x, v)", "cuda")] == ["Tan"]


def test_tensorrt_reads_opsets_up_to_24() -> None:
    assert not refused("y = Relu(x)", "tensorrt", opset=24)
    (found,) = refused("y = Relu(x)", "tensorrt", opset=25)
    assert found.reason == "opset 25 is not read" and "9 to 24" in found.accepted


@pytest.mark.parametrize("target", ["portable", "cpu"])
def test_other_targets_refuse_nothing(target: str) -> None:
    assert refused("y = com.example.Odd(x)", target) == []


def test_the_tables_name_what_there_is() -> None:
    known: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            known.setdefault(schema.name, set()).add(schema.since_version)
    assert TENSORRT.keys() <= known.keys()
    for operator, versions in CUDA.items():
        assert versions.keys() <= known[operator], operator


@pytest.mark.parametrize("target", TARGETS)
def test_squeezenet(target: str) -> None:
    model = ROOT / "engine" / "assets" / "squeezenet1_1.onnx"
    assert not unsupported(explain_graph(model, lowering=target).model, target)


def test_the_graph_for_cuda_is_not_for_tensorrt() -> None:
    model = ROOT / "engine" / "assets" / "squeezenet1_1.onnx"
    found = unsupported(explain_graph(model, ("vanilla",), lowering="cuda").model, "tensorrt")
    assert {r.operator for r in found} == {"MaxPool"} and all(r.ours for r in found)


def test_the_portable_graph_is_for_tensorrt_too() -> None:
    model = ROOT / "engine" / "assets" / "squeezenet1_1.onnx"
    assert not unsupported(explain_graph(model, ("vanilla",)).model, "tensorrt")


def test_check_tells_the_model_from_us() -> None:
    body = models.BODY.replace("Relu(h)", "LpPool<kernel_shape=[3,3],strides=[2,2]>(h)")
    report = check(models.tiny(body=body, opset=22), lowering="cuda")
    assert report.target == "cuda"
    assert {(r.operator, r.ours) for r in report.refused} >= {
        ("LpPool", False), ("ConvTranspose", True),
    }  # fmt: skip
    assert report.ok  # the CPU runs what CUDA hands back
    assert not check(models.tiny(), lowering="cuda").refused
    assert not check(models.tiny()).refused
    dilated = body.replace("strides=[2,2]", "dilations=[2,2]").replace("LpPool", "MaxPool")
    report = check(models.tiny(body=dilated), lowering="tensorrt")
    assert not report.ok and [r.ours for r in report.refused] == [False]
    data = report.to_dict()
    assert data["ok"] is False and data["refused"][0]["operator"] == "MaxPool"


def test_check_behind_an_obstacle_looks_at_the_model_alone() -> None:
    body = models.BODY.replace("r = Relu(h)", "r = com.example.Odd(h)")
    report = check(models.tiny(body=body), lowering="tensorrt")
    assert report.obstacles and {(r.operator, r.ours) for r in report.refused} == {("Odd", False)}
