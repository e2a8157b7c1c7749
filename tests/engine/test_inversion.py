"""Inversion and maximization: priors, moves, the objective, the loop and the command."""

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
from backlight.engine.inside import inversion
from backlight.engine.inside.descent import noise
from backlight.engine.inside.inversion import Inverter, Maximizer
from backlight.engine.inside.priors import Priors
from backlight.engine.inside.taps import Taps
from backlight.errors import ImageError, UsageError
from backlight.export.preprocess import Preprocess

from ..models import images, parsed, tiny

OPTIONS: dict[str, Any] = {"preprocess": "unit", "providers": "cpu", "threads": 1}


class TestInvert:
    def test_reaches_a_small_error_from_several_starts(self) -> None:
        x = images(2, 3, 8, 8).clip(0, 1)
        seen: list[int] = []
        # The images are noise: the prior of smoothness would be at odds with them.
        inverter = Inverter(tiny(), "r", steps=150, starts=2, priors=Priors(1.0, 0.01), **OPTIONS)
        made = inverter(x, seen.append)
        assert (made.layer, made.images.shape) == ("r", (2, 2, 3, 8, 8))
        assert seen == list(range(150))
        assert made.images.dtype == np.float32
        # The valid range of "unit", and fp32's rounding of 255/255.
        assert made.images.min() >= 0
        assert made.images.max() <= 1 + 1e-6
        assert (made.errors < 0.05).all()
        assert (made.losses[..., -1] < made.losses[..., 0] / 5).all()
        # The errors are the model's, not the loop's.
        taps = Taps(tiny(), ["r"], providers="cpu", threads=1)
        got, want = taps(made.images[1])["r"], taps(x)["r"][1]
        error = ((got - want) ** 2).sum(axis=(1, 2, 3)) / (want**2).sum()
        np.testing.assert_allclose(made.errors[1], error, rtol=1e-4)  # fp32, sums of 256
        assert made.best[1] == error.argmin()

    def test_is_the_same_with_the_same_seed(self) -> None:
        x = images(1, 3, 8, 8).clip(0, 1)
        first, again, other = (
            backlight.invert(tiny(), x, "p", steps=5, seed=s, **OPTIONS).images for s in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_takes_files(self, tmp_path: Path) -> None:
        Image.new("RGB", (9, 9), (200, 30, 60)).save(tmp_path / "a.png")
        made = backlight.invert(tiny(), tmp_path / "a.png", "r", steps=1, **OPTIONS)
        assert made.images.shape == (1, 1, 3, 8, 8)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"layer": "q"}, "no tensor 'q'"),
            ({"steps": 0}, "steps 0; expected 1 or more"),
            ({"starts": 0}, "starts 0; expected 1 or more"),
            ({"seed": -1}, "seed -1"),
            ({"jitter": 8}, "jitter 8; expected 0 to 7"),
            ({"fidelity": 0.0}, "fidelity"),
            ({"preprocess": None}, "doesn't say how it wants its images"),
        ],
    )
    def test_bad_input_is_named(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(UsageError, match=match):
            Inverter(tiny(), **({"layer": "r", **OPTIONS} | options))

    def test_images_that_do_not_fit_or_say_nothing(self) -> None:
        inverter = Inverter(tiny(), "r", steps=1, **OPTIONS)
        with pytest.raises(ImageError, match="expected float32"):
            inverter(images(1, 3, 8, 9))
        with pytest.raises(ImageError, match="no image"):
            inverter(images(1, 3, 8, 8)[:0])
        dead = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
dead (float[N,3,8,8] x) => (float[N,3,8,8] y) {
    n = Abs(x)
    m = Neg(n)
    y = Relu(m)
}"""
        )
        with pytest.raises(UsageError, match="'y' is all 0"):
            backlight.invert(dead, images(1, 3, 8, 8), "y", steps=1, **OPTIONS)


class TestMaximize:
    @pytest.mark.parametrize("start", ["noise", "grey"])
    def test_raises_the_class(self, start: str) -> None:
        made = backlight.maximize(tiny(), [0, 3], start=start, steps=60, starts=2, **OPTIONS)
        assert (made.layer, made.images.shape) == ("scores", (2, 2, 3, 8, 8))
        assert (made.values > -made.losses[..., 0]).all()
        scores = Taps(tiny(), ["scores"], providers="cpu", threads=1)(made.images[1])["scores"]
        np.testing.assert_allclose(made.values[1], scores[:, 3], rtol=1e-5)  # the same run
        rows = np.arange(2)
        assert (made.values[rows, made.best] == made.values.max(axis=1)).all()

    @pytest.mark.parametrize(
        ("tail", "output", "count", "signs"),
        [
            ("u = Unsqueeze(scores, inner) y = Softmax(u)", "N,1,1,5", 5, {3: (3, 1)}),
            ("u = Unsqueeze(scores, last) y = Softmax<axis=1>(u)", "N,5,1,1", 5, {3: (3, 1)}),
            ("s = Softmax(scores) y = Sub(one, s)", "N,5", 5, {3: (3, -1)}),
            ("t = Slice(scores, two, three, axis) y = Sigmoid(t)", "N,1", 2,
             {1: (2, 1), 0: (2, -1)}),
        ],
    )  # fmt: skip
    def test_classes_wherever_they_are(
        self, tail: str, output: str, count: int, signs: dict[int, tuple[int, int]]
    ) -> None:
        """Of one logit too, up and down; of what is left, where the score falls."""
        model = tiny(tail=tail, output=f"float[{output}] y")
        named = {"inner": [1, 2], "last": [2, 3], "two": [2], "three": [3], "axis": [1]}
        for name, value in (*named.items(), ("one", np.float32(1))):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
        made = Maximizer(model, None, steps=20, **OPTIONS)
        assert made.channels == count
        with pytest.raises(UsageError, match=f"0 to {count - 1}"):
            made([count])
        for wanted, (at, sign) in signs.items():
            found = made([wanted])
            x = found.images[0]
            scores = Taps(tiny(), ["scores"], providers="cpu", threads=1)(x)["scores"]
            np.testing.assert_allclose(found.values[0], sign * scores[:, at], rtol=1e-4)

    def test_mean_and_centre_of_a_channel(self) -> None:
        for unit, want in (("mean", 1 / 64), ("centre", 1.0)):
            seeds = Maximizer(tiny(), "r", unit=unit, steps=1, **OPTIONS).seeds([2])
            assert seeds.shape == (1, 4, 8, 8)
            assert seeds[0, 2, 4, 4] == want
            assert seeds.sum() == 1
            assert not seeds[0, [0, 1, 3]].any()

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"unit": "sum"}, "unit 'sum'; accepted: mean, centre"),
            ({"start": "cat"}, "start 'cat'; accepted: noise, grey"),
            ({"zoom": 1.0}, "zoom"),
            ({"drive": 0.0}, "drive"),
            ({"steps": 0}, "steps 0"),
        ],
    )
    def test_bad_input_is_named(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(UsageError, match=match):
            Maximizer(tiny(), "r", **(OPTIONS | options))

    def test_a_channel_out_of_range(self) -> None:
        with pytest.raises(UsageError, match="channel 5 is out of range; 'scores' has 0 to 4"):
            backlight.maximize(tiny(), 5, steps=1, **OPTIONS)
        with pytest.raises(UsageError, match="no class or channel"):
            backlight.maximize(tiny(), [], steps=1, **OPTIONS)


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
        monkeypatch.setattr(inversion, "noise", lambda *a, o=order: noise(*a)[:, ::o])
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
