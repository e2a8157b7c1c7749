"""A grid of pictures: no two in one cell, the least moves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from backlight.engine.similar import snap as snapping
from backlight.engine.similar.snap import snap


class TestSnap:
    @pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 101])
    @pytest.mark.parametrize("optimal", [10**6, -1], ids=["assigned", "halved"])
    @pytest.mark.parametrize("ratio", [1.0, 1.7])
    def test_no_two_in_one_cell(
        self, count: int, optimal: int, ratio: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(snapping, "OPTIMAL", optimal)
        points = np.random.default_rng(count).standard_normal((count, 2))
        cells, (rows, columns) = snap(points, ratio)
        assert len({tuple(c) for c in cells.tolist()}) == count
        assert rows * columns >= count
        assert (cells >= 0).all()
        assert (cells < [rows, columns]).all()

    def test_the_least_moves(self) -> None:
        pytest.importorskip("scipy")
        points = np.random.default_rng(0).random((4, 2))
        cells, size = snap(points)
        assert size == (2, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        unit = (points - low) / (high - low)
        place = np.stack([1 - unit[:, 1], unit[:, 0]], axis=1)
        orders = itertools.permutations([(0, 0), (0, 1), (1, 0), (1, 1)])
        least = min(((place - np.array(o)) ** 2).sum() for o in orders)
        assert ((place - cells) ** 2).sum() == pytest.approx(least)

    @pytest.mark.parametrize("optimal", [10**6, -1], ids=["assigned", "halved"])
    def test_a_grid_stays_as_it_is(self, optimal: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapping, "OPTIMAL", optimal)
        want = np.stack(np.divmod(np.arange(36), 6), axis=1)
        points = np.stack([want[:, 1], -want[:, 0]], axis=1).astype(np.float64)
        np.testing.assert_array_equal(snap(points)[0], want)
