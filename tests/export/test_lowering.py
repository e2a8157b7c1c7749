"""Lowerings against the portable rules, on ONNX Runtime: the same numbers from other operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from .harness import Array, Row, build, run_runtime, vjp_graph
from .table import pool

pytest.importorskip("onnxruntime")

OVERLAPPING = "kernel_shape = [5, 4], strides = [2, 1], pads = [2, 1, 2, 2]"
# Beside the rule table's rows: text, the input's shape, its declared dimensions.
MORE: list[tuple[str, tuple[int, ...], Sequence[int | str] | None]] = [
    (OVERLAPPING, (2, 3, 9, 8), None),
    (OVERLAPPING, (2, 3, 9, 8), ("N", 3, 9, 8)),
    (OVERLAPPING, (2, 3, 9, 8), ("N", "C", "H", "W")),
    (OVERLAPPING + ", ceil_mode = 1", (2, 3, 10, 8), ("N", 3, "H", 8)),
    ("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1", (1, 8, 13, 14), None),
    ("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1", (1, 8, 13, 14), ("N", 8, "H", "W")),
    ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", (2, 8, 14, 13), None),
    ("kernel_shape = [3, 3], pads = [1, 1, 1, 1]", (2, 3, 7, 7), ("N", 3, 7, 7)),
    ("kernel_shape = [2, 2], strides = [3, 3]", (2, 3, 8, 7), None),
    ("kernel_shape = [1, 2], strides = [3, 2]", (2, 3, 9, 7), ("N", 3, "H", "W")),
    (
        "kernel_shape = [4, 3], strides = [2, 3], dilations = [2, 2], pads = [0, 2, 3, 0]",
        (2, 3, 11, 9),
        None,
    ),
    (
        "kernel_shape = [3], strides = [2], dilations = [2], ceil_mode = 1",
        (2, 3, 16),
        ("N", 3, "W"),
    ),
    (
        "kernel_shape = [3, 2, 3], strides = [2, 2, 2], pads = [1, 0, 1, 1, 1, 0]",
        (1, 2, 7, 6, 5),
        None,
    ),
    (
        "kernel_shape = [2, 2, 2], strides = [2, 1, 3], ceil_mode = 1",
        (1, 2, 7, 4, 6),
        ("N", 2, "D", "H", "W"),
    ),
]


def max_pools() -> list[Any]:
    """[node text, shape, dims, opset]."""
    rows: list[Row] = [r for r in pool.ROWS if r.op_type == "MaxPool"]
    cases = [
        pytest.param(r.text, r.values()["x"].shape, r.dims.get("x"), o, id=f"{r.id}-opset{o}")
        for r in rows
        # Refused where the run knows the pads alone: see `test_late_pads_are_refused`.
        if not ("auto_pad" in r.text and "H" in r.dims.get("x", ()))
        for o in r.opsets[-2:]
    ]
    return cases + [
        pytest.param(f"y = MaxPool<{text}>(x)", shape, dims, 18, id=f"{text}-{dims}")
        for text, shape, dims in MORE
    ]


def images(kind: str, shape: Sequence[int]) -> Array:
    rng = np.random.default_rng(3)
    if kind == "ties":  # four values: most windows hold their maximum more than once
        return rng.integers(-2, 2, tuple(shape)).astype(np.float64)
    if kind == "zeros":
        return np.zeros(tuple(shape))
    if kind == "peaks":  # one position is the maximum of every window that sees it
        x = -np.ones(tuple(shape))
        return np.where(np.indices(tuple(shape)).sum(axis=0) % 5 == 0, 1.0, x)
    return rng.standard_normal(tuple(shape))


def both(
    text: str, x: Array, dims: Sequence[int | str] | None, opset: int, target: str
) -> tuple[onnx.ModelProto, Array, Array]:
    """The lowered graph, and what it gives and what the gradient by MaxPool's own Indices does."""
    declared: Mapping[str, Sequence[int | str]] = {} if dims is None else {"x": dims}
    model = build(text, {"x": x}, {}, opset, dtype="float32", dims=declared)
    x = x.astype(np.float32)
    y = run_runtime(model, {"x": x})["y"]
    ct = np.random.default_rng(5).standard_normal(y.shape).astype(np.float32)
    lowered = vjp_graph(model, ["x"], lowering=target)
    want = run_runtime(vjp_graph(model, ["x"], lowering="cuda"), {"x": x, "cotangent": ct})
    got = run_runtime(lowered, {"x": x, "cotangent": ct})
    return lowered, got["saliency_vanilla"], want["saliency_vanilla"]


