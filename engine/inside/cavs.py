"""Concept activation vectors: the direction in a layer that tells a concept's images from others.

Kim et al. 2018, "Interpretability Beyond Feature Attribution: Quantitative Testing with Concept
Activation Vectors (TCAV)".
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError

__all__ = ["FITS", "Cav", "fitted", "ready_fit"]

# Held back of each side, to see whether a vector tells images that it hasn't seen.
HELD = 1 / 3

Rows = NDArray[np.float32]
# (the concept's rows, the others') -> (a normal towards the concept, where the border lies on it)
Fit = Callable[[Rows, Rows, int], tuple[NDArray[np.float64], float]]


@dataclass(frozen=True)
class Cav:
    """A vector and how well it does. normal: float32 [D], of length 1, 0 where the two sides don't
    differ. accuracy: on the images held back, the mean of both sides'; None where none were."""

    normal: NDArray[np.float32]
    accuracy: float | None


def fitted(kind: str, concept: Rows, others: Rows, rng: np.random.Generator) -> Cav:
    """The vector that tells concept [n, D] from others [m, D]. A third of each side is held back
    for the accuracy, where there are two rows or more."""
    sides = []
    for rows in (concept, others):
        order = rng.permutation(len(rows))
        held = max(int(len(rows) * HELD), 1) if len(rows) > 1 else 0
        sides.append((rows[order[held:]], rows[order[:held]]))
    (a, seen_a), (b, seen_b) = sides
    normal, border = FITS[kind](a, b, int(rng.integers(2**31)))
    size = float(np.linalg.norm(normal))
    if size > 0:
        normal, border = normal / size, border / size
    accuracy = None
    if len(seen_a) and len(seen_b):
        # A row on the border, as all are where the sides don't differ, is half right.
        right = [
            float(np.mean((side @ normal - border > 0) + 0.5 * (side @ normal == border)))
            for side in (seen_a, seen_b)
        ]
        accuracy = (right[0] + 1 - right[1]) / 2
    return Cav(normal.astype(np.float32), accuracy)


def ready_fit(kind: str) -> None:
    """Raise UsageError for a way to fit that isn't known, or whose library isn't installed."""
    if kind not in FITS:
        raise UsageError.unknown("cav", kind, FITS)
    if kind != "mean":
        _linear_models()


def _mean(a: Rows, b: Rows, _: int) -> tuple[NDArray[np.float64], float]:
    """The difference of means. Needs no classifier, and fewer images than one."""
    first, second = a.mean(axis=0, dtype=np.float64), b.mean(axis=0, dtype=np.float64)
    normal = first - second
    return normal, float(normal @ (first + second) / 2)


def _by(make: Callable[[Any, int], Any]) -> Fit:
    """By a linear model of scikit-learn's."""

    def fit(a: Rows, b: Rows, seed: int) -> tuple[NDArray[np.float64], float]:
        rows = np.concatenate([a, b]).astype(np.float64)
        # One number for all: the direction stays, and the penalty means the same in every layer.
        scale = float(np.sqrt((rows**2).mean())) or 1.0
        of = [1] * len(a) + [0] * len(b)
        rows /= scale
        turn = None
        if rows.shape[1] > rows.shape[0]:
            # Their vectors lie in the span of the rows, and turning all of it changes nothing: a
            # layer of 80,000 units is as quick as one of 20.
            turn, upper = np.linalg.qr(rows.T)
            rows = upper.T
        model = make(_linear_models(), seed).fit(rows, of)
        normal = model.coef_[0] if turn is None else turn @ model.coef_[0]
        return normal / scale, -float(model.intercept_[0])

    return fit


def _linear_models() -> Any:
    try:
        return tuple(importlib.import_module(f"sklearn.{n}") for n in ("linear_model", "svm"))
    except ImportError as err:
        raise UsageError(
            "a cav by a classifier needs scikit-learn; pip install 'backlight[concepts]', or take "
            "'mean', which needs nothing"
        ) from err


FITS: dict[str, Fit] = {
    "mean": _mean,
    # The settings of tensorflow/tcav, and of captum.
    "sgd": _by(
        lambda m, seed: m[0].SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=seed)
    ),
    "logistic": _by(lambda m, seed: m[0].LogisticRegression(max_iter=1000, random_state=seed)),
    "svm": _by(lambda m, seed: m[1].LinearSVC(max_iter=5000, random_state=seed)),
}
