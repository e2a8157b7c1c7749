"""Descent over pixels and over waves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backlight.engine.inside.descent import HALF, Schedule, Waves, descend, noise
from backlight.errors import RunError


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
