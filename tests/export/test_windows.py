"""What the rules of convolutions and pools refuse, and that they say what would do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from backlight.errors import UnsupportedNode

from .harness import build, vjp_graph

W = np.ones((2, 2, 2, 2))
NARROW = np.ones((2, 2, 1, 1))
IN_PADS = "kernel_shape = [2, 2], strides = [3, 3], pads = [0, 0, 1, 1], ceil_mode = 1"


@pytest.mark.parametrize(
    ("text", "w", "dims", "message"),
    [
        (
            'y = ConvTranspose<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w)',
            NARROW,
            None,
            "auto_pad = SAME_LOWER with strides above the kernel.*; supported: pads and output_pad",
        ),
        (
            "y = ConvTranspose<output_shape = [5, 5]>(x, w)",
            W,
            ("N", 2, "H", "W"),
            "output_shape on dynamic sizes; supported: fixed sizes .*, or pads or auto_pad",
        ),
        *(
            (
                f"y = {op}<{IN_PADS}>(x)",
                W,
                None,
                f"{op} .*ceil_mode with a last window that starts in the end pads; supported: the",
            )
            for op in ("MaxPool", "AveragePool")
        ),
        *(
            (
                f'y = {op}<kernel_shape = [2, 2], dilations = [2, 1], auto_pad = "SAME_LOWER">(x)',
                W,
                None,
                f"{op} .*auto_pad = SAME_LOWER with dilations, which ONNX Runtime .*; supported: p",
            )
            for op in ("MaxPool", "LpPool")
        ),
    ],
)
def test_refusals(text: str, w: np.ndarray, dims: Sequence[int | str] | None, message: str) -> None:
    declared = {} if dims is None else {"x": dims}
    consts = {"w": w} if "w)" in text else {}
    model = build(text, {"x": np.ones((1, 2, 3, 3))}, consts, 18, dims=declared)
    with pytest.raises(UnsupportedNode, match=message):
        vjp_graph(model, ["x"])
