"""Activations: the maps of a photo, as pictures and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.inside.activations import Activations
from backlight.engine.inside.taps import Taps
from backlight.errors import UsageError

from ..models import BODY, parsed, tiny
from .nets import TILE, patch_embedding


class TestActivations:
    def test_maps_of_a_photo(self, model: Path, photo: Path) -> None:
        found = backlight.activations(model, photo, "r", preprocess="unit", threads=1)
        taps = Taps(model, ["r"], providers="cpu", threads=1)
        np.testing.assert_array_equal(found.values, taps(taps.load([photo], "unit"))["r"][0])
        assert found.pixels is not None
        assert found.pixels.shape == (8, 8, 3)
        order = found.channels(sort=True)
        assert sorted(order) == [0, 1, 2, 3]
        assert (np.diff(found.strength[order]) <= 0).all()

    def test_picture_says_black_is_zero_or_mid_grey_is(self, model: Path, photo: Path) -> None:
        rectified = backlight.activations(model, photo, "r", preprocess="unit", threads=1)
        tile = np.asarray(rectified.picture([2]))[TILE]
        want = np.rint(255 * rectified.values[2] / rectified.values[2].max())
        np.testing.assert_array_equal(tile[5::10, 5::10, 0], want)
        signed = backlight.activations(model, photo, "h", preprocess="unit", threads=1)
        assert signed.values.min() < 0
        tile = np.asarray(signed.picture([2], per="layer"))[TILE]
        want = np.rint(127.5 + 127.5 * signed.values[2] / np.abs(signed.values).max())
        np.testing.assert_array_equal(tile[5::10, 5::10, 0], want)

    def test_nhwc_tensors_come_channels_first(self, photo: Path) -> None:
        rng = np.random.default_rng(0)
        w = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
        proto = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
g (float[N,8,8,3] x) => (float[N,6,6,4] y) {
    t = Transpose<perm=[0,3,1,2]>(x)
    h = Conv(t, w)
    y = Transpose<perm=[0,2,3,1]>(h)
}""",
            {"w": w},
        )
        last, first = (
            backlight.activations(proto, photo, name, preprocess="unit", threads=1)
            for name in ("y", "h")
        )
        np.testing.assert_array_equal(last.values, first.values)
        assert first.values.shape == (4, 6, 6)

    @pytest.mark.parametrize(
        ("layer", "want"), [("f", "no spatial extent"), ("p", "no spatial extent")]
    )
    def test_a_layer_without_rows_and_columns(
        self, model: Path, photo: Path, layer: str, want: str
    ) -> None:
        with pytest.raises(UsageError, match=want):
            backlight.activations(model, photo, layer, preprocess="unit", threads=1)

    def test_what_is_no_number_is_null_in_json(self, photo: Path, tmp_path: Path) -> None:
        """JSON has no NaN: other languages refuse the file."""
        onnx.save(tiny(body=BODY.replace("Relu", "Log")), tmp_path / "m.onnx")
        for command in ("activations", "patches"):
            out = tmp_path / command
            given = [command, str(tmp_path / "m.onnx"), str(photo), "-l", "r", "-o", str(out)]
            assert run([*given, "--preprocess", "none", "--html"]) == 0
            text = (out / f"{command}.json").read_text(encoding="utf-8")
            json.loads(text, parse_constant=pytest.fail)

    def test_strength_passes_over_nan(self) -> None:
        values = np.float32([[[np.nan, 2], [1, 0]], [[np.nan] * 2] * 2])
        assert np.array_equal(
            Activations("r", values, None).strength, np.float32([2, np.nan]), equal_nan=True
        )

    def test_tokens_lie_in_a_line(self, photo: Path) -> None:
        with pytest.raises(UsageError, match=r"\[N,16,6\]: its positions lie in a line"):
            backlight.activations(patch_embedding(), photo, "t", preprocess="unit", threads=1)

    def test_command(
        self, model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = tmp_path / "broken.png"
        broken.write_bytes(photo.read_bytes()[:60])
        out = tmp_path / "out"
        command = ["activations", str(model), str(photo), str(broken), "-l", "r", "-l", "h"]
        command += ["--preprocess", "unit", "--threads", "1", "-o", str(out), "--html"]
        assert run([*command, "--sort", "--overlay"]) == 2  # one photo is broken
        assert "broken.png" in capsys.readouterr().err
        assert {f.name for f in out.iterdir()} == {
            "photo-r.png", "photo-r.npy", "photo-h.png", "photo-h.npy",
            "summary.json", "activations.json", "activations.html",
        }  # fmt: skip
        about = json.loads((out / "activations.json").read_text())
        assert [m["layer"] for m in about["maps"]] == ["r", "h"]
        assert len(about["skipped"]) == 1
        new = tmp_path / "new"
        assert run(["activations", str(model), str(photo), "-l", "R", "-o", str(new)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("backlight: no tensor 'R' in the model; nearest: r")
        assert err.count("\n") == 1
        assert not new.exists()
