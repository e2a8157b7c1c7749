"""Which tensor is the score, whatever closes the head: its gradient and its probabilities."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import PHOTOS
from backlight.engine.direct.explainer import Explainer
from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.masked.rise import Rise
from backlight.errors import ModelError, UsageError
from backlight.export import unrounded
from backlight.export.check import check
from backlight.export.graph import load
from backlight.export.heads import read

from .. import models
from .harness import run_reference, run_runtime

X = models.images(2, 3, 8, 8)
_INTS = {
    "zero": [0], "one": [1], "two": [2], "three": [3], "some": [4, 1, 2], "last": [2, 3],
    "inner": [1, 2], "turn": [1, 0], "groups": [0, 2, 2], "four": [4], "flat4": [0, 4],
    "axis": 1, "k": 3, "row": [0, 1, 1, 5],
}  # fmt: skip
_FLOATS = {"half": 0.5, "w1": 0.3, "w2": 0.7, "T": 2, "low": 1e-4, "high": 0.9, "top": 1,
           "hundred": 100, "shift": 40, "negative": -40, "slope": [[-1, 1]], "foot": [[1, 0]],
           "ln2": np.log(2), "decibels": 10 / np.log(10), "minus": -1,
           "tiny": 1e-6, "most": 1 - 1e-6,
           "foot2": [[0, 1]], "nothing": 0, "w005": 0.05, "gains": [2, 1, 1, 1, 1],
           "turned": np.eye(5)[[3, 1, 4, 0, 2]], "ones": np.ones((5, 1)),
           "three4": 3.0, "six": 6.0, "gain": [[1], [0.5], [-1], [0.3], [2]],
           "thresholds": [[2, 1, 0, -1]],
           "steps": np.eye(5, dtype=np.float32)[1:] - np.eye(5, dtype=np.float32)[:4],
           "first": [1, 0, 0, 0, 0],
           "summed": [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]}  # fmt: skip
BOTH = "s2 = Gemm<transB=1>(f, v2, c) a = Softmax(scores) q = Softmax(s2)"


def head(tail: str, output: str = "float[N,5] prob", **changes) -> onnx.ModelProto:
    """`tiny` with another end, and the constants that ends are written with."""
    model = models.tiny(tail=tail, output=output, **changes)
    named = {"v2": np.random.default_rng(9).standard_normal((5, 4)).astype(np.float32)}
    named |= {name: np.array(value, np.int64) for name, value in _INTS.items()}
    named |= {name: np.array(value, np.float32) for name, value in _FLOATS.items()}
    for name, value in named.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


def expected(model, x=X):
    return run_runtime(model, {"x": x})["prob"].reshape(len(x), -1).astype(np.float64)


def told(model) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities [2, K] that explaining and hiding show."""
    explain = Explainer(model, ("vanilla",))
    shown = explain.probabilities(explain(X).scores)
    occlude = Occlusion(model, window=8, stride=8)
    found = occlude.measure(X, classes="all")
    risen = Rise(model, masks=4, cells=2).measure(X, classes="all")
    np.testing.assert_array_equal(risen.score, found.score)
    return shown, found.score


def _sigmoid(v):
    return 1 / (1 + np.exp(-v))


