"""Models of one image, without a batch dimension: explained as a batch of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import backlight
from backlight.errors import InputError
from backlight.export import choose
from backlight.export.check import check
from backlight.export.graph import load
from backlight.export.lone import is_lone
from backlight.export.methods import METHODS
from backlight.export.saliency import explain_graph

from .harness import finite_difference, run_runtime
from .lone_models import FRONTS, HEAD, SOFTMAX, W, by_autograd, image, net


def by_differences(front: str, x: np.ndarray, target: int) -> np.ndarray:
    """Of the score before the Softmax, in float64, at each element."""
    model = net(front, "[1,K]", "double")
    del model.graph.node[-1]
    model.graph.output[0].name = "s"
    ct = np.eye(5)[[target]]
    return finite_difference(model, {"x": x.astype(np.float64)}, "x", ct, 1e-6)


@pytest.mark.parametrize("kind", ["float", "uint8"])
@pytest.mark.parametrize("scores", SOFTMAX)
@pytest.mark.parametrize("front", FRONTS)
def test_the_exported_file(front: str, scores: str, kind: str) -> None:
    model, x = net(front, scores, kind), image(front, kind)
    graph = explain_graph(model, ("vanilla", "gradcam"))
    proto = graph.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    ours = {v.name: v for v in (*proto.graph.input, *proto.graph.output)}
    for value in (*model.graph.input, *model.graph.output):
        assert ours[value.name].type == value.type, "inputs and outputs are the model's own"
    assert [d.dim_value for d in ours["target"].type.tensor_type.shape.dim] == [1]
    found = run_runtime(proto, {"x": x, "target": np.array([2])})
    np.testing.assert_allclose(found["y"], run_runtime(model, {"x": x})["y"], rtol=1e-6)
    assert found["saliency_vanilla"].shape == x.shape
    assert found["saliency_gradcam"].shape == (1, 8, 6)
    for oracle in (by_autograd, by_differences):
        np.testing.assert_allclose(
            found["saliency_vanilla"], oracle(front, x, 2), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("front", FRONTS)
def test_the_largest_over_channels(front: str) -> None:
    x = image(front)
    graph = explain_graph(net(front, "[K]"), ("vanilla",), reduce="maxabs")
    found = run_runtime(graph.to_proto(), {"x": x, "target": np.array([2])})["saliency_vanilla"]
    axis = 0 if x.shape[0] == 3 else 2
    want = np.abs(by_autograd(front, x, 2)).max(axis=axis)[None]
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("front", FRONTS)
def test_in_front_of_a_convolution_nothing_is_left_of_it(front: str) -> None:
    """Receptive fields, patches and layers are those of any other model."""
    graph = load(net(front, "[K]")).graph
    found = choose.image_input(graph)
    assert is_lone(found.input)
    assert found.channel_axis == (1 if FRONTS[front][0].startswith("3") else 3)
    kinds = [node.op_type for node in graph]
    assert "Unsqueeze" not in kinds[: kinds.index("Conv")]
    assert "Squeeze" not in kinds[: kinds.index("Conv")]


@pytest.mark.parametrize(
    "text",
    [
        "float[N,8,6] x) => (float[N,8,6] y) { y = Softmax(x) }",
        "float[3,8,6] x) => (float[3,8,6] y) { y = Softmax(x) }",
        # A batch of three grey images: the channels are put in.
        "float[3,8,6] x) => (float[3,48] y) "
        "{ o = Constant<value_ints=[1]>() a = Unsqueeze(x, o) r = Relu(a) y = Flatten(r) }",
        # Points: three numbers each.
        "float[N,100,3] x) => (float[N,3] y) "
        "{ o = Constant<value_ints=[1]>() y = ReduceMax<keepdims=0>(x, o) }",
        "float[1,3,8,6] x) => (float[1,144] y) { y = Flatten(x) }",
    ],
    ids=["rows", "three rows", "three grey images", "points", "a batch of one"],
)
def test_what_has_a_batch_keeps_it(text: str) -> None:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]>\ng ({text}')
    assert not any(is_lone(v) for v in load(model).graph.inputs)


def test_check() -> None:
    report = check(net("[H,W,3]", "[K]", "uint8"))
    assert report.ok and report.classes == 5 and report.input == "x"


def test_float16_weights() -> None:
    graph = explain_graph(net("[3,8,6]", "[K]"), ("vanilla",), lowering="cuda", dtype="float16")
    proto = graph.to_proto()
    dims = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [3, 8, 6]
    found = run_runtime(proto, {"x": image("[3,8,6]"), "target": np.array([2])})
    want = by_autograd("[3,8,6]", image("[3,8,6]"), 2)
    assert np.abs(found["saliency_vanilla"] - want).max() < 0.02 * np.abs(want).max()


def test_sides_of_which_nothing_is_known() -> None:
    model, x = net("[H,W,3]", "[1,K]"), image("[H,W,3]")
    for dim in model.graph.input[0].type.tensor_type.shape.dim[:2]:
        dim.ClearField("dim_param")
    found = run_runtime(
        explain_graph(model, ("vanilla",)).to_proto(), {"x": x, "target": np.array([2])}
    )
    want = by_autograd("[H,W,3]", x, 2)
    np.testing.assert_allclose(found["saliency_vanilla"], want, rtol=0, atol=1e-5)


def batched() -> onnx.ModelProto:
    """The net of "[3,8,6]" with a batch of any size."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,8,6] x) => (float[N,5] y) {{ b = Sub(x, wide) {HEAD.format(x="b")}
    y = Softmax<axis=-1>(s) }}"""
    )
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in W.items()
    )
    return model


@pytest.mark.parametrize("front", ["[3,H,W]", "[3,8,6]"])
@pytest.mark.parametrize("scores", SOFTMAX)
@pytest.mark.parametrize("target", ["input", "top1", 3])
def test_every_method_as_with_a_batch_of_one(front: str, scores: str, target: str | int) -> None:
    """Those that run variants of an image need a batch of any size; of that it says so."""
    x, feeds = image(front), {"target": np.array([4]), "contrast": np.array([-1])}
    names = [n for n, row in METHODS.items() if row.held == "graph" and not row.needs]
    for name in names:
        ask: dict[str, Any] = {"methods": (name,), "target_class": target}
        refused = "batch" if METHODS[name].varies else "how many there are is open"
        if METHODS[name].varies or (name == "reciprocam" and front == "[3,H,W]"):
            with pytest.raises(InputError, match=refused):
                backlight.export(net(front, scores), **ask)
            continue
        found = []
        for model, given in ((net(front, scores), x), (batched(), x[None])):
            proto = backlight.export(model, **ask)
            held = {i.name for i in proto.graph.input}
            found.append(run_runtime(proto, {k: v for k, v in ({"x": given} | feeds).items()
                                             if k in held}))  # fmt: skip
        got, want = (f[f"saliency_{name}"] for f in found)
        np.testing.assert_allclose(
            got, want[0] if METHODS[name].shaped_as_image("none") else want,
            rtol=1e-4, atol=1e-6, err_msg=name,
        )  # fmt: skip
