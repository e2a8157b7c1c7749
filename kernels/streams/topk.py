"""The k strongest activations of each channel, kept while batches stream by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TopK"]

try:
    from .._native import merge_topk as native
except ImportError:  # a tree that nobody has built
    native = None  # type: ignore[assignment]


class TopK:
    """Memory O(channels x k). Equal activations: the earlier image, then the earlier position.

    values: float32 [C, k], strongest first, -inf where there are fewer. image: int64 [C, k], the
    number given to `merge`, -1 where there is none. position: int64 [C, k], row-major in the map.
    one_per_image: an image gives each channel its strongest activation only.
    """

    def __init__(self, channels: int, k: int, one_per_image: bool = False) -> None:
        self.k = k
        self.one_per_image = one_per_image
        self.values = np.full((channels, k), -np.inf, np.float32)
        self.image = np.full((channels, k), -1, np.int64)
        self.position = np.full((channels, k), -1, np.int64)

    def merge(self, maps: NDArray[Any], index: NDArray[np.int64]) -> None:
        """Take in a batch: maps [N, C, H, W], of the images numbered index [N], in rising order.
        NaN counts as no activation."""
        flat = np.ascontiguousarray(maps.reshape(*maps.shape[:2], -1), np.float32)
        if native is None:
            self.merge_slowly(flat, index)
        else:
            native(self.values, self.image, self.position, flat, index, self.one_per_image)

    def merge_slowly(self, flat: NDArray[np.float32], index: NDArray[np.int64]) -> None:
        """`merge` in NumPy, of maps [N, C, H * W]: where the native module isn't built, and what
        it is tested against."""
        best = flat.max(axis=2)
        if np.isnan(best).any():
            flat = np.where(np.isnan(flat), np.float32(-np.inf), flat)
            best = flat.max(axis=2)
        bar = self.values[:, -1]
        # After the first batches few images beat the k-th best: only those are looked at closely.
        row, channel = np.nonzero(best > bar)
        if len(row) == 0:
            return
        near = flat[row, channel]
        if self.one_per_image:
            position = near.argmax(axis=1)
            values = best[row, channel]
        else:
            marked = near > bar[channel, None]
            many = np.nonzero(np.count_nonzero(marked, axis=1) > self.k)[0]
            if len(many):
                marked[many] &= _strongest(near[many], self.k)
            pair, position = np.nonzero(marked)
            row, channel, values = row[pair], channel[pair], near[pair, position]
        self._insert(channel, values, index[row], position)

    def _insert(
        self,
        channel: NDArray[np.int64],
        values: NDArray[np.float32],
        image: NDArray[np.int64],
        position: NDArray[np.int64],
    ) -> None:
        """Sort candidates in among what is kept."""
        touched = np.unique(channel)
        channel = np.concatenate([np.repeat(touched, self.k), channel])
        values = np.concatenate([self.values[touched].ravel(), values])
        image = np.concatenate([self.image[touched].ravel(), image])
        position = np.concatenate([self.position[touched].ravel(), position])
        order = np.lexsort((position, image, -values, channel))
        begin = np.searchsorted(channel[order], touched)
        kept = order[begin[:, None] + np.arange(self.k)]
        self.values[touched] = values[kept]
        self.image[touched] = image[kept]
        self.position[touched] = position[kept]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The state, for a file."""
        return {"values": self.values, "image": self.image, "position": self.position}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The state from a file. Raises ValueError for another shape."""
        for name, own in self.arrays().items():
            if arrays[name].shape != own.shape:
                raise ValueError(f"{name} is {arrays[name].shape}, not {own.shape}")
            setattr(self, name, arrays[name].astype(own.dtype))


def _strongest(rows: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Marks each row's k largest, of equal ones the first: [P, M] -> bool [P, M]."""
    length = rows.shape[1]
    if length <= k:
        return np.ones(rows.shape, np.bool_)
    bar = np.partition(rows, length - k, axis=1)[:, length - k, None]
    marked = rows >= bar
    many = np.nonzero(marked.sum(axis=1) > k)[0]
    if len(many):  # equal ones at the bar: zeros behind a Relu, most often
        above = rows[many] > bar[many]
        equal = marked[many] & ~above
        room = k - above.sum(axis=1, keepdims=True)
        marked[many] = above | (equal & (equal.cumsum(axis=1) <= room))
    return np.asarray(marked)
