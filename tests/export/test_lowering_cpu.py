"""The CPU lowering against the portable rules on ONNX Runtime: same numbers, other operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from backlight.export.saliency import explain_graph

from .harness import Array, build, run_runtime, vjp_graph

ort = pytest.importorskip("onnxruntime")
RTOL = 1e-5  # float32, sums of up to 600 in another order
BATCHES: list[int | str] = [2, "N"]


def lowered_and_portable(
    model: onnx.ModelProto, x: Array, rule: str = "vanilla", of: str = "y", seed: int = 5
) -> tuple[onnx.ModelProto, Array, Array]:
    """The lowered graph, and what it and the portable one give for a signed cotangent."""
    x = x.astype(np.float32)
    y = run_runtime(model, {"x": x})[of]
    ct = np.random.default_rng(seed).standard_normal(y.shape).astype(np.float32)
    graphs = [vjp_graph(model, ["x"], rule, of, lowering=t) for t in ("cpu", "portable")]
    got, want = (run_runtime(g, {"x": x, "cotangent": ct})[f"saliency_{rule}"] for g in graphs)
    assert np.any(want != 0)
    return graphs[0], got, want


def operators(graph: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in graph.graph.node]


def optimized(graph: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that the runtime makes of a graph on this machine."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return operators(onnx.load(folder / "optimized.onnx"))


DEPTHWISE = [
    ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", 14),
    ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", 13),
    ("kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]", 14),
    ("kernel_shape = [3, 3], strides = [2, 2]", 13),
    ("kernel_shape = [5, 5], strides = [2, 2], pads = [2, 2, 2, 2]", 12),
    ("kernel_shape = [3, 3], strides = [3, 3], pads = [1, 1, 1, 1]", 15),
    ("kernel_shape = [3, 3], strides = [1, 2], pads = [1, 1, 1, 1]", 10),
]
# The last positions get nothing, or the pads are larger than the kernel: the portable rule.
DEPTHWISE_PORTABLE = [
    ("kernel_shape = [2, 2], strides = [3, 3]", 11),
    ("kernel_shape = [3, 3], strides = [2, 2], pads = [3, 3, 3, 3]", 12),
    ("kernel_shape = [3, 3], strides = [2, 2], dilations = [2, 2], pads = [2, 2, 2, 2]", 12),
]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("attributes", "size"), DEPTHWISE + DEPTHWISE_PORTABLE)
def test_depthwise_strided(attributes: str, size: int, batch: int | str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 16, size, size))
    side = int(attributes[len("kernel_shape = [")])
    text = f"y = Conv<group = 16, {attributes}>(x, w)"
    consts = {"w": rng.standard_normal((16, 1, side, side))}
    model = build(text, {"x": x}, consts, 18, "float32", {"x": (batch, 16, size, size)})
    graph, got, want = lowered_and_portable(model, x)
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=1e-5)
    kept = (attributes, size) in DEPTHWISE
    assert ("ConvTranspose" in operators(graph)) != kept


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("attributes", "size", "inside"),
    [
        ("kernel_shape = [1, 1], strides = [2, 2]", 14, True),
        ("kernel_shape = [1, 1], strides = [2, 2]", 13, False),
        ("kernel_shape = [1, 1], strides = [3, 1]", 15, True),
        ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", 14, False),
        ("kernel_shape = [1, 1], strides = [2, 2], pads = [1, 1, 1, 1]", 14, False),
    ],
)
def test_dense_strided(attributes: str, size: int, inside: bool, batch: int | str) -> None:
    rng = np.random.default_rng(1)
    side = int(attributes[len("kernel_shape = [")])
    x, w = rng.standard_normal((2, 16, size, size)), rng.standard_normal((24, 16, side, side))
    text = f"y = Conv<{attributes}>(x, w)"
    model = build(text, {"x": x}, {"w": w}, 18, "float32", {"x": (batch, 16, size, size)})
    graph, got, want = lowered_and_portable(model, x)
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=1e-4)
    assert ("ConvTranspose" not in operators(graph)) == inside


@pytest.mark.parametrize("rule", ["vanilla", "deconv", "guided"])
@pytest.mark.parametrize("high", [6.0, 1.0, 0.1, 20.0, 3.3, 255.0])
def test_a_clip_at_its_kinks(high: float, rule: str) -> None:
    """Exactly: at both bounds, at the floats next to them, far beyond, and between."""
    high32 = np.float32(high)
    points = [0.0, high32, np.nextafter(high32, np.float32(0)), np.nextafter(high32, np.inf)]
    points += [1e-28, -1e-28, high / 2, -3.0, 2 * high, 1e6, -1e6, 1.17e-38, 1e-20, 0.99 * high]
    x = np.resize(np.array(points, np.float32), (1, 8, 7, 7))
    consts = {"low": np.array(0.0), "high": np.array(high32)}
    model = build("y = Clip(x, low, high)", {"x": x}, consts, 18, "float32")
    graph, got, want = lowered_and_portable(model, x, rule)
    tiny = (x > 0) & (x < 1e-29)  # below what 2^126 lifts to 2^28
    np.testing.assert_array_equal(got[~tiny], want[~tiny])
    assert "Where" not in operators(graph)


@pytest.mark.parametrize("rule", ["vanilla", "deconv", "guided"])
def test_a_relu_at_its_kink(rule: str) -> None:
    x = np.resize(np.array([0.0, -0.0, 1e-29, -1e-29, 1.0, -1.0, 1e30], np.float32), (1, 8, 5, 5))
    model = build("y = Relu(x)", {"x": x}, {}, 18, "float32")
    _, got, want = lowered_and_portable(model, x, rule)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("high", [6.0, 1.0, 0.1, 20.0, 3.3, 255.0, np.inf])
def test_a_guided_gate_that_is_a_sum(high: float) -> None:
    """Behind a convolution it is a sum within it: exact for cotangents up to 2^24, all passed."""
    high32 = np.float32(high)
    points = [0.0, high32, np.nextafter(high32, np.float32(0)), 1e-23, -1e-23, 0.5, -3.0, 1e6]
    x = np.resize(np.array(points, np.float32), (1, 8, 7, 7))
    consts = {"low": np.array(0.0), "high": np.array(high32), "w": 1e7 * np.eye(8)[..., None, None]}
    text = "h = Clip(x, low, high) y = Conv<kernel_shape = [1, 1]>(h, w)"
    if high == np.inf:
        text = text.replace("Clip(x, low, high)", "Relu(x)")
        del consts["low"], consts["high"]
        x[np.isinf(x)] = 7
    model = build(text, {"x": x}, consts, 18, "float32")
    graph, got, want = lowered_and_portable(model, x, "guided")
    np.testing.assert_array_equal(got, want)
    assert "Mul" not in operators(graph)


def test_masks_stand_before_all_cotangents() -> None:
    """Two rectifiers deep: what the second one's mask reads is the model's own alone."""
    x = np.random.default_rng(0).standard_normal((2, 8, 7, 7)).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((8, 8, 1, 1))
    text = "h = Relu(x) c = Conv<kernel_shape = [1, 1]>(h, w) r = Relu(c) "
    text += "y = Conv<kernel_shape = [1, 1]>(r, w)"
    graph, got, want = lowered_and_portable(build(text, {"x": x}, {"w": weights}, 18, "float32"), x)
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=1e-4)
    begun, masks = {"cotangent"}, 0
    for node in graph.graph.node:
        if begun & set(node.input):
            begun.update(node.output)
        elif node.op_type == "Clip":
            masks += 1
            assert begun == {"cotangent"}, f"{node.name} stands behind a cotangent"
    assert masks == 2


def ties(shape: tuple[int, ...]) -> Array:
    """Four values: most windows hold their maximum more than once."""
    return np.random.default_rng(3).integers(-2, 2, shape).astype(np.float64)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("attributes", "shape", "apart"),
    [
        ("kernel_shape = [2, 2], strides = [2, 2]", (2, 8, 8, 8), True),
        ("kernel_shape = [2, 2], strides = [2, 2]", (2, 3, 9, 7), True),
        ("kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1", (2, 3, 9, 7), False),
        ("kernel_shape = [3, 3], strides = [3, 3], pads = [1, 1, 1, 1]", (2, 3, 10, 8), False),
        ("kernel_shape = [2, 2], strides = [3, 3]", (2, 3, 10, 8), True),
        ("kernel_shape = [2], strides = [2]", (2, 3, 9), True),
        ("kernel_shape = [2, 2, 2], strides = [2, 2, 2]", (2, 3, 4, 6, 4), True),
        ("kernel_shape = [2, 2], strides = [2, 2], storage_order = 1", (2, 3, 8, 8), True),
        ("kernel_shape = [2, 2], strides = [3, 3], dilations = [2, 2]", (2, 3, 9, 9), True),
        ("kernel_shape = [3, 3], strides = [2, 2]", (2, 8, 9, 9), False),
        ("kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 2]", (2, 3, 9, 9), False),
    ],
)
def test_pools_whose_windows_do_not_overlap(
    attributes: str, shape: tuple[int, ...], apart: bool, batch: int | str
) -> None:
    x = ties(shape)
    text = f"y = MaxPool<{attributes}>(x)"
    model = build(text, {"x": x}, {}, 18, "float32", {"x": (batch, *shape[1:])})
    graph, got, want = lowered_and_portable(model, x)
    np.testing.assert_array_equal(got, want)
    assert ("MaxUnpool" in operators(graph)) == apart


APART = "kernel_shape = [2, 2], strides = [2, 2]"
POOLS = [
    ("kernel_shape = [3, 3], strides = [2, 2]", (2, 16, 13, 12)),
    ("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1", (2, 16, 12, 13)),
    ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", (2, 16, 12, 11)),
    ("kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]", (2, 16, 12, 12)),
    ("kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1]", (2, 16, 9, 7)),
    ('kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"', (2, 16, 12, 11)),
    (APART, (2, 16, 9, 8)),
    ("kernel_shape = [2, 3], strides = [3, 1], dilations = [2, 2]", (2, 16, 14, 13)),
    ("kernel_shape = [1, 4], strides = [1, 3], pads = [0, 2, 0, 1]", (2, 16, 5, 16)),
]
RECTIFIERS = {
    "Relu": "h = Relu(x)",
    "ReLU6": "h = Clip(x, low, high)",
    "of two": "a, b = Split<axis = 1, num_outputs = 2>(x) ra = Relu(a) rb = Relu(b) "
    "h = Concat<axis = 1>(ra, rb)",
    "none": "h = Neg(x)",
}


@pytest.mark.parametrize("rule", ["vanilla", "deconv", "guided"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("attributes", "shape"), POOLS)
@pytest.mark.parametrize("kind", RECTIFIERS)
def test_a_pool_behind_a_rectifier(
    kind: str, attributes: str, shape: tuple[int, ...], batch: int | str, rule: str
) -> None:
    """Windows full of ties, of zeros, and of floats next to each other, bit for bit."""
    rng = np.random.default_rng(3)
    x = rng.integers(-2, 9, shape).astype(np.float32)
    close = (rng.random(shape) < 0.5) & (x > 0)  # 0 has but subnormal neighbours
    x[close] = np.nextafter(x[close], np.float32(9))
    consts = {"low": np.array(0.0), "high": np.array(6.0)}
    text = f"{RECTIFIERS[kind]}\n y = MaxPool<{attributes}>(h)"
    model = build(text, {"x": x}, consts, 20, "float32", {"x": (batch, *shape[1:])})
    graph, got, want = lowered_and_portable(model, x, rule)
    np.testing.assert_array_equal(got, want)
    indices = [n for n in graph.graph.node if n.op_type == "MaxPool" and len(n.output) > 1]
    # Where windows don't overlap and cover what MaxUnpool takes, that has Indices.
    assert (len(indices) == 0) == (kind != "none" and "MaxUnpool" not in operators(graph))
    assert ("MaxUnpool" in operators(graph)) == (attributes == APART)


POOLED = """
    r = Relu(x)
    p = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(r)
    y = Conv<kernel_shape = [3, 3]>(p, w)
