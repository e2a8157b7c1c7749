"""Class activation maps against their formulas on PyTorch's autograd, their identities, peers."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import backlight
from backlight.engine.cli.options import BUNDLED
from backlight.errors import ModelError, UnsupportedNode, UsageError
from backlight.export.enlarge import interpolation
from backlight.export.saliency import explain_graph

from .. import models
from ..builders import torchvision_models
from ..models import parsed
from .harness import run_runtime

pytest.importorskip("torch")

import torch

from .cam_formulas import METHODS, F, by_formula
from .torch_nets import Net, X, onnx_of


@pytest.mark.parametrize("lowering", ["portable", "cpu", "cuda", "tensorrt"])
@pytest.mark.parametrize("form", ["loss", "logit"])
@pytest.mark.parametrize("name", METHODS)
def test_equals_its_formula(name: str, form: str, lowering: str):
    net = Net(last=True)
    proto = backlight.export(
        onnx_of(net), methods=[name], size="layer", signed=True, contrast_form=form, for_=lowering
    )
    feeds = {"x": X, "target": np.array([2, -1, 6])}
    if name == "contrastcam":
        feeds["contrast"] = np.full(3, -1)
    found = run_runtime(proto, feeds)[f"saliency_{name}"]
    double = net.double()
    for row in range(3):
        a = double.layer(torch.from_numpy(X[row : row + 1]).double()).detach().requires_grad_()
        z = double.head(a)
        target = int(feeds["target"][row]) if row != 1 else int(z.argmax())
        want = by_formula(name, a, z, target, form)
        np.testing.assert_allclose(found[row], want, rtol=2e-4, atol=2e-6)  # float32 sums


@pytest.mark.parametrize("name", METHODS)
def test_the_layer_may_lie_deeper(name: str):
    """--layer names a tensor or its node; its gradient comes from further back."""
    net = Net(last=True)
    model = onnx_of(net)
    inner = next(n for n in model.graph.node if n.op_type == "Relu")
    feeds = {"x": X, "target": np.array([2, 1, 6]), "contrast": np.full(3, -1)}
    double = net.double()
    for named in (inner.output[0], inner.name):
        proto = backlight.export(model, methods=[name], layer=named, size="layer", signed=True)
        fed = {k: v for k, v in feeds.items() if k in {i.name for i in proto.graph.input}}
        found = run_runtime(proto, fed)[f"saliency_{name}"]
        for row in range(3):
            a = torch.relu(double.a(torch.from_numpy(X[row : row + 1]).double()))
            a = a.detach().requires_grad_()
            z = double.head(torch.relu(double.b(a)))
            want = by_formula(name, a, z, int(feeds["target"][row]), "loss")
            np.testing.assert_allclose(found[row], want, rtol=2e-4, atol=2e-6)


def test_identities_of_a_pooled_linear_head():
    """z = W mean(A) + b: what METHODS of this kind must agree on, to float32's rounding."""
    net = Net(deep=False)
    names = [
        "cam",
        "gradcam",
        "hirescam",
        "xgradcam",
        "layercam",
        "contrastcam",
        "counterfactualcam",
    ]
    proto = backlight.export(
        onnx_of(net), methods=names, size="layer", signed=True, contrast_form="logit"
    )
    target, other = np.array([0, 3, 6]), np.array([5, 5, 5])
    found = run_runtime(proto, {"x": X, "target": target, "contrast": other})
    cam, places = found["saliency_cam"], 12 * 10
    close = dict(rtol=1e-5, atol=1e-6)
    for name in ("gradcam", "hirescam", "xgradcam"):
        np.testing.assert_allclose(found[f"saliency_{name}"], cam / places, **close)
    np.testing.assert_allclose(found["saliency_counterfactualcam"], -cam / places, **close)
    against = run_runtime(proto, {"x": X, "target": other, "contrast": other})
    np.testing.assert_allclose(
        found["saliency_contrastcam"], (cam - against["saliency_cam"]) / places, **close
    )
    # The map sums to the score, less the bias.
    bias = net.out.bias.detach().numpy()[target]
    scores = found["y"][np.arange(3), target]
    np.testing.assert_allclose(cam.sum((1, 2)) / places + bias, scores, rtol=1e-5, atol=1e-5)


