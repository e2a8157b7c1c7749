"""Inversion: from photos and arrays, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import backlight
from backlight.engine.inside.inversion import Inverter
from backlight.engine.inside.priors import Priors
from backlight.engine.inside.taps import Taps
from backlight.errors import ImageError, UsageError

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
