"""Quantisation, straight through inside the range. The rows' kinks are in EXACT.

Rounding makes staircases of these functions: no finite difference says anything of them. PyTorch's
fake quantization is the oracle.
"""

from __future__ import annotations

import numpy as np

from ..harness import Exact, Row

try:
    import torch
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

STAIRS = "straight through: a finite difference sees the steps, and float64 has no such operator"
OPSETS = (10, 13, 19, 21, 23, 24, 25)
# Powers of two: no value lies within rounding of the middle between two codes.
SCALE = np.array(0.0625, np.float32)
PER_CHANNEL = np.array([0.0625, 0.03125, 0.125], np.float32)
PAIR = "q = QuantizeLinear(x, s, z)\ny = DequantizeLinear(q, s, z)"
ALONG = PAIR.replace("Linear", "Linear<axis = 1>")


def fake(zero: int, low: int, high: int):
    return lambda x: torch.fake_quantize_per_tensor_affine(x, float(SCALE), zero, low, high)


def fake_per_channel(x):
    zeros = torch.zeros(3, dtype=torch.int32)
    scales = torch.tensor(PER_CHANNEL)
    # Its autograd is float32's alone.
    return torch.fake_quantize_per_channel_affine(x.float(), scales, zeros, 1, -128, 127)


def rescaled(x):
    """Another scale on the way back: the codes' cotangent is in their own unit."""
    codes = torch.fake_quantize_per_tensor_affine(x, float(SCALE), 100, 0, 255) / float(SCALE)
    return codes * 0.5


def rows(op_type: str) -> list[Row]:
    return [
        Row(
            op_type,
            "uint8",
            PAIR,
            {"x": (2, 3, 4)},
            fake(100, 0, 255),
            consts={"s": SCALE, "z": np.array(100, np.uint8)},
            sample=wide,
            opsets=OPSETS,
            no_reference=STAIRS,
        ),
        Row(
            op_type,
            "int8 dynamic",
            PAIR,
            {"x": (2, 3, 4)},
            fake(-20, -128, 127),
            consts={"s": SCALE, "z": np.array(-20, np.int8)},
            sample=wide,
            opsets=OPSETS,
            dims={"x": ("N", 3, "W")},
            no_reference=STAIRS,
        ),
        Row(
            op_type,
            "per channel",
            ALONG,
            {"x": (2, 3, 4)},
            fake_per_channel,
            consts={"s": PER_CHANNEL, "z": np.zeros(3, np.int8)},
            sample=wide,
            opsets=OPSETS[1:],
            no_reference=STAIRS,
        ),
        Row(
            op_type,
            "no zero point",
            "q = QuantizeLinear(x, s)\ny = DequantizeLinear(q, s)",
            {"x": (2, 9)},
            fake(0, 0, 255),
            consts={"s": SCALE},
            sample=wide,
            opsets=OPSETS,
            no_reference=STAIRS,
        ),
        Row(
            op_type,
            "another scale back",
            "q = QuantizeLinear(x, s, z)\ny = DequantizeLinear(q, t, z)",
            {"x": (2, 9)},
            rescaled,
            consts={"s": SCALE, "t": np.array(0.5, np.float32), "z": np.array(100, np.uint8)},
            sample=wide,
            opsets=OPSETS[1:],
            no_reference=STAIRS,
        ),
        Row(
            op_type,
            "int16",
            PAIR,
            {"x": (2, 9)},
            fake(0, -32768, 32767),
            consts={"s": SCALE, "z": np.array(0, np.int16)},
            sample=wide,
            opsets=(21, 25),
            no_reference=STAIRS,
        ),
    ]


def wide(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Beyond the range on both sides, and 0.01 away from where a code begins."""
    steps = rng.uniform(-250, 250, tuple(shape))
    return (np.floor(steps) + rng.uniform(-0.3, 0.3, tuple(shape))) * 0.0625


ROWS: list[Row] = [*rows("QuantizeLinear"), *rows("DequantizeLinear")]

CT = np.array([2.0, -3.0, 5.0, -7.0, 11.0])
# In codes of 0.5 around z = 4: 0 .. 255 is -2 .. 125.5.
CODES = {"s": np.array(0.5, np.float32), "z": np.array(4, np.uint8)}
LOW = {"s": np.array(0.5, np.float32), "z": np.array(0, np.uint8)}
# A layer before makes the codes decide, on [5, 1, 1, 5] so that no one value is all there is.
LAYER = "h = Sum(x)\nq = QuantizeLinear(h, s, z)\ny = DequantizeLinear(q, s, z)"


def line(*values: float) -> np.ndarray:
    return np.array(values).reshape(1, 1, 1, -1)


def exact(name: str, text: str, x: np.ndarray, want: np.ndarray, **more) -> Exact:
    ct = CT.reshape(x.shape)
    return Exact(
        "QuantizeLinear", name, text, {"x": x}, ct, {"x": want}, opset=21, double=False, **more
    )


EXACT: list[Exact] = [
    # A picture: what rounds to an end is inside, half a step beyond it is not.
    exact(
        "input at its ends",
        PAIR,
        np.array([-2.2, -2.3, 0.1, 125.7, 126.0]),
        np.array([2.0, 0.0, 5.0, -7.0, 0.0]),
        consts=CODES,
    ),
    # Behind a layer the codes alone speak: an end is outside.
    exact(
        "codes at their ends",
        LAYER,
        line(-2.0, -1.5, 0.1, 125.0, 125.5),
        line(0.0, -3.0, 5.0, -7.0, 0.0),
        consts=CODES,
    ),
    # The lowest code is 0: Relu's rules, h > 0 strictly.
    exact(
        "rectifier", LAYER, line(-1.0, 0.0, 0.5, 1.0, 500.0), line(0, 0, 5.0, -7.0, 0), consts=LOW
    ),
    exact(
        "rectifier",
        LAYER,
        line(-1.0, 0.0, 0.5, 1.0, 500.0),
        line(0, 0, 5.0, 0, 0),
        consts=LOW,
        rule="guided",
    ),
    exact(
        "rectifier",
        LAYER,
        line(-1.0, 0.0, 0.5, 1.0, 500.0),
        line(2.0, 0, 5.0, 0, 11.0),
        consts=LOW,
        rule="deconv",
    ),
    # Signed codes rectify nothing: all three rules are one.
    exact(
        "signed",
        LAYER,
        line(-2.0, -1.5, 0.1, 125.0, 125.5),
        line(0.0, -3.0, 5.0, -7.0, 0.0),
        consts=CODES,
        rule="guided",
    ),
    exact(
        "signed",
        LAYER,
        line(-2.0, -1.5, 0.1, 125.0, 125.5),
        line(0.0, -3.0, 5.0, -7.0, 0.0),
        consts=CODES,
        rule="deconv",
    ),
    # What a rectified map is pooled to can't leave its range, and is rectified already.
    exact(
        "pooled",
        LAYER.replace("y", "w") + "\np = MaxPool<kernel_shape = [1, 1]>(w)\n"
        "r = QuantizeLinear(p, s, z)\ny = DequantizeLinear(r, s, z)",
        line(-1.0, 0.0, 0.5, 1.0, 500.0),
        line(0, 0, 5.0, -7.0, 0),
        consts=LOW,
    ),
]
