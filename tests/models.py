"""Small models that several tests share, as ONNX text a person can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from PIL import Image

Array = np.ndarray[Any, Any]


def parsed(text: str, weights: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    """A model of ONNX text, with initializers."""
    model = onnx.parser.parse_model(text)
    for name, value in (weights or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def weights(seed: int = 0, channels: int = 3, classes: int = 5) -> dict[str, Array]:
    """Of `tiny`: a 3x3 convolution to 4 channels, a dense layer to the classes."""
    rng = np.random.default_rng(seed)
    return {
        "w": rng.standard_normal((4, channels, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(4).astype(np.float32),
        "v": rng.standard_normal((classes, 4)).astype(np.float32),
        "c": rng.standard_normal(classes).astype(np.float32),
    }


BODY = """
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v, c)
"""


def tiny(
    *,
    shape: str = "N,3,8,8",
    tail: str = "prob = Softmax(scores)",
    output: str = "float[N,5] prob",
    head: str = "",
    dtype: str = "float",
    opset: int = 18,
    body: str = BODY,
    channels: int = 3,
) -> onnx.ModelProto:
    """Conv, Relu, global pool, dense, Softmax: a classifier of 5 classes in a few lines."""
    source = "image" if head else "x"
    text = f"""<ir_version: 8, opset_import: ["": {opset}, "com.example": 1]>
tiny ({dtype}[{shape}] {source}) => ({output}) {{
    {head}
    {body}
    {tail}
}}"""
    return parsed(text, weights(channels=channels))


def model_m() -> onnx.ModelProto:
    """Model M of the literal cases: Conv (all ones, biases -50 and -75), Relu, Gemm, Relu."""
    row = [1, 1, 1, 1, 1, -1, -1, -1]
    return parsed(
        """<ir_version: 8, opset_import: ["": 18]>
m (float[N,1,4,4] x) => (float[N,4] y) {
    h = Conv(x, w, b)
    r = Relu(h)
    f = Flatten(r)
    s = Gemm<transB=1>(f, v)
    y = Relu(s)
}""",
        {
            "w": np.ones((2, 1, 3, 3), np.float32),
            "b": np.array([-50, -75], np.float32),
            "v": np.array([row] * 4, np.float32),
        },
    )


def images(count: int, *shape: int, seed: int = 1) -> Array:
    """Normal numbers, float32 [count, *shape]."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def noise_photo(folder: Path) -> Path:
    """A picture of noise, 24 x 20, in a file."""
    path = folder / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path
