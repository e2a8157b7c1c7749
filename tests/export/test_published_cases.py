"""Cases that other libraries publish, and identities of pooled linear heads, as the formulas of
their papers have them."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest

import backlight

from ..builders import torchvision_models
from ..models import images, parsed, tiny, weights
from .harness import run_runtime

pytest.importorskip("onnxruntime")
RAW = {"size": "layer", "signed": True}
PLACES = 64
X = images(3, 3, 8, 8)
TARGET, OTHER = np.array([0, 3, 1]), np.array([2, 2, 4])


def linear(gradient: np.ndarray, squared: bool = False) -> onnx.ModelProto:
    """Maps [N, K, h, w] as they come, each value times its own weight into class 0. squared: the
    map times itself, so that its gradient is itself, twice the weight."""
    channels, height, width = gradient.shape
    matrix = np.zeros((gradient.size, 2), np.float32)
    matrix[:, 0] = gradient.ravel()
    return parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
m (float[N,{channels},{height},{width}] x) => (float[N,2] y) {{
    a = Conv(x, eye)
    b = {"Mul(a, a)" if squared else "Identity(a)"}
    f = Flatten(b)
    y = MatMul(f, v)
}}""",
        {"eye": np.eye(channels, dtype=np.float32)[..., None, None], "v": matrix},
    )


def drawn(model: onnx.ModelProto, x: np.ndarray, **asked) -> np.ndarray:
    proto = backlight.export(model, methods=["gradcam"], layer="a", size="layer", **asked)
    return run_runtime(proto, {"x": x, "target": np.zeros(len(x), np.int64)})["saliency_gradcam"]


def test_xplique_s_gradcam():
    """Four maps that are their own gradients: weights 1, 0.5, 0.375 and 0.125."""
    a = np.float32([[[1, 1], [1, 1]], [[1, 1], [0, 0]], [[1, 0.5], [0, 0]], [[0.5, 0], [0, 0]]])
    want = 1 * a[0] + 0.5 * a[1] + 0.375 * a[2] + 0.125 * a[3]
    got = drawn(linear(np.full((4, 2, 2), 0.5), squared=True), a[None], signed=True)
    np.testing.assert_allclose(got[0], want, rtol=1e-6)


def test_pair_s_gradcam():
    """One channel, some of it negative, and a gradient here and there: only its mean counts."""
    row = np.float32([1, 2, 3, 2, 1])
    a = np.stack([-row, row, 0 * row, row, -row])
    g = np.zeros((5, 5))
    g[0, 0] = g[4, 4] = 2
    g[[[1], [4]], [1, 2, 3]] = 3
    got = drawn(linear(g[None]), a[None, None])[0]
    want = np.zeros((5, 5))
    want[[1, 3]] = row / 3
    np.testing.assert_allclose(got / got.max(), want, atol=1e-6)


class TestAffine:
    """A model without a bend has one gradient, wherever it is asked."""

    MODEL = staticmethod(lambda: linear(np.random.default_rng(3).standard_normal((2, 4, 4))))
    X = images(2, 2, 4, 4)

    def found(self, name: str, **asked):
        proto = backlight.export(self.MODEL(), methods=[name], target_class=0, **asked)
        return run_runtime(proto, {"x": self.X})[f"saliency_{name}"]

    @pytest.mark.parametrize("noise", [0.0, 0.3, 10.0])
    def test_noise_changes_nothing(self, noise: float):
        g = self.found("vanilla")
        for name, want in (("smoothgrad", g), ("squaregrad", g * g), ("vargrad", 0 * g)):
            got = self.found(name, samples=6, noise=noise)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)

    @pytest.mark.parametrize("baseline", [0.0, -0.7])
    def test_integrated_gradients_by_the_way_is_the_gradient(self, baseline: float):
        got = self.found("integrated_gradients", steps=3, baseline=baseline)
        np.testing.assert_allclose(got / (self.X - baseline), self.found("vanilla"), rtol=1e-4)


