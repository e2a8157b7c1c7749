"""Many small pictures on one sheet: tiles with labels, in rows with titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ...errors import UsageError
from ..photos.images import Pixels
from .fonts import Face, font
from .panel import BLANK, FAINT, INK, MARGIN, PAPER, shortened, shortened_inside, wrapped

__all__ = ["Row", "Tile", "figure", "fitted_to", "sheet", "tiled"]

GAP = 6
LABEL = 18
LINE = 17
TITLE = 132
# Lines of a heading at most.
HEADS = 3


@dataclass(frozen=True)
class Tile:
    """A picture and what is written under it. pixels: uint8 [H, W, 3], or None: left blank.
    tail: the label's end, which stays whole where the rest has to be shortened."""

    pixels: Pixels | None
    label: str = ""
    tail: str = ""

    def fitted(self, face: Face, width: int) -> str:
        """The label, at most so wide."""
        if not self.tail:
            return shortened(self.label, face, width)
        return shortened_inside(self.label, face, width - face.getlength(self.tail)) + self.tail


@dataclass(frozen=True)
class Row:
    """Tiles in a line; the title stands left of them, its first line in ink."""

    tiles: Sequence[Tile]
    title: str = ""
    detail: str = ""


def fitted_to(pixels: Pixels, side: int) -> Image.Image:
    """A picture whose longer side is about `side`: small ones by a whole factor, so that a pixel
    stays a square, large ones resampled."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest <= side:
        factor = max(side // longest, 1)
        return Image.fromarray(np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1))
    size = (max(round(width * side / longest), 1), max(round(height * side / longest), 1))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


def figure(value: float) -> str:
    """A number in three digits, for a label: 0.0123, 4.56, 1450; an exponent where it's needed."""
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-4:
        return f"{value:.2g}"
    return f"{value:.0f}" if size >= 100 else f"{value:.3g}"


def tiled(tiles: Sequence[Tile], columns: int) -> list[Row]:
    """Tiles as rows of `columns`, without titles."""
    return [Row(tiles[at : at + columns]) for at in range(0, len(tiles), columns)]


def sheet(
    heading: str, detail: Sequence[str], rows: Sequence[Row], side: int, note: str = ""
) -> Image.Image:
    """Rows of tiles, each in a square of `side` pixels; a heading and lines of detail above, a
    note below (how the values became pixels). Raises UsageError where there is no tile."""
    if not any(row.tiles for row in rows):
        raise UsageError("nothing to show; expected a limit of 1 or more, and a channel or more")
    # 13: at smaller sizes the font's hinting swallows the spaces between words.
    big, middle, small = font(20), font(14), font(13)
    pictures = [
        [None if t.pixels is None else fitted_to(t.pixels, side) for t in row.tiles] for row in rows
    ]
    columns = max(len(row.tiles) for row in rows)
    titled = any(row.title for row in rows)
    beside = 0
    if titled:
        longest = [middle.getlength(r.title) for r in rows] + [
            small.getlength(r.detail) for r in rows
        ]
        beside = min(int(max(longest)) + 2, TITLE)
    shift = MARGIN + (beside + MARGIN if titled else 0)
    width = max(shift + columns * (side + GAP) - GAP + MARGIN, 420)
    inner = width - 2 * MARGIN
    heads = [shortened(line, big, inner) for line in wrapped(heading, big, inner)[:HEADS]]
    above = MARGIN + 26 * max(len(heads), 1)
    lines = [line for text in detail for line in wrapped(text, middle, inner)]
    notes = wrapped(note, small, inner)
    top = above + 2 + 20 * len(lines) + 6
    step = [
        max((p.height for p in line if p is not None), default=0)
        + (LABEL if any(t.label or t.tail for t in row.tiles) else 0)
        + GAP
        for row, line in zip(rows, pictures, strict=True)
    ]
    if titled:
        titles = [
            (wrapped(r.title, middle, beside), wrapped(r.detail, small, beside)) for r in rows
        ]
        need = [18 * len(t) + LINE * len(d) + GAP for t, d in titles]
        step = [max(pair) for pair in zip(step, need, strict=True)]
    height = top + sum(step) + (4 + LINE * len(notes) if notes else 0) + MARGIN
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(heads):
        big.write(draw, (MARGIN, MARGIN - 2 + 26 * number), line, INK)
    for number, line in enumerate(lines):
        middle.write(draw, (MARGIN, above + 20 * number), line, FAINT)
    for index, (row, images) in enumerate(zip(rows, pictures, strict=True)):
        if titled:
            below = top
            for line in titles[index][0]:
                middle.write(draw, (MARGIN, below), line, INK)
                below += 18
            for line in titles[index][1]:
                small.write(draw, (MARGIN, below), line, FAINT)
                below += LINE
        tall = max((p.height for p in images if p is not None), default=0)
        for column, (tile, image) in enumerate(zip(row.tiles, images, strict=True)):
            left = shift + column * (side + GAP)
            if image is None:
                draw.rectangle((left, top, left + side - 1, top + max(tall, 1) - 1), BLANK)
            else:
                picture.paste(image, (left + (side - image.width) // 2, top))
            if tile.label or tile.tail:
                text = tile.fitted(small, side)
                at = left + (side - small.getlength(text)) / 2
                small.write(draw, (at, top + tall + 1), text, FAINT)
        top += step[index]
    for number, line in enumerate(notes):
        small.write(draw, (MARGIN, top + 4 + LINE * number), line, FAINT)
    return picture
