"""Heat maps as pictures: colours over the photo, and a bar that says what they stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..photos.images import Pixels
from .fonts import font
from .panel import FAINT, INK, enlarged

__all__ = [
    "coloured",
    "diverging",
    "full_colour",
    "outlined",
    "over_photo",
    "sequential",
    "strength",
    "with_bar",
]

# From 0 outwards in even steps of CIELAB lightness, 97 to 38 (92 to 30 for the sequential one).
_LOSS = (
    (246, 246, 246), (246, 220, 207), (242, 195, 172), (236, 169, 141), (229, 143, 113),
    (220, 115, 88), (210, 86, 66), (200, 51, 47), (182, 0, 35),
)  # fmt: skip
_GAIN = (
    (246, 246, 246), (210, 228, 242), (177, 209, 235), (145, 189, 228), (114, 169, 221),
    (81, 150, 214), (43, 130, 205), (0, 110, 190), (3, 90, 167),
)  # fmt: skip
# Begins with a colour: the lowest value of a map is a value, and no place that nothing is said of.
_RISING = (
    (250, 233, 143), (242, 207, 115), (233, 180, 91), (224, 153, 69), (215, 125, 53),
    (201, 98, 46), (185, 71, 42), (167, 42, 39), (147, 0, 37),
)  # fmt: skip
# The photo's shadows are lifted so far, or colours could not be told apart in them.
SHADOW = 0.55
# LABELS: the room beside the bar, more where a label needs it.
BAR, GAP, LABELS = 12, 8, 52
# What full colour stands for at least: a point of a probability, 1 % of a score (0.01 at most).
FAINT_BELOW = 0.01

Colours = NDArray[np.float64]


def coloured(values: NDArray[Any], table: Sequence[Sequence[int]]) -> Colours:
    """Values 0..1 of any shape -> colours 0..255 [..., 3], linear between a table's rows."""
    rows = np.asarray(table, np.float64)
    place = np.clip(values, 0, 1) * (len(rows) - 1)
    low = np.minimum(place.astype(np.intp), len(rows) - 2)
    part = (place - low)[..., None]
    found: Colours = rows[low] * (1 - part) + rows[low + 1] * part
    return found


def diverging(values: NDArray[Any], largest: float) -> Colours:
    """-largest..largest -> colours: red above 0, blue below, white at 0."""
    scaled = np.asarray(values, np.float64) / (largest or 1.0)
    return np.where((scaled < 0)[..., None], coloured(-scaled, _GAIN), coloured(scaled, _LOSS))


def sequential(values: NDArray[Any], low: float, high: float) -> Colours:
    """low..high -> colours: pale yellow to dark red."""
    return coloured((np.asarray(values, np.float64) - low) / ((high - low) or 1.0), _RISING)


def full_colour(largest: float, score: str, value: float) -> float:
    """What full colour stands for in a map of changes of a score: its largest change, and 0.01 at
    least (a point of a probability; of a logit 1 % of the photo's own, `value`, where that is
    less): what is weak, down to the rounding of float32, is drawn weakly.

    score: "probability", "logprob" or "logit".
    """
    least = FAINT_BELOW * min(1.0, abs(value)) if score == "logit" else FAINT_BELOW
    return max(largest, least)


def strength(largest: float, score: str, value: float) -> tuple[float, str | None]:
    """`full_colour` of a map, and what is to be said of one that doesn't reach it, or None."""
    full = full_colour(largest, score, value)
    if largest == 0:
        return full, "nothing here: hiding changes nothing"
    return full, None if not largest < full else f"weak: {at_most(largest, score)}"


def at_most(largest: float, score: str) -> str:
    """A change of a score, for people."""
    amount = f"{100 * largest:.2g} pt" if score == "probability" else f"{largest:.2g}"
    return f"{amount} at most"


def over_photo(colours: Colours, photo: Pixels) -> Pixels:
    """Colours [H, W, 3] laid over a photo's brightness: on white they are what the bar shows."""
    grey = photo.astype(np.float64) @ (0.299, 0.587, 0.114)
    low, high = np.percentile(grey, (1, 99))
    light = SHADOW + (1 - SHADOW) * np.clip((grey - low) / max(high - low, 1), 0, 1)
    shaded: Pixels = np.rint(colours * light[..., None]).astype(np.uint8)
    return shaded


def with_bar(picture: Pixels, bar: Colours, ticks: Sequence[tuple[float, str]]) -> Pixels:
    """A picture with a colour bar to its right.

    bar: colours [n, 3] from the bottom up. ticks: (place 0..1 from the bottom, what it means).
    """
    shown = enlarged(picture)
    height, width = shown.shape[:2]
    face = font(11).own
    beside = max([LABELS, *(math.ceil(5 + face.getlength(text)) + 1 for _, text in ticks)])
    sheet = np.full((height, width + GAP + BAR + beside, 3), 255, np.uint8)
    sheet[:, :width] = shown
    inset = 6  # room for half a line of the outermost labels
    tall = height - 2 * inset
    rows = np.rint(np.linspace(len(bar) - 1, 0, tall)).astype(np.intp)
    left = width + GAP
    sheet[inset : inset + tall, left : left + BAR] = np.rint(bar[rows])[:, None]
    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, inset, left + BAR - 1, inset + tall - 1), outline=FAINT)
    for place, text in ticks:
        y = inset + (1 - place) * (tall - 1)
        draw.line((left + BAR, y, left + BAR + 2, y), fill=FAINT)
        draw.text((left + BAR + 5, y), text, INK, face, anchor="lm")
    return np.array(image)


def outlined(picture: Pixels, boxes: NDArray[np.int32]) -> Pixels:
    """A picture with an outline around each box (c0, c1, y0, y1, x0, x1), enlarged alike."""
    shown = enlarged(picture)
    factor = shown.shape[0] // picture.shape[0]
    covered = np.zeros(picture.shape[:2], bool)
    for _, _, y0, y1, x0, x1 in boxes:
        covered[y0:y1, x0:x1] = True
    inside = np.repeat(np.repeat(covered, factor, axis=0), factor, axis=1)
    # What borders on the outside, two pixels deep, is the outline of the union.
    core = inside.copy()
    for _ in range(2):
        edge = np.pad(core, 1, constant_values=False)
        core &= edge[:-2, 1:-1] & edge[2:, 1:-1] & edge[1:-1, :-2] & edge[1:-1, 2:]
    result = shown.copy()
    result[inside & ~core] = _LOSS[-1]
    return result
