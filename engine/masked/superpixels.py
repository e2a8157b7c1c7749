"""Images cut into segments, numbered 0..S-1 whatever the library starts at: what LIME and
KernelSHAP switch.

SLIC, quickshift and felzenszwalb are scikit-image's; a grid or a map of one's own needs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ... import written
from ...errors import ImageError, UsageError, hint
from ...export.preprocess import Preprocess
from ..photos.images import channels_last, to_pixels
from ..runtime import arrays

__all__ = ["MOST_SEGMENTS", "Superpixels", "SuperpixelsLike", "as_superpixels", "picture_of"]

Kind: TypeAlias = Literal["slic", "quickshift", "felzenszwalb", "grid", "map"]
Labels: TypeAlias = NDArray[np.int32]

# Tables and the matrix that solves them grow with their square.
MOST_SEGMENTS = 2000
FORMS = (
    "'slic' or 'slic:COUNT', 'quickshift' or 'quickshift:KERNEL', 'felzenszwalb' or "
    "'felzenszwalb:SCALE', 'grid:7' or 'grid:7x9', a map [H,W] of whole numbers"
)


@dataclass(frozen=True, eq=False)
class Superpixels:
    """How images are cut.

    slic: about `size` segments, compactness 10, sigma 1 (Achanta et al. 2012). quickshift: kernels
    of `size` pixels, max_dist 200, ratio 0.2, as lime has it (Vedaldi and Soatto 2008).
    felzenszwalb: scale `size`, sigma 0.5, 50 pixels at least, of small images 1 % of them
    (Felzenszwalb and Huttenlocher 2004).
    grid: `cells` rows and columns. map: `labels`, [H, W] for all images or [N, H, W], any whole
    numbers, of the file `source`. name: for people.
    """

    kind: Kind
    size: float = 0
    cells: tuple[int, int] = (0, 0)
    labels: NDArray[Any] | None = None
    source: str = ""

    @property
    def name(self) -> str:
        """As it was asked for, for people."""
        if self.kind == "map":
            return self.source or "own map"
        if self.kind == "grid":
            return f"grid:{self.cells[0]}x{self.cells[1]}"
        return f"{self.kind}:{self.size:g}"

    def cut(self, picture: NDArray[np.uint8], index: int = 0, count: int = 1) -> Labels:
        """The segments of an image, int32 [H, W], 0..S-1.

        picture: uint8 [H, W, 3]. index, count: which image of how many, for a map for each. Raises
        ImageError where there is but one segment, UsageError for more than the image has pixels, a
        map that doesn't fit, or without scikit-image.
        """
        shape = picture.shape[:2]
        pixels = shape[0] * shape[1]
        if self.kind == "slic" and self.size > pixels:
            raise UsageError(
                f"segments 'slic:{self.size:g}': more than the image's {pixels} pixels"
            )
        if self.kind == "map":
            found = self._own(shape, index, count)
        elif self.kind == "grid":
            found = self._grid(shape)
        else:
            found = self._cut(picture)
        numbered = np.unique(found, return_inverse=True)[1].reshape(shape).astype(np.int32)
        segments = int(numbered.max()) + 1
        if segments < 2:
            raise ImageError(
                f"segments '{self.name}': one segment in all, so there is nothing to switch off; "
                "accepted: two or more, such as 'grid:7'"
            )
        if segments > MOST_SEGMENTS:
            raise UsageError(
                f"segments '{self.name}': {segments} of them; accepted: 2 to {MOST_SEGMENTS}"
            )
        return numbered

    def _own(self, shape: tuple[int, ...], index: int, count: int) -> NDArray[Any]:
        assert self.labels is not None
        maps = self.labels if self.labels.ndim == 3 else self.labels[None]
        if len(maps) not in (1, count):
            raise UsageError(
                f"segments '{self.name}': {len(maps)} maps; accepted: 1, or {count}, one an image"
            )
        if maps.shape[1:] != shape:
            have, want = ("x".join(map(str, s)) for s in (maps.shape[1:], shape))
            raise UsageError(
                f"segments '{self.name}': a map of {have}; accepted: {want}, the image as the "
                "model sees it"
            )
        one: NDArray[Any] = maps[index % len(maps)]
        return one

    def _grid(self, shape: tuple[int, ...]) -> NDArray[Any]:
        rows, cols = self.cells
        if rows > shape[0] or cols > shape[1]:
            raise UsageError(
                f"segments '{self.name}'; accepted: at most the image's {shape[0]}x{shape[1]}"
            )
        y, x = (np.arange(n) * cells // n for n, cells in zip(shape, self.cells, strict=True))
        return np.asarray(y[:, None] * cols + x)

    def _cut(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        try:
            from skimage import segmentation
        except ImportError as err:
            raise UsageError(
                f"segments '{self.name}' are cut by scikit-image, which is not installed; "
                "pip install 'backlight[segments]', or take 'grid:7'"
            ) from err
        if self.kind == "slic":
            return np.asarray(
                segmentation.slic(
                    picture, n_segments=int(self.size), compactness=10, sigma=1, start_label=0
                )
            )
        if self.kind == "quickshift":
            return np.asarray(
                segmentation.quickshift(  # type: ignore[no-untyped-call]
                    picture, kernel_size=self.size, max_dist=200, ratio=0.2, rng=42
                )
            )
        least = max(1, min(50, picture.shape[0] * picture.shape[1] // 100))
        return np.asarray(
            segmentation.felzenszwalb(picture, scale=self.size, sigma=0.5, min_size=least)
        )


SuperpixelsLike: TypeAlias = Superpixels | str | NDArray[Any] | Sequence[Any]

# About how many segments, a kernel in pixels, a scale.
DEFAULTS = {"slic": 50.0, "quickshift": 4.0, "felzenszwalb": 100.0}


def as_superpixels(given: SuperpixelsLike, source: str = "") -> Superpixels:
    """Superpixels from what people write: 'slic', 'slic:80', 'quickshift', 'grid:7x9', a map of
    whole numbers (NumPy, CuPy, DLPack or lists). source: the map's file. Raises UsageError."""
    if isinstance(given, Superpixels):
        return given
    if isinstance(given, str):
        return _named(given)
    try:
        array = hasattr(given, "__dlpack__")
        labels = np.asarray(arrays.to_host(arrays.taken(given)[0]) if array else given)
    except (TypeError, ValueError):
        raise UsageError(f"segments {given!r}; accepted: {FORMS}") from None
    if labels.ndim not in (2, 3) or labels.size == 0 or labels.dtype.kind not in "iub":
        raise UsageError(
            f"segments '{source or 'own map'}': {labels.dtype} {list(labels.shape)}; accepted: "
            "whole numbers [H,W], or [N,H,W], one an image"
        )
    return Superpixels("map", labels=labels, source=source)


