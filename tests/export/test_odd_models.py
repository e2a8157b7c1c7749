"""Models that the standard allows and that few people have, against finite differences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import pytest

from backlight.errors import UnsupportedNode
from backlight.export.check import check

from .harness import (
    finite_difference,
    run_reference,
    run_runtime,
    saliency_names,
    signed,
    vjp_graph,
)

X = signed(np.random.default_rng(3), (2, 3))
HEAD = '<ir_version: 10, opset_import: ["": 18, "me": 1]>\n'
Feeds = Mapping[str, np.ndarray]


def agrees(model: onnx.ModelProto, feeds: Feeds, wrt: tuple[str, ...] = ("x",)) -> None:
    """Both evaluators give what the reference says by moving each element; ONNX Runtime, too."""
    y = run_runtime(model, feeds)["y"]
    np.testing.assert_allclose(y, run_reference(model, feeds)["y"], rtol=1e-12)
    ct = np.random.default_rng(7).standard_normal(y.shape)
    graph = vjp_graph(model, wrt)
    for run in (run_reference, run_runtime):
        got = run(graph, {**feeds, "cotangent": ct})
        np.testing.assert_allclose(got["y"], y, rtol=1e-12)
        for name, output in zip(wrt, saliency_names("vanilla", wrt), strict=True):
            want = finite_difference(model, feeds, name, ct, 1e-5)
            assert got[output].shape == want.shape
            np.testing.assert_allclose(got[output], want, rtol=1e-5, atol=1e-7)


CHOSEN = """g (double[2,3] x) => (double[2,3] y) <bool c = {%d}> {
    %s = If (c) <
        then_branch = t () => (double[2,3] p) { p = Mul(x, x) },
        else_branch = e () => (double[2,3] q) { q = Neg(x) }>
%s}"""


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("condition", [0, 1])
def test_the_branch_of_a_constant_condition_is_taken(condition: int, inside: bool) -> None:
    text = CHOSEN % (condition, "z" if inside else "y", "    y = Exp(z)\n" * inside)
    agrees(onnx.parser.parse_model(HEAD + text), {"x": X})


@pytest.mark.parametrize("shape", [(2, 1, 3), (6,)])
def test_broadcasting_over_a_rank_that_only_the_run_knows(shape: tuple[int, ...]) -> None:
    text = """g (double[2,3] x, double[1] b, double s, int64[L] to) => (double[K] y) {
    r = Reshape(x, to)
    a = Mul(r, b)
    c = Div(a, s)
    d = Relu(c)
    flat = Constant<value = int64[1] {-1}>()
    y = Reshape(d, flat)
}"""
    feeds = {"x": X, "b": np.array([1.5]), "s": np.array(-0.7), "to": np.array(shape)}
    agrees(onnx.parser.parse_model(HEAD + text), feeds, ("x", "b", "s"))


def test_sizes_of_a_split_that_only_the_run_knows() -> None:
    text = """g (double[2,3] x, int64[2] sizes) => (double[2,K] y) {
    a, b = Split<axis = -1>(x, sizes)
    c = Exp(b)
    y = Concat<axis = 1>(c, a)
}"""
    agrees(onnx.parser.parse_model(HEAD + text), {"x": X, "sizes": np.array([1, 2])})


def test_sparse_constants_and_initializers() -> None:
    model = onnx.parser.parse_model(
        HEAD + "g (double[2,3] x) => (double[2,3] y) {\n    a = Mul(x, k)\n    y = Add(a, i)\n}"
    )
    values = onnx.helper.make_tensor("i", onnx.TensorProto.DOUBLE, [2], [2.0, -3.0])
    flat = onnx.helper.make_tensor("at", onnx.TensorProto.INT64, [2], [0, 2])
    rows = onnx.helper.make_tensor("at", onnx.TensorProto.INT64, [2, 2], [0, 1, 1, 2])
    node = onnx.helper.make_node("Constant", [], ["k"])
    sparse = onnx.helper.make_sparse_tensor(values, flat, [3])
    node.attribute.append(onnx.helper.make_attribute("sparse_value", sparse))
    model.graph.node.insert(0, node)
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, rows, [2, 3]))
    y = run_runtime(model, {"x": X})["y"]
    np.testing.assert_array_equal(y, X * [2, 0, -3] + [[0, 2, 0], [0, 0, -3]])
    got = run_runtime(vjp_graph(model, ["x"]), {"x": X, "cotangent": np.ones((2, 3))})
    np.testing.assert_array_equal(got["y"], y)
    np.testing.assert_array_equal(got["saliency_vanilla"], [[2, 0, -3]] * 2)


def test_a_function_of_an_older_opset_whose_operators_are_the_same() -> None:
    text = """g (double[2,3] x) => (double[2,3] y) { y = me.square(x) }