# Ends whose probabilities are what the model says, through a function of the output; then the
# tensor whose gradient is taken.
ENDS = {
    "softmax": ("prob = Softmax(scores)", None, "scores"),
    "log": ("prob = LogSoftmax(scores)", np.exp, "scores"),
    "log of": ("s = Softmax(scores) prob = Log(s)", np.exp, "scores"),
    "exp of log": ("l = LogSoftmax(scores) prob = Exp(l)", None, "scores"),
    "temperature": ("t = Div(scores, T) prob = Softmax(t)", None, "t"),
    "written out": ("e = Exp(scores) t = ReduceSum(e, one) prob = Div(e, t)", None, "scores"),
    "written out, shifted": (
        "m = ReduceMax(scores, one) d = Sub(scores, m) e = Exp(d) t = ReduceSum(e, one) "
        "prob = Div(e, t)",
        None,
        "scores",
    ),
    "log, written out": ("l = ReduceLogSumExp(scores, one) prob = Sub(scores, l)", np.exp,
                         "scores"),
    "clipped": ("s = Softmax(scores) prob = Clip(s, low, top)", None, "scores"),
    "clipped hard": ("s = Softmax(scores) prob = Clip(s, low, high)", None, "scores"),
    "per cent": ("s = Softmax(scores) prob = Mul(s, hundred)", lambda p: p / 100, "scores"),
    "sigmoid": ("prob = Sigmoid(scores)", None, "scores"),
    "sigmoid, normalised": ("s = Sigmoid(scores) t = ReduceSum(s, one) prob = Div(s, t)", None,
                            "scores"),
    "other axis": (
        "t = Transpose<perm=[1,0]>(scores) s = Softmax<axis=0>(t) prob = Transpose<perm=[1,0]>(s)",
        None,
        "t",
    ),
    "chain": (
        "u = Unsqueeze(scores, last) s = Softmax<axis=1>(u) i = Identity(s) j = Cast<to=1>(i) "
        "t = Transpose<perm=[0,2,3,1]>(j) prob = Squeeze(t, inner)",
        None,
        "u",
    ),
    "mean": (f"{BOTH} prob = Mean(a, q)", None, "prob"),
    "half the sum": (f"{BOTH} t = Add(a, q) prob = Mul(t, half)", None, "prob"),
    "weighted": (f"{BOTH} t = Mul(a, w1) u = Mul(q, w2) prob = Add(t, u)", None, "prob"),
    "sum": (f"{BOTH} prob = Sum(a, q)", lambda p: p / 2, "prob"),
    "product": (f"{BOTH} prob = Mul(a, q)", None, "prob"),
    "product, normalised": (
        f"{BOTH} t = Mul(a, q) u = ReduceSum(t, one) prob = Div(t, u)", None, "prob",
    ),
    "stacked": (
        f"{BOTH} t = Unsqueeze(a, zero) u = Unsqueeze(q, zero) s = Concat<axis=0>(t, u) "
        "prob = ReduceMean<keepdims=0>(s, zero)",
        None,
        "prob",
    ),
    "log of a mean": (f"{BOTH} t = Mean(a, q) prob = Log(t)", np.exp, "prob"),
    "log2": ("s = Softmax(scores) l = Log(s) prob = Div(l, ln2)", np.exp2, "scores"),
    "decibels": ("l = LogSoftmax(scores) prob = Mul(l, decibels)", lambda v: 10 ** (v / 10),
                 "scores"),
    "-log": ("s = Softmax(scores) l = Log(s) prob = Neg(l)", lambda v: np.exp(-v), "scores"),
    "-LogSoftmax": ("l = LogSoftmax(scores) prob = Mul(l, minus)", lambda v: np.exp(-v), "scores"),
    "0 - log": ("l = LogSoftmax(scores) prob = Sub(nothing, l)", lambda v: np.exp(-v), "scores"),
    "-log of Sigmoids": ("s = Sigmoid(scores) l = Log(s) prob = Neg(l)", lambda v: np.exp(-v),
                         "scores"),
    "-log of a mean": (f"{BOTH} t = Mean(a, q) l = Log(t) prob = Neg(l)", lambda v: np.exp(-v),
                       "l"),
    "log2 of a mean": (f"{BOTH} t = Mean(a, q) l = Log(t) prob = Div(l, ln2)", np.exp2, "l"),
    "clipped -log": ("s = Softmax(scores) l = Log(s) n = Neg(l) prob = Clip(n, nothing, hundred)",
                     lambda v: np.exp(-v), "scores"),
    "log odds": ("s = Sigmoid(scores) n = Sub(top, s) d = Div(s, n) prob = Log(d)", _sigmoid,
                 "scores"),
    "log odds of a Softmax": ("s = Softmax(scores) n = Sub(top, s) d = Div(s, n) prob = Log(d)",
                              _sigmoid, "scores"),
    "a difference of logs": ("s = Softmax(scores) l = Log(s) m = Neg(s) n = Add(m, top) q = Log(n) "
                             "prob = Sub(l, q)", _sigmoid, "scores"),
    "logit": ("s = Sigmoid(scores) u = Less(s, tiny) in0 = Where(u, tiny, s) "
              "over = LessOrEqual(in0, most) in1 = Where(over, in0, most) "
              "n = Sub(top, in1) d = Div(in1, n) prob = Log(d)", _sigmoid, "scores"),
    "the older logit": ("s = Softmax(scores) u = Greater(s, most) in0 = Where(u, most, s) "
                        "under = Less(in0, tiny) in1 = Where(under, tiny, in0) "
                        "n = Sub(top, in1) d = Div(in1, n) prob = Log(d)", _sigmoid, "scores"),
    "clipped log odds": ("s = Sigmoid(scores) in1 = Clip(s, tiny, most) n = Sub(top, in1) "
                         "d = Div(in1, n) prob = Log(d)", _sigmoid, "scores"),
    "-log odds": ("s = Sigmoid(scores) n = Sub(top, s) d = Div(s, n) l = Log(d) prob = Neg(l)",
                  lambda v: _sigmoid(-v), "scores"),
    "log odds of a mean": (f"{BOTH} t = Mean(a, q) n = Sub(top, t) d = Div(t, n) prob = Log(d)",
                           _sigmoid, "prob"),
    "exp of twice the log": ("l = LogSoftmax(scores) t = Mul(l, T) e = Exp(t) "
                             "u = ReduceSum(e, one) prob = Div(e, u)", None, "t"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_probabilities_are_what_the_model_says(name):
    """Explained and hidden, from the model and from its export: not a softmax of a softmax."""
    tail, through, of = ENDS[name]
    model = head(tail)
    want = expected(model) if through is None else through(expected(model))
    shown, scored = told(model)
    np.testing.assert_allclose(shown, want, atol=1e-6)
    np.testing.assert_allclose(scored, want, atol=1e-6)
    graph = backlight.export(model, ("vanilla",))
    exported = Explainer(graph, ("vanilla",))
    np.testing.assert_allclose(exported.probabilities(exported(X).scores), want, atol=1e-6)
    meta = {p.key: p.value for p in graph.metadata_props}
    assert meta["backlight.of"] == of and check(model).of == of


@pytest.mark.parametrize("name", ENDS)
def test_the_gradient_is_that_of_the_score_found(name):
    """By central differences in float64, of the tensor that it says."""
    tail, _, of = ENDS[name]
    model = head(tail)
    graph = backlight.export(model, ("vanilla",))
    got = run_runtime(graph, {"x": X[:1], "target": np.array([3])})["saliency_vanilla"]
    plain = to_double(head(tail, output=f"float[N,5] prob, float {of}" if of != "prob" else
                           "float[N,5] prob"))  # fmt: skip
    rng = np.random.default_rng(3)
    for _ in range(3):
        way = rng.standard_normal(X[:1].shape)
        step = 1e-6
        ends = [
            run_reference(plain, {"x": X[:1].astype(np.float64) + s * step * way})[of]
            for s in (1, -1)
        ]
        ends = [e.reshape(-1)[3] for e in ends]  # [1, 5] in every layout
        want = (ends[0] - ends[1]) / (2 * step)
        # float32 against float64
        np.testing.assert_allclose((got * way).sum(), want, rtol=2e-4, atol=1e-6)


def to_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in float64."""
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    for tensor in model.graph.initializer:
        if tensor.data_type == kinds[0]:
            wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kinds[1]
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = kinds[1]
    return model


# Ends with other classes or another shape: the output, how it is declared, and which of the five
# logits its classes are.
SHAPES = {
    "picked": ("s = Softmax(scores) prob = Gather<axis=1>(s, some)", "N,3", [4, 1, 2]),
    "cut": ("s = Softmax(scores) prob = Slice(s, zero, three, one)", "N,3", [0, 1, 2]),
    "split": ("s = Softmax(scores) o, prob = Split<axis=1>(s, parts)", "N,3", [2, 3, 4]),
    "[N,1,1,K]": ("u = Unsqueeze(scores, inner) prob = Softmax(u)", "N,1,1,5", [0, 1, 2, 3, 4]),
    "[N,1,K]": ("u = Unsqueeze(scores, one) prob = Softmax(u)", "N,1,5", [0, 1, 2, 3, 4]),
    "[N,K,1,1]": ("u = Unsqueeze(scores, last) prob = Softmax<axis=1>(u)", "N,5,1,1",
                  [0, 1, 2, 3, 4]),
    "turned": ("u = Unsqueeze(scores, last) s = Softmax<axis=1>(u) "
               "prob = Transpose<perm=[0,2,3,1]>(s)", "N,1,1,5", [0, 1, 2, 3, 4]),
    "bare [N,1,1,K]": ("prob = Unsqueeze(scores, inner)", "N,1,1,5", [0, 1, 2, 3, 4]),
    "bare [N,1,K]": ("prob = Unsqueeze(scores, one)", "N,1,5", [0, 1, 2, 3, 4]),
}  # fmt: skip


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("name", SHAPES)
def test_classes_wherever_they_are(name, opset):
    """The map of a class is that of its logit, and -1 is the top one of those there are."""
    tail, shape, classes = SHAPES[name]
    if opset == 11:
        for operator, axes in (("Unsqueeze", {"inner": "1,2", "last": "2,3", "one": "1"}),):
            for axis, numbers in axes.items():
                tail = tail.replace(
                    f"{operator}(scores, {axis})", f"{operator}<axes=[{numbers}]>(scores)"
                )
        tail = tail.replace("Softmax(u)", f"Softmax<axis={shape.count(',')}>(u)")
        tail = tail.replace("Split<axis=1>(s, parts)", "Split<axis=1,split=[2,3]>(s)")
    model = head(tail, f"float[{shape}] prob", opset=opset)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "parts"))
    logits = backlight.export(models.tiny(tail="", output="float[N,5] scores"), ("vanilla",))
    z = expected(models.tiny(tail="prob = Identity(scores)"))
    explain = Explainer(model, ("vanilla",))
    assert explain.classes == len(classes)
    top = z[:, classes].argmax(axis=1)
    found = explain(X)
    np.testing.assert_array_equal(found.target, top)
    for target in (*range(len(classes)), None):
        number = np.array(classes)[top if target is None else [target] * 2]
        want = run_runtime(logits, {"x": X, "target": number})["saliency_vanilla"]
        got = explain(X, target).saliency["vanilla"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)  # float32
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p = (p / p.sum(axis=1, keepdims=True))[:, classes]
    shown, scored = told(model)
    np.testing.assert_allclose(shown, p, atol=1e-6)
    np.testing.assert_allclose(scored, p, atol=1e-6)
    exported = Explainer(backlight.export(model, ("vanilla",)), ("vanilla",))
    np.testing.assert_array_equal(exported(X).target, top)
    np.testing.assert_allclose(exported.probabilities(exported(X).scores), p, atol=1e-6)


def test_an_output_without_a_batch():
    """[K] of an image alone."""
    model = head("prob = Squeeze(scores, zero)", "float[5] prob", shape="1,3,8,8")
    explain, one = Explainer(model, ("vanilla",)), Explainer(models.tiny(), ("vanilla",))
    for target in (None, 0, 4):
        found, want = explain(X[:1], target), one(X[:1], target)
        np.testing.assert_array_equal(found.target, want.target)
        np.testing.assert_allclose(
            found.saliency["vanilla"], want.saliency["vanilla"], rtol=1e-5, atol=1e-7
        )
    np.testing.assert_allclose(explain.probabilities(found.scores), want.scores, atol=1e-6)
    occlude = Occlusion(model, window=4)
    np.testing.assert_allclose(occlude(X[:1]), Occlusion(models.tiny(), window=4)(X[:1]), atol=2e-6)


ONE = "t = Slice(scores, two, three, one)"


@pytest.mark.parametrize("shift", ["", "shift", "negative"])
@pytest.mark.parametrize(
    ("end", "shape"),
    [
        ("prob = Sigmoid(z)", "N,1"),
        ("s = Sigmoid(z) prob = Squeeze(s, one)", "N"),
        ("u = Unsqueeze(z, last) prob = Sigmoid(u)", "N,1,1,1"),
        ("n = Neg(z) e = Exp(n) d = Add(top, e) prob = Div(top, d)", "N,1"),
    ],
)
def test_one_logit_is_two_classes(end, shape, shift):
    """1 is what it gives the probability of, 0 its negation; saturated or not the map is that of
    the logit, by PyTorch's autograd."""
    torch = pytest.importorskip("torch")
    z = f"z = Add(t, {shift})" if shift else "z = Identity(t)"
    model = head(f"{ONE} {z} {end}", f"float[{shape}] prob")
    weights = {k: torch.from_numpy(v) for k, v in models.weights().items()}
    x = torch.from_numpy(X).requires_grad_()
    h = torch.conv2d(x, weights["w"], weights["b"], padding=1).relu().mean(dim=(2, 3))
    logit = (h @ weights["v"].T + weights["c"])[:, 2] + (_FLOATS[shift] if shift else 0)
    (want,) = torch.autograd.grad(logit.sum(), x)
    explain = Explainer(model, ("vanilla",))
    assert explain.classes == 2 and "negation for class 0" in " ".join(explain.notes)
    for target, sign in ((1, 1), (0, -1)):
        got = explain(X, target).saliency["vanilla"]
        np.testing.assert_allclose(got, sign * want.numpy(), rtol=1e-5, atol=1e-7)
    top = (logit.detach().numpy() > 0).astype(np.int64)
    p = expected(model)[:, 0]
    shown, scored = told(model)
    for found in (shown, scored):
        np.testing.assert_allclose(found, np.stack([1 - p, p], axis=1), atol=1e-6)
    for one in (explain, Explainer(backlight.export(model, ("vanilla",)), ("vanilla",))):
        found = one(X)
        np.testing.assert_array_equal(found.target, top)
        both = np.where(top == 1, 1, -1)[:, None, None, None]
        np.testing.assert_allclose(
            found.saliency["vanilla"], both * want.numpy(), rtol=1e-5, atol=1e-7
        )
    with pytest.raises(UsageError, match=r"0 to 1"):
        explain(X, 2)


PAIRS = {
    "1 - p, p": ("p1 = Sigmoid(t) q1 = Sub(top, p1) prob = Concat<axis=1>(q1, p1)", 1),
    "p, 1 - p": ("p1 = Sigmoid(t) q1 = Sub(top, p1) prob = Concat<axis=1>(p1, q1)", 0),
    "1 + -p, p": (
        "p1 = Sigmoid(t) m1 = Neg(p1) q1 = Add(m1, top) prob = Concat<axis=-1>(q1, p1)",
        1,
    ),
    "stacked": (
        "p1 = Sigmoid(t) s1 = Squeeze(p1, one) r1 = Sub(top, s1) q1 = Unsqueeze(r1, one) "
        "o1 = Unsqueeze(s1, one) prob = Concat<axis=1>(q1, o1)",
        1,
    ),
    "written": (
        "n1 = Neg(t) e1 = Exp(n1) d1 = Add(top, e1) p1 = Div(top, d1) q1 = Sub(top, p1) "
        "prob = Concat<axis=1>(q1, p1)",
        1,
    ),
    "a gain and an offset": ("p1 = Sigmoid(t) m1 = Mul(p1, slope) prob = Add(m1, foot)", 1),
    "the other way round": ("p1 = Sigmoid(t) m1 = Mul(p1, slope) prob = Sub(foot2, m1)", 0),
    "a dense layer": ("p1 = Sigmoid(t) prob = Gemm(p1, slope, foot)", 1),
    "a product": ("p1 = Sigmoid(t) m1 = MatMul(p1, slope) prob = Add(foot, m1)", 1),
    "a distance": ("p1 = Sigmoid(t) m1 = Sub(p1, foot) prob = Abs(m1)", 1),
    "1 - (1 - p)": (
        "p1 = Sigmoid(t) q1 = Sub(top, p1) r1 = Sub(top, q1) prob = Concat<axis=1>(q1, r1)",
        1,
    ),
    "picked": (
        "p1 = Sigmoid(t) q1 = Sub(top, p1) c1 = Concat<axis=1>(p1, q1) "
        "prob = Gather<axis=1>(c1, turn)",
        1,
    ),
    "tanh": (
        "h1 = Mul(t, half) h2 = Tanh(h1) h3 = Mul(h2, half) p1 = Add(h3, half) "
        "q1 = Sub(top, p1) prob = Concat<axis=1>(q1, p1)",
        1,
    ),
    "beside 0": ("z1 = Mul(t, nothing) c1 = Concat<axis=1>(z1, t) prob = Softmax(c1)", 1),
    "smoothed": (
        "p1 = Sigmoid(t) m1 = Mul(p1, slope) m2 = Add(m1, foot) m3 = Mul(m2, high) "
        "prob = Add(m3, w005)",
        1,
    ),
    "of -z": ("p1 = Sigmoid(t) n1 = Neg(t) q1 = Sigmoid(n1) prob = Concat<axis=1>(q1, p1)", 1),
}


@pytest.mark.parametrize("name", PAIRS)
def test_one_sigmoid_beside_what_is_left(name):
    """Explained before the Sigmoid: of class 0 and 1 the gradients of -z and z."""
    end, own = PAIRS[name]
    model = head(f"{ONE} {end}", "float[N,2] prob")
    explain = Explainer(model, ("vanilla",))
    said = " ".join(explain.notes)
    assert f"for class {own}, and its negation for class {1 - own}" in said
    assert any("negation" in f.line() for f in backlight.check(model).notes)
    want = Explainer(models.tiny(), ("vanilla",))(X, 2).saliency["vanilla"]
    for target in (0, 1):
        sign = 1 if target == own else -1
        got = explain(X, target).saliency["vanilla"]
        scale = 0.5 if name == "tanh" else 1
        np.testing.assert_allclose(got, scale * sign * want, rtol=1e-5, atol=1e-7)
    for found in told(model):
        np.testing.assert_allclose(found, expected(model), atol=1e-6)
    again = Explainer(backlight.export(model, ("vanilla",)), ("vanilla",))
    np.testing.assert_array_equal(again(X).target, expected(model).argmax(axis=1))


@pytest.mark.parametrize(
    "end",
    [
        "p1 = Sigmoid(t) q1 = Sub(half, p1) prob = Concat<axis=1>(q1, p1)",
        "p1 = Sigmoid(t) o1 = Sigmoid(scores) u1 = Slice(o1, one, two, one) q1 = Sub(top, u1) "
        "prob = Concat<axis=1>(q1, p1)",
        "p1 = Sigmoid(scores) q1 = Sub(top, p1) r1 = Concat<axis=1>(q1, p1) "
        "prob = Slice(r1, one, three, one)",
    ],
)
def test_what_is_no_pair(end):
    model = head(f"{ONE} {end}", "float[N,2] prob")
    assert "negation" not in " ".join(Explainer(model, ("vanilla",)).notes)


def test_pairs_within_pairs_end():
    """A stranger's graph, each Concat made of one column of the one before."""
    chain = "s0 = Sigmoid(t) " + " ".join(
        f"c{i} = Concat<axis=1>(s{i}, s0) s{i + 1} = Slice(c{i}, one, two, one)" for i in range(400)
    )
    model = head(f"{ONE} {chain} prob = Concat<axis=1>(s400, s0)", "float[N,2] prob")
    assert Explainer(model, ("vanilla",))(X).scores.shape == (len(X), 2)


# What else a head does to probabilities: what is shown, by the output, and of each class the score
# explained, as one of `scores` and its sign; None: the output itself.
DONE = {
    "the rest": ("s = Softmax(scores) prob = Sub(top, s)", None, [(k, -1) for k in range(5)]),
    "the rest of each": ("s = Sigmoid(scores) prob = Sub(top, s)", None,
                         [(k, -1) for k in range(5)]),
    "class weights": ("s = Softmax(scores) prob = Mul(s, gains)", None, [(k, 1) for k in range(5)]),
    "smoothed": ("s = Softmax(scores) t = Mul(s, high) prob = Add(t, w005)", None,
                 [(k, 1) for k in range(5)]),
    "half": ("s = Softmax(scores) prob = Div(s, T)", None, [(k, 1) for k in range(5)]),
    "turned": ("s = Softmax(scores) prob = MatMul(s, turned)", None,
               [(k, 1) for k in (3, 1, 4, 0, 2)]),
    "two turned": ("u = Slice(scores, zero, two, one) s = Softmax(u) prob = Sub(top, s)", None,
                   [(1, 1), (0, 1)]),
    "squared": ("s = Softmax(scores) prob = Mul(s, s)", None, [(k, 1) for k in range(5)]),
    "classes of classes": ("s = Softmax(scores) prob = MatMul(s, summed)", None, None),
    "a sum with other weights": (f"{BOTH} t = Mul(a, w1) u = Mul(q, w1) prob = Add(t, u)", None,
                                 None),
    "weights that add up beyond 1": (f"{BOTH} t = Mul(a, gains) prob = Add(t, q)",
                                     lambda p: np.where(p.max(axis=1, keepdims=True) > 1.002,
                                                        p / p.sum(axis=1, keepdims=True), p), None),
    "the best of two": (f"{BOTH} prob = Max(a, q)", None, None),
    "groups": ("c4 = Slice(scores, zero, four, one) g = Reshape(c4, groups) s = Softmax(g) "
               "prob = Reshape(s, flat4)", None, [(k, 1) for k in range(4)]),
    "a sigmoid by hand": ("prob = HardSigmoid(scores)", None, [(k, 1) for k in range(5)]),
    "Sigmoids in all": ("s = Sigmoid(scores) prob = LpNormalization<p=1,axis=1>(s)", None,
                        [(k, 1) for k in range(5)]),
    "a softmax by its norm": ("s = Exp(scores) prob = LpNormalization<p=1,axis=1>(s)", None,
                              [(k, 1) for k in range(5)]),
    "powers of 2": ("s = Pow(T, scores) t = ReduceSum(s, one) prob = Div(s, t)", None,
                    [(k, 1) for k in range(5)]),
    "powers of a half": ("s = Pow(half, scores) prob = LpNormalization<p=1,axis=1>(s)", None,
                         [(k, -1) for k in range(5)]),
    "a sigmoid of 2": ("n = Neg(scores) s = Pow(T, n) t = Add(s, top) prob = Div(top, t)", None,
                       [(k, 1) for k in range(5)]),
    "turned by an Einsum": ('s = Softmax(scores) prob = Einsum<equation="nk,kj->nj">(s, turned)',
                            None, [(k, 1) for k in (3, 1, 4, 0, 2)]),
    "an Einsum's sum": ('e = Exp(scores) t = Einsum<equation="nk->n">(e) u = Unsqueeze(t, one) '
                        "prob = Div(e, u)", None, [(k, 1) for k in range(5)]),
    "Softplus, in all": ("s = Softplus(scores) t = MatMul(s, ones) prob = Div(s, t)", None,
                         [(k, 1) for k in range(5)]),
    "Dirichlet": ("s = Softplus(scores) a = Add(s, top) t = ReduceSum(a, one) prob = Div(a, t)",
                  None, [(k, 1) for k in range(5)]),
    "a normal's": ("t = Erf(scores) a = Add(t, top) prob = Mul(a, half)", None,
                   [(k, 1) for k in range(5)]),
    "a straight line's": ("t = Add(scores, three4) a = Clip(t, nothing, six) prob = Div(a, six)",
                          None, [(k, 1) for k in range(5)]),
    "a log-sigmoid by hand": ("n = Neg(scores) s = Softplus(n) prob = Neg(s)", np.exp,
                              [(k, 1) for k in range(5)]),
    "thresholds in order": ("u = MatMul(scores, gain) z = Add(u, thresholds) s = Sigmoid(z) "
                            "prob = Gemm(s, steps, first)", None, None),
    "one after another": ("s = Sigmoid(scores) q = Sub(top, s) l = Log(q) "
                          "e = CumSum<exclusive=1>(l, axis) o = Exp(e) prob = Mul(s, o)", None,
                          None),
    "a softmax by hand": ("e = Exp(scores) t = MatMul(e, ones) d = Reciprocal(t) prob = Mul(e, d)",
                          None, [(k, 1) for k in range(5)]),
}  # fmt: skip


@pytest.mark.parametrize("name", DONE)
def test_what_else_is_done_to_probabilities(name):
    """They are shown as the model says them, by explaining, hiding and an export; and the gradient
    is that of a score before them, or of what the model gives, with the class on top its own."""
    end, through, routes = DONE[name]
    count = len(routes) if routes else 3 if "summed" in end else 5
    model = head(end, f"float[N,{count}] prob")
    said = expected(model)
    want = said if through is None else through(said)
    for found in told(model):
        np.testing.assert_allclose(found, want, atol=1e-6)
    explain = Explainer(model, ("vanilla",))
    again = Explainer(backlight.export(model, ("vanilla",)), ("vanilla",))
    np.testing.assert_allclose(again.probabilities(again(X).scores), want, atol=1e-6)
    for one in (explain, again):
        np.testing.assert_array_equal(one(X).target, want.argmax(axis=1))
    plain = Explainer(models.tiny(), ("vanilla",))
    if routes is None:
        assert check(model).of == "prob" and "the tensor itself" in " ".join(explain.notes)
        return
    for target, (at, sign) in enumerate(routes):
        np.testing.assert_allclose(
            explain(X, target).saliency["vanilla"],
            sign * plain(X, at).saliency["vanilla"], rtol=1e-5, atol=1e-7,
        )  # fmt: skip
    turned = routes != [(k, 1) for k in range(len(routes))]
    assert not turned or "'scores'" in explain.notes[0] or "'u'" in explain.notes[0]


@pytest.mark.parametrize(
    "end",
    [f"{BOTH} prob = Sub(a, q)", "s = Softmax(scores) prob = Sub(s, half)",
     "s = Sigmoid(scores) prob = Mul(s, gains)", "prob = Tanh(scores)",
     "t = Tanh(scores) prob = Identity(t)", "prob = Softsign(scores)",
     "u = Mul(scores, T) s = Sigmoid(u) t = Mul(s, T) prob = Sub(t, top)"],
)  # fmt: skip
def test_what_is_made_of_probabilities_and_is_none(end):
    """No softmax is shown of it; hidden windows are scored by it."""
    model = head(end)
    explain = Explainer(model, ("vanilla",))
    assert explain.probabilities(explain(X).scores) is None
    assert "as its values go below 0 or beyond 1" in explain.notes[0]
    occlude = Occlusion(model, window=8)
    np.testing.assert_allclose(occlude.measure(X, classes="all").score, expected(model), atol=1e-6)
    with pytest.raises(UsageError, match="no probabilities"):
        Occlusion(model, window=8, score="probability")(X)


@pytest.mark.parametrize(
    "end",
    [
        "s = Sigmoid(f) prob = Gemm<transB=1>(s, v2, c)",
        "s = Softmax(f) prob = Gemm<transB=1>(s, v2, c)",
        "s = Sigmoid(scores) prob = Mul(s, scores)",
        "s = LogSoftmax(scores) prob = Add(s, gains)",
        "t = Tanh(scores) prob = Mul(t, hundred)",
        "e = Exp(scores) prob = Mul(e, gains)",
    ],
)
def test_layers_inside_are_no_heads(end):
    """Logits, whatever Sigmoids there are before them: their softmax is shown."""
    z = expected(head(end))
    p = np.exp(z - z.max(axis=1, keepdims=True))
    for found in told(head(end)):
        np.testing.assert_allclose(found, p / p.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("number", ["Constant<value_float=1.0>", "RandomUniform<shape=[1,5]>"])
@pytest.mark.parametrize(
    "end",
    [
        "s = Mul(scores, scores) n2 = Add(s, n1) prob = Reciprocal(n2)",
        "s = Mul(scores, scores) n2 = Add(n1, s) prob = Div(n1, n2)",
        "s = Exp(scores) prob = Div(s, n1)",
        "prob = Sub(scores, n1)",
        "s = Sub(n1, scores) prob = Clip(s)",
        "s = Concat<axis=1>(n1) prob = Mul(s, scores)",
        "s = Identity(n1) prob = Add(s, scores)",
        "prob = Where(yes, n1, scores)",
        "s = Tanh(n1) prob = Max(s, scores)",
    ],
)
def test_what_a_node_without_inputs_gives_is_no_head(end, number):
    """A traceback once: each was asked for its first input."""
    model = head(f"n1 = {number} () {end}")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(False), "yes"))
    read(load(model).graph.outputs[0])
    assert check(model).of


@pytest.mark.parametrize("batch", ["1", "2"])
def test_heads_of_a_fixed_batch_are_tried_as_well(batch):
    for end, own in (PAIRS["a distance"], PAIRS["a dense layer"]):
        model = head(f"{ONE} {end}", f"float[{batch},2] prob", shape=f"{batch},3,8,8")
        notes = " ".join(Explainer(model, ("vanilla",)).notes)
        assert f"for class {own}, and its negation for class {1 - own}" in notes


def test_a_head_that_would_take_long_to_try_is_left(monkeypatch):
    """A stranger's: 2^14 numbers, each by each, are never multiplied."""
    model = head(
        "s = Sigmoid(scores) u = Tile(s, many) v9 = Unsqueeze(u, two) w9 = Unsqueeze(u, one) "
        "m = Mul(v9, w9) prob = ReduceMean<keepdims=0>(m, two)",
        "float[N,16385] prob",
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3277]), "many"))
    ran = []
    real = unrounded.evaluate
    monkeypatch.setattr(unrounded, "evaluate", lambda n, *a: ran.append(n.op_type) or real(n, *a))
    read(load(model).graph.outputs[0])
    assert "Tile" in ran and "Mul" not in ran


