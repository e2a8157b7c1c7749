"""`backlight bench`: what is measured, not how fast it is."""

from __future__ import annotations

import json

import onnx
import pytest

from backlight.engine.bench import bench
from backlight.engine.cli import run
from backlight.errors import UsageError

from .. import models


@pytest.fixture
def tiny(tmp_path):
    onnx.save(models.tiny(), tmp_path / "tiny.onnx")
    return str(tmp_path / "tiny.onnx")


def test_rows_and_ratios(tiny):
    report = bench(tiny, rules=(("guided",),), batches=(1, 3), threads=(1,), runs=6)
    assert [(r.subject, r.batch) for r in report.rows] == [
        ("score", 1), ("score + guided", 1), ("score", 3), ("score + guided", 3),
    ]  # fmt: skip
    for row in report.rows:
        assert row.runs == 6 and 0 < row.p50 <= row.p90 <= row.p99
        assert row.images_per_s == pytest.approx(
            1000 * row.batch / row.p50, rel=0.1
        )  # p50 is rounded to 1 us
        assert row.load_ms > 0 and row.peak_mib > 10
    assert report.rows[0].ratio == 1
    assert {"backlight", "onnxruntime", "python"} <= set(report.versions)


def test_the_command(tiny, capsys):
    arguments = ["bench", tiny, "--batch", "2", "--runs", "2", "--threads", "1", "--json"]
    assert run(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert [r["batch"] for r in report["rows"]] == [2, 2, 2]
    assert run(arguments[:-1]) == 0
    assert "images/s" in capsys.readouterr().out


def test_bad_settings(tmp_path, tiny, capsys):
    fixed = tmp_path / "fixed.onnx"
    onnx.save(models.tiny(shape="2,3,8,8", output="float[2,5] prob"), fixed)
    with pytest.raises(UsageError, match="batches of 2 only"):
        bench(str(fixed), batches=(1,), runs=2)
    assert run(["bench", tiny, "--runs", "0"]) == 2
    assert run(["bench", tiny, "--batch", "0"]) == 2
    assert run(["bench", str(tmp_path / "absent.onnx")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
