"""The noise that variants of an image have: parts of one field, shifted; the same on every
runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from . import choose
from .emit import all_dims

__all__ = ["CHANNELS", "Field", "channel_axis", "noise_for"]

# The field is larger than the image by this.
MARGIN = 16
# In the `meta` of an input `noise`: the axis of its channels.
CHANNELS = "backlight.channels"
SEED = 20190519


@dataclass(frozen=True)
class Field:
    """Unit normals, larger than an image [...] along its `places`. Each part in the image's shape
    is white noise, and every part is followed by its negative: their mean is exactly 0.

    values: float16, half the size, which every runtime casts. corners: where the parts begin.
    """

    shape: tuple[int, ...]
    places: tuple[int, ...]
    values: NDArray[np.float16]
    corners: NDArray[np.int64]

    @classmethod
    def of(cls, shape: Sequence[int], channels: int | None) -> Field:
        """shape: of an image without a batch; channels: the axis that isn't a place, if any."""
        return _made(tuple(shape), channels)

    def begins(self, pair: int) -> list[int]:
        """Where a part begins along each place."""
        corner = int(self.corners[pair % len(self.corners)])
        return [(corner // (MARGIN + 1) ** i) % (MARGIN + 1) for i in range(len(self.places))]

    def samples(self, at: int, count: int, dtype: Any) -> NDArray[Any]:
        """Samples at, at + 1, …: [count, ...], as a file that holds the field makes them."""
        found = np.empty((count, *self.shape), dtype)
        for sample in range(at, at + count):
            begins = dict(zip(self.places, self.begins(sample // 2), strict=True))
            cut = (slice(begins.get(a, 0), begins.get(a, 0) + d) for a, d in enumerate(self.shape))
            part = self.values[tuple(cut)].astype(dtype)
            found[sample - at] = -part if sample % 2 else part
        return found


@lru_cache(maxsize=4)
def _made(shape: tuple[int, ...], channels: int | None) -> Field:
    places = tuple(a for a in range(len(shape)) if a != channels)
    large = [d + MARGIN * (a in places) for a, d in enumerate(shape)]
    rng = np.random.default_rng(SEED)
    values = rng.standard_normal(large).astype(np.float16)
    return Field(shape, places, values, rng.permutation((MARGIN + 1) ** len(places)))


def channel_axis(image: ir.Value) -> int | None:
    """Of an image [N, ...], the axis of its channels in a row [...]; None where it has none."""
    assert image.shape is not None
    return choose.channel_axis(image) - 1 if len(image.shape) > 3 else None


def noise_for(
    given: ir.Value, image: Sequence[int], dtype: Any, at: int, count: int
) -> NDArray[Any]:
    """What to feed to an input `noise` [n, ...]: the samples at, at + 1, … that a file would hold.
    image: the shape of the images fed, for sizes that the input leaves open; dtype: theirs."""
    dims = all_dims(given.shape)
    shape = [d if isinstance(d, int) else image[a] for a, d in enumerate(dims)][1:]
    channels = given.meta.get(CHANNELS, channel_axis(given))
    kind = dtype if given.dtype is None else given.dtype.numpy()
    return Field.of(shape, channels).samples(at, count, kind)
