"""Spaces of changes: pixels, patches, lattices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backlight.engine.targeted.spaces import Gains, Lattice, Patches, pixelwise


class TestSpaces:
    @pytest.mark.parametrize("parts", ["patches", "lattice"])
    def test_gathering_is_the_adjoint_of_spreading(self, parts: str) -> None:
        rng = np.random.default_rng(0)
        label = rng.integers(0, 6, (2, 7, 9))
        label[1] %= 4
        made: Any = Patches(label, np) if parts == "patches" else Lattice((7, 9), 4, np)
        rows = np.array([1, 0])
        values = rng.normal(size=(2, *made.shape)).astype(np.float32)
        by = rng.normal(size=(2, 7, 9)).astype(np.float32)
        spread = made.spread(rows, values)
        assert spread.shape == (2, 1, 7, 9)
        left = (spread[:, 0] * by).sum(axis=(1, 2))
        right = (values * made.gather(rows, by)).reshape(2, -1).sum(axis=1)
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)  # fp32, sums of 63
        np.testing.assert_allclose(made.spread(rows, np.ones_like(values)), 1, rtol=1e-6)

    def test_segments_that_a_photo_lacks_count_for_nothing(self) -> None:
        label = np.array([[[0, 1], [2, 3]], [[0, 0], [1, 1]]])
        photo = np.ones((2, 1, 2, 2), np.float32)
        space = Gains.of(photo, 0 * photo, "positive", Patches(label, np), 3.0, np)
        assert space.start.tolist() == space.high.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]

    def test_pixels_lead_away_from_the_baseline_alone(self) -> None:
        photo = np.float32([[[[0.2, 0.5, 0.8]]]])
        base = np.full_like(photo, 0.5)
        space = pixelwise(photo, base, "negative", np)
        np.testing.assert_allclose(space.low[0, 0, 0], [-0.2, -0.5, 0])
        np.testing.assert_allclose(space.high[0, 0, 0], [0, 0.5, 0.2])
        kept = pixelwise(photo, base, "positive", np)
        np.testing.assert_allclose(kept.low[0, 0, 0], [-0.3, 0, 0], atol=1e-7)
        np.testing.assert_allclose(kept.high[0, 0, 0], [0, 0, 0.3], atol=1e-7)

    def test_the_gradient_of_gains_by_finite_differences(self) -> None:
        rng = np.random.default_rng(1)
        photo, base = rng.uniform(0.1, 0.9, (2, 2, 3, 6, 5)).astype(np.float32)
        space = Gains.of(photo, base, "negative", Lattice((6, 5), 3, np), 3.0, np)
        rows = np.arange(2)
        weigh = rng.normal(size=photo.shape).astype(np.float32)
        d = rng.uniform(0.2, 0.6, space.start.shape)
        got = space.gradient(rows, d, weigh)
        for index in [(0, 0, 0), (1, 2, 1)]:
            up, down = d.copy(), d.copy()
            up[index] += 1e-5
            down[index] -= 1e-5
            change = ((space.picture(rows, up) - space.picture(rows, down)) * weigh)[index[0]].sum()
            assert got[index] == pytest.approx(change / 2e-5, rel=1e-3)
