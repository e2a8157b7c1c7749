"""Whole networks: the bundled SqueezeNet on real photos; torchvision's with random weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnxruntime")

from backlight.export import incremental
from backlight.kernels.families import sliding

from .occlude import dense_scores, incremental_scores
from .photos import ASSETS, PHOTOS, photo

# What the method promises, of the range of scores. Measured: below 2e-6 but for MobileNetV2.
LIMIT = 1e-4


def some_windows(side: int, count: int) -> NDArray[np.int32]:
    """The corners and a random choice of windows of 16 at a stride of 4."""
    boxes = sliding((3, side, side), 16, 4).boxes
    row = int(len(boxes) ** 0.5)
    corners = [0, row - 1, len(boxes) - row, len(boxes) - 1]
    chosen = np.random.default_rng(0).choice(len(boxes), count - 4, replace=False)
    return np.asarray(boxes[np.concatenate([corners, chosen])])


def difference(
    model: onnx.ModelProto, image: NDArray[np.float32], boxes: NDArray[np.int32]
) -> tuple[float, float]:
    """The largest difference of scores over their range, and what the windows do to them."""
    plan = incremental.plan(model, boxes, (3, *image.shape[1:]))
    baseline = np.zeros((3, 1, 1), np.float32)
    name = plan.outputs[0]
    want = dense_scores(model, name, image, baseline, boxes, batch=8)
    ours = incremental_scores(plan, image, baseline)[name]
    spread = float(np.ptp(want))
    return float(np.abs(ours - want).max()) / spread, float(np.ptp(want, axis=0).max()) / spread


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_squeezenet_on_photos(path: Path) -> None:
    model = onnx.load(ASSETS / "squeezenet1_1.onnx")
    error, effect = difference(model, photo(path, 227, bgr=True), some_windows(227, 40))
    assert error <= LIMIT
    assert effect > 100 * LIMIT, "the windows matter"


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "alexnet",
                "vgg16",
                "resnet50",
                "mobilenet_v2",
                "densenet121",
                "googlenet",
                "shufflenet_v2_x1_0",
                "mobilenet_v3_large",
                "efficientnet_b0",
            )
        ),
    ],
)
def test_torchvision(name: str) -> None:
    if not all(importlib.util.find_spec(needed) for needed in ("torch", "torchvision")):
        pytest.skip("the networks are torchvision's")
    from .nets import calm

    model = calm(name, "dynamo" if name == "resnet18" else "legacy")
    error, effect = difference(model, photo(PHOTOS[0], 224), some_windows(224, 24))
    assert error <= LIMIT
    assert effect > 5 * LIMIT, "a window of 16 matters, if little"
