"""Parts of pictures: outlined and numbered, cut out with what is around them, put into others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..photos.images import Pixels
from .fonts import font
from .panel import BLANK

__all__ = ["cut_out", "marked", "pasted"]

# In CIELAB far from both: it is seen on dark and on light.
OUTLINE, SHADE = (255, 196, 0), (24, 24, 27)
Boxes = NDArray[np.float64]


def marked(pixels: Pixels, boxes: Boxes, side: int) -> Pixels:
    """A picture whose longer side is about `side`, with boxes [E, 4] (top, left, bottom, right in
    its pixels) outlined, and numbered from 1 where there is room."""
    scale = max(side / max(pixels.shape[:2]), 1)
    image = _enlarged(pixels, scale)
    draw = ImageDraw.Draw(image)
    face = font(11)
    for box in boxes:
        top, left, bottom, right = (float(v) * scale for v in box)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=SHADE, width=3)
    for number, box in enumerate(boxes, 1):
        top, left, bottom, right = (float(v) * scale for v in box)
        draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=OUTLINE, width=1)
        text = str(number)
        wide = face.getlength(text)
        if wide + 5 <= right - left and bottom - top >= 17:
            draw.rectangle((left + 1, top + 1, left + wide + 5, top + 14), SHADE)
            face.write(draw, (left + 3, top), text, OUTLINE)
    return np.array(image)


def cut_out(pixels: Pixels, box: Boxes, side: int) -> Pixels:
    """A box [4] in the middle of what is around it, a cell's size to all sides: [side, side, 3];
    light grey beyond the border."""
    top, left, bottom, right = (float(v) for v in box)
    half = 1.5 * max(bottom - top, right - left, 1.0)
    y, x = (top + bottom) / 2, (left + right) / 2
    area = (x - half, y - half, x + half, y + half)
    scale = side / (2 * half)
    image = Image.new("RGB", (side, side), BLANK)
    high, wide = pixels.shape[:2]
    inside = (max(area[0], 0), max(area[1], 0), min(area[2], wide), min(area[3], high))
    size = tuple(max(round((inside[a + 2] - inside[a]) * scale), 1) for a in (0, 1))
    part = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=inside)  # type: ignore[arg-type]
    image.paste(part, (round((inside[0] - area[0]) * scale), round((inside[1] - area[1]) * scale)))
    draw = ImageDraw.Draw(image)
    frame = [(left - area[0]), (top - area[1]), (right - area[0]), (bottom - area[1])]
    first = [v * scale for v in frame]
    draw.rectangle(first, outline=SHADE, width=3)
    draw.rectangle((first[0] + 1, first[1] + 1, first[2] - 1, first[3] - 1), outline=OUTLINE)
    return np.array(image)


def pasted(pixels: Pixels, into: Sequence[Boxes], other: Pixels, of: Sequence[Boxes]) -> Pixels:
    """A picture with boxes of another in place of its own, each brought to their size: what the
    swaps would be in pixels, not what the model saw."""
    image = Image.fromarray(pixels.copy())
    source = Image.fromarray(other)
    for here, there in zip(into, of, strict=True):
        top, left, bottom, right = (round(float(v)) for v in here)
        y, x, end, last = (float(v) for v in there)
        if bottom > top and right > left and end > y and last > x:
            part = source.resize(
                (right - left, bottom - top), Image.Resampling.BICUBIC, box=(x, y, last, end)
            )
            image.paste(part, (left, top))
    return np.array(image)


def _enlarged(pixels: Pixels, scale: float) -> Image.Image:
    high, wide = pixels.shape[:2]
    size = (round(wide * scale), round(high * scale))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
