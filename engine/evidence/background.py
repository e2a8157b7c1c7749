"""A photo with its background exchanged, blurred, or alone: what the model says then.

The background test of Ribeiro et al. 2016's wolves on snow: a class that the background alone gets,
or that the object loses with another background, is one of the background.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..photos.images import Pixels
from .objects import Region

__all__ = ["alone", "blank", "blurred", "exchanged"]

# Of the photo's longer side: what the background is blurred by, and filled from.
BLUR, FILL = 0.08, 0.12


def alone(pixels: Pixels, region: Region) -> Pixels:
    """The background without the object, uint8 [h, w, 3]: where the object was, the colours around
    it run together."""
    if not region.any() or region.all():
        return blank(pixels) if region.all() else pixels
    outside = (~region).astype(np.float32)
    mean = pixels[~region].astype(np.float32).mean(axis=0)
    weight = _spread(outside)
    filled = np.empty(pixels.shape, np.float32)
    for c in range(3):
        spread = _spread(pixels[..., c] * outside)
        # Deep inside nothing of the background arrives: there it is its mean.
        filled[..., c] = (spread + 1e-3 * mean[c]) / (weight + 1e-3)
    made = np.where(region[..., None], filled, pixels)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def _spread(values: NDArray[np.float32]) -> NDArray[np.float32]:
    image = Image.fromarray(np.asarray(values, np.float32))
    # Pillow blurs bytes alone: by reductions and bilinear enlargement, as smooth as a Gaussian's.
    height, width = values.shape
    step = max(round(FILL * max(height, width)), 1)
    small = (max(round(width / step), 2), max(round(height / step), 2))
    image = image.resize(small, Image.Resampling.BOX).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(image, np.float32)


def blurred(pixels: Pixels, region: Region) -> Pixels:
    """The object before its own background, blurred, with nothing of the object in it."""
    radius = BLUR * max(pixels.shape[:2])
    back = Image.fromarray(alone(pixels, region)).filter(ImageFilter.GaussianBlur(radius))
    return np.where(region[..., None], pixels, np.asarray(back))


def exchanged(pixels: Pixels, region: Region, other: Pixels, there: Region) -> Pixels:
    """The object before the background of another photo, whose own object is `there`."""
    return np.where(region[..., None], pixels, alone(other, there))


def blank(pixels: Pixels) -> Pixels:
    """The photo's mean colour."""
    mean = np.rint(pixels.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
    return np.broadcast_to(mean, pixels.shape).copy()
