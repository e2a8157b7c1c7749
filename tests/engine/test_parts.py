"""Parts of a layer by what moves together: fits."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.inside.parts import Settings, fit


def test_photos_that_agree_without_moving():
    """Parts that stand still in every photo are found in the image's own frame."""
    maps = np.zeros((12, 1, 13, 13), np.float16)
    maps[:, 0, 3, 4], maps[:, 0, 10, 8] = 1, 0.8
    made = fit(maps, Settings())
    np.testing.assert_allclose(sorted((made.mean * 13).tolist()), [[3.5, 4.5], [10.5, 8.5]])
    assert made.parents.shape == (2, 0)
    silent = fit(np.zeros((3, 2, 5, 7), np.float16), Settings(), made)
    assert len(silent) == 0 and silent.position.shape == (3, 0, 2)


@pytest.mark.parametrize("height", [5, 13])
def test_maps_that_are_no_squares(height):
    maps = np.zeros((9, 1, height, 21), np.float16)
    for one in range(9):
        maps[one, 0, one % height, 2 * one] = 1
    made = fit(maps, Settings())
    at = made.position[:, 0] * 21 - 0.5
    np.testing.assert_allclose(at, [[i % height, 2 * i] for i in range(9)])
