"""Models of strangers: a few bytes that ask for gigabytes, numbers beyond 64 bits, nodes that
contradict themselves. One line that names the node, or the right graph; never a traceback."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.errors import BacklightError, ModelError, UnsupportedNode, one_line
from backlight.export import incremental
from backlight.export.check import check
from backlight.export.emit import LARGEST, Emitter
from backlight.export.receptive import WIDEST, receptive_fields
from backlight.export.rules import Op, Rule
from backlight.export.rules.op import guarded
from backlight.export.saliency import explain_graph

from .. import models
from .harness import build, run_reference, vjp_graph

MOST = 300 << 20  # bytes: what is held at once, whatever a file declares
FORMS = ("portable", "cpu", "cuda", "tensorrt")


def refusal(call: Callable[[], object]) -> str | None:
    """What is said, in one line and without gigabytes; None where it worked."""
    tracemalloc.start()
    said = None
    try:
        call()
    except BacklightError as err:
        said = str(err)
        assert said and "\n" not in said and len(said) < 900
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST, f"{peak >> 20} MB"
    return said


def exported(text: str, weights: dict[str, Any] | None = None, **more: Any) -> str | None:
    data = parsed(text, weights).SerializeToString()
    assert len(data) < 4000
    return refusal(
        lambda: backlight.export(data, "vanilla", of="y", wrt="x", cotangent="input", **more)
    )


def parsed(text: str, weights: dict[str, Any] | None = None) -> onnx.ModelProto:
    """As `models.parsed`; in the text form `float y` is a scalar: the shape is to be inferred."""
    model = models.parsed(text, weights)
    shape = model.graph.output[0].type.tensor_type
    if not shape.shape.dim:
        shape.ClearField("shape")
    return model


def net(nodes: str, shape: str, opset: int = 18) -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
g (float[{shape}] x) => (float y) {{ {nodes} }}"""


SCALES = {"scales": np.array([1, 1, 1, 2.5], np.float32)}
HUGE: list[tuple[str, str, dict[str, Any]]] = [
    ("y = Resize<mode=\"linear\">(x, , scales)", "1,1,1,1000000", SCALES),
    ("y = Resize<mode=\"linear\">(x, , scales)", "1,1,1,2000000000", SCALES),
    ("y = Resize<mode=\"cubic\", antialias=1>(x, , scales)", "1,1,1,9000000",
        {"scales": np.array([1, 1, 1, 1e-6], np.float32)}),
    ("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", "1,1,4,1000000000", {}),
    ("y = AveragePool<kernel_shape=[1,1000000000], pads=[0,500000000,0,499999999]>(x)",
        "1,1,4,1000000000", {}),
    ("y = LpPool<kernel_shape=[30000,30000]>(x)", "1,1,30000,30000", {}),
    ("y = Expand(x, to)", "1", {"to": np.ones(70, np.int64)}),
    ("i = Constant<value=int64[2]{0,5}>() y = Gather<axis=1>(x, i)", "1,2000000000", {}),
    ("y = Einsum<equation=\"ii->i\">(x)", "2000000000,2000000000", {}),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", range(len(HUGE)), ids=[h[0].split("=")[1][:12] for h in HUGE])
def test_a_declared_size_is_no_array(at: int, form: str) -> None:
    nodes, shape, weights = HUGE[at]
    said = exported(net(nodes, shape), weights, for_=form)
    if said is not None:
        assert nodes.split("= ")[-1].split("(")[0].split("<")[0] in said, said


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduce", ["none", "maxabs"])
def test_a_large_image_and_many_channels(form: str, reduce: str) -> None:
    """Layers of the blocked layout, whose masks have a weight per channel and a pattern per plane;
    a class range as long as the scores."""
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[N,1073741824,1048576,1048576] x) => (float[N,1073741824] y) {
        r = Relu(x)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        c = Clip(m, low, high)
        p = GlobalAveragePool(c)
        y = Flatten(p)
    }"""
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    data = parsed(text, bounds).SerializeToString()
    for rules in ("vanilla", "guided"):
        said = refusal(lambda rules=rules: backlight.export(data, rules, for_=form, reduce=reduce))  # type: ignore[misc]
        assert said is None, said


@pytest.mark.parametrize("form", ["portable", "tensorrt"])
def test_a_window_of_many_positions_is_no_graph_of_many_nodes(form: str) -> None:
    text = net("y = MaxPool<kernel_shape=[2,5000]>(x)", "1,1,4000,8000")
    said = exported(text, for_=form)
    assert said is not None and "MaxPool" in said and "4096 positions an axis at most" in said


def test_shares_by_axis_are_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a large average pool divides by, axis by axis, as a small one does at once."""
    x = np.random.default_rng(0).standard_normal((1, 2, 7, 9))
    text = "y = AveragePool<kernel_shape=[3,2], strides=[2,1], pads=[1,1,2,0], dilations=[2,3]>(x)"
    model = build(text, {"x": x}, {}, 19)
    ct = np.random.default_rng(1).standard_normal(run_reference(model, {"x": x})["y"].shape)
    feeds = {"x": x, "cotangent": ct}
    whole = run_reference(vjp_graph(model, ["x"]), feeds)["saliency_vanilla"]
    monkeypatch.setattr(sys.modules[Emitter.__module__], "LARGEST", 10)
    apart = run_reference(vjp_graph(model, ["x"]), feeds)["saliency_vanilla"]
    np.testing.assert_allclose(apart, whole, rtol=1e-12)
    basis = np.zeros_like(x)
    for index in [(0, 0, 0, 0), (0, 1, 3, 4), (0, 0, 6, 8), (0, 1, 2, 0)]:
        basis[...] = 0
        basis[index] = 1  # the pool is linear
        want = float((run_reference(model, {"x": basis})["y"] * ct).sum())
        assert whole[index] == pytest.approx(want, rel=1e-6, abs=1e-9)


