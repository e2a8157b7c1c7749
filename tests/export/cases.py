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
    """A method on a model. options: of `backlight.export`, or of `Masking` for methods that the
    engine holds. feeds: without `target`. want: of the
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


def b2() -> onnx.ModelProto:
    """captum's BasicModel2: relu(relu(a) - 1 - relu(b))."""
    return parsed(
        """<ir_version: 8, opset_import: ["": 18]>
b2 (float[N,2,1,1] x) => (float[N,1,1,1] y) {
    r = Relu(x)
    s = Conv(r, w, c)
    y = Relu(s)
}""",
        {"w": np.float32([1, -1]).reshape(1, 2, 1, 1), "c": np.float32([-1])},
    )


HEAD = """
    q{i} = MatMul(p{i}, nothing)
    q{i}_h = Reshape(q{i}, split)
    k{i}_h = Transpose<perm=[0,1,3,2]>(q{i}_h)
    v{i}_h = Reshape(p{i}, split)
    z{i} = MatMul(q{i}_h, k{i}_h)
    a{i} = Softmax(z{i})
    o{i} = MatMul(a{i}, v{i}_h)
    o{i}_t = Reshape(o{i}, join)
    p{next} = Add(p{i}, o{i}_t)"""


def t2() -> onnx.ModelProto:
    """A class token of 0 and four pixels, a number each; two layers of attention, one head, that
    look everywhere alike (queries of 0) and add the mean of all tokens to each; the classes are the
    class token and its negation."""
    return parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
t2 (float[N,1,2,2] x) => (float[N,2] y) {{
    e = Conv(x, one)
    f = Reshape(e, flat)
    t = Transpose<perm=[0,2,1]>(f)
    rows = Shape<start=0, end=1>(x)
    wanted = Concat<axis=0>(rows, ones)
    c = Expand(zero, wanted)
    p0 = Concat<axis=1>(c, t)
    {HEAD.format(i=0, next=1)}
    {HEAD.format(i=1, next=2)}
    s = Gather<axis=1>(p2, first)
    y = Gemm<transB=1>(s, v)
}}""",
        {
            "one": np.ones((1, 1, 1, 1), np.float32), "zero": np.zeros((1, 1, 1), np.float32),
            "nothing": np.zeros((1, 1), np.float32), "v": np.float32([[1], [-1]]),
            "flat": np.array([0, 1, 4]), "ones": np.array([1, 1]), "first": np.array(0),
            "split": np.array([-1, 1, 5, 1]), "join": np.array([-1, 5, 1]),
        },
    )  # fmt: skip


def layers3() -> onnx.ModelProto:
    """captum's BasicModel_MultiLayer: an identity, a dense layer of ones with biases -10, 1, 1, 1,
    Relu, another of ones with biases -1, 1; its three features as a row of three pixels."""
    return parsed(
        """<ir_version: 8, opset_import: ["": 18]>
layers3 (float[N,1,1,3] x) => (float[N,2] y) {
    f = Flatten(x)
    h = Gemm<transB=1>(f, w, b)
    r = Relu(h)
    y = Gemm<transB=1>(r, v, c)
}""",
        {
            "w": np.ones((4, 3), np.float32), "b": np.float32([-10, 1, 1, 1]),
            "v": np.ones((2, 4), np.float32), "c": np.float32([-1, 1]),
        },
    )  # fmt: skip


FEATURES = np.float32([20, 50, 30]).reshape(1, 1, 1, 3)
# Each pixel a segment, whatever its number.
APART = {"segments": np.array([[7, 3, 9]]), "score": "logit"}

PIXELS = np.float32([[1, -2], [3, 4]]).reshape(1, 1, 2, 2)
VANILLA = np.array([[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]])
TWO = np.array([[[[1, 0], [0, 0]], [[0, 0], [0, 2]]]], np.float32)

GUIDED = np.array([[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]])
# Two places to four: linear, half_pixel.
UP = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
# Signed, at the layer's size: the figures themselves.
RAW = {"size": "layer", "signed": True}
E = float(np.exp(1))


def share(*z: float) -> float:
    """Class 1's share of a softmax."""
    return float(np.exp(z[1]) / np.exp(z).sum())


