"""Maximization: of classes wherever they are and of channels, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.inside.maximization import Maximizer
from backlight.engine.inside.taps import Taps
from backlight.errors import UsageError

from ..models import tiny

OPTIONS: dict[str, Any] = {"preprocess": "unit", "providers": "cpu", "threads": 1}


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
