"""What a person needs to read a picture: whole labels, honest colours, words for nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from backlight.engine.cli import run
from backlight.engine.photos import images
from backlight.engine.pictures import grid, panel
from backlight.engine.similar import atlas
from backlight.export.preprocess import parse

from .. import models

LAYER = "/backbone/features/stage_1/block_2/relu/Relu_output_0"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def saved(tmp_path: Path, model: onnx.ModelProto, name: str = "m.onnx") -> str:
    onnx.save(model, tmp_path / name)
    return str(tmp_path / name)


def blind(tmp_path: Path) -> str:
    """A model whose scores are its bias: weights of 0 behind the pooling."""
    model = models.tiny()
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 2:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(values), tensor.name))
    return saved(tmp_path, model)


def test_inversion_writes_the_error_of_long_layers(tmp_path: Path, photo: Path, monkeypatch):
    model = models.tiny()
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [LAYER if n == "h" else n for n in names]
    labels: list[str] = []
    fitted = grid.Tile.fitted

    def seen(self: Any, face: Any, width: int) -> str:
        labels.append(fitted(self, face, width))
        return labels[-1]

    monkeypatch.setattr(grid.Tile, "fitted", seen)
    words = ["reconstruct", saved(tmp_path, model), str(photo), "--method", "inversion"]
    words += ["-l", LAYER, "--steps", "2", "--preprocess", "unit", "-o", str(tmp_path / "o")]
    assert run(words) == 0
    (entry,) = json.loads((tmp_path / "o" / "inversion.json").read_text())["images"]
    assert labels[-1].endswith(f": error {grid.figure(entry['errors'][0])}"), labels


def test_many_labels_have_colours_that_differ():
    """CIELAB's plain distance, as a second measure beside the one that chose them."""
    for count in (2, 10, 11, 16, 23, 24, 40):
        colors = atlas.Colors([f"label {i}" for i in range(count)])
        assert len(colors) == min(count, 24 if count <= 24 else 23)
        lab = _lab(np.array([*colors.values(), atlas.REST, panel.PAPER], np.float64))
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
        assert apart[~np.eye(len(lab), dtype=bool)].min() > 18


def _lab(rgb: Any) -> Any:
    linear = np.where(rgb <= 0.04045 * 255, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    f = np.where(
        xyz / [0.9505, 1, 1.089] > 0.008856, f, 7.787 * xyz / [0.9505, 1, 1.089] + 16 / 116
    )
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nhw"])
def test_a_grey_model_sees_no_colours(layout: str):
    size, channels = (8, 8), 1
    spec = images.InputSpec("x", np.dtype(np.float32), layout, channels, size, None)
    record = images.fitted(parse("unit"), spec)
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    seen = images.prepare(photo, record, spec)
    assert (seen.pixels == seen.pixels[..., :1]).all() and np.ptp(seen.pixels) > 20
    np.testing.assert_array_equal(images.to_pixels(seen.tensor, record, layout), seen.pixels)


def test_panels_and_patches_of_a_grey_model_are_grey(tmp_path: Path, photo: Path):
    """No pixel of the panel's photo, or of a crop, has a colour."""
    rng = np.random.default_rng(0)
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,1,9,9] x) => (float[N,3] s) {
      h = Conv(x, w)
      p = GlobalAveragePool(h)
      s = Flatten(p)
    }"""
    model = models.parsed(text, {"w": rng.normal(size=(3, 1, 3, 3)).astype(np.float32)})
    file, out = saved(tmp_path, model), tmp_path / "out"
    assert run(["explain", "-m", file, str(photo), "-o", str(out), "--preprocess", "unit"]) == 0
    told = json.loads((out / "summary.json").read_text())["pictures"]
    assert "colour" not in told["guided"] and "channels" not in told["vanilla"]
    words = [
        "patches",
        file,
        str(photo),
        "-l",
        "h",
        "-o",
        str(tmp_path / "p"),
        "--preprocess",
        "unit",
    ]
    assert run(words) == 0
    for name in ("out/photo.png", "p/h.png"):
        drawn = np.asarray(Image.open(tmp_path / name).convert("RGB"), np.int16)
        assert np.ptp(drawn, axis=2).max() < 12, name  # the ink is a little blue


def test_no_gradient_is_said(tmp_path: Path, photo: Path, capsys):
    words = ["explain", "-m", blind(tmp_path), str(photo), "-o", str(tmp_path / "o")]
    assert run([*words, "--preprocess", "unit"]) == 0
    assert "no gradient: vanilla, deconv, guided all 0" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "o" / "summary.json").read_text())["images"]
    assert entry["no_gradient"] == ["vanilla", "deconv", "guided"]
    good = saved(tmp_path, models.tiny(), "good.onnx")
    words = ["explain", "-m", good, str(photo), "-o", str(tmp_path / "g"), "--json"]
    assert run([*words, "--preprocess", "unit"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["images"]
    assert entry["no_gradient"] == []


def test_nothing_to_hide_is_said(tmp_path: Path, photo: Path, capsys):
    words = ["occlude", "-m", blind(tmp_path), str(photo), "-o", str(tmp_path / "o")]
    assert run([*words, "--window", "3", "--stride", "3", "--preprocess", "unit"]) == 0
    assert "nothing here" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "o" / "summary.json").read_text())["images"]
    assert "nothing here" in entry["classes"][0]["note"]


@pytest.mark.parametrize("command", ["occlude", "rise"])
def test_every_class_with_a_picture_has_a_line(command: str, tmp_path: Path, photo: Path, capsys):
    file = saved(tmp_path, models.tiny())
    words = [command, "-m", file, str(photo), "-o", str(tmp_path / "o"), "--preprocess", "unit"]
    words += ["--window", "3"] if command == "occlude" else ["--masks", "8"]
    assert run([*words, "--target-class", "1", "--target-class", "0", "--target-class", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[21:28] for line in lines[:3]] == ["class 1", "class 0", "class 2"]
    assert lines[0].startswith("photo.png") and not lines[1][:20].strip()
    assert run([*words, "--target-class", "all", "--force"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[3].strip() == "and 2 more in summary.json"


def test_a_run_of_several_images_has_no_time_of_one(tmp_path: Path, photo: Path, capsys):
    other = photo.with_name("other.png")
    other.write_bytes(photo.read_bytes())
    file = saved(tmp_path, models.tiny())
    for batch, timed, run_of in ((1, 3, 1), (2, 1, 2)):
        words = ["explain", "-m", file, str(photo), str(other), "-o", str(tmp_path / "o")]
        assert run([*words, "--preprocess", "unit", "--batch", str(batch), "--force"]) == 0
        printed = capsys.readouterr().out
        assert printed.count(" ms") == timed  # each image's, and the mean of all
        summary = json.loads((tmp_path / "o" / "summary.json").read_text())
        assert [e["images_in_run"] for e in summary["images"]] == [run_of] * 2
        assert "by the number of images" in summary["ms"]