WHOLE = share(1, 2, 1.5)
KEPT_1 = 1 / (1 + np.exp(share(1, 0, 0.5) - share(0, 2, 1)))
# z = (1, 2, 1.5), so softmax(z) = (.186324, .506480, .307196).
AGAINST_0 = {**RAW, "contrast": 0}

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
        [[GUIDED]], source="model M",
    ),
    Case(
        "input_x_gradient", c1, {"x": SQUARE},
        [[[[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]]]], source="by hand",
    ),
    # Riemann sums of captum's trapezoid lose 1/n even of a linear model; these don't.
    Case(
        "integrated_gradients", b2, {"x": np.float32([3, 1]).reshape(1, 2, 1, 1)},
        [[[[1.5]], [[-0.5]]]], source="captum, IG basic",
    ),
    Case(
        "smoothgrad", c1, {"x": SQUARE}, [[VANILLA]], options={"noise": 0.0, "samples": 3},
        source="no noise is the gradient",
    ),
    Case(
        "squaregrad", c1, {"x": SQUARE}, [[VANILLA]], options={"noise": 0.0},
        source="no noise is the gradient, squared",
    ),
    Case(
        "vargrad", c1, {"x": SQUARE}, np.zeros((1, 1, 4, 4)), options={"noise": 0.0},
        source="no noise, no variance",
    ),
    Case(
        "gradcam", c1, {"x": SQUARE}, [[[11.25, 13.5], [20.25, 22.5]]],
        options={**RAW, "layer": "h"}, source="captum, before the rectifier",
    ),
    Case(
        "gradcam", c1, {"x": SQUARE}, [[[0, 4], [28, 32.5]]],
        options={**RAW, "layer": "r"}, source="captum, behind the rectifier",
    ),
    Case("gradcam", c2, {"x": TWO}, [[[0, 0], [0, 2]]], target=1, options=RAW, source="C2"),
    # w = 4 / (2 + 75) and 1 / (2 + 21) of A = (0, 4, 31, 40) and (0, 0, 6, 15).
    Case(
        "gradcampp", c1, {"x": SQUARE},
        [[[0, 16 / 77], [124 / 77 + 6 / 23, 160 / 77 + 15 / 23]]],
        options={**RAW, "layer": "r"}, source="by hand, the paper's formula",
    ),
    Case(
        "hirescam", c1, {"x": SQUARE}, [[[0, 4], [25, 25]]],
        options={**RAW, "layer": "r"}, source="by hand",
    ),
    Case(
        "layercam", c1, {"x": SQUARE}, [[[0, 4], [31, 40]]],
        options={**RAW, "layer": "r"}, source="by hand",
    ),
    Case(
        "xgradcam", c1, {"x": SQUARE}, [[[0, 4], [25, 25]]],
        options={**RAW, "layer": "r"}, source="by hand, weights 1 and -1",
    ),
    Case("cam", c2, {"x": TWO}, [[[0, 0], [0, 8]]], target=1, options=RAW, source="by hand"),
    Case(
        "guided_gradcam", c1, {"x": SQUARE},
        [[GUIDED * (UP @ [[11.25, 13.5], [20.25, 22.5]] @ UP.T)]],
        options={"layer": "h"}, source="the product of the two, linear half_pixel",
    ),
    Case(
        "contrastcam", c2, {"x": TWO}, [[[-1, 0], [0, 2]]], target=1,
        options={**AGAINST_0, "contrast_form": "logit"}, source="C2, by logits",
    ),
    Case(
        "contrastcam", c2, {"x": TWO}, [[[-0.660078, 0], [0, 1.320157]]], target=1,
        options=AGAINST_0, source="C2, by loss", atol=2e-6,
    ),
    Case(
        "contrastcam", c2, {"x": TWO}, [[[0.339922, 0], [0, -0.679843]]], target=1,
        options={**RAW, "contrast": 1}, source="C2, why not P for certain", atol=2e-6,
    ),
    Case(
        "counterfactualcam", c1, {"x": SQUARE}, [[[0, 0], [0, 0]]],
        options={"size": "layer", "layer": "r"}, source="all zero",
    ),
    Case(
        "counterfactualcam", c2, {"x": TWO}, [[[0, 0], [0, -2]]], target=1, options=RAW,
        source="minus Grad-CAM",
    ),
    # G = (0, 0, 0, 1). Against class 2 and 0 by logits: relu((-1/2, 0, 0, 1)), relu((-1, 0, 0, 2)):
    # the same place, so nothing is left; of class 0, G = (1, 0, 0, 0) and again the contrasts.
    Case(
        "causalcam", c2, {"x": TWO}, [[[0, 0], [0, 0]]], target=1,
        options={"size": "layer", "contrast_form": "logit"}, source="C2",
    ),
    Case(
        "reciprocam", c2, {"x": TWO}, [[[0, 0], [0, 2]]], target=1, options=RAW,
        source="CAM over places, in closed form",
    ),
    # One place alone of A = (0, 4, 31, 40), by (1, 1, 1, 1), and (0, 0, 6, 15), by (1, -1, -1, -1).
    Case(
        "reciprocam", c1, {"x": SQUARE}, [[[0, 4], [25, 25]]],
        options={**RAW, "layer": "r"}, source="by hand, four runs of the rest",
    ),
    # P = 1/5 everywhere: ((P + I) / 2)^2 = (3 P + I) / 4.
    Case("rollout", t2, {"x": PIXELS}, [[[0.15, 0.15], [0.15, 0.15]]], options=RAW, source="T2"),
    # p0 = (0, 1, -2, 3, 4), p1 = p0 + 1.2; dz/da1 = p1 in the class token's row, 0 in others;
    # dz/da0 = 1.2 p0 in that row, 0.2 p0 in others. With b = (.2, 0, .6, .8) = relu(p0) / 5 and
    # c = (.44, 0, .84, 1.04) = relu(p1) / 5, and .24 = 1.2 / 5 of the class token itself, the row
    # is 1.2 b + c + (.24 1.2 + .2 (.44 + .84 + 1.04)) b.
    Case(
        "gradient_rollout", t2, {"x": PIXELS}, [[[0.8304, 0], [2.0112, 2.6016]]], options=RAW,
        source="T2, by hand",
    ),
    # Of the other class: relu(-p0) / 5 = (0, .4, 0, 0), relu(-p1) / 5 = (0, .16, 0, 0).
    Case(
        "gradient_rollout", t2, {"x": PIXELS}, [[[0, 1.2 * 0.4 + 0.16 + 0.2 * 0.16 * 0.4], [0, 0]]],
        target=1, options=RAW, source="T2, the other class",
    ),
    # All eight rows, weights by their cosine distance, ridge 1; equal to scikit-learn's Ridge.
    Case(
        "lime", layers3, {"x": FEATURES}, [[[21.519089, 81.620324, 41.552834]]],
        options={**APART, "hide": "zero"}, source="captum's model, ridge by hand",
    ),
    Case(
        "kernelshap", layers3, {"x": FEATURES}, [[[40, 120, 80]]],
        options={**APART, "hide": np.float32([[[10, 20, 10]]])}, source="captum, kernel shap",
    ),
    # The image masked with channel 0 keeps its place (0, 0): z = (1, 0, 1/2); with channel 1 its
    # place (1, 1): z = (0, 2, 1). Of class 1 the softmax over channels of (0, 2), and of their
    # probabilities.
    Case(
        "scorecam", c2, {"x": TWO}, [[[1 / (1 + E**2), 0], [0, 2 / (1 + E**-2)]]], target=1,
        options={"layer": ["a"], "size": "layer", "score": "logit"}, source="C2, by logits",
    ),
    Case(
        "scorecam", c2, {"x": TWO}, [[[1 - KEPT_1, 0], [0, 2 * KEPT_1]]], target=1,
        options={"layer": ["a"], "size": "layer"}, source="C2, by probabilities",
    ),
    # W_ck mean(A_k) / z_c = 0 / 2 and 4 (1/2) / 2.
    Case(
        "ablationcam", c2, {"x": TWO}, [[[0, 0], [0, 2]]], target=1,
        options={"size": "layer", "score": "logit"}, source="C2, in closed form",
    ),
    # z without channel 0: (0, 2, 1); without channel 1: (1, 0, 1/2), each once of z = (1, 2, 3/2).
    Case(
        "ablationcam", c2, {"x": TWO},
        [[[1 - share(0, 2, 1) / WHOLE, 0], [0, 2 * (1 - share(1, 0, 0.5) / WHOLE)]]],
        target=1, options={"size": "layer", "signed": True}, source="C2, by probabilities",
    ),
]  # fmt: skip
