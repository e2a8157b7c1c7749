"""A layer's values as cells, and the head that scores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...export.layer import Layer
from ...export.tail import Tail
from ..classifier.fed import Fed
from ..classifier.ready import Ready
from ..runtime.session import Providers, Session

__all__ = ["Grid", "Head"]

# Values that a run of the head may take in: bytes.
MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Grid:
    """How a layer's values are cells. channel_axis: of the values [N, ...]; rows, columns: of the
    grid; extra: tokens in front of those of patches, which stay."""

    channel_axis: int
    rows: int
    columns: int
    extra: int = 0

    @classmethod
    def of(cls, layer: Layer, shape: tuple[int, ...]) -> Grid:
        """Of a layer whose values are shaped [N, ...]. Raises UsageError for tokens of which
        nobody knows how they lie."""
        if layer.grid is None:
            sizes = [n for axis, n in enumerate(shape) if axis not in (0, layer.channel_axis)]
            return cls(layer.channel_axis, sizes[0], sizes[1])
        height, width = layer.sizes
        if not isinstance(height, int) or not isinstance(width, int):
            raise UsageError(
                f"layer '{layer.name}': its tokens lie in a grid of unknown size; "
                "--shape settles the image's, or take another layer"
            )
        return cls(layer.channel_axis, height, width, shape[layer.token_axis] - height * width)

    def __len__(self) -> int:
        return self.rows * self.columns

    def cells(self, values: NDArray[Any]) -> NDArray[Any]:
        """[N, ...] -> [N, cells, channels]; a copy."""
        last = np.moveaxis(values, self.channel_axis, -1)
        return np.array(last.reshape(len(values), -1, last.shape[-1])[:, self.extra :])

    def values(self, cells: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
        """[B, cells, channels] -> [B, ...]. like: one image's values [...], whose tokens in front
        are kept."""
        front = np.moveaxis(like, self.channel_axis - 1, -1)
        flat = front.reshape(-1, front.shape[-1])[: self.extra]
        whole = np.concatenate([np.broadcast_to(flat, (len(cells), *flat.shape)), cells], axis=1)
        made = whole.reshape(len(cells), *front.shape).astype(like.dtype, copy=False)
        return np.ascontiguousarray(np.moveaxis(made, -1, self.channel_axis))

    def place(self, cell: int) -> tuple[int, int]:
        """Row and column."""
        return divmod(cell, self.columns)


class Head:
    """What lies behind a layer, compiled. ready: the model, with what is fed beside the image."""

    def __init__(
        self, made: Tail, ready: Ready, providers: Providers = None, threads: int | None = None
    ) -> None:
        self._tail = made
        beside = (made.image,) if made.image else ()
        self._fed = ready.feeding(Fed.of(made.model.graph, made.layer, beside))
        self._fed.needs()
        self.session = Session(made.model, providers, threads)
        self.passes = 0

    def __call__(self, values: NDArray[Any], like: NDArray[Any]) -> NDArray[np.float32]:
        """Scores float32 [N, K] of a layer's values [N, ...]. like: an image, [...]."""
        feeds = {self._tail.layer: values}
        if self._tail.image is not None:
            feeds[self._tail.image] = np.broadcast_to(like, (len(values), *like.shape))
        step = max(MOST_BYTES // max(values[0].nbytes, 1), 1)
        parts = []
        for part, count in self._fed.runs(feeds, min(step, 64)):
            host = {k: np.ascontiguousarray(v) for k, v in part.items()}
            found = self.session.run(host, [self._tail.scores])[self._tail.scores]
            parts.append(found[:count].reshape(count, -1).astype(np.float32))
            self.passes += count
        return np.concatenate(parts)