def test_a_layer_has_no_probabilities(tmp_path, capsys):
    """Channels are measured as they are, with no softmax over them; which is said."""
    model = head("prob = Softmax(scores)")
    made = Occlusion(model, window=8, stride=8, of="f")
    x = X[:1]
    found = made.measure(x, classes=[1])
    assert made.score == "logit" and "no probability" in " ".join(made.scorer.notes)
    inner = head("prob = Identity(f)", "float[N,4] prob")
    assert found.score[0, 0] == pytest.approx(run_runtime(inner, {"x": x})["prob"].reshape(-1)[1])
    for engine in (Occlusion, Rise):
        with pytest.raises(UsageError, match="no classes"):
            engine(model, of="f", score="probability")
    assert Occlusion(model, window=8, of="scores").score == "probability"


ROUNDED = "{n}q = QuantizeLinear({n}, step, foot8) {n}d = DequantizeLinear({n}q, step, foot8) "


@pytest.mark.parametrize(
    ("end", "sign"),
    [
        ("s = Softmax(scores) " + ROUNDED.format(n="s")
         + "o8 = DequantizeLinear(full8, step, foot8) t = Sub(o8, sd) " + ROUNDED.format(n="t")
         + "prob = Identity(td)", -1),
        ("s = Sigmoid(scores) " + ROUNDED.format(n="s") + "t = Mul(sd, sd) "
         + ROUNDED.format(n="t") + "prob = Identity(td)", 1),
    ],
)  # fmt: skip
def test_what_quantised_heads_do_to_probabilities(end, sign):
    """Tried as if nothing were rounded; numbers that the file holds as codes too."""
    model = head(end)
    named = {"step": np.float32(1 / 255), "foot8": np.uint8(0), "full8": np.uint8(255)}
    for name, value in named.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    for found in told(model):
        np.testing.assert_allclose(found, expected(model), atol=1.01 / 255)
    explain, plain = Explainer(model, ("vanilla",)), Explainer(models.tiny(), ("vanilla",))
    for target in range(5):
        np.testing.assert_allclose(
            explain(X, target).saliency["vanilla"],
            sign * plain(X, target).saliency["vanilla"], rtol=1e-5, atol=1e-7,
        )  # fmt: skip


