"""Maps as pictures a person can read: what each value becomes is written under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...export.methods import method
from ..photos.bands import default_bands
from ..photos.images import Pixels, channels_last, in_rgb
from .fonts import Face, font

__all__ = [
    "Cell",
    "caption_of",
    "for_and_against",
    "magnitude",
    "nothing",
    "panel",
    "saliency_picture",
    "signed",
]

INK = (24, 24, 27)
FAINT = (113, 113, 122)
PAPER = (255, 255, 255)
BLANK = (226, 226, 230)
NO_GRADIENT = "no gradient"
MARGIN = 12
# Smaller maps are enlarged by a whole factor: a pixel stays a square.
SMALLEST = 200
# A few extreme pixels would leave the rest black (or grey).
PERCENTILE = 99.5
# Letters to a pixel of width, at most: those that take none (marks on others) count as well.
_PER_PIXEL = 4
# Of a text, what a picture shows: labels and names may have any length.
_LONGEST = 4000


def magnitude(gradient: NDArray[Any], layout: str) -> Pixels:
    """Largest |value| over channels, one map without batch -> grey [H, W, 3]; white is the
    99.5th percentile and above, black is 0. Simonyan et al. 2014."""
    values = np.abs(channels_last(gradient.astype(np.float32), layout)).max(axis=-1)
    top = _percentile(values)
    grey = np.rint(255 * np.clip(values / top, 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def signed(
    gradient: NDArray[Any], layout: str, color: str = "RGB", bands: Sequence[int] | None = None
) -> Pixels:
    """The gradient as a colour picture, one map without batch -> [H, W, 3] RGB: grey is 0, the
    99.5th percentile of |value| is full brightness or darkness. Springenberg et al. 2015. bands:
    that are shown, counted from 1; None: the colours, of other images the first three."""
    values = channels_last(gradient.astype(np.float32), layout)
    depth = values.shape[2]
    if depth in (1, 3):
        values = in_rgb(values, color)
    if depth not in (1, 3) or bands is not None:
        shown = default_bands(depth) if bands is None else bands
        values = in_rgb(values[..., [b - 1 for b in shown]], "RGB")
    top = _percentile(np.abs(values))
    return np.rint(127.5 + 127.5 * np.clip(values / top, -1, 1)).astype(np.uint8)


def _percentile(values: NDArray[Any]) -> float:
    """The 99.5th percentile; the maximum where that is 0 (few pixels count); 1 for all zeros."""
    return float(np.percentile(values, PERCENTILE)) or float(values.max()) or 1.0


def for_and_against(values: NDArray[Any], layout: str) -> Pixels:
    """The sum over channels, one map without batch -> [H, W, 3]: red above 0, blue below, white
    at 0; the 99.5th percentile of |sum| is full colour."""
    from .heat import diverging

    total = channels_last(values.astype(np.float32), layout).sum(axis=-1)
    return np.rint(diverging(total, _percentile(np.abs(total)))).astype(np.uint8)


def nothing(height: int, width: int, text: str) -> Pixels:
    """In place of the picture of a map that is all 0: the text on light grey, uint8 [H, W, 3],
    enlarged as `panel` would."""
    blank = enlarged(np.full((height, width, 3), BLANK, np.uint8))
    drawn, face = Image.fromarray(blank), font(14)
    at = ((drawn.width - face.getlength(text)) / 2, (drawn.height - 18) / 2)
    face.write(ImageDraw.Draw(drawn), at, text, INK)
    return np.array(drawn)


def saliency_picture(
    name: str,
    values: NDArray[Any],
    layout: str,
    color: str,
    bands: Sequence[int] | None = None,
    channels: int | None = None,
) -> Pixels:
    """A method's map as it is read best, which its row says: magnitude, colours or signed; one that
    is all 0 (NaN counts as 0) as words. bands: see `signed`. channels: of the image; a map of
    others, by a tensor inside the model, has no colours."""
    picture = method(name).picture
    values = np.where(np.isfinite(values), values, np.zeros((), values.dtype))
    if not values.any():
        height, width = channels_last(values, layout).shape[:2]
        return nothing(height, width, NO_GRADIENT)
    if picture == "signed":
        return for_and_against(values, layout)
    if picture == "magnitude" or layout == "nhw" or not _coloured(values, layout, channels):
        return magnitude(values, layout)
    return signed(values, layout, color, bands)


def _coloured(values: NDArray[Any], layout: str, channels: int | None) -> bool:
    depth = channels_last(values, layout).shape[2]
    return depth in (1, 3) or depth == channels


def caption_of(
    name: str,
    layout: str = "nchw",
    blank: bool = False,
    channels: int | None = None,
    bands: Sequence[int] | None = None,
) -> str:
    """What `saliency_picture` shows. blank: of a map that is all 0. channels: the map's, where
    they are known: of one there are no colours to speak of. bands: see `signed`."""
    more = "" if method(name).by_class else "; the same for every class"
    return _caption(name, layout, blank, channels, bands) + more


def _caption(
    name: str, layout: str, blank: bool, channels: int | None, bands: Sequence[int] | None
) -> str:
    picture = method(name).picture
    if picture == "heat":
        return "over the photo; white: 0, red: for the class, blue: against, as its scale says"
    if blank:
        return "all 0: nothing of the score's gradient reaches the pixels"
    if picture == "signed":
        return (
            "summed over channels; red: for the class, blue: against, full: the 99.5th percentile"
        )
    plain = picture == "magnitude" or layout == "nhw"
    if channels == 1:
        if plain:
            return "|gradient|; white: its 99.5th percentile"
        return "gradient; grey: 0, white and black: the 99.5th percentile of |gradient|"
    if plain:
        return "largest |gradient| over channels; white: its 99.5th percentile"
    if bands is not None or channels not in (None, 3):
        shown = default_bands(channels or 3) if bands is None else bands
        which = f"bands {', '.join(map(str, shown))}" if len(shown) > 1 else f"band {shown[0]}"
        return f"gradient of {which}; grey: 0, full: the 99.5th percentile of |gradient|"
    return "gradient per colour; grey: 0, full: the 99.5th percentile of |gradient|"


@dataclass(frozen=True)
class Cell:
    """A picture with a title and a caption. pixels: uint8 [H, W, 3]."""

    pixels: Pixels
    title: str
    caption: str


def wrapped(text: str, face: Face, width: int) -> list[str]:
    """Words put into lines no wider than `width` pixels; a word alone may be wider. Of a text, the
    first 4000 letters."""
    lines: list[str] = []
    for word in text[:_LONGEST].split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def shortened(text: str, face: Face, width: int) -> str:
    """Text cut with an ellipsis so that it fits."""
    # A letter takes a pixel or more, nearly always: what comes after is never measured.
    whole, text = len(text) <= _PER_PIXEL * width + 1, text[: _PER_PIXEL * width + 1]
    if whole and face.getlength(text) <= width:
        return text
    fits, beyond = 0, len(text)
    while beyond - fits > 1:  # widths grow with the text: halve where the end may lie
        middle = (fits + beyond) // 2
        if face.getlength(text[:middle] + "…") <= width:
            fits = middle
        else:
            beyond = middle
    return text[:fits].rstrip() + "…"


def shortened_inside(text: str, face: Face, width: float) -> str:
    """Text cut in its middle so that it fits: of a layer's name the end says most."""
    if face.getlength(text) <= width:
        return text
    low, high = 0, min(len(text), 1000) - 1  # how many letters stay; no width holds a thousand
    while low < high:
        kept = (low + high + 1) // 2
        fits = face.getlength(_ends(text, kept)) <= width
        low, high = (kept, high) if fits else (low, kept - 1)
    return _ends(text, low)


