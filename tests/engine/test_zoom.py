"""Moves of an image by parts of a pixel, and their adjoints."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.inside.zoom import Move, moved


class TestWavesAndMoves:
    def test_adjoint_is_exact(self) -> None:
        rng = np.random.default_rng(1)
        move = Move(9, 7, 3.0, 0.3, rng, np)
        a, b = rng.standard_normal((2, 1, 3, 9, 7)).astype(np.float32)
        # fp32: sums of 189 products
        assert (move(a) * b).sum() == pytest.approx((a * move.adjoint(b)).sum(), abs=1e-3)

    def test_a_move_that_does_nothing_and_one_by_hand(self) -> None:
        np.testing.assert_array_equal(moved(5, 1.0, 0.0), np.eye(5, dtype=np.float32))
        got = moved(4, 1.0, 1.5) @ np.array([0, 10, 20, 30], np.float32)
        np.testing.assert_allclose(got, [15, 25, 25, 15])  # mirrored beyond 3
        got = moved(5, 2.0, 0.0) @ np.array([0, 10, 20, 30, 40], np.float32)
        np.testing.assert_allclose(got, [10, 15, 20, 25, 30])