class TestPooledLinear:
    """z = W mean(A) + b."""

    @pytest.fixture(scope="class")
    @staticmethod
    def found():
        names = ["cam", "gradcam", "gradcampp", "layercam", "contrastcam", "reciprocam"]
        proto = backlight.export(tiny(), methods=names, **RAW)
        shown = onnx.ModelProto()
        shown.CopyFrom(proto)
        shown.graph.output.extend(
            onnx.helper.make_empty_tensor_value_info(n) for n in ("r", "scores")
        )
        return run_runtime(shown, {"x": X, "target": TARGET, "contrast": OTHER})

    @pytest.fixture(scope="class")
    @staticmethod
    def cams(found):
        """Of every class, [N, 5, h, w], in float64."""
        return np.einsum("kc,nchw->nkhw", weights()["v"].astype(np.float64), found["r"])

    def test_cam(self, found, cams):
        np.testing.assert_allclose(found["saliency_cam"], cams[range(3), TARGET], rtol=1e-4)

    def test_layercam(self, found):
        w = np.maximum(weights()["v"][TARGET], 0)
        want = np.einsum("nc,nchw->nhw", w, found["r"]) / PLACES
        np.testing.assert_allclose(found["saliency_layercam"], want, rtol=1e-5)

    def test_gradcampp(self, found):
        w = weights()["v"][TARGET].astype(np.float64)
        each = np.maximum(w, 0) / (2 + w * found["r"].mean((2, 3)))  # places times a place's share
        want = np.einsum("nc,nchw->nhw", each, found["r"])
        np.testing.assert_allclose(found["saliency_gradcampp"], want, rtol=1e-5)

    def test_contrast_by_loss(self, found, cams):
        p = np.exp(found["scores"].astype(np.float64))
        p /= p.sum(1, keepdims=True)
        want = (np.einsum("nk,nkhw->nhw", p, cams) - cams[range(3), OTHER]) / PLACES
        np.testing.assert_allclose(found["saliency_contrastcam"], want, rtol=1e-3, atol=1e-6)

    def test_reciprocam(self, found, cams):
        want = cams[range(3), TARGET] / PLACES + weights()["c"][TARGET][:, None, None]
        np.testing.assert_allclose(found["saliency_reciprocam"], want, rtol=1e-4, atol=1e-6)

    def test_maps_are_linear_in_the_cotangent(self):
        asked = {"methods": ["gradcam", "hirescam"], **RAW, "cotangent": "input"}
        proto = backlight.export(tiny(), **asked)
        rng = np.random.default_rng(2)
        one, two = rng.standard_normal((2, 3, 5)).astype(np.float32)
        maps = [
            run_runtime(proto, {"x": X, "cotangent": ct})
            for ct in (one, two, 2 * one - 0.5 * two)
        ]  # fmt: skip
        for name in ("saliency_gradcam", "saliency_hirescam"):
            a, b, both = (m[name] for m in maps)
            np.testing.assert_allclose(both, 2 * a - 0.5 * b, rtol=1e-4, atol=1e-5)


def test_input_times_gradient_sums_to_the_logit_without_biases():
    model = tiny(tail="", output="float[N,5] scores")
    for held in model.graph.initializer:
        if held.name in "bc":
            values = onnx.numpy_helper.to_array(held) * 0
            held.CopyFrom(onnx.numpy_helper.from_array(values, held.name))
    proto = backlight.export(model, methods=["input_x_gradient"])
    found = run_runtime(proto, {"x": X, "target": TARGET})
    total = found["saliency_input_x_gradient"].sum((1, 2, 3))
    np.testing.assert_allclose(total, found["scores"][range(3), TARGET], rtol=1e-4)


def test_input_times_gradient_is_captum_s():
    torch = pytest.importorskip("torch")
    attr = pytest.importorskip("captum.attr")
    from .torch_nets import Net, onnx_of
    from .torch_nets import X as PHOTOS

    net, target = Net(), np.array([2, 1, 6])
    proto = backlight.export(onnx_of(net), methods=["input_x_gradient"])
    got = run_runtime(proto, {"x": PHOTOS, "target": target})["saliency_input_x_gradient"]
    x = torch.from_numpy(PHOTOS).requires_grad_()
    want = attr.InputXGradient(net).attribute(x, torch.from_numpy(target)).detach().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)


def test_gradcampp_is_pytorch_grad_cam_s_but_for_its_eps():
    """It adds 1e-6 to the paper's denominator, which gradients of about 1 don't see: the head is
    100 times as loud."""
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        pytest.skip("pytorch-grad-cam is not installed")
    torchvision_models()  # it imports torchvision, which may not fit this torch
    import pytorch_grad_cam as pgc
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from .torch_nets import Net, onnx_of
    from .torch_nets import X as PHOTOS

    class Loud(Net):
        def __init__(self) -> None:
            super().__init__(last=True)
            self.mark = torch.nn.Identity()
            with torch.no_grad():
                self.out.weight *= 100

        def layer(self, x):
            return self.mark(super().layer(x))

    targets = [ClassifierOutputTarget(c) for c in (2, 1, 6)]
    net = Loud()
    want = pgc.GradCAMPlusPlus(net, [net.mark])(torch.from_numpy(PHOTOS), targets)
    proto = backlight.export(onnx_of(Loud()), methods=["gradcampp"])
    found = run_runtime(proto, {"x": PHOTOS, "target": np.array([2, 1, 6])})["saliency_gradcampp"]
    low, high = (f(axis=(1, 2), keepdims=True) for f in (found.min, found.max))
    np.testing.assert_allclose((found - low) / (high - low), want, atol=2e-2)