def test_a_single_score_within_ones_is_one_class():
    """A steering angle behind a Tanh, or twice a Sigmoid less 1: no two classes."""
    for end in (
        "prob = Tanh(t)",
        "u = Mul(t, T) s = Sigmoid(u) v5 = Mul(s, T) prob = Sub(v5, top)",
    ):
        model = head(f"{ONE} {end}", "float[N,1] prob")
        explain = Explainer(model, ("vanilla",))
        np.testing.assert_array_equal(explain(X).target, [0, 0])
        assert explain.probabilities(explain(X).scores) is None
        with pytest.raises(UsageError, match="class 1"):
            explain(X, 1)


@pytest.mark.parametrize(("end", "shape"), [("Identity(t)", "N,1"), ("Squeeze(t, one)", "N")])
def test_a_single_score_that_nothing_closes_is_one_class(end, shape):
    model = head(f"{ONE} prob = {end}", f"float[{shape}] prob")
    explain = Explainer(model, ("vanilla",))
    want = Explainer(models.tiny(), ("vanilla",))(X, 2).saliency["vanilla"]
    for target in (None, 0, -1):
        np.testing.assert_allclose(explain(X, target).saliency["vanilla"], want, rtol=1e-5)
    assert explain.probabilities(explain(X).scores) is None
    assert Occlusion(model, window=8).score == Rise(model, masks=4).score == "logit"
    with pytest.raises(UsageError, match="class 1"):
        explain(X, 1)


