"""Random shifts and zooms of an image, as matrices, with their exact adjoint."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Move", "moved"]


def moved(size: int, factor: float, shift: float) -> NDArray[np.float32]:
    """Linear interpolation along an axis, [size, size]: place p of the result reads the source at
    (p - middle) / factor + middle + shift, mirrored at the border."""
    middle = (size - 1) / 2
    at = (np.arange(size) - middle) / factor + middle + shift
    period = max(2 * (size - 1), 1)
    at = np.abs((at + size - 1) % period - (size - 1)) if size > 1 else np.zeros(1)
    low = np.minimum(np.floor(at).astype(np.int64), max(size - 2, 0))
    weight = at - low
    matrix = np.zeros((size, size))
    matrix[np.arange(size), low] = 1 - weight
    matrix[np.arange(size), np.minimum(low + 1, size - 1)] += weight
    return matrix.astype(np.float32)


class Move:
    """A shift by up to `jitter` pixels each way and a zoom by up to 1 +- `zoom`, drawn from rng."""

    def __init__(
        self, height: int, width: int, jitter: float, zoom: float, rng: np.random.Generator, xp: Any
    ) -> None:
        down, across = rng.uniform(-jitter, jitter, 2)
        factor = float(np.exp(rng.uniform(-1, 1) * np.log1p(zoom)))
        self._down = xp.asarray(moved(height, factor, down))
        self._across = xp.asarray(moved(width, factor, across))

    def __call__(self, z: Any) -> Any:
        """z: float32 [N, C, H, W], moved."""
        return self._down @ z @ self._across.T

    def adjoint(self, gradient: Any) -> Any:
        """The gradient by the moved image -> by the image."""
        return self._down.T @ gradient @ self._across
