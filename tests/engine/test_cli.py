"""The command line, as a person or a script meets it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS

from .. import models
from ..export.harness import run_runtime


def fails(capsys, arguments: list[object], *says: str, code: int = 2) -> None:
    """One line on stderr, no traceback, the exit code."""
    assert run([str(a) for a in arguments]) == code
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith("backlight: skipped")]
    for text in says:
        assert text in err, err
    assert "Traceback" not in err
    assert len(lines) <= 1, err


def test_explain_the_bundled_photos(tmp_path, capsys):
    out = tmp_path / "explained"
    assert run(["explain", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "espresso" in printed and " ms" in printed and "%" in printed
    names = sorted(p.stem for p in PHOTOS.iterdir())
    for name in names:
        panel = Image.open(out / f"{name}.png")
        assert panel.width > 4 * 227 and panel.mode == "RGB"
        for rule in ("vanilla", "deconv", "guided"):
            values = np.load(out / f"{name}-{rule}.npy")
            assert values.shape == (3, 227, 227) and values.dtype == np.float32
            assert np.abs(values).max() > 0
    summary = json.loads((out / "summary.json").read_text())
    assert [Path(i["file"]).stem for i in summary["images"]] == names
    coffee = summary["images"][names.index("coffee")]
    assert coffee["class"] == 967 and coffee["name"] == "espresso" and coffee["probability"] > 0.8
    assert coffee["top"][0]["class"] == 967 and coffee["ms"] > 0
    assert set(summary["pictures"]) == {"vanilla", "deconv", "guided"}
    assert "percentile" in summary["pictures"]["guided"]
    assert sorted(f.name for f in out.iterdir() if f.name.startswith(".")) == []


def test_the_maps_are_the_gradient_of_the_class(tmp_path):
    """What explain writes is what an exported file computes on the same input."""
    out = tmp_path / "out"
    chelsea = str(PHOTOS / "chelsea.jpg")
    assert run(["explain", chelsea, "-o", str(out), "--target-class", "espresso"]) == 0
    x = backlight.Explainer(BUNDLED, ("guided",)).load([chelsea])
    graph = backlight.export(BUNDLED, ("guided",))
    want = run_runtime(graph, {"data": x, "target": np.array([967])})["saliency_guided"][0]
    got = np.load(out / "chelsea-guided.npy")
    assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want)  # float32, other operators
    summary = json.loads((out / "summary.json").read_text())
    assert summary["target_class"] == 967 and summary["images"][0]["class"] == 967
    assert summary["images"][0]["top"][0]["class"] in (281, 282, 285)


def test_explain_your_own_model(tmp_path, tiny, photos, capsys):
    out = tmp_path / "out"
    arguments = ["explain", "--model", tiny, photos, "-o", out, "--preprocess", "unit",
                 "--rule", "guided", "--json", "--batch", "2"]  # fmt: skip
    assert run([str(a) for a in arguments]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert len(summary["images"]) == 3 and summary["rules"] == ["guided"]
    assert summary["images"][0]["name"] is None
    assert sorted(f.name for f in out.glob("*.npy")) == [
        "one-guided.npy", "three-guided.npy", "two-guided.npy",
    ]  # fmt: skip


def test_an_assumed_preprocessing_is_said(tmp_path, tiny, photos, capsys):
    out = tmp_path / "out"
    assert run(["explain", "-m", str(tiny), str(photos), "-o", str(out)]) == 0
    assert "assuming imagenet-torch" in capsys.readouterr().err
    assert "assuming" in json.loads((out / "summary.json").read_text())["notes"][0]


def test_an_exported_file_carries_its_preprocessing_and_labels(tmp_path, tiny, photos, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\nelk\n")
    made = tmp_path / "made.onnx"
    arguments = ["export", tiny, "-o", made, "--preprocess", "unit", "--labels", labels]
    assert run([str(a) for a in arguments]) == 0
    out = tmp_path / "out"
    arguments = ["explain", "-m", made, photos, "-o", out, "--target-class", "dog"]
    assert run([str(a) for a in arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "dog (3)" in captured.out
    assert json.loads((out / "summary.json").read_text())["preprocess"]["scale"] == 1 / 255


def test_one_bad_image_among_many(tmp_path, tiny, photos, capsys):
    (photos / "broken.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes()[:2000])
    out = tmp_path / "out"
    arguments = ["explain", "-m", tiny, photos, photos / "absent.png", "-o", out,
                 "--preprocess", "unit"]  # fmt: skip
    assert run([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("skipped") == 2 and "broken.jpg" in err and "absent.png" in err
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["images"]) == 3
    assert {Path(s["file"]).name for s in summary["skipped"]} == {"broken.jpg", "absent.png"}
    assert not (out / "broken.png").exists()


def test_images_of_one_name(tmp_path, tiny, photos):
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    out = tmp_path / "out"
    arguments = ["explain", "-m", tiny, photos, other, "-o", out, "--preprocess", "unit"]
    assert run([str(a) for a in arguments]) == 0
    assert {f.name for f in out.glob("*.png")} >= {"one.png", "one-2.png"}


def test_export_writes_a_file_that_runs(tmp_path, tiny, capsys):
    out = tmp_path / "out.onnx"
    assert run(["export", str(tiny), "-o", str(out), "--rule", "vanilla", "--rule", "guided"]) == 0
    assert "vanilla, guided of scores by x" in capsys.readouterr().out
    model = onnx.load(out)
    assert [o.name for o in model.graph.output] == ["prob", "saliency_vanilla", "saliency_guided"]
    run_runtime(model, {"x": models.images(1, 3, 8, 8), "target": np.array([0])})


@pytest.mark.parametrize("target", ["portable", "cpu", "cuda", "tensorrt"])
def test_export_for_a_runtime_and_every_option(tmp_path, tiny, target):
    out = tmp_path / "out.onnx"
    arguments = ["export", tiny, "-o", out, "--for", target, "--target-class", "top1",
                 "--reduce", "maxabs", "--of", "prob", "--wrt", "r"]  # fmt: skip
    assert run([str(a) for a in arguments]) == 0
    found = run_runtime(onnx.load(out), {"x": models.images(2, 3, 8, 8)})
    assert found["saliency_guided"].shape == (2, 8, 8)


def test_weights_beside_the_model_are_an_output_too(tmp_path, tiny, capsys):
    out = tmp_path / "out.onnx"
    (tmp_path / "out.onnx.data").write_bytes(b"mine")
    fails(capsys, ["export", tiny, "-o", out, "--external"], "out.onnx.data: exists already")
    assert not out.exists() and (tmp_path / "out.onnx.data").read_bytes() == b"mine"
    assert run(["export", str(tiny), "-o", str(out), "--external", "--force"]) == 0
    run_runtime(onnx.load(out), {"x": models.images(1, 3, 8, 8), "target": np.array([0])})


def test_export_a_cotangent_as_input(tmp_path, tiny):
    out = tmp_path / "out.onnx"
    assert run(["export", str(tiny), "-o", str(out), "--of", "r", "--cotangent", "input"]) == 0
    model = onnx.load(out)
    assert [i.name for i in model.graph.input] == ["x", "cotangent"]


def test_check(tiny, capsys, tmp_path):
    assert run(["check", str(tiny)]) == 0
    assert "Nothing stands in the way" in capsys.readouterr().out
    assert run(["check", str(tiny), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    bad = tmp_path / "bad.onnx"
    onnx.save(models.tiny(body=models.BODY.replace("Relu(h)", "com.example.Odd(h)")), bad)
    fails(capsys, ["check", bad], "bad.onnx", "Odd", "com.example")
    assert run(["check", str(bad), "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["findings"][0]["operator"] == "Odd"
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "--modle", "x"], "--modle"),
        (["nothing"], "nothing"),
        (["export", "TINY"], "output"),
        (["export", "absent.onnx", "-o", "OUT"], "absent.onnx: no such file"),
        (["export", "TINY", "-o", "OUT", "--rule", "lrp"], "lrp"),
        (["export", "TINY", "-o", "OUT", "--target-class", "9"], "class 9 is out of range"),
        (["export", "TINY", "-o", "OUT", "--of", "scorse"], "scores"),
        (["export", "TINY", "-o", "OUT", "--for", "tpu"], "tensorrt"),
        (["export", "TINY", "-o", "OUT", "--preprocess", "x"], "imagenet-caffe"),
        (["export", "TINY", "-o", "OUT", "--preprocess", '{"x": 1}' * 99], "File name too long"),
        (["export", "TINY", "-o", "OUT", "--target-class", "--3"], "input, top1, a class number"),
        (["export", "TINY", "-o", "OUT", "--target-class", "²"], "input, top1, a class number"),
        (["export", "TINY", "-o", "OUT", "--target-class", "9" * 5000], "input, top1 or"),
        (["explain", "-m", "TINY", "-o", "DIR", "--target-class", "9" * 5000], "class number"),
        (["explain", "-m", "TINY", "photo" * 99, "-o", "DIR"], "File name too long"),
        (["export", "TINY", "-o", "TMP/no/such/out.onnx"], "does not exist"),
        (["export", "TINY", "-o", "TMP"], "a folder"),
        (["export", "TINY", "-o", "TINY"], "the model itself; take another name"),
        (["export", "TMP/text.txt", "-o", "OUT"], "not an ONNX model"),
        (["explain", "-m", "TINY", "TMP/absent.png", "-o", "DIR"], "absent.png: no such file"),
        (["explain", "-m", "TINY", "TMP/empty", "-o", "DIR"], "without images"),
        (["explain", "-m", "TINY", "-o", "TMP/text.txt"], "expected a folder"),
        (["explain", "-m", "TINY", "-o", "DIR", "--batch", "0"], "--batch 0"),
        (["explain", "-m", "TINY", "-o", "DIR", "--threads", "0"], "threads 0"),
        (["explain", "-m", "TINY", "-o", "DIR", "--provider", "tpu"], "tpu"),
        (["explain", "-m", "TINY", "-o", "DIR", "--target-class", "5"], "0 to 4"),
        (["explain", "-m", "TINY", "-o", "DIR", "--target-class", "cat"], "class number"),
        (["explain", "-m", "TINY", "-o", "DIR", "--labels", "no.txt"], "no.txt"),
        (["explain", "-m", "TINY", "-o", "DIR", "--labels", "imagenet"], "1000 classes"),
        (["export", "TINY", "-o", "OUT", "--labels", "imagenet"], "names 1000 classes"),
        (["explain", "-o", "DIR", "--target-class", "crane"], "134, 517"),
    ],
)
def test_bad_usage(tmp_path, tiny, capsys, arguments, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    before = sorted(tmp_path.rglob("*"))
    names = {"TINY": tiny, "OUT": tmp_path / "out.onnx", "DIR": tmp_path / "dir"}
    filled = [
        str(names.get(a, a.replace("TMP", str(tmp_path)))) if isinstance(a, str) else a
        for a in arguments
    ]
    assert run(filled) == 2
    err = [li for li in capsys.readouterr().err.splitlines() if "assuming" not in li]
    assert len(err) == 1 and says in err[0], err
    assert sorted(tmp_path.rglob("*")) == before


def test_existing_outputs_are_kept_unless_forced(tmp_path, tiny, photos, capsys):
    out = tmp_path / "out"
    arguments = ["explain", "-m", str(tiny), str(photos), "-o", str(out), "--preprocess", "unit"]
    assert run(arguments) == 0
    (out / "one.png").write_bytes(b"mine")
    fails(capsys, arguments, "exists already; --force")
    assert (out / "one.png").read_bytes() == b"mine"
    assert run([*arguments, "--force"]) == 0
    assert Image.open(out / "one.png").size[0] > 100


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written(tmp_path, tiny, photos, capsys):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    fails(capsys, ["explain", "-m", tiny, photos, "-o", locked / "out"], "can't be written")
    fails(capsys, ["export", tiny, "-o", locked / "out.onnx"], "can't be written")


def test_a_folder_below_a_file_cannot_be_made(tmp_path, tiny, photos, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["explain", "-m", tiny, photos, "-o", tmp_path / "file" / "out",
                 "--preprocess", "unit"]  # fmt: skip
    fails(capsys, arguments, "can't be written")


def test_as_a_program(tmp_path):
    """Exit codes and streams of the real thing, Ctrl-C's handler and all."""
    command = [sys.executable, "-m", "backlight"]
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"backlight {backlight.__version__}\n"
    helped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "explain" in helped.stdout
    bad = subprocess.run(
        [*command, "export", "absent.onnx", "-o", "x.onnx"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert bad.returncode == 2 and bad.stdout == ""
    assert bad.stderr == "backlight: absent.onnx: no such file; expected an .onnx file\n"


def test_import_is_light():
    """No runtime, torch or matplotlib; nothing heavy before it is used."""
    code = (
        "import sys, backlight; "
        "print([m for m in ('onnxruntime','torch','matplotlib','onnx','numpy','PIL','scipy')"
        " if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found == "[]\n"


def test_the_command_line_is_light_until_a_command_runs():
    """--help and a typing mistake wait for no library of models or pictures."""
    code = (
        "import sys; from backlight.engine import cli; cli._app(); "
        "print([m for m in ('onnxruntime','onnx','onnx_ir','sympy','numpy','PIL')"
        " if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found == "[]\n"


def test_help_names_the_rules():
    from backlight.engine.cli import options
    from backlight.export.methods import RULES

    (said,) = [a for a in options.Rules.__metadata__ if hasattr(a, "help")]
    assert said.help.split(";")[0].replace(" or ", ", ").split(", ") == list(RULES)


def test_public_names():
    assert {"BacklightError", "Explainer", "Explanation", "__version__", "export"} <= set(
        backlight.__all__
    )
    for name in backlight.__all__:
        assert getattr(backlight, name) is not None
    assert "__version__" in dir(backlight)
    with pytest.raises(AttributeError, match="no attribute 'explode'"):
        _ = backlight.explode
