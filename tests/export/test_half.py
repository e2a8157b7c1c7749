"""Typed graphs of float16 and bfloat16: finite, close to float32, and as declared outside."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.direct.explainer import Explainer
from backlight.engine.measure import compare
from backlight.errors import UnsupportedNode, UsageError
from backlight.export.check import check
from backlight.export.lowering.support import unsupported
from backlight.export.saliency import explain_graph
from backlight.export.scaling import cuts

from .. import models
from .harness import run_reference, run_runtime

F, H = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
RULES = ("vanilla", "deconv", "guided")
X = models.images(2, 3, 8, 8)
FEEDS = {"x": X, "target": np.array([2, -1])}


def drift(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> dict[str, float]:
    return {r: compare.cosine(got[f"saliency_{r}"], want[f"saliency_{r}"]) for r in RULES}


def test_inside_is_half_and_outside_as_declared() -> None:
    proto = explain_graph(models.tiny(), dtype="float16").to_proto()
    onnx.checker.check_model(proto, full_check=True)
    ends = [*proto.graph.input, *proto.graph.output]
    assert {v.name: v.type.tensor_type.elem_type for v in ends} == {
        "x": F, "target": onnx.TensorProto.INT64, "prob": F,
        **{f"saliency_{r}": F for r in RULES},
    }  # fmt: skip
    weights = {t.data_type for t in proto.graph.initializer if len(t.dims) > 1}
    assert weights == {H}
    inferred = onnx.shape_inference.infer_shapes(proto)
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    made = {n.op_type: kinds.get(n.output[0]) for n in proto.graph.node}
    assert made["Conv"] == made["Gemm"] == made["Relu"] == H
    assert made["GlobalAveragePool"] == F


@pytest.mark.parametrize("lowering", ["portable", "cuda", "tensorrt"])
def test_agrees_with_float32_and_targets_take_it(lowering: str) -> None:
    graph = explain_graph(models.tiny(), lowering=lowering, dtype="float16")
    proto = graph.to_proto()
    want = run_runtime(explain_graph(models.tiny()).to_proto(), FEEDS)
    for run in (run_runtime, run_reference):
        got = run(proto, FEEDS)
        np.testing.assert_allclose(got["prob"], want["prob"], atol=2e-3)
        assert min(drift(got, want).values()) > 0.9999
    assert not unsupported(graph.model, lowering)


@pytest.mark.parametrize("factor", [2.0**-6, 2.0**6])
def test_a_deep_chain_of_tiny_and_of_huge_gradients(factor: float) -> None:
    """Twelve layers that each scale by 2^-6 or 2^6: a cotangent without a scale is 0 or infinite
    after four of them. Activations stay at 0, and Clip's gates open."""
    eye = np.eye(3, dtype=np.float32)
    weights = {"w": eye.reshape(3, 3, 1, 1) * np.float32(factor), "v": np.ones((5, 3), np.float32)}
    weights |= {"low": np.float32(-30), "high": np.float32(30)}
    lines, before = [], "x"
    for i in range(12):
        lines.append(f"h{i} = Conv({before}, w) r{i} = Clip(h{i}, low, high)")
        before = f"r{i}"
    model = models.parsed(
        '<ir_version: 8, opset_import: ["": 18]> m (float[N,3,4,4] x) => (float[N,5] y) {'
        + "\n".join([*lines, f"p = GlobalAveragePool({before})", "f = Flatten(p)"])
        + "\ny = Gemm<transB=1>(f, v)\n}",
        weights,
    )
    feeds = {"x": np.zeros((2, 3, 4, 4), np.float32), "target": np.array([0, 1])}
    got = run_runtime(explain_graph(model, ("vanilla",), dtype="float16").to_proto(), feeds)
    np.testing.assert_allclose(got["saliency_vanilla"], factor**12 / 16, rtol=2e-3)


def test_rows_are_independent() -> None:
    proto = explain_graph(models.tiny(), dtype="float16").to_proto()
    x = X * np.array([1, 1e-3], np.float32).reshape(2, 1, 1, 1)
    both = run_runtime(proto, {"x": x, "target": np.array([1, 3])})
    alone = run_runtime(proto, {"x": x[1:], "target": np.array([3])})
    for rule in RULES:
        np.testing.assert_array_equal(both[f"saliency_{rule}"][1:], alone[f"saliency_{rule}"])


@pytest.mark.parametrize("size", [2.0**-30, 2.0**25])
def test_any_cotangent_from_outside(size: float) -> None:
    kw = {"cotangent": "input", "of": "scores"}
    half = explain_graph(models.tiny(), dtype="float16", **kw).to_proto()
    plain = explain_graph(models.tiny(), **kw).to_proto()
    ct = np.random.default_rng(4).standard_normal((2, 5)).astype(np.float32) * np.float32(size)
    got, want = (run_runtime(p, {"x": X, "cotangent": ct}) for p in (half, plain))
    assert min(drift(got, want).values()) > 0.9999
    for rule in RULES:
        a, b = (np.linalg.norm(r[f"saliency_{rule}"].astype(np.float64)) for r in (got, want))
        assert a == pytest.approx(b, rel=5e-3)


