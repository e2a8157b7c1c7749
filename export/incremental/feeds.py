"""The arrays that tell the patch graph where each variant's boxes are, computed per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .intervals import (
    Extent,
    Frame,
    Ints,
    Pair,
    Stencil,
    clean_index,
    frame,
    outside_mask,
    paste_index,
    root_index,
    scatter_index,
    whole,
    window_share,
)


class Places:
    """Where the boxes of some of a bucket's variants are: one frame per extent, made once.

    variants: int64 [m]. group: int64 [m], the background that each variant shows. rows: int64
    [m], the place of each variant in its batch. bucket: all variants that go together, whose
    largest boxes give the sizes; default: those of the batches.
    """

    def __init__(self, batches: Sequence[Ints], group: Ints, bucket: Ints | None = None) -> None:
        self.variants = np.concatenate(batches)
        self.bucket = self.variants if bucket is None else bucket
        self.group = group[self.variants]
        self.rows = np.concatenate([np.arange(len(batch)) for batch in batches])
        self._frames: dict[Extent, Frame] = {}

    def frame(self, extent: Extent) -> Frame:
        """The boxes around an extent, of one size."""
        if extent not in self._frames:
            self._frames[extent] = frame(extent, self.variants, self.bucket)
        return self._frames[extent]


class Feed(Protocol):
    """An input of the patch graph that depends on the windows alone."""

    def array(self, places: Places) -> NDArray[Any]:
        """Its value for all variants of a bucket; a batch's is a slice of the first axis."""


@dataclass(frozen=True)
class Patch:
    """What a stencil reads to make the boxes of `target` in a map; None: the whole map."""

    size: Pair
    target: Extent | None
    stencil: Stencil

    def frame(self, places: Places) -> Frame:
        """Where the patches are."""
        if self.target is None:
            return whole(self.size, len(places.variants))
        return places.frame(self.target).read_by(self.stencil)

    def contains(self, have: Extent, places: Places) -> bool:
        """Whether the boxes of `have` lie inside."""
        return self.frame(places).contains(places.frame(have))


@dataclass(frozen=True)
class Around:
    """Rows of the clean map that make patches: int32 [m, ph, pw]."""

    patch: Patch
    pad_row: int

    def array(self, places: Places) -> NDArray[Any]:
        return clean_index(self.patch.frame(places), self.patch.size, self.pad_row)


@dataclass(frozen=True)
class Into:
    """Where the boxes of `have` go in patches that contain them: int64 [m, bh, bw, 3]."""

    patch: Patch
    have: Extent

    def array(self, places: Places) -> NDArray[Any]:
        return scatter_index(self.patch.frame(places), places.frame(self.have), places.rows)


@dataclass(frozen=True)
class Mixed:
    """Rows of the clean map and of the boxes of `have` behind it: int32 [m, ph, pw]."""

    patch: Patch
    pad_row: int
    have: Extent

    def array(self, places: Places) -> NDArray[Any]:
        frame = self.patch.frame(places)
        have = places.frame(self.have)
        return paste_index(frame, have, self.patch.size, self.pad_row, places.rows)


@dataclass(frozen=True)
class Rooted:
    """Rows of the image and of the backgrounds behind it: int32 [m, ph, pw]."""

    patch: Patch
    pad_row: int
    have: Extent

    def array(self, places: Places) -> NDArray[Any]:
        lo, hi = self.have.lo[:, places.variants], self.have.hi[:, places.variants]
        frame = self.patch.frame(places)
        return root_index(frame, lo, hi, places.group, self.patch.size, self.pad_row)


@dataclass(frozen=True)
class Outside:
    """1 where a variant's box is not: float32 [m, H * W]."""

    extent: Extent

    def array(self, places: Places) -> NDArray[Any]:
        return outside_mask(places.frame(self.extent), self.extent.size)


@dataclass(frozen=True)
class Share:
    """What an average over whole windows must be multiplied by: float32 [m, 1, h, w]."""

    target: Extent
    stencil: Stencil
    limits: tuple[Pair, Pair]

    def array(self, places: Places) -> NDArray[Any]:
        return window_share(places.frame(self.target), self.stencil, self.limits)
