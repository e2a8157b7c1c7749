"""Shapes of inputs that a model leaves open, given to every command and constructor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.inside.activations import activations
from backlight.engine.inside.filters import filters
from backlight.engine.inside.taps import Taps, layers
from backlight.engine.masked.segments import Segments
from backlight.engine.similar.embed import Embedder

from ..export.open_sizes import X, by_autograd, unranked

SHAPES = {"x": (2, 3, 9, 7)}
ARGUMENT = "x=2,3,9,7"


def test_the_constructors() -> None:
    x = X.astype(np.float32)
    explain = backlight.Explainer(unranked(), rules=("vanilla",), shapes=SHAPES)
    found = explain(x, [2, 2])
    np.testing.assert_allclose(found.saliency["vanilla"], by_autograd(2), rtol=0, atol=1e-5)
    exported = backlight.export(unranked(), rules=("vanilla",), shapes=SHAPES)
    again = backlight.Explainer(exported, shapes=SHAPES)(x, [2, 2])
    np.testing.assert_allclose(again.saliency["vanilla"], by_autograd(2), rtol=0, atol=1e-5)
    heat = backlight.Occlusion(unranked(), window=3, stride=2, shapes=SHAPES)(x)
    assert heat.shape == (2, 9, 7)
    assert backlight.Rise(unranked(), masks=8, cells=3, shapes=SHAPES)(x).shape == (2, 9, 7)
    assert Segments(unranked(), shapes=SHAPES).scorer.input.size == (9, 7)
    assert Taps(unranked(), ["c"], shapes=SHAPES)(x)["c"].shape == (2, 4, 9, 7)
    assert next(la for la in layers(unranked(), shapes=SHAPES) if la.name == "c").dims == (4, 9, 7)
    assert Embedder(unranked(), shapes=SHAPES).width == 4
    assert filters(unranked(), "c", shapes=SHAPES).weights.shape == (4, 3, 3, 3)
    pixels = np.zeros((20, 30, 3), np.uint8)
    made = activations(unranked(), pixels, "c", preprocess="unit", shapes=SHAPES)
    assert made.values.shape == (4, 9, 7)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, photo = str(tmp_path / "open.onnx"), str(tmp_path / "photo.png")
    onnx.save(unranked(), model)
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(noise).save(photo)
    unit = ["--preprocess", "unit", "-o"]
    for command in (
        ["check", model],
        ["explain", "-m", model, photo, *unit, f"{tmp_path}/explain"],
        ["occlude", "-m", model, photo, "--window", "4", *unit, f"{tmp_path}/occlude"],
        ["rise", "-m", model, photo, "--masks", "8", "--cells", "3", *unit, f"{tmp_path}/rise"],
        ["activations", model, photo, "-l", "c", *unit, f"{tmp_path}/activations"],
        ["activations", model, "--list"],
        ["filters", model, "--list"],
        ["patches", model, photo, "-l", "c", *unit, f"{tmp_path}/patches"],
        ["embed", model, photo, *unit, f"{tmp_path}/store"],
    ):
        if command[0] != "filters":
            assert run(command) == 2, command
            assert "--shape x=1,3,224,224" in capsys.readouterr().err, command
        assert run([*command, "--shape", ARGUMENT]) == 0, (command, capsys.readouterr().err)
    assert np.load(tmp_path / "explain/photo-vanilla.npy").shape == (3, 9, 7)


@pytest.mark.slow  # python -m pytest -m slow tests/engine/test_shapes.py: processes of their own
def test_bench(tmp_path: Path) -> None:
    from backlight.engine.measure.bench import bench

    onnx.save(unranked(), tmp_path / "open.onnx")
    file = str(tmp_path / "open.onnx")
    report = bench(file, methods=(("vanilla",),), runs=1, shapes=SHAPES)
    assert [row.batch for row in report.rows] == [2, 2]
