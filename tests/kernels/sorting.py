"""The plain full sort that the streaming top k is held against."""

from __future__ import annotations

import numpy as np


def by_sorting(
    maps: np.ndarray, index: np.ndarray, k: int, one_per_image: bool
) -> list[list[tuple[float, int, int]]]:
    """All activations sorted, strongest first, ties by image and position; per channel."""
    found = []
    for channel in range(maps.shape[1]):
        flat = maps[:, channel].reshape(len(maps), -1)
        entries = [
            (-float(value), int(index[n]), position)
            for n, row in enumerate(flat)
            for position, value in enumerate(row)
            if not np.isnan(value)
        ]
        kept: list[tuple[float, int, int]] = []
        for value, image, position in sorted(entries):
            if not (one_per_image and image in {i for _, i, _ in kept}):
                kept.append((-value, image, position))
        found.append(kept[:k])
    return found
