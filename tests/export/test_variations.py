"""Integrated gradients and the means over noise, against their definitions written out."""

from __future__ import annotations

import numpy as np
import pytest

import backlight
from backlight.errors import UnsupportedNode, UsageError
from backlight.export.sampling import Sampling

from .. import models
from ..models import parsed
from .harness import run_runtime

X = models.images(3, 3, 8, 8)
TARGET = np.array([0, -1, 2])
NOISY = ("smoothgrad", "squaregrad", "vargrad")


def gradient(x: np.ndarray, target: np.ndarray, model=None, **options) -> np.ndarray:
    proto = backlight.export(model or models.tiny(), methods=["vanilla"], **options)
    return run_runtime(proto, {"x": x.astype(np.float32), "target": target})["saliency_vanilla"]


def classes(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The class that each row explains: chosen on the clean image."""
    top = run_runtime(models.tiny(), {"x": x})["prob"].argmax(axis=1)
    return np.where(target < 0, top, target)


@pytest.mark.parametrize("lowering", ["portable", "cpu", "cuda", "tensorrt"])
def test_noise_that_a_caller_gives(lowering: str):
    """Height and width open: the graph has no field that fits, and takes the noise as an input."""
    proto = backlight.export(models.tiny(shape="N,3,H,W"), methods=NOISY, noise=0.3, for_=lowering)
    noise = np.random.default_rng(5).standard_normal((6, 3, 8, 8)).astype(np.float32)
    found = run_runtime(proto, {"x": X, "target": TARGET, "noise": noise})
    size = 0.3 * (X.max(axis=(1, 2, 3)) - X.min(axis=(1, 2, 3)))[:, None, None, None]
    each = np.stack([gradient(X + size * e, classes(X, TARGET)) for e in noise]).astype(np.float64)
    wanted = {"smoothgrad": each.mean(0), "squaregrad": (each**2).mean(0), "vargrad": each.var(0)}
    for name, want in wanted.items():
        np.testing.assert_allclose(found[f"saliency_{name}"], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_stored_noise(count: int):
    """Deterministic, the same for each row, mean exactly 0 in pairs; about normal."""
    linear = parsed(
        """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3,8,8] x) => (float[N,5] y) {
    q = Mul(x, x)
    f = Flatten(q)
    y = Gemm<transB=1>(f, v)
}""",
        {"v": np.random.default_rng(0).standard_normal((5, 192)).astype(np.float32)},
    )
    proto = backlight.export(linear, methods=NOISY, samples=count)
    found = run_runtime(proto, {"x": X, "target": np.zeros(3, np.int64)})
    plain = gradient(X, np.zeros(3, np.int64), linear)
    if count % 2 == 0:  # the gradient is linear in x: paired noise leaves no trace
        np.testing.assert_allclose(found["saliency_smoothgrad"], plain, rtol=1e-4, atol=1e-5)
    again = run_runtime(proto, {"x": X[1:2], "target": np.zeros(1, np.int64)})
    for name in NOISY:
        key = f"saliency_{name}"
        np.testing.assert_allclose(found[key][1:2], again[key], rtol=1e-5, atol=1e-7)
    if count == 16:
        weights = np.random.default_rng(0).standard_normal((5, 192))[0].reshape(3, 8, 8)
        span = X.max(axis=(1, 2, 3)) - X.min(axis=(1, 2, 3))
        # d/dx of v x^2 is 2 v x: its variance is (2 v s)^2, if the noise has variance 1.
        want = (2 * weights[None] * 0.15 * span[:, None, None, None]) ** 2
        ratio = found["saliency_vargrad"].sum() / want.sum()
        assert 0.75 < ratio < 1.3  # eight independent draws of 192 weights: 0.06 of deviation


@pytest.mark.parametrize("baseline", [0.0, -0.4, "input"])
def test_integrated_gradients(baseline):
    proto = backlight.export(
        models.tiny(), methods=["integrated_gradients"], steps=12, baseline=baseline
    )
    feeds = {"x": X, "target": TARGET}
    start = np.full((1, 3, 8, 8), 0.0 if baseline == "input" else baseline, np.float32)
    if baseline == "input":
        start = feeds["baseline"] = models.images(1, 3, 8, 8, seed=9)
    found = run_runtime(proto, feeds)
    at, weights = Sampling(steps=12).nodes()
    assert weights.sum() == pytest.approx(1) and at.min() > 0 and at.max() < 1
    chosen = classes(X, TARGET)
    each = [w * gradient(start + t * (X - start), chosen) for t, w in zip(at, weights, strict=True)]
    want = (X - start) * np.sum(each, axis=0)
    got = found["saliency_integrated_gradients"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    scores = models.tiny(output="float[N,5] prob, float[N,5] scores")
    risen = (run_runtime(scores, {"x": X})["scores"] - run_runtime(scores, {"x": start})["scores"])[
        np.arange(3), chosen
    ]
    gap = got.sum(axis=(1, 2, 3)) - risen
    np.testing.assert_allclose(found["gap_integrated_gradients"], gap, rtol=1e-3, atol=1e-5)


def test_equals_captum():
    torch = pytest.importorskip("torch")
    attr = pytest.importorskip("captum.attr")
    from .torch_nets import Net, onnx_of
    from .torch_nets import X as PHOTOS

    net = Net(last=True)
    proto = backlight.export(onnx_of(net), methods=["integrated_gradients"], steps=50)
    found = run_runtime(proto, {"x": PHOTOS, "target": np.array([2, 1, 6])})
    want = attr.IntegratedGradients(net).attribute(
        torch.from_numpy(PHOTOS), target=torch.tensor([2, 1, 6]), n_steps=50
    )
    got = found["saliency_integrated_gradients"]
    np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("form", ["loss", "logit"])
def test_a_contrast_goes_through(form: str):
    """Why this rather than that, under noise and along the way; the gap is of that score."""
    names = ["smoothgrad", "integrated_gradients"]
    proto = backlight.export(
        models.tiny(), methods=names, contrast="second", contrast_form=form, noise=0.0, steps=64
    )
    feeds = {"x": X, "target": TARGET}
    found = run_runtime(proto, feeds)
    plain = run_runtime(
        backlight.export(models.tiny(), methods=["vanilla"], contrast="second", contrast_form=form),
        feeds,
    )
    np.testing.assert_allclose(
        found["saliency_smoothgrad"], plain["saliency_vanilla"], rtol=1e-4, atol=1e-6
    )
    assert np.abs(found["gap_integrated_gradients"]).max() < 0.02


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_composes(dtype: str):
    """With other methods, half precision and a baked target."""
    names = ["vanilla", "smoothgrad", "integrated_gradients", "gradcam"]
    proto = backlight.export(models.tiny(), methods=names, dtype=dtype, target_class="top1")
    found = run_runtime(proto, {"x": X})
    alone = run_runtime(
        backlight.export(models.tiny(), methods=["smoothgrad"], target_class="top1"), {"x": X}
    )
    a, b = (f["saliency_smoothgrad"].ravel().astype(np.float64) for f in (found, alone))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999
    assert all(np.isfinite(v).all() for v in found.values())


def test_reduced():
    proto = backlight.export(models.tiny(), methods=["smoothgrad"], reduce="maxabs")
    assert run_runtime(proto, {"x": X, "target": TARGET})["saliency_smoothgrad"].shape == (3, 8, 8)


def test_what_is_refused():
    tiny = models.tiny()
    for options, message in (
        ({"samples": 0}, "samples 0; expected 1 to 4096"),
        ({"steps": -3}, "steps -3; expected"),
        ({"steps": True}, "steps True; expected"),
        ({"noise": -1}, "noise -1; expected 0 to 10"),
        ({"noise": float("nan")}, "noise nan; expected"),
        ({"noise": "much"}, "noise 'much'; expected a number"),
        ({"baseline": "dark"}, "baseline 'dark'; accepted: black, grey"),
        ({"baseline": float("inf")}, "baseline inf; expected a finite number"),
    ):
        with pytest.raises(UsageError, match=message):
            backlight.export(tiny, methods=["smoothgrad", "integrated_gradients"], **options)
    with pytest.raises(UsageError, match="are of methods that vary the image"):
        backlight.export(tiny, methods=["vanilla"], steps=8)
    with pytest.raises(UsageError, match="colour of pixels"):
        backlight.export(tiny, methods=["integrated_gradients"], baseline="black")
    with pytest.raises(UnsupportedNode, match="fixed batch of 2.*dynamic batch"):
        backlight.export(models.tiny(shape="2,3,8,8", output="float[2,5] prob"), methods=NOISY)
    fixed = models.tiny(
        body=models.BODY.replace("f = Flatten(p)", "f = Reshape(p, k)").replace(
            "h = Conv", "k = Constant<value_ints = [1, 4]>()\n    h = Conv"
        )
    )
    with pytest.raises(UnsupportedNode, match="makes a batch of 1 whatever comes in"):
        backlight.export(fixed, methods=NOISY)
