"""Slice and Pad: windows cut out, and borders put around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..harness import Exact, Row

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

X = {"x": (2, 5, 6)}
NAMED = {"x": ("N", "C", "W")}
LAST, FIRST = 2**63 - 1, -(2**63)
INT_MAX, INT_MIN = 2**31 - 1, -(2**31)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def pick(x: Any, *places: Any) -> Any:
    """x at slices or lists of positions, an axis after the other; steps may be negative."""
    for axis, place in enumerate(places):
        if isinstance(place, slice):
            place = list(range(x.shape[axis])[place])
        x = x.index_select(axis, torch.tensor(place, dtype=torch.int64))
    return x


ALL = slice(None)
Cut = tuple[str, Sequence[int], Sequence[int], Sequence[int] | None, Sequence[int] | None, Any]

CUTS: list[Cut] = [
    ("no axes", (0, 1, 2), (1, 4, 6), None, None, (slice(1), slice(1, 4), slice(2, 6))),
    ("fewer than all axes", (1,), (4,), (1,), None, (ALL, slice(1, 4))),
    ("negative axes and bounds", (-4, -5), (-1, -2), (-2, -1), None,
        (ALL, slice(-4, -1), slice(-5, -2))),
    ("to the end", (2, 3), (LAST, INT_MAX), (1, 2), (1, 1), (ALL, slice(2, None), slice(3, None))),
    ("beyond both ends", (-100, 1), (100, 100), (1, 2), None, (ALL, ALL, slice(1, None))),
    ("from the back to a place", (-4,), (4,), (1,), None, (ALL, slice(1, 4))),
    ("steps", (0, 1), (5, 6), (1, 2), (2, 3), (ALL, slice(0, 5, 2), slice(1, 6, 3))),
    ("steps that divide", (1, 1), (6, 2), (2, 0), (2, 1), (slice(1, 2), ALL, slice(1, 6, 2))),
    ("a step, begun late", (3,), (LAST,), (2,), (2,), (ALL, ALL, slice(3, None, 2))),
    ("a step that ends early", (1,), (4,), (2,), (2,), (ALL, ALL, slice(1, 4, 2))),
    ("a step over all but one", (1, 0), (4, 1), (2, 1), (9, 4), (ALL, [0], [1])),
    ("backwards", (-1,), (FIRST,), (1,), (-1,), (ALL, slice(None, None, -1))),
    ("backwards, both ends inside", (4, 5), (0, 1), (1, 2), (-1, -1),
        (ALL, slice(4, 0, -1), slice(5, 1, -1))),
    ("backwards by steps", (100, -2), (INT_MIN, -6), (1, 2), (-2, -3),
        (ALL, slice(None, None, -2), slice(-2, -6, -3))),
    ("all kinds", (1, 0, 4), (2, 6, 0), (0, 2, 1), (1, 2, -3), ([1], slice(4, 0, -3), [0, 2, 4])),
]  # fmt: skip


def _slice(
    name: str,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
    places: Any,
    opsets: Sequence[int] = (10, 11, 13),
    **more: Any,
) -> Row:
    given = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    operands = ", ".join("" if v is None else n for n, v in given.items()).rstrip(", ")
    return Row(
        "Slice",
        name,
        f"y = Slice(x, {operands})",
        more.pop("inputs", X),
        lambda x, *_: pick(x, *places),
        consts={n: ints(*v) for n, v in given.items() if v is not None},
        opsets=opsets,
        **more,
    )


# Along an axis whose size is known at run time only.
OPEN_CUTS: list[Cut] = [
    ("from a place to the end", (1, 2), (LAST, INT_MAX), (1, 2), None,
        (ALL, slice(1, None), slice(2, None))),
    ("between both ends", (1,), (-2,), (1,), None, (ALL, slice(1, -2))),
    ("the last ones", (-2,), (LAST,), (1,), None, (ALL, slice(-2, None))),
    ("from the back to the back", (-4,), (-1,), (2,), None, (ALL, ALL, slice(-4, -1))),
    ("from the back, beyond", (-100,), (-1,), (2,), None, (ALL, ALL, slice(0, -1))),
    ("the first ones", (0,), (2,), (1,), None, (ALL, slice(0, 2))),
    ("the first ones, and more", (1,), (100,), (1,), None, (ALL, slice(1, None))),
    ("from the back to the front", (-4,), (4,), (1,), None, (ALL, slice(1, 4))),
    ("every second", (0, 1), (LAST, LAST), (1, 2), (2, 2),
        (ALL, slice(0, None, 2), slice(1, None, 2))),
    ("every third up to a place", (1, 4), (-1, 6), (1, 2), (3, 3), (ALL, [1], [4])),
    ("backwards", (-1, LAST), (FIRST, -INT_MAX), (1, 2), (-1, -1),
        (ALL, slice(None, None, -1), slice(None, None, -1))),
    ("backwards from a place", (3,), (0,), (1,), (-1,), (ALL, slice(3, 0, -1))),
    ("backwards by steps", (-1,), (FIRST,), (1,), (-2,), (ALL, slice(None, None, -2))),
    ("steps from the back", (-4,), (LAST,), (1,), (2,), (ALL, slice(-4, None, 2))),
]  # fmt: skip


def _late(
    name: str, sort: type[np.generic] = np.int64, *, dims: Any = None, **given: Sequence[int]
) -> Row:
    """A Slice some of whose operands are inputs of the model; the rest are constants."""
    kinds = {"starts": (1, 2), "ends": (4, -1), "axes": (1, 2), "steps": (1, 1)}
    late = {n: np.array(v, sort) for n, v in given.items()}
    consts = {n: np.array(v, sort) for n, v in kinds.items() if n not in late}
    value = {n: given.get(n, v) for n, v in kinds.items()}
    places: list[Any] = [ALL] * 3
    for axis, *bounds in zip(value["axes"], value["starts"], value["ends"], value["steps"],
                             strict=True):  # fmt: skip
        places[axis] = slice(*bounds)
    return Row(
        "Slice",
        f"at run time: {name}",
        "y = Slice(x, starts, ends, axes, steps)",
        {**X, **late},
        lambda x, *_: pick(x, *places),
        consts=consts,
        opsets=(13,),
        dims=dims or {},
    )


SLICE = [
    Row(
        "Slice",
        "attributes",
        "y = Slice<axes = [1, 2], starts = [1, -3], ends = [4, 100]>(x)",
        X,
        lambda x: x[:, 1:4, -3:],
        opsets=(7,),
    ),
    Row(
        "Slice",
        "attributes, no axes",
        "y = Slice<starts = [1, 0], ends = [2, -1]>(x)",
        X,
        lambda x: x[1:2, :-1],
        opsets=(7,),
    ),
    *(_slice(*cut) for cut in CUTS),
    *(
        _slice(f"dynamic: {name}", *rest, opsets=(13,), dims=NAMED)
        for name, *rest in (*CUTS[-2:], *OPEN_CUTS)
    ),
    Row(
        "Slice",
        "int32 bounds",
        "y = Slice(x, starts, ends)",
        {"x": (2, 3)},
        lambda x: x[1:2, :2],
        consts={"starts": np.array([1, 0], np.int32), "ends": np.array([2, 2], np.int32)},
        opsets=(13,),
    ),
    _late("starts", starts=(1, -5)),
    _late("starts beyond", starts=(-100, 0)),
    _late("ends", ends=(100, 4)),
    _late("starts and ends", starts=(-4, 3), ends=(-1, 5)),
    _late("int32 starts and ends", np.int32, starts=(-4, 3), ends=(-1, 5)),
    _late("starts and ends, dynamic", starts=(-4, 3), ends=(-1, 5), dims=NAMED),
    _late("steps", steps=(2, -1), starts=(0, 4), ends=(5, 1)),
    _late("axes", axes=(2, 0), starts=(1, 0), ends=(3, 1)),
    Row(
        "Slice",
        "at run time: no axes",
        "y = Slice(x, starts, ends)",
        {"x": (3, 4), "starts": ints(1, -3), "ends": ints(3, -1)},
        lambda x, *_: x[1:3, 1:3],
        opsets=(13,),
    ),
    Row(
        "Slice",
        "at run time: how many",
        "y = Slice(x, starts, ends)",
        {"x": (3, 4), "starts": ints(1), "ends": ints(3)},
        lambda x, *_: x[1:3],
        opsets=(13,),
        dims={"starts": ("K",), "ends": ("K",)},
    ),
    Row(
        "Slice",
        "up to half of the size",
        "size = Shape(x)\nhalf = Div(size, two)\ny = Slice(x, zero, half)",
        {"x": (3, 4)},
        lambda x: x[:1, :2],
        consts={"two": ints(2, 2), "zero": ints(0, 0)},
        opsets=(13,),
        dims={"x": ("N", "M")},
    ),
]

SMALL = {"x": (2, 3, 4)}
OPSETS = (11, 13, 18, 19, 21, 23, 24, 25)
NEGATIVE = "its Pad takes no negative pads"
# Only the run knows the pads: the cotangent is padded by the opposite, whatever they are.
OPPOSITE = "its Pad takes no negative pads, and the gradient has some"


def _torch_pad(x: Any, pads: Sequence[int], mode: str, value: float = 0.0) -> Any:
    """Pads in ONNX's order: all the fronts, then all the ends."""
    n = len(pads) // 2
    if mode == "constant":
        flat = [p for axis in reversed(range(n)) for p in (pads[axis], pads[n + axis])]
        return F.pad(x, flat, value=value)
    # PyTorch's other modes leave the first axes out: pick the copied elements instead.
    places = []
    for axis in range(n):
        fill = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}[mode]
        line = np.arange(x.shape[axis])
        low, high = pads[axis], pads[n + axis]
        line = np.pad(line, (max(low, 0), max(high, 0)), mode=fill)  # type: ignore[call-overload]
        places.append(line[max(-low, 0) : len(line) + min(high, 0)].tolist())
    return pick(x, *places)


