"""DFT against PyTorch's fft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..harness import Exact, Row

try:
    import torch
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]


def _spectrum(axis: int, length: int | None, inverse: bool, onesided: bool) -> Any:
    def made(x: Any) -> Any:
        signal = torch.complex(x[..., 0], x[..., 1] if x.shape[-1] == 2 else 0 * x[..., 0])
        at = axis if axis >= 0 else axis + 1  # the last axis is that of the parts
        found = (torch.fft.ifft if inverse else torch.fft.fft)(signal, n=length, dim=at)
        if onesided:
            found = found.narrow(at, 0, found.shape[at] // 2 + 1)
        return torch.view_as_real(found)

    return made


def _row(
    name: str, shape: Sequence[int], axis: int, *, length: int | None = None,
    inverse: bool = False, onesided: bool = False, opset: int = 17, **more: Any,
) -> Row:  # fmt: skip
    flags = f"inverse={int(inverse)}, onesided={int(onesided)}"
    consts = {} if length is None else {"length": np.array(length)}
    given = "x" if length is None else "x, length"
    if opset < 20:
        text = f"y = DFT<axis={axis}, {flags}>({given})"
    else:
        consts["axis"] = np.array(axis)
        text = f"y = DFT<{flags}>({given}{', ' if length is None else ''}, axis)"
    return Row(
        "DFT", f"{name}, {opset}", text, {"x": shape}, _spectrum(axis, length, inverse, onesided),
        consts=consts, opsets=(opset,), **more,
    )  # fmt: skip


ROWS = [
    row
    for opset in (17, 20)
    for row in (
        _row("real", (2, 6, 1), 1, opset=opset),
        _row("complex", (2, 5, 2), 1, opset=opset),
        _row("onesided", (2, 6, 1), 1, onesided=True, opset=opset),
        _row("onesided, odd", (2, 3, 5, 1), 2, onesided=True, opset=opset),
        _row("inverse", (2, 3, 4, 2), 2, inverse=True, opset=opset),
        _row("inner axis", (2, 3, 4, 2), 1, opset=opset),
        _row("counted from behind", (2, 3, 4, 2), -2, opset=opset),
        _row("padded", (2, 4, 1), 1, length=7, onesided=True, opset=opset),
        _row("cut", (2, 6, 2), 1, length=4, opset=opset),
        _row("open batch", (2, 3, 4, 1), 2, onesided=True, opset=opset,
             dims={"x": ("N", 3, 4, 1)}),
    )
] + [
    Row("DFT", "along the default axis, 20", "y = DFT(x)", {"x": (2, 3, 4, 2)},
        _spectrum(2, None, False, False), opsets=(20,)),
]  # fmt: skip

EXACT: list[Exact] = []
