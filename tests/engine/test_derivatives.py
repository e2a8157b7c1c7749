"""Derivatives of a class by a layer."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.classifier.ready import Ready
from backlight.engine.inside.derivatives import LayerDerivatives

from .. import models

# z0 = half the sum of squares of the activations, so that its gradient is the activations.
SQUARES = """<ir_version: 8, opset_import: ["": 18]>
squares (float[N,3,1,1] x) => (float[N,2] scores) {
    a = Flatten(x)
    s = Mul(a, a)
    scores = MatMul(s, m)
}"""


HALVES = {"m": np.array([[0.5, 0.1], [0.5, 0.2], [0.5, 0.3]], np.float32)}


class TestDerivatives:
    def test_the_case_of_tensorflow_tcav(self):
        """A7: activations (0, 1, 2), gradient the same, vector (1, 2, 3): 8."""
        layer = LayerDerivatives(
            Ready(models.parsed(SQUARES, HALVES)), "a", None, True, "cpu", None
        )
        x = np.array([[0, 1, 2], [0, -1, -2]], np.float32).reshape(2, 3, 1, 1)
        found = layer(x, np.array([0, 0]), np.array([[1, 2, 3], [0, 1, 0]], np.float32))
        # The gradient of the logit: along it the score rises.
        np.testing.assert_allclose(found, [[8, 1], [-8, -1]], rtol=1e-6)
        # A score of 1 for the image, and 0 by tensorflow/tcav's sign, which is the loss's.
        assert (found[:1, 0] > 0).mean() == 1 and (-found[:1, 0] > 0).mean() == 0
        other = layer(x, np.array([1, -1]), np.array([[1, 2, 3]], np.float32))
        # Class 1: gradients .2, .4, .6 of the activations; -1: the class on top, which is 0.
        np.testing.assert_allclose(other, [[4.4], [-8]], rtol=1e-6)

    @pytest.mark.parametrize("pooled", [True, False])
    def test_finite_differences(self, pooled):
        ready = Ready(models.tiny())
        layer = LayerDerivatives(ready, "r", None, pooled, "cpu", None)
        x = models.images(2, 3, 8, 8)
        size = 4 if pooled else 4 * 64
        directions = np.random.default_rng(1).standard_normal((3, size)).astype(np.float32)
        found = layer(x, np.array([2, 4]), directions)
        w = models.weights()
        # Behind the layer all is linear: the mean over places, times v.
        spread = directions.reshape(3, 4, -1).sum(axis=2) / (1 if pooled else 64)
        np.testing.assert_allclose(found, w["v"][[2, 4]] @ spread.T, rtol=1e-4, atol=1e-5)

    def test_a_vector_is_the_same_at_every_place_whatever_the_layout(self):
        ready = Ready(models.tiny())
        layer = LayerDerivatives(ready, "h", None, True, "cpu", None)
        assert layer.axes == (2, 3)
        values = np.arange(2 * 4 * 3 * 5, dtype=np.float32).reshape(2, 4, 3, 5)
        np.testing.assert_allclose(layer.rows(values), values.mean(axis=(2, 3)))
        flat = LayerDerivatives(ready, "h", None, False, "cpu", None)
        assert flat.rows(values).shape == (2, 60)