POOLS = {
    "mean": lambda a: a.mean((2, 3)),
    "global": lambda a: F.adaptive_avg_pool2d(a, 1).flatten(1),
    "window": lambda a: F.avg_pool2d(a, (12, 10)).flatten(1),
    "merged": lambda a: a.flatten(2).mean(2),
    "merged, places first": lambda a: a.permute(0, 2, 3, 1).reshape(-1, 120, 8).mean(1),
    "columns, then rows": lambda a: a.mean(3).mean(2),
    "rows, then columns": lambda a: a.mean(2).mean(2),
    "kept": lambda a: a.mean((2, 3), keepdim=True).reshape(-1, 1, 1, 8).flatten(1),
}


@pytest.mark.parametrize("pool", POOLS)
def test_every_spelling_of_a_global_pool(pool: str):
    """The layer is the rectified one, never what lies behind the pool, and CAM finds the head."""

    class Spelled(Net):
        def head(self, a):
            return self.out(POOLS[pool](a))

    net = Spelled(deep=False)
    graph = explain_graph(onnx_of(net), ["cam", "gradcam"], size="layer", signed=True)
    (layer,) = graph.layers
    assert layer.sizes == (12, 10) and layer.value.producer().op_type in ("Relu", "Transpose")
    target = np.array([0, 3, 6])
    found = run_runtime(graph.to_proto(), {"x": X, "target": target})
    with torch.no_grad():
        a = net.layer(torch.from_numpy(X)).numpy()
    cam = np.einsum("nk,nkhw->nhw", net.out.weight.detach().numpy()[target], a)
    close = dict(rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["saliency_cam"], cam, **close)
    np.testing.assert_allclose(found["saliency_gradcam"], cam / 120, **close)


def test_what_a_converter_made_of_a_pooled_tensor_is_no_layer():
    """[N,K,1,1] reshaped to [N,1,1,K] has its channels last, not K columns."""

    class Turned(Net):
        def head(self, a):
            return self.out(POOLS["kept"](a))

    model = onnx_of(Turned(deep=False))
    held = {o: n for n in model.graph.node for o in n.output}
    (flat,) = (n for n in model.graph.node if n.op_type == "Gemm")
    turned = held[flat.input[0]].input[0]
    assert held[turned].op_type == "Reshape"
    with pytest.raises(UsageError, match="has one position"):
        backlight.export(model, methods=["gradcam"], layer=turned)


def test_a_pool_of_parts_is_no_global_one():
    class Parts(Net):
        def __init__(self):
            super().__init__(deep=False)
            self.out = torch.nn.Linear(16, 7)

        def head(self, a):
            return self.out(F.avg_pool2d(a, (12, 5)).flatten(1))

    model = onnx_of(Parts())
    (pool,) = (n for n in model.graph.node if n.op_type == "AveragePool")
    with pytest.raises(UnsupportedNode, match="AveragePool .* behind"):
        backlight.export(model, methods=["cam"], layer=pool.input[0])


