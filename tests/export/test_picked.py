"""Walks from a class token: through its own row of the last block, and the same to the last digit
but rounding as through all rows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.export import explaining
from backlight.export.saliency import explain_graph

from .. import models

ort = pytest.importorskip("onnxruntime")
X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
TWO = """
    a = Gather<axis=1>(last_norm, first)
    bw = Slice(last_norm, [[1]], [[2]], [[1]])
    b = Squeeze(bw, [[1]])
    y = Add(a, b)"""
READINGS = {
    "class": {},
    "sliced": {"reading": "slice"},
    "of many": {"reading": "two", "extra": 4},
    "in one matrix": {"attention": "one"},
    "Attention": {"attention": "fused", "opset": 23},
    "spelled": {"norm": "spelled", "opset": 18},
    "fixed": {"shape": "2,3,8,8"},
}


@pytest.fixture
def two(monkeypatch):
    """A reading of the class token and the one behind it, as timm's distilled DeiT has it."""
    monkeypatch.setitem(models.READINGS, "two", TWO)


def found(model: onnx.ModelProto, **asked: object) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    made = explain_graph(model, **asked).to_proto()
    session = ort.InferenceSession(made.SerializeToString())
    others = {i.name: np.full(2, -1) for i in session.get_inputs()[1:]}
    return made, session.run(None, {"x": X, **others})


def plainly(monkeypatch) -> None:
    monkeypatch.setattr(explaining, "through_few", lambda e, of, wrt, nodes: of)


def rows_walked(model: onnx.ModelProto, weight: str) -> set[int]:
    """How many rows a weight is multiplied with on the way back."""
    model = onnx.shape_inference.infer_shapes(model)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info
    }
    turned = {o for n in model.graph.node if weight in n.input for o in n.output}
    turned |= {o for n in model.graph.node if set(n.input) & turned for o in n.output
               if n.op_type == "Transpose"}  # fmt: skip
    return {
        shapes[n.output[0]][1]
        for n in model.graph.node
        if n.op_type == "MatMul" and n.input[1] in turned and n.output[0].startswith("backlight/")
    }


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("reading", READINGS)
def test_the_same_as_through_all_rows(reading: str, monkeypatch):
    model = models.transformer(dark=3, **READINGS[reading])
    methods = ["vanilla", "guided", "gradcam", "contrastcam", "gradient_rollout", "smoothgrad"]
    if reading in ("fixed", "Attention"):
        methods = methods[:4]
    for asked in ({}, {"contrast": "second", "signed": True}):
        ask = dict(methods=methods, target_class="top1", **asked)
        made, got = found(model, **ask)
        # One row, or of two tokens next to each other two.
        assert rows_walked(made, "wd1") == {2 if reading == "of many" else 1}
        with monkeypatch.context() as patched:
            plainly(patched)
            whole, want = found(model, **ask)
        assert 9 in rows_walked(whole, "wd1") or 12 in rows_walked(whole, "wd1")
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6 * max(1, np.abs(other).max()))
        np.testing.assert_array_equal(got[0], want[0])  # the scores are computed as before


@pytest.mark.parametrize("wrt", ["m1", "r1", "h1", "p2", "last_norm", "y", "n1", "p1", "s1"])
def test_a_walk_that_ends_inside(wrt: str, monkeypatch):
    """Whatever lies in front of it."""
    ask = dict(methods=["vanilla"], target_class=1, wrt=wrt)
    got = found(models.transformer(dark=3), **ask)[1]
    plainly(monkeypatch)
    for one, other in zip(got, found(models.transformer(dark=3), **ask)[1], strict=True):
        assert other.any()
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_is_read_whole_too_is_walked_once():
    """The first block's tokens are keys and values of the second: all of their rows have a
    gradient, and the class token's goes with them."""
    made, _ = found(models.transformer(), methods=["vanilla"], target_class="top1")
    assert rows_walked(made, "wd1") == {1} and rows_walked(made, "wd0") == {9}


def test_pooled_tokens_are_all_of_them():
    made, _ = found(models.transformer(reading="patches"), methods=["vanilla"], target_class="top1")
    assert rows_walked(made, "wd1") == {9}
    assert not any("picked" in n.name for n in made.graph.node)


def test_a_node_without_a_rule_is_named_as_the_model_has_it():
    model = models.transformer()
    node = next(n for n in model.graph.node if n.op_type == "Relu" and n.output[0] == "g1")
    node.name, node.op_type, node.domain = "mine", "Rectified", "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    with pytest.raises(Exception, match="Rectified 'mine'"):
        explain_graph(model, ["vanilla"])


def test_a_squeeze_of_whatever_is_1_is_walked_as_it_is(monkeypatch):
    """Of one place it would leave out that axis too."""
    rng = np.random.default_rng(0)
    model = models.parsed(
        """<ir_version: 8, opset_import: ["": 18]>
g (float[2,3,8,8] x) => (float[2,5] scores) {
    h = Reshape(x, rows)
    m = MatMul(h, w)
    s = Squeeze(m)
    t = Tanh(s)
    p = Gather<axis=1>(t, first)
    u = Unsqueeze(p, one)
    scores = MatMul(u, v)
}""",
        {
            "rows": np.array([2, 8, 24]), "first": np.array(0), "one": np.array([1]),
            "w": rng.standard_normal((24, 1)).astype(np.float32),
            "v": rng.standard_normal((1, 5)).astype(np.float32),
        },
    )  # fmt: skip
    got = found(model, methods=["vanilla"], target_class=1)[1]
    plainly(monkeypatch)
    want = found(model, methods=["vanilla"], target_class=1)[1]
    assert want[-1].any()
    np.testing.assert_allclose(got[-1], want[-1], atol=1e-6)