@pytest.mark.parametrize("kind", ["ties", "zeros", "peaks", "normal"])
@pytest.mark.parametrize(("text", "shape", "dims", "opset"), max_pools())
def test_max_pool_without_indices(
    text: str, shape: Sequence[int], dims: Sequence[int | str] | None, opset: int, kind: str
) -> None:
    _, got, want = both(text, images(kind, shape), dims, opset, "tensorrt")
    np.testing.assert_array_equal(got, want)  # bit for bit: the sums are in the same order
    assert np.any(want != 0)


# Wide ones are taken axis by axis: what a position gets is summed in another order.
WIDE: list[tuple[str, tuple[int, ...], Sequence[int | str] | None]] = [
    ("kernel_shape = [7, 6], pads = [3, 2, 3, 3]", (2, 3, 11, 9), ("N", 3, 11, 9)),
    ("kernel_shape = [9, 9], strides = [2, 3], ceil_mode = 1", (2, 3, 20, 19), None),
    ("kernel_shape = [13, 13], pads = [6, 6, 6, 6]", (1, 2, 13, 13), ("N", 2, "H", "W")),
    ("kernel_shape = [5, 6], dilations = [2, 1], pads = [4, 0, 4, 5]", (2, 2, 12, 9), None),
    ("kernel_shape = [3, 4, 3], strides = [1, 2, 3]", (1, 2, 6, 9, 8), None),
]


@pytest.mark.parametrize("kind", ["ties", "zeros", "peaks", "normal"])
@pytest.mark.parametrize(("text", "shape", "dims"), WIDE)
def test_wide_max_pools(
    text: str, shape: Sequence[int], dims: Sequence[int | str] | None, kind: str
) -> None:
    x = images(kind, shape)
    graph, got, want = both(f"y = MaxPool<{text}>(x)", x, dims, 18, "portable")
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)  # float32, sums of up to 169
    np.testing.assert_array_equal(got != 0, want != 0)
    assert sum(n.op_type == "Equal" for n in graph.graph.node) < 30


@pytest.mark.parametrize("target", ["portable", "tensorrt", "openvino"])
@pytest.mark.parametrize(("text", "shape", "dims"), MORE)
def test_no_indices(
    text: str, shape: Sequence[int], dims: Sequence[int | str] | None, target: str
) -> None:
    """TensorRT's parser rejects MaxPool with Indices, and MaxUnpool; others get them wrong."""
    graph, _, _ = both(f"y = MaxPool<{text}>(x)", images("normal", shape), dims, 18, target)
    assert all(len(n.output) == 1 for n in graph.graph.node if n.op_type == "MaxPool")
    known = "Add Concat DepthToSpace Equal Expand MaxPool Mul Pad Reshape Shape Slice Sub Transpose"
    assert {n.op_type for n in graph.graph.node} <= {*known.split(), "Where"}


@pytest.mark.parametrize("sizes", [(3, 3), (4, 5), (7, 2)])
@pytest.mark.parametrize("side", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("target", ["portable", "tensorrt"])
def test_pads_that_only_the_run_knows(target: str, side: str, sizes: tuple[int, int]) -> None:
    """Without Indices the rule needs the pads, which SAME has from sizes of the run here."""
    text = f'y = MaxPool<kernel_shape = [2, 3], strides = [2, 2], auto_pad = "{side}">(x)'
    _, got, want = both(text, images("ties", (2, 2, *sizes)), ("N", 2, "H", "W"), 18, target)
    np.testing.assert_array_equal(got, want)
    assert np.any(want != 0)


def test_infinite_cotangents_stay_where_they_belong() -> None:
    """A mask that multiplies would make NaN of 0 x inf."""
    x = np.array([[[[1.0, 3.0], [2.0, 0.0]]]])
    model = build("y = MaxPool<kernel_shape = [2, 2]>(x)", {"x": x}, {}, 18, dtype="float32")
    feeds = {"x": x.astype(np.float32), "cotangent": np.full((1, 1, 1, 1), np.inf, np.float32)}
    got = run_runtime(vjp_graph(model, ["x"], lowering="tensorrt"), feeds)["saliency_vanilla"]
    np.testing.assert_array_equal(got, [[[[0.0, np.inf], [0.0, 0.0]]]])