def test_many_classes_are_counted_in_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    data = models.tiny().SerializeToString()
    feeds = {"x": models.images(2, 3, 8, 8), "target": np.array([3, -1])}
    want = run_reference(backlight.export(data, "vanilla"), feeds)["saliency_vanilla"]
    monkeypatch.setattr(sys.modules[Emitter.__module__], "LARGEST", 4)
    made = backlight.export(data, "vanilla")
    np.testing.assert_array_equal(run_reference(made, feeds)["saliency_vanilla"], want)
    # One row of the weights needs no count; a float16 export walks from all classes.
    model = backlight.export(data, "vanilla", dtype="float16")
    assert "Range" in {n.op_type for n in model.graph.node}


def _conv(attributes: str, op: str = "Conv", shape: str = "1,2,5,5") -> tuple[str, dict[str, Any]]:
    return net(f"y = {op}<{attributes}>(x, w)", shape), {"w": np.ones((2, 2, 3, 3), np.float32)}


BIG = 2**62
CONTRADICTIONS: list[tuple[str, dict[str, Any]]] = [
    _conv(f"strides=[{BIG},{BIG}]"),
    _conv(f"dilations=[{BIG},1]"),
    _conv(f"pads=[{BIG},{BIG},{BIG},{BIG}]"),
    _conv("strides=[0,1]"),
    _conv("strides=[1]"),
    _conv("pads=[1,1]"),
    _conv("dilations=[-1,1]"),
    _conv("group=0"),
    _conv("auto_pad=\"SAME_UPPER\", strides=[0,0]"),
    _conv(f"strides=[{BIG},2]", "ConvTranspose"),
    _conv(f"output_shape=[{BIG},{BIG}]", "ConvTranspose"),
    _conv("output_padding=[-9,-9]", "ConvTranspose"),
    _conv("pads=[1]", "ConvTranspose"),
    _conv("group=3", shape="1,2,5"),
    (net(f"y = MaxPool<kernel_shape=[{BIG},1]>(x)", "1,2,5,5"), {}),
    (net("y = AveragePool<kernel_shape=[0,0]>(x)", "1,2,5,5"), {}),
    (net("y = AveragePool<kernel_shape=[2]>(x)", "1,2,5,5"), {}),
    (net("y = Clip(x, b)", "1,5"), {"b": np.zeros(5, np.float32)}),
    (net("y = Clip(x, b)", "1,5"), {"b": np.zeros(0, np.float32)}),
    (net("y = Resize(x, , s)", "1,1,4,4"), {"s": np.array([1, 1, 0, 1], np.float32)}),
    (net("y = Resize(x, , s)", "1,1,4,4"), {"s": np.array([1, 1, np.nan, 1], np.float32)}),
    (net("y = Resize<mode=\"linear\">(x, , s)", "1,1,0,4"),
        {"s": np.array([1, 1, 2, 1], np.float32)}),
    (net("y = ReduceMean(x, a)", "1,0,4"), {"a": np.array([1])}),
    (net("y = ReduceSum(x, a)", "1,3,4"), {"a": np.array([7])}),
    (net("y = GlobalAveragePool(x)", "1,3,0,4"), {}),
    (net("y = Transpose<perm=[0,9]>(x)", "2,3"), {}),
    (net("y = Concat<axis=9>(x, x)", "2,3"), {}),
    (net("y = Pad(x, p)", "2,3"), {"p": np.array([1, 2, 3])}),
    (net("y = Slice(x, p, q)", "2,3"), {"p": np.array([0]), "q": np.array([1, 2])}),
    (net("y = Slice(x, p, q, a, k)", "2,3"), {n: np.array([0]) for n in "pqak"}),
    (net("y = Gather(x, i)", "2,3"), {"i": np.array([99])}),
    (net("y = DepthToSpace<blocksize=0>(x)", "1,4,2,2"), {}),
    (net("y = LRN<size=0>(x)", "1,4,2,2"), {}),
    (net("t = Identity(x) y = Slice(t, p, q, a)", "2,9"),
        {"p": np.array([0.0]), "q": np.array([np.inf]), "a": np.array([1])}),
    (net("t = Identity(x) y = Slice(t, p, q, a)", "2,9"),
        {"p": np.array([np.nan]), "q": np.array([1.0]), "a": np.array([1])}),
    (net("c = Constant() t = Add(x, c) y = Softmax(t)", "2,3"), {}),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(CONTRADICTIONS)))
