"""Rows that can't be explained get NaN, whole and alone, in every form."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from backlight.export.lowering import LOWERINGS
from backlight.export.methods import RULES
from backlight.export.saliency import explain_graph

from .. import models
from ..runtimes.nets import SQUEEZENET, plain, residual
from .harness import Array, run_reference, run_runtime

pytest.importorskip("onnxruntime")

FAULTS: list[tuple[str, float]] = [
    ("image", np.nan),
    ("image", np.inf),
    ("image", -np.inf),
    ("target", 10),
    ("target", -2),
    ("target", 2**40),
]
# A net with a max pool over a rectifier, apart and overlapping, with a dropped NaN on the way.
SMALL = """<ir_version: 8, opset_import: ["": 18]>
small (float[N,3,18,18] x) => (float[N,10] prob) {
    c = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(c)
    p = MaxPool<kernel_shape=[3,3], strides=[2,2]>(r)
    q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(p)
    d = Conv(q, u)
    s = Clip(d, low, high)
    g = GlobalAveragePool(s)
    f = Flatten(g)
    scores = Gemm<transB=1>(f, v)
    prob = Softmax(scores)
}"""


def small() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "u": (8, 8, 3, 3), "v": (10, 8)}
    consts = {n: rng.standard_normal(s).astype(np.float32) / 3 for n, s in shapes.items()}
    return models.parsed(SMALL, consts | {"low": np.float32(0), "high": np.float32(6)})


def broken(x: Array, where: str, value: float) -> dict[str, Array]:
    """Three rows, the second with a fault."""
    feeds = {"x": x.copy(), "target": np.array([-1, 3, 0])}
    if where == "image":
        feeds["x"][1, :, 5, 6] = value
    else:
        feeds["target"][1] = int(value)
    return feeds


def held(graph: onnx.ModelProto, x: Array, where: str, value: float, run: Any, rtol: float) -> None:
    want = run(graph, {"x": x, "target": np.array([-1, 3, 0])})
    got = run(graph, broken(x, where, value))
    for name in (n for n in want if n.startswith("saliency")):
        assert np.isnan(got[name][1]).all(), name
        scale = np.abs(want[name]).max()
        assert scale > 0
        for row in (0, 2):
            np.testing.assert_allclose(got[name][row], want[name][row], atol=rtol * scale)
        assert np.isfinite(want[name]).all()


@pytest.mark.parametrize(("where", "value"), FAULTS)
@pytest.mark.parametrize("form", LOWERINGS)
@pytest.mark.parametrize("build", [small, plain, residual])
def test_its_own_row_alone(build: Any, form: str, where: str, value: float) -> None:
    model = build()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    graph = explain_graph(model, RULES, lowering=form).to_proto()
    held(graph, models.images(3, *shape), where, value, run_runtime, 1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("where", "value"), FAULTS)
@pytest.mark.parametrize("form", ["portable", "tensorrt"])
def test_on_the_evaluator(form: str, where: str, value: float) -> None:
    graph = explain_graph(small(), RULES, lowering=form).to_proto()
    held(graph, models.images(3, 3, 18, 18), where, value, run_reference, 1e-6)


@pytest.mark.parametrize(("where", "value"), [f for f in FAULTS if f[1] != 2**40])
@pytest.mark.parametrize("batch", ["N", 3])
@pytest.mark.parametrize("form", ["portable", "tensorrt"])
def test_in_half_precision(form: str, batch: int | str, where: str, value: float) -> None:
    """A scale for all rows, where the batch is fixed, is not that of one that is not finite."""
    model = small()
    if batch == 3:
        for end in (model.graph.input[0], model.graph.output[0]):
            end.type.tensor_type.shape.dim[0].dim_value = 3
    graph = explain_graph(model, RULES, lowering=form, dtype="float16").to_proto()
    held(graph, models.images(3, 3, 18, 18), where, value, run_runtime, 1e-2)


@pytest.mark.parametrize("reduce", ["none", "maxabs"])
def test_quantised_and_reduced(reduce: str) -> None:
    """Codes hold no NaN, and a maximum may drop it."""
    head = """
        codes = QuantizeLinear(x, step, zero)
        real = DequantizeLinear(codes, step, zero)
        c = Conv<pads=[1,1,1,1]>(real, w)
    """
    text = SMALL.replace("    c = Conv<pads=[1,1,1,1]>(x, w)", head)
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "u": (8, 8, 3, 3), "v": (10, 8)}
    consts: dict[str, Any] = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()
    }
    consts |= {
        "low": np.float32(0),
        "high": np.float32(6),
        "step": np.float32(0.05),
        "zero": np.int8(0),
    }
    graph = explain_graph(models.parsed(text, consts), RULES, reduce=reduce).to_proto()
    for where, value in FAULTS:
        held(graph, models.images(3, 3, 18, 18), where, value, run_runtime, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", LOWERINGS)
def test_squeezenet(form: str) -> None:
    model = onnx.load(SQUEEZENET)
    graph = explain_graph(model, RULES, lowering=form).to_proto()
    x = models.images(3, 3, 227, 227)

    def run(graph: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
        return run_runtime(
            graph, {model.graph.input[0].name: feeds["x"], "target": feeds["target"]}
        )

    for where, value in (("image", np.nan), ("image", np.inf), ("target", 1000)):
        held(graph, x, where, value, run, 1e-6)
