"""`backlight export --optimized`: what the runtime makes of a graph, for this machine."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run

from ..export.harness import run_runtime

ort = pytest.importorskip("onnxruntime")


def test_the_same_numbers_from_an_optimised_file(model, tmp_path):
    out = tmp_path / "out.onnx"
    assert run(["export", str(model), "-o", str(out), "--for", "cpu", "--optimized"]) == 0
    found = onnx.load(out)
    props = {p.key: p.value for p in found.metadata_props}
    assert (
        f"onnxruntime {ort.__version__}, CPUExecutionProvider" in props["backlight.optimized_for"]
    )
    assert props["backlight.rules"] == "vanilla,deconv,guided" and props["backlight.for"] == "cpu"
    shape = [d.dim_value or 2 for d in found.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    feeds = {found.graph.input[0].name: x, "target": np.array([-1, 1])}
    got, want = run_runtime(found, feeds), run_runtime(backlight.export(model), feeds)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


def test_refusals_are_one_line_and_leave_nothing(model, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.onnx"
    base = ["export", str(model), "-o", str(out), "--optimized"]
    assert run([*base, "--for", "cuda"]) == 2
    assert run([*base, "--external"]) == 2
    assert run([*base, "--dtype", "bfloat16"]) == 2
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(base) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and "--for cpu" in lines[0]
    assert "run the file on TensorRT, or export --dtype float16" in lines[2]
    assert "onnxruntime is not installed" in lines[3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.onnx"]