class TestEveryClassAtOnce:
    def test_a_head_that_multiplies(self):
        model = models.tiny()
        (gemm,) = (n for n in model.graph.node if n.op_type == "Gemm")
        gemm.attribute.append(onnx.helper.make_attribute("alpha", 2.5))
        x = models.images(2, 3, 8, 8)
        every = backlight.export(model, methods=["cam"], target_class="all", signed=True)
        found = run_runtime(every, {"x": x})["saliency_cam"]
        one = backlight.export(model, methods=["cam"], signed=True)
        for c in range(5):
            want = run_runtime(one, {"x": x, "target": np.full(2, c)})["saliency_cam"]
            np.testing.assert_allclose(found[:, c], want, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("lowering", ["portable", "cpu", "cuda", "tensorrt", "openvino"])
    @pytest.mark.parametrize("size", ["layer", "input"])
    @pytest.mark.parametrize("signed", [False, True])
    def test_equals_each_class_alone(self, lowering: str, size: str, signed: bool):
        model = onnx_of(Net(deep=False))
        how = dict(methods=["cam"], size=size, signed=signed, for_=lowering)
        every = backlight.export(model, target_class="all", **how)
        assert [i.name for i in every.graph.input] == ["x"]
        found = run_runtime(every, {"x": X})["saliency_cam"]
        assert found.shape == (3, 7, *((12, 10) if size == "layer" else X.shape[2:]))
        assert found.min() < 0 if signed else found.min() == 0
        one = backlight.export(model, **how)
        for c in range(7):
            want = run_runtime(one, {"x": X, "target": np.full(3, c)})["saliency_cam"]
            np.testing.assert_allclose(found[:, c], want, rtol=1e-5, atol=1e-6)

    def test_no_row_spoils_another(self):
        every = backlight.export(onnx_of(Net(deep=False)), methods=["cam"], target_class="all")
        x = X.copy()
        x[1, 0, 0, 0] = np.nan
        found, clean = (run_runtime(every, {"x": v})["saliency_cam"] for v in (x, X))
        assert np.isnan(found[1]).all()
        np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])

    def test_is_a_convolution_and_no_backward_pass(self):
        model = onnx_of(Net(deep=False))
        every = backlight.export(model, methods=["cam"], target_class="all", size="layer")
        more = [n.op_type for n in every.graph.node if n.op_type in ("Conv", "ConvTranspose")]
        assert more.count("Conv") == 3 and "ConvTranspose" not in more
        # Nor does anything ask which class is on top.
        assert not [n for n in every.graph.node if n.op_type in ("ArgMax", "TopK")]

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            (dict(methods=["gradcam"]), "gradcam walks back from one class at a time; cam gives"),
            (dict(rules=["vanilla"]), "vanilla walks back from one class"),
            (dict(methods=["cam"], contrast="second"), "takes no contrast"),
            (dict(methods=["cam"], cotangent="input"), "takes no cotangent"),
        ],
    )
    def test_what_is_refused(self, how, says):
        with pytest.raises(UsageError, match=says):
            backlight.export(onnx_of(Net(deep=False)), target_class="all", **how)

    def test_a_deep_head_is_refused(self):
        with pytest.raises(UnsupportedNode, match="pooled|pool and one linear layer"):
            backlight.export(onnx_of(Net(last=True)), methods=["cam"], target_class="all")

    def test_the_file_is_for_its_runtime(self):
        every = backlight.export(onnx_of(Net(deep=False)), methods=["cam"], target_class="all")
        with pytest.raises(UsageError, match="the maps of every class; run it in its runtime"):
            backlight.Explainer(every)