def _pad(name: str, mode: str, pads: Sequence[int], opsets: Sequence[int], **more: Any) -> Row:
    """The mode as attribute, the pads as operand; `late`: as an input of the model."""
    late = more.pop("late", False)
    written = f'<mode = "{mode}">' if mode != "constant" or len(name) % 2 else ""
    inputs = {**SMALL, "pads": ints(*pads)} if late else SMALL
    return Row(
        "Pad",
        f"{mode}, {name}",
        f"y = Pad{written}(x, pads)",
        inputs,
        lambda x, *_: _torch_pad(x, pads, mode),
        consts={} if late else {"pads": ints(*pads)},
        opsets=opsets,
        no_reference=NEGATIVE if min(pads) < 0 else OPPOSITE if late and mode == "constant" else "",
        **more,
    )


ROWS: list[Row] = [
    *SLICE,
    *[
        Row(
            "Pad",
            f"attributes, {mode}",
            f'y = Pad<mode = "{mode}", pads = [0, 1, 2, 0, 2, 1]>(x)',
            SMALL,
            lambda x, mode=mode: _torch_pad(x, (0, 1, 2, 0, 2, 1), mode),
            opsets=(7, 10),
        )
        for mode in ("constant", "edge", "reflect")
    ],
    Row(
        "Pad",
        "attributes, a value that is not used",
        'y = Pad<mode = "edge", pads = [0, 1, 2, 0, 2, 1], value = 1.5>(x)',
        SMALL,
        lambda x: _torch_pad(x, (0, 1, 2, 0, 2, 1), "edge"),
        opsets=(7,),
    ),
    Row(
        "Pad",
        "int32 axes",
        "y = Pad(x, pads, , axes)",
        SMALL,
        lambda x: _torch_pad(x, (0, 0, 2, 0, 0, 1), "constant"),
        consts={"pads": ints(2, 1), "axes": np.array([-1], np.int32)},
        opsets=(18, 21),
        runtime=False,  # ONNX Runtime takes int64 alone
    ),
    Row(
        "Pad",
        "attributes, a value",
        "y = Pad<pads = [0, 1, 2, 0, 2, 1], value = 1.5>(x)",
        SMALL,
        lambda x: _torch_pad(x, (0, 1, 2, 0, 2, 1), "constant", 1.5),
        opsets=(7,),
    ),
    _pad("plain", "constant", (0, 1, 2, 0, 2, 1), OPSETS),
    _pad("plain", "edge", (0, 1, 2, 0, 2, 1), OPSETS),
    _pad("plain", "reflect", (0, 1, 2, 0, 2, 1), OPSETS),
    _pad("plain", "wrap", (0, 1, 2, 0, 2, 1), OPSETS[3:]),
    _pad("nothing", "constant", (0,) * 6, (18,)),
    _pad("nothing", "edge", (0,) * 6, (18,)),
    _pad("first axis", "constant", (2, 0, 0, 1, 0, 0), (18,)),
    _pad("first axis", "edge", (2, 0, 0, 1, 0, 0), (18,)),
    _pad("first axis", "reflect", (1, 0, 0, 1, 0, 0), (18,)),
    _pad("first axis", "wrap", (2, 0, 0, 1, 0, 0), (19,)),
    _pad("negative", "constant", (0, -1, 0, 0, -1, -2), (18,)),
    _pad("mixed", "constant", (1, -1, 0, -1, 2, -2), (18,)),
    *[
        _pad(f"dynamic{', ' * bool(name)}{name}", mode, pads, (19,), dims=NAMED)
        for mode in ("constant", "edge", "reflect", "wrap")
        for name, pads in (("", (0, 1, 2, 0, 2, 1)), ("last axis", (0, 0, 1, 0, 0, 3)))
    ],
    _pad("dynamic, negative", "constant", (0, -1, 1, 0, -1, -2), (18,), dims=NAMED),
    _pad("at run time", "constant", (0, 1, 2, 0, 2, 1), (11, 18), late=True),
    _pad("at run time, negative", "constant", (1, -1, 0, -1, 2, -2), (18,), late=True),
    _pad("at run time, dynamic", "constant", (0, 1, 2, 0, 2, 1), (18,), late=True, dims=NAMED),
    _pad("at run time", "edge", (0, 1, 2, 0, 2, 1), (18,), late=True),
    _pad("at run time", "reflect", (0, 1, 2, 0, 2, 1), (18,), late=True),
    _pad("at run time", "wrap", (0, 1, 2, 0, 2, 1), (19,), late=True, dims=NAMED),
    Row(
        "Pad",
        "with a value",
        "y = Pad(x, pads, value)",
        {**SMALL, "value": ()},
        lambda x, value: _torch_pad(x - value, (0, 1, 2, 0, 2, 1), "constant") + value,
        consts={"pads": ints(0, 1, 2, 0, 2, 1)},
        opsets=(11, 18, 25),
    ),
    Row(
        "Pad",
        "with the value alone",
        "y = Pad(x, pads, value)",
        {**SMALL, "value": ()},
        lambda x, value: _torch_pad(x - value, (1, -1, 2, 0, 2, -1), "constant") + value,
        consts={"pads": ints(1, -1, 2, 0, 2, -1)},
        wrt=["value"],
        opsets=(18,),
        no_reference=NEGATIVE,
    ),
    *[
        Row(
            "Pad",
            f"{mode}, axes",
            f'y = Pad<mode = "{mode}">(x, pads, , axes)',
            SMALL,
            lambda x, mode=mode: _torch_pad(x, (0, 0, 1, 0, 1, 2), mode),
            consts={"pads": ints(1, 0, 2, 1), "axes": ints(-1, 1)},
            opsets=(19, 25),
        )
        for mode in ("constant", "edge", "reflect", "wrap")
    ],
    Row(
        "Pad",
        "pads at run time, axes",
        "h = Pad(x, pads, , axes)\ny = Reshape(h, shape)",
        {**SMALL, "pads": ints(1, 0, 2, 1)},
        lambda x, _: _torch_pad(x, (0, 0, 1, 0, 1, 2), "constant").reshape(-1),
        consts={"axes": ints(-1, 1), "shape": ints(-1)},
        opsets=(18,),
        no_reference=OPPOSITE,
    ),
    Row(
        "Pad",
        "axes at run time",
        "h = Pad(x, pads, value, axes)\ny = Reshape(h, shape)",
        {**SMALL, "axes": ints(-1, 1)},
        lambda x, _: _torch_pad(x, (0, 0, 1, 0, 1, 2), "constant", 2.0).reshape(-1),
        consts={"pads": ints(1, 0, 2, 1), "value": np.array(2.0), "shape": ints(-1)},
        opsets=(18,),
        no_reference=OPPOSITE,
    ),
]

