"""A map of pictures as pictures: a scatter with labels, and thumbnails on a grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from ...errors import ImageError
from ...lanes import in_lanes
from ..photos import images
from ..pictures.fonts import font
from ..pictures.panel import FAINT, INK, MARGIN, PAPER, shortened, shortened_inside, wrapped

__all__ = ["Colors", "picture_map", "scatter", "shrunk", "thumbnails"]

Rgb = tuple[int, int, int]

# Ten that are told apart on white (Tableau's), then for more labels, one by one, what is farthest
# in CIEDE2000 from all before, white, ink and the grey of the rest: no two are nearer than 16.
_TABLE: tuple[Rgb, ...] = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (23, 190, 207), (188, 189, 34), (90, 90, 96),
    (0, 0, 170), (0, 70, 0), (120, 100, 0), (0, 120, 110), (100, 0, 60),
    (30, 230, 180), (250, 170, 160), (70, 40, 0), (200, 30, 110), (140, 160, 250),
    (170, 140, 100), (90, 230, 20), (150, 170, 140), (0, 70, 80),
)  # fmt: skip
_MOST = len(_TABLE)
REST = (170, 170, 178)
# Files without labels are named on a scatter up to this many.
_NAMED = 100
PLOT = 900
LEGEND = 210


class Colors(dict[str, Rgb]):
    """A colour for each label, the most frequent labels first; what has none is grey.

    counts: of pictures with each label. rest: labels that share the grey.
    """

    def __init__(self, labels: Sequence[str | None]) -> None:
        super().__init__()
        self.counts = Counter(name for name in labels if name is not None)
        ranked = sorted(self.counts, key=lambda name: (-self.counts[name], name))
        named = ranked if len(ranked) <= _MOST else ranked[: _MOST - 1]
        self.update(zip(named, _TABLE, strict=False))
        self.rest = ranked[len(named) :]

    def of(self, name: str | None) -> Rgb:
        """The colour of a label, grey for None and for the rest."""
        return self.get(name or "", REST if self else _TABLE[0])


def scatter(
    points: NDArray[np.float64],
    labels: Sequence[str | None],
    heading: str,
    detail: str,
    new: NDArray[np.bool_] | None = None,
    files: Sequence[str] = (),
) -> Image.Image:
    """Points [N, 2] as dots in their labels' colours, names at the labels' middles, a legend.

    files: the pictures' files; where none has a label, and there are few, their names stand beside
    the dots. new: points that joined the map later; they get a dark ring, and the others fade.
    """
    colors = Colors(labels)
    placed, height = _fitted(points, PLOT, 24)
    scale = 2  # drawn twice as large, then made small: smooth edges
    plot = Image.new("RGB", (PLOT * scale, height * scale), PAPER)
    draw = ImageDraw.Draw(plot)
    radius = scale * min(max(110 / max(len(points), 1) ** 0.5, 1.3), 5.5)
    joined = np.zeros(len(points), bool) if new is None else new
    for index in np.argsort(joined, kind="stable").tolist():
        x, y = placed[index] * scale
        color = colors.of(labels[index])
        if joined.any() and not joined[index]:
            color = _faded(color)
        ring = INK if joined[index] else None
        far = radius * 1.6 if joined[index] else radius
        draw.ellipse((x - far, y - far, x + far, y + far), color, ring, scale + 1)
    plot = plot.resize((PLOT, height), Image.Resampling.LANCZOS)
    _names(plot, placed, labels, colors, radius / scale)
    if not colors and 0 < len(files) <= _NAMED:
        _stems(plot, placed, files, radius / scale)
    if not colors and len(files) > _NAMED:
        detail += "; which file is where: map.json"
    return _framed(plot, heading, detail, _legend(colors, len(points), joined))


def _names(
    plot: Image.Image,
    placed: NDArray[np.float64],
    labels: Sequence[str | None],
    colors: Colors,
    radius: float,
) -> None:
    """Each label at the median of its points; below them where it would hide half of them, and
    moved down (or up) where another name is there already."""
    draw, face = ImageDraw.Draw(plot), font(16)
    taken: list[tuple[float, float, float, float]] = []
    held = np.array([label or "" for label in labels])
    for name in colors:
        own = placed[held == name]
        x, y = np.median(own, axis=0)
        text = shortened(str(name), face, 160)
        width = face.getlength(text)
        left = min(max(x - width / 2, 4), PLOT - width - 4)
        top = y - 9
        near = (np.abs(own[:, 0] - x) < width / 2 + radius) & (np.abs(own[:, 1] - y) < 9 + radius)
        if 2 * near.sum() >= len(own):
            top = own[near, 1].max() + radius + 1
        lowest = plot.height - 22
        top = min(max(top, 4), lowest)
        # Downwards as far as the plot goes, else upwards.
        places = [*np.arange(top, lowest + 1, 6), *np.arange(top, 3, -6)]
        top = next((y for y in places if _is_free(left, y, width, taken)), top)
        taken.append((left, top, left + width, top + 18))
        face.write(draw, (left, top), text, _dark(colors[name]), stroke_width=3, stroke_fill=PAPER)


def _stems(
    plot: Image.Image, placed: NDArray[np.float64], files: Sequence[str], radius: float
) -> None:
    """Each file's name beside its dot: right of it, else left, below or above; nowhere where all of
    these are taken."""
    draw, face = ImageDraw.Draw(plot), font(13)
    far = radius + 3
    taken = [(x - far, y - far, x + far, y + far) for x, y in placed.tolist()]
    for file, (x, y) in zip(files, placed.tolist(), strict=True):
        text = shortened_inside(Path(file).stem, face, 150)
        width = face.getlength(text)
        places = ((x + far + 1, y - 9), (x - far - 1 - width, y - 9),
                  (x - width / 2, y + far), (x - width / 2, y - far - 18))  # fmt: skip
        for left, top in places:
            inside = left >= 0 and left + width <= plot.width and 0 <= top <= plot.height - 18
            if inside and _is_free(left, top, width, taken):
                taken.append((left, top, left + width, top + 18))
                face.write(draw, (left, top), text, FAINT)
                break


def _is_free(
    left: float, top: float, width: float, taken: Sequence[tuple[float, float, float, float]]
) -> bool:
    return not any(
        left < r and right < left + width and top < b and low < top + 18
        for right, low, r, b in taken
    )


def _legend(colors: Colors, count: int, joined: NDArray[np.bool_]) -> list[tuple[Rgb, str]]:
    lines = [(color, f"{name} ({colors.counts[name]})") for name, color in colors.items()]
    rest = count - sum(colors.counts[name] for name in colors)
    if rest and colors:
        what = f"{len(colors.rest)} other labels" if colors.rest else "no label"
        lines.append((REST, f"{what} ({rest})"))
    if joined.any():
        lines.append((INK, f"ringed: new ({int(joined.sum())})"))
    return lines


def _framed(
    plot: Image.Image, heading: str, detail: str, legend: Sequence[tuple[Rgb, str]]
) -> Image.Image:
    """A picture with a heading above and a legend to its right."""
    big, middle, small = font(20), font(14), font(13)
    width = plot.width + 2 * MARGIN + (LEGEND if legend else 0)
    lines = wrapped(detail, middle, width - 2 * MARGIN)
    top = MARGIN + 30 + 20 * len(lines) + 6
    height = max(top + plot.height, top + 22 * len(legend)) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    big.write(draw, (MARGIN, MARGIN - 2), shortened(heading, big, width - 2 * MARGIN), INK)
    for number, line in enumerate(lines):
        middle.write(draw, (MARGIN, MARGIN + 26 + 20 * number), line, FAINT)
    sheet.paste(plot, (MARGIN, top))
    left = 2 * MARGIN + plot.width
    for number, (color, text) in enumerate(legend):
        y = top + 22 * number
        draw.ellipse((left, y + 4, left + 10, y + 14), color)
        small.write(draw, (left + 18, y), shortened(text, small, LEGEND - 34), INK)
    return sheet


def picture_map(
    thumbs: Sequence[images.Pixels],
    cells: NDArray[np.int64],
    size: tuple[int, int],
    heading: str,
    detail: str,
) -> Image.Image:
    """Thumbnails [S, S, 3] in the cells (row, column) of a grid of `size` (rows, columns)."""
    side = thumbs[0].shape[0]
    rows, columns = size
    step = side + 2
    plot = Image.new("RGB", (max(columns * step, 480), rows * step), PAPER)
    for thumb, (row, column) in zip(thumbs, cells.tolist(), strict=True):
        plot.paste(Image.fromarray(thumb), (column * step, row * step))
    return _framed(plot, heading, detail, ())


def shrunk(thumb: images.Pixels, side: int) -> images.Pixels:
    """A thumbnail with another side."""
    if thumb.shape[0] == side:
        return thumb
    return np.asarray(Image.fromarray(thumb).resize((side, side), Image.Resampling.LANCZOS))


def thumbnails(
    paths: Sequence[str | Path | None],
    side: int,
    stored: Callable[[int], images.Pixels | None],
    on_done: Callable[[int], None] | None = None,
    threads: int = 2,
) -> list[images.Pixels]:
    """Each file as a square, uint8 [side, side, 3]; where a file is gone (None) or `side` is no
    more than what the store holds, the stored pixels (`stored` of the index), else grey."""

    def one(index: int) -> images.Pixels:
        held = stored(index)
        file = paths[index]
        if file is not None and (held is None or held.shape[0] < side):
            try:
                picture = Image.fromarray(images.decode(file))
                return np.asarray(_square(picture, side))
            except ImageError:
                pass
        if held is None:
            return np.full((side, side, 3), 200, np.uint8)
        resized = Image.fromarray(held).resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(resized)

    found = []
    for thumb in in_lanes(one, range(len(paths)), threads):
        found.append(thumb)
        if on_done is not None:
            on_done(1)
    return found


def _square(picture: Image.Image, side: int) -> Image.Image:
    """The middle square; of a long picture all of it, on white."""
    longest, shortest = max(picture.size), min(picture.size)
    if longest > 1.6 * shortest:
        return ImageOps.pad(picture, (side, side), Image.Resampling.LANCZOS, PAPER)
    return ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)


def _fitted(
    points: NDArray[np.float64], width: int, margin: int
) -> tuple[NDArray[np.float64], int]:
    """Points in a picture of `width`, one scale for both axes, y upwards; and its height: what the
    points need, from a half of the width to all of it."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    inner = width - 2 * margin
    height = round(inner * min(max(float(high[1] - low[1]) / span, 0.5), 1.0)) + 2 * margin
    unit = (points - (low + high) / 2) / span * inner
    return np.stack([width / 2 + unit[:, 0], height / 2 - unit[:, 1]], axis=1), height


def _faded(color: Rgb) -> Rgb:
    r, g, b = (round(c + (255 - c) * 0.6) for c in color)
    return r, g, b


def _dark(color: Rgb) -> Rgb:
    r, g, b = (round(c * 0.62) for c in color)
    return r, g, b
