"""TIFF of any number of bands."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from backlight.engine.photos import tiff

from .tiffs import written


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("planar", [False, True])
def test_tiff(order: str, dtype: str, deflate: bool, predictor: int, planar: bool) -> None:
    floats = dtype.startswith("float")
    if floats and predictor == 2:
        pytest.skip("differences of floats are of their bits")
    values = np.random.default_rng(2).integers(0, 200, (11, 7, 5)).astype(dtype)
    stream = io.BytesIO(written(values, order, planar, deflate, predictor, floats))
    (page,) = tiff.pages_of(stream)
    np.testing.assert_array_equal(tiff.array_of(stream, page), values)


@pytest.mark.parametrize("packed", ["tiff_lzw", "packbits", "tiff_adobe_deflate", None])
def test_tiff_of_another_writer(packed: str | None) -> None:
    """Pillow's, by libtiff: what repeats as in pictures, and noise that fills LZW's table."""
    rng = np.random.default_rng(3)
    for values in (rng.integers(0, 255, (90, 80, 4)), rng.integers(0, 3, (90, 80, 4)) * 9):
        stream = io.BytesIO()
        Image.fromarray(values.astype(np.uint8)).save(stream, "TIFF", compression=packed)
        (page,) = tiff.pages_of(stream)
        np.testing.assert_array_equal(tiff.array_of(stream, page), values)
