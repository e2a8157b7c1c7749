"""Class activation maps of transformers against autograd hooks on the same tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.errors import UsageError
from backlight.export.saliency import explain_graph

from .. import models
from ..models import parsed
from .cam_formulas import METHODS, by_formula
from .harness import run_runtime
from .toys import TARGET, Toy, X, onnx_of, raw
from .transformer_nets import SMALL, full, swin, timm_model, vit

torch = pytest.importorskip("torch")
F = torch.nn.functional

# float32 against float32, whole networks, by norm.
CLOSE = 1e-3


@dataclass(frozen=True)
class Network:
    """net: its builder. size: of the image. layer: the module whose output is the layer. tokens:
    how many are in front of the patches; None: it has rows and columns, in the order `order`.
    grid: of the patches. exporters: torch's that take it, and those of them that are slow."""

    name: str
    net: Callable[[], Any]
    size: tuple[int, int]
    layer: Callable[[Any], Any]
    grid: tuple[int, int]
    tokens: int | None = None
    order: str = "nchw"
    exporters: str = "old new"
    reason: str = ""
    slow: str = ""

    def by(self, exporter: str) -> Any:
        marks = [pytest.mark.slow] if exporter in self.slow.split() else []
        return pytest.param(self, exporter == "new", id=f"{self.name}-{exporter}", marks=marks)


def last(net: Any) -> Any:
    return net.blocks[-1]


CLASS_TOKEN = "gradient of patches is 0"
POOLED = "before they are pooled"
SPATIAL = "rows and columns before the head"
NETWORKS = [
    Network(
        "vit", vit, (32, 32), lambda n: n.encoder.layers[-1].ln_1, (4, 4), 1, reason=CLASS_TOKEN
    ),
    Network(
        "swin", swin, (32, 32), lambda n: n.norm, (4, 4), order="nhwc", reason=SPATIAL, slow="new"
    ),
    Network(
        "deit", lambda: timm_model("deit_tiny_patch16_224", **SMALL), (32, 48),
        lambda n: last(n).norm1, (4, 6), 1, reason=CLASS_TOKEN,
    ),
    Network(
        "deit-distilled", lambda: timm_model("deit_tiny_distilled_patch16_224", **SMALL), (32, 48),
        lambda n: last(n).norm1, (4, 6), 2, reason=CLASS_TOKEN, slow="new",
    ),
    Network(
        "beit", lambda: timm_model("beit_base_patch16_224", **SMALL), (32, 48),
        last, (4, 6), 1, reason=POOLED, exporters="old",
    ),
    Network(
        "vit-pooled", lambda: timm_model(
            "vit_tiny_patch16_224", **SMALL, global_pool="avg", class_token=False
        ), (32, 48), last, (4, 6), 0, reason=POOLED,
    ),
    Network(
        "vit-registers", lambda: timm_model("vit_tiny_patch16_224", **SMALL, reg_tokens=4),
        (32, 48), lambda n: last(n).norm1, (4, 6), 5, reason=CLASS_TOKEN, slow="new",
    ),
    Network(
        "convnext", lambda: timm_model(
            "convnext_atto", num_classes=7, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)
        ), (64, 96), lambda n: n.stages[-1], (2, 3), reason=SPATIAL, slow="new",
    ),
]  # fmt: skip
# The real sizes: pytest -m slow tests/export/test_transformers.py
# (torch.export takes neither BEiT nor this MaxViT.)
FULL = "old new"
NETWORKS += [
    Network(
        "vit_b_16", lambda: full("vit_b_16"), (224, 224), lambda n: n.encoder.layers[-1].ln_1,
        (14, 14), 1, reason=CLASS_TOKEN, slow=FULL,
    ),
    Network(
        "swin_t", lambda: full("swin_t"), (224, 224), lambda n: n.norm, (7, 7), order="nhwc",
        reason=SPATIAL, slow=FULL,
    ),
    Network(
        "deit_tiny", lambda: timm_model("deit_tiny_patch16_224"), (224, 224),
        lambda n: last(n).norm1, (14, 14), 1, reason=CLASS_TOKEN, slow=FULL,
    ),
    Network(
        "beit_base", lambda: timm_model("beit_base_patch16_224"), (224, 224),
        last, (14, 14), 1, reason=POOLED, slow=FULL, exporters="old",
    ),
    Network(
        "convnext_atto", lambda: timm_model("convnext_atto"), (224, 224), lambda n: n.stages[-1],
        (7, 7), reason=SPATIAL, slow=FULL,
    ),
    Network(
        "mobilevit_xxs", lambda: timm_model("mobilevit_xxs"), (256, 256), lambda n: n.final_conv,
        (8, 8), reason=SPATIAL, slow=FULL,
    ),
    Network(
        "maxvit_rmlp_pico", lambda: timm_model("maxvit_rmlp_pico_rw_256"), (256, 256),
        lambda n: n.norm, (8, 8), reason=SPATIAL, slow=FULL, exporters="old",
    ),
]  # fmt: skip
EXPORTED = [n.by(exporter) for n in NETWORKS for exporter in n.exporters.split()]


