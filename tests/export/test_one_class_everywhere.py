"""One class's own row of the head, in every form a model and an export can have: as the whole
one-hot cotangent goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import backlight

from .. import models
from .harness import run_runtime

pytest.importorskip("onnxruntime")
METHODS = ("vanilla", "guided", "gradcam", "gradcampp", "hirescam", "layercam", "xgradcam")
X = models.images(3, 3, 8, 8)
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "softmax": models.tiny,
    "sigmoid": lambda: models.tiny(tail="prob = Sigmoid(scores)"),
    "open batch name": lambda: models.tiny(shape="B,3,8,8", output="float[B,5] prob"),
    "half": lambda: half(models.tiny()),
    "two heads": lambda: models.tiny(
        tail="prob = Softmax(scores) t = Tanh(f) other = Gemm<transB=1>(t, v, c)",
        output="float[N,5] prob, float[N,5] other",
    ),
}


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights kept in float16, as a file of half the size has them."""
    for held in model.graph.initializer:
        held.name += "_half"
        values = onnx.numpy_helper.to_array(held).astype(np.float16)
        held.CopyFrom(onnx.numpy_helper.from_array(values, held.name))
        name = held.name.removesuffix("_half")
        model.graph.node.insert(0, onnx.helper.make_node("Cast", [held.name], [name], to=1))
    return model


def lone(tail: str = "prob = Sigmoid(scores)") -> onnx.ModelProto:
    model = models.tiny(tail=tail, output="float[N,1] prob")
    for held in model.graph.initializer:
        if held.name in ("v", "c"):
            values = onnx.numpy_helper.to_array(held)[:1]
            held.CopyFrom(onnx.numpy_helper.from_array(values, held.name))
    return model


def found(model: Any, x: np.ndarray = X, **asked: Any) -> dict[str, np.ndarray]:
    proto = backlight.export(model, **asked)
    names = {i.name for i in proto.graph.input}
    feeds = {"x": x, "target": np.array([4, -1, 2][: len(x)]), "contrast": np.array([1, 0, 0])}
    return run_runtime(proto, {k: v for k, v in feeds.items() if k in names})


def whole(model: Any, ct: np.ndarray, x: np.ndarray = X, **asked: Any) -> dict[str, np.ndarray]:
    """The same from a cotangent that a caller gives, which goes through every class."""
    proto = backlight.export(model, cotangent="input", **asked)
    (given,) = [i for i in proto.graph.input if i.name == "cotangent"]
    dims = [d.dim_value or len(ct) for d in given.type.tensor_type.shape.dim]
    return run_runtime(proto, {"x": x, "cotangent": ct.reshape(dims).astype(np.float32)})


def logits(model: Any, x: np.ndarray = X) -> np.ndarray:
    """Of the first head: the graph's own, before what closes it."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(onnx.helper.make_empty_tensor_value_info("scores"))
    return run_runtime(shown, {"x": x})["scores"]


def close(mine: dict[str, np.ndarray], want: dict[str, np.ndarray], rtol: float = 2e-5) -> None:
    names = [n for n in want if n.startswith("saliency_")]
    assert names and set(names) <= set(mine)
    for name in names:
        off = np.linalg.norm(mine[name] - want[name]) / (np.linalg.norm(want[name]) or 1)
        assert off <= rtol, name


@pytest.mark.parametrize("lowering", ["portable", "cpu", "cuda", "tensorrt", "openvino"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_model_for_every_runtime(kind: str, lowering: str):
    model = MODELS[kind]()
    top = logits(model).argmax(1)
    ct = np.eye(5)[[4, top[1], 2]]
    asked = {"methods": METHODS, "for_": lowering, "size": "layer", "signed": True}
    close(found(model, **asked), whole(model, ct, **asked))


@pytest.mark.parametrize("name", ["prob", "other"])
def test_a_head_that_of_names(name: str):
    model = MODELS["two heads"]()
    asked = {"methods": METHODS, "of": name}
    x, top = X[:2], run_runtime(model, {"x": X})[name][1].argmax()
    mine = found(model, x, **asked)
    asked["of"] = name.replace("prob", "scores")  # a caller's cotangent is of what is named
    close(mine, whole(model, np.eye(5)[[4, top]], x, **asked))


@pytest.mark.parametrize("target", [0, 3, "3", "top1"])
def test_a_class_in_the_file(target: str | int):
    model = models.tiny()
    classes = logits(model).argmax(1) if target == "top1" else [int(target)] * 3
    close(found(model, methods=METHODS, target_class=target),
          whole(model, np.eye(5)[classes], methods=METHODS))  # fmt: skip


def test_a_fixed_batch():
    model = models.tiny(shape="1,3,8,8", output="float[1,5] prob")
    close(
        found(model, X[:1], methods=METHODS), whole(model, np.eye(5)[[4]], X[:1], methods=METHODS)
    )


@pytest.mark.parametrize("target", [0, 1, "input"])
def test_a_single_logit_is_two_classes(target: str | int):
    """Class 0 is the negated logit: every signed map of it is the other's negative."""
    asked = {"methods": ("vanilla", "gradcam", "hirescam", "cam"), "signed": True}
    one = found(lone(), **asked, target_class=1)
    sign = {0: -1, 1: 1}
    mine = backlight.export(lone(), **asked, target_class=target)
    feeds: dict[str, np.ndarray] = {"x": X}
    signs = np.full(3, sign.get(target, 1))
    if target == "input":
        feeds["target"], signs = np.array([0, 1, 0]), np.array([-1, 1, -1])
    got = run_runtime(mine, feeds)
    for name in ("vanilla", "gradcam", "hirescam", "cam"):
        want = one[f"saliency_{name}"]
        scaled = want * signs.reshape(-1, *[1] * (want.ndim - 1))
        np.testing.assert_allclose(got[f"saliency_{name}"], scaled, rtol=1e-5, atol=1e-7)
    assert one["saliency_gradcam"].any()