<domain: "me", opset_import: ["": 15]>
square (a) => (b) { r = Relu(a)  b = Mul(r, a) }"""
    agrees(onnx.parser.parse_model(HEAD + text), {"x": X})


def test_a_function_of_a_standard_operators_name_is_ignored_as_runtimes_do() -> None:
    text = """g (double[2,3] x) => (double[2,3] y) { y = Softsign(x) }
<domain: "", opset_import: ["": 18]>
Softsign (a) => (b) { b = Mul(a, a) }"""
    agrees(onnx.parser.parse_model(HEAD + text), {"x": X})


def test_the_domain_spelled_out() -> None:
    text = """<ir_version: 10, opset_import: ["ai.onnx": 11]>
g (double[2,3] x) => (double[6] y) {
    a = Unsqueeze<axes = [0]>(x)
    b = Squeeze<axes = [0]>(a)
    c = Tanh(b)
    flat = Constant<value = int64[1] {-1}>()
    y = Reshape(c, flat)
}"""
    model = onnx.parser.parse_model(text)
    ct = np.arange(6.0)
    got = run_runtime(vjp_graph(model, ["x"]), {"x": X, "cotangent": ct})
    want = ct.reshape(2, 3) * (1 - np.tanh(X) ** 2)
    np.testing.assert_allclose(got["saliency_vanilla"], want, rtol=1e-6)


def test_a_further_output_without_a_rule_is_refused() -> None:
    text = """g (float[2,3,4] x, float[3] s) => (float[2,3,4] y) {
    a, m, v = BatchNormalization(x, s, s, s, s)
    b = Unsqueeze(m, k)
    y = Mul(a, b)
}"""
    model = onnx.parser.parse_model(HEAD + text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "k"))
    with pytest.raises(
        UnsupportedNode, match="BatchNormalization '.*': no gradient rule for its fu"
    ):
        vjp_graph(model, ["s"])
    (found,) = check(model, of="y", wrt="s").obstacles
    assert found.operator == "BatchNormalization"
    assert "further outputs" in found.reason


def test_a_weight_behind_constant_arithmetic() -> None:
    text = """g (double[2,4] x) => (double[2,3] y) {
    w3 = Transpose(w)
    w2 = Mul(w3, w3)
    y = MatMul(x, w2)
}"""
    model = onnx.parser.parse_model(HEAD + text)
    w = np.arange(1.0, 13.0).reshape(3, 4)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    x, ct = np.arange(8.0).reshape(2, 4), np.arange(6.0).reshape(2, 3)
    got = run_runtime(vjp_graph(model, ["w", "w3"]), {"x": x, "cotangent": ct})
    np.testing.assert_allclose(got["saliency_vanilla_0"], 2 * w * (ct.T @ x))
    np.testing.assert_allclose(got["saliency_vanilla_1"], got["saliency_vanilla_0"].T)
    assert check(model, of="y", wrt="w").ok


NORMALIZED = """<ir_version: 7, opset_import: ["": 9]>
g (float[2,3,2,2] x) => (float[2,3,2,2] y) { y%s = BatchNormalization%s(x, s, b, b, v) }"""


def normalized(outputs: str, attributes: str, shape: tuple[int, ...] = (3,)) -> onnx.ModelProto:
    model = onnx.parser.parse_model(NORMALIZED % (outputs, attributes))
    for name in "sbv":
        value = np.full(shape, 2.0 + ord(name) % 5, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


def test_old_forms_of_batch_normalization() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    feeds = {"x": x, "cotangent": x - 5}
    want = run_runtime(vjp_graph(normalized("", ""), ["x"]), feeds)
    for outputs, attributes in (("", "<spatial = 0>"), (", m, v1, sm, sv", "<spatial = 1>")):
        got = run_runtime(vjp_graph(normalized(outputs, attributes), ["x"]), feeds)
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value)


def test_what_batch_normalization_refuses() -> None:
    with pytest.raises(UnsupportedNode, match="BatchNorm.*: spatial = 0; supported: spatial = 1"):
        vjp_graph(normalized("", "<spatial = 0>", (3, 2, 2)), ["x"])
    trained = normalized(", m, u, k, l", "")
    trained.graph.output.append(onnx.helper.make_tensor_value_info("m", 1, [3]))
    with pytest.raises(UnsupportedNode, match="BatchNorm.*: its training outputs are used; supp"):
        vjp_graph(trained, ["x"])


@pytest.mark.parametrize("opset", [10, 11, 13])
def test_a_slice_of_an_axis_of_any_size_has_another_size(opset: int) -> None:
    """What broadcasts behind it is summed: 1 of 3 is left, added to all 3."""
    text = f"""<ir_version: 7, opset_import: ["": {opset}]>
