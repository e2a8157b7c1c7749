"""GridSample and Col2Im against PyTorch's grid_sample and fold.

ONNX's reference evaluator keeps GridSample's places in float32: `harness` has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..harness import Array, Exact, Row

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

MODES = {16: ("bilinear", "nearest", "bicubic"), 20: ("linear", "nearest", "cubic")}
PADDINGS = ("zeros", "border", "reflection")


def places(sizes: Sequence[int], align: bool, reach: float = 1.7) -> Any:
    """Samples a grid up to `reach` and keeps it 0.02 pixels off every half pixel, where modes
    have their kinks."""

    def sample(rng: np.random.Generator, shape: Sequence[int]) -> Array:
        if shape[-1] != len(sizes):
            return rng.standard_normal(tuple(shape))
        grid = rng.uniform(-reach, reach, tuple(shape))
        for k, size in enumerate(reversed(sizes)):
            unit = (size - 1) / 2 if align else size / 2
            at = (grid[..., k] + 1) * unit - (0 if align else 0.5)
            off = np.abs(at * 2 - np.round(at * 2))
            at = np.where(off < 0.04, at + 0.04, at)
            grid[..., k] = (at + (0 if align else 0.5)) / unit - 1
        return grid

    return sample


def _sampled(mode: str, padding: str, align: bool) -> Any:
    plain = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return lambda x, g: F.grid_sample(x, g, plain, padding, align)


def _grid(
    name: str, mode: str, padding: str, align: bool, opsets: Sequence[int], **more: Any
) -> Row:
    x = more.pop("x", (2, 2, 4, 5))
    out = (2, 3) if len(x) == 4 else (1, 2, 2)
    aligned = f"align_corners={int(align)}"
    more.setdefault("torch", _sampled(mode, padding, align))
    return Row(
        "GridSample",
        f"{name}{mode}, {padding}{', aligned' if align else ''}",
        f'y = GridSample<mode="{mode}", padding_mode="{padding}", {aligned}>(x, g)',
        {"x": x, "g": (x[0], *out, len(x) - 2)},
        sample=places(x[2:], align),
        opsets=opsets,
        wrt=("x",) if mode == "nearest" else ("x", "g"),
        **more,
    )


def _blocks(
    name: str,
    shape: Sequence[int],
    image: Sequence[int],
    block: Sequence[int],
    attributes: str = "",
    **more: Any,
) -> Row:
    given = more.pop("fold", {})
    return Row(
        "Col2Im",
        name,
        f"y = Col2Im{attributes}(x, size, block)",
        {"x": shape},
        more.pop("torch", lambda x: F.fold(x, tuple(image), tuple(block), **given)),
        consts={"size": np.array(image), "block": np.array(block)},
        **more,
    )


def _affine(name: str, size: tuple[int, ...], align: bool, **more: Any) -> Row:
    rank = len(size) - 2
    return Row(
        "AffineGrid",
        name + (", aligned" if align else ""),
        f"y = AffineGrid<align_corners={int(align)}>(t, size)",
        {"t": (size[0], rank, rank + 1)},
        torch=lambda t: F.affine_grid(t, list(size), align_corners=align),
        consts={"size": np.array(size)},
        opsets=(20,),
        no_reference="its AffineGrid is float32",
        **more,
    )


ROWS = [
    *(
        _affine(name, size, align)
        for name, size in (("plane", (2, 3, 4, 5)), ("volume", (2, 1, 3, 2, 4)))
        for align in (False, True)
    ),
    _affine("named batch", (2, 3, 4, 5), False, dims={"t": ("N", 2, 3)}),
    *(
        _grid("", mode, padding, align, (opset, opset + 2))
        for opset, names in MODES.items()
        for mode in names
        for padding in PADDINGS
        for align in (False, True)
    ),
    *(
        _grid("volume, ", mode, padding, align, (20,), x=(1, 2, 3, 2, 4))
        for mode in ("linear", "nearest")
        for padding in PADDINGS
        for align in (False, True)
    ),
    *(
        _grid(
            "any size, ",
            mode,
            padding,
            align,
            (20,),
            dims={"x": ("N", "C", "H", "W"), "g": ("N", "P", "Q", 2)},
        )
        for mode, padding, align in (
            ("linear", "reflection", True),
            ("cubic", "zeros", False),
            ("linear", "border", False),
        )
    ),
    _blocks("plain", (2, 8, 6), (3, 4), (2, 2)),
    _blocks(
        "strided, padded, dilated",
        (1, 12, 12),
        (6, 7),
        (2, 3),
        "<strides=[2,2], pads=[1,1,1,1], dilations=[2,1]>",
        fold={"stride": 2, "padding": 1, "dilation": (2, 1)},
    ),
    _blocks(
        "pads at one end",
        (1, 4, 6),
        (2, 4),
        (2, 2),
        "<pads=[1,0,0,0]>",
        torch=lambda x: F.fold(x, (3, 4), (2, 2))[:, :, 1:],
    ),
    _blocks("one axis", (2, 6, 4), (5,), (2,), torch=lambda x: _line(x, 5, 2)),
    Row(
        "Col2Im",
        "of any size",
        """hw = Shape<start=2>(z)
        y = Col2Im<strides=[2,1]>(x, hw, block)""",
        {"x": (2, 8, 6), "z": np.zeros((1, 1, 4, 4), np.float32)},
        lambda x, z: F.fold(x, (4, 4), (2, 2), stride=(2, 1)),
        consts={"block": np.array([2, 2])},
        wrt=("x",),
        dims={"x": ("N", 8, "L"), "z": (1, 1, "H", "W")},
    ),
]


def _line(x: Any, size: int, block: int) -> Any:
    four = F.fold(x, (1, size), (1, block))
    return four[:, :, 0]


# On a pixel the slope is the one to the right; where a border holds the place back it is 0.
_X = np.array([[[[1.0, 3.0, 7.0]]]])
EXACT = [
    Exact(
        "GridSample",
        name,
        f'y = GridSample<align_corners=1, padding_mode="{padding}">(x, g)',
        {"x": _X, "g": np.array([[[[at, 0.0]]]])},
        ct=np.array([[[[1.0]]]]),
        want={"g": np.array([[[[slope, 0.0]]]])},
    )
    for name, padding, at, slope in (
        ("on a pixel", "border", 0.0, 4.0),
        ("on the first pixel, held", "border", -1.0, 0.0),
        ("on the last pixel, held", "border", 1.0, 0.0),
        ("beyond the border, held", "border", 2.0, 0.0),
    )
]
