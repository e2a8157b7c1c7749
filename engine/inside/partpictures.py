"""Pictures of an explanatory graph: a sheet for each pattern, one of it all, a page to walk it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..photos.images import Pixels
from ..pictures.fonts import font
from ..pictures.grid import Row, Tile, fitted_to, sheet
from ..pictures.page import Page
from ..pictures.panel import BLANK, FAINT, INK, MARGIN, PAPER, shortened_inside

if TYPE_CHECKING:
    from .partgraph import PartGraph

__all__ = ["Gallery", "page_of"]

SIDE = 96
# Parents and parts that a sheet shows, and patterns of a layer in the picture of the graph.
SHOWN, WIDE = 6, 12
PART, PARENT = (230, 85, 13), (49, 99, 173)
# Photos that are kept as pixels.
_KEPT = 1 << 28


class Gallery:
    """The pictures of a graph. k: patches of a pattern, at most."""

    def __init__(self, graph: PartGraph, k: int = 9) -> None:
        self.graph, self.k = graph, k
        self._seen: OrderedDict[int, Pixels | None] = OrderedDict()
        self._size = 0
        self._below: dict[tuple[int, int], list[tuple[float, int]]] = {}
        for depth, layer in enumerate(graph.layers[1:], 1):
            for at in range(len(layer)):
                for rank, parent in enumerate(layer.fitted.parents[at].tolist()):
                    residual = float(layer.fitted.residual[at, rank])
                    self._below.setdefault((depth - 1, parent), []).append((residual, at))

    def photo(self, at: int) -> Pixels | None:
        """A photo as the model sees it; None where it can't be read any more."""
        if at not in self._seen:
            self._seen[at] = pixels = self.graph.photo(at)
            self._size += 0 if pixels is None else pixels.size
            while self._size > _KEPT and len(self._seen) > 1:
                _, old = self._seen.popitem(last=False)
                self._size -= 0 if old is None else old.size
        return self._seen[at]

    def best(self, depth: int, at: int, most: int) -> list[int]:
        """The photos that a pattern is strongest in."""
        score = self.graph.layers[depth].fitted.score[:, at]
        order = np.argsort(-score, kind="stable")[:most]
        return [int(i) for i in order if score[i] > 0]

    def patch(self, depth: int, at: int, photo: int) -> Pixels | None:
        """What lies around a pattern in a photo: its filter's field, at most a third of the
        image."""
        pixels = self.photo(photo)
        if pixels is None:
            return None
        layer = self.graph.layers[depth]
        field = min(layer.field.size_of(int(layer.fitted.filter[at])))
        half = max(min(field, min(pixels.shape[:2]) // 3), 8) / 2
        y, x = layer.places(layer.fitted.position[photo, at])
        top, left = round(y - half), round(x - half)
        wide = round(2 * half)
        found = np.empty((wide, wide, 3), np.uint8)
        found[:] = BLANK
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + wide, pixels.shape[0]), min(left + wide, pixels.shape[1])
        if y1 > y0 and x1 > x0:
            found[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
        return found

    def title(self, depth: int, at: int) -> str:
        """A pattern for people."""
        layer = self.graph.layers[depth]
        return f"filter {int(layer.fitted.filter[at])}, part {layer.number(at)}"

    def links(self, depth: int, at: int) -> tuple[list[int], list[int]]:
        """A pattern's parents, and the patterns below that have it as a parent, nearest first."""
        layer = self.graph.layers[depth]
        parents = [p for p in layer.fitted.parents[at].tolist() if p >= 0]
        below = [part for _, part in sorted(self._below.get((depth, at), []))]
        return parents, below

    def picture(self, depth: int, at: int) -> Image.Image:
        """A sheet: top patches, spread, parents, parts."""
        graph, layer = self.graph, self.graph.layers[depth]
        node = layer.fitted
        best = self.best(depth, at, self.k)
        patches = [
            _tile(self.patch(depth, at, i), f"{node.score[i, at]:.2f}: {graph.files[i].stem}")
            for i in best
        ]
        rows = [Row(patches or [Tile(None, "nowhere")], "top patches", "score and photo")]
        deviation = float(node.deviation[at]) * layer.pixels
        where = [Tile(self._scatter(depth, at), "all photos")]
        parents, below = self.links(depth, at)
        for i in best[:2]:
            where.append(_tile(self._placed(depth, at, i, parents[:SHOWN]), graph.files[i].stem))
        rows.append(Row(where, "where", f"± {deviation:.0f} pixels"))
        for name, level, others in (("parents", depth - 1, parents), ("parts", depth + 1, below)):
            if others:
                tiles = [self._other(level, one) for one in others[:SHOWN]]
                rows.append(Row(tiles, name, f"in {graph.layers[level].name}"))
        expected = "its parents expect it" if parents else "the filter is strongest"
        return sheet(
            f"{layer.name}: {self.title(depth, at)}",
            [f"in {100 * layer.present(at):.0f} % of {len(graph.files)} photos"],
            rows,
            SIDE,
            "Where: a dot for each photo, the darker the stronger, on the image's plane. The "
            f"ring's radius is the deviation from where {expected}. In the photos beside it: the "
            "part (orange) and its parents (blue). Colours of patches unchanged; light grey lies "
            "beyond the border.",
        )

    def _other(self, depth: int, at: int) -> Tile:
        best = self.best(depth, at, 1)
        return _tile(self.patch(depth, at, best[0]) if best else None, self.title(depth, at))

    def _scatter(self, depth: int, at: int) -> Pixels:
        """The places in all photos, on the image's plane."""
        layer, factor = self.graph.layers[depth], 4
        high, wide = layer.field.image
        scale = SIDE * factor / max(high, wide)
        image = Image.new("RGB", (round(wide * scale), round(high * scale)), PAPER)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=BLANK, width=factor)
        fitted = layer.fitted
        places = layer.places(fitted.position[:, at]) * scale
        score = fitted.score[:, at]
        for i in np.argsort(score, kind="stable")[-2000:].tolist():
            if score[i] > 0:
                ink = tuple(
                    round(255 + (c - 255) * (0.15 + 0.85 * min(float(score[i]), 1))) for c in INK
                )
                _dot(draw, places[i], 1.6 * factor, ink)
        middle = layer.places(fitted.average[at]) * scale
        radius = max(float(fitted.deviation[at]) * layer.pixels * scale, 2 * factor)
        y, x = middle
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=PART, width=factor)
        small = image.resize((image.width // factor, image.height // factor), Image.Resampling.BOX)
        return np.array(small)

    def _placed(self, depth: int, at: int, photo: int, parents: Sequence[int]) -> Pixels | None:
        """A photo with the part and its parents in it."""
        pixels = self.photo(photo)
        if pixels is None:
            return None
        picture = fitted_to(pixels, 4 * SIDE)
        scale = picture.height / pixels.shape[0]
        draw = ImageDraw.Draw(picture)
        layer = self.graph.layers[depth]
        y, x = layer.places(layer.fitted.position[photo, at]) * scale
        for parent in parents:
            above = self.graph.layers[depth - 1]
            if above.fitted.score[photo, parent] > 0:
                v, u = above.places(above.fitted.position[photo, parent]) * scale
                draw.line((u, v, x, y), fill=PARENT, width=3)
                _dot(draw, (v, u), 9, PARENT)
        _dot(draw, (y, x), 15, PAPER)
        _dot(draw, (y, x), 11, PART)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        return np.array(picture)

    def overview(self) -> Image.Image:
        """The strongest patterns of each layer, and the links between them."""
        graph, side, gap, between = self.graph, 72, 10, 64
        shown = [layer.order[:WIDE].tolist() for layer in graph.layers]
        big, middle, small = font(20), font(14), font(13)
        beside = 132
        columns = max(map(len, shown), default=1) or 1
        width = max(2 * MARGIN + beside + columns * (side + gap) - gap, 420)
        head = MARGIN + 26 + 22 + 8
        height = head + len(shown) * (side + 18 + between) - between + MARGIN
        picture = Image.new("RGB", (width, height), PAPER)
        draw = ImageDraw.Draw(picture)
        inner = width - 2 * MARGIN
        name = shortened_inside(f"What {graph.model} has learned of parts", big, inner)
        big.write(draw, (MARGIN, MARGIN - 2), name, INK)
        told = f"the strongest patterns of each layer in {len(graph.files)} photos; below: filter"
        middle.write(draw, (MARGIN, MARGIN + 26), shortened_inside(told, middle, inner), FAINT)
        places: dict[tuple[int, int], tuple[int, int]] = {}
        for depth, row in enumerate(shown):
            top = head + depth * (side + 18 + between)
            for column, at in enumerate(row):
                places[depth, at] = (MARGIN + beside + column * (side + gap), top)
        self._drawn_links(draw, shown, places, side)
        for depth, row in enumerate(shown):
            layer, top = graph.layers[depth], head + depth * (side + 18 + between)
            text = shortened_inside(layer.name, middle, beside - 8)
            middle.write(draw, (MARGIN, top + side // 2 - 18), text, INK)
            small.write(draw, (MARGIN, top + side // 2), f"{len(layer)} patterns", FAINT)
            for at in row:
                left, top = places[depth, at]
                best = self.best(depth, at, 1)
                patch = self.patch(depth, at, best[0]) if best else None
                draw.rectangle((left, top, left + side - 1, top + side - 1), BLANK)
                if patch is not None:
                    scaled = Image.fromarray(patch).resize((side, side), Image.Resampling.LANCZOS)
                    picture.paste(scaled, (left, top))
                text = str(int(layer.fitted.filter[at]))
                x = left + (side - small.getlength(text)) / 2
                small.write(draw, (x, top + side + 1), text, FAINT)
        return picture

    def _drawn_links(
        self, draw: ImageDraw.ImageDraw, shown: Sequence[Sequence[int]],
        places: dict[tuple[int, int], tuple[int, int]], side: int,
    ) -> None:  # fmt: skip
        for depth, row in enumerate(shown[1:], 1):
            for at in row:
                parents = [p for p in self.links(depth, at)[0] if (depth - 1, p) in places]
                for rank, parent in enumerate(parents[:3]):
                    (u, v), (x, y) = places[depth - 1, parent], places[depth, at]
                    start, end = (u + side // 2, v + side + 17), (x + side // 2, y - 1)
                    ink = PARENT if rank == 0 else (171, 191, 222)
                    draw.line((*start, *end), fill=ink, width=2 if rank == 0 else 1)


def _tile(pixels: Pixels | None, label: str) -> Tile:
    return Tile(pixels, label if pixels is not None else "file is gone")


def _dot(
    draw: ImageDraw.ImageDraw,
    place: NDArray[np.float64] | tuple[float, float],
    radius: float,
    ink: tuple[int, ...],
) -> None:
    y, x = float(place[0]), float(place[1])
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def page_of(
    graph: PartGraph, gallery: Gallery, pictures: Iterator[tuple[int, int, Image.Image]]
) -> Page:
    """A page to walk the graph: each pattern's sheet, with links to its parents and parts.
    pictures: (layer, pattern, sheet), layer by layer."""
    page = Page(
        f"Explanatory graph of {graph.model}",
        f"Which parts its filters have learned, and which they go by, in {len(graph.files)} "
        "photos. The topmost layer comes first; every pattern links to its parents above it and "
        "to the parts below it.",
    )
    page.picture(gallery.overview(), "the strongest patterns of each layer and their links")
    for note in (*graph.notes, *filter(None, [graph.few])):
        page.text(note, faint=True)
    last = -1
    for depth, at, picture in pictures:
        if depth != last:
            layer, last = graph.layers[depth], depth
            page.section(layer.name, f"{len(layer)} patterns of {len(layer.filters)} filters.")
        name = f"{graph.layers[depth].name}: {gallery.title(depth, at)}"
        page.place(name, graph.key(depth, at))
        parents, below = gallery.links(depth, at)
        page.picture(picture, name, kind="JPEG")
        for lead, level, others in (("Parents:", depth - 1, parents), ("Parts:", depth + 1, below)):
            to = [(gallery.title(level, one), graph.key(level, one)) for one in others[:15]]
            page.links(lead, to)
    if graph.skipped:
        page.section("Skipped files", f"{len(graph.skipped)} skipped, {len(graph.files)} read.")
        page.table(("file, and why",), [(bad.error,) for bad in graph.skipped])
    return page
