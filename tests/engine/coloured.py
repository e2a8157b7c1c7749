"""Photos with a red object, and ways to cut it out."""

from __future__ import annotations

from typing import Any

import numpy as np


def disc(size: int, row: int, column: int, radius: int) -> Any:
    y, x = np.indices((size, size))
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


LIBRARIES = {"grabcut": "cv2", "random-walker": "skimage"}


def coloured(mask: Any, seed: int = 0) -> Any:
    """Red where the mask is, else blue, with some noise: uint8 [H, W, 3]."""
    noise = np.random.default_rng(seed).integers(-12, 13, (*mask.shape, 3))
    colour = np.where(mask[..., None], (200, 40, 40), (40, 60, 200))
    return (colour + noise).astype(np.uint8)


def overlap(one: Any, other: Any) -> float:
    return float((one & other).sum() / (one | other).sum())
