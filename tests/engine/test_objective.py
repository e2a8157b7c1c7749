"""What is descended upon: the loss of a layer, by image."""

from __future__ import annotations

import numpy as np
import pytest

import backlight
from backlight.engine.inside.descent import HALF, Waves, noise
from backlight.engine.inside.objective import Objective, Pixelwise
from backlight.engine.inside.taps import Taps
from backlight.engine.runtime.session import Session
from backlight.errors import ModelError
from backlight.export.preprocess import PRESETS

from ..models import images, tiny


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
