"""`backlight export --compare`: the drift of what is written from the model as it is."""

from __future__ import annotations

import json

import pytest

from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS

CAT = str(PHOTOS / "chelsea.jpg")


def test_json_and_table(tmp_path, capsys):
    out = tmp_path / "half.onnx"
    arguments = ["export", str(BUNDLED), "-o", str(out), "--rule", "guided", "--dtype", "float16"]
    assert run([*arguments, "--compare", CAT, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert out.exists() and report["output"] == str(out)
    (row,) = report["images"]
    assert (row["image"], row["rule"]) == ("chelsea.jpg", "guided")
    # Half is near, and not the same: a comparison of a graph with itself would say 1.
    assert 0.998 < row["cosine"] < 0.99999 and row["ssim"] > 0.99 and row["top"] > 0.95
    assert report["means"]["guided"]["cosine"] == row["cosine"]
    assert 0 < report["largest_score_difference"] < 0.01
    assert run([*arguments, "--compare", CAT, "--force"]) == 0
    assert "chelsea.jpg" in capsys.readouterr().out


def test_another_lowering_differs_in_rounding_alone(tmp_path, capsys):
    arguments = ["export", str(BUNDLED), "-o", str(tmp_path / "t.onnx"), "--rule", "vanilla"]
    arguments += ["--for", "tensorrt", "--target-class", "285", "--compare", CAT, "--json"]
    assert run(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"][0]["cosine"] > 0.9999


@pytest.mark.parametrize(
    "more",
    [
        ["--compare", "absent.jpg"],
        ["--json"],
        ["--reference", str(BUNDLED)],
        ["--compare", CAT, "--reduce", "maxabs"],
        ["--compare", CAT, "--cotangent", "input"],
        ["--compare", CAT, "--reference", "absent.onnx"],
        ["--compare", CAT, "--dtype", "bfloat16"],
        ["--compare", CAT, "--dtype", "half"],
    ],
)
def test_bad_input_writes_nothing(tmp_path, capsys, more):
    out = tmp_path / "out.onnx"
    assert run(["export", str(BUNDLED), "-o", str(out), "--rule", "vanilla", *more]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and not out.exists() and not said.out
