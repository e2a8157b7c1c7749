"""Models of one image, without a batch dimension, from the command line and in Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.inside.objective import Objective
from backlight.engine.inside.taps import Taps
from backlight.engine.similar.embed import Embedder

from ..export.lone_models import FRONTS, by_autograd, image, net


@pytest.fixture
def photo(tmp_path: Path) -> str:
    file = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(file)
    return str(file)


@pytest.mark.parametrize("kind", ["float", "uint8"])
@pytest.mark.parametrize("front", FRONTS)
def test_the_explainer(front: str, kind: str, tmp_path: Path) -> None:
    x = image(front, kind)
    explain = backlight.Explainer(net(front, "[K]", kind), methods=("vanilla", "gradcam"))
    alone, batch = explain(x, 2), explain(np.stack([x, x[::-1], x]), [2, 2, 1])
    want = by_autograd(front, x, 2)
    assert alone.scores.shape == (1, 5) and alone.saliency["gradcam"].shape == (1, 8, 6)
    np.testing.assert_allclose(alone.saliency["vanilla"], want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(batch.saliency["vanilla"][0], want, rtol=0, atol=1e-5)
    third = by_autograd(front, x, 1)
    np.testing.assert_allclose(batch.saliency["vanilla"][2], third, rtol=0, atol=1e-5)
    assert batch.scores.shape == (3, 5) and batch.saliency["gradcam"].shape == (3, 8, 6)
    # The exported file is explained alike.
    file = tmp_path / "exported.onnx"
    onnx.save(backlight.export(net(front, "[K]", kind), methods=("vanilla", "gradcam")), file)
    again = backlight.Explainer(file)(np.stack([x, x[::-1], x]), [2, 2, 1])
    for name, values in batch.saliency.items():
        np.testing.assert_allclose(again.saliency[name], values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scores", ["[K]", "[1,K]"])
@pytest.mark.parametrize("front", FRONTS)
def test_occlusion(front: str, scores: str) -> None:
    x = image(front)
    occlude = backlight.Occlusion(net(front, scores), window=2, stride=2, baseline="zero")
    heat = occlude(x, 2)
    assert heat.shape == (1, 8, 6)
    # The top left window by hand.
    explain = backlight.Explainer(net(front, scores), rules=("vanilla",))
    hidden = x.copy()
    hidden[(..., slice(2), slice(2)) if len(x) == 3 else (slice(2), slice(2))] = 0
    drop = explain(x).scores[0, 2] - explain(hidden).scores[0, 2]
    assert drop
    np.testing.assert_allclose(heat[0, 0, 0], drop, rtol=0, atol=1e-6)


@pytest.mark.parametrize("front", FRONTS)
def test_inside(front: str) -> None:
    x = image(front)
    found = Taps(net(front, "[K]"), ["c", "p", "t"])(np.stack([x, x]))
    assert found["c"].shape == (2, 8, 4, 3)
    assert found["p"].shape == (2, 8) and found["t"].shape == (2, 5)
    assert Embedder(net(front, "[K]")).width == 8


@pytest.mark.parametrize("front", FRONTS)
def test_losses_and_their_gradients(front: str) -> None:
    """By what explaining gives: of minus a class score, minus its gradient."""
    x, hot = image(front)[None], np.eye(5, dtype=np.float32)[[2]]
    loss, gradient = Objective(net(front, "[K]"), None, "product", providers="cpu")(x, hot)
    explain = backlight.Explainer(net(front, "[K]"), rules=("vanilla",))
    want = explain(x, 2).saliency["vanilla"]
    assert gradient.shape == x.shape and loss.shape == (1,)
    np.testing.assert_allclose(gradient, -want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["float", "uint8"])
@pytest.mark.parametrize("front", ["[3,8,6]", "[H,W,3]"])
def test_every_command(
    front: str, kind: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "lone.onnx")
    onnx.save(net(front, "[K]", kind), model)
    how, size = tmp_path / "how.json", [8, 6]
    how.write_text(json.dumps({"preset": "none" if kind == "uint8" else "unit", "size": size}))
    with_how = ["--preprocess", str(how), "--output"]
    (more := tmp_path / "more").mkdir()
    for turn in range(4):
        Image.open(photo).rotate(90 * turn).save(more / f"{turn}.png")
    descending = [
        ["invert", model, photo, "-l", "c", "--steps", "2", *with_how, f"{tmp_path}/invert"],
        ["maximize", model, "--target-class", "0", "--steps", "2", *with_how, f"{tmp_path}/max"],
        ["cem", "-m", model, photo, "--steps", "2", *with_how, f"{tmp_path}/cem"],
    ]
    for command in (
        ["export", model, "-o", f"{tmp_path}/out.onnx"],
        ["explain", "-m", model, photo, *with_how, f"{tmp_path}/explain"],
        ["explain", "-m", f"{tmp_path}/out.onnx", photo, *with_how, f"{tmp_path}/again"],
        ["check", model],
        ["occlude", "-m", model, photo, "--window", "4", *with_how, f"{tmp_path}/occlude"],
        ["rise", "-m", model, photo, "--masks", "8", "--cells", "3", *with_how, f"{tmp_path}/rise"],
        ["activations", model, photo, "-l", "c", *with_how, f"{tmp_path}/activations"],
        ["filters", model, "-l", "c", "-o", f"{tmp_path}/filters"],
        ["patches", model, photo, "-l", "c", *with_how, f"{tmp_path}/patches"],
        ["embed", model, photo, *with_how, f"{tmp_path}/store"],
        ["deconvnet", model, photo, "-l", "c", *with_how, f"{tmp_path}/deconvnet"],
        ["concepts", model, "--concept", f"a={more}", "--random", str(more), "--images", str(more),
         "-l", "c", "--runs", "2", *with_how, f"{tmp_path}/concepts"],
        *(descending if kind == "float" else []),
    ):  # fmt: skip
        code = run(command)
        assert code == 0, (command, capsys.readouterr().err)
    shape = (3, 8, 6) if front.startswith("[3") else (8, 6, 3)
    maps = [np.load(tmp_path / d / "photo-vanilla.npy") for d in ("explain", "again")]
    assert maps[0].shape == shape and maps[0].any()
    np.testing.assert_allclose(maps[0], maps[1], rtol=0, atol=1e-6)
    assert np.load(tmp_path / "occlude/photo.npy").shape == (8, 6)


@pytest.mark.slow  # python -m pytest -m slow tests/engine/test_lone.py: processes of their own
def test_bench(tmp_path: Path) -> None:
    from backlight.engine.measure.bench import bench

    onnx.save(net("[H,W,3]", "[K]"), tmp_path / "lone.onnx")
    report = bench(str(tmp_path / "lone.onnx"), methods=(("vanilla",),), runs=1, size=8)
    assert [row.batch for row in report.rows] == [1, 1]
