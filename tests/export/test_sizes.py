"""Declared sizes that are none: -1, 0, one name for all, wherever a file can declare a shape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from backlight.errors import ModelError, UnsupportedNode, UsageError
from backlight.export.check import check
from backlight.export.graph import load
from backlight.export.receptive import receptive_fields
from backlight.export.saliency import explain_graph

from .harness import finite_difference, run_runtime
from .open_sizes import RNG, W, X, by_autograd, paddle, unranked


def by_differences(target: int) -> np.ndarray:
    """Of the scores, in float64, at each element."""
    model = paddle("N", "float64")
    model.graph.output[0].name = "s"
    del model.graph.node[-1]
    ct = np.zeros((2, 5))
    ct[:, target] = 1
    return finite_difference(model, {"x": X}, "x", ct, 1e-6)


def test_the_oracles_agree() -> None:
    np.testing.assert_allclose(by_autograd(2), by_differences(2), rtol=0, atol=1e-8)


@pytest.mark.parametrize("lowering", ["portable", "cpu", "cuda", "tensorrt"])
@pytest.mark.parametrize("inner", [True, False], ids=["inside too", "at the ends"])
@pytest.mark.parametrize("unknown", [-1, 0, -7, "?", "-1", "None", "", None, "N"], ids=repr)
def test_a_size_that_is_none_is_unknown(
    unknown: int | str | None, inner: bool, lowering: str
) -> None:
    graph = explain_graph(paddle(unknown, inner=inner), ("vanilla",), lowering=lowering)
    feeds = {"x": X.astype(np.float32), "target": np.array([2, 2])}
    found = run_runtime(graph.to_proto(), feeds)["saliency_vanilla"]
    np.testing.assert_allclose(found, by_autograd(2), rtol=0, atol=1e-5)


def test_models_of_onnx_ir_too() -> None:
    model = ir.from_proto(paddle())
    graph = explain_graph(model, ("vanilla",))
    feeds = {"x": X.astype(np.float32), "target": np.array([2, 2])}
    found = run_runtime(graph.to_proto(), feeds)["saliency_vanilla"]
    np.testing.assert_allclose(found, by_autograd(2), rtol=0, atol=1e-5)
    assert model.graph.inputs[0].shape == ir.Shape([-1, 3, -1, -1]), "the caller's own"


def test_inside_a_branch() -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
g (float[N,2] x, bool c) => (float[N,2] y) {
    y = If (c) <then_branch = t () => (float[M,2] p) { p = Mul(x, x) },
                else_branch = e () => (float[M,2] q) { q = Neg(x) }>
}"""
    model = onnx.parser.parse_model(text)
    for attribute in model.graph.node[0].attribute:
        attribute.g.output[0].type.tensor_type.shape.dim[0].dim_value = -1
    inner = load(model).graph[0].attributes["then_branch"].as_graph().outputs[0]
    assert inner.shape is not None and not isinstance(inner.shape[0], int)


def test_one_name_for_all_sizes_says_nothing_of_them() -> None:
    """[?,3] times [?,?] by name: of two sizes of that name one may be 1, and is summed over."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]>\n'
        "g (float[N,3] a, float[N,M] b) => (float[N,3] y) { y = Mul(a, b) }"
    )
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = "?"
    graph = explain_graph(model, ("vanilla",), of="y", wrt=["a", "b"], cotangent="input")
    a, ct = RNG.standard_normal((2, 3)), RNG.standard_normal((2, 3))
    for b in (RNG.standard_normal((1, 3)), RNG.standard_normal((2, 1))):
        feeds = {n: v.astype(np.float32) for n, v in (("a", a), ("b", b), ("cotangent", ct))}
        found = run_runtime(graph.to_proto(), feeds)
        axis = b.shape.index(1)
        want = (ct * a).sum(axis, keepdims=True)
        np.testing.assert_allclose(found["saliency_vanilla_0"], ct * b, atol=1e-6)
        np.testing.assert_allclose(found["saliency_vanilla_1"], want, atol=1e-6)


def test_an_empty_weight_stays_empty() -> None:
    """Resize's region of interest, that nobody uses, is float[0], also among the inputs."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]>\n'
        "g (float[1,3,4,4] x, float[0] roi, float[4] s) => (float[1,3,8,8] y) "
        "{ y = Resize(x, roi, s) }"
    )
    for name, array in (("roi", np.zeros(0)), ("s", np.array([1, 1, 2, 2]))):
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    loaded = load(model)
    assert loaded.graph.initializers["roi"].shape == ir.Shape([0])
    assert loaded.graph.outputs[0].shape == ir.Shape([1, 3, 8, 8])