def test_a_node_that_contradicts_itself(at: int) -> None:
    """In every form, for export, check, windows and fields: a line, or a graph."""
    text, weights = CONTRADICTIONS[at]
    data = parsed(text, weights).SerializeToString()
    for form in FORMS:
        refusal(
            lambda form=form: backlight.export(  # type: ignore[misc]
                data, ("vanilla", "guided"), of="y", wrt="x", cotangent="input", for_=form
            ).SerializeToString()
        )
        refusal(lambda form=form: check(data, of="y", wrt="x", lowering=form).to_dict())  # type: ignore[misc]
    refusal(lambda: receptive_fields(data))
    windows = np.array([[0, 1, 0, 2, 0, 2]], np.int32)
    refusal(lambda: incremental.outline(data, windows, (2, 5, 5), of=["y"]).build())


def test_what_is_wrong_is_named() -> None:
    text, weights = _conv(f"strides=[{BIG},{BIG}]")
    model = parsed(text, weights)
    model.graph.node[0].name = "layer7"
    with pytest.raises(UnsupportedNode, match=r"^Conv 'layer7': strides = \[4611.*: 2 num"):
        backlight.export(model, "vanilla", of="y", cotangent="input")


@pytest.mark.parametrize(
    "raised",
    [AssertionError(), ZeroDivisionError("x"), RecursionError("x"), KeyError("x"), MemoryError(),
     AttributeError("x"), OverflowError("x"), NotImplementedError()],
)  # fmt: skip
def test_the_guard_names_the_node(raised: Exception) -> None:
    def broken(e: Emitter, op: Op, ct: Any) -> Any:
        raise raised

    import onnx_ir as ir

    node = ir.node("Relu", [ir.Value(name="x")], name="act1")
    op = Op(node, (True,))
    with pytest.raises(UnsupportedNode, match="^Relu 'act1': ") as caught:
        Rule("Relu", frozenset((14,)), broken)(None, op, (None,))  # type: ignore[arg-type]
    assert caught.value.__cause__ is raised
    with pytest.raises(ModelError, match="^mine$"), guarded(op):
        raise ModelError("mine")  # what is said already stays


