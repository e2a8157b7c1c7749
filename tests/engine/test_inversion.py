"""Inversion and maximization: priors, moves, the objective, the loop and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.inside import inversion
from backlight.engine.inside.descent import HALF, Schedule, Waves, descend, noise
from backlight.engine.inside.inversion import Inverter, Maximizer
from backlight.engine.inside.objective import Objective, Pixelwise
from backlight.engine.inside.priors import Priors, alpha_norm, total_variation
from backlight.engine.inside.taps import Taps
from backlight.engine.inside.zoom import Move, moved
from backlight.engine.runtime.session import Session
from backlight.errors import ImageError, ModelError, RunError, UsageError
from backlight.export.preprocess import PRESETS, Preprocess

from ..models import images, parsed, tiny

OPTIONS: dict[str, Any] = {"preprocess": "unit", "providers": "cpu", "threads": 1}


def numeric(f: Callable[[Any], Any], z: Any, step: float) -> Any:
    """Central differences of the sum over rows, in float64."""
    gradient = np.zeros_like(z)
    for index in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (f(up).sum() - f(down).sum()) / (2 * step)
    return gradient


class TestPriors:
    z = np.random.default_rng(3).normal(0, 50, (2, 3, 4, 5))

    @pytest.mark.parametrize("alpha", [1.0, 2.0, 6.0])
    def test_alpha_norm_by_finite_differences(self, alpha: float) -> None:
        _, got = alpha_norm(self.z, alpha, 80.0)
        want = numeric(lambda z: alpha_norm(z, alpha, 80.0)[0], self.z, 1e-4)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-10)  # differences of step 1e-4

    @pytest.mark.parametrize("beta", [1.0, 1.5, 2.0])
    def test_total_variation_by_finite_differences(self, beta: float) -> None:
        _, got = total_variation(self.z, beta, 12.0)
        want = numeric(lambda z: total_variation(z, beta, 12.0)[0], self.z, 1e-4)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)  # differences of step 1e-4

    def test_values_by_hand(self) -> None:
        z = np.zeros((1, 1, 2, 2))
        z[0, 0, 0] = [40, 80]
        # (1/2)**6 and 1 over 4 pixels
        assert alpha_norm(z, 6, 80)[0][0] == pytest.approx((1 / 64 + 1) / 4)
        # right, down: (40, -40), (0, -80); over 4 values and 20**2
        assert total_variation(z, 2, 20)[0][0] == pytest.approx((3200 + 6400) / 400 / 4)

    def test_a_flat_image_has_no_variation_and_rows_are_apart(self) -> None:
        value, gradient = total_variation(np.full((1, 3, 4, 4), 9.0), 1.0, 12.0)
        assert value[0] == 0
        assert not gradient.any()
        both, _ = Priors()(self.z)
        alone = [Priors()(self.z[i : i + 1])[0][0] for i in range(2)]
        np.testing.assert_allclose(both, alone, rtol=1e-12)  # float64, another order of sums

    def test_weights_are_linear_and_checked(self) -> None:
        value, gradient = Priors(2.0, 0.0)(self.z)
        norm, by = alpha_norm(self.z, 6.0, 80.0)
        np.testing.assert_allclose(value, 2 * norm)
        np.testing.assert_allclose(gradient, 2 * by)
        for wrong in ({"alpha": 0.5}, {"tv_weight": -1.0}, {"step": 0.0}):
            with pytest.raises(UsageError, match=next(iter(wrong))):
                Priors(**wrong)


class TestWavesAndMoves:
    @pytest.mark.parametrize("decay", [0.0, 1.0])
    def test_waves_are_symmetric_and_keep_noise(self, decay: float) -> None:
        rng = np.random.default_rng(0)
        waves = Waves(24, 17, decay, 0.8 * decay, np)
        a, b = rng.standard_normal((2, 8, 3, 24, 17)).astype(np.float32)
        # fp32: sums of 9,792 products
        assert (waves(a) * b).sum() == pytest.approx((a * waves(b)).sum(), abs=0.1)
        size = float((waves(a) ** 2).mean())
        # white noise of 9,792 values, a good part of it in a few waves when decay is 1
        assert size == pytest.approx(1, rel=0.05 if decay == 0 else 0.5)
        if decay == 0:
            np.testing.assert_allclose(waves(a), a, atol=1e-5)  # fp32: there and back

    def test_a_move_that_does_nothing_and_one_by_hand(self) -> None:
        np.testing.assert_array_equal(moved(5, 1.0, 0.0), np.eye(5, dtype=np.float32))
        got = moved(4, 1.0, 1.5) @ np.array([0, 10, 20, 30], np.float32)
        np.testing.assert_allclose(got, [15, 25, 25, 15])  # mirrored beyond 3
        got = moved(5, 2.0, 0.0) @ np.array([0, 10, 20, 30, 40], np.float32)
        np.testing.assert_allclose(got, [10, 15, 20, 25, 30])

    def test_adjoint_is_exact(self) -> None:
        rng = np.random.default_rng(1)
        move = Move(9, 7, 3.0, 0.3, rng, np)
        a, b = rng.standard_normal((2, 1, 3, 9, 7)).astype(np.float32)
        # fp32: sums of 189 products
        assert (move(a) * b).sum() == pytest.approx((a * move.adjoint(b)).sum(), abs=1e-3)


class TestObjective:
    def test_distance_is_a_session_of_one_graph(self) -> None:
        x, other = images(2, 3, 8, 8), images(2, 3, 8, 8, seed=5)
        phi0 = Taps(tiny(), ["r"], providers="cpu", threads=1)(other)["r"]
        phi = Taps(tiny(), ["r"], providers="cpu", threads=1)(x)["r"]
        loss, gradient = Objective(tiny(), "r", "distance", providers="cpu", threads=1)(x, phi0)
        want = 0.5 * ((phi - phi0) ** 2).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(loss, want, rtol=1e-5)  # fp32, sums of 256
        # The same seed through the exported graph's own cotangent.
        proto = backlight.export(tiny(), ("vanilla",), of="r", cotangent="input")
        feeds = {"x": x, "cotangent": phi - phi0}
        by = Session(proto, "cpu", 1).run(feeds, ["saliency_vanilla"])["saliency_vanilla"]
        np.testing.assert_allclose(gradient, by, rtol=1e-5, atol=1e-5)  # fp32, sums of 36

    def test_product_descends_where_the_layer_rises(self) -> None:
        x = images(1, 3, 8, 8)
        seed = np.zeros((1, 5), np.float32)
        seed[0, 2] = 1
        objective = Objective(tiny(), None, "product", providers="cpu", threads=1)
        assert objective.layer == "scores"
        loss, gradient = objective(x, seed)
        after, _ = objective((x - 0.01 * gradient).astype(np.float32), seed)
        assert after[0] < loss[0]
        scores = Taps(tiny(), ["scores"], providers="cpu", threads=1)(x)["scores"]
        assert loss[0] == pytest.approx(-scores[0, 2], rel=1e-5)  # fp32

    def test_a_fixed_batch_is_filled_up(self) -> None:
        x = images(3, 3, 8, 8)
        given = np.zeros((3, 4, 8, 8), np.float32)
        free = Objective(tiny(), "r", "distance", providers="cpu", threads=1)(x, given)
        fixed_model = tiny(shape="2,3,8,8", output="float[2,5] prob")
        fixed = Objective(fixed_model, "r", "distance", providers="cpu", threads=1)(x, given)
        for want, got in zip(free, fixed, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)  # fp32, another batch

    def test_integer_images_are_refused(self) -> None:
        model = tiny(head="x = Cast<to=1>(image)", dtype="uint8")
        with pytest.raises(ModelError, match="input 'image' holds integers"):
            Objective(model, "r", "distance", providers="cpu", threads=1)

    @pytest.mark.parametrize("preset", ["imagenet-torch", "imagenet-caffe", "tf", "unit", "none"])
    def test_pixels_there_and_back(self, preset: str) -> None:
        from backlight.engine.photos.images import layout_of, to_pixels

        for dims, axis in (((None, 3, 4, 5), 1), ((None, 4, 5, 3), 3)):
            spec = layout_of("x", dims, np.dtype(np.float32), axis)
            pixels = Pixelwise(PRESETS[preset], spec, np)
            z = noise((1, 3, 4, 5), 0, 40.0, Waves(4, 5, 0, 0, np), np)
            x = pixels.to_input(z)
            np.testing.assert_allclose(pixels.from_input(x), z, atol=1e-4)  # fp32 of 127.5
            shown = to_pixels(x[0], PRESETS[preset], spec.layout).astype(np.float32)
            want = z[0].transpose(1, 2, 0) + HALF
            if PRESETS[preset].color == "BGR":
                want = want[..., ::-1]
            np.testing.assert_allclose(shown, want, atol=0.501)  # rounded to whole levels


class TestDescent:
    def test_goes_to_the_minimum_and_stays_in_range(self) -> None:
        target = np.array([100.0, 300.0], np.float32).reshape(1, 1, 1, 2)
        waves = Waves(1, 2, 0.0, 0.0, np)

        def evaluate(z: Any, moves: bool) -> tuple[Any, Any]:
            return ((z - target) ** 2).sum(axis=(1, 2, 3)), 2 * (z - target)

        z, losses = descend(np.zeros((1, 1, 1, 2), np.float32), evaluate, Schedule(200), waves)
        np.testing.assert_allclose(z.ravel(), [100, HALF], atol=1)  # Adam's last steps are small
        assert losses.shape == (1, 200)
        assert losses[0, -1] < losses[0, 0]

    def test_a_loss_that_is_no_number_ends_it(self) -> None:
        with pytest.raises(RunError, match="step 0"):
            descend(
                np.zeros((1, 1, 2, 2), np.float32),
                lambda z, moves: (np.array([np.nan]), z),
                Schedule(3),
                Waves(2, 2, 0.0, 0.0, np),
            )

    def test_starts_hang_on_the_seed_and_their_number(self) -> None:
        waves = Waves(6, 6, 1.0, 0.5, np)
        three, two = (noise((n, 3, 6, 6), 7, 20.0, waves, np) for n in (3, 2))
        np.testing.assert_array_equal(three[:2], two)
        assert not np.array_equal(three[0], three[1])
        assert not np.array_equal(two, noise((2, 3, 6, 6), 8, 20.0, waves, np))


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
            ("maximize", ["--target-class", "9"], "channel 9 is out of range"),
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