"""
BRANCHED = (
    POOLED.replace("y =", "c =")
    + """
    q = AveragePool<kernel_shape = [3, 3], strides = [4, 4]>(r)
    y = Add(c, q)
"""
)


@pytest.mark.parametrize("rule", ["vanilla", "guided"])
@pytest.mark.parametrize(("text", "gates"), [(POOLED, 1), (BRANCHED, 2)])
def test_a_gate_before_the_pool_is_enough(text: str, gates: int, rule: str) -> None:
    """Unless another path reaches the rectifier too: then the sum is gated once more."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 16, 12, 12)), rng.standard_normal((16, 16, 3, 3))
    model = build(text, {"x": x}, {"w": w}, 18, "float32", {"x": ("N", 16, 12, 12)})
    graph, got, want = lowered_and_portable(model, x, rule)
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=1e-4)
    assert operators(graph).count("Clip") == gates


FIRE = """
    s = Conv<kernel_shape = [1, 1]>(x, ws)
    r = Relu(s)
    a = Conv<kernel_shape = [1, 1]>(r, wa)
    b = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r, wb)
    ra = Relu(a)
    rb = Relu(b)
    c = Concat<axis = 1>(ra, rb)
    y = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c, wn)
"""


@pytest.mark.parametrize("rule", ["vanilla", "deconv", "guided"])
@pytest.mark.parametrize("batch", BATCHES)
def test_a_concat_behind_a_convolution(batch: int | str, rule: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    # Whole blocks of any processor's: they are of 8 channels with AVX2, of 16 with AVX-512 or NEON.
    shapes = {
        "ws": (32, 32, 1, 1),
        "wa": (32, 32, 1, 1),
        "wb": (64, 32, 3, 3),
        "wn": (32, 96, 3, 3),
    }
    consts = {name: rng.standard_normal(s) for name, s in shapes.items()}
    x = rng.standard_normal((2, 32, 9, 9))
    model = build(FIRE, {"x": x}, consts, 18, "float32", {"x": (batch, 32, 9, 9)})
    graph, got, want = lowered_and_portable(model, x, rule)
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=1e-3)
    assert "Split" not in operators(graph)
    # And so nothing of it leaves the blocked layout but the three ends.
    kinds = optimized(graph, tmp_path)
    if "ReorderInput" in kinds:  # the layout is x86's and ARM's
        assert kinds.count("ReorderOutput") == 2, kinds