LINE = {"x": np.array([1.0, 2.0, 3.0])}
CT7 = np.array([1.0, 2, 4, 8, 16, 32, 64])


def _seven(mode: str, low: int, high: int, want: list[float], opset: int = 19) -> Exact:
    """Three elements padded to seven; the cotangent's powers of 2 tell who went where."""
    return Exact(
        "Pad",
        f"{mode} by {low} and {high}",
        f'y = Pad<mode = "{mode}">(x, pads)',
        LINE,
        CT7,
        {"x": np.array(want)},
        consts={"pads": ints(low, high)},
        opset=opset,
    )


EXACT: list[Exact] = [
    _seven("constant", 3, 1, [8, 16, 32]),
    _seven("edge", 3, 1, [15, 16, 96]),
    _seven("edge", 0, 4, [1, 2, 124]),
    _seven("reflect", 2, 2, [4 + 64, 2 + 8 + 32, 1 + 16], 18),
    _seven("wrap", 3, 1, [1 + 8 + 64, 2 + 16, 4 + 32]),
    _seven("wrap", 0, 4, [1 + 8 + 64, 2 + 16, 4 + 32]),
    Exact(
        "Slice",
        "nothing is taken",
        "some = Slice(x, two, one)\nboth = Concat<axis = 0>(some, x)\ny = Neg(both)",
        LINE,
        np.array([1.0, 2.0, 4.0]),
        {"x": np.array([-1.0, -2.0, -4.0])},
        consts={"one": ints(1), "two": ints(2)},
    ),
    Exact(
        "Slice",
        "what is left out gets 0",
        "y = Slice(x, from, to, axes, steps)",
        {"x": np.arange(8.0)},
        np.array([1.0, -2.0, 4.0]),
        {"x": np.array([0.0, 4, 0, 0, -2, 0, 0, 1])},
        consts={"from": ints(7), "to": ints(0), "axes": ints(0), "steps": ints(-3)},
    ),
]
