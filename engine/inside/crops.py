"""One layer's strongest activations, and the crops under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...export.receptive import ReceptiveField
from ..photos.images import Pixels
from .activations import refuse_flat

__all__ = ["LayerPatches"]

FRAME = (255, 96, 0)


@dataclass(frozen=True)
class LayerPatches:
    """The k strongest activations of a layer's channels, strongest first.

    channels: int64 [C]. values: float32 [C, k]. image: int64 [C, k], a place in `Patches.files`;
    -1, with -inf as its value, where there are fewer. row, column: int64 [C, k], in the map.
    boxes: int64 [C, k, 4], top, left, bottom, right in pixels of the image as the model sees it.
    """

    name: str
    field: ReceptiveField
    channels: NDArray[np.int64]
    values: NDArray[np.float32]
    image: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    boxes: NDArray[np.int64]

    def place(self, channel: int) -> int:
        """Where a channel stands in the arrays. Raises UsageError."""
        found = np.nonzero(self.channels == channel)[0]
        if len(found) == 0:
            kept = f"{self.channels[0]} to {self.channels[-1]}"
            raise UsageError(f"channel {channel} of '{self.name}' wasn't asked for; kept: {kept}")
        return int(found[0])

    def canvas(self, channel: int) -> tuple[int, int]:
        """Height and width that hold every crop of a channel."""
        size = self.field.size_of(channel)
        high, wide = (min(s, n) for s, n in zip(size, self.field.image, strict=True))
        return max(high, 1), max(wide, 1)

    @property
    def held(self) -> int:
        """The most activations that a channel has: k, or fewer in a small set."""
        return int((self.image >= 0).sum(axis=1).max())

    def cut(self, pixels: NDArray[Any], at: int, rank: int, blank: Any) -> NDArray[Any]:
        """The crop under an activation, [H, W, ...] -> [h, w, ...], of the same size for all of a
        channel: what lies beyond the image's border is `blank`. at: as `place` gives it."""
        top, left, bottom, right = (int(b) for b in self.boxes[at, rank])
        high, wide = self.canvas(int(self.channels[at]))
        found = np.empty((high, wide, *pixels.shape[2:]), pixels.dtype)
        found[...] = blank
        # A field that the border cuts at its beginning ends where the canvas does.
        y = high - (bottom - top) if top == 0 and bottom < self.field.image[0] else 0
        x = wide - (right - left) if left == 0 and right < self.field.image[1] else 0
        found[y : y + bottom - top, x : x + right - left] = pixels[top:bottom, left:right]
        return found

    def framed(self, pixels: Pixels, at: int, rank: int) -> Pixels:
        """A copy of the whole image with a frame at the unit's place in the map."""
        axes = refuse_flat(self.field)
        drawn = pixels.copy()
        ends = []
        for place, axis, length in ((self.row, 1, len(drawn)), (self.column, 2, drawn.shape[1])):
            cell = length / self.field.dims[axes[axis]]
            middle, half = (int(place[at, rank]) + 0.5) * cell, max(cell, length / 8) / 2
            ends.append((max(int(middle - half), 0), min(int(middle + half), length)))
        (top, bottom), (left, right) = ends
        wide = max(len(drawn) // 75, 1)
        inner = drawn[top + wide : bottom - wide, left + wide : right - wide].copy()
        drawn[top:bottom, left:right] = FRAME
        drawn[top + wide : bottom - wide, left + wide : right - wide] = inner
        return drawn
