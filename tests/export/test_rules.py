"""Every rule x operator version x attribute family, against two independent oracles."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.export.rules import registry

from .harness import (
    Exact,
    Row,
    build,
    cotangent,
    finite_difference,
    run_reference,
    run_runtime,
    saliency_names,
    vjp_graph,
)
from .table import exact, rows

ROWS, EXACT = list(rows()), list(exact())

NEWEST = 28  # the newest opset that the tests' onnx defines
# Refused as not covered: nothing runs these yet that could serve as an oracle.
UNTRIED = {("QuantizeLinear", 28), ("DequantizeLinear", 28)}


def by_opset(rows: list[Row]) -> list[object]:
    return [
        pytest.param(row, opset, id=f"{row.id}-opset{opset}")
        for row in rows
        for opset in row.opsets
    ]


@pytest.mark.parametrize(("row", "opset"), by_opset([r for r in ROWS if not r.no_reference]))
def test_finite_differences(row: Row, opset: int) -> None:
    values = row.values()
    model = build(row.text, values, row.consts, opset, dims=row.dims, output=row.of)
    ct = cotangent(row, run_reference(model, values)[row.of].shape)
    wrt = row.wanted()
    got = run_reference(
        vjp_graph(model, wrt, of=row.of, lowering=row.lowering), {**values, "cotangent": ct}
    )
    for name, output in zip(wrt, saliency_names("vanilla", wrt), strict=True):
        want = finite_difference(model, values, name, ct, row.fd)
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        # central differences in float64: rounding/step ~ 1e-11, curvature x step^2 ~ 1e-9
        np.testing.assert_allclose(got[output], want, rtol=1e-5, atol=2e-6 * scale)
        assert got[output].dtype == np.float64


@pytest.mark.parametrize(("row", "opset"), by_opset([r for r in ROWS if r.torch is not None]))
def test_pytorch(row: Row, opset: int) -> None:
    torch = pytest.importorskip("torch")
    values = row.values()
    wrt = row.wanted()
    tensors = {n: torch.tensor(v) for n, v in values.items()}
    for name in wrt:
        tensors[name].requires_grad_(True)
    assert row.torch is not None
    y = row.torch(*tensors.values())
    ct = cotangent(row, tuple(y.shape))
    want = torch.autograd.grad(y, [tensors[n] for n in wrt], torch.tensor(ct))

    outputs = saliency_names("vanilla", wrt)
    if not row.no_reference:
        model = build(row.text, values, row.consts, opset, dims=row.dims, output=row.of)
        graph = vjp_graph(model, wrt, of=row.of, lowering=row.lowering)
        got = run_reference(graph, {**values, "cotangent": ct})
        for output, gradient in zip(outputs, want, strict=True):
            scale = max(1.0, float(gradient.abs().max()))
            np.testing.assert_allclose(
                got[output], gradient.numpy(), rtol=row.rtol, atol=row.rtol * scale
            )
    if row.runtime:
        single = build(
            row.text, values, row.consts, opset, dtype="float32", dims=row.dims, output=row.of
        )
        graph = vjp_graph(single, wrt, of=row.of, lowering=row.lowering)
        feeds = {
            n: np.asarray(v, np.float32) if v.dtype.kind == "f" else v
            for n, v in {**values, "cotangent": ct}.items()
        }
        got = run_runtime(graph, feeds)
        for output, gradient in zip(outputs, want, strict=True):
            scale = max(1.0, float(gradient.abs().max()))
            np.testing.assert_allclose(
                got[output], gradient.numpy(), rtol=row.runtime_rtol, atol=row.runtime_rtol * scale
            )


@pytest.mark.parametrize("row", [pytest.param(r, id=r.id) for r in EXACT])
def test_exact(row: Exact) -> None:
    wrt = list(row.want)
    first = "float64" if row.double else "float32"
    for dtype, run in ((first, run_reference), ("float32", run_runtime)):
        model = build(row.text, row.inputs, row.consts, row.opset, dtype=dtype)
        feeds = {
            n: v.astype(dtype) if v.dtype.kind == "f" else v
            for n, v in {**row.inputs, "cotangent": row.ct}.items()
        }
        got = run(vjp_graph(model, wrt, row.rule), feeds)
        for name, output in zip(wrt, saliency_names(row.rule, wrt), strict=True):
            np.testing.assert_array_equal(got[output], row.want[name].astype(dtype))


def versions(op_type: str) -> list[int]:
    """The versions of an operator that files of opset 7 to NEWEST can have."""
    all_schemas = onnx.defs.get_all_schemas_with_history()
    since = sorted(s.since_version for s in all_schemas if s.name == op_type and s.domain == "")
    old = [v for v in since if v <= 7][-1:]
    return old + [v for v in since if 7 < v <= NEWEST and (op_type, v) not in UNTRIED]


@pytest.mark.parametrize("op_type", sorted(registry()))
def test_every_version_of_every_rule_has_a_row(op_type: str) -> None:
    found = versions(op_type)
    rows = [r for r in ROWS if r.op_type == op_type]
    for version, following in zip(found, [*found[1:], NEWEST + 1], strict=True):
        if version < 7 and following <= 7:
            continue
        assert any(max(version, 7) <= o < following for r in rows for o in r.opsets), (
            f"{op_type}: no row for version {version}"
        )
    covered = registry()[op_type].versions
    emitted = [v for v in found if v <= 18][-1:] + [v for v in found if v > 18]
    assert covered >= set(emitted), f"{op_type}: the rule says {sorted(covered)}, not {emitted}"
    assert all(r.torch is not None or r.no_torch for r in rows), f"{op_type}: a row lacks torch"


SQUARES = "m = Mul(x, x) t = ReduceSum(m, axes) "
NORMS = {
    "ReduceSumSquare": ("s = ReduceSumSquare<keepdims=0>(x, axes) y = Sqrt(s)", 2, 1),
    "products": (SQUARES + "y = Sqrt(t)", 2, 1),
    "powers": ("m = Pow(x, p) t = ReduceSum(m, axes) y = Sqrt(t)", 2, 1),
    "scaled": (SQUARES + "u = Mul(t, n) s = Squeeze(u, axes) y = Sqrt(s)", 2, 0.5),
    "over a size": (
        "m = Mul(x, x) t = ReduceMean(m, axes) c = Shape<start=1>(x) f = CastLike(c, x) "
        "u = Mul(f, t) y = Sqrt(u)", 2, 1,
    ),
    "of parts": (
        "a, b, c = Split<axis=1, num_outputs=3>(x) m = Mul(a, a) k = Mul(b, b) o = Mul(c, c) "
        "s = Sum(m, k, o) y = Sqrt(s)", 2, 1,
    ),
    "Pow": (SQUARES + "y = Pow(t, q)", 2, 1),
    "cubes": ("a = Abs(x) m = Pow(a, p) t = ReduceSum(m, axes) y = Pow(t, q)", 3, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("lowering", ["portable", "cpu"])
def test_a_norm_at_0(name: str, lowering: str) -> None:
    """Written as a root of a sum of powers: where that is 0, 0, as of ReduceL2; else its own."""
    text, p, scale = NORMS[name]
    x = np.array([[0, 0, 0], [0, 3, -4]], np.float64)
    powers = {"p": np.array(p, np.float64), "q": np.array(1 / p), "n": np.array(scale**2)}
    consts = {**powers, "axes": np.array([1])}
    model = build(text, {"x": x}, consts, 18, dtype="float32")
    whole = float((np.abs(x[1]) ** p).sum())
    want = np.zeros_like(x)
    want[1] = scale * np.sign(x[1]) * np.abs(x[1]) ** (p - 1) * whole ** (1 / p - 1)
    y = run_runtime(model, {"x": x.astype(np.float32)})["y"]
    feeds = {"x": x.astype(np.float32), "cotangent": np.ones_like(y)}
    found = run_runtime(vjp_graph(model, ["x"], lowering=lowering), feeds)["saliency_vanilla"]
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_a_product_of_norms_at_0() -> None:
    """As a cosine's denominator: where one of them is 0, neither's slope is infinite."""
    text = (
        "m = Mul(a, a) s = ReduceSum(m, axes) n = Mul(b, b) t = ReduceSum(n, axes) "
        "u = Mul(s, t) y = Sqrt(u)"
    )
    a, b = np.float32([[0, 0], [3, 4]]), np.float32([[6, 8], [0, 5]])
    model = build(text, {"a": a, "b": b}, {"axes": np.array([1])}, 18, dtype="float32")
    feeds = {"a": a, "b": b, "cotangent": np.ones((2, 1), np.float32)}
    found = run_runtime(vjp_graph(model, ["a", "b"]), feeds)
    np.testing.assert_allclose(found["saliency_vanilla_0"], [[0, 0], [3, 4]], rtol=1e-6)
    np.testing.assert_allclose(found["saliency_vanilla_1"], [[0, 0], [0, 5]], rtol=1e-6)


def test_a_root_of_anything_else_is_steep_at_0() -> None:
    model = build("y = Sqrt(x)", {"x": np.zeros(2)}, {}, 18, dtype="float32")
    feeds = {"x": np.float32([0, 4]), "cotangent": np.ones(2, np.float32)}
    found = run_runtime(vjp_graph(model, ["x"]), feeds)["saliency_vanilla"]
    np.testing.assert_array_equal(found, [np.inf, 0.25])


def test_a_small_slope_of_softplus() -> None:
    """To float32's own precision: ONNX Runtime's Sigmoid is 1e-8 off, which is more than all."""
    x = np.float32([-20, -25, -60, 0, 30])
    model = build("y = Softplus(x)", {"x": x}, {}, 18, dtype="float32")
    feeds = {"x": x, "cotangent": np.ones_like(x)}
    found = run_runtime(vjp_graph(model, ["x"]), feeds)["saliency_vanilla"]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-x.astype(np.float64))), rtol=1e-5)