def heads() -> onnx.ModelProto:
    return head(
        "other = Gemm<transB=1>(f, v2, c) p1 = Softmax(scores) p2 = Sigmoid(other)",
        "float[N,5] p1, float[N,5] p2, float[N,4] f",
    )


@pytest.mark.parametrize(("name", "before"), [("p1", "scores"), ("p2", "other")])
def test_a_named_head_is_explained_before_what_closes_it(name, before):
    """As hidden windows are scored, and said; as it is only where that is asked for."""
    target = {"x": X, "target": np.array([1, 4])}
    graphs = {
        of: run_runtime(backlight.export(heads(), ("vanilla",), of=of), target)["saliency_vanilla"]
        for of in (name, before, f"{name}:as-is")
    }
    np.testing.assert_array_equal(graphs[name], graphs[before])
    assert np.abs(graphs[f"{name}:as-is"] - graphs[name]).max() > 1e-3
    explain = Explainer(heads(), ("vanilla",), of=name)
    assert f"'{before}'" in explain.notes[0] and f"{name}:as-is" in explain.notes[0]
    found = check(heads(), of=name)
    assert found.of == before and any(f"'{before}'" in n.reason for n in found.notes)
    occlude = Occlusion(heads(), window=8, of=name)
    assert occlude.scorer.output == before
    p = expected(head("other = Gemm<transB=1>(f, v2, c) p1 = Softmax(scores) p2 = Sigmoid(other)"
                      f" prob = Identity({name})"))  # fmt: skip
    np.testing.assert_allclose(explain.probabilities(explain(X).scores), p, atol=1e-6)
    np.testing.assert_allclose(occlude.measure(X, classes="all").score, p, atol=1e-6)
    with pytest.raises(UsageError, match="nearest: p1"):
        backlight.export(heads(), of="p11:as-is")


