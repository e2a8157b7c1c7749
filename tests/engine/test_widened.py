"""Models that take images of a type that masks aren't made in."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.masked.rise import Rise

from .. import models

X = models.images(3, 3, 8, 8)


@pytest.mark.parametrize("kind", ["double", "int8", "int32", "int64", "uint16"])
@pytest.mark.parametrize("batch", ["", "N,"])
def test_images_of_any_type_are_masked(kind, batch):
    """As the model that takes float32 does, where no window leaves a fraction: to 0."""
    front = "x = Cast<to=1>(image)" if batch else "q = Cast<to=1>(image) x = Unsqueeze(q, zero)"
    body, shape = f"{front} {models.BODY}", f"{batch}3,8,8"
    model = models.tiny(body=body, dtype=kind, shape=shape)
    model.graph.input[0].name = "image"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))
    x = np.round(X * 3)[: None if batch else 1]
    x = np.abs(x) if kind == "uint16" else x
    given = x.astype({"double": "float64"}.get(kind, kind))
    for how in ({"method": "dense"}, {"method": "incremental"}):
        made = Occlusion(model, window=4, stride=2, baseline=0, **how)
        want = Occlusion(models.tiny(), window=4, stride=2, baseline=0, **how)(x)
        np.testing.assert_allclose(made(given), want, rtol=0, atol=2e-6)
        assert made(given).any()
    risen = Rise(model, masks=16, cells=3, baseline="mean")(given)
    assert np.isfinite(risen).all() and risen.any()
