"""Rectifiers under the vanilla rule; tests/export/test_variants.py has the other two."""

from __future__ import annotations

import numpy as np

from ..harness import Exact, Row, kinked

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

BOUNDS = {"low": np.array(-1.0), "high": np.array(2.5)}

ROWS: list[Row] = [
    Row("Relu", "plain", "y = Relu(x)", {"x": (2, 3, 4)}, lambda x: x.relu(), opsets=(7, 13, 14)),
    Row(
        "Relu",
        "dynamic",
        "y = Relu(x)",
        {"x": (2, 3, 4)},
        lambda x: x.relu(),
        opsets=(14,),
        dims={"x": ("N", "C", "W")},
    ),
    Row(
        "Clip",
        "attributes",
        "y = Clip<min = -1.0, max = 2.5>(x)",
        {"x": (2, 9)},
        lambda x: x.clamp(-1, 2.5),
        sample=kinked(-1, 2.5),
        opsets=(7, 10),
    ),
    Row(
        "Clip",
        "bounds",
        "y = Clip(x, low, high)",
        {"x": (2, 9)},
        lambda x: x.clamp(-1, 2.5),
        consts=BOUNDS,
        sample=kinked(-1, 2.5),
        opsets=(11, 12, 13),
    ),
    Row(
        "Clip",
        "one bound",
        "y = Clip(x, , high)",
        {"x": (2, 9)},
        lambda x: x.clamp(max=2.5),
        consts={"high": np.array(2.5)},
        sample=kinked(2.5),
        opsets=(11, 13),
    ),
    Row(
        "LeakyRelu",
        "plain",
        "y = LeakyRelu(x)",
        {"x": (2, 9)},
        lambda x: F.leaky_relu(x, 0.01),
        opsets=(7, 16),
    ),
    Row(
        "LeakyRelu",
        "slope",
        "y = LeakyRelu<alpha = 0.3>(x)",
        {"x": (2, 9)},
        lambda x: F.leaky_relu(x, 0.3),
        opsets=(7, 16),
    ),
    Row(
        "PRelu",
        "per channel",
        "y = PRelu(x, s)",
        {"x": (2, 3, 4), "s": (3, 1)},
        lambda x, s: F.prelu(x, s.reshape(3)),
        opsets=(7, 9, 16),
    ),
    Row(
        "PRelu",
        "one slope",
        "y = PRelu(x, s)",
        {"x": (2, 3, 4), "s": (1,)},
        lambda x, s: F.prelu(x, s),
        opsets=(7, 9, 16),
    ),
    Row(
        "ThresholdedRelu",
        "plain",
        "y = ThresholdedRelu(x)",
        {"x": (2, 9)},
        lambda x: F.threshold(x, 1.0, 0.0),
        sample=kinked(1),
        opsets=(10, 22),
    ),
    Row(
        "ThresholdedRelu",
        "threshold",
        "y = ThresholdedRelu<alpha = 0.5>(x)",
        {"x": (2, 9)},
        lambda x: F.threshold(x, 0.5, 0.0),
        sample=kinked(0.5),
        opsets=(10, 22),
    ),
]

CT = np.array([2.0, -3.0, 5.0])
AT_ZERO = {"x": np.array([0.0, 0.0, 1.0])}
EXACT: list[Exact] = [
    Exact("Relu", "at 0", "y = Relu(x)", AT_ZERO, CT, {"x": np.array([0.0, 0.0, 5.0])}),
    Exact(
        "Clip",
        "at its bounds",
        "y = Clip(x, low, high)",
        {"x": np.array([0.0, 6.0, 3.0])},
        CT,
        {"x": np.array([0.0, 0.0, 5.0])},
        consts={"low": np.array(0.0), "high": np.array(6.0)},
    ),
    Exact(
        "Clip",
        "the bounds get what they hold back",
        "y = Clip(x, low, high)",
        {"x": np.array([-1.0, 7.0, 3.0]), "low": np.array(0.0), "high": np.array(6.0)},
        CT,
        {"x": np.array([0.0, 0.0, 5.0]), "low": np.array(2.0), "high": np.array(-3.0)},
    ),
    Exact(
        "Clip",
        "of bounds that cross, the upper one gets all",
        "y = Clip(x, low, high)",
        {"x": np.array([-1.0, 7.0, 3.0]), "low": np.array(4.0), "high": np.array(0.0)},
        CT,
        {"x": np.zeros(3), "low": np.array(0.0), "high": np.array(4.0)},
    ),
    Exact(
        "LeakyRelu",
        "at 0",
        "y = LeakyRelu<alpha = 0.5>(x)",
        AT_ZERO,
        CT,
        {"x": np.array([1.0, -1.5, 5.0])},
    ),
    Exact(
        "ThresholdedRelu",
        "at its threshold",
        "y = ThresholdedRelu(x)",
        {"x": np.array([1.0, 1.0, 2.0])},
        CT,
        {"x": np.array([0.0, 0.0, 5.0])},
        opset=10,
    ),
]
