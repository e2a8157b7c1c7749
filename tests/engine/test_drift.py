"""`backlight export --compare`: the drift of what is written from the model as it is."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.measure import compare

from .. import models
from ..export.harness import run_runtime
from ..export.quantised import quantised

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


def test_an_optimised_file_drifts_as_reported(tmp_path, capsys):
    """The report is of the file that is written: the same from that file by hand."""
    out = tmp_path / "optimized.onnx"
    arguments = ["export", str(BUNDLED), "-o", str(out), "--rule", "vanilla", "--for", "cpu"]
    assert run([*arguments, "--optimized", "--compare", CAT, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["images"]
    written = onnx.load(out)
    assert any(n.domain == "com.microsoft.nchwc" for n in written.graph.node) or (
        len(written.graph.node) < len(backlight.export(BUNDLED, ("vanilla",)).graph.node)
    )
    plain = backlight.Explainer(str(BUNDLED), ("vanilla",), for_="portable")
    x = plain.load([CAT])
    feeds = {written.graph.input[0].name: x, "target": np.array([-1])}
    got = run_runtime(written, feeds)["saliency_vanilla"]
    want = plain(x).saliency["vanilla"]
    assert row["cosine"] == pytest.approx(compare.cosine(got, want), abs=1e-6) and row["top"] > 0.99
    np.testing.assert_allclose(got, want, atol=1e-4 * float(np.abs(want).max()))


def test_a_quantised_model_against_its_float_one(tmp_path, capsys):
    """--reference on a QDQ model: its drift from the float one, where from itself it has none."""
    pytest.importorskip("onnxruntime.quantization")
    plain = backlight.Explainer(str(BUNDLED), ("guided",), for_="portable")
    model = quantised(BUNDLED, plain.load([CAT]), tmp_path, per_channel=True)
    arguments = ["export", str(model), "-o", str(tmp_path / "out.onnx"), "--rule", "guided"]
    found = {}
    for name, more in {"itself": [], "float": ["--reference", str(BUNDLED)]}.items():
        assert run([*arguments, "--force", "--compare", CAT, "--json", *more]) == 0
        report = json.loads(capsys.readouterr().out)
        found[name] = report["means"]["guided"] | {"moved": report["largest_score_difference"]}
        assert report["reference"] == (more[1] if more else str(model))
    assert found["itself"]["cosine"] > 0.99999 and found["itself"]["moved"] == 0
    # Measured 0.95: 7-bit weights, 8-bit activations.
    assert 0.9 < found["float"]["cosine"] < 0.99 and found["float"]["moved"] > 0


def test_an_exported_file_is_a_reference_too(tmp_path, capsys):
    plain, half = tmp_path / "plain.onnx", tmp_path / "half.onnx"
    assert run(["export", str(BUNDLED), "-o", str(plain), "--rule", "guided"]) == 0
    capsys.readouterr()
    arguments = ["export", str(BUNDLED), "--rule", "guided", "--dtype", "float16"]
    found = []
    for more in ([], ["--reference", str(plain)]):
        compared = ["--compare", CAT, "--json", "--force", "-o", str(half)]
        assert run([*arguments, *compared, *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["images"])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"output": "float[N,1] scores", "tail": "", "classes": 1}, "has 1 class, the model 5"),
        ({"shape": "N,3,8,9"}, "takes float32 [N,3,8,9], the model float32 [N,3,8,8]"),
        ({"shape": "N,1,8,8", "channels": 1}, "takes float32 [N,1,8,8], the model float32 [N,3"),
        ({"dtype": "uint8", "head": "x = Cast<to=1>(image)"}, "takes uint8 [N,3,8,8], the model"),
    ],
)
def test_a_reference_of_another_kind_is_refused(other, says, tmp_path, capsys):
    mine, reference, out = (tmp_path / n for n in ("mine.onnx", "other.onnx", "out.onnx"))
    onnx.save(models.tiny(), mine)
    settings = dict(other)
    classes = settings.pop("classes", 5)
    made = models.tiny(**settings)
    for weight in made.graph.initializer:  # the first classes only
        array = onnx.numpy_helper.to_array(weight)
        if weight.name in ("v", "c"):
            weight.CopyFrom(onnx.numpy_helper.from_array(array[:classes].copy(), weight.name))
    onnx.save(made, reference)
    arguments = ["export", str(mine), "-o", str(out), "--preprocess", "unit", "--compare", CAT]
    assert run([*arguments, "--reference", str(reference)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"backlight: {reference} ") and says in line
    assert not out.exists()


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
