"""Where the object is in a photo: by a mask that somebody drew, seeded by the evidence itself, or
assumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ImageError, UsageError
from ...export.preprocess import Preprocess
from ..masked.cutting import RandomWalker
from ..photos import images
from ..photos.images import Pixels

__all__ = ["OBJECTS", "Masks", "centre", "grown", "seeded"]

Region = NDArray[np.bool_]

# How the object is found, and what a report says of it.
OBJECTS = {
    "masks": "given masks",
    "centre": "assumed: the ellipse in the middle, 41 % of the photo (no masks were given)",
    "seeded": "grown from the strongest evidence, the largest part of that, the border being "
    "background (no masks were given): evidence is inside where it is strongest",
    "none": "not looked for: nothing is said of the background",
}
# The ellipse's half axes, as shares of the sides.
HALF = 0.36
# Seeds (Simonyan et al. 2014): the object above this quantile of the evidence, the background
# below.
ABOVE, BELOW, BORDER = 0.95, 0.3, 0.06
# The longer side that a random walk is done at.
WALKED = 96


class Masks:
    """A folder of masks, a picture for each photo: white (128 and more) is the object; of a picture
    with no value of 128, whatever is above 0.

    A photo's mask has its path below the folder, or its name (`dog.jpg`: `dog.png`,
    `dog_mask.png`), and its size. Raises ImageError for a folder that isn't there or has no
    pictures.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ImageError(f"{folder}: a file; expected a folder of masks")
        self._by_path: dict[str, Path] = {}
        self._by_name: dict[str, list[Path]] = {}
        self.files = images.image_files([self.folder])
        for file in self.files:
            inner = file.relative_to(self.folder).with_suffix("")
            self._by_path[inner.as_posix()] = file
            name = inner.name.removesuffix("_mask").removesuffix("-mask")
            self._by_name.setdefault(name, []).append(file)

    def of(self, photo: Path) -> Path:
        """A photo's mask. Raises ImageError where there is none, or there are two."""
        parts = photo.with_suffix("").parts
        for at in range(len(parts) - 1, 0, -1):  # the nearest folders first: one or more of them
            found = self._by_path.get("/".join(parts[at - 1 :]))
            if found is not None:
                return found
        named = self._by_name.get(photo.stem, [])
        if len(named) == 1:
            return named[0]
        if named:
            raise ImageError(
                f"{photo}: two masks in {self.folder}, {named[0].relative_to(self.folder)} and "
                f"{named[1].relative_to(self.folder)}; expected one, or the photo's own folder"
            )
        raise ImageError(f"{photo}: no mask in {self.folder}; expected {photo.stem}.png")

    def region(self, photo: Path, preprocess: Preprocess, spec: images.InputSpec) -> Region:
        """The object in a photo as the model sees it, bool [h, w]. Raises ImageError for a mask
        that is missing, of another size than the photo, or empty."""
        file = self.of(photo)
        mask, seen = images.decode(file), images.decode(photo)
        if mask.shape != seen.shape:
            (h, w), (high, wide) = mask.shape[:2], seen.shape[:2]
            raise ImageError(f"{file}: {w} x {h}; the photo {photo.name} has {wide} x {high}")
        bright = mask.max(axis=2)
        on = bright >= 128 if (bright >= 128).any() else bright > 0
        white = np.repeat(on[..., None], 3, axis=2).astype(np.uint8) * np.uint8(255)
        region: Region = images.prepare(white, preprocess, spec).pixels[..., 0] >= 128
        if not region.any():
            raise ImageError(f"{file}: no object in what the model sees of {photo.name}")
        return region


def centre(size: tuple[int, int]) -> Region:
    """The ellipse in the middle, bool [h, w]."""
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in size)
    inside: Region = (y[:, None] / HALF) ** 2 + (x / HALF) ** 2 <= 1
    return inside


def seeded(evidence: NDArray[np.floating], pixels: Pixels) -> Region:
    """The object grown from the strongest evidence by colours, bool [h, w]: the largest part that
    random walks give it (as in `backlight.Segment`), from above the evidence's 95 % quantile,
    against what is below 30 % and the border.

    evidence: [h, w], not negative. Raises UsageError without scikit-image.
    """
    cut = _walker()
    high, wide = pixels.shape[:2]
    factor = min(WALKED / max(high, wide), 1)
    size = (max(round(wide * factor), 8), max(round(high * factor), 8))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    values = np.asarray(
        Image.fromarray(np.asarray(evidence, np.float32)).resize(size, Image.Resampling.BILINEAR)
    )
    seeds = np.zeros(values.shape, np.int8)
    seeds[values <= np.quantile(values, BELOW)] = -1
    edge = max(round(BORDER * min(values.shape)), 1)
    inner = np.zeros(values.shape, bool)
    inner[edge:-edge, edge:-edge] = True
    seeds[inner & (values >= np.quantile(values[inner], ABOVE)) & (values > 0)] = 1
    seeds[~inner] = -1
    if not (seeds > 0).any():
        return centre((high, wide))
    back = Image.fromarray(cut(small, seeds).astype(np.uint8) * 255).resize((wide, high))
    return np.asarray(back) >= 128


def _walker() -> RandomWalker:
    try:
        return RandomWalker()
    except ImportError as err:
        raise UsageError(
            "scikit-image is not installed; pip install 'backlight[segments]', or take --masks"
        ) from err


def grown(region: Region, by: float) -> Region:
    """A region with a margin of `by` pixels around it."""
    if by < 0.5:
        return region
    # Square steps, by a running maximum along rows and then columns.
    width, values = round(by), region
    for axis in (0, 1):
        padded = np.pad(values, [(width, width) if a == axis else (0, 0) for a in (0, 1)])
        total = np.cumsum(np.insert(padded, 0, False, axis=axis), axis=axis)
        size = values.shape[axis]
        after = np.take(total, np.arange(size) + 2 * width + 1, axis=axis)
        before = np.take(total, np.arange(size), axis=axis)
        values = after > before
    return values


def known(name: str, masks: object) -> str:
    """How the object is found: what was asked for, checked; None: by what there is. UsageError."""
    if name not in OBJECTS:
        raise UsageError.unknown("object", name, OBJECTS)
    if (name == "masks") != (masks is not None):
        what = "masks were given" if masks is not None else "no masks were given"
        raise UsageError(f"object '{name}': {what}; accepted: {', '.join(_fitting(masks))}")
    return name


def _fitting(masks: object) -> Sequence[str]:
    return ["masks"] if masks is not None else [n for n in OBJECTS if n != "masks"]
