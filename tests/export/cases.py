"""Exact cases of the methods, small enough to be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from .. import models
from ..models import parsed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A method on a model. options: of `backlight.export`. feeds: without `target`. want: of the
    method's output, within rtol and atol, float32's rounding unless it says otherwise. source:
    where the figures come from."""

    method: str
    model: Callable[[], onnx.ModelProto]
    feeds: Mapping[str, Array]
    want: Any
    target: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    rtol: float = 1e-6
    atol: float = 1e-6

    @property
    def id(self) -> str:
        return f"{self.method}-{self.source}".replace(" ", "_")


def c1() -> onnx.ModelProto:
    """captum's BasicModel_ConvNet_One_Conv: a 3x3 convolution of ones with biases -50 and -75,
    Relu, a dense layer to four equal logits, Relu."""
    return models.model_m()


SQUARE = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)


def c2() -> onnx.ModelProto:
    """Two channels, 2 x 2, straight into a global pool and a dense layer to three classes."""
    return parsed(
        """<ir_version: 8, opset_import: ["": 18]>
c2 (float[N,2,2,2] x) => (float[N,3] y) {
    a = Relu(x)
    p = GlobalAveragePool(a)
    f = Flatten(p)
    y = Gemm<transB=1>(f, v)
}""",
        {"v": np.array([[4, 0], [0, 4], [2, 2]], np.float32)},
    )


TWO = np.array([[[[1, 0], [0, 0]], [[0, 0], [0, 2]]]], np.float32)

CASES: list[Case] = [
    Case(
        "vanilla", c1, {"x": SQUARE},
        [[[[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]]], source="model M",
    ),
    Case(
        "deconv", c1, {"x": SQUARE},
        [[[[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]]]], source="model M",
    ),
    Case(
        "guided", c1, {"x": SQUARE},
        [[[[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]]], source="model M",
    ),
    Case(
        "input_x_gradient", c1, {"x": SQUARE},
        [[[[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]]]], source="by hand",
    ),
]  # fmt: skip
