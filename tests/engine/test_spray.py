"""Spectral clusters of maps (SpRAy)."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.evidence.spray import eigen_gap, spectral


def blobs(counts: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps with a spot in another place for each group."""
    rng = np.random.default_rng(seed)
    maps = rng.random((sum(counts), 8, 8)) * 0.2
    label = np.repeat(np.arange(len(counts)), counts)
    for row, group in enumerate(label):
        maps[row, 2 * group, 2 * group : 2 * group + 2] += 5
    return maps, label


def test_clusters_are_the_planted_ones():
    maps, label = blobs((14, 9, 5))
    order = np.random.default_rng(1).permutation(len(maps))
    np.testing.assert_array_equal(spectral(maps[order]), label[order])  # the largest is 0
    assert len(np.unique(spectral(maps, 5))) == 5
    assert spectral(maps[:3]).tolist() == [0, 0, 0]
    assert eigen_gap(np.array([0, 0, 0.01, 0.9, 1])) == 3


def test_clusters_are_scikit_learn_s():
    cluster = pytest.importorskip("sklearn.cluster")
    maps, _ = blobs((12, 12, 7), seed=3)
    flat = maps.reshape(len(maps), -1)
    want = cluster.SpectralClustering(3, affinity="nearest_neighbors", random_state=0)
    want = want.fit_predict(flat / flat.sum(axis=1, keepdims=True))
    got = spectral(maps, 3)
    assert len({*zip(got.tolist(), want.tolist(), strict=True)}) == 3
