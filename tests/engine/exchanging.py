"""Models and photos whose cells are exchanged, small enough to count by hand."""

from __future__ import annotations

import numpy as np
import onnx

from backlight.engine.classifier.ready import Ready
from backlight.engine.classifier.scored import Scored

from .. import models

# The case C2 of the class activation maps: features as they come, pooled, W = [[4,0],[0,4],[2,2]].
C2 = """<ir_version: 8, opset_import: ["": 18]>
c2 (float[N,2,2,2] x) => (float[N,3] prob) {
    h = Relu(x)
    p = GlobalAveragePool(h)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, w)
    prob = Softmax(scores)
}"""


W = {"w": np.array([[4, 0], [0, 4], [2, 2]], np.float32)}


# A head that is no mean over places: a dense layer with a rectifier, over all units.
DENSE = """<ir_version: 8, opset_import: ["": 18]>
dense (float[N,2,2,3] x) => (float[N,3] prob) {
    h = Relu(x)
    f = Flatten(h)
    d = Gemm(f, a)
    r = Relu(d)
    scores = Gemm(r, b)
    prob = Softmax(scores)
}"""


def c2() -> onnx.ModelProto:
    return models.parsed(C2, W)


def dense(seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    return models.parsed(
        DENSE,
        {
            "a": rng.standard_normal((12, 8)).astype(np.float32),
            "b": rng.standard_normal((8, 3)).astype(np.float32),
        },
    )


PHOTO = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 2]]], np.float32)  # z = 1, 2, 1.5


OTHER = np.array([[[0, 3], [0, 0]], [[0, 0], [0, 0]]], np.float32)  # z = 3, 0, 1.5


def pictures(net: onnx.ModelProto, count: int, shape: tuple[int, ...], seed: int):
    """Random pictures, and what the model takes them for."""
    x = np.random.default_rng(seed).uniform(0, 2, (count, *shape)).astype(np.float32)
    logits, _ = Scored(Ready(net), [], providers="cpu")(x)
    return x, logits.argmax(axis=1)


def exchanged(photo: np.ndarray, other: np.ndarray, swaps: np.ndarray) -> np.ndarray:
    """The photo with cells of the other: of a network whose layer is the image itself."""
    made = photo.copy()
    for y, x, v, u in swaps:
        made[:, y, x] = other[:, v, u]
    return made
