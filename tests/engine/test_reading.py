"""Cells in which a map is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backlight.engine.photos import images
from backlight.engine.pictures import reading


def test_cells():
    """What a map says is under it, and never a blank picture without a word."""
    photo = np.full((20, 30, 3), 128, np.uint8)
    spec = images.layout_of("x", (None, 3, 20, 30), np.dtype("float32"), 1)
    asked = reading.Asked(spec, "RGB", ("fire9",), "tiger cat", ("contrastcam",))
    empty = reading.cell("gradcam", np.zeros((20, 30), np.float32), photo, asked)
    assert empty.caption == "all 0: no positive evidence at fire9"
    values = np.linspace(0, 2, 600, dtype=np.float32).reshape(20, 30)
    heat = reading.cell("contrastcam", values, photo, asked)
    assert heat.caption == "red: for the class, at fire9; rather than tiger cat"
    itself = replace(asked, against="cat", itself=True)
    doubt = reading.cell("contrastcam", values, photo, itself)
    assert doubt.caption == "red: what keeps it from certainty, at fire9"
    signed = reading.cell("gradcam", values - 1, photo, asked)
    assert signed.caption == "red: for the class, blue: against it, at fire9"
    counter = reading.cell("counterfactualcam", values, photo, asked)
    assert counter.caption == "red: against the class, at fire9"
    small = reading.cell("gradcam", values[:5, :6], photo, asked)  # at the layer's size
    assert small.pixels.shape[0] >= 20
    assert reading.base("gradcam_1")[1] == 1
    assert reading.empty("gradcam_0", ["a", "b"]) == "no positive evidence at a"
    assert reading.empty("vanilla", []) == "no gradient"