class TestTheLayer:
    def test_squeezenet_s_trap(self):
        """Its last tensor with rows and columns is a map per class: there Grad-CAM would be that
        map, and the counterfactual 0 everywhere. fire9 is meant."""
        graph = explain_graph(BUNDLED, ["gradcam", "counterfactualcam"], target_class="top1")
        (layer,) = graph.layers
        assert layer.value.shape is not None
        assert [int(d) for d in list(layer.value.shape)[1:]] == [512, 13, 13]
        assert "classes themselves" in layer.reason
        photo = BUNDLED.parent / "photos" / "chelsea.jpg"
        x = backlight.Explainer(BUNDLED, ("vanilla",)).load([photo])
        found = run_runtime(graph.to_proto(), {graph.input: x})
        assert found["saliency_gradcam"].shape == (1, 227, 227)
        assert found["saliency_gradcam"].max() > 0
        trap = backlight.export(
            BUNDLED, methods=["counterfactualcam"], target_class="top1",
            layer=layer.reason.split("'")[1],
        )  # fmt: skip
        assert not run_runtime(trap, {graph.input: x})["saliency_counterfactualcam"].any()

    def test_nhwc(self):
        """Behind a Transpose, or in the layout that LayerNormalization works on."""
        text = """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3,6,6] x) => (float[N,5] y) {
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    t = Transpose<perm=[0,2,3,1]>(h)
    n = LayerNormalization(t, g)
    p = ReduceMean<keepdims=0>(n, axes)
    y = Gemm<transB=1>(p, v, c)
}"""
        weights = {**models.weights(), "g": np.float32([1, 2, 3, 4]), "axes": np.array([1, 2])}
        model = parsed(text, weights)
        feeds = {"x": models.images(2, 3, 6, 6), "target": np.array([1, 2])}
        graph = explain_graph(model, ["cam", "gradcam"], size="layer", signed=True)
        assert graph.layers[0].name == "n" and graph.layers[0].channel_axis == 3
        found = run_runtime(graph.to_proto(), feeds)
        np.testing.assert_allclose(
            found["saliency_cam"] / 36, found["saliency_gradcam"], rtol=1e-4, atol=1e-6
        )

    def test_an_embedding_of_places(self):
        """A table's rows, turned to where channels are: the layer behind it is [N, K, h, w]."""
        text = """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3,6,7] x) => (float[N,5] y) {
    a = ReduceMax<keepdims=0>(x, one)
    i = Cast<to=7>(a)
    g = Gather(table, i)
    t = Transpose<perm=[0,3,1,2]>(g)
    s = Tanh(x)
    h = Mul(t, s)
    p = ReduceMean<keepdims=0>(h, axes)
    y = Gemm<transB=1>(p, v, c)
}"""
        made, rng = models.weights(), np.random.default_rng(3)
        weights = {
            "v": made["v"][:, :3].copy(), "c": made["c"], "one": np.array([1]),
            "axes": np.array([2, 3]), "table": rng.normal(size=(9, 3)).astype(np.float32),
        }  # fmt: skip
        model = parsed(text, weights)
        graph = explain_graph(model, ["gradcam"], layer="h", size="layer", signed=True)
        assert graph.layers[0].channel_axis == 1
        x = np.abs(models.images(2, 3, 6, 7))
        found = run_runtime(graph.to_proto(), {"x": x, "target": np.array([1, 2])})
        layer = weights["table"][x.max(1).astype(int)].transpose(0, 3, 1, 2) * np.tanh(x)
        want = np.einsum("nk,nkhw->nhw", weights["v"][[1, 2]] / 42, layer)
        np.testing.assert_allclose(found["saliency_gradcam"], want, rtol=1e-4, atol=1e-6)

    def test_an_image_that_is_turned(self):
        """Its columns as a sequence: [N, 3, h, w] all the same, as its sizes say."""
        text = """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3,6,7] x) => (float[N,5] y) {
    t = Transpose<perm=[0,3,1,2]>(x)
    q = ReduceMean<keepdims=0>(t, one)
    u = Unsqueeze(q, end)
    h = Mul(x, u)
    p = ReduceMean<keepdims=0>(h, axes)
    y = Gemm<transB=1>(p, v, c)
}"""
        made = models.weights()
        weights = {
            "v": made["v"][:, :3].copy(), "c": made["c"], "one": np.array([1]),
            "end": np.array([3]), "axes": np.array([2, 3]),
        }  # fmt: skip
        graph = explain_graph(parsed(text, weights), ["gradcam"], layer="h", reduce="maxabs")
        assert graph.layers[0].channel_axis == 1
        feeds = {"x": models.images(2, 3, 6, 7), "target": np.array([0, 1])}
        found = run_runtime(graph.to_proto(), feeds)
        assert found["saliency_gradcam"].shape == (2, 6, 7)

    def test_dynamic_sizes(self):
        """Height and width open: the map comes at the size that the image has."""
        model = models.tiny(shape="N,3,H,W")
        proto = backlight.export(model, methods=["gradcam", "guided_gradcam"])
        for size in ((8, 8), (5, 11)):
            x = models.images(2, 3, *size)
            found = run_runtime(proto, {"x": x, "target": np.array([0, 1])})
            assert found["saliency_gradcam"].shape == (2, *size)
            assert found["saliency_guided_gradcam"].shape == x.shape
        with_size = run_runtime(
            backlight.export(models.tiny(), methods=["gradcam"]),
            {"x": models.images(2, 3, 8, 8), "target": np.array([0, 1])},
        )
        open_size = run_runtime(proto, {"x": models.images(2, 3, 8, 8), "target": np.array([0, 1])})
        np.testing.assert_allclose(
            with_size["saliency_gradcam"], open_size["saliency_gradcam"], rtol=1e-5, atol=1e-7
        )

    def test_several_layers_each_and_fused(self):
        model = onnx_of(Net(last=True))
        relus = [n.output[0] for n in model.graph.node if n.op_type == "Relu"][:2]
        feeds = {"x": X, "target": np.array([2, 1, 6])}
        proto = backlight.export(model, methods=["gradcam", "layercam"], layer=relus)
        found = run_runtime(proto, feeds)
        assert {k for k in found if k.startswith("saliency")} == {
            "saliency_gradcam_0", "saliency_gradcam_1",
            "saliency_layercam_0", "saliency_layercam_1",
        }  # fmt: skip
        fused = run_runtime(
            backlight.export(model, methods=["layercam"], layer=relus, fuse=True), feeds
        )["saliency_layercam"]

        def scaled(m):
            top = m.max(axis=(1, 2), keepdims=True)
            return np.tanh(2 * m / np.where(top > 0, top, 1))

        want = np.maximum(*(scaled(found[f"saliency_layercam_{i}"]) for i in (0, 1)))
        np.testing.assert_allclose(fused, want, rtol=1e-5, atol=1e-6)

    def test_what_is_refused(self):
        tiny = models.tiny()
        for options, message in (
            ({"layer": "scores"}, "no rows and columns; expected"),
            ({"layer": "p"}, "has one position"),
            ({"layer": "relu9"}, "no tensor 'relu9'"),
            ({"size": "image"}, "size 'image'; accepted: input, layer"),
            ({"fuse": True}, "fuse needs two layers"),
            ({"layer": ["h", "r"], "fuse": True, "signed": True}, "fused maps are rectified"),
            ({"contrast": "third"}, "contrast 'third'; accepted: input, second or a class number"),
            ({"contrast": 9}, "contrast 9 is out of range"),
            ({"contrast_form": "mse"}, "contrast form 'mse'; accepted: loss, logit"),
        ):
            with pytest.raises(UsageError, match=message):
                backlight.export(tiny, methods=["gradcam"], **options)
        with pytest.raises(UsageError, match="are of class activation maps"):
            backlight.export(tiny, methods=["vanilla"], layer="r")
        with pytest.raises(UsageError, match="shaped like the image"):
            backlight.export(tiny, methods=["guided_gradcam"], size="layer")
        with pytest.raises(UnsupportedNode, match="take gradcam"):
            backlight.export(onnx_of(Net(last=True)), methods=["cam"])
        flat = tiny_flat()
        with pytest.raises(ModelError, match="name one with --layer"):
            backlight.export(flat, methods=["gradcam"])


