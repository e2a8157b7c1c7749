"""Smooth activations, and softmax."""

from __future__ import annotations

import numpy as np

from ..harness import Exact, Row, kinked, signed

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]


def _rows(
    op: str,
    function: object,
    opsets: tuple[int, ...],
    attributes: str = "",
    sample: object = signed,
    name: str = "",
    **more: object,
) -> list[Row]:
    return [
        Row(
            op,
            name or attributes or "plain",
            f"y = {op}{f'<{attributes}>' if attributes else ''}(x)",
            {"x": (2, 3, 2)},
            function,
            opsets=opsets,
            sample=sample,
            **more,
        )
    ]


ERF = "its Erf is computed in float32: too coarse for finite differences"
FLAT = "its Softmax takes any opset's axis as version 13 does, without flattening"

ROWS: list[Row] = [
    *_rows("Sigmoid", lambda x: x.sigmoid(), (7, 13)),
    *_rows("Tanh", lambda x: x.tanh(), (7, 13)),
    *_rows("Softplus", lambda x: F.softplus(x), (7, 22)),
    *_rows("Softsign", lambda x: F.softsign(x), (7, 22)),
    *_rows("Elu", lambda x: F.elu(x), (7, 22)),
    *_rows("Elu", lambda x: F.elu(x, 0.5), (7, 22), "alpha = 0.5"),
    *_rows("Selu", lambda x: F.selu(x), (7, 22)),
    *_rows(
        "Selu",
        lambda x: torch.where(x > 0, 2.0 * x, 2.0 * 0.5 * (x.exp() - 1)),
        (7, 22),
        "alpha = 0.5, gamma = 2.0",
    ),
    *_rows("Celu", lambda x: F.celu(x), (12, 22, 28)),
    *_rows("Celu", lambda x: F.celu(x, 0.5), (12, 22), "alpha = 0.5"),
    *_rows(
        "HardSigmoid",
        lambda x: (0.2 * x + 0.5).clamp(0, 1),
        (7, 22),
        rtol=1e-6,
        sample=kinked(-2.5, 2.5),
    ),
    *_rows(
        "HardSigmoid",
        lambda x: (0.25 * x + 0.25).clamp(0, 1),
        (7, 22),
        "alpha = 0.25, beta = 0.25",
        kinked(-1, 3),
    ),
    *_rows("HardSwish", lambda x: F.hardswish(x), (14, 22), sample=kinked(-3, 3)),
    *_rows("Erf", lambda x: x.erf(), (9, 13), no_reference=ERF),
    *_rows("Gelu", lambda x: F.gelu(x), (20,), no_reference=ERF),
    *_rows(
        "Gelu", lambda x: F.gelu(x, approximate="tanh"), (20,), 'approximate = "tanh"', name="tanh"
    ),
    *_rows("Mish", lambda x: F.mish(x), (18, 22)),
    *_rows("Swish", lambda x: F.silu(x), (24,)),
    *_rows("Swish", lambda x: x * (0.5 * x).sigmoid(), (24,), "alpha = 0.5"),
    *_rows("Softmax", lambda x: x.softmax(-1), (13,)),
    *_rows("Softmax", lambda x: x.softmax(1), (13,), "axis = 1"),
    *_rows("Softmax", lambda x: x.softmax(0), (13,), "axis = -3"),
    *_rows(
        "Softmax",
        lambda x: x.flatten(1).softmax(1).view(x.shape),
        (7, 11),
        name="flattening",
        no_reference=FLAT,
    ),
    *_rows("Softmax", lambda x: x.softmax(2), (7, 11), "axis = 2"),
    *_rows("LogSoftmax", lambda x: x.log_softmax(-1), (13,)),
    *_rows("LogSoftmax", lambda x: x.log_softmax(1), (13,), "axis = 1"),
    *_rows(
        "LogSoftmax",
        lambda x: x.flatten(1).log_softmax(1).view(x.shape),
        (7, 11),
        name="flattening",
        no_reference=FLAT,
    ),
]

FAR = np.array([-1000.0, 1000.0])
ONE = np.ones(2)


def _at(op: str, x: list[float], want: list[float], name: str, opset: int = 22) -> Exact:
    points = np.array(x, np.float64)
    return Exact(
        op, name, f"y = {op}(x)", {"x": points}, np.ones(len(x)), {"x": np.array(want)}, opset=opset
    )


EXACT: list[Exact] = [
    _at("Sigmoid", [-1000, 1000], [0, 0], "far out", 13),
    _at("Tanh", [-1000, 1000], [0, 0], "far out", 13),
    _at("Softplus", [-1000, 1000], [0, 1], "far out"),
    _at("Mish", [-1000, 1000], [0, 1], "far out"),
    _at("Elu", [-1000, 1000, 0], [0, 1, 1], "far out and at 0"),
    _at("Celu", [-1000, 1000, 0], [0, 1, 1], "far out and at 0", 12),
    _at("HardSigmoid", [-2.5, 2.5], [0, 0], "at its corners"),
    _at("HardSwish", [-3, 3], [0, 1], "at its corners"),
    _at("Softsign", [0.0], [1.0], "at 0"),
]