def test_receptive_fields_of_open_sizes() -> None:
    field = receptive_fields(paddle(), ["c"], (40, 32))["c"]
    assert field.dims == (1, 4, 40, 32) and field.image == (40, 32) and field.size == (3, 3)
    assert receptive_fields(paddle(), ["c"])["c"].dims == (1, 4, 224, 224)


COMMANDS = ["filters", "activations", "patches", "embed", "deconvnet"]


@pytest.mark.parametrize("command", COMMANDS)
def test_listings_of_open_sizes(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    from backlight.engine.cli import run

    path, record = tmp_path / "paddle.onnx", tmp_path / "how.json"
    onnx.save(paddle(), path)
    record.write_text(json.dumps({"preset": "unit", "size": [40, 32]}))

    def shape(*more: str) -> list[int]:
        assert run([command, str(path), "--list", "--json", *more]) == 0
        found = json.loads(capsys.readouterr().out)
        return next(layer["shape"] for layer in found if layer["name"] == "c")

    assert shape() == [4, 224, 224]
    assert shape("--preprocess", str(record)) == [4, 40, 32]


def test_a_listing_for_a_size_that_the_model_does_not_take() -> None:
    model = paddle()
    for axis, size in ((2, 64), (3, 64)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    with pytest.raises(UsageError, match="takes 64"):
        receptive_fields(model, ["c"], (40, 32))


ANY_SIZE = """<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,H,W] x) => (float[N,4] y) {
    c = Conv<auto_pad = "SAME_UPPER", strides = [2,2]>(x, w, b)
    r = Relu(c)
    p = GlobalAveragePool(r)
    y = Flatten(p)
}"""


def any_size() -> onnx.ModelProto:
    model = onnx.parser.parse_model(ANY_SIZE)
    for name in "wb":
        array = numpy_helper.from_array(W[name].astype(np.float32), name)
        model.graph.initializer.append(array)
    return model


def test_a_shape_that_is_given_settles_what_is_open() -> None:
    torch = pytest.importorskip("torch")
    cubic = any_size()
    resize = helper.make_node("Resize", ["x", "", "twice"], ["large"], mode="cubic")
    cubic.graph.node.insert(0, resize)
    twice = np.array([1, 1, 2, 2], np.float32)
    cubic.graph.initializer.append(numpy_helper.from_array(twice, "twice"))
    cubic.graph.node[1].input[0] = "large"
    # By the image itself: left to us, the gradient is taken behind the Resize.
    with pytest.raises(UnsupportedNode, match="mode = cubic.*--shape"):
        explain_graph(cubic, ("vanilla",), wrt="x")
    explain_graph(cubic, ("vanilla",), shapes={"x": (2, 3, 9, 7)})
    late = explain_graph(any_size(), ("vanilla",)).to_proto()
    graph = explain_graph(any_size(), ("vanilla",), shapes={"x": (2, 3, 9, 7)})
    feeds = {"x": X.astype(np.float32), "target": np.array([2, 2])}
    found = run_runtime(graph.to_proto(), feeds)["saliency_vanilla"]
    np.testing.assert_allclose(run_runtime(late, feeds)["saliency_vanilla"], found, atol=1e-6)
    x = torch.tensor(X, requires_grad=True)
    # 9 x 7 at a stride of 2, windows of 3: one row and column of zeros on either side.
    c = torch.nn.functional.conv2d(
        x, torch.tensor(W["w"]), torch.tensor(W["b"]), stride=2, padding=1
    )
    torch.relu(c).mean((2, 3))[:, 2].sum().backward()
    np.testing.assert_allclose(found, x.grad.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"z": (1, 3, 9, 7)}, "no input 'z' to shape; accepted: x"),
        ({"x": (1, 4, 9, 7)}, "doesn't fit input 'x'"),
        ({"x": (3, 9, 7)}, "doesn't fit input 'x'"),
        ({"x": (1, 3, 0, 7)}, "above 0"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        explain_graph(any_size(), shapes=shapes)


def test_a_shape_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from backlight.engine.cli import run

    onnx.save(any_size(), tmp_path / "m.onnx")
    line = ["export", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "e.onnx"), "--shape"]
    assert run([*line, "x=1,3,9,7"]) == 0
    dims = onnx.load(tmp_path / "e.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [1, 3, 9, 7]
    for bad in ("x", "x=", "=1,2", "x=1,-3", "x=1,a"):
        assert run([*line, bad, "--force"]) == 2
        assert "expected INPUT=SIZES" in capsys.readouterr().err


WHICH = """<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,H,W] x) => (float[N,5] y) {
    d = Shape<start=2, end=3>(x)
    eight = Constant<value_ints=[8]>()
    large = Greater(d, eight)
    z = Constant<value_ints=[0]>()
    c = Squeeze(large, z)
    p = If (c) <then_branch = t () => (float[N,3,K,L] q) {
                    q = AveragePool<kernel_shape=[3,3], strides=[2,2]>(x) },
                else_branch = e () => (float[N,3,K,L] r) { r = Identity(x) }>
    k = Conv<pads=[1,1,1,1]>(p, w, b)
    h = Relu(k)
    g = GlobalAveragePool(h)
    f = Flatten(g)
    y = MatMul(f, v)
}"""


def which() -> onnx.ModelProto:
    """Large images are made smaller first: a condition that only sizes settle."""
    model = onnx.parser.parse_model(WHICH)
    for name, array in W.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


@pytest.mark.parametrize("size", [(9, 7), (8, 7)], ids=["large", "small"])
def test_a_condition_that_sizes_settle(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(UnsupportedNode, match="--shape"):
        explain_graph(which(), ("vanilla",))
    (found,) = check(which()).obstacles
    assert "--shape" in found.line()
    images = X[:, :, : size[0]]
    shapes = {"x": (2, 3, *size)}
    assert check(which(), shapes=shapes).ok
    graph = explain_graph(which(), ("vanilla",), shapes=shapes).to_proto()
    assert not any(node.op_type == "If" for node in graph.graph.node)
    feeds = {"x": images.astype(np.float32), "target": np.array([2, 2])}
    x = torch.tensor(images, requires_grad=True)
    p = torch.nn.functional.avg_pool2d(x, 3, 2) if size[0] > 8 else x
    h = torch.nn.functional.conv2d(p, torch.tensor(W["w"]), torch.tensor(W["b"]), padding=1)
    (torch.relu(h).mean((2, 3)) @ torch.tensor(W["v"]))[:, 2].sum().backward()
    found_map = run_runtime(graph, feeds)["saliency_vanilla"]
    np.testing.assert_allclose(found_map, x.grad.numpy(), rtol=0, atol=1e-5)


def test_an_input_of_no_declared_rank() -> None:
    with pytest.raises(ModelError, match=r"--shape x=1,3,224,224"):
        explain_graph(unranked(), ("vanilla",))
    shapes = {"x": (2, 3, 9, 7)}
    graph = explain_graph(unranked(), ("vanilla",), shapes=shapes).to_proto()
    feeds = {"x": X.astype(np.float32), "target": np.array([2, 2])}
    found = run_runtime(graph, feeds)["saliency_vanilla"]
    np.testing.assert_allclose(found, by_autograd(2), rtol=0, atol=1e-5)