def tiny_flat() -> onnx.ModelProto:
    """No tensor with rows and columns behind the image."""
    rng = np.random.default_rng(0)
    return parsed(
        """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3,8,8] x) => (float[N,5] y) {
    f = Flatten(x)
    y = Gemm<transB=1>(f, v)
}""",
        {"v": rng.standard_normal((5, 192)).astype(np.float32)},
    )


class TestContrast:
    def test_of_other_methods(self):
        """--method vanilla --contrast second: by linearity the difference of two gradients."""
        found = {}
        for contrast in (None, "second", "input", 4):
            proto = backlight.export(
                models.tiny(), methods=["vanilla"], contrast=contrast, contrast_form="logit"
            )
            feeds = {"x": models.images(2, 3, 8, 8), "target": np.array([1, 0])}
            if contrast == "input":
                feeds["contrast"] = np.array([4, 4])
            found[contrast] = run_runtime(proto, feeds)
            if contrast is not None:
                meta = {p.key: p.value for p in proto.metadata_props}
                assert meta["backlight.contrast"] == str(contrast)
                assert meta["backlight.contrast_form"] == "logit"
        np.testing.assert_array_equal(
            found["input"]["saliency_vanilla"], found[4]["saliency_vanilla"]
        )
        of_4 = run_runtime(
            backlight.export(models.tiny(), methods=["vanilla"]),
            {"x": models.images(2, 3, 8, 8), "target": np.array([4, 4])},
        )["saliency_vanilla"]
        want = found[None]["saliency_vanilla"] - of_4
        np.testing.assert_allclose(found[4]["saliency_vanilla"], want, rtol=1e-4, atol=1e-6)

    def test_the_second_is_the_best_class_but_the_target(self):
        proto = backlight.export(
            models.tiny(), methods=["vanilla"], contrast="second", contrast_form="logit"
        )
        x = models.images(4, 3, 8, 8)
        order = run_runtime(models.tiny(), {"x": x})["prob"].argsort(axis=1)[:, ::-1]
        for rank, other in ((0, 1), (1, 0), (3, 0)):
            got = run_runtime(proto, {"x": x, "target": order[:, rank]})["saliency_vanilla"]
            named = backlight.export(
                models.tiny(), methods=["vanilla"], contrast="input", contrast_form="logit"
            )
            feeds = {"x": x, "target": order[:, rank], "contrast": order[:, other]}
            np.testing.assert_array_equal(got, run_runtime(named, feeds)["saliency_vanilla"])

    def test_sigmoid_heads_share_no_softmax(self):
        model = models.tiny(tail="prob = Sigmoid(scores)")
        feeds = {
            "x": models.images(2, 3, 8, 8),
            "target": np.array([1, 0]),
            "contrast": np.array([2, 3]),
        }
        one, two = (
            run_runtime(backlight.export(model, methods=["contrastcam"], contrast_form=f), feeds)
            for f in ("loss", "logit")
        )
        np.testing.assert_array_equal(one["saliency_contrastcam"], two["saliency_contrastcam"])

    def test_what_is_refused(self):
        with pytest.raises(UsageError, match="takes no contrast"):
            backlight.export(models.tiny(), methods=["causalcam"], contrast="second")  # its own
        with pytest.raises(UsageError, match="is the target itself"):
            backlight.export(
                models.tiny(), methods=["contrastcam"], target_class=2, contrast=2,
                contrast_form="logit",
            )  # fmt: skip


