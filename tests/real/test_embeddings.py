"""Embeddings and maps of real models and data: `pytest -m real`."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.similar.features import features
from backlight.engine.similar.maps import project

pytestmark = pytest.mark.real


def test_opennsfw_has_its_pool() -> None:
    from benchmarks.fetch import SOURCES, fetch

    source = SOURCES["opennsfw"]
    found = features(fetch("opennsfw") / next(iter(source.files.values())))
    assert found.width == 1024
    assert found.channel_axis == 3
    assert not found.notes


def test_digits_fall_into_ten_groups() -> None:
    """t-SNE of digits puts like beside like (van der Maaten and Hinton 2008, figure 2)."""
    pytest.importorskip("openTSNE")
    from benchmarks.fetch import digits

    rows, labels = digits()
    x, y = np.array(rows, np.float32)[::5] / 255, np.array(labels)[::5]
    points = project(x, seed=1).points
    far = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(far, np.inf)
    # Of the pixels themselves the nearest other digit is the same one 90 times in 100 here.
    assert (y[far.argmin(axis=1)] == y).mean() > 0.85
