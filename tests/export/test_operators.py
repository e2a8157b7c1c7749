"""Operators of several parts in `check`, the targets' tables, receptive fields and plans."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from backlight.errors import UnsupportedNode
from backlight.export import incremental
from backlight.export.check import check
from backlight.export.receptive import receptive_fields
from backlight.kernels.families import sliding

from .harness import build, finite_difference, run_reference, vjp_graph

# A classifier of [N, 3, 8, 8] whose middle is the operator: h [N, 3, 8, 8] -> m.
MIDDLES = {
    "Attention": (23, "m = Attention(h, h, h)"),
    "GridSample": (20, "m = GridSample(h, grid)"),
    "Col2Im": (
        18,
        """flat = Constant<value_ints = [0, 12, 16]>()
        hw = Constant<value_ints = [8, 8]>()
        block = Constant<value_ints = [2, 2]>()
        c = Reshape(h, flat)
        m = Col2Im<strides = [2, 2]>(c, hw, block)""",
    ),
    **{
        op: (
            22,
            f"""line = Constant<value_ints = [8, 1, 24]>()
            t = Reshape(h, line)
            s = {op}<hidden_size = 24>(t, w_{op}, r_{op})
            back = Constant<value_ints = [1, 3, 8, 8]>()
            m = Reshape(s, back)""",
        )
        for op in ("LSTM", "GRU", "RNN")
    },
}


def _classifier(op: str) -> onnx.ModelProto:
    opset, middle = MIDDLES[op]
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {opset}]>
        net (float[1,3,8,8] x) => (float[1,3] y) {{
            k = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w)
            h = Relu(k)
            {middle}
            p = GlobalAveragePool(m)
            y = Flatten(p)
        }}"""
    )
    rng = np.random.default_rng(0)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}.get(op, 0)
    arrays = {"w": rng.standard_normal((3, 3, 3, 3))}
    if op == "GridSample":
        arrays["grid"] = rng.uniform(-0.9, 0.9, (1, 8, 8, 2))
    if gates:
        arrays[f"w_{op}"] = rng.standard_normal((1, gates * 24, 24))
        arrays[f"r_{op}"] = rng.standard_normal((1, gates * 24, 24))
    for name, array in arrays.items():
        tensor = onnx.numpy_helper.from_array(array.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize("op", MIDDLES)
def test_check_finds_a_gradient(op: str) -> None:
    report = check(_classifier(op))
    assert report.ok, report.findings
    assert next(o for o in report.operators if o.operator == op).differentiable


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
@pytest.mark.parametrize("op", MIDDLES)
def test_targets_have_an_answer(op: str, target: str) -> None:
    refused = check(_classifier(op), lowering=target).refused
    # Neither has Col2Im; of the others' gradients TensorRT's parser takes every node.
    assert any(r.operator == "Col2Im" for r in refused) == (op == "Col2Im")
    assert target == "cuda" or not [r for r in refused if r.ours]


@pytest.mark.parametrize("op", MIDDLES)
def test_units_behind_see_the_whole_image(op: str) -> None:
    field = receptive_fields(_classifier(op), ["m"])["m"]
    assert field.is_whole


@pytest.mark.parametrize("op", ["Attention", "Col2Im"])  # the others' batch is fixed here
def test_windows_do_not_go_beyond(op: str) -> None:
    """An incremental plan works on boxes up to the operator at most: it stands in the tail."""
    boxes = sliding((3, 8, 8), 4, 2).boxes
    plan = incremental.plan(_classifier(op), boxes, (3, 8, 8))
    assert not any(node.op_type == op for node in plan.patch.graph.node)
    assert any(node.op_type == op for node in plan.tail.graph.node)


def test_batch_norm_before_tokens_of_one_image() -> None:
    """PyTorch's own backward is wrong here (docs/how-it-works.md): finite differences alone."""
    text = """n = BatchNormalization(x, s, b, m, v)
        line = Constant<value_ints = [0, 0, -1]>()
        t = Reshape(n, line)
        y = Transpose<perm = [0, 2, 1]>(t)"""
    rng = np.random.default_rng(0)
    x, ct = rng.standard_normal((1, 2, 4, 5)), rng.standard_normal((1, 20, 2))
    consts = {n: rng.uniform(0.5, 2, 2) for n in "sbmv"}
    model = build(text, {"x": x}, consts, 18)
    graph = vjp_graph(model, ["x"])
    got = run_reference(graph, {"x": x, "cotangent": ct})["saliency_vanilla"]
    want = finite_difference(model, {"x": x}, "x", ct, 1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "dims", "message"),
    [
        ("y = LSTM<hidden_size = 2>(x, w, r)", ("T", 1, 2), "LSTM .*sequence of unknown length"),
        (
            "y = LSTM<hidden_size = 2>(x, w, r, , , , , p)",
            (3, 1, 2),
            "LSTM .*peepholes; supported: no input P",
        ),
        ("y = LSTM<hidden_size = 2, clip = 1.0>(x, w, r)", (3, 1, 2), "LSTM .*clip = 1.0"),
        (
            'y = LSTM<hidden_size = 2, activations = ["Sigmoid", "Sin", "Tanh"]>(x, w, r)',
            (3, 1, 2),
            "LSTM .*activations = .*Sin.*supported: Sigmoid, Tanh",
        ),
    ],
)
def test_refusals_of_recurrent_layers(text: str, dims: tuple[object, ...], message: str) -> None:
    consts = {n: np.ones((1, 8, 2)) for n in "wr"} | {"p": np.ones((1, 6))}
    model = build(text, {"x": np.ones((3, 1, 2))}, consts, 14, dims={"x": dims})  # type: ignore[dict-item]
    with pytest.raises(UnsupportedNode, match=message):
        vjp_graph(model, ["x"])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            'mode = "cubic"',
            "mode = cubic.*; supported: fixed sizes .*; on dynamic ones",
        ),
        ('mode = "linear", antialias = 1', "antialias = 1; supported"),
    ],
)
def test_refusals_of_resize(attributes: str, message: str) -> None:
    text = f"y = Resize<{attributes}>(x, , , hw)"
    consts = {"hw": np.array([2, 3])}
    model = build(text, {"x": np.ones((4, 5))}, consts, 18, dims={"x": ("H", "W")})
    with pytest.raises(UnsupportedNode, match=message):
        vjp_graph(model, ["x"])
