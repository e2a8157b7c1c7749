"""CUDA: what can be shown of it without a device, and with one (`pytest -m gpu`)."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import backlight
from backlight.export.saliency import explain_graph
from benchmarks import gpu

from .. import models

pytest.importorskip("onnxruntime")


def test_without_a_gpu_the_benchmark_says_so_and_ends_well(capsys, tmp_path):
    if gpu.no_gpu() is None:
        pytest.skip("there is a GPU")
    assert gpu.main(["--json", str(tmp_path / "gpu.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("skipped: ") and out.count("\n") == 1
    assert not (tmp_path / "gpu.json").exists()


def test_a_batch_is_fixed(tiny):
    fixed = gpu.fixed(tiny, 4)
    assert fixed is not None
    graph = explain_graph(fixed, lowering="cuda").to_proto()
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.input
    }
    assert shapes == {"x": [4, 3, 8, 8], "target": [4]}
    feeds = gpu.feeds_of(graph, np)
    assert feeds["x"].dtype == np.float32 and feeds["target"].tolist() == [-1] * 4
    onnx.save(fixed, tiny)
    assert gpu.fixed(tiny, 5) is None


def test_a_profile_names_the_nodes_on_the_cpu(tiny, tmp_path):
    """On a machine without a GPU that is all of them, but for those that work on shapes."""
    fixed = gpu.fixed(tiny, 2)
    assert fixed is not None
    graph = backlight.export(fixed)
    held = gpu.session(graph, [gpu.CPU], tmp_path / "profile")
    feeds = gpu.feeds_of(graph, np)
    events = gpu.run_profiled(held.inner, lambda: held.inner.run(None, feeds))
    assert gpu.by_provider(events) == {gpu.CPU: len(events)}
    assert gpu.copies(events) == 0
    named = [node.split()[0] for node in gpu.tensors_on_cpu(events)]
    assert "Conv" in named or "FusedConv" in named
    assert "ArgMax" not in named and 0 < len(named) < len(events)


@pytest.mark.gpu
def test_the_maps_are_the_cpus(tiny):
    why = gpu.no_gpu()
    if why is not None:
        pytest.skip(why)
    found = gpu.examine(tiny, 4, runs=2, tensorrt=False)
    assert found is not None and not found.failures
    assert found.nodes.get(gpu.CUDA)


@pytest.mark.gpu
def test_inversion_stays_on_the_device(tiny):
    """Starts, priors, moves and steps in CuPy, the session's arrays bound where they lie."""
    why = gpu.no_gpu()
    if why is not None:
        pytest.skip(why)
    from backlight.engine.inside.inversion import Inverter

    x = models.images(2, 3, 8, 8).clip(0, 1)
    made = {}
    for provider in ("cuda", "cpu"):
        inverter = Inverter(tiny, "r", steps=20, starts=2, preprocess="unit", providers=provider)
        assert inverter.xp.__name__ == ("cupy" if provider == "cuda" else "numpy")
        made[provider] = inverter(x)
    # Convolutions may run in TF32 on CUDA: the errors are near, not equal.
    np.testing.assert_allclose(made["cuda"].errors, made["cpu"].errors, rtol=0.05, atol=0.01)
