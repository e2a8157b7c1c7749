"""An If whose condition is known is the branch that it takes: against that branch by itself."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backlight.export.graph import load
from backlight.export.saliency import explain_graph

from .harness import finite_difference, run_reference, run_runtime, vjp_graph

Array = np.ndarray[Any, Any]
X = np.random.default_rng(0).standard_normal((2, 3))


def _info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.DOUBLE, [2, 3])


def _branch(name: str, nodes: list[onnx.NodeProto], output: str, **consts: Array) -> Any:
    tensors = [numpy_helper.from_array(value, key) for key, value in consts.items()]
    return helper.make_graph(nodes, name, [], [_info(output)], tensors)


def _if(condition: str, then: Any, other: Any, name: str = "", output: str = "y") -> Any:
    return helper.make_node("If", [condition], [output], name, then_branch=then, else_branch=other)


def _model(nodes: list[onnx.NodeProto], **consts: Array) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(value, key) for key, value in consts.items()]
    graph = helper.make_graph(nodes, "branches", [_info("x")], [_info("y")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _times(factor: float, name: str = "w") -> Any:
    """x times an initializer of the branch's own; branches may use the same names."""
    node = helper.make_node("Mul", ["x", name], ["out"], "times")
    return _branch("b", [node], "out", **{name: np.array(factor)})


def _nested(outer: bool, inner: bool) -> onnx.ModelProto:
    """If within If, all four leaves with initializers of the same name."""
    branches = [
        _branch("n", [_if("inner", _times(a), _times(b), output="out")], "out")
        for a, b in ((2.0, 3.0), (5.0, 7.0))
    ]
    return _model([_if("outer", *branches)], outer=np.array(outer), inner=np.array([inner]))


