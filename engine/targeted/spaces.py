"""What a contrastive explanation may change of a photo, as variables d that are 0 where nothing is.

    picture = anchor + spread(d)          d in a box that holds 0

A pertinent negative adds to the photo (the anchor), a pertinent positive to the empty picture, of
which the classifier is told nothing: the baseline. Added is what leads away from the baseline.
Pictures are in units of 0 (black) to 1 (white) here, [N, C, H, W], so that norms and steps mean the
same for every network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Gains", "Lattice", "Patches", "Space", "pixelwise"]


@dataclass(frozen=True)
class Space:
    """Variables of N photos. anchor: [N, C, H, W]; low, high: the box; start: where a search
    begins, shaped alike."""

    anchor: Any
    low: Any
    high: Any
    start: Any

    def picture(self, rows: NDArray[np.int64], d: Any) -> Any:
        """The pictures of some rows."""
        return self.anchor[rows] + d

    def gradient(self, rows: NDArray[np.int64], d: Any, by: Any) -> Any:
        """The gradient by the picture -> by d."""
        return by

    def map(self, d: Any) -> Any:
        """All variables as they lie in the photo, [N, H, W]: what was added, summed over
        channels."""
        return d.sum(axis=1)


def pixelwise(photo: Any, base: Any, kind: str, xp: Any) -> Space:
    """Every value of every pixel, between its own and the baseline's (positive), or from its own
    away from the baseline's (negative): where the two are the same, either way."""
    apart = photo - base
    if kind == "positive":
        low, high = xp.minimum(apart, 0), xp.maximum(apart, 0)
        return Space(base + 0 * photo, low, high, xp.zeros_like(photo))
    low = xp.where(apart > 0, 0, xp.minimum(-photo, 0))
    high = xp.where(apart < 0, 0, xp.maximum(1 - photo, 0))
    return Space(photo, low, high, xp.zeros_like(photo))


class Patches:
    """A value for each segment of each photo. labels: integers [N, H, W], 0..S-1 of the photo that
    has most segments."""

    def __init__(self, labels: NDArray[Any], xp: Any) -> None:
        self.xp, self.labels = xp, xp.asarray(labels.astype(np.int64))
        self.count = int(labels.max()) + 1
        tops = labels.reshape(len(labels), -1).max(axis=1)
        # float32 [N, S]: 0 where a photo has no such segment.
        self.there = xp.asarray((np.arange(self.count) <= tops[:, None]).astype(np.float32))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a photo's variables."""
        return (self.count,)

    def spread(self, rows: NDArray[np.int64], values: Any) -> Any:
        """[n, S] -> [n, 1, H, W]."""
        flat = self.labels[rows].reshape(len(rows), -1)
        shape = self.labels.shape[1:]
        return self.xp.take_along_axis(values, flat, axis=1).reshape(len(rows), 1, *shape)

    def gather(self, rows: NDArray[np.int64], by: Any) -> Any:
        """The adjoint: sums over each segment, [n, H, W] -> [n, S]."""
        xp, labels = self.xp, self.labels[rows].reshape(len(rows), -1)
        weights = by.reshape(len(rows), -1)
        sums = [
            xp.bincount(one, weights=weight, minlength=self.count)
            for one, weight in zip(labels, weights, strict=True)
        ]
        return xp.stack(sums).astype(np.float32)


class Lattice:
    """A value at each point of a coarse lattice, linear in between: no edges of its own."""

    def __init__(self, size: tuple[int, int], points: int, xp: Any) -> None:
        tall, wide = (max(min(points, s), 2) for s in size)
        self.shape = (tall, wide)
        self.there = np.float32(1)
        self.down = xp.asarray(_hats(size[0], tall))
        self.across = xp.asarray(_hats(size[1], wide))

    def spread(self, rows: NDArray[np.int64], values: Any) -> Any:
        """[n, h, w] -> [n, 1, H, W]."""
        return (self.down @ values @ self.across.T)[:, None]

    def gather(self, rows: NDArray[np.int64], by: Any) -> Any:
        """The adjoint: [n, H, W] -> [n, h, w]."""
        return self.down.T @ by @ self.across


def _hats(size: int, points: int) -> NDArray[np.float32]:
    """Linear interpolation from points at the middles of equal parts, [size, points]."""
    at = np.clip((np.arange(size) + 0.5) * points / size - 0.5, 0, points - 1)
    hats = np.maximum(1 - np.abs(at[:, None] - np.arange(points)), 0)
    return np.asarray(hats, np.float32)


@dataclass(frozen=True)
class Gains(Space):
    """How much of what tells the photo from its baseline is there: segment by segment, or
    smoothly. apart: photo - baseline. parts: Patches or a Lattice."""

    apart: Any
    parts: Patches | Lattice
    xp: Any

    @classmethod
    def of(cls, photo: Any, base: Any, kind: str, parts: Any, most: float, xp: Any) -> Gains:
        """positive: between nothing of it (the baseline) and all of it; negative: up to `most`
        times as much again."""
        shape = (len(photo), *parts.shape)
        zeros = xp.zeros(shape, np.float32)
        whole = zeros + np.float32(1 if kind == "positive" else most) * parts.there
        anchor = base + 0 * photo if kind == "positive" else photo
        # From the whole photo: an empty one says little of what would help.
        start = whole if kind == "positive" else zeros
        return cls(anchor, zeros, whole, start, photo - base, parts, xp)

    def picture(self, rows: NDArray[np.int64], d: Any) -> Any:
        """The pictures of some rows; what would be darker than black is black."""
        return self.xp.clip(self._added(rows, d), 0, 1)

    def gradient(self, rows: NDArray[np.int64], d: Any, by: Any) -> Any:
        """The gradient by the picture -> by d: none where a picture is cut off."""
        made = self._added(rows, d)
        inside = (made >= 0) & (made <= 1)
        return self.parts.gather(rows, (by * self.apart[rows] * inside).sum(axis=1))

    def map(self, d: Any) -> Any:
        """The gain of each pixel, [N, H, W]."""
        return self.parts.spread(np.arange(len(d)), d)[:, 0]

    def _added(self, rows: NDArray[np.int64], d: Any) -> Any:
        return self.anchor[rows] + self.parts.spread(rows, d) * self.apart[rows]
