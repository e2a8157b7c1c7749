"""What a layer makes of a photo: its feature maps, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ... import arguments as take
from ...errors import ImageError, UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.receptive import ReceptiveField
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..photos import images
from ..photos.images import Pixels
from ..pictures.grid import Tile, figure, sheet, tiled
from ..runtime.session import Providers
from .taps import Taps

__all__ = ["Activations", "activations", "maps_of", "refuse_flat"]

PER = ("channel", "layer")
LIMIT = 64
# Strength laid over a photo.
WARM = np.array([255, 96, 0], np.float32)


@dataclass(frozen=True)
class Activations:
    """One image's feature maps at one layer.

    values: [C, H, W], in the tensor's dtype. pixels: the image as the model sees it, uint8
    [h, w, 3], None where a tensor was given.
    """

    layer: str
    values: NDArray[Any]
    pixels: Pixels | None

    @property
    def strength(self) -> NDArray[np.float32]:
        """Each channel's largest activation, float32 [C]; NaN where there is only that."""
        return np.asarray(np.fmax.reduce(self.values, axis=(1, 2)), np.float32)

    def channels(self, limit: int = LIMIT, *, sort: bool = False) -> list[int]:
        """The first channels, or the strongest."""
        order = np.argsort(-self.strength, kind="stable") if sort else np.arange(len(self.values))
        return [int(c) for c in order[:limit]]

    def picture(
        self,
        channels: Sequence[int] | None = None,
        *,
        sort: bool = False,
        overlay: bool = False,
        per: str = "channel",
        limit: int = LIMIT,
        title: str = "",
    ) -> Image.Image:
        """A grid of maps with channel numbers and each one's largest activation.

        channels: which, and in this order; None: the first `limit`, or with `sort` the strongest.
        overlay: laid over the photo. per: "channel": each map uses the full range; "layer": all
        share one. Raises UsageError for a channel that isn't there or an overlay without a photo.
        """
        if per not in PER:
            raise UsageError.unknown("per", per, PER)
        if overlay and self.pixels is None:
            raise UsageError("an overlay needs the photo; give an image, not a tensor")
        count, height, width = self.values.shape
        chosen = self.channels(limit, sort=sort) if channels is None else list(channels)
        for number in chosen:
            if not 0 <= number < count:
                raise UsageError(
                    f"channel {number} is out of range; '{self.layer}' has 0 to {count - 1}"
                )
        if channels is not None and sort:
            chosen.sort(key=lambda c: (-self.strength[c], c))
        values = np.nan_to_num(self.values.astype(np.float32), nan=0.0)
        tops = np.abs(values).max(axis=(1, 2)) if per == "channel" else np.abs(values).max()
        tops = np.broadcast_to(np.maximum(tops, np.finfo(np.float32).tiny), (count,))
        is_signed = bool(values.min() < 0)
        tiles = []
        side = _side(height, width, overlay)
        for c in chosen:
            scaled = values[c] / tops[c]
            shown = self._overlaid(scaled, side) if overlay else _grey(scaled, is_signed)
            tiles.append(Tile(shown, f"{c}: {figure(float(values[c].max()))}"))
        order = ", the strongest first" if sort else ""
        amount = f"{len(chosen)} of {count}" if len(chosen) < count else f"{count}"
        below = "below each: channel, largest activation"
        detail = f"{amount} channels of {height} x {width}{order}; {below}"
        return sheet(
            title or f"Activations of {self.layer}",
            [detail],
            tiled(tiles, 8),
            side,
            _note(per, is_signed, overlay),
        )

    def _overlaid(self, scaled: NDArray[np.float32], side: int) -> Pixels:
        """A map over the photo in grey: the stronger, the more of the warm colour."""
        assert self.pixels is not None
        height, width = self.pixels.shape[:2]
        size = (
            max(width * side // max(height, width), 1),
            max(height * side // max(height, width), 1),
        )
        photo = Image.fromarray(self.pixels).resize(size, Image.Resampling.LANCZOS).convert("L")
        grey = np.asarray(photo, np.float32)[..., None] * 0.75
        strong = Image.fromarray(np.maximum(scaled, 0)).resize(size, Image.Resampling.BILINEAR)
        weight = 0.85 * np.clip(np.asarray(strong), 0, 1)[..., None]
        return np.asarray(np.rint(grey * (1 - weight) + WARM * weight), np.uint8)


def _side(height: int, width: int, overlay: bool) -> int:
    if overlay:
        return 144
    longest = max(height, width)
    return longest * -(-80 // longest) if longest < 80 else min(longest, 128)


def _grey(scaled: NDArray[np.float32], is_signed: bool) -> Pixels:
    grey = 127.5 + 127.5 * scaled if is_signed else 255 * scaled
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def _note(per: str, is_signed: bool, overlay: bool) -> str:
    scope = "its channel" if per == "channel" else "the layer"
    if overlay:
        return (
            f"Normalised per {per}: over the photo in grey, full orange is the largest activation "
            f"of {scope}, none is 0 or less; maps enlarged smoothly."
        )
    if is_signed:
        return (
            f"Normalised per {per}: mid-grey is 0, white (or black) is the largest |activation| "
            f"of {scope}."
        )
    return f"Normalised per {per}: black is 0, white is the largest activation of {scope}."


def refuse_flat(field: ReceptiveField) -> tuple[int, int, int]:
    """The axes of channels, rows and columns; UsageError for a tensor without rows and columns."""
    axes = field.axes
    if axes is not None and field.is_spatial:
        return axes
    shape = "[N," + ",".join(map(str, field.dims[1:])) + "]"
    what = "its positions lie in a line" if len(field.dims) == 3 else "it has no spatial extent"
    raise UsageError(
        f"'{field.tensor}' is shaped {shape}: {what}; expected rows and columns, [N,C,H,W]; "
        "--list shows such layers"
    )


def maps_of(values: NDArray[Any], axes: tuple[int, int, int]) -> NDArray[Any]:
    """A batch of a tensor as [N, C, H, W]."""
    return values if axes == (1, 2, 3) else values.transpose(0, *axes)


@take.accepts(
    layer=take.text, preprocess=given_preprocess, providers=take.names, threads=take.whole
)
def activations(
    model: ModelLike,
    image: str | Path | NDArray[Any],
    layer: str,
    *,
    preprocess: Preprocess | str | None = None,
    providers: Providers = None,
    threads: int | None = None,
    shapes: Shapes | None = None,
    inputs: InputsLike | None = None,
) -> Activations:
    """A layer's feature maps for one image.

    image: a file, pixels (uint8 [H, W, 3] RGB), or a tensor as the model takes it, [1, ...].
    layer: a tensor or a node by name. preprocess: a preset's name or a record; default: what the
    model says. shapes: of inputs that the model leaves open, by name; inputs: what is fed beside
    the image, by name (see `backlight.Explainer`).
    Raises UsageError for an unknown layer, with the nearest names, and for one without rows and
    columns; ImageError for an image that can't be read.
    """
    if not isinstance(image, (str, os.PathLike, np.ndarray)):
        raise take.refused("image", image, "a path, or an array")
    taps = Taps(model, [layer], providers=providers, threads=threads, shapes=shapes, inputs=inputs)
    pixels: Pixels | None = None
    if isinstance(image, np.ndarray) and not _is_pixels(image):
        x = image
        if x.ndim < 3 or len(x) != 1:
            raise ImageError(
                f"an array of {x.dtype} shaped {list(x.shape)}; expected one image: pixels, uint8 "
                "[H, W, 3], or a tensor as the model takes it, [1, ...]"
            )
        size = (x.shape[1], x.shape[2]) if taps.input.layout != "nchw" else x.shape[2:]
    else:
        settled = taps.settled(preprocess)
        if isinstance(image, np.ndarray):
            prepared = images.prepare(image, settled, taps.input)
        else:
            prepared = images.read(image, settled, taps.input)
        x, pixels = prepared.tensor[None], prepared.pixels
        size = (pixels.shape[0], pixels.shape[1])
    name = taps.names[0]
    axes = refuse_flat(taps.fields((int(size[0]), int(size[1])))[name])
    return Activations(name, maps_of(taps(x)[name], axes)[0], pixels)


def _is_pixels(image: NDArray[Any]) -> bool:
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0
