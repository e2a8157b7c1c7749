"""Resampling against Pillow's own, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backlight.kernels.streams.resample import FILTERS, native, resample

if native is None:
    pytest.skip("native module not built", allow_module_level=True)

PILLOW = {name: Image.Resampling[name.upper()] for name in FILTERS}


def picture(rng: np.random.Generator, kind: str) -> np.ndarray:
    height, width = rng.integers(1, 200, 2)
    if kind == "narrow":
        width = min(width, 3)
    values = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    # Black and white: the filters' negative lobes reach below 0 and above 255.
    return values if kind == "noise" else (values > 127).astype(np.uint8) * 255


@pytest.mark.parametrize("kind", ["noise", "black and white", "narrow"])
@pytest.mark.parametrize("name", FILTERS)
def test_equals_pillow(name: str, kind: str) -> None:
    rng = np.random.default_rng(sum(map(ord, name + kind)))
    done = 0
    for _ in range(40):
        values = picture(rng, kind)
        height, width = values.shape[:2]
        size = tuple(int(n) for n in rng.integers(1, 200, 2))
        box = None
        if rng.random() < 0.5:
            left, right = np.sort(rng.uniform(0, width, 2))
            top, bottom = np.sort(rng.uniform(0, height, 2))
            box = (left, top, max(right, left + 0.01), max(bottom, top + 0.01))
            box = tuple(float(v) for v in np.minimum(box, [width, height] * 2))
        image = Image.fromarray(values)
        got = resample(values, size, name, box)
        if got is None:  # Pillow's turn: it shrinks the height first
            assert height - size[0] > 2 * (width - size[1])
            continue
        want = np.array(image.resize(size[::-1], PILLOW[name], box=box))
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(got, resample(image, size, name, box))
        done += 1
    assert done > 10


def test_a_large_picture_by_the_arrow_interface_or_not_at_all() -> None:
    """Above 16 MB Pillow keeps its pixels in several blocks, which have no such interface."""
    image = Image.effect_noise((3000, 3000), 90).convert("RGB")
    want = np.array(image.resize((40, 40), Image.Resampling.BICUBIC))
    got = resample(image, (40, 40), "bicubic")
    assert got is None or np.array_equal(got, want)
    np.testing.assert_array_equal(resample(np.array(image), (40, 40), "bicubic"), want)
