"""A photo with its background exchanged, blurred, or alone: what the model says then.

The background test of Ribeiro et al. 2016's wolves on snow: a class that the background alone gets,
or that the object loses with another background, is one of the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..photos.images import Pixels
from .objects import Region

__all__ = ["Cut", "alone", "blank", "blurred", "exchanged", "grey", "greyed", "variants"]

# What a background is blurred by, of the photo's longer side.
BLUR = 0.08


@dataclass(frozen=True)
class Cut:
    """A photo as the model sees it, uint8 [h, w, 3], and its object, bool [h, w]; None: nobody
    looked for one."""

    pixels: Pixels
    region: Region | None


def variants(cut: Cut, others: Sequence[Cut]) -> list[Pixels]:
    """The photo; its background blurred; alone; before grey; the photo's mean colour; that in grey;
    and the object before each of the others' backgrounds."""
    pixels, region = cut.pixels, cut.region
    assert region is not None
    made = [
        pixels, blurred(pixels, region), alone(pixels, region), greyed(pixels, region),
        blank(pixels), grey(pixels),
    ]  # fmt: skip
    for other in others:
        there = region if other.region is None else other.region
        made.append(exchanged(pixels, region, other.pixels, there))
    return made


def alone(pixels: Pixels, region: Region) -> Pixels:
    """The background without the object, uint8 [h, w, 3]: where the object was, the colours around
    it run together."""
    if not region.any() or region.all():
        return blank(pixels) if region.all() else pixels
    known: NDArray[np.float32] = (~region).astype(np.float32)
    filled = _filled(np.asarray(pixels, np.float32), known)
    made = np.where(region[..., None], filled, pixels)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def _filled(values: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values [h, w, 3] where they are known (0 to 1), and between them what a coarser picture of
    them has: halved until nothing is unknown, and enlarged again."""
    if min(known.shape) < 2 or (known > 0).all():
        return values
    high, wide = known.shape
    size = (-(-wide // 2), -(-high // 2))
    weight = _resized(known, size)
    small = np.stack([_resized(values[..., c] * known, size) for c in range(3)], axis=-1)
    level = np.asarray(small / np.maximum(weight, 1e-6)[..., None], np.float32)
    coarse = _filled(level, weight)
    up = np.stack([_resized(coarse[..., c], (wide, high), smooth=True) for c in range(3)], axis=-1)
    return np.where(known[..., None] > 0, values, up)


def _resized(
    values: NDArray[np.float32], size: tuple[int, int], smooth: bool = False
) -> NDArray[np.float32]:
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.BOX
    return np.asarray(Image.fromarray(np.asarray(values, np.float32)).resize(size, how))


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


def grey(pixels: Pixels) -> Pixels:
    """The photo's mean brightness, without its colour."""
    mean = np.rint(np.asarray(Image.fromarray(blank(pixels)).convert("L")))
    return np.repeat(mean[..., None], 3, axis=2).astype(np.uint8)


def greyed(pixels: Pixels, region: Region) -> Pixels:
    """The object before its background's mean brightness: blurring leaves a background's colour."""
    back = grey(pixels[~region][None]) if (~region).any() else pixels
    return np.where(region[..., None], pixels, back[:1, :1])