def test_resizing_is_opencv_s_and_pytorch_s():
    small = np.random.default_rng(0).standard_normal((2, 7, 5)).astype(np.float32)
    for size in ((224, 224), (13, 5), (7, 6), (3, 2)):
        down, across = interpolation(7, size[0]), interpolation(5, size[1])
        got = down @ small @ across.T
        want = F.interpolate(torch.from_numpy(small)[None], size, mode="bilinear")[0].numpy()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        if importlib.util.find_spec("cv2") is not None and min(size) >= 5:
            import cv2

            want = np.stack(
                [cv2.resize(m, size[::-1], interpolation=cv2.INTER_LINEAR) for m in small]
            )
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_half_precision_stays_near():
    """float16 files: a CAM's shape is kept; means of gradients are about 1e-3 there."""
    net = onnx_of(Net(last=True))
    names = [m for m in METHODS if m != "contrastcam"]
    feeds = {"x": X, "target": np.array([2, 1, 6])}
    plain, half = (
        run_runtime(backlight.export(net, methods=names, dtype=d), feeds)
        for d in ("float32", "float16")
    )
    for name in names:
        a, b = (f[f"saliency_{name}"].ravel().astype(np.float64) for f in (plain, half))
        if np.linalg.norm(a):
            assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.999, name


