"""Priors of natural images: values and gradients, by hand and numerically."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backlight.engine.inside.priors import Priors, alpha_norm, total_variation
from backlight.errors import UsageError


def numeric(f: Callable[[Any], Any], z: Any, step: float) -> Any:
    """Central differences of the sum over rows, in float64."""
    gradient = np.zeros_like(z)
    for index in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (f(up).sum() - f(down).sum()) / (2 * step)
    return gradient


class TestPriors:
    z = np.random.default_rng(3).normal(0, 50, (2, 3, 4, 5))

    @pytest.mark.parametrize("alpha", [1.0, 2.0, 6.0])
    def test_alpha_norm_by_finite_differences(self, alpha: float) -> None:
        _, got = alpha_norm(self.z, alpha, 80.0)
        want = numeric(lambda z: alpha_norm(z, alpha, 80.0)[0], self.z, 1e-4)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-10)  # differences of step 1e-4

    @pytest.mark.parametrize("beta", [1.0, 1.5, 2.0])
    def test_total_variation_by_finite_differences(self, beta: float) -> None:
        _, got = total_variation(self.z, beta, 12.0)
        want = numeric(lambda z: total_variation(z, beta, 12.0)[0], self.z, 1e-4)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)  # differences of step 1e-4

    def test_values_by_hand(self) -> None:
        z = np.zeros((1, 1, 2, 2))
        z[0, 0, 0] = [40, 80]
        # (1/2)**6 and 1 over 4 pixels
        assert alpha_norm(z, 6, 80)[0][0] == pytest.approx((1 / 64 + 1) / 4)
        # right, down: (40, -40), (0, -80); over 4 values and 20**2
        assert total_variation(z, 2, 20)[0][0] == pytest.approx((3200 + 6400) / 400 / 4)

    def test_a_flat_image_has_no_variation_and_rows_are_apart(self) -> None:
        value, gradient = total_variation(np.full((1, 3, 4, 4), 9.0), 1.0, 12.0)
        assert value[0] == 0
        assert not gradient.any()
        both, _ = Priors()(self.z)
        alone = [Priors()(self.z[i : i + 1])[0][0] for i in range(2)]
        np.testing.assert_allclose(both, alone, rtol=1e-12)  # float64, another order of sums

    def test_weights_are_linear_and_checked(self) -> None:
        value, gradient = Priors(2.0, 0.0)(self.z)
        norm, by = alpha_norm(self.z, 6.0, 80.0)
        np.testing.assert_allclose(value, 2 * norm)
        np.testing.assert_allclose(gradient, 2 * by)
        for wrong in ({"alpha": 0.5}, {"tv_weight": -1.0}, {"step": 0.0}):
            with pytest.raises(UsageError, match=next(iter(wrong))):
                Priors(**wrong)