def hooked(network: Network, net: Any, x: np.ndarray) -> tuple[Any, Any, Callable[[Any], Any]]:
    """The layer [N, K, h, w], the scores, and what brings a gradient by the module's output into
    the layer's shape: by a hook in PyTorch."""
    kept: list[Any] = []
    handle = network.layer(net).register_forward_hook(lambda m, i, out: kept.append(out))
    scores = net(torch.from_numpy(x))
    handle.remove()
    out = kept[-1]

    def placed(values: Any) -> Any:
        if network.tokens is not None:
            rows = values[:, network.tokens :].transpose(1, 2)
            return rows.reshape(len(values), -1, *network.grid)
        return values.permute(0, 3, 1, 2) if network.order == "nhwc" else values

    return out, scores, placed


def cotangents(scores: Any, target: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    hot = F.one_hot(torch.from_numpy(target), scores.shape[1]).float()
    against = F.one_hot(torch.from_numpy(other), scores.shape[1]).float()
    return {"gradcam": hot, "contrastcam": torch.softmax(scores.detach(), 1) - against}


@pytest.mark.parametrize(("network", "dynamo"), EXPORTED)
def test_gradcam_and_contrastcam_equal_autograd(network: Network, dynamo: bool):
    net = network.net()
    x = models.images(2, 3, *network.size)
    methods = ["gradcam", "contrastcam", "hirescam"]
    graph = explain_graph(onnx_of(net, x, dynamo), methods, size="layer", signed=True)
    (layer,) = graph.layers
    assert network.reason in layer.reason
    target, other = np.array([2, 5]), np.array([1, 1])
    found = run_runtime(graph.to_proto(), {"x": x, "target": target, "contrast": other})
    values, scores, placed = hooked(network, net, x)
    for name, cotangent in cotangents(scores, target, other).items():
        (g,) = torch.autograd.grad(scores, values, cotangent, retain_graph=True)
        a, g = placed(values).detach(), placed(g)
        assert tuple(a.shape[2:]) == network.grid
        want = (g.mean((2, 3), keepdim=True) * a).sum(1).numpy()
        got = found[f"saliency_{name}"]
        assert np.linalg.norm(want) > 0
        assert np.linalg.norm(got - want) <= CLOSE * np.linalg.norm(want), name
        if name == "gradcam":
            want = (g * a).sum(1).numpy()
            got = found["saliency_hirescam"]
            assert np.linalg.norm(got - want) <= CLOSE * np.linalg.norm(want)


VARIANTS = [
    {},
    {"norm": "spelled"},
    {"attention": "one"},
    {"norm": "spelled", "attention": "one"},
    {"embedding": "nhwc"},
    {"reading": "slice"},
    {"shape": "N,3,H,W"},
    {"shape": "3,3,8,8"},
]


class TestTheLayer:
    @pytest.mark.parametrize("options", VARIANTS, ids=str)
    def test_is_the_input_of_the_last_attention(self, options: dict[str, Any]):
        """However norms, queries and the class token are spelled; 2 x 4 patches."""
        graph = explain_graph(models.transformer(**options), ["gradcam"])
        (layer,) = graph.layers
        assert layer.name == "n1" and CLASS_TOKEN in layer.reason
        found = raw(models.transformer(**options), ["gradcam", "layercam"])
        plain = raw(models.transformer(), ["gradcam", "layercam"])
        for name, values in plain.items():
            assert values.shape == (3, 2, 4) and values.any()
            np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize("lowering", ["portable", "cpu", "tensorrt"])
    @pytest.mark.parametrize("name", METHODS)
    def test_every_map_equals_its_formula(self, name: str, lowering: str):
        """With autograd in float64, by the patches of the last block's first norm."""
        model = models.transformer()
        found = raw(model, [name], contrast_form="logit", for_=lowering)[name]
        toy = Toy(model)
        p1 = toy.block(0, toy.embedded(X), toy.norm(toy.embedded(X)), [])
        for row, target in enumerate(TARGET):
            p = p1[row : row + 1].detach()
            n = toy.norm(p)
            a = n[:, 1:].transpose(1, 2).reshape(1, 4, 2, 4).clone().requires_grad_()
            whole = torch.cat([n[:, :1], a.flatten(2).transpose(1, 2)], 1)
            z = toy.read(toy.block(1, p, whole, []))
            if name == "contrastcam":
                hot = F.one_hot(torch.tensor([target, 0]), 5).double()
                (g,) = torch.autograd.grad(z, a, (hot[0] - hot[1])[None])
                want = (g.mean((2, 3), keepdim=True) * a).sum(1)[0].detach().numpy()
            else:
                want = by_formula(name, a, z, int(target), "logit")
            np.testing.assert_allclose(found[row], want, rtol=1e-3, atol=2e-6)

    def test_pooled_tokens(self):
        for reading, name in (("pooled", "last_norm"), ("patches", "yp")):
            (layer,) = explain_graph(models.transformer(reading=reading), ["gradcam"]).layers
            assert layer.name == name and POOLED in layer.reason and layer.sizes == (2, 4)

    def test_class_maps_of_pooled_patches(self):
        """No class token, and a head that is linear: the closed form holds of tokens too."""
        text = """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3,8,8] x) => (float[N,5] y) {
    e = Conv<strides=[4,2]>(x, we)
    f = Reshape(e, flat)
    t = Transpose<perm=[0,2,1]>(f)
    d = MatMul(t, wd)
    g = Relu(d)
    m = ReduceMean<keepdims=0>(g, axes)
    y = Gemm<transB=1>(m, wc, bc)
}"""
        rng = np.random.default_rng(0)
        sizes = {"we": (6, 3, 4, 2), "wd": (6, 4), "wc": (5, 4), "bc": (5,)}
        weights = {k: rng.standard_normal(v).astype(np.float32) for k, v in sizes.items()}
        model = parsed(text, {**weights, "flat": np.array([0, 0, -1]), "axes": np.array([1])})
        found = raw(model, ["cam", "gradcam", "hirescam"])
        np.testing.assert_allclose(found["cam"] / 8, found["gradcam"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["hirescam"], found["gradcam"], rtol=1e-4, atol=1e-6)

    def test_named(self):
        """Tokens [N,T,D], [N,D,T] before the Transpose, and a map."""
        model = models.transformer()
        same = raw(model, ["gradcam"])["gradcam"]
        np.testing.assert_array_equal(raw(model, ["gradcam"], layer="n1")["gradcam"], same)
        turned, plain, maps = (
            raw(model, ["gradcam"], layer=name)["gradcam"] for name in ("f", "t", "e")
        )
        np.testing.assert_allclose(turned, plain, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(turned, maps, rtol=1e-5, atol=1e-7)

    def test_an_open_number_of_tokens(self):
        """BEiT by torch's older exporter: how many there are, no shape says. The block's output has
        a class token, which the Slice behind it, the default layer, drops."""
        x = models.images(2, 3, 32, 48)
        model = onnx_of(timm_model("beit_base_patch16_224", **SMALL), x)
        feeds = {"x": x, "target": np.array([1, 2])}
        graph = explain_graph(model, ["gradcam"], size="layer", signed=True)
        sliced = graph.layers[0].value.producer()
        assert sliced is not None and sliced.op_type == "Slice"
        block = sliced.inputs[0].name
        named = explain_graph(model, ["gradcam"], size="layer", signed=True, layer=block)
        want, got = (run_runtime(g.to_proto(), feeds)["saliency_gradcam"] for g in (graph, named))
        assert got.shape == (2, 4, 6) and got.any()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)

    def test_what_is_refused(self):
        model = models.transformer()
        model.graph.node.append(onnx.helper.make_node("Relu", ["e"], ["aside"]))
        for layer, message in (
            ("p2", "'p2': the score reads its class token alone.*such as 'n1'"),
            ("last_norm", "the score reads its class token alone"),
            ("y", "'y' has the shape .*no rows and columns; expected"),
            ("s1", "no rows and columns"),
            ("sv1", "no rows and columns"),
            ("aside", "'aside' has no way to the score 'scores'"),
            ("cls_n", "no rows and columns"),
        ):
            with pytest.raises(UsageError, match=message):
                backlight.export(model, methods=["gradcam"], layer=layer)
            for name in ("hirescam", "layercam"):
                with pytest.raises(UsageError, match=message):
                    backlight.export(model, methods=[name], layer=layer)


def test_attention_folded_to_a_map_is_a_layer():
    """BoTNet and the like: what attention makes has rows and columns again."""
    text = """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3,4,6] x) => (float[N,5] y) {
    e = Conv(x, we)
    f = Reshape(e, flat)
    t = Transpose<perm=[0,2,1]>(f)
    z = MatMul(t, f)
    s = Softmax(z)
    a = MatMul(s, t)
    b = Transpose<perm=[0,2,1]>(a)
    maps = Reshape(b, fold)
    p = GlobalAveragePool(maps)
    g = Flatten(p)
    y = Gemm<transB=1>(g, wc)
}"""
    rng = np.random.default_rng(0)
    weights = {
        "we": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "wc": rng.standard_normal((5, 4)).astype(np.float32),
        "flat": np.array([0, 4, -1]), "fold": np.array([0, 4, 4, 6]),
    }  # fmt: skip
    model = parsed(text, weights)
    for options in ({}, {"layer": "maps"}):
        (layer,) = explain_graph(model, ["gradcam"], **options).layers
        assert layer.name == "maps" and layer.sizes == (4, 6)
    with pytest.raises(UsageError, match="no rows and columns"):
        explain_graph(model, ["gradcam"], layer="s")


@pytest.mark.parametrize("method", ["smoothgrad", "integrated_gradients"])
def test_variants_of_the_image_by_the_older_exporter(method: str):
    """A second forward pass of another batch, beside the first: each row as alone."""
    x, target = models.images(3, 3, 32, 32), np.array([1, 2, 5])
    proto = backlight.export(onnx_of(vit(), x), methods=[method])
    key = f"saliency_{method}"
    together = run_runtime(proto, {"x": x, "target": target})[key]
    for row in range(3):
        one = slice(row, row + 1)
        alone = run_runtime(proto, {"x": x[one], "target": target[one]})[key]
        scale = np.abs(alone).max()
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-3, atol=1e-5 * scale)
