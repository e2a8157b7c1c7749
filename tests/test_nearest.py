"""Wherever a name is looked up in a list, a mistyped one is answered with the nearest."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.classifier.labels import class_number
from backlight.errors import UsageError
from backlight.export.drawing import Drawing
from backlight.export.methods import METHODS
from backlight.export.preprocess import parse, preset
from backlight.export.sampling import Sampling

from .models import tiny

ROOMS = [Path(__file__).parents[1] / room for room in ("export", "engine", "kernels")]


@pytest.fixture
def model() -> onnx.ModelProto:
    return tiny()


LOOKED_UP: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "rule": (lambda m: backlight.export(m, ("guidid",)), "guided"),
    "method": (lambda m: backlight.Explainer(m, methods=("gradcan",)), "gradcam"),
    "provider": (lambda m: backlight.Explainer(m, providers="cudda"), "cuda"),
    "tensor": (lambda m: backlight.Explainer(m, of="scoress"), "scores"),
    "wrt": (lambda m: backlight.Explainer(m, wrt="X"), "x"),
    "input": (lambda m: backlight.Explainer(m, inputs={"xx": 1}), "none besides"),
    "shape": (lambda m: backlight.Explainer(m, shapes={"xx": (1, 3, 8, 8)}), "nearest: x"),
    "lowering": (lambda m: backlight.export(m, for_="portible"), "portable"),
    "preset": (lambda m: preset("unitt"), "unit"),
    "preprocess": (lambda m: parse("imagenet-troch"), "imagenet-torch"),
    "size": (
        lambda m: Drawing.of((METHODS["gradcam"],), (), fuse=False, size="layr", signed=False),
        "layer",
    ),
    "baseline": (lambda m: Sampling(baseline="meam"), "mean"),
    "edges": (lambda m: backlight.Occlusion(m, window=4, edges="clipp"), "clip"),
    "overlap": (lambda m: backlight.Occlusion(m, window=4, overlap="meen")(X), "mean"),
    "score": (lambda m: backlight.Occlusion(m, score="probabilty"), "probability"),
    "way": (lambda m: backlight.Occlusion(m, window=4, method="incrementel"), "incremental"),
    "unit": (lambda m: backlight.maximize(m, 0, "r", unit="maen", preprocess="unit"), "mean"),
    "layer": (lambda m: backlight.filters(m, "hh"), "nearest: h"),
    "target class": (lambda m: backlight.export(m, target_class="tp1"), "nearest: top1"),
    "contrast": (lambda m: backlight.export(m, contrast="secnd"), "nearest: second"),
    "form": (
        lambda m: backlight.Explainer(m, contrast="second", contrast_form="logits"),
        "nearest: logit",
    ),
    "dtype": (lambda m: backlight.export(m, dtype="flot16"), "float16"),
    "reduce": (lambda m: backlight.export(m, reduce="maxab"), "maxabs"),
    "cotangent": (lambda m: backlight.export(m, cotangent="inptu"), "input"),
    "checked tensor": (lambda m: backlight.check(m, of="scoress"), "scores"),
    "checked lowering": (lambda m: backlight.check(m, lowering="cudda"), "cuda"),
    "segments": (lambda m: backlight.Lime(m, segments="slick:9"), "nearest: slic"),
    "baseline name": (lambda m: backlight.Occlusion(m, window=4, baseline="zeros"), "zero"),
    "baseline of segments": (lambda m: backlight.Lime(m, baseline="zeros"), "zero"),
    "space": (lambda m: backlight.ScoreCam(m, space="pixel"), "pixels"),
    "metric": (lambda m: backlight.neighbors(V, V, 2, metric="cosin"), "cosine"),
    "search": (lambda m: backlight.Counterfactual(m, search="gredy", preprocess="unit"), "greedy"),
    "vector": (
        lambda m: backlight.Concepts(m, "r", cav="logistics", preprocess="unit"),
        "logistic",
    ),
    "feature": (lambda m: backlight.Embedder(m, layer="hh"), "h"),
    "object": (lambda m: backlight.BiasFinder(m, object="non", preprocess="unit"), "none"),
    "segmentation": (lambda m: backlight.Segment(m, way="grabcutt", preprocess="unit"), "grabcut"),
    "maps of a call": (lambda m: backlight.Explainer(m)(X, methods=["vanila"]), "vanilla"),
    "class": (lambda m: class_number("tpo1", None), "nearest: top1"),
    "class of labels": (lambda m: class_number("expreso", ["cup", "espresso"]), "espresso"),
}
V = np.eye(3, dtype=np.float32)
X = np.zeros((1, 3, 8, 8), np.float32)


@pytest.mark.parametrize("what", LOOKED_UP)
def test_a_mistyped_name(what: str, model: onnx.ModelProto) -> None:
    call, says = LOOKED_UP[what]
    with pytest.raises(UsageError) as caught:
        call(model)
    message = str(caught.value)
    assert says in message, message
    assert "nearest" in message or what == "input", message


# The two ways to say it; and what is a known name that fits nothing else that was given.
KNOWN = ("hint", "near", "_fitting(masks)")


def test_no_list_of_names_goes_without_the_nearest() -> None:
    """The kind: a UsageError that quotes a name, and joins the names it was looked up in."""
    bare = []
    for file in (f for room in ROOMS for f in room.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            text = ast.unparse(node.exc)
            lists = "accepted: {', '.join(" in text or "there is {', '.join(" in text
            if "UsageError(" in text and lists and not any(w in text for w in KNOWN):
                bare.append(f"{file.name}:{node.lineno}: {text[:90]}")
    assert not bare, bare
