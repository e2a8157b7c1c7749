"""The graphs for CUDA and TensorRT: the portable numbers, and nothing that those would not take.

On the CPU: what the runtimes take is known from tables (`export/lowering/operators.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import backlight
from backlight.export.lowering.cuda import SUBSTITUTES
from backlight.export.lowering.support import TARGETS, unsupported
from backlight.export.saliency import explain_graph

from .. import models
from .harness import Array, Row, build, cotangent, run_runtime, saliency_names, vjp_graph
from .table import rows

pytest.importorskip("onnxruntime")

ROWS = list(rows())

# Rules that emit most of what is replaced; the others with `pytest -m slow`.
OFTEN = frozenset("Conv Gather Slice Concat Split Pad MatMul Add ReduceMax MaxPool".split())
# Borders that only the run knows: a scatter, by way of an int64 Pad, which CUDA has not.
AT_RUN_TIME = frozenset(("Pad-edge,_at_run_time", "Pad-reflect,_at_run_time"))


# Likewise the pads of SAME_UPPER and SAME_LOWER: a weight's gradient pads by hand, and a MaxPool
# without Indices is refused (test_lowering.py).
LATE = ("Conv-dynamic,_SAME", "MaxPool-dynamic,_SAME")


def rows() -> list[Any]:
    """[row, opset]: from 18 on, and one older opset where a row has no other."""
    return [
        pytest.param(
            row,
            o,
            id=f"{row.id}-opset{o}",
            marks=[] if row.op_type in OFTEN else [pytest.mark.slow],
        )
        for row in ROWS
        if row.runtime
        for o in [o for o in row.opsets if o >= 18] or [max(row.opsets)]
    ]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("row", "opset"), rows())
def test_rules(row: Row, opset: int, target: str) -> None:
    if target == "tensorrt" and row.id.startswith(LATE[1]):
        pytest.skip("refused: no Indices, and no pads before the run")
    values, wrt = row.values(), row.wanted()
    model = build(
        row.text, values, row.consts, opset, dtype="float32", dims=row.dims, output=row.of
    )
    feeds = {n: v.astype(np.float32) if v.dtype.kind == "f" else v for n, v in values.items()}
    ct = cotangent(row, run_runtime(model, feeds)[row.of].shape).astype(np.float32)
    feeds["cotangent"] = ct
    want = run_runtime(vjp_graph(model, wrt, of=row.of), feeds)
    graph = explain_graph(
        model, ("vanilla",), of=row.of, wrt=wrt, cotangent="input", lowering=target
    )
    got = run_runtime(graph.to_proto(), feeds)
    for name in saliency_names("vanilla", wrt):
        scale = max(1.0, float(np.abs(want[name]).max(initial=0)))
        # float32: a convolution and its transpose sum in different orders
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=2e-6 * scale)

    refused = unsupported(graph.model, target)
    if any(not r.ours for r in refused) or row.id in AT_RUN_TIME or row.id.startswith(LATE):
        return  # where the model's own operator is refused, so may its gradient be
    if target == "cuda" and opset >= 24:
        return  # of those opsets it has not even Reshape and Cast
    later = {"ConvTranspose", "Round", "Softplus"} if target == "cuda" and opset >= 22 else set()
    assert {r.operator for r in refused} <= later


def test_what_opset_22_is_told() -> None:
    """Version 22 of ConvTranspose came to the CUDA provider later; older models don't need it."""
    body = models.BODY.replace("pads=[1,1,1,1]", "pads=[1,1,1,1],strides=[2,2]")
    for opset, count in ((21, 0), (22, 1)):
        graph = explain_graph(models.tiny(body=body, opset=opset), ("vanilla",), lowering="cuda")
        ours = [r for r in unsupported(graph.model, "cuda") if r.ours]
        assert [r.operator for r in ours] == ["ConvTranspose"] * count
        assert all("version 22" in r.reason and "newer" in r.accepted for r in ours)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("opset", [18, 19, 20, 21])
@pytest.mark.parametrize("options", [{}, {"reduce": "maxabs"}, {"target_class": "top1"}])
def test_a_whole_file(options: dict[str, Any], opset: int, target: str) -> None:
    """The seed and the reduction, beside the rules."""
    body = models.BODY.replace("Relu(h)", "MaxPool<kernel_shape=[3,3],strides=[2,2]>(h)")
    model = models.tiny(body=body, opset=opset)
    feeds: dict[str, Array] = {"x": models.images(3, 3, 8, 8)}
    if not options.get("target_class"):
        feeds["target"] = np.array([-1, 4, 0])
    graph = explain_graph(model, lowering=target, **options)
    # Flatten's version 21 is the model's own.
    assert not [r.line() for r in unsupported(graph.model, target) if r.ours]
    for node in graph.model.graph:
        first, _ = SUBSTITUTES.get(node.op_type, (99, None))
        assert target != "cuda" or opset < first, node.name
    got = run_runtime(graph.to_proto(), feeds)
    want = run_runtime(backlight.export(model, **options), feeds)
    for name, value in want.items():
        scale = float(np.abs(value).max())
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6 * scale)  # float32


def test_equal_in_other_words() -> None:
    """At NaN, at infinities and at zeros of either sign as Equal has it: bit for bit."""
    a = np.array([0.0, -0.0, np.nan, np.inf, np.inf, 1.0, 2.0], np.float32)
    b = np.array([-0.0, 0.0, np.nan, np.inf, -np.inf, 1.0, 3.0], np.float32)
    model = build("y = Max(a, b)", {"a": a, "b": b}, {}, 20, dtype="float32")
    feeds = {"a": a, "b": b, "cotangent": np.arange(1, 8, dtype=np.float32)}
    got, want = (
        run_runtime(vjp_graph(model, ["a", "b"], lowering=t), feeds) for t in ("cuda", "portable")
    )
    for name in saliency_names("vanilla", ["a", "b"]):
        np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize("rows", [1, 3])
def test_broadcasting_that_only_the_run_knows(rows: int) -> None:
    """Of two names the run may make one 1: no axes found at run time, which TensorRT rejects."""
    a, b = models.images(3, 2, seed=2), models.images(rows, 2, seed=3)
    model = build(
        "y = Mul(a, b)", {"a": a, "b": b}, {}, 18, dtype="float32", dims={"a": "NC", "b": "MC"}
    )
    ct = models.images(3, 2, seed=4)
    for target in ("portable", *TARGETS):
        graph = explain_graph(
            model, ("vanilla",), of="y", wrt=["a", "b"], cotangent="input", lowering=target
        )
        assert "NonZero" not in {n.op_type for n in graph.model.graph}
        assert not unsupported(graph.model, target)
        got = run_runtime(graph.to_proto(), {"a": a, "b": b, "cotangent": ct})
        np.testing.assert_allclose(got["saliency_vanilla_0"], ct * b, rtol=1e-6)
        want = (ct * a).sum(axis=0, keepdims=True) if rows == 1 else ct * a
        np.testing.assert_allclose(got["saliency_vanilla_1"], want, rtol=1e-6)
