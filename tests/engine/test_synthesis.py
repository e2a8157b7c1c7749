"""What inversion and maximization share: the commands, and a loop that treats colours alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.inside import synthesis
from backlight.engine.inside.descent import noise
from backlight.engine.inside.inversion import Inverter
from backlight.engine.inside.taps import Taps
from backlight.export.preprocess import Preprocess

from ..models import images, tiny

OPTIONS: dict[str, Any] = {"preprocess": "unit", "providers": "cpu", "threads": 1}


class TestCommand:
    @pytest.fixture
    def model(self, tmp_path: Path) -> str:
        onnx.save(tiny(), tmp_path / "tiny.onnx")
        return str(tmp_path / "tiny.onnx")

    @pytest.fixture
    def photo(self, tmp_path: Path) -> str:
        pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photo.png")
        return str(tmp_path / "photo.png")

    def common(self, model: str, method: str, out: Path) -> list[str]:
        return ["reconstruct", model, "--method", method, "-o", str(out), "--preprocess", "unit",
                "--provider", "cpu", "--threads", "1", "--steps", "4", "--json"]  # fmt: skip

    def test_inversion(
        self, model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        bad = tmp_path / "bad.png"
        bad.write_bytes(b"no picture")
        command = self.common(model, "inversion", out)
        code = run([*command, photo, str(bad), "-l", "h", "-l", "r", "--starts", "2", "--html"])
        said = capsys.readouterr()
        assert code == 2
        assert "bad.png" in said.err
        found = json.loads(said.out)
        assert found == json.loads((out / "inversion.json").read_text(encoding="utf-8"))
        assert [e["layer"] for e in found["images"]] == ["h", "r"]
        entry = found["images"][1]
        values = np.load(out / entry["values"])
        assert values.shape == (2, 3, 8, 8)
        x = Taps(model, ["r"]).load([photo], Preprocess(scale=1 / 255))
        taps = Taps(model, ["r"], providers="cpu", threads=1)
        want, got = taps(x)["r"], taps(values)["r"]
        error = ((got - want) ** 2).sum(axis=(1, 2, 3)) / (want**2).sum()
        np.testing.assert_allclose(entry["errors"], error, rtol=1e-4)  # fp32; 6 digits
        assert Image.open(out / "inversion.png").width > 3 * 227 / 2
        assert b"<script" not in (out / "inversion.html").read_bytes()

    def test_a_model_of_grey_images_has_grey_photos(self, tmp_path: Path) -> None:
        """Colours beside a grey reconstruction would look like what the layer lost."""
        proto = tiny(shape="N,1,8,8", channels=1)
        onnx.save(proto, tmp_path / "grey.onnx")
        Image.new("RGB", (9, 9), (250, 10, 10)).save(tmp_path / "red.png")
        command = self.common(str(tmp_path / "grey.onnx"), "inversion", tmp_path / "out")
        assert run([*command, str(tmp_path / "red.png"), "-l", "h"]) == 0
        picture = np.asarray(Image.open(tmp_path / "out" / "inversion.png"), int)
        assert np.ptp(picture, axis=2).max() < 12  # the letters have a tinge of blue

    def test_maximize(self, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        command = self.common(model, "maximize", out)
        assert run([*command, "--target-class", "3", "--target-class", "1"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [e["channel"] for e in found["images"]] == [3, 1]
        assert np.load(out / "scores.npy").shape == (2, 1, 3, 8, 8)
        assert (out / "scores.png").exists()
        assert run([*command, "-l", "r", "--channels", "2", "--unit", "centre"]) == 2  # there
        assert "exists already" in capsys.readouterr().err
        again = [*command, "-l", "r", "--channels", "2", "--unit", "centre", "--force"]
        assert run(again) == 0
        first = np.load(out / "r.npy")
        assert run(again) == 0
        np.testing.assert_array_equal(np.load(out / "r.npy"), first)

    @pytest.mark.parametrize(
        ("method", "arguments", "match"),
        [
            ("inversion", [], "no layer given"),
            ("inversion", ["-l", "rr"], "no tensor 'rr'"),
            ("inversion", ["-l", "r", "--steps", "0"], "steps 0"),
            ("inversion", ["-l", "r", "--starts", "0"], "starts 0"),
            ("maximize", [], "nothing to maximize"),
            (
                "maximize",
                ["--target-class", "9"],
                "--target-class 9 is out of range; the model has classes 0",
            ),
            ("maximize", ["--target-class", "cat"], "'cat'"),
            ("maximize", ["--target-class", "1", "-l", "r"], "--target-class and --layer"),
            ("paint", [], "accepted: deconvnet, inversion, maximize"),
        ],
    )
    def test_bad_usage_writes_nothing(
        self, model: str, method: str, arguments: list[str], match: str, tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        out = tmp_path / "out"
        assert run([*self.common(model, method, out), *arguments]) == 2
        said = capsys.readouterr().err
        assert match in said
        assert said.count("\n") == 1
        assert not out.exists()


@pytest.mark.parametrize("method", ["inversion", "maximize"])
def test_the_loop_treats_the_colours_alike(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with its colours in the other order, and the start too: the same image in the other
    order. A cast of what is made is the model's doing, then."""
    plain, turned = tiny(), tiny()
    (weight,) = (t for t in turned.graph.initializer if t.name == "w")
    values = np.ascontiguousarray(onnx.numpy_helper.to_array(weight)[:, ::-1])
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    means, stds = (0.5, 0.4, 0.3), (0.2, 0.5, 0.9)
    records = [
        Preprocess(color="RGB", scale=1 / 255, mean=means, std=stds, size=(8, 8)),
        Preprocess(color="BGR", scale=1 / 255, mean=means[::-1], std=stds[::-1], size=(8, 8)),
    ]
    x = images(1, 3, 8, 8)
    made = []
    for model, record, order in zip((plain, turned), records, (1, -1), strict=True):
        monkeypatch.setattr(synthesis, "noise", lambda *a, o=order: noise(*a)[:, ::o])
        options = {"preprocess": record, "providers": "cpu", "threads": 1, "steps": 12}
        if method == "maximize":
            found = backlight.maximize(model, [2], **options).images
        else:
            given = np.ascontiguousarray(x[:, ::order])
            found = Inverter(model, "h", **options)(given).images
        made.append(found[0, 0, ::order])
    # float32, colours summed in another order: 4e-7 was seen.
    np.testing.assert_allclose(made[1], made[0], rtol=0, atol=1e-5)
    assert np.abs(made[0] - made[0].mean(axis=0)).max() > 0.5
