"""What class activation maps must be where the head is known, on trained networks and photos.

SqueezeNet is bundled; OpenNSFW, a trained ResNet-50, is fetched: `pytest -m real`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import backlight
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.export.preprocess import from_json

from ..export.harness import run_runtime

FAMILY = ("gradcam", "hirescam", "xgradcam", "layercam", "counterfactualcam", "contrastcam")


def weights(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(
        np.asarray(numpy_helper.to_array(t)) for t in model.graph.initializer if t.name == name
    )


def with_outputs(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """The model with tensors inside it as outputs."""
    tapped = onnx.ModelProto.FromString(model.SerializeToString())
    tapped.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    return onnx.shape_inference.infer_shapes(tapped)


def maps_of(path: Path, x: np.ndarray, target: np.ndarray, contrast: np.ndarray, **how: object):
    """The raw maps of one layer by name, their size the layer's, their sign kept."""
    proto = backlight.export(path, size="layer", signed=True, contrast_form="logit", **how)
    named = {proto.graph.input[0].name: x, "target": target, "contrast": contrast}
    feeds = {i.name: named[i.name] for i in proto.graph.input}
    return run_runtime(proto, feeds)


@pytest.mark.real
def test_a_resnet_of_a_pooled_linear_head():
    """z = W mean(A) + b: CAM is all of them, and its sum is the score."""
    from benchmarks.fetch import SOURCES, fetch

    source = SOURCES["opennsfw"]
    path = fetch("opennsfw") / next(iter(source.files.values()))
    preprocess = from_json(json.dumps(source.preprocess), "opennsfw")
    x = backlight.Explainer(path, ("vanilla",)).load(sorted(PHOTOS.iterdir()), preprocess)
    target = np.array([0, 1, 0, 1, 0])
    found = maps_of(path, x, target, 1 - target, methods=("cam", *FAMILY))
    model = onnx.load(path)
    w = weights(model, "fc_nsfw/MatMul/ReadVariableOp:0")
    tapped = with_outputs(model, "Relu_48:0", "fc_nsfw/BiasAdd:0")
    inside = run_runtime(tapped, {model.graph.input[0].name: x})
    a = inside["Relu_48:0"].astype(np.float64)
    places = a.shape[2] * a.shape[3]
    every = np.einsum("kc,nkhw->nchw", w.astype(np.float64), a)
    rows = np.arange(len(x))
    cam = every[rows, target]
    close = dict(rtol=1e-4, atol=1e-5 * float(np.abs(cam).max()))  # float32, sums of 1024
    np.testing.assert_allclose(found["saliency_cam"], cam, **close)
    close["atol"] = close["atol"] / places
    for name in ("gradcam", "hirescam", "xgradcam"):
        np.testing.assert_allclose(found[f"saliency_{name}"], cam / places, **close, err_msg=name)
    np.testing.assert_allclose(found["saliency_counterfactualcam"], -cam / places, **close)
    other = every[rows, 1 - target]
    np.testing.assert_allclose(found["saliency_contrastcam"], (cam - other) / places, **close)
    positive = np.einsum("nk,nkhw->nhw", np.maximum(w.T[target], 0).astype(np.float64), a)
    np.testing.assert_allclose(found["saliency_layercam"], positive / places, **close)
    bias = weights(model, "fc_nsfw/BiasAdd/ReadVariableOp:0")[target]
    scores = inside["fc_nsfw/BiasAdd:0"][rows, target]
    np.testing.assert_allclose(cam.mean((1, 2)) + bias, scores, rtol=1e-4, atol=1e-4)


def test_squeezenet_s_closing_rectifier():
    """z_c = mean(relu(h_c)) with h = W A + b at fire9: each place passes its own gradient on, so
    HiResCAM is [h_c > 0] (h_c - b_c) / Z, and Grad-CAM the share of places that are on, times the
    whole of it."""
    x = backlight.Explainer(BUNDLED, ("vanilla",)).load(sorted(PHOTOS.iterdir()))
    target = np.array([285, 663, 967, 985, 657])
    found = maps_of(
        BUNDLED, x, target, np.full(5, 1), methods=("gradcam", "hirescam", "counterfactualcam")
    )
    model = onnx.load(BUNDLED)
    h = run_runtime(with_outputs(model, "conv10_c"), {"data": x})["conv10_c"]
    h = h[np.arange(5), target].astype(np.float64)
    linear = h - weights(model, "conv10_b").astype(np.float64)[target][:, None, None]
    places, on = h[0].size, h > 0
    assert on.any() and not on.all()  # the rectifier matters on these photos
    close = dict(rtol=1e-4, atol=1e-5 * float(np.abs(linear).max()) / places)
    np.testing.assert_allclose(found["saliency_hirescam"], on * linear / places, **close)
    share = on.mean((1, 2))[:, None, None]
    np.testing.assert_allclose(found["saliency_gradcam"], share * linear / places, **close)
    np.testing.assert_allclose(
        found["saliency_counterfactualcam"], -share * linear / places, **close
    )
