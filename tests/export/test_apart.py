"""Two sizes of which nothing is known, of two inputs: one of them may be 1."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from backlight.export.apart import Apart
from backlight.export.graph import load

from .harness import finite_difference, run_reference, vjp_graph

RNG = np.random.default_rng(0)
SIDES = [(1, 5), (5, 1), (5, 5), (1, 1)]


def unnamed(text: str, *, rank: int) -> onnx.ModelProto:
    """x and z [?, ..., ?]: dimensions without a number or a name."""
    dims = ",".join("Q" * rank)
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]>\n'
        f"g (double[{dims}] x, double[{dims}] z) => (double[{dims}] y) {{ {text} }}"
    )
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    return model


@pytest.mark.parametrize(
    "text",
    [
        "y = Mul(x, z)",
        "a = Tanh(x) b = Neg(z) y = Add(a, b)",
        "a = Sub(x, z) y = Mul(a, x)",
        "c = Greater(x, z) y = Where(c, x, z)",
    ],
)
@pytest.mark.parametrize(("first", "second"), list(itertools.product(SIDES, SIDES[:2])))
def test_what_was_broadcast_is_summed(
    text: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    sizes = [(a, b) for a, b in zip(first, second, strict=True)]
    feeds = {name: RNG.standard_normal(size) for name, size in zip("xz", sizes, strict=True)}
    model = unnamed(text, rank=2)
    ct = RNG.standard_normal(run_reference(model, feeds)["y"].shape)
    found = run_reference(vjp_graph(model, ["x", "z"]), {**feeds, "cotangent": ct})
    for at, name in enumerate("xz"):
        got = found[f"saliency_vanilla_{at}"]
        assert got.shape == feeds[name].shape
        want = finite_difference(model, feeds, name, ct, 1e-6)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "inputs", "asked"),
    [
        ("a = Relu(x) b = Tanh(x) y = Add(a, b)", 1, False),
        ("a = Relu(x) b = Tanh(x) y = Add(a, b)", 2, False),
        ("a = Relu(x) b = Tanh(z) y = Add(a, b)", 2, True),
    ],
)
def test_only_what_comes_from_different_inputs_is_asked(
    text: str, inputs: int, asked: bool
) -> None:
    """Two branches of one image meet: nothing is added to the graph."""
    model = unnamed(text, rank=4)
    del model.graph.input[inputs:]
    graph = load(model).graph
    for node in graph:  # what inference calls them, nobody has said
        node.outputs[0].shape = ir.Shape([None] * 4)
    last = graph[-1]
    assert Apart(graph).axes(last, last.inputs[0]) == ((0, 1, 2, 3) if asked else ())