MOBILE = """
    e = Conv<kernel_shape = [1, 1]>(x, we, be)
    ce = Clip(e, low, high)
    d = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], group = 32>(ce, wd, be)
    cd = Clip(d, low, high)
    y = Conv<kernel_shape = [1, 1]>(cd, wp)
"""


@pytest.mark.parametrize("rule", ["vanilla", "deconv", "guided"])
def test_a_mobile_block_stays_in_the_layout(rule: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    # Whole blocks, as above.
    shapes = {"we": (32, 32, 1, 1), "be": (32,), "wd": (32, 1, 3, 3), "wp": (32, 32, 1, 1)}
    consts = {name: rng.standard_normal(s) for name, s in shapes.items()}
    consts |= {"low": np.array(0.0), "high": np.array(6.0)}
    x = rng.standard_normal((2, 32, 16, 16))
    model = build(MOBILE, {"x": x}, consts, 18, "float32", {"x": ("N", 32, 16, 16)})
    graph, got, want = lowered_and_portable(model, x, rule)
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=1e-4)
    kinds = optimized(graph, tmp_path)
    assert not {"Clip", "HardSigmoid", "Greater", "Where"} & set(kinds), kinds


def dense() -> tuple[onnx.ModelProto, Array]:
    rng = np.random.default_rng(1)
    text = """
        h = Gemm<transB = 1>(x, w1, b1)
        r = Relu(h)
        y = Gemm<transB = 1>(r, w2, b2)
    """
    shapes = {"w1": (1024, 1032), "b1": (1024,), "w2": (1100, 1024), "b2": (1100,)}
    consts = {name: rng.standard_normal(s) for name, s in shapes.items()}
    x = rng.standard_normal((3, 1032))
    return build(text, {"x": x}, consts, 18, "float32", {"x": ("N", 1032)}), x