def test_a_named_sigmoid_has_its_own_derivative_as_is():
    """p (1 - p) times the logit's."""
    target = {"x": X, "target": np.array([1, 4])}
    logit, own = (
        run_runtime(backlight.export(heads(), ("vanilla",), of=of), target)
        for of in ("p2", "p2:as-is")
    )
    p = logit["p2"][[0, 1], [1, 4]]
    np.testing.assert_allclose(
        own["saliency_vanilla"],
        (p * (1 - p))[:, None, None, None] * logit["saliency_vanilla"],
        rtol=1e-4, atol=1e-8,
    )  # fmt: skip


def test_a_gate_inside_is_no_head():
    """A named tensor that no output is made of alone is explained itself."""
    model = head("g = Sigmoid(scores) prob = Mul(g, scores)")
    graph = backlight.export(model, ("vanilla",), of="g")
    assert {p.key: p.value for p in graph.metadata_props}["backlight.of"] == "g"


def test_maximising_an_output_maximises_the_score_before_it():
    from backlight.engine.inside.objective import Objective

    found = Objective(heads(), "p1", "product")
    assert found.layer == "scores" and "p1:as-is" in found.notes[0]
    assert Objective(heads(), "p1:as-is", "product").layer == "p1"
    assert Objective(heads(), "p1", "distance").layer == "p1"


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("batch", ["N", "1", "2"])
@pytest.mark.parametrize(
    ("end", "shape"),
    [
        ("t = Transpose<perm=[0,2,3,1]>(r) u = Reshape(t, tokens) prob = Softmax<axis=2>(u)",
         "{N},64,4"),
        ("prob = Softmax<axis=1>(r)", "{N},4,8,8"),
        ("prob = Sigmoid(r)", "{N},4,8,8"),
        ("t = Transpose<perm=[0,2,3,1]>(r) prob = Reshape(t, tokens)", "{N},64,4"),
    ],
)  # fmt: skip
def test_maps_and_texts_are_no_class_scores(end, shape, batch, opset):
    """At every opset: the one that is upgraded through a Flatten too, and with what to name."""
    model = head(end, f"float[{shape.format(N=batch)}] prob", opset=opset, shape=f"{batch},3,8,8")
    tokens = onnx.numpy_helper.from_array(np.array([0, 64, 4]), "tokens")
    model.graph.initializer.append(tokens)
    for how in (lambda: backlight.export(model), lambda: check(model), lambda: Explainer(model),
                lambda: Occlusion(model, window=4), lambda: Rise(model)):  # fmt: skip
        with pytest.raises(ModelError, match=r"'prob'.*positions.*--of \(for instance 'r'"):
            how()