def stored_in_half(scale: float = 1.0) -> onnx.ModelProto:
    source = models.tiny(output="float16[N,5] prob", dtype="float16")
    for tensor in source.graph.initializer:
        factor = scale if tensor.name in "vw" else 1
        array = (onnx.numpy_helper.to_array(tensor) * factor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return source


def typed(model: onnx.ModelProto, before: int, after: int) -> onnx.ModelProto:
    """A copy with all that is of one float type in another."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in (*made.graph.input, *made.graph.output):
        if value.type.tensor_type.elem_type == before:
            value.type.tensor_type.elem_type = after
    for tensor in made.graph.initializer:
        if tensor.data_type == before:
            array = onnx.numpy_helper.to_array(tensor)
            kind = onnx.helper.tensor_dtype_to_np_dtype(after)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(kind), tensor.name))
    return made


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    return typed(model, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT)


def narrowed(model: onnx.ModelProto) -> onnx.ModelProto:
    return typed(model, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


@pytest.mark.parametrize("reduce", ["none", "maxabs"])
def test_nothing_of_a_half_model_is_flushed_to_0(reduce: str) -> None:
    """Its largest gradient is 1e-7 here, and half of them below what float16 can hold."""
    feeds = {**FEEDS, "x": X.astype(np.float16)}
    got = run_runtime(explain_graph(stored_in_half(2.0**-10), reduce=reduce).to_proto(), feeds)
    wide = widened(stored_in_half(2.0**-10))
    want = run_runtime(
        explain_graph(wide, reduce=reduce).to_proto(), {**feeds, "x": feeds["x"].astype(np.float32)}
    )
    for rule in RULES:
        name = f"saliency_{rule}"
        assert got[name].dtype == np.float32 and 0 < np.abs(want[name]).max() < 1e-5
        assert ((got[name] == 0) == (want[name] == 0)).mean() > 0.999
        assert compare.cosine(got[name], want[name]) > 0.999


def test_a_model_in_float16_goes_the_usual_way() -> None:
    source = stored_in_half()
    for dtype in ("float32", "float16"):
        proto = explain_graph(source, dtype=dtype).to_proto()
        onnx.checker.check_model(proto, full_check=True)
        got = run_runtime(proto, {**FEEDS, "x": X.astype(np.float16)})
        assert got["prob"].dtype == np.float16
        # In half on demand alone: gradients are often below what float16 tells from 0.
        assert got["saliency_vanilla"].dtype == np.dtype(dtype)
        want = run_runtime(explain_graph(models.tiny()).to_proto(), FEEDS)
        assert min(drift(got, want).values()) > 0.9999


# Those whose maps the graph holds, one by one: what they multiply has one type.
HELD = [
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "squaregrad",
    "vargrad",
    "gradcam",
    "gradcampp",
    "hirescam",
    "layercam",
    "xgradcam",
    "cam",
    "guided_gradcam",
    "contrastcam",
    "counterfactualcam",
    "causalcam",
    "reciprocam",
]


@pytest.mark.parametrize("open_size", [False, True])
@pytest.mark.parametrize("method", HELD)
def test_every_method_of_a_model_stored_in_half(method: str, open_size: bool) -> None:
    """As of the same numbers in float32, to what the model's own arithmetic is off by."""
    narrow = stored_in_half()
    if open_size:
        for axis in (2, 3):
            narrow.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "HW"[axis - 2]
    wide = widened(narrow)
    if open_size and method in ("cam", "reciprocam", "smoothgrad", "squaregrad", "vargrad"):
        pytest.skip("asks for places that are known, or for noise to be given")
    drawn = {"signed": True, "size": "layer"} if method in ("gradcam", "cam", "hirescam") else {}
    found = []
    for model, x in ((narrow, X.astype(np.float16)), (wide, X.astype(np.float16))):
        proto = explain_graph(model, (method,), **drawn).to_proto()
        onnx.checker.check_model(proto, full_check=True)
        feeds = {**FEEDS, "x": x if model is narrow else x.astype(np.float32)}
        if any(v.name == "contrast" for v in proto.graph.input):
            feeds["contrast"] = np.zeros(len(X), np.int64)
        found.append(run_runtime(proto, feeds)[f"saliency_{method}"])
    assert found[0].dtype == found[1].dtype == np.float32
    assert compare.cosine(found[0], found[1]) > 0.999


@pytest.mark.parametrize("method", ["rollout", "gradient_rollout", "gradcam", "vanilla"])
def test_a_transformer_stored_in_half(method: str) -> None:
    wide = models.transformer()
    narrow = narrowed(wide)
    x = models.images(2, 3, 8, 8)
    found = [
        run_runtime(
            explain_graph(m, (method,)).to_proto(),
            {"x": x.astype(kind), "target": np.array([1, 2])},
        )[f"saliency_{method}"]
        for m, kind in ((narrow, np.float16), (wide, np.float32))
    ]
    assert found[0].dtype == np.float32
    assert compare.cosine(found[0], found[1]) > 0.999


def test_bfloat16_by_the_reference() -> None:
    proto = explain_graph(models.tiny(), dtype="bfloat16").to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert {t.data_type for t in proto.graph.initializer if len(t.dims) > 1} == {
        onnx.TensorProto.BFLOAT16
    }
    want = run_runtime(explain_graph(models.tiny()).to_proto(), FEEDS)
    got = run_reference(proto, FEEDS)
    assert got["saliency_guided"].dtype == np.float32
    # 8 bits of mantissa: two layers and a mean; a wrong gate costs more.
    assert min(drift(got, want).values()) > 0.999


def test_reduced_maps_are_undone_first() -> None:
    """At its true size the largest gradient is 1e-9 here, nothing in float16."""
    proto = models.tiny()
    for tensor in proto.graph.initializer:
        if tensor.name in "vw":
            small = onnx.numpy_helper.to_array(tensor) * np.float32(2.0**-13)
            tensor.CopyFrom(onnx.numpy_helper.from_array(small, tensor.name))
    got = run_runtime(explain_graph(proto, reduce="maxabs", dtype="float16").to_proto(), FEEDS)
    want = run_runtime(explain_graph(proto, reduce="maxabs").to_proto(), FEEDS)
    assert 0 < want["saliency_vanilla"].max() < 1e-7
    assert compare.cosine(got["saliency_vanilla"], want["saliency_vanilla"]) > 0.99


def test_small_numbers_and_squares_stay_in_float32() -> None:
    body = """
    s = Mul(x, x)
    m = ReduceMean(s, axes)
    a = Add(m, tiny)
    q = Sqrt(a)
    n = Div(x, q)
    p = GlobalAveragePool(n)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v)
"""
    source = models.tiny(body=body)
    del source.graph.initializer[:]
    weights = {"v": np.eye(5, 3, dtype=np.float32), "tiny": np.float32(1e-12)}
    for name, array in (weights | {"axes": np.array([1, 2, 3])}).items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    # Squares to 1e6 and to 1e-6: neither fits, and 1e-12 would be 0.
    x = X * np.array([1e3, 1e-3], np.float32).reshape(2, 1, 1, 1)
    feeds = {"x": x, "target": np.array([0, 1])}
    got = run_runtime(explain_graph(source, dtype="float16").to_proto(), feeds)
    want = run_runtime(explain_graph(source).to_proto(), feeds)
    for row in (0, 1):
        a, b = (r["saliency_vanilla"][row] for r in (got, want))
        assert compare.cosine(a, b) > 0.999


def test_cuts() -> None:
    """Around a branch, not inside it."""
    text = """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3] x) => (float[N,3] y) {
    a = Relu(x)
    b = Tanh(a)
    c = Sigmoid(a)
    d = Add(b, c)
    y = Neg(d)
}"""
    from backlight.export.backward import path
    from backlight.export.graph import load

    graph = load(models.parsed(text)).graph
    of, wrt = list(graph.outputs), list(graph.inputs)
    nodes, leads = path(of, wrt)
    assert {v.name for v in cuts(nodes, leads, of)} == {"a", "d", "y"}


def test_refusals() -> None:
    with pytest.raises(UsageError, match="accepted: float32, float16, bfloat16"):
        explain_graph(models.tiny(), dtype="half")
    with pytest.raises(UsageError, match="portable, cuda, tensorrt or openvino"):
        explain_graph(models.tiny(), dtype="float16", lowering="cpu")
    text = """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3,8,8] x) => (float[N,3,8,8] y) {
    q = QuantizeLinear(x, s, z)
    y = DequantizeLinear(q, s, z)
}"""
    model = models.parsed(text, {"s": np.float32(0.1), "z": np.uint8(128)})
    with pytest.raises(UnsupportedNode, match="quantised model.*a float model"):
        explain_graph(model, of="y", dtype="float16")


def test_squeezenet_on_photos() -> None:
    """Measured: 0.9959 at worst in float16. A scale left out gives 0.98 and less."""
    half = explain_graph(BUNDLED, dtype="float16")
    for target in ("cuda", "tensorrt"):
        assert not check(BUNDLED, lowering=target, dtype="float16").refused
    plain = Explainer(str(BUNDLED), threads=1, for_="portable")
    files = sorted(PHOTOS.glob("*.jpg"))[:2]
    x = plain.load(files)
    candidate = Explainer(half.to_proto(), threads=1)
    for found in compare.explained(candidate, plain, x, [f.name for f in files]):
        assert found.cosine > 0.994, found
        assert found.ssim > 0.99 and found.top > 0.92, found


@pytest.mark.slow
def test_mobilenet_v2_grows_little_between_two_cuts(tmp_path) -> None:
    """Between two cuts nothing but the weights bounds a cotangent's growth from 1..2: here three
    convolutions and a sum. Measured: 11.9 at most; half holds 65504."""
    pytest.importorskip("torch")
    from ..networks import nets

    net = nets.Net("mobilenet_v2")
    nets.export(nets.build(net), net, "legacy", tmp_path / "net.onnx")
    rules = ("vanilla", "deconv")
    plain, half = (
        explain_graph(tmp_path / "net.onnx", rules, target_class="top1", dtype=t).to_proto()
        for t in ("float32", "float16")
    )
    feeds = {plain.graph.input[0].name: nets.images(net).numpy()}
    want = run_runtime(plain, feeds)
    inferred = onnx.shape_inference.infer_shapes(half).graph.value_info
    narrow = {v.name for v in inferred if v.type.tensor_type.elem_type == H}
    passed = [
        n.output[0]
        for n in half.graph.node
        if n.name.startswith("backlight/") and n.output[0] in narrow and "/scale/" not in n.name
    ]
    half.graph.output.extend(onnx.ValueInfoProto(name=name) for name in passed)
    got = run_runtime(half, feeds)
    largest = max(float(np.abs(got[name]).max()) for name in passed)
    assert len(passed) > 250 and 1 < largest < 2**6, largest
    for rule, low in (("vanilla", 0.9), ("deconv", 0.999)):
        name = f"saliency_{rule}"
        assert compare.cosine(got[name], want[name]) > low, rule


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_an_extremum_of_half_floats_is_one_of_them(op: str) -> None:
    """A runtime that rounds the maximum, and not what it is of, finds none that is equal to it."""
    text = f"""<ir_version: 8, opset_import: ["": 18]>
m (float16[N,64] x) => (float16[N,5] y) {{
    a = Mul(x, c)
    b = Mul(x, d)
    e = {op}(a, b)
    y = MatMul(e, w)
}}"""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(64, 5)).astype(np.float16)
    model = models.parsed(text, {"w": w, "c": np.float16(0.7), "d": np.float16(-0.9)})
    x = rng.normal(size=(3, 64)).astype(np.float16)
    proto = explain_graph(model, ["vanilla"], wrt="x").to_proto()
    found = run_runtime(proto, {"x": x, "target": np.array([0, 2, 4])})["saliency_vanilla"]
    above = x > 0 if op == "Max" else x < 0
    want = np.where(above, 0.7, -0.9) * w.T[[0, 2, 4]].astype(np.float32)
    np.testing.assert_allclose(found, want, rtol=2e-3)


