"""Two-sided tests of Welch's, against figures that are known."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.inside.significance import two_sided, welch


class TestSignificance:
    def test_is_scipys(self):
        stats = pytest.importorskip("scipy.stats")
        rng = np.random.default_rng(0)
        for _ in range(50):
            a = rng.normal(size=rng.integers(2, 30)) * rng.uniform(0.1, 5)
            b = rng.normal(size=rng.integers(2, 90)) + rng.uniform(-2, 2)
            want = stats.ttest_ind(a, b, equal_var=False).pvalue
            assert welch(a, b) == pytest.approx(want, rel=1e-9)
        for t in (1e-8, 0.5, 3, 40):
            for freedom in (1, 1.5, 10, 1e5):
                assert two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-7)

    def test_closed_forms(self):
        # One degree of freedom is Cauchy's distribution; two have a square root.
        assert two_sided(1, 1) == pytest.approx(0.5)
        assert two_sided(2**0.5, 2) == pytest.approx(1 - 0.5**0.5)

    def test_without_spread(self):
        assert welch([1, 1, 1], [1, 1]) == 1
        assert welch([1, 1, 1], [0, 0]) == 0
        assert welch([1], [0, 1, 0]) is None
