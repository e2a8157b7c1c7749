"""From a model's output to probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["log_probabilities", "probabilities", "softmax"]


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Softmax over the classes, [N, K] -> float32 [N, K]."""
    shifted = np.exp(logits.astype(np.float32) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def probabilities(scores: NDArray[Any], closing: str | None) -> NDArray[np.float32] | None:
    """Scores [N, K, 1...] -> probabilities [N, K].

    closing: the operator that closes the head. Softmax and Sigmoid: they are probabilities
    already; LogSoftmax: their exponential; None: their softmax. None is returned where there are
    none to be had: a single score without a Sigmoid, or scores with more than one position.
    """
    flat = scores.reshape(len(scores), -1)
    if scores.ndim < 2 or flat.shape[1] != scores.shape[1]:
        return None
    flat = flat.astype(np.float32)
    if closing in ("Softmax", "Sigmoid"):
        return flat
    if closing == "LogSoftmax":
        return np.asarray(np.exp(flat), np.float32)
    return softmax(flat) if flat.shape[1] > 1 else None


def log_probabilities(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Log-softmax over the classes, [N, K] -> float32 [N, K]."""
    shifted = logits.astype(np.float32) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float32)