class TestPeers:
    """The same maps from captum, torchcam and pytorch-grad-cam where they are right."""

    def test_captum(self):
        captum = pytest.importorskip("captum.attr")
        net = Net(last=True)
        relu = torch.nn.ReLU()
        net.layer = lambda x: net.mark(torch.relu(net.b(torch.relu(net.a(x)))))  # type: ignore[method-assign]
        net.mark = relu
        proto = backlight.export(
            onnx_of(Net(last=True)), methods=["gradcam"], size="layer", signed=True
        )
        found = run_runtime(proto, {"x": X, "target": np.array([2, 1, 6])})["saliency_gradcam"]
        cam = captum.LayerGradCam(net, relu)
        want = cam.attribute(torch.from_numpy(X), torch.tensor([2, 1, 6]))[:, 0].detach().numpy()
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        ("name", "peer"),
        [("gradcam", "GradCAM"), ("xgradcam", "XGradCAM"), ("layercam", "LayerCAM")],
    )
    def test_torchcam(self, name: str, peer: str):
        """It rectifies and stretches to 0..1; its Grad-CAM++ never divides, and is left out."""
        methods = pytest.importorskip("torchcam.methods")
        net = Marked()
        with getattr(methods, peer)(net, target_layer="mark") as cam:
            rows = []
            for row, target in enumerate((2, 1, 6)):
                scores = net(torch.from_numpy(X[row : row + 1]))
                rows.append(cam(target, scores)[0][0].detach().numpy())
        proto = backlight.export(onnx_of(Net(last=True)), methods=[name], size="layer")
        found = run_runtime(proto, {"x": X, "target": np.array([2, 1, 6])})[f"saliency_{name}"]
        low, high = (f(axis=(1, 2), keepdims=True) for f in (found.min, found.max))
        stretched = (found - low) / np.where(high > low, high - low, 1)
        np.testing.assert_allclose(stretched, np.stack(rows), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        ("name", "peer"),
        [("gradcam", "GradCAM"), ("hirescam", "HiResCAM"), ("xgradcam", "XGradCAM")],
    )
    def test_pytorch_grad_cam(self, name: str, peer: str):
        """pip install --no-deps grad-cam ttach, beside OpenCV, matplotlib and scikit-learn."""
        if importlib.util.find_spec("pytorch_grad_cam") is None:
            pytest.skip("pytorch-grad-cam is not installed")
        torchvision_models()  # it imports torchvision, which may not fit this torch
        import pytorch_grad_cam as pgc
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        net = Marked()
        cam = getattr(pgc, peer)(net, [net.mark])
        targets = [ClassifierOutputTarget(c) for c in (2, 1, 6)]
        want = np.asarray(cam(torch.from_numpy(X), targets))
        proto = backlight.export(onnx_of(Net(last=True)), methods=[name])
        found = run_runtime(proto, {"x": X, "target": np.array([2, 1, 6])})[f"saliency_{name}"]
        low, high = (f(axis=(1, 2), keepdims=True) for f in (found.min, found.max))
        # It stretches before it enlarges: a linear map of ours, up to its eps of 1e-7.
        stretched = (found - low) / np.where(high > low, high - low, 1)
        np.testing.assert_allclose(stretched, want, atol=2e-2)


class Marked(Net):
    """With a module where peers put their hooks."""

    def __init__(self):
        super().__init__(last=True)
        self.mark = torch.nn.ReLU()

    def layer(self, x):
        return self.mark(self.b(torch.relu(self.a(x))))


def test_a_layer_s_value_is_not_changed():
    """The layer may be an output of the model itself."""
    model = models.tiny(output="float[N,5] prob, float[N,4,8,8] r")
    found = run_runtime(
        backlight.export(model, methods=["gradcam"]),
        {"x": models.images(1, 3, 8, 8), "target": np.array([0])},
    )
    assert found["r"].shape == (1, 4, 8, 8) and found["saliency_gradcam"].shape == (1, 8, 8)
    assert isinstance(ir.from_proto(model), ir.Model)