def test_an_output_that_declares_no_dimensions_has_those_that_are_found():
    """An empty list of sizes, as some exporters write it for whatever they don't know."""
    with pytest.raises(ModelError, match=r"'prob'.*positions.*--of \(for instance 'r'"):
        check(head("prob = Softmax<axis=1>(r)", "float prob"))
    assert check(head("prob = Softmax(scores)", "float prob")).of == "scores"


@pytest.mark.parametrize(
    ("end", "shape", "named"),
    [
        ("prob = ArgMax<axis=1, keepdims=0>(scores)", "N", "scores' [N,5]"),
        ("s = Softmax(scores) prob, i = TopK<axis=1>(s, one) l = Squeeze(i, one)", "N", "s' [N,5]"),
        ("l = ArgMax<axis=1, keepdims=0>(r)", "N,8,8", "r' [N,4,8,8]"),
    ],
)
def test_a_model_of_labels_alone_says_which_scores_to_name(end, shape, named):
    name = "l" if "l = " in end else "prob"
    with pytest.raises(ModelError, match="0 outputs could be class scores") as caught:
        check(head(end, f"int64[{shape}] {name}"))
    assert f"--of (for instance '{named})" in str(caught.value)


def test_scores_whose_rows_inference_counts_twice_keep_their_name():
    """A Softmax of opset 11 behind a Reshape by the run's batch: the score is the file's tensor."""
    body = models.BODY.replace(
        "f = Flatten(p)",
        "sh = Shape(p) n = Gather(sh, first) u = Unsqueeze<axes=[0]>(n) "
        "to = Concat<axis=0>(u, four, open) q = Reshape(p, to) "
        "f = ReduceMean<axes=[2],keepdims=0>(q)",
    )
    model = models.tiny(body=body, shape="N,3,H,W", output="float[M,K] prob", opset=11)
    for name, value in {"first": 0, "four": [4], "open": [-1]}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    assert check(model).of == "scores"
    got = run_runtime(backlight.export(model, ("vanilla",)), {"x": X, "target": np.array([3, 1])})
    want = run_runtime(
        backlight.export(models.tiny(), ("vanilla",)), {"x": X, "target": np.array([3, 1])}
    )
    np.testing.assert_allclose(
        got["saliency_vanilla"], want["saliency_vanilla"], rtol=1e-5, atol=1e-7
    )


def test_rows_that_are_no_images_are_refused():
    """Text as the recurrent recognisers give it: [T,N,K]."""
    model = head(
        "t = Transpose<perm=[0,2,3,1]>(r) u = Reshape(t, texts) prob = Softmax<axis=2>(u)",
        "float[64,1,4] prob",
        shape="1,3,8,8",
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([64, 1, 4]), "texts"))
    with pytest.raises(ModelError, match=r"64 rows.*for a batch of 1"):
        backlight.export(model)


def test_rows_of_unknown_number_are_counted_at_the_run():
    """[T,K] of one text: nothing in the graph says so."""
    model = head(
        "t = Transpose<perm=[0,2,3,1]>(r) u = Reshape(t, texts) prob = Softmax<axis=1>(u)",
        "float[T,4] prob",
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 4]), "texts"))
    with pytest.raises(ModelError, match="64 rows for 1 images"):
        Explainer(model, ("vanilla",))(X[:1])
    with pytest.raises(ModelError, match="64 rows for 1 images"):
        Occlusion(model, window=4)(X[:1])


