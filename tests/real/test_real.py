"""Real models on real photos against PyTorch, and the scores against the model's own.

SqueezeNet is bundled; OpenNSFW and a VGG16 are fetched: `pytest -m real`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.export.preprocess import Preprocess, from_json

from ..export.harness import run_runtime

torch = pytest.importorskip("torch")
from . import interpreter  # noqa: E402

# float32 against float64: where a rectifier within rounding of zero flips, one photo's map moves
# by 1e-3 or so, PyTorch's own float32 likewise. So the middle of five photos is asked.
LIMIT = 1e-3
RULES = ("vanilla", "deconv", "guided")


def fetched(name: str) -> tuple[Path, Preprocess]:
    from benchmarks.fetch import SOURCES, fetch

    source = SOURCES[name]
    path = fetch(name) / next(iter(source.files.values()))
    return path, from_json(json.dumps(source.preprocess), name)


@pytest.mark.parametrize("target", ["portable", "cpu", "tensorrt"])
@pytest.mark.parametrize(
    "name",
    [
        "squeezenet",
        pytest.param("opennsfw", marks=pytest.mark.real),
        pytest.param("vgg16", marks=pytest.mark.real),
    ],
)
def test_against_pytorch(name: str, target: str) -> None:
    path, preprocess = (BUNDLED, None) if name == "squeezenet" else fetched(name)
    photos = sorted(PHOTOS.iterdir())
    x = backlight.Explainer(path, ("vanilla",)).load(photos, preprocess)
    model = onnx.load(path)
    own = run_runtime(model, {model.graph.input[0].name: x})[model.graph.output[0].name]
    graph = backlight.export(path, RULES, for_=target)
    feeds = {graph.graph.input[0].name: x, "target": np.ones(len(x), np.int64)}
    found = run_runtime(graph, feeds)
    np.testing.assert_allclose(found[graph.graph.output[0].name], own, rtol=1e-5, atol=1e-6)
    for rule in RULES:
        want = interpreter.saliency(model, x, 1, rule, torch.float64)
        got = found[f"saliency_{rule}"]
        errors = [np.linalg.norm(g - w) / np.linalg.norm(w) for g, w in zip(got, want, strict=True)]
        assert np.median(errors) <= LIMIT, f"{rule}: {errors}"
