"""Operators that move, cut, join or repeat elements without changing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..harness import Exact, Row

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

X = {"x": (2, 3, 4)}
NAMED = {"x": ("N", "C", "W")}
# Versions 13 and up of the operators that change with every new type, an opset of each.
TYPES = (13, 21, 23, 24, 25)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _row(
    op: str,
    name: str,
    call: str,
    function: Callable[..., Any] | None,
    opsets: Sequence[int],
    inputs: dict[str, Any] = X,
    **more: Any,
) -> Row:
    """`call` is the node without its operator: "(x, axes)"."""
    return Row(op, name, f"y = {op}{call}", inputs, function, opsets=opsets, **more)


RESHAPE = [
    _row(
        "Reshape",
        name,
        f"{attributes}(x, shape)",
        lambda x, s=tuple(to): x.reshape(s),
        opsets,
        consts={"shape": ints(*(wish or to))},
        **more,
    )
    for name, to, wish, attributes, opsets, more in (
        ("plain", (4, 6), None, "", (7, 13, 14, 19, 21, 23, 24, 25), {}),
        ("zero copies", (2, 12), (0, -1), "", (7, 18), {}),
        ("dynamic", (2, 12), (0, -1), "", (7, 18), {"dims": NAMED}),
        ("one dynamic dimension", (4, 6), (-1, 6), "", (18,), {"dims": {"x": ("N", 3, 4)}}),
        ("to a vector", (24,), (-1,), "", (18,), {"dims": NAMED}),
        ("allowzero", (4, 6), None, "<allowzero = 1>", (14, 25), {}),
    )
] + [
    _row(
        "Reshape",
        "at run time",
        "(x, shape)",
        lambda x, _: x.reshape(6, 4),
        (18,),
        {**X, "shape": ints(6, -1)},
    ),
    _row(
        "Reshape",
        "to a scalar",
        "(x, shape)",
        lambda x: x.reshape(()),
        (18,),
        {"x": (1, 1)},
        consts={"shape": ints()},
    ),
    _row(
        "Reshape",
        "from a scalar",
        "(x, shape)",
        lambda x: x.reshape(1, 1),
        (18,),
        {"x": ()},
        consts={"shape": ints(1, 1)},
    ),
]

FLATTEN = [
    _row("Flatten", "plain", "(x)", lambda x: x.flatten(1), (7, 9, 11, *TYPES)),
    _row("Flatten", "axis 0", "<axis = 0>(x)", lambda x: x.reshape(1, -1), (7, 18)),
    _row("Flatten", "axis 2", "<axis = 2>(x)", lambda x: x.reshape(6, 4), (7, 18)),
    _row("Flatten", "the last axis", "<axis = 3>(x)", lambda x: x.reshape(-1, 1), (18,)),
    _row("Flatten", "negative axis", "<axis = -1>(x)", lambda x: x.reshape(6, 4), (11, 18)),
    _row("Flatten", "dynamic", "(x)", lambda x: x.flatten(1), (7, 18), dims=NAMED),
]

ONES = {"x": (1, 3, 1, 2)}
SQUEEZE = [
    _row(
        "Squeeze",
        "axes attribute",
        "<axes = [0, 2]>(x)",
        lambda x: x.squeeze((0, 2)),
        (7, 11),
        ONES,
    ),
    _row(
        "Squeeze",
        "negative axes attribute",
        "<axes = [-2]>(x)",
        lambda x: x.squeeze(2),
        (11,),
        ONES,
    ),
    _row("Squeeze", "all", "(x)", lambda x: x.squeeze(), (7, 11, *TYPES), ONES),
    _row(
        "Squeeze",
        "axes",
        "(x, axes)",
        lambda x: x.squeeze((0, 2)),
        TYPES,
        ONES,
        consts={"axes": ints(0, -2)},
    ),
    _row(
        "Squeeze",
        "dynamic",
        "(x, axes)",
        lambda x: x.squeeze(2),
        (13,),
        ONES,
        consts={"axes": ints(2)},
        dims={"x": ("N", "C", 1, "W")},
    ),
    Row(
        "Squeeze",
        "axes at run time",
        "h = Squeeze(x, axes)\ny = Reshape(h, shape)",
        {**ONES, "axes": ints(2)},
        lambda x, _: x.reshape(
            6,
        ),
        consts={
            "shape": ints(
                6,
            )
        },  # the rank of h is not known before the run
        opsets=(13,),
    ),
    _row(
        "Unsqueeze",
        "axes attribute",
        "<axes = [0, 3]>(x)",
        lambda x: x[None, :, :, None],
        (7, 11),
    ),
    _row(
        "Unsqueeze",
        "negative axes attribute",
        "<axes = [-1]>(x)",
        lambda x: x[..., None],
        (11,),
    ),
    _row(
        "Unsqueeze",
        "axes",
        "(x, axes)",
        lambda x: x[None, :, :, None],
        TYPES,
        consts={"axes": ints(-2, 0)},
    ),
    _row(
        "Unsqueeze",
        "dynamic",
        "(x, axes)",
        lambda x: x[:, None],
        (13,),
        consts={"axes": ints(1)},
        dims=NAMED,
    ),
    Row(
        "Unsqueeze",
        "axes at run time",
        "h = Unsqueeze(x, axes)\ny = Reshape(h, shape)",
        {**X, "axes": ints(1)},
        lambda x, _: x.reshape(
            24,
        ),
        consts={
            "shape": ints(
                24,
            )
        },  # the rank of h is not known before the run
        opsets=(13,),
    ),
]

TRANSPOSE = [
    _row("Transpose", "plain", "(x)", lambda x: x.permute(2, 1, 0), (7, *TYPES)),
    _row("Transpose", "perm", "<perm = [1, 2, 0]>(x)", lambda x: x.permute(1, 2, 0), (7, *TYPES)),
    _row(
        "Transpose",
        "dynamic",
        "<perm = [1, 2, 0]>(x)",
        lambda x: x.permute(1, 2, 0),
        (18,),
        dims=NAMED,
    ),
]

SAME = [
    _row("Identity", "plain", "(x)", lambda x: x * 1, (7, 13, 14, 16, 19, 21, 23, 24, 25)),
    _row("Identity", "dynamic", "(x)", lambda x: x * 1, (18,), dims=NAMED),
    _row("Dropout", "plain", "(x)", lambda x: x * 1, (7, 10, 12, 13, 22)),
    _row("Dropout", "ratio attribute", "<ratio = 0.3>(x)", lambda x: x * 1, (7, 10)),
    Row(
        "Dropout",
        "with its mask",
        "y, mask = Dropout(x)",
        X,
        lambda x: x * 1,
        opsets=(7, 10, 12, 13, 22),
        dims=NAMED,
    ),
    _row(
        "Dropout",
        "ratio",
        "(x, ratio)",
        lambda x: x * 1,
        (12, 13, 22),
        consts={"ratio": np.array(0.3)},
    ),
    _row(
        "Dropout",
        "inference",
        "<seed = 3>(x, ratio, training)",
        lambda x: x * 1,
        (12, 13, 22),
        consts={"ratio": np.array(0.3), "training": np.array(False)},
    ),
]

CASTS = (15, 19, 21, 23, 24, 25)
CAST = [
    # In float64 this is the identity, and x stays what y is: in float32 it would not.
    _row(
        "Cast", "to what it is", "<to = 11>(x)", lambda x: x * 1, (7, 9, 13, 18, 28), runtime=False
    ),
    *[
        Row(
            op,
            name,
            f"wide = {cast}(x)\nsquare = Mul(wide, wide)\ny = CastLike(square, x)",
            X,
            lambda x: x * x,
            opsets=CASTS,
            dims=NAMED,
        )
        for op, name, cast in (
            ("Cast", "to double and back", "Cast<to = 11>"),
            ("CastLike", "from double", "Cast<to = 11>"),
        )
    ],
    Row(
        "Cast",
        "to float and back",
        "narrow = Cast<to = 1>(x)\ny = CastLike(narrow, x)",
        X,
        lambda x: x * 1,
        opsets=CASTS,
        fd=1.0,  # linear: a long step drowns float32's rounding
    ),
    Row(
        "Cast",
        "saturate",
        "narrow = Cast<to = 1, saturate = 0>(x)\ny = CastLike<saturate = 0>(narrow, x)",
        X,
        lambda x: x * 1,
        opsets=(19, 25),
        fd=1.0,  # as above
        runtime=False,  # ONNX Runtime takes the attribute for casts to float8 alone
    ),
    _row("CastLike", "like itself", "(x, x)", lambda x: x * 1, CASTS),
]

PAIR = {"a": (2, 3, 2), "b": (2, 1, 2)}


def _concat(name: str, axis: int, opsets: Sequence[int], **more: Any) -> Row:
    inputs = more.pop("inputs", PAIR)
    return _row(
        "Concat",
        name,
        f"<axis = {axis}>({', '.join(inputs)})",
        lambda *parts: torch.cat(parts, axis),
        opsets,
        inputs,
        **more,
    )


CONCAT = [
    _concat("plain", 1, (7, 11, 13)),
    _concat("negative axis", -2, (11, 13)),
    _concat("three", 0, (7, 13), inputs={"a": (2, 3), "b": (1, 3), "c": (3, 3)}),
    _concat("one", 0, (7, 13), inputs={"a": (2, 3)}),
    _concat("first alone", 1, (18,), wrt=["a"]),
    _concat("second alone", -2, (18,), wrt=["b"]),
    _concat("dynamic rows", 1, (18,), wrt=["b"], dims={"a": ("N", 3, "W"), "b": ("N", 1, "W")}),
    _concat("dynamic", 1, (18,), dims={"a": ("N", "A", 2), "b": ("N", "B", 2)}),
    _concat("dynamic, second alone", -2, (18,), wrt=["b"], dims={"a": ("N", "A", 2)}),
    _row("Concat", "twice the same", "<axis = 1>(x, x)", lambda x: torch.cat((x, x), 1), (18,)),
]

SPLIT_OPSETS = (18, 20)
SPLIT = [
    Row(
        "Split",
        name,
        f"a, b = Split<{attributes}>(x{operands})\ny = Concat<axis = 1>(b, a, b)",
        {"x": (2, 5, 2)},
        lambda x, at=sizes[0]: torch.cat((x[:, at:], x[:, :at], x[:, at:]), 1),
        opsets=opsets,
        consts={"sizes": ints(*sizes)} if operands else {},
        **more,
    )
    for name, sizes, attributes, operands, opsets, more in (
        ("sizes attribute", (2, 3), "axis = 1, split = [2, 3]", "", (7, 11), {}),
        ("negative axis attribute", (2, 3), "axis = -2, split = [2, 3]", "", (11,), {}),
        ("sizes", (2, 3), "axis = 1", ", sizes", (13, *SPLIT_OPSETS), {}),
        ("negative axis", (4, 1), "axis = -2", ", sizes", (13, 18), {}),
        ("uneven number", (3, 2), "axis = 1, num_outputs = 2", "", SPLIT_OPSETS, {}),
        ("dynamic", (2, 3), "axis = 1", ", sizes", (18,), {"dims": {"x": ("N", 5, "W")}}),
    )
] + [
    Row(
        "Split",
        "default axis, in halves",
        "a, b = Split(x)\ny = Sub(b, a)",
        {"x": (4, 3)},
        lambda x: x[2:] - x[:2],
        opsets=(7, 11, 13),
    ),
    Row(
        "Split",
        "an output that does not matter",
        "a, y, b = Split<num_outputs = 3>(x)",
        {"x": (6, 3)},
        lambda x: x[2:4],
        opsets=(18,),
        dims={"x": (6, "W")},
    ),
    Row(
        "Split",
        "along a dynamic axis",
        "a, y = Split<num_outputs = 2, axis = 1>(x)",
        {"x": (2, 5)},
        lambda x: x[:, 3:],
        opsets=(18,),
        dims={"x": ("N", "M")},
    ),
    Row(
        "Split",
        "sizes at run time",
        "a, b = Split<axis = 1>(x, sizes)\ny = Reshape(b, shape)",
        {"x": (2, 5), "sizes": ints(1, 4)},
        lambda x, _: x[:, 1:],
        consts={"shape": ints(2, 4)},
        opsets=(18,),
    ),
]

EXPAND = [
    _row(
        "Expand",
        name,
        "(x, shape)",
        lambda x, s=tuple(to): x.expand(s) * 1,
        opsets,
        {"x": shape},
        consts={"shape": ints(*(wish or to))},
        **more,
    )
    for name, shape, to, wish, opsets, more in (
        ("plain", (2, 1, 3), (2, 4, 3), None, (8, 13), {}),
        ("more axes", (3, 1), (2, 3, 4), None, (8, 13), {}),
        ("ones keep", (2, 3), (2, 3), (1, 1), (13,), {}),
        ("a shorter shape", (2, 2, 1), (2, 2, 3), (3,), (13,), {}),
        ("a scalar", (), (2, 3), None, (13,), {}),
        ("dynamic", (2, 1, 3), (2, 4, 3), (1, 4, 1), (13,), {"dims": {"x": ("N", 1, "W")}}),
        ("dynamic ones", (1, 3), (2, 3), (2, 3), (13,), {"dims": {"x": ("N", 3)}}),
    )
] + [
    _row(
        "Expand",
        f"at run time, {name}",
        "(x, shape)",
        lambda x, s: x.expand(*s) * 1,
        (13,),
        {"x": shape, "shape": ints(2, 4, 3)},
        **more,
    )
    for name, shape, more in (
        ("from fixed sizes", (2, 1, 3), {}),
        ("from named sizes", (2, 1, 3), {"dims": {"x": ("N", "C", "W")}}),
        ("from fewer", (1, 3), {"dims": {"x": ("N", "W")}}),
    )
]

TILE = [
    _row(
        "Tile",
        name,
        "(x, repeats)",
        lambda x: x.repeat(2, 1, 3),
        opsets,
        {"x": (2, 2, 2)},
        consts={"repeats": ints(2, 1, 3)},
        **more,
    )
    for name, opsets, more in (
        ("plain", (7, 13), {}),
        ("dynamic rows", (13,), {"dims": {"x": ("N", 2, 2)}}),
        ("dynamic", (13,), {"dims": {"x": ("N", "C", "W")}}),
    )
] + [
    _row(
        "Tile",
        "at run time",
        "(x, repeats)",
        lambda x, _: x.repeat(2, 1, 3),
        (13,),
        {"x": (2, 2, 2), "repeats": ints(2, 1, 3)},
    ),
    _row(
        "Tile",
        "once",
        "(x, repeats)",
        lambda x: x * 1,
        (13,),
        consts={"repeats": ints(1, 1, 1)},
    ),
]


def _depth_first(x: Any, block: int) -> Any:
    """DepthToSpace in DCR mode: PyTorch's pixel_shuffle has the channels outermost."""
    n, c, h, w = x.shape
    moved = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return moved.reshape(n, c // block**2, h * block, w * block)


def _space(x: Any, block: int) -> Any:
    n, c, h, w = x.shape
    moved = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return moved.reshape(n, c * block**2, h // block, w // block)


DEEP = {"x": (1, 8, 2, 3)}
WIDE = {"x": (1, 2, 4, 6)}
BLOCKS = [
    _row(
        "DepthToSpace",
        "plain",
        "<blocksize = 2>(x)",
        lambda x: _depth_first(x, 2),
        (7, 11, 28),
        DEEP,
    ),
    *[
        _row(
            "DepthToSpace",
            f"{mode}{name}",
            f'<blocksize = 2, mode = "{mode}">(x)',
            function,
            opsets,
            DEEP,
            **more,
        )
        for mode, function in (
            ("DCR", lambda x: _depth_first(x, 2)),
            ("CRD", lambda x: F.pixel_shuffle(x, 2)),
        )
        for name, opsets, more in (
            ("", (11, 13), {}),
            (", dynamic rows", (13,), {"dims": {"x": ("N", 8, 2, 3)}}),
            (", dynamic", (13,), {"dims": {"x": ("N", "C", "H", "W")}}),
        )
    ],
    _row("SpaceToDepth", "plain", "<blocksize = 2>(x)", lambda x: _space(x, 2), (7, 13, 28), WIDE),
    _row(
        "SpaceToDepth",
        "CRD",
        '<blocksize = 2, mode = "CRD">(x)',
        lambda x: F.pixel_unshuffle(x, 2),
        (28,),
        WIDE,
        runtime=False,  # ONNX Runtime does not know the mode yet
    ),
    _row(
        "SpaceToDepth",
        "dynamic",
        "<blocksize = 2>(x)",
        lambda x: _space(x, 2),
        (13,),
        WIDE,
        dims={"x": ("N", "C", "H", "W")},
    ),
]

TRILU = [
    _row("Trilu", "upper", "(x)", lambda x: x.triu(), (14,), dims=NAMED),
    _row("Trilu", "lower", "<upper = 0>(x)", lambda x: x.tril(), (14,)),
    _row("Trilu", "upper, k", "(x, k)", lambda x: x.triu(1), (14,), consts={"k": np.array(1)}),
    _row(
        "Trilu",
        "lower, k at run time",
        "<upper = 0>(x, k)",
        lambda x, _: x.tril(-1),
        (14,),
        {**X, "k": np.array(-1)},
    ),
]

ROWS: list[Row] = [
    *RESHAPE,
    *FLATTEN,
    *SQUEEZE,
    *TRANSPOSE,
    *SAME,
    *CAST,
    *CONCAT,
    *SPLIT,
    *EXPAND,
    *TILE,
    *BLOCKS,
    *TRILU,
]

EXACT: list[Exact] = [
    Exact(
        "Dropout",
        "drops nothing when a model runs",
        "y = Dropout(x, ratio)",
        {"x": np.array([1.0, -2.0])},
        np.array([3.0, 5.0]),
        {"x": np.array([3.0, 5.0])},
        consts={"ratio": np.array(0.9)},
    ),
    *[
        Exact(
            "Dropout",
            f"in a mode that the run says: {training}",
            "y = Dropout(x, ratio, training)",
            {"x": np.array([1.0, -2.0]), "training": np.array(training)},
            np.array([3.0, 5.0]),
            {"x": np.full(2, np.nan) if training else np.array([3.0, 5.0])},
            consts={"ratio": np.array(0.9)},
        )
        for training in (False, True)
    ],
    Exact(
        "Trilu",
        "what is cut off gets 0, not nan",
        "y = Trilu(x)",
        {"x": np.ones((2, 2))},
        np.array([[1.0, 2.0], [np.inf, 4.0]]),
        {"x": np.array([[1.0, 2.0], [0.0, 4.0]])},
    ),
]