def test_a_single_logit_s_class_maps():
    """CAM is Grad-CAM times the places; both classes at once are each other's negatives."""
    asked = {"size": "layer", "signed": True}
    one = found(lone(), methods=("gradcam", "cam", "reciprocam"), target_class=1, **asked)
    np.testing.assert_allclose(one["saliency_cam"], 64 * one["saliency_gradcam"], rtol=1e-4)
    every = found(lone(), methods=("cam",), target_class="all", **asked)["saliency_cam"]
    assert every.shape == (3, 2, 8, 8)
    np.testing.assert_allclose(every[:, 1], one["saliency_cam"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(every[:, 0], -every[:, 1], rtol=1e-6)
    bias = onnx.numpy_helper.to_array(next(i for i in lone().graph.initializer if i.name == "c"))
    np.testing.assert_allclose(
        one["saliency_reciprocam"], one["saliency_gradcam"] + bias, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("form", ["loss", "logit"])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_contrast(kind: str, form: str):
    model = MODELS[kind]()
    scores = logits(model).astype(np.float64)
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    mine = np.eye(5)[[4, scores[1].argmax(), 2]]
    start = p if form == "loss" and kind == "softmax" else mine
    names = ("vanilla", "gradcam", "hirescam")
    got = found(model, methods=names, contrast="input", contrast_form=form, signed=True)
    want = whole(model, start - np.eye(5)[[1, 0, 0]], methods=names, signed=True)
    close(got, want, 1e-4)


def test_reduced_and_in_half():
    model = models.tiny()
    ct = np.eye(5)[[4, logits(model)[1].argmax(), 2]]
    asked = {"methods": ("vanilla", "guided"), "reduce": "maxabs"}
    close(found(model, **asked), whole(model, ct, **asked))
    narrow = {"methods": METHODS, "dtype": "float16", "for_": "cuda"}
    close(found(model, **narrow), whole(model, ct, methods=METHODS), 5e-3)


class TestQuantised:
    """QDQ: the steps are passed straight through."""

    @pytest.fixture(scope="class")
    @staticmethod
    def model(tmp_path_factory) -> onnx.ModelProto:
        from .quantised import quantised

        folder: Path = tmp_path_factory.mktemp("qdq")
        onnx.save(models.tiny(), folder / "m.onnx")
        # Wider than what is shown: at the range's end a gradient ends, and a class's weights don't.
        return onnx.load(quantised(folder / "m.onnx", 1.5 * X, folder))

    @pytest.mark.parametrize("lowering", ["portable", "cpu", "tensorrt"])
    def test_goes_as_the_whole(self, model, lowering: str):
        ct = np.eye(5)[[4, run_runtime(model, {"x": X})["prob"][1].argmax(), 2]]
        asked = {"methods": METHODS, "for_": lowering}
        close(found(model, **asked), whole(model, ct, **asked))

    def test_its_head_is_pooled_and_linear(self, model):
        """The identities of such heads hold, of one class and of all."""
        names = ("gradcam", "cam", "hirescam", "reciprocam")
        got = found(model, methods=names, size="layer", signed=True, target_class=4)
        np.testing.assert_allclose(got["saliency_cam"], 64 * got["saliency_gradcam"], rtol=1e-4)
        np.testing.assert_allclose(got["saliency_cam"], 64 * got["saliency_hirescam"], rtol=1e-4)
        every = found(model, methods=("cam",), size="layer", signed=True, target_class="all")
        np.testing.assert_allclose(
            every["saliency_cam"][:, 4], got["saliency_cam"], rtol=1e-4, atol=1e-6
        )
        # One place alone is run, not reckoned: where it ends up among the steps is what it says.
        off = np.abs(got["saliency_reciprocam"] - got["saliency_gradcam"])
        steps = np.unique(got["saliency_reciprocam"])
        assert len(steps) < 64 * 3 and off.any()
