"""Clusters of like maps: how many ways a model has of coming to a class.

SpRAy, spectral relevance analysis: Lapuschkin et al., Unmasking Clever Hans predictors (2019). A
small, tight cluster is what a shortcut looks like. The number of clusters is where the eigenvalues
of the graph's Laplacian make their largest step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST", "eigen_gap", "spectral"]

Floats = NDArray[np.float64]

# Maps of a class that are clustered, and clusters that are looked for.
MOST, CLUSTERS = 500, 8
# The cosine of two clusters' mean maps from which on they are one.
ALIKE = 0.9


def spectral(maps: NDArray[np.floating], clusters: int | None = None) -> NDArray[np.int64]:
    """The cluster of each map, int64 [N], the largest cluster first.

    maps: [N, h, w], not negative. clusters: how many; None: where the eigenvalues step. Fewer than
    4 maps are one cluster.
    """
    count = len(maps)
    if count < 4 and clusters is None:
        return np.zeros(count, np.int64)
    values, vectors = _spectrum(np.asarray(maps, np.float64).reshape(count, -1))
    wanted = eigen_gap(values) if clusters is None else min(clusters, count)
    rows = vectors[:, :wanted]
    # Ng, Jordan, Weiss 2001: rows of the eigenvectors, on the unit sphere.
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    found = _means(rows, wanted)
    if clusters is None:
        found = _alike(np.asarray(maps, np.float64).reshape(count, -1), found)
        wanted = int(found.max()) + 1
    order = np.argsort(-np.bincount(found, minlength=wanted), kind="stable")
    place = np.empty(wanted, np.int64)
    place[order] = np.arange(wanted)
    return place[found]


def eigen_gap(values: NDArray[np.floating]) -> int:
    """The number of clusters by a Laplacian's eigenvalues, smallest first: 1 to 8."""
    steps = np.diff(np.asarray(values[: CLUSTERS + 1], np.float64))
    return int(steps.argmax()) + 1 if len(steps) else 1


def _alike(rows: Floats, label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Clusters with (nearly) the same mean map are one way of coming to a class, however the graph
    falls apart."""
    means = np.stack([rows[label == k].mean(axis=0) for k in range(int(label.max()) + 1)])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    place = np.arange(len(means))
    for one in range(len(means)):
        same = np.nonzero(means[:one] @ means[one] >= ALIKE)[0]
        if len(same):
            place[one] = place[same[0]]
    return np.unique(place[label], return_inverse=True)[1].astype(np.int64).reshape(-1)


def _spectrum(rows: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues and eigenvectors of the normalised Laplacian of the maps' nearest neighbours,
    closeness falling with distance by each map's own scale (Zelnik-Manor and Perona 2004)."""
    count = len(rows)
    rows = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-12)
    squares = (rows**2).sum(axis=1)
    gap = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0))
    near = min(max(7, int(np.log2(count)) + 1), count - 1)
    order = np.argsort(gap + np.diag(np.full(count, -1.0)), axis=1, kind="stable")
    scale = np.maximum(gap[np.arange(count), order[:, near]], 1e-9)
    close = np.exp(-(gap**2) / (scale[:, None] * scale))
    kept = np.zeros((count, count), bool)
    kept[np.arange(count)[:, None], order[:, 1 : near + 1]] = True
    close = np.where(kept | kept.T, close, 0)
    np.fill_diagonal(close, 0)
    root = 1 / np.sqrt(np.maximum(close.sum(axis=1), 1e-12))
    values, vectors = np.linalg.eigh(np.eye(count) - root[:, None] * close * root)
    return np.asarray(values, np.float64), np.asarray(vectors, np.float64)


def _means(rows: Floats, wanted: int) -> NDArray[np.int64]:
    """k-means of rows; the first centres are rows far from each other, so that the same rows give
    the same clusters."""
    centres = rows[[int(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).argmin())]]
    while len(centres) < wanted:
        away = ((rows[:, None] - centres) ** 2).sum(axis=2).min(axis=1)
        centres = np.concatenate([centres, rows[[int(away.argmax())]]])
    found = np.zeros(len(rows), np.int64)
    for _ in range(100):
        away = ((rows[:, None] - centres) ** 2).sum(axis=2)
        new = away.argmin(axis=1)
        for empty in np.setdiff1d(np.arange(wanted), new):
            new[int(away[np.arange(len(rows)), new].argmax())] = empty
        if (new == found).all() and len(np.unique(found)) == wanted:
            break
        found = new
        centres = np.stack([rows[found == k].mean(axis=0) for k in range(wanted)])
    return found.astype(np.int64)
