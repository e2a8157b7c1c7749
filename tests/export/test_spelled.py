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
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from backlight.export.check import check
from backlight.export.methods import RULES
from backlight.export.rules import spelled as spelled_rules
from backlight.export.rules.spelled import all_spelled
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
    # y[x > 0] = x[x > 0], of zeros
    "picked": FILLED + ABOVE + "n = NonZero(t) i = Transpose<perm = [1, 0]>(n) "
    "a = GatherND(x, i) y = ScatterND(z, i, a)",
    "picked, cut": FILLED + ABOVE + "n = NonZero(t) i = Transpose<perm = [1, 0]>(n) "
    "a = GatherND(x, i) l = Constant<value_ints = [-1]>() b = Reshape(a, l) u = Shape(i) "
    "c = Slice(u, first, second) m = Slice(b, first, c) y = ScatterND(z, i, m)",
    "masks of another shape": FILLED + "t = Greater(x, z) m = Cast<to = 1>(t) y = Mul(x, m)",
    "Neg of Min": "a = Neg(x) b = Min(a, zero) y = Neg(b)",
    "Neg of Clip": "a = Neg(x) b = Clip(a, , zero) y = Neg(b)",
    "Sign": "a = Sign(x) m = Relu(a) y = Mul(x, m)",
    "Sign of a Clip": "a = Sign(x) m = Clip(a, zero) y = Mul(m, x)",
    "Sign, halved": "a = Sign(x) b = Add(a, one) c = Mul(x, b) y = Div(c, two)",
    "Sign is 1": "a = Sign(x) t = Equal(a, one) m = Cast<to = 1>(t) y = Mul(x, m)",
    "Sign is not -1": "a = Sign(x) t = Equal(a, minus) n = Not(t) m = Cast<to = 1>(n) "
    "y = Mul(x, m)",
    "Abs, split": "a = Abs(x) b = Mul(a, half) c = Mul(x, half) y = Add(b, c)",
    "root of a square": "a = Mul(x, x) b = Sqrt(a) c = Add(x, b) y = Mul(c, half)",
    "root of a power": "a = Pow(x, two) b = Sqrt(a) c = Add(x, b) y = Div(c, two)",
    "Where to 0 x": ABOVE + "z = Mul(x, zero) y = Where(t, x, z)",
    "Where to x - x": ABOVE + "z = Sub(x, x) y = Where(t, x, z)",
    "Max of 0 x": "z = Mul(x, zero) y = Max(x, z)",
    "Add of the other side": "a = Neg(x) b = Relu(a) y = Add(x, b)",
    "Sum": "a = Neg(x) b = Max(a, zero) y = Sum(x, b)",
    "Sub from 1": "a = Sub(one, x) b = Min(a, one) y = Sub(one, b)",
    "Elu of 0": "y = Elu<alpha = 0.0>(x)",
    "heaviside": "l = Less(x, zero) a = Where(l, zero, one) t = Equal(x, zero) "
    "m = Where(t, zero, a) y = Mul(x, m)",
    "Ceil": "a = Clip(x, zero, one) b = Ceil(a) y = Mul(b, x)",
    "Selu of 0": "y = Selu<alpha = 0.0, gamma = 1.0>(x)",
    "assigned 0 y": "l = Less(x, zero) n = NonZero(l) i = Transpose<perm = [1, 0]>(n) "
    "a = GatherND(x, i) b = Mul(a, zero) y = ScatterND(x, i, b)",
    "picked from a Relu": FILLED + ABOVE + "n = NonZero(t) i = Transpose<perm = [1, 0]>(n) "
    "a = Relu(x) b = GatherND(a, i) y = ScatterND(z, i, b)",
    "in another order": "a = Transpose<perm = [0, 2, 3, 1]>(x) t = Greater(a, zero) "
    "m = Cast<to = 1>(t) c = Mul(a, m) y = Transpose<perm = [0, 3, 1, 2]>(c)",
    "of two tests": ABOVE + "u = Less(x, zero) n = Not(u) c = And(t, n) m = Cast<to = 1>(c) "
    "y = Mul(x, m)",
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
    # What tools for mixed precision leave in float32 they cast there and back, each by itself.
    "with Casts between": "a = Max(x, zero) b = Cast<to = 11>(a) c = Cast<to = 1>(b) "
    "y = Min(c, six)",
    "a Clip between Casts": "a = Relu(x) b = Cast<to = 11>(a) i = CastLike(six, b) "
    "c = Clip(b, , i) y = CastLike(c, x)",
    "in another shape between": "s = Shape(x) a = Max(x, zero) b = Flatten(a) c = Min(b, six) "
    "y = Reshape(c, s)",
    "in another order between": "a = Max(x, zero) b = Transpose<perm = [0, 2, 3, 1]>(a) "
    "c = Min(b, six) y = Transpose<perm = [0, 3, 1, 2]>(c)",
    "Clip": "y = Clip(x, zero, six)",
    "Clip of Max": "a = Max(x, zero) y = Clip(a, minus, six)",
    "assigned, both ends": "a = Relu(x) t = Greater(a, six) n = NonZero(t) "
    "i = Transpose<perm = [1, 0]>(n) b = GatherND(a, i) s = Shape(b) z = Expand(six, s) "
    "y = ScatterND(a, i, z)",
    "Sub twice from 6": "a = Relu(x) b = Sub(six, a) c = Relu(b) y = Sub(six, c)",
    "two Relus": "a = Relu(x) b = Sub(x, six) c = Relu(b) y = Sub(a, c)",
    "Where of Where": "l = Less(x, zero) a = Where(l, zero, x) u = Greater(x, six) "
    "y = Where(u, six, a)",
    "Where between": ABOVE + "l = Less(x, six) u = And(t, l) a = Where(t, six, zero) "
    "y = Where(u, x, a)",
    "Mul between": ABOVE + "l = Less(x, six) u = And(t, l) m = Cast<to = 1>(u) a = Mul(x, m) "
    "n = Not(l) b = Cast<to = 1>(n) c = Mul(b, six) y = Add(a, c)",
    "HardSigmoid": "a = Sub(x, three) b = HardSigmoid<alpha = 0.16666667>(a) y = Mul(b, six)",
    "Abs of both": "a = Abs(x) b = Sub(x, six) c = Abs(b) i = Sub(a, c) l = Add(i, six) "
    "y = Div(l, two)",
    "Min of Neg": "a = Neg(x) b = Min(a, zero) c = Neg(b) y = Min(c, six)",
    "Clip of Mul": ABOVE + "m = Cast<to = 1>(t) a = Mul(x, m) y = Clip(a, , six)",
    "scaled": "a = Div(x, six) b = Clip(a, zero, one) y = Mul(b, six)",
}
CASES = [(n, t, RELU) for n, t in SPELLED.items()] + [(n, t, RELU6) for n, t in SPELLED6.items()]
IDS = [name for name, _, _ in CASES]
NUMBERS = {
    "zero": 0, "six": 6, "one": 1, "minus": -1, "half": 0.5, "two": 2, "three": 3, "tenth": 0.1,
}  # fmt: skip
PLACES = {"first": np.array([0]), "second": np.array([1])}


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
        {n: np.asarray(w, np.float32) for n, w in weights.items()} | PLACES,
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
    plain |= name == "a Clip between Casts"
    assert plain or any("a rectifier (" in line for line in notes), notes
    assert not any("a rectifier" in f.line() for f in check(network(twin)).notes)