def test_integers_beyond_64_bits_are_named() -> None:
    import onnx_ir as ir

    graph = ir.Graph([], [], nodes=[], name="g")
    e = Emitter(graph, 18)
    with pytest.raises(OverflowError, match="64 bits"):
        e.const([1, 2**63])
    x = ir.Value(name="x")
    with pytest.raises(OverflowError, match="pads"):
        e.Conv(x, x, pads=[2**63, 0])
    e.Conv(x, x, pads=[2**63 - 1, -(2**63)])
    assert LARGEST < 2**31


def test_no_number_is_a_string() -> None:
    """What a broken file says a tensor is of: onnx-ir made the constant, and couldn't write it."""
    import onnx_ir as ir

    e = Emitter(ir.Graph([], [], nodes=[], name="g"), 18)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.STRING))
    with pytest.raises(TypeError, match="strings"):
        e.Add(x, 0.0)


def test_a_constant_without_a_value_is_refused() -> None:
    data = parsed(net("c = Constant() t = Add(x, c) y = Softmax(t)", "2,3"), {})
    with pytest.raises(ModelError, match="has 0 attributes; expected one"):
        backlight.export(data.SerializeToString(), ("vanilla",))


@pytest.mark.parametrize("bounds", [np.zeros(3, np.float32), np.zeros(0, np.float32)])
def test_check_reads_bounds_that_are_none(bounds: Any) -> None:
    report = check(parsed(net("y = Clip(x, b)", "1,5"), {"b": bounds}), of="y", wrt="x")
    (found,) = report.obstacles
    assert found.operator == "Clip" and "bound" in found.reason


def test_long_names_are_cut() -> None:
    model = models.tiny()
    model.graph.node[1].name = "n" * 50000
    model.graph.node[1].op_type, model.graph.node[1].domain = "O" * 9000, "com.example"
    said = refusal(lambda: backlight.export(model, "vanilla"))
    assert said is not None and "nnn...nnn" in said and "--wrt" in said
    for finding in check(model).findings:
        assert len(finding.line()) < 900
    model = models.tiny()
    model.graph.input[0].name = model.graph.node[0].input[0] = "a\nb\x1b[31m" + "x y " * 9000
    said = refusal(lambda: backlight.export(model, "vanilla", of="nothing"))
    assert said is not None and "\x1b" not in said and "no tensor 'nothing'" in said


def test_one_line() -> None:
    assert one_line("a\n b\tc  d") == "a b c d"
    assert one_line("é ü 漢 '…'") == "é ü 漢 '…'"
    assert one_line("\x1b[31mred\x00\u202e") == "\\x1b[31mred\\x00\\u202e"
    long = one_line("model.onnx: 'n" + "n" * 500 + "' is missing; expected a file")
    assert long.startswith("model.onnx: 'nnn") and long.endswith("nn' is missing; expected a file")
    assert len(long) < 250
    assert 790 <= len(one_line("word " * 5000)) <= 800


def test_sums_of_sums_are_read_once() -> None:
    """What bounds the values before a QuantizeLinear: 2^60 ways lead back to x."""
    sums = " ".join(f"a{i + 1} = Add(a{i}, a{i})" for i in range(60))
    text = f"""<ir_version: 8, opset_import: ["": 18]>
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {{
        a0 = Sigmoid(x) {sums}
        q = QuantizeLinear(a60, s, z)
        y = DequantizeLinear(q, s, z)
    }}"""
    model = parsed(text, {"s": np.float32(0.1), "z": np.uint8(0)})
    assert refusal(lambda: backlight.export(model, "guided", of="y", cotangent="input")) is None
    refusal(lambda: check(model, of="y", wrt="x"))


def test_fields_of_declared_sizes() -> None:
    huge = net("y = Relu(x)", f"1,3,{WIDEST * 2},{WIDEST * 2}")
    said = refusal(lambda: receptive_fields(parsed(huge)))
    assert said is not None and "'x'" in said and str(WIDEST) in said
    wide = net(
        f"p = Pad(x, pads) y = MaxPool<kernel_shape=[1,{2**18}], pads=[0,{2**17},0,{2**17}]>(p)",
        "1,3,64,60000",
    )
    pads = {"pads": np.array([0, 0, 0, 10**9, 0, 0, 0, 10**9])}
    assert refusal(lambda: receptive_fields(parsed(wide, pads))) is None
    many = net("w = Constant<value=float[1]{1}>() y = Tile(x, r)", "1,3,16,16")
    repeats = {"r": np.array([1, 10**6, 10**6, 10**6])}
    refusal(lambda: receptive_fields(parsed(many, repeats)))


