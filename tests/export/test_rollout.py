"""Attention rollout and Recipro-CAM against PyTorch in float64, one place or matrix at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.errors import UnsupportedNode, UsageError
from backlight.export.saliency import explain_graph

from .. import models
from .harness import run_runtime
from .torch_nets import Net
from .toys import TARGET, Toy, X, onnx_of, raw
from .transformer_nets import SMALL, swin, timm_model, vit

torch = pytest.importorskip("torch")
F = torch.nn.functional


def rolled(toy: Toy, x: np.ndarray) -> np.ndarray:
    """Abnar and Zuidema's, head mean, by whole matrices; [N, 2, 4]."""
    _, maps = toy(x)
    made = None
    for a in maps:
        mixed = a.mean(1) + torch.eye(a.shape[-1])
        mixed = mixed / mixed.sum(2, keepdim=True)
        made = mixed if made is None else mixed @ made
    return placed_rows(toy, made)


def rolled_by_gradient(toy: Toy, x: np.ndarray, cotangent: Any) -> np.ndarray:
    """Chefer et al.'s, by whole matrices."""
    z, maps = toy(x)
    gradients = torch.autograd.grad(z, maps, cotangent(z))
    made = torch.eye(maps[0].shape[-1]).double().expand(len(x), -1, -1)
    for a, g in zip(maps, gradients, strict=True):
        made = made + torch.relu(a * g).mean(1) @ made
    return placed_rows(toy, made)


def placed_rows(toy: Toy, made: Any) -> np.ndarray:
    row = made[:, toy.rows(made.shape[1])].mean(1)[:, toy.extra :]
    return row.reshape(len(row), 2, 4).detach().numpy()


def with_gradient(model: onnx.ModelProto, **options: Any) -> Toy:
    toy = Toy(model, **options)
    for value in toy.w.values():
        if value.is_floating_point():
            value.requires_grad_()
    return toy


class TestRollout:
    @pytest.mark.parametrize("lowering", ["portable", "cpu", "tensorrt"])
    @pytest.mark.parametrize("extra", [1, 2])
    @pytest.mark.parametrize("reading", ["class", "pooled", "patches"])
    def test_equals_pytorch(self, reading: str, extra: int, lowering: str):
        model = models.transformer(reading=reading, extra=extra)
        toy = with_gradient(model, extra=extra, reading=reading)
        found = raw(model, ["rollout", "gradient_rollout"], for_=lowering)
        hot = F.one_hot(torch.from_numpy(TARGET), 5).double()
        wants = {
            "rollout": rolled(toy, X),
            "gradient_rollout": rolled_by_gradient(toy, X, lambda z: hot),
        }
        for name, want in wants.items():
            np.testing.assert_allclose(found[name], want, rtol=1e-4, atol=1e-6)

    def test_rows_are_what_sums_to_one(self):
        """All tokens together, the class token's own part with them."""
        model = models.transformer(extra=0, reading="pooled")
        np.testing.assert_allclose(raw(model, ["rollout"])["rollout"].sum((1, 2)), 1, rtol=1e-5)

    def test_of_a_contrast(self):
        model = models.transformer()
        found = raw(model, ["gradient_rollout"], contrast=0)["gradient_rollout"]
        hot = F.one_hot(torch.zeros(3, dtype=torch.long), 5).double()
        want = rolled_by_gradient(
            with_gradient(model), X, lambda z: torch.softmax(z.detach(), 1) - hot
        )
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
        with pytest.raises(UsageError, match="'rollout' takes no contrast"):
            backlight.export(model, methods=["rollout"], contrast="second")

    def test_a_fused_attention_is_asked_for_its_map(self):
        """Opset 23 hides the Softmax; its fourth output has what rollout needs, and nothing else
        changes."""
        plain, fused = (
            models.transformer(attention=a, opset=o) for a, o in (("three", 18), ("fused", 23))
        )
        want = raw(plain, ["rollout"])["rollout"]
        np.testing.assert_allclose(raw(fused, ["rollout"])["rollout"], want, rtol=1e-5, atol=1e-7)
        proto = backlight.export(fused, methods=["rollout"])
        np.testing.assert_allclose(
            run_runtime(proto, {"x": X, "target": TARGET})["prob"],
            run_runtime(fused, {"x": X})["prob"], rtol=1e-6,
        )  # fmt: skip
        with pytest.raises(UnsupportedNode, match="is fused: no gradient.*take rollout"):
            backlight.export(fused, methods=["gradient_rollout"])

    def test_the_image_s_size_and_other_methods_beside_it(self):
        graph = explain_graph(models.transformer(), ["rollout", "gradcam", "vanilla"], layer="n1")
        found = run_runtime(graph.to_proto(), {"x": X, "target": TARGET})
        assert found["saliency_rollout"].shape == found["saliency_gradcam"].shape == (3, 8, 8)
        assert [layer.name for layer in graph.layers] == ["n1"]
        (alone,) = explain_graph(models.transformer(), ["rollout"]).layers
        assert alone.reason == "all 2 attention layers from the image to the scores"

    def test_half_precision_stays_near(self):
        plain, half = (
            raw(models.transformer(), ["rollout", "gradient_rollout"], dtype=d)
            for d in ("float32", "float16")
        )
        for name, values in plain.items():
            assert np.linalg.norm(half[name] - values) <= 2e-2 * np.linalg.norm(values), name

    def test_what_is_refused(self):
        for name in ("rollout", "gradient_rollout"):
            with pytest.raises(UnsupportedNode, match="no attention between 'x' and 'scores'"):
                backlight.export(models.tiny(), methods=[name])
            net = swin()
            with pytest.raises(UnsupportedNode, match="no windows as in Swin"):
                backlight.export(onnx_of(net, models.images(2, 3, 32, 32)), methods=[name])
            with pytest.raises(UsageError, match="all attention layers; leave out --layer"):
                backlight.export(models.transformer(), methods=[name], layer="n1")