LEAKY = {
    "Max": "a = Mul(x, tenth) y = Max(x, a)",
    "Where": ABOVE + "a = Mul(x, tenth) y = Where(t, x, a)",
    "Relus": "a = Relu(x) b = Neg(x) c = Relu(b) i = Mul(c, tenth) y = Sub(a, i)",
    "assigned": "l = Less(x, zero) n = NonZero(l) i = Transpose<perm = [1, 0]>(n) "
    "a = GatherND(x, i) b = Mul(a, tenth) y = ScatterND(x, i, b)",
}


@pytest.mark.parametrize("text", LEAKY.values(), ids=LEAKY.keys())
def test_a_slope_below_0(text: str) -> None:
    found, want = maps(network(text)), maps(network("y = LeakyRelu<alpha = 0.1>(x)"))
    for rule in RULES:
        scale = np.abs(want[rule]).max()
        np.testing.assert_allclose(found[rule], want[rule], rtol=0, atol=1e-6 * scale)
    notes = [f.line() for f in check(network(text)).notes]
    assert any("has a slope below 0" in line for line in notes), notes
    assert not any("no rectifier" in line for line in notes), notes


GATES = {
    "no bound at 0": "y = Max(x, minus)",
    "only from above": "y = Min(x, six)",
    "a bound of the run": "m = ReduceMean<keepdims = 0>(x) y = Max(x, m)",
    "Where of another": "t = Greater(x, one) y = Where(t, x, zero)",
    "Where of another tensor": "n = Neg(x) t = Greater(n, zero) y = Where(t, x, zero)",
    "Mul by the other side": BELOW + "m = Cast<to = 1>(t) y = Mul(x, m)",
    "assigned its own negative": "l = Less(x, zero) n = NonZero(l) "
    "i = Transpose<perm = [1, 0]>(n) a = GatherND(x, i) b = Neg(a) y = ScatterND(x, i, b)",
    "an absolute of another": "n = Identity(minus) a = Abs(n) y = Add(x, a)",
}


