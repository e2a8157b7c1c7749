"""Maps as colours over a photo, and their bar."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.pictures import heat
from backlight.engine.pictures.fonts import font


@pytest.mark.parametrize("text", ["+1 pt", "+0.00123 pt", "-1.23e-05 pt", "0.000595 %"])
def test_the_labels_of_a_bar_are_whole(text: str):
    """Nothing is drawn at the right edge, and more room changes nothing else."""
    bar = heat.diverging(np.linspace(-1, 1, 256), 1)
    made = heat.with_bar(np.zeros((227, 227, 3), np.uint8), bar, [(0.5, text)])
    assert (made[:, -1] == 255).all()
    left = 227 + heat.GAP + heat.BAR + 5
    inked = np.nonzero((made[:, left:] < 200).any(axis=(0, 2)))[0]
    assert inked.max() + 1 >= 0.9 * font(11).getlength(text)


@pytest.mark.parametrize(
    ("largest", "score", "value", "full"),
    [
        (0.27, "probability", 0.4, 0.27),
        (1e-10, "probability", 1e-6, 0.01),
        (0.0, "probability", 0.4, 0.01),
        (3.0, "logit", 8.0, 3.0),
        (1e-6, "logit", 8.0, 0.01),
        (1e-6, "logit", -0.1, 1e-3),
        (1e-4, "logprob", -9.0, 0.01),
    ],
)
def test_weak_maps_are_drawn_weakly(largest: float, score: str, value: float, full: float):
    found, note = heat.strength(largest, score, value)
    assert found == pytest.approx(full)
    if largest == 0:
        assert note is not None and "nothing here" in note
    elif largest < full:
        assert note is not None and note.startswith("weak: ")
        faint = heat.diverging(np.array([largest]), found)
        assert np.abs(faint - heat.diverging(np.zeros(1), 1.0)).max() < 30
    else:
        assert note is None