def _ends(text: str, kept: int) -> str:
    first = kept // 4
    return f"{text[:first].rstrip()}…{text[len(text) - (kept - first) :].lstrip()}"


def enlarged(pixels: Pixels, smallest: int = SMALLEST) -> Pixels:
    """A small picture by a whole factor, so that its longer side reaches `smallest`."""
    factor = -(-smallest // max(pixels.shape[:2]))
    return np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)


def panel(
    heading: str, detail: str, cells: Sequence[Cell], columns: int | None = None
) -> Image.Image:
    """Pictures side by side, a heading of two lines at most above, a title and a caption under
    each. columns: how many in a row; default: all of them."""
    shown = [enlarged(cell.pixels) for cell in cells]
    big, middle, small = font(20), font(15), font(12)
    each = columns or max(len(cells), 1)
    widths = [max([s.shape[1] for s in shown[at::each]] + [150]) for at in range(each)]
    wide = [widths[at % each] for at in range(len(cells))]
    captions = [
        [shortened_inside(line, small, w) for line in wrapped(c.caption, small, w)]
        for c, w in zip(cells, wide, strict=True)
    ]
    width = sum(widths) + MARGIN * (each + 1)
    inner = width - 2 * MARGIN
    first, *rest = wrapped(heading, big, inner) or [""]
    lines_above = [first, " ".join(rest)] if rest else [heading]
    below_heading = MARGIN + 26 * len(lines_above)
    top = below_heading + (22 if detail else 0) + 6
    rows = [slice(at, at + each) for at in range(0, len(cells), each)]
    tall = [max(s.shape[0] for s in shown[row]) for row in rows]
    under = [6 + 20 + 15 * max(map(len, captions[row])) + MARGIN for row in rows]
    sheet = Image.new("RGB", (width, top + sum(tall) + sum(under)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for at, line in enumerate(lines_above):
        big.write(draw, (MARGIN, MARGIN - 2 + 26 * at), shortened(line, big, inner), INK)
    if detail:
        middle.write(draw, (MARGIN, below_heading - 1), shortened(detail, middle, inner), FAINT)
    for row, height, more in zip(rows, tall, under, strict=True):
        left, below = MARGIN, top + height + 6
        parts = zip(cells[row], shown[row], captions[row], wide[row], strict=True)
        for cell, picture, lines, span in parts:
            sheet.paste(Image.fromarray(picture), (left, top))
            middle.write(draw, (left, below), shortened(cell.title, middle, span), INK)
            for at, line in enumerate(lines):
                small.write(draw, (left, below + 20 + 15 * at), line, FAINT)
            left += span + MARGIN
        top += height + more
    return sheet