# What is a little above 0 where x is below, as poolings and norms have it behind a rectifier.
NEARLY = {
    "Clip behind": "a = Relu(x) y = Clip(a, little)",
    "Clip in front": "a = Clip(x, little) y = Relu(a)",
    "Max behind": "a = Relu(x) y = Max(a, little)",
    "Max of Max": "a = Max(x, zero) y = Max(little, a)",
    "Add": "a = Relu(x) y = Add(a, little)",
    "Add and a bound": "a = Clip(x, zero, six) y = Add(a, little)",
    "Where": ABOVE + "y = Where(t, x, little)",
    "Abs": "a = Abs(x) b = Add(x, a) c = Mul(b, half) y = Add(c, little)",
    "below": "a = Relu(x) y = Sub(a, little)",
}


@pytest.mark.parametrize("text", NEARLY.values(), ids=NEARLY.keys())
@pytest.mark.parametrize("lowering", ["portable", "cpu", "cuda", "tensorrt"])
def test_what_is_nearly_one_is_what_it_computes(text: str, lowering: str) -> None:
    """Nothing passes where x is below 0, under any rule but deconv's; by its own derivative."""
    model = parsed(
        '<ir_version: 8, opset_import: ["": 18]>\ng (float[3,4,5,5] x) => (float[3,4,5,5] y) {'
        f"{text}}}",
        {"little": np.array(1e-6, np.float32)}
        | {n: np.array(v, np.float32) for n, v in NUMBERS.items()},
    )
    x = np.array([-1, -1e-3, 2], np.float32).reshape(3, 1, 1, 1).repeat(4, 1)
    x = np.broadcast_to(x, (3, 4, 5, 5)).copy()
    ct = np.where(np.arange(25) % 2, 1, -1).astype(np.float32).reshape(5, 5)
    ct = np.broadcast_to(ct, x.shape).copy()
    made = explain_graph(model, RULES, of="y", wrt="x", cotangent="input", lowering=lowering)
    found = run_runtime(made.to_proto(), {"x": x, "cotangent": ct})
    np.testing.assert_array_equal(found[made.saliency["vanilla"]], ct * (x > 0))
    if any(kind in text for kind in ("Relu(x)", "Max(x, zero)", "Clip(x, zero")):
        # The rectifier inside is one, whatever bound or sum follows.
        open_ = np.where("Add" in text or "Sub" in text, 1, x > 0)
        np.testing.assert_array_equal(found[made.saliency["deconv"]], np.maximum(ct, 0) * open_)
        np.testing.assert_array_equal(found[made.saliency["guided"]], np.maximum(ct, 0) * (x > 0))


@pytest.mark.parametrize(
    "text",
    ["a = Relu(x) y = Min(a, much)", "a = Relu(x) y = Clip(a, , much)",
     "a = Abs(x) b = Add(x, a) c = Mul(b, half) y = Min(c, much)"],
)  # fmt: skip
@pytest.mark.parametrize("much", [7e3, 65504.0])
def test_a_bound_far_out_holds_back(text: str, much: float) -> None:
    """As where half floats are clipped."""
    model = parsed(
        f'<ir_version: 8, opset_import: ["": 18]>\ng (float[4,1] x) => (float[4,1] y) {{{text}}}',
        {"much": np.array(much, np.float32), "half": np.array(0.5, np.float32)},
    )
    made = explain_graph(model, ("vanilla",), of="y", wrt="x", cotangent="input")
    x = np.array([[-1], [2], [0.9 * much], [1.1 * much]], np.float32)
    found = run_runtime(made.to_proto(), {"x": x, "cotangent": np.ones_like(x)})
    np.testing.assert_array_equal(found[made.saliency["vanilla"]], [[0], [1], [1], [0]])


