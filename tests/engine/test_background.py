"""What an object is put before, or taken from."""

from __future__ import annotations

import numpy as np

from backlight.engine.evidence import background, objects


def test_backgrounds():
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[..., 2] = 200
    region = objects.centre((20, 20))
    assert 0.35 < region.mean() < 0.45
    pixels[region] = (255, 0, 0)
    alone = background.alone(pixels, region)
    assert (abs(alone.astype(int) - (0, 0, 200)) <= 1).all(), "nothing of the object is left"
    blurred = background.blurred(pixels, region)
    assert (blurred[region] == pixels[region]).all() and (blurred[~region][:, 0] == 0).all()
    other = np.full((20, 20, 3), 90, np.uint8)
    made = background.exchanged(pixels, region, other, region)
    assert (made[region] == pixels[region]).all() and (made[~region] == 90).all()
    whole = np.ones((20, 20), bool)
    assert (background.alone(pixels, whole) == background.blank(pixels)).all()
    assert (background.alone(pixels, ~whole) == pixels).all()
    assert (background.grey(np.full((4, 5, 3), (200, 0, 0), np.uint8)) == 60).all()
    greyed = background.greyed(pixels, region)
    assert (greyed[region] == pixels[region]).all()
    assert (greyed[~region] == 23).all(), "as bright as the background, by ITU-R 601"
    assert (background.greyed(pixels, whole) == pixels).all()