def test_fields_by_tap_are_the_fields() -> None:
    """A window's span tap by tap: dilated and strided, against the windows written out."""
    text = net(
        "y = MaxPool<kernel_shape=[3,2], strides=[2,3], dilations=[2,4], pads=[2,1,2,3]>(x)",
        "1,2,15,17",
    )
    field = receptive_fields(parsed(text))["y"]
    for row, column in ((0, 0), (1, 1), (3, 2), (7, 5)):
        ys = [2 * row - 2 + 2 * k for k in range(3)]
        xs = [3 * column - 1 + 4 * k for k in range(2)]
        ys, xs = [y for y in ys if 0 <= y < 15], [x for x in xs if 0 <= x < 17]
        want = (min(ys), min(xs), max(ys) + 1, max(xs) + 1)
        assert field.box(0, row, column) == want


def test_a_constant_that_cant_be_read_is_refused() -> None:
    model = parsed(net("y = Resize(x, , s)", "1,1,4,4"))
    broken = onnx.TensorProto(name="s", dims=[4], data_type=onnx.TensorProto.INT8)
    broken.float_data.extend([1, 1, 2, 2])
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["s"], value=broken))
    said = refusal(lambda: backlight.export(model, "vanilla", of="y", cotangent="input"))
    assert said is not None


SCORES = "p = GlobalAveragePool(c) f = Flatten(p) y = MatMul(f, v)"
MEETING = {
    "in preprocessing": (
        "vanilla",
        "a0 = RandomUniform<shape=[1]>() "
        + " ".join(f"a{i + 1} = Add(a{i}, a{i})" for i in range(60))
        + " k = Identity(a60) m = Div(x, k) c = Conv(m, w)",
    ),
    "in front of the head": (
        "gradcam",
        "d0 = Conv(x, w) b = Relu(d0) a0 = Identity(b) "
        + " ".join(f"a{i + 1} = Sum({', '.join([f'a{i}'] * 8)})" for i in range(14))
        + " c = Identity(a14)",
    ),
    "in front of a Softmax": (
        "gradient_rollout",
        "a0 = Relu(x) "
        + " ".join(f"a{i + 1} = Add(a{i}, a{i})" for i in range(60))
        + " z = Reshape(a60, three) q = Softmax(z) c1 = ReduceSum<keepdims=0>(q) c = Mul(x, c1)",
    ),
}


@pytest.mark.parametrize("where", MEETING)
def test_ways_that_meet_again_are_walked_once(where: str):
    """Without a memory of where it was, a walk back would take twice as long per node: for ever."""
    method, text = MEETING[where]
    rng = np.random.default_rng(0)
    values = {"w": rng.standard_normal((3, 3, 3, 3)), "v": rng.standard_normal((3, 5))}
    given = {n: v.astype(np.float32) for n, v in values.items()} | {"three": np.array([1, -1, 6])}
    model = models.parsed(
        f'<ir_version: 8, opset_import: ["": 18]>\ng (float[N,3,H,W] x) => (float[N,5] y) '
        f"{{ {text} {SCORES} }}",
        given,
    )
    try:
        assert explain_graph(model, (method,)).saliency
    except ModelError as err:  # this is no transformer
        assert where == "in front of a Softmax" and "attention" in str(err)


def test_a_long_sequence_is_refused_before_it_is_unrolled():
    """Each step is ten nodes: 235 bytes asked for 90,000 of them."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 22]> g (float[10000,N,2] x, float[1,12,2] w, '
        "float[1,12,3] r) => (float[L,D,N,M] y) { y = LSTM<hidden_size = 3>(x, w, r) }"
    )
    with pytest.raises(UnsupportedNode, match="a sequence of 10000 steps.*4096 at most"):
        backlight.export(model, ("vanilla",), of="y", wrt="x", cotangent="input")