@pytest.mark.parametrize("at", [1e-3, 0.04, 0.1])
def test_a_slope_that_changes_beside_0(at: float) -> None:
    """It is no LeakyRelu: each side has the derivative that it computes."""
    model = parsed(
        """<ir_version: 8, opset_import: ["": 18]>
g (float[4,1] x) => (float[4,1] y) {
    t = Greater(x, at)
    a = Mul(x, tenth)
    y = Where(t, x, a)
}""",
        {"at": np.array(at, np.float32), "tenth": np.array(0.1, np.float32)},
    )
    made = explain_graph(model, ("vanilla",), of="y", wrt="x", cotangent="input")
    x = np.array([[-1], [0.5 * at], [2 * at], [5]], np.float32)
    found = run_runtime(made.to_proto(), {"x": x, "cotangent": np.ones_like(x)})
    tenth = np.float32(0.1)
    np.testing.assert_array_equal(found[made.saliency["vanilla"]], [[tenth], [tenth], [1], [1]])


def test_a_channel_that_is_dead_in_front_of_generalised_means() -> None:
    """relu, clamp(1e-6), power, mean, root: where a channel is 0 everywhere its root is steep, and
    one gate left open made maps that were half wrong."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    w = rng.standard_normal((6, 3, 3, 3))
    b = np.array([0, -50, 0, -50, 0, 0])  # two are dead
    v = rng.standard_normal((6, 5))
    model = parsed(
        """<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,9,8] image) => (float[N,5] scores) {
    h = Conv<pads=[1,1,1,1]>(image, w, b)
    a = Relu(h)
    c = Clip(a, little)
    d = Pow(c, three)
    p = GlobalAveragePool(d)
    f = Flatten(p)
    r = Pow(f, third)
    scores = MatMul(r, v)
}""",
        {
            n: np.asarray(t, np.float32)
            for n, t in {
                "w": w, "b": b, "v": v, "little": 1e-6, "three": 3, "third": 1 / 3
            }.items()
        },
    )  # fmt: skip
    x = torch.tensor(X.astype(np.float64), requires_grad=True)
    h = torch.nn.functional.conv2d(x, torch.tensor(w), torch.tensor(b).double(), padding=1)
    pooled = torch.relu(h).clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3) @ torch.tensor(v)
    pooled[torch.arange(2), torch.tensor([1, 3])].sum().backward()
    assert x.grad is not None
    want = x.grad.numpy()
    for lowering in ("portable", "cpu"):
        found = maps(model, lowering=lowering)["vanilla"]
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())


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
            **PLACES,
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


def from_pytorch(kind: str, dynamo: bool) -> None:
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    from .torch_spellings import ALL, RELU6

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.two = torch.nn.Conv2d(4, 5, 3)
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return self.inner(self.two(self.inner(8 * self.one(x)))).mean((2, 3))

    found, files = [], []
    for inner in (ALL[kind], torch.nn.functional.relu6 if kind in RELU6 else torch.relu):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Net(inner).eval(), (torch.tensor(X),), file, input_names=["x"], dynamo=dynamo,
                **({} if dynamo else {"opset_version": 17}), verbose=False,
            )  # fmt: skip
        files.append(file.getvalue())
        found.append(maps(files[-1]))
    notes = [f.line() for f in check(files[0]).notes]
    assert not any("no rectifier" in line for line in notes), notes
    for rule in RULES:
        scale = np.abs(found[1][rule]).max()
        # relu(x) - relu(x - 6) rounds where relu6 doesn't.
        np.testing.assert_allclose(found[0][rule], found[1][rule], rtol=0, atol=5e-6 * scale)


# Those that every run takes; the others: pytest -m slow tests/export/test_spelled.py
FIRST = ("clamp", "maximum", "where", "mul", "masked", "clamp_06", "relu_clamp", "picked")


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize("kind", FIRST)
def test_from_pytorch(kind: str, dynamo: bool) -> None:
    from_pytorch(kind, dynamo)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
def test_all_from_pytorch(dynamo: bool) -> None:
    pytest.importorskip("torch")
    from .torch_spellings import ALL

    for kind in ALL:
        from_pytorch(kind, dynamo)


@pytest.mark.parametrize(
    "end",
    [
        'y = ScatterND<reduction="caf">(x, at, x)',
        "y = Mul(x)",
        "y = Where(x)",
        "y = Max()",
    ],
)
def test_a_broken_node_is_no_rectifier(end: str) -> None:
    """A stranger's: attributes that are no text, inputs that are missing."""
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[N,4] x) => (float[N,4] y) {{ {end} }}'
    model = parsed(text, {"at": np.array([[0]])})
    for attribute in (a for n in model.graph.node for a in n.attribute):
        attribute.s = b"\xff\xfe"
    nodes = list(ir.from_proto(model).graph)
    nodes[-1].outputs[0].dtype = ir.DataType.FLOAT
    assert all_spelled(nodes) == []


