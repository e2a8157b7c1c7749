"""Concept activation vectors: fits, and the sets they are fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.inside.cavs import FITS, fitted
from backlight.engine.inside.testing import random_sets


class TestVectors:
    A = np.array([[2, 0], [4, 0], [3, 1], [3, -1]], np.float32)
    B = np.array([[-2, 0], [-4, 0], [-3, 1], [-3, -1]], np.float32)

    @pytest.mark.parametrize("kind", FITS)
    def test_tells_the_two_sides(self, kind):
        if kind != "mean":
            pytest.importorskip("sklearn")
        a, b = np.tile(self.A, (6, 1)), np.tile(self.B, (6, 1))
        cav = fitted(kind, a, b, np.random.default_rng(0))
        assert cav.accuracy == 1
        assert cav.normal.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(cav.normal), 1, rtol=1e-6)
        np.testing.assert_allclose(cav.normal, [1, 0], atol=0.15)
        turned = fitted(kind, b, a, np.random.default_rng(0))
        assert turned.normal[0] < -0.9 and turned.accuracy == 1

    @pytest.mark.parametrize("kind", ["logistic", "svm"])
    def test_few_rows_of_many_units_are_fitted_in_their_span(self, kind):
        models_of = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.svm")
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((2, 6, 300)) + np.array([0.3, 0])[:, None, None]
        found, border = FITS[kind](a.astype(np.float32), b.astype(np.float32), 0)
        rows = np.concatenate([a, b]).astype(np.float32).astype(np.float64)
        scale = np.sqrt((rows**2).mean())
        make = {
            "logistic": lambda: models_of[0].LogisticRegression(max_iter=1000, tol=1e-8),
            "svm": lambda: models_of[1].LinearSVC(max_iter=50000, tol=1e-8),
        }[kind]
        plain = make().fit(rows / scale, [1] * 6 + [0] * 6)
        cosine = found @ plain.coef_[0] / np.linalg.norm(found) / np.linalg.norm(plain.coef_[0])
        assert cosine > 0.9999 and border == pytest.approx(-plain.intercept_[0], abs=0.01)

    def test_is_the_difference_of_means(self):
        cav = fitted("mean", self.A[:1], self.B[2:3], np.random.default_rng(0))
        np.testing.assert_allclose(cav.normal, np.array([5, -1]) / 26**0.5, rtol=1e-6)
        assert cav.accuracy is None  # one row a side: nothing to hold back

    def test_two_sides_that_are_one_have_no_direction(self):
        same = np.ones((6, 2), np.float32)
        flat = fitted("mean", same, same, np.random.default_rng(0))
        assert not flat.normal.any() and flat.accuracy == 0.5

    def test_accuracy_is_of_rows_that_were_held_back(self):
        """On noise a vector tells what it has seen, and nothing else."""
        rng = np.random.default_rng(0)
        found = [
            fitted("mean", *rng.standard_normal((2, 12, 400)).astype(np.float32), rng).accuracy
            for _ in range(60)
        ]
        assert abs(np.mean(found) - 0.5) < 0.05  # the mean of 60 x 8: its error is 0.02

    def test_one_random_folder_is_split_and_several_are_sets(self):
        rng = np.random.default_rng(0)
        split = random_sets([60], 10, rng)
        assert [len(s) for s in split] == [6] * 10
        assert sorted(np.concatenate(split)) == list(range(60))
        assert [len(s) for s in random_sets([23], 10, rng)] == [4, 4, 3, 3, 3, 3, 3]
        assert [len(s) for s in random_sets([5], 10, rng)] == [3, 2]
        assert [len(s) for s in random_sets([3], 10, rng)] == [3]
        several = random_sets([3, 2, 4], 10, rng)
        assert [s.tolist() for s in several] == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
