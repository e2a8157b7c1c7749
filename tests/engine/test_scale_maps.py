"""Maps as columns of a part."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.photos.images import InputSpec
from backlight.engine.scale import maps
from backlight.engine.scale.maps import MapColumns, decoded


@pytest.mark.parametrize("form", maps.FORMS)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("shape", ["nchw", "nhwc", "map", "signed map"])
def test_forms_of_a_map(form: str, scale: float, shape: str) -> None:
    """Whatever its size: half precision has no values like 1e-9, nor like 1e9."""
    rng = np.random.default_rng(0)
    layout = "nhwc" if shape == "nhwc" else "nchw"
    spec = InputSpec("x", np.dtype(np.float32), layout, 3, (8, 12), None)
    size = {"nchw": (3, 8, 12), "nhwc": (8, 12, 3)}.get(shape, (8, 12))
    values = (scale * rng.standard_normal(size)).astype(np.float32)
    values = np.abs(values) if shape == "map" else values
    made = MapColumns("m", form, 4, spec)
    cells = made.cells(values)
    assert list(cells) == list(made.names)
    (field, *_) = made.fields(size)
    said = {k.decode(): v.decode() for k, v in field.metadata.items()}
    held = tuple(int(n) for n in said["shape"].split(","))
    got = decoded(cells["saliency_m"], cells.get("scale_m"), said["form"], held)
    plane = values if "map" in shape else np.abs(values).max(axis=0 if layout == "nchw" else 2)
    want = {
        "float16": values, "png": plane,
        "grid": plane.reshape(4, 2, 4, 3).mean(axis=(1, 3)),
    }[form]  # fmt: skip
    off = {"float16": 5e-4, "png": 0.5 / 127, "grid": 1e-6}[form] * np.abs(values).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=off)
    assert (made.cells(np.zeros(size, np.float32)).get("scale_m", 0)) == 0
    zero = made.cells(np.zeros(size, np.float32))
    assert not decoded(zero["saliency_m"], zero.get("scale_m"), form, held).any()
