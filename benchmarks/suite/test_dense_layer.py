"""A dense layer after Flatten, on boxes: W times the change, with W cut to the box, or all of it.

VGG16's first: 7 x 7 x 512 -> 4,096. Of 2,809 windows' boxes there, 0.60 of the map on average, 49
differ: 57 windows share one, and a cut of W.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

WINDOWS, BOX = 57, [row * 7 + column for row in range(6) for column in range(5)]  # 0.61 of 49


@pytest.fixture(scope="module")
def weight() -> Any:
    return np.random.default_rng(0).random((49, 512, 4096), np.float32)


@pytest.mark.benchmark(group="dense layer on boxes")
def test_the_whole_map(benchmark: Any, weight: Any) -> None:
    maps = np.random.default_rng(1).random((WINDOWS, 49 * 512), np.float32)
    benchmark(lambda: maps @ weight.reshape(-1, 4096))


@pytest.mark.benchmark(group="dense layer on boxes")
def test_the_box_and_weights_cut_to_it(benchmark: Any, weight: Any) -> None:
    boxes = np.random.default_rng(1).random((WINDOWS, len(BOX) * 512), np.float32)
    benchmark(lambda: boxes @ weight[BOX].reshape(-1, 4096))


@pytest.mark.benchmark(group="dense layer on boxes")
def test_the_box_if_cutting_were_free(benchmark: Any, weight: Any) -> None:
    boxes = np.random.default_rng(1).random((WINDOWS, len(BOX) * 512), np.float32)
    cut = weight[BOX].reshape(-1, 4096)
    benchmark(lambda: boxes @ cut)
