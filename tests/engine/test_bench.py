"""`backlight bench`: what is measured, not how fast it is."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest

from backlight.engine.cli import run
from backlight.engine.measure.bench import bench
from backlight.errors import UsageError

from .. import models


@pytest.fixture
def tiny(tiny):
    """As the command line gives it."""
    return str(tiny)


def test_rows_and_ratios(tiny):
    report = bench(tiny, methods=(("guided",),), batches=(1, 3), threads=(1,), runs=6)
    assert [(r.subject, r.batch) for r in report.rows] == [
        ("score", 1), ("score + guided", 1), ("score", 3), ("score + guided", 3),
    ]  # fmt: skip
    for row in report.rows:
        assert row.runs == 6 and 0 < row.p50 <= row.p90 <= row.p99
        assert row.images_per_s == pytest.approx(
            1000 * row.batch / row.p50, rel=0.1
        )  # p50 is rounded to 1 us
        assert row.load_ms > 0 and row.peak_mib > 10
        assert row.load_ratio == 1 or row.subject != "score"
        assert row.bound_mib == pytest.approx(
            1.6 * next(r.peak_mib for r in report.rows if r.batch == row.batch)
            + row.activations_mib,
            abs=0.2,
        )
    assert report.rows[0].ratio == 1
    assert {"backlight", "onnxruntime", "python"} <= set(report.versions)


def test_the_command(tiny, capsys):
    arguments = ["bench", tiny, "--batch", "2", "--runs", "2", "--threads", "1", "--json"]
    assert run(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert [r["batch"] for r in report["rows"]] == [2, 2, 2]
    assert run(arguments[:-1]) == 0
    said = capsys.readouterr().out
    assert "images/s" in said and "x passes" not in said


def test_what_is_asked_twice_is_measured_once(tiny):
    groups = [("vanilla", "vanilla"), ("vanilla",)]
    report = bench(tiny, methods=groups, threads=(1, 1), batches=(1, 1), runs=1)
    assert [r.subject for r in report.rows] == ["score", "score + vanilla"]


def test_variants_of_the_image_by_as_many_passes(tiny, capsys):
    """Beside the file the engine, which runs them a few at a time; both over passes of vanilla."""
    group = ("smoothgrad", "integrated_gradients")
    report = bench(tiny, methods=[group], batches=(2,), runs=3)
    held = {r.subject: r for r in report.rows}
    one = held["score + vanilla"].p50
    for suffix in ("", ", by Explainer"):
        row = held["score + " + ", ".join(group) + suffix]
        assert row.passes == 32
        assert row.passes_ratio == pytest.approx(row.p50 / (32 * one), abs=0.01, rel=0.01)
    assert held["score"].passes is None and len(held) == 4
    line = ["bench", tiny, "--method", "integrated_gradients", "--runs", "1", "--batch", "1"]
    assert run(line) == 0
    said = capsys.readouterr().out
    assert "x passes" in said and "over 16 passes of vanilla" in said


def test_bad_settings(tmp_path, tiny, capsys):
    fixed = tmp_path / "fixed.onnx"
    onnx.save(models.tiny(shape="2,3,8,8", output="float[2,5] prob"), fixed)
    with pytest.raises(UsageError, match="batches of 2 only"):
        bench(str(fixed), batches=(1,), runs=2)
    assert run(["bench", tiny, "--runs", "0"]) == 2
    assert run(["bench", tiny, "--batch", "0"]) == 2
    assert run(["bench", tiny, "--size", "0"]) == 2
    assert run(["bench", tiny, "--size", "-3"]) == 2
    assert run(["bench", str(tmp_path / "absent.onnx")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_the_activations_that_the_rules_read(tmp_path):
    """Model: Conv -> Relu -> MaxPool -> Conv; guided reads the Relu's output, float32 [N,8,10,10]
    (the pool's gradient too), the pool's output, and nothing else."""
    text = """
        <ir_version: 10, opset_import: ["": 18]>
        net (float[N,3,10,10] x) => (float[N,5] y)
        <float[8,3,3,3] w, float[5,8,5,5] v> {
            h = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w)
            r = Relu(h)
            p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
            s = Conv<kernel_shape = [5, 5]>(p, v)
            y = Flatten(s)
        }
    """
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (8, 3, 3, 3)), ("v", (5, 8, 5, 5))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "net.onnx")
    report = bench(str(tmp_path / "net.onnx"), methods=(("guided",),), batches=(512,), runs=1)
    # The seed reads the scores as well: 512 x 5.
    want = 4 * 512 * (8 * 10 * 10 + 8 * 5 * 5 + 5) / 2**20
    assert report.rows[1].activations_mib == pytest.approx(want, abs=0.05)


def test_the_peak_is_the_measured_process_s_own(tiny):
    ballast = np.ones(2**26)  # 512 MiB here, which Linux would count there
    report = bench(tiny, methods=(("guided",),), batches=(1,), threads=(1,), runs=1)
    assert all(row.peak_mib < 400 for row in report.rows), ballast.nbytes