def _named(text: str) -> Superpixels:
    name, _, parameter = text.partition(":")
    near = "" if name in DEFAULTS else hint(name, (*DEFAULTS, "grid"))
    wrong = UsageError(f"segments '{text}'; accepted: {FORMS}{near}")
    if name == "grid":
        match = re.fullmatch(r"([0-9]{1,5})(?:[x,]([0-9]{1,5}))?", parameter)
        if match is None:
            raise wrong
        rows, cols = int(match[1]), int(match[2] or match[1])
        if rows < 1 or cols < 1 or not 2 <= rows * cols <= MOST_SEGMENTS:
            raise UsageError(f"segments '{text}'; accepted: 2 to {MOST_SEGMENTS} cells")
        return Superpixels("grid", cells=(rows, cols))
    if name not in DEFAULTS or (not parameter and ":" in text):
        raise wrong
    size = written.number(parameter) if parameter else DEFAULTS[name]
    if size is None:
        raise wrong
    if name == "slic" and not size.is_integer():
        raise wrong
    least, most = {
        "slic": (2.0, float(MOST_SEGMENTS)), "quickshift": (0.5, 20.0), "felzenszwalb": (1.0, 1e5)
    }[name]  # fmt: skip
    if not least <= size <= most:
        raise UsageError(f"segments '{text}'; accepted: {name}:{least:g} to {name}:{most:g}")
    return Superpixels(name, size)  # type: ignore[arg-type]


def picture_of(
    image: NDArray[Any], layout: str, preprocess: Preprocess | None
) -> NDArray[np.uint8]:
    """What of an input is cut: uint8 [H, W, 3].

    image: without its batch, in `layout` ("nchw", "nhwc", "nhw"). preprocess: how pixels became it;
    None, and with other numbers of channels than 1 and 3: its own range, or that of its channels'
    mean.
    """
    planes = channels_last(image, layout)
    coloured = planes.shape[-1] in (1, 3)
    if preprocess is not None and coloured:
        return to_pixels(image, preprocess, layout)
    values = planes.astype(np.float64)
    if not coloured:
        values = values.mean(axis=-1, keepdims=True)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1.0)
    pixels = np.rint(255 * scaled).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