def _gradient(model: onnx.ModelProto) -> Array:
    ct = np.random.default_rng(1).standard_normal((2, 3))
    graph = vjp_graph(model, ["x"])
    assert not any(node.op_type == "If" for node in graph.graph.node)
    onnx.checker.check_model(graph, full_check=True)
    got = run_reference(graph, {"x": X, "cotangent": ct})["saliency_vanilla"]
    np.testing.assert_allclose(got, finite_difference(model, {"x": X}, "x", ct, 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(run_runtime(graph, {"x": X, "cotangent": ct})["y"],
                                  run_reference(model, {"x": X})["y"])  # fmt: skip
    return np.asarray(got / ct)


@pytest.mark.parametrize(
    ("outer", "inner", "factor"),
    [(True, True, 2), (True, False, 3), (False, True, 5), (False, False, 7)],
)
def test_nested(outer: bool, inner: bool, factor: float) -> None:
    np.testing.assert_allclose(_gradient(_nested(outer, inner)), factor)


@pytest.mark.parametrize("places", [1, [1], [-1], [[1]]])
@pytest.mark.parametrize("cut", [{}, {"start": 0}, {"end": 2}])
def test_a_size_beside_an_open_one(places: Any, cut: dict[str, int]) -> None:
    """As PyTorch's exporter asks whether an axis is 1, of a model with an open batch."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], **cut),
        helper.make_node("Gather", ["s", "places"], ["d"]),
        helper.make_node("ReduceMax", ["d"], ["m"], keepdims=0),
        helper.make_node("Equal", ["m", "three"], ["same"]),
        _if("same", _times(2.0), _times(5.0)),
    ]
    model = _model(nodes, places=np.array(places), three=np.array(3))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for branch in (a.g for a in model.graph.node[-1].attribute):
        branch.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    np.testing.assert_allclose(_gradient(model), 2)


def test_an_open_size_decides_in_the_run() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["d"]),
        helper.make_node("Equal", ["d", "three"], ["same"]),
        _if("same", _times(2.0), _times(5.0)),
    ]
    model = _model(nodes, zero=np.array(0), three=np.array(3))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert any(n.op_type == "If" for n in load(model).graph)


def test_many_levels() -> None:
    inner = _times(2.0)
    for _ in range(12):
        inner = _branch("n", [_if("c", inner, _times(3.0), output="out")], "out")
    model = _model([_if("c", inner, _times(3.0))], c=np.array(True))
    np.testing.assert_allclose(_gradient(model), 2)


def test_two_with_the_same_names_inside() -> None:
    model = _model(
        [
            _if("c", _times(2.0), _times(3.0), output="a"),
            _if("d", _times(5.0), _times(7.0), output="b"),
            helper.make_node("Mul", ["a", "b"], ["y"]),
        ],
        c=np.array(True),
        d=np.array(False),
    )
    np.testing.assert_allclose(_gradient(model), 2 * 2 * 7 * X)


def test_an_output_that_is_an_initializer() -> None:
    model = _model(
        [
            _if("c", _branch("t", [], "w", w=np.full((2, 3), 4.0)), _times(3.0), output="a"),
            helper.make_node("Mul", ["a", "x"], ["y"]),
        ],
        c=np.array(True),
    )
    np.testing.assert_allclose(_gradient(model), 4.0)


def test_what_was_given_is_not_changed() -> None:
    model = _nested(True, False)
    before = model.SerializeToString()
    load(model)
    assert model.SerializeToString() == before


def test_a_condition_from_shapes() -> None:
    model = _model(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["rows"]),
            helper.make_node("Equal", ["rows", "two"], ["c"]),
            _if("c", _times(2.0), _times(3.0)),
        ],
        zero=np.array(0),
        two=np.array(2),
    )
    np.testing.assert_allclose(_gradient(model), 2)


@pytest.mark.parametrize(
    "picked",
    [
        [helper.make_node("Gather", ["s", "first"], ["d"])],
        [helper.make_node("Gather", ["s", "back"], ["d"])],
        [helper.make_node("Slice", ["s", "one", "two"], ["p"]),
         helper.make_node("Squeeze", ["p"], ["d"])],
        [helper.make_node("Slice", ["s", "one", "far"], ["p"]),
         helper.make_node("Cast", ["p"], ["q"], to=onnx.TensorProto.INT64),
         helper.make_node("ReduceProd", ["q"], ["d"], keepdims=0)],
    ],
)  # fmt: skip
@pytest.mark.parametrize("asked", [3, 4])
def test_a_condition_from_a_size_beside_an_open_one(
    picked: list[onnx.NodeProto], asked: int
) -> None:
    """The batch is open, as in most files, and the condition asks for another size."""
    model = _model(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            *picked,
            helper.make_node("Equal", ["d", "asked"], ["c"]),
            _if("c", _times(2.0), _times(3.0)),
        ],
        first=np.array(1), back=np.array(-1), one=np.array([1]), two=np.array([2]),
        far=np.array([9]), asked=np.array(asked),
    )  # fmt: skip
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    assert not any(node.op_type == "If" for node in load(model).graph)
    np.testing.assert_allclose(_gradient(model), 2 if asked == 3 else 3)


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
def test_squeezed_by_pytorch(dynamo: bool) -> None:
    """Its older exporter asks whether the size is 1, and writes an If."""
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)

        def forward(self, x: Any) -> Any:
            pooled = torch.nn.functional.adaptive_avg_pool2d(torch.relu(self.one(x)), 1)
            return self.two(pooled.squeeze(3).squeeze(-1))

    file, x = io.BytesIO(), torch.randn(2, 3, 8, 8, requires_grad=True)
    named = {"dynamic_shapes": ({0: "N"},)} if dynamo else {"dynamic_axes": {"x": {0: "N"}}}
    net = Net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), file, input_names=["x"], dynamo=dynamo, verbose=False, **named)
    net(x)[:, 1].sum().backward()
    graph = explain_graph(file.getvalue(), ("vanilla",))
    feeds = {"x": x.detach().numpy(), "target": np.array([1, 1])}
    found = run_runtime(graph.to_proto(), feeds)["saliency_vanilla"]
    np.testing.assert_allclose(found, x.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_a_condition_of_the_run_stays() -> None:
    model = _model(
        [
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
            helper.make_node("Greater", ["s", "zero"], ["c"]),
            _if("c", _times(2.0), _times(3.0)),
        ],
        zero=np.array(0.0),
    )
    assert any(node.op_type == "If" for node in load(model).graph)


def test_a_name_that_the_graph_has_already() -> None:
    """In front of the branch something is folded, which makes a name too."""
    model = _model(
        [
            helper.make_node("Add", ["two", "two"], ["four"]),
            _if("c", _times(2.0), _times(3.0), name="i", output="a"),
            helper.make_node("Mul", ["a", "i/w"], ["b"]),
            helper.make_node("Mul", ["b", "four"], ["y"]),
        ],
        **{"two": np.array(2.0), "i/w": np.array(5.0), "c": np.array(True)},
    )
    np.testing.assert_allclose(_gradient(model), 2 * 5 * 4)


def test_the_tensor_keeps_the_name_that_the_file_shows() -> None:
    """Inside of the graph too: what an If makes is known by its own output's name."""
    nodes = [
        _if("yes", _times(2.0), _times(3.0), output="h"),
        helper.make_node("Neg", ["h"], ["y"]),
    ]
    loaded = load(_model(nodes, yes=np.array(True)))
    made = {v.name for node in loaded.graph for v in node.outputs}
    assert {"h", "y"} <= made


def test_inference_sees_no_if_whose_condition_is_a_constant(monkeypatch: pytest.MonkeyPatch):
    """It takes all names around an If anew for each of its branches: a square for a chain."""
    nodes, x = [], "x0"
    for i in range(4):
        branches = {
            f"{which}_branch": helper.make_graph(
                [helper.make_node(op, [x], [f"{which}{i}"])], which, [], [_info(f"{which}{i}")]
            )
            for which, op in (("then", "Relu"), ("else", "Tanh"))
        }
        nodes.append(helper.make_node("If", ["c"], [f"x{i + 1}"], **branches))
        x = f"x{i + 1}"
    held = numpy_helper.from_array(np.array(True), "c")
    graph = helper.make_graph(nodes, "chain", [_info("x0")], [_info(x)], [held])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    seen: list[list[str]] = []
    infer = onnx.shape_inference.infer_shapes

    def spied(proto: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
        seen.append([n.op_type for n in proto.graph.node])
        return infer(proto, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", spied)
    assert [n.op_type for n in load(model).graph] == ["Relu"] * 4
    assert seen
    assert all("If" not in ops for ops in seen)
