"""From a model's output to probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_distribution", "probabilities", "softmax"]


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Softmax over the classes, [N, K] -> float32 [N, K]."""
    shifted = np.exp(logits.astype(np.float32) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def is_distribution(rows: Any, xp: Any = np) -> Any:
    """Which rows [N, K] are probabilities already: nowhere negative, with the sum 1. Bool [N]."""
    if rows.shape[1] < 2:
        return xp.zeros(len(rows), bool)
    wide = rows.astype(np.float64)
    # Half precision adds up to 1 within so much.
    return (wide >= 0).all(axis=1) & (abs(wide.sum(axis=1) - 1) <= 2e-3)


def probabilities(
    scores: NDArray[Any], closing: str | None, scale: float = 1.0
) -> NDArray[np.float32] | None:
    """Scores [N, K, 1...] -> probabilities [N, K].

    closing: how the head is closed. Softmax, Sigmoid and Probability: they are probabilities
    already, times `scale`; LogSoftmax: their exponential; None: row by row as they are where they
    are a distribution already, else their softmax. None is returned where there are none to be
    had: a single score without a Sigmoid, or scores with more than one position.
    """
    flat = scores.reshape(len(scores), -1)
    if scores.ndim < 2 or flat.shape[1] != max(scores.shape[1:], default=0):
        return None
    flat = flat.astype(np.float32)
    if closing in ("Softmax", "Sigmoid", "Probability"):
        return flat if scale == 1 else np.asarray(flat / np.float32(scale), np.float32)
    if closing == "LogSoftmax":
        return np.asarray(np.exp(flat) / np.float32(scale), np.float32)
    if flat.shape[1] < 2:
        return None
    return np.where(is_distribution(flat)[:, None], flat, softmax(flat))
