"""Every spelling of max(x, 0), and of min(max(x, 0), 6), that exporters produce is a rectifier.

The twin of each is the same network with a Relu, or a Clip from 0 to 6, where the spelling is.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from backlight.export.check import check
from backlight.export.methods import RULES
from backlight.export.saliency import explain_graph

from ..models import parsed
from .harness import run_runtime

RELU, RELU6 = "y = Relu(x)", "y = Clip(x, zero, six)"
# How exporters make a map of zeros: in the run, by the shape of x.
FILLED = "s = Shape(x) z = ConstantOfShape(s) "
EXPANDED = "s = Shape(x) z = Expand(zero, s) "
ABOVE, BELOW = "t = Greater(x, zero) ", "t = LessOrEqual(x, zero) "

SPELLED: dict[str, str] = {
    "Max": "y = Max(x, zero)",
    "Max, turned": "y = Max(zero, x)",
    "Max of rank 4": "y = Max(x, zero4)",
    "Max of a Constant": "c = Constant<value_float = 0.0>() y = Max(c, x)",
    "Max of three": "y = Max(zero, x, minus)",
    "Max, filled": FILLED + "y = Max(x, z)",
    "Max, expanded": EXPANDED + "y = Max(x, z)",
    "Max of a CastLike": "c = Constant<value_int = 0>() z = CastLike(c, x) y = Max(x, z)",
    "Clip without max": "y = Clip(x, zero)",
    "Clip to a computed 0": EXPANDED + "c = Identity(zero) y = Clip(x, c)",
    "Where": ABOVE + "y = Where(t, x, zero)",
    "Where, filled": FILLED + ABOVE + "y = Where(t, x, z)",
    "Where, expanded": EXPANDED + ABOVE + "y = Where(t, x, z)",
    "Where to a CastLike": ABOVE + "c = Constant<value_int = 0>() z = CastLike(c, x) "
    "y = Where(t, x, z)",
    "Where below": BELOW + "y = Where(t, zero, x)",
    "Where 0 is above": "t = Less(zero, x) y = Where(t, x, zero)",
    "Where not": BELOW + "n = Not(t) y = Where(n, x, zero)",
    "masked_fill": "l = Less(x, zero) t = Cast<to = 9>(l) y = Where(t, zero, x)",
    "at least": "t = GreaterOrEqual(x, zero) y = Where(t, x, zero)",
    "Mul": ABOVE + "m = Cast<to = 1>(t) y = Mul(x, m)",
    "Mul, turned": ABOVE + "m = Cast<to = 1>(t) y = Mul(m, x)",
    "Mul by CastLike": ABOVE + "m = CastLike(t, x) y = Mul(x, m)",
    "Mul of at least": "t = GreaterOrEqual(x, zero) m = Cast<to = 1>(t) y = Mul(m, x)",
    "Mul of not": BELOW + "n = Not(t) m = Cast<to = 1>(n) y = Mul(x, m)",
    "Mul by Where": ABOVE + "m = Where(t, one, zero) y = Mul(x, m)",
    "LeakyRelu of 0": "y = LeakyRelu<alpha = 0.0>(x)",
    "PRelu of 0": "y = PRelu(x, zero)",
    "PRelu of zeros": "y = PRelu(x, zeros)",
    "ThresholdedRelu of 0": "y = ThresholdedRelu<alpha = 0.0>(x)",
    "Abs": "a = Abs(x) b = Add(x, a) y = Mul(b, half)",
    "Abs, turned": "a = Abs(x) b = Add(a, x) y = Div(b, two)",
    "twice": "a = Max(x, zero) y = Relu(a)",
    "Sub": "m = Min(x, zero) y = Sub(x, m)",
    "Sub of a Clip": "m = Clip(x, , zero) y = Sub(x, m)",
    # x[x < 0] = 0, as PyTorch's exporters write it
    "assigned": "l = Less(x, zero) n = NonZero(l) i = Transpose<perm = [1, 0]>(n) "
    "a = GatherND(x, i) s = Shape(a) z = ConstantOfShape(s) y = ScatterND(x, i, z)",
    "assigned up to": "l = LessOrEqual(x, zero) n = NonZero(l) i = Transpose<perm = [1, 0]>(n) "
    "a = GatherND(x, i) s = Shape(a) z = Expand(zero, s) y = ScatterND(x, i, z)",
    "assigned where not above": "t = Greater(x, zero) l = Not(t) n = NonZero(l) "
    "i = Transpose<perm = [1, 0]>(n) a = GatherND(x, i) s = Shape(a) z = Expand(zero, s) "
    "y = ScatterND(x, i, z)",
}
SPELLED6: dict[str, str] = {
    "Min of Max": "a = Max(x, zero) y = Min(a, six)",
    "Max of Min": "a = Min(x, six) y = Max(a, zero)",
    "Min of Max, turned": "a = Max(zero, x) y = Min(six, a)",
    "Min of Relu": "a = Relu(x) y = Min(a, six)",
    "Relu of Min": "a = Min(six, x) y = Relu(a)",
    "Clip of Relu": "a = Relu(x) y = Clip(a, , six)",
    "Relu of Clip": "a = Clip(x, , six) y = Relu(a)",
    "two Clips": "a = Clip(x, zero) y = Clip(a, , six)",
    "two Clips, turned": "a = Clip(x, , six) y = Clip(a, zero)",
    "Min of Where": ABOVE + "a = Where(t, x, zero) y = Min(a, six)",
    "Min, filled": "s = Shape(x) z = ConstantOfShape<value = float[1] {6.0}>(s) a = Relu(x) "
    "y = Min(a, z)",
    "two Wheres": ABOVE + "a = Where(t, x, zero) u = Greater(a, six) y = Where(u, six, a)",
    "Min of Mul": ABOVE + "m = Cast<to = 1>(t) a = Mul(x, m) y = Min(a, six)",
    "with a copy between": "a = Max(x, zero) i = Identity(a) y = Min(i, six)",
    "Clip": "y = Clip(x, zero, six)",
    "Clip of Max": "a = Max(x, zero) y = Clip(a, minus, six)",
    "assigned, both ends": "a = Relu(x) t = Greater(a, six) n = NonZero(t) "
    "i = Transpose<perm = [1, 0]>(n) b = GatherND(a, i) s = Shape(b) z = Expand(six, s) "
    "y = ScatterND(a, i, z)",
}
CASES = [(n, t, RELU) for n, t in SPELLED.items()] + [(n, t, RELU6) for n, t in SPELLED6.items()]
IDS = [name for name, _, _ in CASES]
NUMBERS = {"zero": 0, "six": 6, "one": 1, "minus": -1, "half": 0.5, "two": 2, "three": 3}


def renamed(text: str, end: str) -> str:
    """A spelling from h{end} to r{end}, its own names made unique."""
    words = {"x": f"h{end}", "y": f"r{end}"} | {n: f"{n}{end}" for n in "abcilmnstuz"}
    out, word = "", ""
    for letter in text + " ":
        if letter.isalnum() or letter == "_":
            word += letter
            continue
        out += words.get(word, word) + letter
        word = ""
    return out


def network(text: str, size: str = "9,8") -> onnx.ModelProto:
    """Two convolutions, each with the rectifier behind it, a residual branch, a dense layer.
    Scaled so that a good part lies above 6."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": 3 * rng.standard_normal((4, 3, 3, 3)),
        "w2": rng.standard_normal((4, 4, 3, 3)),
        "v": rng.standard_normal((4, 5)),
        "zero4": np.zeros((1, 1, 1, 1)),
        "zeros": np.zeros((4, 1, 1)),
        **{n: np.array(v) for n, v in NUMBERS.items()},
    }
    first, second = renamed(text, "1"), renamed(text, "2")
    return parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,{size}] image) => (float[N,5] scores) {{
    h1 = Conv<pads=[1,1,1,1]>(image, w1)
    {first}
    h2 = Conv<pads=[1,1,1,1]>(r1, w2)
    {second}
    q = Add(r2, r1)
    p = GlobalAveragePool(q)
    f = Flatten(p)
    scores = MatMul(f, v)
}}""",
        {n: np.asarray(w, np.float32) for n, w in weights.items()},
    )


X = np.random.default_rng(1).standard_normal((2, 3, 9, 8)).astype(np.float32)


def maps(model: Any, x: np.ndarray = X, **options: Any) -> dict[str, np.ndarray]:
    graph = explain_graph(model, RULES, **options)
    feeds = {graph.input: x, "target": np.array([1, 3])}
    found = run_runtime(graph.to_proto(), feeds)
    return {rule: found[graph.saliency[rule]] for rule in RULES}


def by_autograd(six: bool) -> np.ndarray:
    torch = pytest.importorskip("torch")
    model = network(RELU)
    w = {
        t.name: torch.tensor(numpy_helper.to_array(t).astype(np.float64))
        for t in model.graph.initializer
    }
    bound = torch.nn.functional.relu6 if six else torch.relu
    x = torch.tensor(X.astype(np.float64), requires_grad=True)
    first = bound(torch.nn.functional.conv2d(x, w["w1"], padding=1))
    second = bound(torch.nn.functional.conv2d(first, w["w2"], padding=1))
    scores = (first + second).mean((2, 3)) @ w["v"]
    scores[torch.arange(2), torch.tensor([1, 3])].sum().backward()
    assert x.grad is not None
    return x.grad.numpy()


@pytest.mark.parametrize(("name", "text", "twin"), CASES, ids=IDS)
@pytest.mark.parametrize("size", ["9,8", "H,W"])
def test_a_spelling_is_its_twin(name: str, text: str, twin: str, size: str) -> None:
    found, want = maps(network(text, size)), maps(network(twin, size))
    for rule in ("deconv", "guided"):
        np.testing.assert_array_equal(found[rule], want[rule], err_msg=rule)
        assert np.abs(want[rule] - want["vanilla"]).max() > 1e-2
    # In float32 a Mul by 0 and 1 and a Where are the same to the bit, sums in another order not.
    scale = np.abs(want["vanilla"]).max()
    np.testing.assert_allclose(found["vanilla"], want["vanilla"], rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(
        found["vanilla"], by_autograd(twin == RELU6), rtol=0, atol=1e-5 * scale
    )


@pytest.mark.parametrize(("name", "text", "twin"), CASES, ids=IDS)
@pytest.mark.parametrize("lowering", ["cpu", "cuda", "tensorrt"])
def test_for_each_runtime(name: str, text: str, twin: str, lowering: str) -> None:
    found, want = maps(network(text), lowering=lowering), maps(network(twin))
    for rule in RULES:
        scale = np.abs(want[rule]).max()
        np.testing.assert_allclose(found[rule], want[rule], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(("name", "text", "twin"), CASES, ids=IDS)
def test_check_lists_them(name: str, text: str, twin: str) -> None:
    notes = [f.line() for f in check(network(text)).notes]
    assert not any("no rectifier" in line for line in notes), notes
    plain = text in (RELU6, "y = Clip(x, zero)") or "Thresholded" in name or "Clips" in name
    plain |= name in ("Clip to a computed 0", "Clip of Relu", "Relu of Clip")
    assert plain or any("a rectifier (" in line for line in notes), notes
    assert not any("a rectifier" in f.line() for f in check(network(twin)).notes)


GATES = {
    "no bound at 0": "y = Max(x, minus)",
    "only from above": "y = Min(x, six)",
    "a bound of the run": "m = ReduceMean<keepdims = 0>(x) y = Max(x, m)",
    "Where of another": "t = Greater(x, one) y = Where(t, x, zero)",
    "Where of another tensor": "n = Neg(x) t = Greater(n, zero) y = Where(t, x, zero)",
    "Mul by the other side": BELOW + "m = Cast<to = 1>(t) y = Mul(x, m)",
    "an absolute of another": "n = Identity(minus) a = Abs(n) y = Add(x, a)",
}


@pytest.mark.parametrize("text", GATES.values(), ids=GATES.keys())
def test_what_is_no_rectifier(text: str) -> None:
    found = maps(network(text))
    for rule in ("deconv", "guided"):
        np.testing.assert_array_equal(found[rule], found["vanilla"])
    assert any("no rectifier" in f.line() for f in check(network(text)).notes)


@pytest.mark.parametrize(
    "text",
    [
        "a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)",
        "a = Add(x, three) b = Relu(a) c = Min(b, six) y = Div(c, six)",
        "a = Add(x, three) b = Max(a, zero) c = Min(b, six) d = Div(c, six) y = Mul(d, x)",
        "a = Mul(x, half) b = Add(a, half) c = Max(b, zero) y = Min(c, one)",
    ],
)
@pytest.mark.parametrize("lowering", ["portable", "cpu"])
def test_hard_sigmoids_are_gates(text: str, lowering: str) -> None:
    found = maps(network(text.replace("d = ", "i = ").replace("(d,", "(i,")), lowering=lowering)
    scale = np.abs(found["vanilla"]).max()
    assert scale > 1e-4
    for rule in ("deconv", "guided"):
        np.testing.assert_allclose(found[rule], found["vanilla"], rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("text", [RELU, *SPELLED.values()])
def test_at_0(text: str, rule: str) -> None:
    """Strictly above, under every spelling: what is 0 is held back (by deconv, let through)."""
    model = parsed(
        '<ir_version: 8, opset_import: ["": 18]>\ng (float[3,4,1,1] x) => (float[3,4,1,1] y) {'
        f"{text}}}",
        {
            "zeros": np.zeros((4, 1, 1), np.float32),
            "zero4": np.zeros((1, 1, 1, 1), np.float32),
            **{n: np.array(v, np.float32) for n, v in NUMBERS.items()},
        },
    )
    x = np.array([-1, 0, 2], np.float32).reshape(3, 1, 1, 1).repeat(4, 1)
    graph = explain_graph(model, (rule,), of="y", wrt="x", cotangent="input").to_proto()
    found = run_runtime(graph, {"x": x, "cotangent": np.ones_like(x)})[f"saliency_{rule}"]
    np.testing.assert_array_equal(found[:, 0, 0, 0], [1, 1, 1] if rule == "deconv" else [0, 0, 1])


def with_relu(model: onnx.ModelProto, op_type: str) -> onnx.ModelProto:
    """The quantised model with a Relu in place of each node of a kind: of its one input that is
    neither a constant's nor a bool's nor a number made of one."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    weights = {t.name for t in twin.graph.initializer}
    makers = {out: node for node in twin.graph.node for out in node.output}

    def moves(name: str) -> bool:
        node = makers.get(name)
        while node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            name = node.input[0]
            node = makers.get(name)
        return name not in weights and (node is None or node.op_type == "Conv")

    for node in twin.graph.node:
        if node.op_type == op_type:
            (x,) = [name for name in node.input if moves(name)]
            node.op_type = "Relu"
            node.input[:] = [x]
    return twin


