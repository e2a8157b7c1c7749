"""The object of a photo: grown from the evidence, with a margin."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.evidence import objects


def test_an_object_is_grown_by_colours_from_where_the_evidence_is():
    pytest.importorskip("skimage")
    pixels = np.full((40, 60, 3), 30, np.uint8)
    red = np.zeros((40, 60), bool)
    red[10:30, 10:30] = True
    pixels[red] = (220, 40, 40)
    pixels[14:26, 42:52] = (220, 40, 40)  # another one, of which the evidence says less
    y, x = np.mgrid[:40, :60]
    evidence = np.exp(-np.hypot(y - 20, x - 18) / 10).astype(np.float32)
    evidence[18:22, 45:49] = 1
    found = objects.seeded(evidence, pixels)
    assert (found == red).all(), "all of it, and the largest part alone"
    border = np.zeros_like(evidence)
    border[0] = 1
    np.testing.assert_array_equal(objects.seeded(border, pixels), objects.centre((40, 60)))


@pytest.mark.parametrize("by", [0, 1, 3.2])
def test_a_margin_around_a_region(by):
    region = np.zeros((11, 13), bool)
    region[5, 6] = True
    grown = objects.grown(region, by)
    step = round(by)
    want = np.zeros_like(region)
    want[5 - step : 6 + step, 6 - step : 7 + step] = True
    np.testing.assert_array_equal(grown, want)