NORMS = ["y = Sqrt(s)", "y = Pow(s, third)"]


def of_norm(x, mean, root):
    """The scores and the map of a root of the mean of cubes, in half."""
    text = f"""<ir_version: 8, opset_import: ["": 18]>
m (float16[N,64] x) => (float16[N,1] z) {{
    p = Pow(x, three)
    s = {mean}(p, axes)
    {root}
    z = Reshape(y, column)
}}"""
    given = {"third": np.float16(1 / 3), "three": np.float16(3), "axes": np.array([1])}
    model = models.parsed(text, {**given, "column": np.array([-1, 1])})
    proto = explain_graph(model, ["vanilla"], wrt="x", target_class=0).to_proto()
    ran = run_runtime(proto, {"x": x.astype(np.float16)})
    return ran["z"], ran["saliency_vanilla"]


@pytest.mark.parametrize("root", NORMS)
@pytest.mark.parametrize("mean", ["ReduceMean", "ReduceMean<keepdims=0>"])
def test_a_norm_that_half_floats_hold_no_more(mean: str, root: str) -> None:
    """Cubes of what is small, 0 in half, or not rounded to it yet: the row is finite."""
    for most in (1e-3, 1e-5):
        x = np.linspace(-1, most, 192).reshape(3, 64)
        scores, found = of_norm(np.maximum(x, 1e-6), mean, root)
        assert np.isfinite(scores).all() and np.isfinite(found).all(), most


@pytest.mark.parametrize("root", NORMS)
def test_a_root_of_less_than_0_has_no_gradient_in_half(root: str) -> None:
    """Its score is none either."""
    scores, found = of_norm(np.array([[0.5], [-0.5]]) * np.ones(64), "ReduceMean", root)
    assert np.isfinite(scores[0]).all() and np.isfinite(found[0]).all()
    assert np.isnan(scores[1]).all() and np.isnan(found[1]).all()
