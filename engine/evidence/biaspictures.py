"""A bias finder's pictures: for each class photos with their evidence and what becomes of them with
another background, its clusters of maps, and the ranked page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ImageError
from ..photos.images import Pixels
from ..pictures.grid import Row, Tile, sheet
from ..pictures.heat import over_photo, sequential
from ..pictures.page import Page
from .background import variants
from .biasfigures import FOCUS
from .biasreport import BiasReport, ClassBias, Cluster, percent
from .objects import OBJECTS, Region, grown

if TYPE_CHECKING:
    from .looking import Seen

__all__ = ["class_picture", "page_of"]

SIDE = 112
# Photos with other backgrounds, clusters, and photos of each, in a picture.
PHOTOS, CLUSTERS, OF_EACH = 3, 3, 5
OUTLINE = (255, 255, 255)


def class_picture(report: BiasReport, one: ClassBias) -> Image.Image:
    """The sheet of one class."""
    rows = [*_tested(report, one), *_clustered(report, one)]
    if not any(row.tiles for row in rows):
        rows = [Row([Tile(None, "no evidence")], "photos")]
    about = report.finder.about()
    state = "suspect" if one.suspect else "not suspected"
    detail = [f"suspicion {one.suspicion:.2f}, {state}; {_photos(len(one.rows))}"]
    # A reason in a line of its own, not more than fit.
    detail += [f"· {reason}" for reason in one.reasons[:5]]
    return sheet(
        f"What says {one.name}?",
        detail,
        rows,
        SIDE,
        f"Evidence: the positive part of {about['method']}, over the photo: pale none, red the "
        "most. White line: the object. Below photos: the probability of the class, with its "
        "background blurred, grey, alone and exchanged. Maps of a cluster: their mean, then "
        "photos.",
    )


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count} photos"


def _tested(report: BiasReport, one: ClassBias) -> Iterator[Row]:
    """The photos with the most evidence outside the object, of those with tests; else of all."""
    finder, held, tested = report.finder, report.measured, report.tested
    names = {c.number: c.name for c in report.classes}
    candidates = list(one.tested)
    candidates.sort(key=lambda t: -np.nan_to_num(held.outside[tested.row[t]], nan=-1.0))
    for t in candidates[:PHOTOS]:
        row = int(tested.row[t])
        try:
            seen = finder.seen(report.file(row), one.number)
            donors = [d for d in tested.donor[t].tolist() if d >= 0]
            others = [finder.cut(report.file(d), int(held.target[d])) for d in donors]
        except ImageError:
            continue
        pictures = variants(seen, others)
        chance, kept = tested.chance[t].tolist(), tested.kept[t].tolist()
        tiles = [
            Tile(_outlined(seen.pixels, seen.region), percent(chance[0])),
            Tile(_heat(seen), f"{percent(held.outside[row])} outside"),
            Tile(pictures[1], f"blurred: {percent(chance[1])}"),
            Tile(pictures[3], f"grey: {percent(chance[3])}"),
            Tile(pictures[2], f"alone: {percent(chance[2])}"),
        ]
        for at in range(len(donors)):
            name = names.get(int(tested.given[t, at]), "")
            picture = pictures[len(pictures) - len(donors) + at]
            tiles.append(Tile(picture, f"on {name}", f": {percent(kept[at])}"))
        yield Row(tiles, report.file(row).stem, "background exchanged at the right")


def _clustered(report: BiasReport, one: ClassBias) -> Iterator[Row]:
    for number, cluster in enumerate(one.clusters[:CLUSTERS], 1):
        tiles = [Tile(_mean_map(report, cluster), "mean map")]
        for row in cluster.rows[:OF_EACH]:
            try:
                seen = report.finder.seen(report.file(row), one.number)
            except ImageError:
                continue
            tiles.append(Tile(_heat(seen), report.file(row).stem))
        title = f"cluster {number}" if len(one.clusters) > 1 else "all maps"
        where = cluster.place if cluster.focus >= FOCUS else "spread out"
        detail = f"{percent(cluster.share)} of the photos, alike {cluster.tight:.2f}, {where}"
        yield Row(tiles, title, detail)


def _mean_map(report: BiasReport, cluster: Cluster) -> Pixels:
    cells = report.measured.cells[list(cluster.rows)].mean(axis=0)
    high, wide = report.finder.preprocess.size or (SIDE, SIDE)  # as its photos beside it
    large = np.asarray(Image.fromarray(cells).resize((wide, high), Image.Resampling.BILINEAR))
    return np.rint(sequential(large, 0, float(large.max()))).astype(np.uint8)


def _heat(seen: Seen) -> Pixels:
    high, wide = seen.pixels.shape[:2]
    values: NDArray[np.float32] = np.asarray(
        Image.fromarray(seen.evidence).resize((wide, high), Image.Resampling.BILINEAR)
    )
    drawn = over_photo(sequential(values, 0, float(values.max())), seen.pixels)
    return _outlined(drawn, seen.region)


def _outlined(pixels: Pixels, region: Region | None) -> Pixels:
    if region is None:
        return pixels
    drawn = pixels.copy()
    drawn[grown(region, max(max(region.shape) / 112, 1)) & ~region] = OUTLINE
    return drawn


def page_of(report: BiasReport, pictures: Iterator[tuple[ClassBias, Image.Image]]) -> Page:
    """The ranked report. pictures: of classes, in their order; those without one are in the table
    alone."""
    finder = report.finder
    about = finder.about()
    suspects = report.suspects
    named = ", ".join(suspects) if suspects else "none"
    page = Page(
        f"What does {finder.name} go by?",
        f"Suspects, of {len(report.classes)} classes in "
        f"{_photos(len(report.measured.index))}: "
        f"{named}.",
    )
    page.text(f"The object: {OBJECTS[finder.object]}. The evidence: {about['method']}.")
    for note in report.notes:
        page.text(note, faint=True)
    page.section(
        "Ranking",
        "Suspicion is the mean of the four columns behind it. Outside: the share of the evidence "
        "outside the object. Alone: what the background alone gets the class, more than "
        "backgrounds of other classes do. Pull: how much more often other objects are called so "
        "before its background. Loss: what the object loses without its own background. A question "
        "mark: no photo tells that; the mean is of the others.",
    )
    page.table(
        ("class", "photos", "suspicion", "outside", "alone", "pull", "loss", "suspect"),
        [
            (
                one.name, len(one.rows), f"{one.suspicion:.2f}",
                *(percent(v) for v in (one.outside, one.alone, one.pull, one.loss)),
                "yes" if one.suspect else "",
            )
            for one in report.classes
        ],
    )  # fmt: skip
    for one, picture in pictures:
        page.section(one.name)
        told = "; ".join(one.reasons) or "nothing stands out"
        page.picture(picture, f"photos and maps of {one.name}: {told}", kind="JPEG")
    if report.skipped:
        page.section(
            "Skipped files", f"{len(report.skipped)} skipped, {len(report.measured.index)} read."
        )
        page.table(("file, and why",), [(bad.error,) for bad in report.skipped])
    return page