@pytest.mark.parametrize("end", ["binary", "[N,1,1,K]", "picked", "mean"])
def test_boxes_follow_scores_that_are_made(end):
    """Incremental occlusion of heads that nodes were added to."""
    if end == "binary":
        model = head(f"{ONE} prob = Sigmoid(t)", "float[N,1] prob")
    else:
        tail, shape, _ = SHAPES[end] if end in SHAPES else (ENDS[end][0], "N,5", None)
        model = head(tail, f"float[{shape}] prob")
    boxes, whole = (
        Occlusion(model, window=2, stride=2, method=how) for how in ("incremental", "dense")
    )
    np.testing.assert_allclose(boxes(X, classes="all"), whole(X, classes="all"), atol=2e-6)


BY_VALUES = "s = Abs(scores) t = MatMul(s, ones) prob = Div(s, t)"


def test_rows_that_are_a_distribution_by_their_values():
    """Where the graph says nothing: divided by a sum that is no ReduceSum. Row by row."""
    model = head(BY_VALUES)
    assert read(load(model).graph.outputs[0]) is None
    shown, scored = told(model)
    np.testing.assert_allclose(shown, expected(model), atol=1e-6)
    np.testing.assert_allclose(scored, expected(model), atol=1e-6)


def test_probabilities_that_only_values_tell_are_said(tmp_path, capsys):
    """The gradient is that of the output then: it says which."""
    model = head(BY_VALUES)
    for name, proto, said in (("values", model, 1), ("scores", models.tiny(), 0)):
        onnx.save(proto, tmp_path / f"{name}.onnx")
        photo = str(next(PHOTOS.iterdir()))
        given = ["explain", photo, "-m", str(tmp_path / f"{name}.onnx"), "-o", str(tmp_path / name)]
        assert run([*given, "--preprocess", "unit", "--rule", "vanilla"]) == 0
        assert capsys.readouterr().err.count("are probabilities by their values") == said
        notes = json.loads((tmp_path / name / "summary.json").read_text())["notes"]
        assert sum("by their values" in note for note in notes) == said


def test_what_is_divided_by_its_own_sum_is_said_to_be_made_by_the_division():
    model = head("s = Softplus(scores) t = ReduceSum(s, one) prob = Div(s, t)")
    (note,) = Explainer(model, ("vanilla",)).notes
    assert note.startswith("'prob' is made by Div '")
    assert "the score explained is the tensor before it, 's'" in note


@pytest.mark.parametrize(
    "end",
    ["s = Sigmoid(scores) n = Sub(top, s) d = Div(s, n) l = Log(d) prob = Neg(l)",
     "l = LogSoftmax(scores) prob = Neg(l)", "s = Sigmoid(scores) l = Log(s) prob = Neg(l)",
     f"{BOTH} t = Mean(a, q) l = Log(t) prob = Neg(l)"],
)  # fmt: skip
def test_the_least_of_negative_logarithms_is_the_top_class(end):
    """Of the model, of its export and of what hides windows; and it is said."""
    model = head(end)
    top = expected(model).argmin(axis=1)
    explain = Explainer(model, ("vanilla",))
    assert any("the least is the top class's" in note for note in explain.notes)
    for one in (explain, Explainer(backlight.export(model, ("vanilla",)), ("vanilla",))):
        np.testing.assert_array_equal(one(X).target, top)
    found = Occlusion(model, window=8, stride=8).measure(X)
    np.testing.assert_array_equal(found.target[:, 0], top)
    got = run_runtime(backlight.export(model, ("vanilla",)), {"x": X, "target": np.array([-1, -1])})
    want = run_runtime(backlight.export(model, ("vanilla",)), {"x": X, "target": top})
    np.testing.assert_array_equal(got["saliency_vanilla"], want["saliency_vanilla"])


def shows_two_classes(model, p):
    """p: [N, 1], of class 1. A model and its export show both, and choose the larger."""
    explain = Explainer(model, ("vanilla",))
    for one in (explain, Explainer(backlight.export(model, ("vanilla",)), ("vanilla",))):
        found = one(X)
        np.testing.assert_array_equal(found.target, (p[:, 0] > 0.5).astype(np.int64))
        np.testing.assert_allclose(
            one.probabilities(found.scores), np.hstack([1 - p, p]), atol=1e-6
        )


def test_one_negative_logarithm_is_two_classes():
    """-log of one Sigmoid: class 1 where its probability is above a half."""
    model = head(f"{ONE} s = Sigmoid(t) l = Log(s) prob = Neg(l)", "float[N,1] prob")
    p = np.exp(-expected(model))
    shows_two_classes(model, p)


@pytest.mark.parametrize(
    "end", ["best, i = TopK(s, three)", "u, i = TopK(s, three) best = Identity(u)"]
)
def test_the_largest_in_order_are_ranks_and_no_classes(end):
    """Their columns were taken for classes 0, 1 and 2."""
    model = head(f"s = Softmax(scores) {end}", "float[N,3] best, int64[N,3] i")
    with pytest.raises(ModelError, match=r"name one with --of \(for instance 's' \[N,5\]\)"):
        Explainer(model, ("vanilla",))
    beside = head(f"prob = Softmax(scores) s = Identity(prob) {end}",
                  "float[N,3] best, int64[N,3] i, float[N,5] prob")  # fmt: skip
    found = Explainer(beside, ("vanilla",))(X)
    np.testing.assert_array_equal(found.target, expected(beside).argmax(axis=1))
    assert Explainer(model, ("vanilla",), of="s").classes == 5


def test_a_softmax_over_the_batch_is_no_head():
    assert read(load(head("prob = Softmax<axis=0>(scores)")).graph.outputs[0]) is None


def test_an_axis_that_is_none_is_no_head():
    """A stranger's Softmax, of an axis beyond its rank."""
    value = load(head("prob = Softmax(scores)")).graph.outputs[0]
    node = value.producer()
    assert node is not None
    node.attributes["axis"] = ir.AttrInt64("axis", 7)
    found = read(value)
    assert found is None or found.kind == "Softmax"


@pytest.mark.parametrize("end", ["prob = Identity(l)", "prob = Mul(l, T)", "prob = Neg(l)"])
def test_the_log_odds_of_one_probability_are_two_classes(end):
    """Of one Sigmoid: class 1 where its probability is above a half."""
    odds = f"{ONE} s = Sigmoid(t) n = Sub(top, s) d = Div(s, n) l = Log(d) {end}"
    model = head(odds, "float[N,1] prob")
    p = expected(head(f"{ONE} prob = Sigmoid(t)", "float[N,1] prob"))
    shows_two_classes(model, p)