def test_dense_layers_are_passed_once_for_all_rules() -> None:
    model, x = dense()
    rules = ("vanilla", "deconv", "guided")
    graphs = [
        explain_graph(model, rules, wrt="x", lowering=t).to_proto() for t in ("cpu", "portable")
    ]
    feeds = {"x": x.astype(np.float32), "target": np.array([-1, 3, 7])}
    got, want = (run_runtime(g, feeds) for g in graphs)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-3)
    lowered, portable = (operators(g).count("Gemm") for g in graphs)
    # Forward: 2; back through the last layer by the class's own row: none. Then once instead of
    # three times: no map is a product's own output, for rows that can't be explained get NaN there.
    assert portable == 5 and lowered == 3, (lowered, portable)


def test_dense_layers_behind_others_are_stacked() -> None:
    rng = np.random.default_rng(1)
    text = """
        f = Flatten(x)
        h = Gemm<transB = 1>(f, w1)
        r = Relu(h)
        y = MatMul(r, w2)
    """
    consts = {"w1": rng.standard_normal((1100, 1000)), "w2": rng.standard_normal((1100, 1000))}
    x = rng.standard_normal((3, 10, 10, 10))
    model = build(text, {"x": x}, consts, 18, "float32", {"x": ("N", 10, 10, 10)})
    graphs = [explain_graph(model, lowering=t).to_proto() for t in ("cpu", "portable")]
    feeds = {"x": x.astype(np.float32), "target": np.array([-1, 3, 7])}
    got, want = (run_runtime(g, feeds) for g in graphs)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-3)
    lowered, portable = (operators(g).count("Gemm") for g in graphs)
    assert (portable, lowered) == (4, 2)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("channels", [8, 16])
def test_a_mean_over_sides_that_are_open(channels: int, keepdims: int) -> None:
    """PyTorch's x.mean((2, 3)) of images of any size: nothing to make a pattern of."""
    x = np.random.default_rng(2).standard_normal((2, channels, 5, 7))
    text = f"a = Constant<value_ints = [2, 3]>() y = ReduceMean<keepdims = {keepdims}>(x, a)"
    dims = {"x": ("N", channels, "H", "W")}
    _, got, want = lowered_and_portable(build(text, {"x": x}, {}, 18, "float32", dims), x)
    np.testing.assert_allclose(got, want, rtol=RTOL)