def test_a_sum_of_thousands_is_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rectifier is made of so many, and each was held against all before it."""
    values = [ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))]
    nodes = [ir.Node("", "Tanh", values, name=f"n{i}") for i in range(3000)]
    end = ir.Node("", "Sum", [n.outputs[0] for n in nodes], name="sum")
    end.outputs[0].dtype = ir.DataType.FLOAT
    ir.Graph(values, end.outputs, nodes=[*nodes, end], name="g")
    asked: list[object] = []
    same = spelled_rules._is_same
    monkeypatch.setattr(spelled_rules, "_is_same", lambda a, b: asked.append(a) or same(a, b))
    assert spelled_rules.spelled(end) is None
    assert 0 < len(asked) < 200


def test_a_rectifier_that_others_read_holds_back_their_sum() -> None:
    """relu(x) / |relu(x)|: |r| is max(x, 0) too, but r is the rectifier, of both cotangents."""
    text = """<ir_version: 8, opset_import: ["": 18]>
m (float[N,4,3] x) => (float[N,5] y) {
    r = Relu(x)
    a = Abs(r)
    b = Add(a, one)
    q = Div(r, b)
    f = Flatten(q)
    y = MatMul(f, w)
}"""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(12, 5)).astype(np.float32)
    x = rng.normal(size=(2, 4, 3)).astype(np.float32)
    proto = explain_graph(parsed(text, {"w": w, "one": np.float32(1)}), RULES).to_proto()
    found = run_runtime(proto, {"x": x, "target": np.array([1, 4])})
    r, g = np.maximum(x, 0), w.T[[1, 4]].reshape(2, 4, 3)
    # What arrives at r: of the quotient, and of its denominator.
    ct = g / (r + 1) - np.sign(r) * g * r / (r + 1) ** 2
    want = {"vanilla": (x > 0) * ct, "deconv": np.maximum(ct, 0)}
    want["guided"] = (x > 0) * want["deconv"]
    for rule, value in want.items():
        np.testing.assert_allclose(found[f"saliency_{rule}"], value, atol=1e-6, err_msg=rule)


@pytest.mark.parametrize("bound", ["Clip(n, zero)", "Max(n, zero)"])
@pytest.mark.parametrize(
    "norm",
    [
        "n = ReduceL2(x, axes)",
        "m = Mul(x, x) s = ReduceSum(m, axes) n = Sqrt(s)",
        "m = Mul(x, x) n = ReduceSum(m, axes)",
        "a = Abs(x) n = ReduceMax(a, axes)",
    ],
)
def test_a_norm_kept_off_0_is_no_rectifier(bound: str, norm: str) -> None:
    """x / max(|x|, 1e-12), whose bound is 0 in half: nothing is rectified, the rules agree."""
    text = f"""<ir_version: 8, opset_import: ["": 18]>
m (float[N,12] x) => (float[N,5] y) {{
    {norm}
    c = {bound}
    q = Div(x, c)
    y = MatMul(q, w)
}}"""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(12, 5)).astype(np.float32)
    weights = {"w": w, "zero": np.float32(0), "axes": np.array([1])}
    proto = explain_graph(parsed(text, weights), RULES, wrt="x").to_proto()
    x = rng.normal(size=(2, 12)).astype(np.float32)
    found = run_runtime(proto, {"x": x, "target": np.array([1, 4])})
    assert found["saliency_vanilla"].any()
    for rule in ("deconv", "guided"):
        want = found["saliency_vanilla"]
        np.testing.assert_array_equal(found[f"saliency_{rule}"], want, err_msg=rule)
