"""The bundled photos as networks take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backlight.export import incremental

ASSETS = Path(incremental.__file__).resolve().parents[2] / "engine" / "assets"
PHOTOS = sorted((ASSETS / "photos").glob("*.jpg"))


def photo(path: Path, side: int, *, bgr: bool = False) -> NDArray[np.float32]:
    """A photo squeezed to a square, centred as ImageNet's are: float32 [3, side, side]."""
    pixels = np.asarray(Image.open(path).convert("RGB").resize((side, side)), np.float32)
    if bgr:
        pixels = pixels[..., ::-1] - np.array([104, 117, 123], np.float32)
    else:
        pixels = (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