g (float[N,W] x) => (float[N,W] y) {{
    s = Slice(x, from, to, axes)
    y = Mul(s, x)
}}"""
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for name, value in (("from", 1), ("to", 2), ("axes", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    got = run_runtime(vjp_graph(model, ["x"]), {"x": x, "cotangent": np.ones((2, 3), np.float32)})
    want = np.repeat(x[:, 1:2], 3, axis=1)
    want[:, 1] += x.sum(axis=1)
    np.testing.assert_array_equal(got["saliency_vanilla"], want)


HALVES = {
    "MaxPool": "y = MaxPool<kernel_shape = [2, 2]>(x)",
    "Gather": "i = Constant<value = int64[6] {1,1,1,1,1,0}>()\n    y = Gather<axis = 2>(x, i)",
    "a number": "y = ReduceMean<keepdims = 0>(x)",
}


@pytest.mark.parametrize("what", HALVES)
def test_a_model_in_half_runs_on_the_cpu(what: str) -> None:
    """ONNX Runtime's CPU provider adds up no halves in a scatter."""
    x = np.random.default_rng(5).standard_normal((2, 2, 3, 3))
    maps = []
    for kind, sort in (("float", np.float32), ("float16", np.float16)):
        text = f"g ({kind}[2,2,3,3] x) => ({kind} y) {{\n    {HALVES[what]}\n}}"
        model = onnx.parser.parse_model(HEAD + text)
        model.graph.output[0].type.tensor_type.ClearField("shape")
        ct = run_runtime(model, {"x": x.astype(sort)})["y"]
        got = run_runtime(vjp_graph(model, ["x"]), {"x": x.astype(sort), "cotangent": ct})
        maps.append(got["saliency_vanilla"])
    assert maps[1].dtype == np.float32  # unless halves are asked for
    np.testing.assert_allclose(maps[1], maps[0], rtol=5e-3, atol=5e-3)


BATCHES = {
    "Conv": "y = Conv<strides = [2, 2]>(x, w)",
    "MaxPool": "y = MaxPool<kernel_shape = [2, 2]>(x)",
    "AveragePool": "y = AveragePool<kernel_shape = [2, 2], pads = [1, 1, 0, 0]>(x)",
    "GlobalAveragePool": "y = GlobalAveragePool(x)",
    "GlobalMaxPool": "y = GlobalMaxPool(x)",
    "LRN": "y = LRN<size = 3>(x)",
    "DepthToSpace": 'y = DepthToSpace<blocksize = 2, mode = "CRD">(x)',
    "ReduceMean": "y = ReduceMean<keepdims = 0>(x, axes)",
}


@pytest.mark.parametrize("op", BATCHES)
def test_a_batch_of_none(op: str) -> None:
    """Of no images there is no map, and no error."""
    sizes = "H,W" if op in ("GlobalAveragePool", "ReduceMean") else "4,4"
    text = f"g (float[N,4,{sizes}] x) => (float y) {{ {BATCHES[op]} }}"
    model = onnx.parser.parse_model(HEAD + text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for name, value in (("w", np.ones((2, 4, 3, 3), np.float32)), ("axes", np.array([2, 3]))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    none = np.zeros((0, 4, 4, 4), np.float32)
    ct = run_runtime(model, {"x": none})["y"]
    got = run_runtime(vjp_graph(model, ["x"]), {"x": none, "cotangent": ct})
    assert got["saliency_vanilla"].shape == none.shape