@pytest.mark.parametrize("name", ["Max", "Where", "Mul", "Min of Max"])
def test_quantised(name: str, tmp_path: Path) -> None:
    """Each node between its QuantizeLinear and DequantizeLinear, the 0 and the 6 too."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    file, out = tmp_path / "plain.onnx", tmp_path / "quantised.onnx"
    onnx.save(network(SPELLED.get(name) or SPELLED6[name]), file)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        rows = iter([{"image": X}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    quantization.quantize_static(
        file, out, Reader(), quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Max", "Min", "Where", "Mul", "MatMul", "Add"],
        weight_type=quantization.QuantType.QInt8, reduce_range=True,
    )  # fmt: skip
    notes = [f.line() for f in check(out).notes]
    assert any("a rectifier (2 nodes)" in line for line in notes), notes
    model = onnx.load(out)
    found, want = maps(model), maps(with_relu(model, name.rpartition(" ")[2]))
    for rule in ("deconv", "guided"):
        np.testing.assert_array_equal(found[rule], want[rule], err_msg=rule)
        assert np.abs(want[rule] - want["vanilla"]).max() > 1e-2


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize(
    "kind", ["clamp", "clamp_min", "clamp_06", "maximum", "where", "mul", "masked", "relu_clamp"]
)
def test_from_pytorch(kind: str, dynamo: bool) -> None:
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    bound = {
        "clamp": lambda x: torch.clamp(x, min=0),
        "clamp_min": lambda x: x.clamp_min(0.0),
        "clamp_06": lambda x: x.clamp(0, 6),
        "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
        "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
        "mul": lambda x: x * (x > 0),
        "masked": lambda x: x.masked_fill(x < 0, 0.0),
        "relu_clamp": lambda x: torch.relu(x).clamp(max=6),
    }
    plain = torch.nn.functional.relu6 if kind in ("clamp_06", "relu_clamp") else torch.relu

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.two = torch.nn.Conv2d(4, 5, 3)
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return self.inner(self.two(self.inner(8 * self.one(x)))).mean((2, 3))

    found = []
    for inner in (bound[kind], plain):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Net(inner).eval(), (torch.tensor(X),), file, input_names=["x"], dynamo=dynamo,
                **({} if dynamo else {"opset_version": 17}), verbose=False,
            )  # fmt: skip
        found.append(maps(file.getvalue()))
    for rule in RULES:
        scale = np.abs(found[1][rule]).max()
        np.testing.assert_allclose(found[0][rule], found[1][rule], rtol=0, atol=1e-6 * scale)
