"""Behind roots and quotients of what may be 0 a cotangent is infinite: gates hold it back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.export.graph import load
from backlight.export.lowering.steep import steep_behind
from backlight.export.methods import RULES
from backlight.export.saliency import explain_graph

from ..models import parsed
from .harness import run_runtime

X = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
# From a rectified r, of which two channels are 0 everywhere, to q: [N, 8, ?, ?].
STEEP = {
    "root": "q = Sqrt(r)",
    "root of a mean": "a = AveragePool<kernel_shape=[2,2]>(r) q = Sqrt(a)",
    "power": "a = Mul(r, r) b = AveragePool<kernel_shape=[2,2], strides=[2,2]>(a) q = Pow(b, half)",
    "behind a pool": "a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) q = Sqrt(a)",
    "LpPool": "q = LpPool<kernel_shape=[2,2], strides=[2,2], p=2>(r)",
    "norm": "q = ReduceL2<keepdims=1>(r, places)",
    "signed root": "a = Sign(r) b = Abs(r) c = Sqrt(b) q = Mul(a, c)",
}
FLAT = {
    "a sum first": "a = Add(r, tiny) q = Sqrt(a)",
    "a bound first": "a = Clip(r, tiny) q = Pow(a, half)",
    "a square": "q = Pow(r, two)",
    "a division": "q = Div(r, two)",
    "by a norm that is none": "a = ReduceL2<keepdims=1>(e, places) b = Add(a, tiny) q = Div(r, b)",
    "another gate between": "a = Neg(r) b = Relu(a) q = Sqrt(b)",
}


def network(text: str, gate: str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3)), "v": rng.standard_normal((8, 5)),
        "bias": np.array([0, -90, 0, 0, -90, 0, 0, 0]), "half": 0.5, "two": 2, "tiny": 1e-6,
        "zero": 0, "six": 6,
    }  # fmt: skip
    return parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,8,8] x) => (float[N,5] y) {{
    h = Conv<pads=[1,1,1,1]>(x, w, bias)
    e = Sigmoid(h)
    r = {gate}
    {text}
    p = GlobalAveragePool(q)
    f = Flatten(p)
    y = MatMul(f, v)
}}""",
        {n: np.asarray(w, np.float32) for n, w in weights.items()} | {"places": np.array([2, 3])},
    )


@pytest.mark.parametrize("gate", ["Relu(h)", "Clip(h, zero, six)"])
@pytest.mark.parametrize("text", STEEP.values(), ids=STEEP)
def test_the_form_for_the_processor_is_the_portable_one(text: str, gate: str) -> None:
    """It multiplied 0 by an infinity: a map of NaN, of every image."""
    found = {}
    for lowering in ("portable", "cpu"):
        graph = explain_graph(network(text, gate), RULES, lowering=lowering)
        made = run_runtime(graph.to_proto(), {"x": X, "target": np.array([1, 3])})
        found[lowering] = {rule: made[graph.saliency[rule]] for rule in RULES}
    for rule in ("vanilla", "guided"):  # deconv lets an infinity through
        want = found["portable"][rule]
        assert np.isfinite(want).all() and np.abs(want).max() > 1e-4
        np.testing.assert_allclose(found["cpu"][rule], want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("text", [*STEEP.values(), *FLAT.values()], ids=[*STEEP, *FLAT])
def test_what_is_steep(text: str) -> None:
    (value,) = [
        n.outputs[0] for n in load(network(text, "Relu(h)")).graph if n.outputs[0].name == "r"
    ]
    assert steep_behind(value) == (text in STEEP.values())
