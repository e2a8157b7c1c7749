"""Files with operators off our list: gradients are refused, what only runs the model works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from backlight.engine.direct.explainer import Explainer
from backlight.engine.inside.taps import Taps
from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.masked.rise import Rise
from backlight.errors import UnsupportedNode
from backlight.export.check import check

from .nets import X, net

LEVELS = {
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,  # FusedConv
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,  # NCHWc where the processor has it
}


@pytest.fixture(params=list(LEVELS))
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A model, and what ONNX Runtime writes of it once it has optimised it."""
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    onnx.save(net(), plain)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # it warns that such a file is for this machine alone
    options.graph_optimization_level = LEVELS[request.param]
    options.optimized_model_filepath = str(fused)
    ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    domains = {n.domain for n in onnx.load(fused).graph.node}
    assert any(d.startswith("com.microsoft") for d in domains), domains
    return plain, fused


def test_gradients_are_refused(files: tuple[Path, Path]) -> None:
    assert not check(files[1]).ok
    with pytest.raises(UnsupportedNode, match="operator of the domain 'com.microsoft"):
        Explainer(files[1])


def test_masks(files: tuple[Path, Path]) -> None:
    settings = {"window": 5, "stride": 4, "threads": 1}
    want, found = (Occlusion(str(f), **settings).measure(X) for f in files)
    assert np.abs(want.drops).max() > 1e-3
    np.testing.assert_allclose(found.drops, want.drops, rtol=0, atol=1e-5)
    want, found = (Rise(str(f), masks=30, cells=3, threads=1)(X) for f in files)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)


def test_inside(files: tuple[Path, Path]) -> None:
    from backlight.engine.similar.embed import Embedder

    want, found = (Taps(str(f), ["scores", "f"])(X) for f in files)
    for name in want:
        np.testing.assert_allclose(found[name], want[name], rtol=0, atol=1e-5)
    want, found = (Embedder(str(f))(X) for f in files)
    np.testing.assert_allclose(np.asarray(found), np.asarray(want), rtol=0, atol=1e-5)


def test_shapes_that_only_a_run_tells(files: tuple[Path, Path], tmp_path: Path) -> None:
    """A layer behind an operator that inference doesn't know: its maps are drawn, and listed."""
    from backlight.engine.inside.activations import activations
    from backlight.engine.inside.taps import layers

    pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    listed = {layer.name: layer.dims for layer in layers(str(files[0]))}
    seen = {layer.name: layer.dims for layer in layers(str(files[1]))}
    shared = [n for n, dims in listed.items() if len(dims) == 3 and dims[1] > 1 and n in seen]
    assert shared, (listed, seen)
    for name in shared:
        assert seen[name] == listed[name]
        want, found = (activations(str(f), pixels, name, preprocess="unit") for f in files)
        np.testing.assert_allclose(found.values, want.values, rtol=0, atol=1e-5)