class TestReciprocam:
    @pytest.mark.parametrize("deep", [False, True])
    def test_equals_runs_of_the_rest(self, deep: bool):
        """One place of the layer at a time, by PyTorch; in closed form where the head is linear."""
        net = Net(deep=deep, last=deep)
        x = models.images(3, 3, 24, 20)
        proto = backlight.export(old(net), methods=["reciprocam"], size="layer", signed=True)
        target = np.array([2, 1, 6])
        found = run_runtime(proto, {"x": x, "target": target})["saliency_reciprocam"]
        with torch.no_grad():
            a = net.layer(torch.from_numpy(x))
            want = np.zeros(found.shape)
            for i, j in np.ndindex(*found.shape[1:]):
                alone = torch.zeros_like(a)
                alone[:, :, i, j] = a[:, :, i, j]
                want[:, i, j] = net.head(alone)[range(3), target].numpy()
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)

    def test_identity_of_a_pooled_linear_head(self):
        """CAM / places + bias, and the file holds no second copy of anything."""
        net = Net(deep=False)
        proto = backlight.export(old(net), methods=["cam", "reciprocam"], size="layer", signed=True)
        target = np.array([0, 3, 6])
        found = run_runtime(proto, {"x": models.images(3, 3, 24, 20), "target": target})
        bias = net.out.bias.detach().numpy()[target][:, None, None]
        np.testing.assert_allclose(
            found["saliency_reciprocam"], found["saliency_cam"] / 120 + bias, rtol=1e-5, atol=1e-6
        )
        assert sum(n.op_type == "Gemm" for n in proto.graph.node) == 1

    def test_a_deeper_layer_and_a_way_past_it(self):
        """What goes past the layer stays as it is."""
        model = models.tiny(
            body="""
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    s = Sigmoid(h)
    a = Add(r, s)
    p = GlobalAveragePool(a)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v, c)
"""
        )
        found = raw(model, ["reciprocam"], layer="r")["reciprocam"]
        w = {k: torch.from_numpy(v) for k, v in models.weights().items()}
        h = F.conv2d(torch.from_numpy(X), w["w"], w["b"], padding=1)
        for i, j in ((0, 0), (3, 5), (7, 7)):
            alone = torch.zeros_like(h)
            alone[:, :, i, j] = torch.relu(h)[:, :, i, j]
            z = (alone + torch.sigmoid(h)).mean((2, 3)) @ w["v"].T + w["c"]
            np.testing.assert_allclose(
                found[:, i, j], z[range(3), TARGET].numpy(), rtol=1e-4, atol=1e-6
            )

    @pytest.mark.parametrize("lowering", ["portable", "cpu", "tensorrt"])
    @pytest.mark.parametrize("extra", [1, 2])
    def test_of_tokens(self, extra: int, lowering: str):
        """A patch and its neighbours by a Gaussian, the tokens in front of them kept, and what goes
        past the norm."""
        model = models.transformer(extra=extra)
        found = raw(model, ["reciprocam"], for_=lowering)["reciprocam"]
        toy = Toy(model, extra=extra)
        p1 = toy.block(0, toy.embedded(X), toy.norm(toy.embedded(X)), [])
        near = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        for i, j in np.ndindex(2, 4):
            wide = np.zeros((4, 6))
            wide[i : i + 3, j : j + 3] = near
            mask = torch.from_numpy(np.concatenate([np.ones(extra), wide[1:-1, 1:-1].ravel()]))
            z = toy.read(toy.block(1, p1, toy.norm(p1) * mask[None, :, None], []))
            np.testing.assert_allclose(
                found[:, i, j], z[range(3), TARGET].numpy(), rtol=1e-3, atol=1e-5
            )

    def test_of_torchvision_s_transformer(self):
        """By torch's older exporter, whose sizes have names of their own: one name must not mean
        two sizes, in the layer's copies and outside, which ONNX Runtime would take for one."""
        net = vit()
        x, target = models.images(3, 3, 32, 32), np.array([1, 2, 5])
        proto = backlight.export(onnx_of(net, x), methods=["reciprocam"], size="layer", signed=True)
        found = run_runtime(proto, {"x": x, "target": target})["saliency_reciprocam"]
        for i, j in ((0, 0), (1, 2), (3, 3)):
            wide = np.zeros((6, 6), np.float32)
            wide[i : i + 3, j : j + 3] = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
            kept = torch.from_numpy(np.concatenate([[1], wide[1:-1, 1:-1].ravel()])).float()
            handle = net.encoder.layers[-1].ln_1.register_forward_hook(
                lambda m, given, out, kept=kept: out * kept[None, :, None]
            )
            with torch.no_grad():
                z = net(torch.from_numpy(x))
            handle.remove()
            np.testing.assert_allclose(
                found[:, i, j], z[range(3), target].numpy(), rtol=1e-3, atol=1e-5
            )

    def test_is_linear_in_the_cotangent(self):
        """A contrast by logits is the difference of two maps."""
        model = models.transformer()
        apart = raw(model, ["reciprocam"], contrast=0, contrast_form="logit")["reciprocam"]
        one = raw(model, ["reciprocam"])["reciprocam"]
        other = raw(model, ["reciprocam"], target_class=0)["reciprocam"]
        np.testing.assert_allclose(apart, one - other, rtol=1e-4, atol=1e-5)

    def test_tokens_in_front_of_an_open_number(self):
        """BEiT by torch's older exporter: how many tokens there are, no shape says."""
        net = timm_model("beit_base_patch16_224", **SMALL)
        x = models.images(2, 3, 32, 48)
        graph = explain_graph(onnx_of(net, x), ["reciprocam"], size="layer", signed=True)
        found = run_runtime(graph.to_proto(), {"x": x, "target": np.array([1, 2])})
        assert found["saliency_reciprocam"].shape == (2, 4, 6)

    def test_what_is_refused(self):
        fixed = models.transformer(shape="3,3,8,8")
        with pytest.raises(UnsupportedNode, match="fixed batch of 3.*supported: a dynamic batch"):
            backlight.export(fixed, methods=["reciprocam"])
        with pytest.raises(UnsupportedNode, match="how many there are is open"):
            backlight.export(
                models.tiny(shape="N,3,H,W", tail="y = Relu(scores)\n prob = Softmax(y)"),
                methods=["reciprocam"], of="y",
            )  # fmt: skip


def old(net: Any) -> onnx.ModelProto:
    return onnx_of(net.eval(), models.images(3, 3, 24, 20))
