"""From a model's output to probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["has_none", "is_distribution", "probabilities", "shares", "softmax"]


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Softmax over the classes, [N, K] -> float32 [N, K]."""
    with np.errstate(invalid="ignore"):  # rows of infinite scores become NaN: told from that
        shifted = np.exp(logits.astype(np.float32) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def is_distribution(rows: Any, xp: Any = np) -> Any:
    """Which rows [N, K] are probabilities already: nowhere negative, with the sum 1. Bool [N]."""
    if rows.shape[1] < 2:
        return xp.zeros(len(rows), bool)
    wide = rows.astype(np.float64)
    # Half precision adds up to 1 within so much.
    return (wide >= 0).all(axis=1) & (abs(wide.sum(axis=1) - 1) <= 2e-3)


def shares(rows: Any, xp: Any = np) -> Any:
    """Rows [N, K] made of probabilities: as they are where they stay within 0..1, else their parts
    of the row's sum."""
    beyond = rows.max(axis=1, keepdims=True) > 1 + 2e-3
    return rows / xp.where(beyond, rows.sum(axis=1, keepdims=True), xp.ones_like(rows[:, :1]))


def has_none(classes: int | None, closing: str | None) -> bool:
    """Whether scores of so many classes give no probability: a single one that nothing closes, or
    what is made of probabilities and is none."""
    return closing == "Score" or (classes == 1 and closing is None)


def probabilities(
    scores: NDArray[Any], closing: str | None, scale: float = 1.0, by: float = 1.0
) -> NDArray[np.float32] | None:
    """Scores [N, K, 1...] -> probabilities [N, K].

    closing: how the head is closed. Softmax, Sigmoid and Probability: they are probabilities
    already, times `scale`; LogSoftmax: their logarithm, times `by`; Odds: log(p / (1 - p)),
    times `by`; Share: see `shares`; None: row
    by row as they are where they are a distribution already, else their softmax. None is returned
    where there are none to be had: see `has_none`, or scores with more than one position.
    """
    flat = scores.reshape(len(scores), -1)
    if scores.ndim < 2 or flat.shape[1] != max(scores.shape[1:], default=0):
        return None
    flat = flat.astype(np.float32)
    if closing in ("Softmax", "Sigmoid", "Probability"):
        return flat if scale == 1 else np.asarray(flat / np.float32(scale), np.float32)
    if closing == "LogSoftmax":
        return np.asarray(np.exp(flat / np.float32(by)) / np.float32(scale), np.float32)
    if closing == "Odds":
        return np.asarray(1 / (1 + np.exp(-flat / np.float32(by))), np.float32)
    if has_none(flat.shape[1], closing):
        return None
    if closing == "Share":
        return np.asarray(shares(flat), np.float32)
    return np.where(is_distribution(flat)[:, None], flat, softmax(flat))