def test_captum_s_guided_gradcam_enlarged_to_the_nearest():
    """captum adds an image of ones to the first, and enlarges by the nearest; the parts of ours
    make the same, and our product is of the two enlarged linearly."""
    weights = {
        "w": np.ones((2, 1, 3, 3), np.float32), "b": np.float32([-50, -75]),
        "v": np.tile(np.float32([1, 1, 1, 1, 1, -1, -1, -1]), (4, 1)),
    }  # fmt: skip
    model = parsed(
        """<ir_version: 8, opset_import: ["": 18]>
m (float[N,1,4,4] x, float[N,1,4,4] more) => (float[N,4] y) {
    s = Add(x, more)
    h = Conv(s, w, b)
    r = Relu(h)
    f = Flatten(r)
    z = Gemm<transB=1>(f, v)
    y = Relu(z)
}""",
        weights,
    )
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    feeds = {"x": x, "more": np.ones_like(x), "target": np.zeros(1, np.int64)}
    small = backlight.export(model, methods=["guided", "gradcam"], layer="h", size="layer")
    found = run_runtime(small, feeds)
    cam, guided = found["saliency_gradcam"][0], found["saliency_guided"][0, 0]
    want = [[14.5, 29, 38, 19], [29, 58, 76, 38], [65, 130, 148, 74], [32.5, 65, 74, 37]]
    np.testing.assert_allclose(guided * cam.repeat(2, 0).repeat(2, 1), want, rtol=1e-6)
    both = backlight.export(model, methods=["guided_gradcam"], layer="h")
    up = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    got = run_runtime(both, feeds)["saliency_guided_gradcam"][0, 0]
    np.testing.assert_allclose(got, guided * (up @ cam @ up.T), rtol=1e-5)


def test_captum_s_integrated_gradients_have_no_gap():
    """relu(relu(a) - 1 - relu(b)) at (3, 1) from (0, 0): 1.5 - 0.5 = f(x) - f(0) = 1."""
    from .cases import b2

    proto = backlight.export(b2(), methods=["integrated_gradients"], steps=50)
    x = np.float32([3, 1]).reshape(1, 2, 1, 1)
    found = run_runtime(proto, {"x": x, "target": np.zeros(1, np.int64)})
    assert found["saliency_integrated_gradients"].sum() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(found["gap_integrated_gradients"], 0, atol=0.05)


def test_gradcampp_where_the_denominator_vanishes_or_is_negative():
    """A layer with negative values: a position whose 2 + g sum(A) isn't above 0 counts nothing, and
    none is infinite."""
    g = np.array([[[1.0, 2], [0, -1]], [[1, 1], [1, 1]]])
    a = np.float32([[[-1, 0], [0, 0]], [[-2, 0], [0, 0]]])  # sums -1 and -2
    proto = backlight.export(linear(g), methods=["gradcampp"], layer="a", **RAW)
    found = run_runtime(proto, {"x": a[None], "target": np.zeros(1, np.int64)})
    # Channel 0: 1 / (2 - 1) at g = 1, 2 / (2 - 2) at g = 2 left out; channel 1: 1 / (2 - 2).
    np.testing.assert_allclose(found["saliency_gradcampp"][0], 1 * a[0], atol=1e-6)


def test_xgradcam_of_a_layer_that_sums_to_zero():
    """The weight of such a channel is 0."""
    a = np.float32([[[1, -1], [2, -2]], [[1, 1], [0, 0]]])
    g = np.array([[[1.0, 2], [3, 4]], [[2, 4], [0, 0]]])
    proto = backlight.export(linear(g), methods=["xgradcam"], layer="a", **RAW)
    found = run_runtime(proto, {"x": a[None], "target": np.zeros(1, np.int64)})
    np.testing.assert_allclose(found["saliency_xgradcam"][0], (6 / 2) * a[1], rtol=1e-6)
