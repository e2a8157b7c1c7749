"""Scores of masked images: runs, rows, memory and devices."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.engine.masked import scoring
from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.masked.scoring import Scorer
from backlight.engine.runtime import arrays
from backlight.engine.runtime.session import Session
from backlight.errors import UsageError
from backlight.kernels import get_backend
from backlight.kernels.reference import ReferenceBackend

from .. import models

X = models.images(3, 3, 8, 8)


LOGITS = {"tail": "", "output": "float[N,5] scores"}


# Float32 scores of a few units, from batches of different sizes.
CLOSE = {"rtol": 0, "atol": 2e-6}


def test_all_classes_take_the_runs_of_one(monkeypatch):
    rows = []
    run = Scorer._run
    monkeypatch.setattr(
        Scorer, "_run", lambda self, feeds, count: rows.append(count) or run(self, feeds, count)
    )
    occlude = Occlusion(models.tiny(), window=4, stride=2)
    seen = {}
    for classes in (None, [0, 3], "all"):
        rows.clear()
        occlude(X, classes=classes)
        seen[str(classes)] = list(rows)
    assert sum(seen["None"]) == 3 * (1 + 9), "each image, and its variants, once"
    assert seen["None"] == seen["[0, 3]"] == seen["all"]


@pytest.mark.parametrize("tail", ["prob = LogSoftmax(scores)", "q = Softmax(scores) prob = Log(q)"])
def test_scores_are_taken_before_what_closes_them(tail):
    for kind in ("logit", "probability"):
        want = Occlusion(models.tiny(**LOGITS), window=4, score=kind)(X)
        for model in (models.tiny(), models.tiny(tail=tail)):
            np.testing.assert_array_equal(Occlusion(model, window=4, score=kind)(X), want)
    named = Occlusion(models.tiny(), window=4, of="prob")
    assert named.scorer.output == "scores" and named.scorer.closing == "Softmax"


def integers(name):
    """`tiny` with scores in 8 bits, closed by an operator on codes or on real numbers."""
    model = models.tiny(**LOGITS)
    for key, value in {"s": np.float32(0.1), "z": np.uint8(99), "t": np.float32(1 / 256)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), key))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(0), "u"))
    node = onnx.helper.make_node
    model.graph.node.append(node("QuantizeLinear", ["scores", "s", "z"], ["codes"]))
    if name.startswith("QLinear"):
        attributes = {"axis": -1, "opset": 13} if name == "QLinearSoftmax" else {}
        inputs = ["codes", "s", "z", "t", "u"]
        closes = node(name, inputs, ["closed"], domain="com.microsoft", **attributes)
        model.graph.node.extend([closes, node("DequantizeLinear", ["closed", "t", "u"], ["prob"])])
    else:
        real = node("DequantizeLinear", ["codes", "s", "z"], ["real"])
        model.graph.node.extend([real, node(name, ["real"], ["prob"])])
    model.graph.output[0].name = "prob"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.parametrize("closing", ["Softmax", "Sigmoid"])
def test_a_head_of_integers_is_read_as_real_numbers(closing):
    """Not its probabilities as scores, for another softmax over them."""
    for kind in ("logit", "probability"):
        want = Occlusion(integers(closing), window=4, score=kind)(X)
        occlude = Occlusion(integers("QLinear" + closing), window=4, score=kind)
        np.testing.assert_array_equal(occlude(X), want)
        assert np.abs(want).max() > 1e-3
    boxes = Occlusion(integers("QLinear" + closing), window=2, stride=2, method="incremental")
    want = Occlusion(boxes.scorer, window=2, stride=2, method="dense")(X)
    # A score on the edge between two codes may fall on the other: 0.1 of the 5 that they span.
    np.testing.assert_allclose(boxes(X), want, atol=0.03)


def test_on_a_gpu_images_go_in_once_and_scores_stay(monkeypatch):
    """The device path, with NumPy standing in for CuPy: every run goes through run_on_cuda."""

    class Device(ReferenceBackend):
        name = "cuda"

    bound = []

    def run_on_cuda(session, feeds, outputs):
        bound.append(len(feeds["x"]))
        return session.run(feeds, outputs)

    want = Occlusion(models.tiny(), window=3, stride=2)(X)
    monkeypatch.setattr(Session, "provider", "cuda")
    monkeypatch.setattr(scoring, "get_backend", lambda name: Device())
    monkeypatch.setattr(arrays, "run_on_cuda", run_on_cuda)
    occlude = Occlusion(models.tiny(), window=3, stride=2, memory="1GB")
    np.testing.assert_allclose(occlude(X), want, **CLOSE)
    assert sum(bound) == 3 + 3 * len(occlude.plan((3, 8, 8)))


def test_without_cupy_masks_are_made_on_the_cpu_and_it_says_so(monkeypatch):
    def no_cuda(name):
        if name == "cuda":
            raise UsageError("backend 'cuda' needs CuPy")
        return get_backend(name)

    monkeypatch.setattr(Session, "provider", "cuda")
    monkeypatch.setattr(scoring, "get_backend", no_cuda)
    occlude = Occlusion(models.tiny(), window=3)
    assert any("needs CuPy" in note for note in occlude.scorer.notes)
    assert occlude(X).shape == (3, 8, 8)


@pytest.mark.gpu
def test_on_a_real_gpu():
    try:
        get_backend("cuda")
        on_gpu = Occlusion(models.tiny(), window=3, stride=2, providers="cuda")
    except UsageError as err:
        pytest.skip(str(err))
    cupy = pytest.importorskip("cupy")
    want = Occlusion(models.tiny(), window=3, stride=2, providers="cpu")
    np.testing.assert_allclose(on_gpu(X), want(X), rtol=0, atol=1e-3)  # TF32 convolutions
    heat = on_gpu(cupy.asarray(X))
    assert isinstance(heat, cupy.ndarray)
    found = on_gpu.necessity(cupy.asarray(X), limit=4)
    assert len(found) == 3 and isinstance(found[0].hidden, np.ndarray)


def test_a_gpu_that_is_not_there():
    from backlight.engine.runtime.session import runtime

    if "CUDAExecutionProvider" in runtime().get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UsageError, match="provider 'cuda' is not in this onnxruntime"):
        Occlusion(models.tiny(), window=4, providers="cuda")


def test_a_budget_that_is_too_small_says_what_would_do():
    with pytest.raises(UsageError, match="too small for one variant: accepted: .* or more") as err:
        Occlusion(models.tiny(), window=4, memory="2kB")(X)
    # What it names is enough.
    enough = str(err.value).split("accepted: ")[1].removesuffix(" or more").replace(" ", "")
    assert Occlusion(models.tiny(), window=4, memory=enough)(X).shape == (3, 8, 8)
    fixed = models.tiny(shape="50,3,8,8", output="float[50,5] prob")
    with pytest.raises(UsageError, match="too small for the model's batch of 50 variants"):
        Occlusion(fixed, window=4, memory="20kB")(X)


def test_the_budget_chooses_the_rows():
    each = Scorer(models.tiny()).room.footprint((3, 8, 8))
    scorer = Scorer(models.tiny(), memory=10 * each + 1)
    assert scorer.rows((3, 8, 8)) == 10
    assert Scorer(models.tiny(), memory=10 * each, batch=3).rows((3, 8, 8)) == 3
