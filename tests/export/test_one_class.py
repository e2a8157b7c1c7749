"""One class through the head by its own channel alone: as the whole one-hot cotangent goes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from backlight.export.saliency import export

# What follows the layer [N, 16, 5, 5] of rectified values, and which takes the short way.
HEADS = {
    "Gemm": (
        "p = GlobalAveragePool(A) f = Flatten(p) z = Gemm<transB=1, alpha=0.5>(f, Wt, b)", True,
    ),
    "Gemm, not transposed": ("p = GlobalAveragePool(A) f = Flatten(p) z = Gemm(f, W, b)", True),
    "MatMul and Add": (
        "p = ReduceMean<keepdims=0>(A, places) m = MatMul(p, W) z = Add(b, m)", True,
    ),
    "map of classes": (
        "m = Conv(A, W4, b) r = Relu(m) p = GlobalAveragePool(r) z = Flatten(p)", True,
    ),
    "map of classes, clipped": (
        "m = Conv(A, W4) r = Clip(m, zero, high) p = AveragePool<kernel_shape=[5,5]>(r) "
        "z = Reshape(p, flat)", True,
    ),
    "map of classes, leaky": (
        "m = Conv(A, W4) q = Add(m, b4) r = LeakyRelu<alpha=0.1>(q) "
        "p = ReduceMean<keepdims=1>(r, places) z = Squeeze(p, places)", True,
    ),
    "map of classes, smooth": (
        "m = Conv(A, W4) s = Mul(m, high) r = Sigmoid(s) z = ReduceMean<keepdims=0>(r, places)",
        True,
    ),
    "a slope per channel": (
        "m = Conv(A, W4) r = PRelu(m, b4) z = ReduceMean<keepdims=0>(r, places)", False,
    ),
    "a gate spelled as Clip": (
        "m = Conv(A, W4) h = Add(m, three) c = Clip(h, zero, high) r = Mul(m, c) "
        "z = ReduceMean<keepdims=0>(r, places)", False,
    ),
    "windows of 3 x 3": (
        "m = Conv(A, W9) r = Relu(m) z = ReduceMean<keepdims=0>(r, places)", False,
    ),
    "two layers added": (
        "p = ReduceMean<keepdims=0>(A, places) m = MatMul(p, W) q = MatMul(p, V) z = Add(m, q)",
        False,
    ),
    "scores read twice": (
        "p = ReduceMean<keepdims=0>(A, places) m = MatMul(p, W) z = Mul(m, m)", False,
    ),
    "scores added to themselves": (
        "p = ReduceMean<keepdims=0>(A, places) m = MatMul(p, W) z = Add(m, m)", False,
    ),
    "a map read twice": (
        "m = Conv(A, W4) q = Mul(m, m) z = ReduceMean<keepdims=0>(q, places)", False,
    ),
    "a layer and its shortcut in one": (
        "p = ReduceMean<keepdims=0>(A, places) m = MatMul(p, W) z = Gemm(m, Q, m)", False,
    ),
}  # fmt: skip
CLASSES = 24


def net(head: str) -> onnx.ModelProto:
    rng = np.random.default_rng(7)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
        return onnx.numpy_helper.from_array(values.astype(np.float32), name)

    text = f"""<ir_version: 8, opset_import: ["" : 18]>
        net (float[N,8,5,5] x) => (float[N,K] z) {{
            a = Conv<kernel_shape=[1,1]>(x, W0) A = Relu(a) {HEADS[head][0]} }}"""
    model = onnx.parser.parse_model(text)
    numbers = {"zero": 0.0, "high": 0.8, "three": 0.4}
    model.graph.initializer.extend([
        weight("W0", 16, 8, 1, 1), weight("W", 16, CLASSES), weight("V", 16, CLASSES),
        weight("Wt", CLASSES, 16), weight("W4", CLASSES, 16, 1, 1), weight("W9", CLASSES, 16, 3, 3),
        weight("Q", CLASSES, CLASSES),
        weight("b", CLASSES), weight("b4", CLASSES, 1, 1),
        onnx.numpy_helper.from_array(np.array([2, 3]), "places"),
        onnx.numpy_helper.from_array(np.array([0, CLASSES]), "flat"),
        *(onnx.numpy_helper.from_array(np.float32(v), k) for k, v in numbers.items()),
    ])  # fmt: skip
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


METHODS = (
    "vanilla",
    "deconv",
    "guided",
    "gradcam",
    "gradcampp",
    "hirescam",
    "layercam",
    "xgradcam",
)


@pytest.mark.parametrize("lowering", ["portable", "cpu"])
@pytest.mark.parametrize("head", HEADS)
def test_goes_as_the_whole_one_hot_cotangent_goes(head: str, lowering: str) -> None:
    model = net(head)
    x = np.random.default_rng(1).standard_normal((3, 8, 5, 5)).astype(np.float32)
    target = np.array([4, -1, 23], np.int64)
    asked = {"methods": METHODS, "for_": lowering, "layer": "A", "signed": True}
    mine = run(export(model, **asked), x=x, target=target)
    scores = mine["z"].reshape(3, CLASSES, -1)
    classes = np.where(target < 0, scores.sum(2).argmax(1), target)
    hot = np.zeros_like(scores)
    hot[range(3), classes] = 1
    whole = run(
        export(model, cotangent="input", **asked), x=x, cotangent=hot.reshape(mine["z"].shape)
    )
    for method in METHODS:
        name = f"saliency_{method}"
        assert np.abs(whole[name]).max() > 1e-4
        np.testing.assert_allclose(mine[name], whole[name], rtol=1e-4, atol=2e-6, err_msg=method)
    fixed = run(export(model, target_class=4, **asked), x=x[:1])
    for method in METHODS:
        name = f"saliency_{method}"
        np.testing.assert_allclose(fixed[name], mine[name][:1], rtol=1e-5, atol=1e-7)


def test_a_class_that_there_is_not_is_nan_and_no_error() -> None:
    for head in ("Gemm", "map of classes"):
        x = np.ones((3, 8, 5, 5), np.float32)
        target = np.array([24, -2, 3], np.int64)
        found = run(export(net(head), methods=("vanilla", "gradcam")), x=x, target=target)
        for name in ("saliency_vanilla", "saliency_gradcam"):
            assert np.isnan(found[name][:2]).all()
            assert np.isfinite(found[name][2]).all()


@pytest.mark.parametrize("head", HEADS)
def test_no_product_with_all_rows(head: str) -> None:
    """Of a class's own row the walk needs no product with the classes' weights."""
    made = export(net(head), methods=("gradcam", "hirescam", "vanilla"), target_class="input")
    ours = [n for n in made.graph.node if n.output[0].startswith("backlight/")]
    whole = {"W", "Wt", "W4", "W9", "V"}
    for node in ours:
        if node.op_type in ("Transpose", "Slice") and whole & {*node.input}:
            whole.add(node.output[0])
    heavy = [n for n in ours if n.op_type in ("Conv", "Gemm", "MatMul")]
    read = [n.name for n in heavy if whole & {*n.input}]
    assert bool(read) is not HEADS[head][1], read


@pytest.mark.parametrize("contrast_form", ["loss", "logit"])
def test_a_mean_goes_before_the_product(contrast_form: str) -> None:
    """Grad-CAM of a contrast over a map of classes takes one place's product, not all 25."""
    made = export(
        net("map of classes"), methods=("contrastcam",), layer="A", contrast_form=contrast_form
    )
    heavy = [n for n in made.graph.node if n.output[0].startswith("backlight/contrastcam")]
    assert not [n for n in heavy if n.op_type in ("Conv", "ConvTranspose")]


def test_variants_keep_the_image_s_class() -> None:
    x = np.random.default_rng(3).standard_normal((2, 8, 5, 5)).astype(np.float32)
    target = np.array([-1, 5], np.int64)
    made = export(net("map of classes"), methods=("integrated_gradients",), steps=64)
    found = run(made, x=x, target=target)
    rise = found["saliency_integrated_gradients"].sum((1, 2, 3))
    nothing = run(made, x=np.zeros_like(x), target=target)["z"]
    classes = np.where(target < 0, found["z"].argmax(1), target)
    want = found["z"][range(2), classes] - nothing[range(2), classes]
    np.testing.assert_allclose(rise, want, atol=0.02 * np.abs(want).max())
