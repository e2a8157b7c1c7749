"""The streaming top k against a plain full sort."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.kernels.streams import topk
from backlight.kernels.streams.topk import TopK

from .sorting import by_sorting


def entries(top: TopK) -> list[list[tuple[float, int, int]]]:
    return [
        [
            (float(v), int(i), int(p))
            for v, i, p in zip(values, images, positions, strict=True)
            if i >= 0
        ]
        for values, images, positions in zip(top.values, top.image, top.position, strict=True)
    ]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("one_per_image", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "nan"])
@pytest.mark.parametrize("area", [(4, 5), (9, 11)])  # with and without a vector's worth
def test_equals_a_full_sort(
    area: tuple[int, int],
    kind: str,
    batch: int,
    one_per_image: bool,
    native: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not native:
        monkeypatch.setattr(topk, "native", None)
    elif topk.native is None:
        pytest.skip("native module not built")
    rng = np.random.default_rng(3)
    maps = rng.standard_normal((20, 6, *area)).astype(np.float32)
    if kind == "ties":
        maps = rng.integers(0, 4, maps.shape).astype(np.float32)
    elif kind == "zeros":  # behind a Relu, most units at 0
        maps = np.maximum(maps - 2, 0)
    elif kind == "nan":
        maps[rng.random(maps.shape) < 0.2] = np.nan
    index = np.sort(rng.choice(50, 20, replace=False))  # unreadable images leave gaps
    top = TopK(6, 9, one_per_image)
    for at in range(0, 20, batch):
        top.merge(maps[at : at + batch], index[at : at + batch])
    assert entries(top) == by_sorting(maps, index, 9, one_per_image)


def test_a_small_set_leaves_places_empty() -> None:
    top = TopK(2, 7, one_per_image=True)
    maps = np.arange(12, dtype=np.float32).reshape(3, 2, 1, 2)
    top.merge(maps, np.arange(3))
    np.testing.assert_array_equal(top.image[0], [2, 1, 0, -1, -1, -1, -1])
    assert np.isneginf(top.values[:, 3:]).all()
