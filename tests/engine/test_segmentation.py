"""Seeds of a cut: quantiles of the evidence."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.masked.segmentation import seeded
from backlight.errors import ImageError

from .coloured import disc


class TestSeeds:
    def test_quantiles_by_hand(self) -> None:
        heat = np.zeros((6, 6))
        heat[1:5, 1:5] = np.arange(16).reshape(4, 4)
        found = seeded(heat, 0.9, 0.6, (6, 6))
        # Sorted: 21 zeros, 1 .. 15. Quantile 0.9 is at 31.5: 11.5; 0.6 at 21: 1.
        want = np.full((6, 6), -1)
        want[1:5, 1:5] = np.where(np.arange(16) > 11.5, 1, np.where(np.arange(16) > 1, 0, -1)
                                  ).reshape(4, 4)  # fmt: skip
        np.testing.assert_array_equal(found, want)

    def test_the_border_is_background_but_where_the_object_is(self) -> None:
        heat = np.random.default_rng(0).random((8, 8))
        heat[0, 3] = 9
        found = seeded(heat, 0.95, 0.0, (8, 8))
        assert found[0, 3] == 1 and (np.delete(found[0], 3) < 1).all()
        assert (found[-1] != 0).all() and (found[:, 0] != 0).all()

    def test_a_plateau_is_the_object_and_a_flat_map_has_none(self) -> None:
        heat = np.where(disc(9, 4, 4, 2), 2.5, 0)
        np.testing.assert_array_equal(seeded(heat, 0.95, 0.3, (9, 9)) > 0, heat > 0)
        assert not (seeded(np.full((4, 4), 7.0), 0.95, 0.3, (4, 4)) > 0).any()

    def test_maps_that_are_none(self) -> None:
        with pytest.raises(ImageError, match=r"\[3, 3\]; expected \[4, 4\]"):
            seeded(np.zeros((3, 3)), 0.9, 0.1, (4, 4))
        with pytest.raises(ImageError, match="NaN"):
            seeded(np.full((4, 4), np.nan), 0.9, 0.1, (4, 4))
