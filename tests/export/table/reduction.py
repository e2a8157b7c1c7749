"""Reductions: over which axes, given how, kept or not; ties and zeros exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..harness import Exact, Row, distinct, positive, signed

try:
    import torch
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

Reduction = Callable[[Any, Sequence[int], bool], Any]


def _prod(x: Any, axes: Sequence[int], keep: bool) -> Any:
    """PyTorch's takes one axis at a time."""
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


# Operator: as PyTorch has it, and what it is when nothing is reduced.
REDUCTIONS: dict[str, tuple[Reduction, Callable[[Any], Any]]] = {
    "ReduceSum": (lambda x, axes, keep: x.sum(axes, keep), lambda x: x * 1),
    "ReduceMean": (lambda x, axes, keep: x.mean(axes, keep), lambda x: x * 1),
    "ReduceMax": (lambda x, axes, keep: x.amax(axes, keep), lambda x: x * 1),
    "ReduceMin": (lambda x, axes, keep: x.amin(axes, keep), lambda x: x * 1),
    "ReduceL1": (lambda x, axes, keep: x.abs().sum(axes, keep), lambda x: x.abs()),
    "ReduceL2": (lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep), abs),
    "ReduceSumSquare": (lambda x, axes, keep: (x * x).sum(axes, keep), lambda x: x * x),
    "ReduceLogSum": (lambda x, axes, keep: x.sum(axes, keep).log(), lambda x: x.log()),
    "ReduceLogSumExp": (lambda x, axes, keep: x.logsumexp(axes, keep), lambda x: x * 1),
    "ReduceProd": (_prod, lambda x: x * 1),
}
SAMPLES = {"ReduceMax": distinct, "ReduceMin": distinct, "ReduceLogSum": positive}
X = {"x": (2, 3, 2)}
EVERY = (0, 1, 2)
NAMED = {"x": ("N", "C", "W")}


def _opsets(op: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Opsets with axes as an attribute (without, with negative ones), and as an input."""
    if op == "ReduceSum":
        return (7,), (11,), (13,)
    if op in ("ReduceMax", "ReduceMin"):
        return (7,), (11, 12, 13), (18, 20)
    if op in ("ReduceLogSum", "ReduceLogSumExp"):
        return (7,), (11, 13), (18, 28)
    return (7,), (11, 13), (18,)


def _rows(op: str) -> list[Row]:
    function, noop = REDUCTIONS[op]
    first, middle, last = _opsets(op)

    def row(
        name: str,
        text: str,
        torch_function: Callable[..., Any],
        opsets: tuple[int, ...],
        axes: list[int] | None = None,
        **more: Any,
    ) -> Row:
        return Row(
            op,
            name,
            text,
            X,
            torch_function,
            opsets=opsets,
            consts={} if axes is None else {"axes": np.array(axes, np.int64)},
            sample=SAMPLES.get(op, signed),
            **more,
        )

    def at_run_time(
        name: str, attributes: str, torch_function: Callable[..., Any], axes: list[int]
    ) -> Row:
        shape = torch_function(torch.ones(X["x"]), None).shape if torch else ()
        return Row(
            op,
            name,
            # `of` needs a rank that is known.
            f"r = {op}<{attributes}>(x, axes)\ny = Reshape(r, shape)",
            {**X, "axes": np.array(axes, np.int64)},
            torch_function,
            opsets=last[-1:],
            consts={"shape": np.array(shape, np.int64)},
            sample=SAMPLES.get(op, signed),
            dims={**NAMED, "axes": ("K",)},
        )

    return [
        row(
            "axes attribute",
            f"y = {op}<axes = [1]>(x)",
            lambda x: function(x, (1,), True),
            first + middle,
        ),
        row(
            "axes attribute, squeezed",
            f"y = {op}<axes = [0, -1], keepdims = 0>(x)",
            lambda x: function(x, (0, 2), False),
            middle,
        ),
        row(
            "no axes",
            f"y = {op}(x)",
            lambda x: function(x, EVERY, True),
            first[:1] + middle[-1:] + last[-1:],
        ),
        row(
            "no axes, squeezed",
            f"y = {op}<keepdims = 0>(x)",
            lambda x: function(x, EVERY, False),
            middle[-1:] + last[-1:],
        ),
        row(
            "axes",
            f"y = {op}(x, axes)",
            lambda x: function(x, (0, 2), True),
            last,
            axes=[0, 2],
        ),
        row(
            "axes, squeezed",
            f"y = {op}<keepdims = 0>(x, axes)",
            lambda x: function(x, (0, 2), False),
            last,
            axes=[-1, 0],
        ),
        row(
            "dynamic",
            f"y = {op}<keepdims = 0>(x, axes)",
            lambda x: function(x, (1, 2), False),
            last,
            axes=[1, 2],
            dims=NAMED,
        ),
        row(
            "empty axes",
            f"y = {op}(x, axes)",
            lambda x: function(x, EVERY, True),
            last[-1:],
            axes=[],
        ),
        row(
            "empty axes, squeezed, dynamic",
            f"y = {op}<keepdims = 0>(x, axes)",
            lambda x: function(x, EVERY, False),
            last[-1:],
            axes=[],
            dims=NAMED,
        ),
        row(
            "no axes: nothing to do",
            f"y = {op}<noop_with_empty_axes = 1>(x)",
            noop,
            last[-1:],
        ),
        row(
            "empty axes: nothing to do",
            f"y = {op}<noop_with_empty_axes = 1, keepdims = 0>(x, axes)",
            noop,
            last[-1:],
            axes=[],
        ),
        at_run_time(
            "axes at run time", "keepdims = 1", lambda x, _: function(x, (0, 2), True), [-1, 0]
        ),
        at_run_time(
            "axes at run time, squeezed",
            "keepdims = 0",
            lambda x, _: function(x, (0, 2), False),
            [-1, 0],
        ),
        at_run_time(
            "no axes at run time", "keepdims = 0", lambda x, _: function(x, EVERY, False), []
        ),
        at_run_time(
            "no axes at run time: nothing to do",
            "noop_with_empty_axes = 1",
            lambda x, _: noop(x),
            [],
        ),
    ]


def _cumulative(
    name: str, attributes: str, function: Callable[[Any], Any], axis: int, **more: Any
) -> Row:
    return Row(
        "CumSum",
        name,
        f"y = CumSum{attributes}(x, axis)",
        X,
        function,
        consts={"axis": np.array(axis)},
        opsets=(11, 14),
        **more,
    )


ROWS: list[Row] = [
    *(row for op in REDUCTIONS for row in _rows(op)),
    _cumulative("plain", "", lambda x: x.cumsum(1), 1),
    _cumulative("dynamic", "", lambda x: x.cumsum(0), -3, dims=NAMED),
    _cumulative("exclusive", "<exclusive = 1>", lambda x: x.cumsum(1) - x, 1),
    _cumulative("reverse", "<reverse = 1>", lambda x: x.flip(1).cumsum(1).flip(1), 1),
    _cumulative(
        "both",
        "<exclusive = 1, reverse = 1>",
        lambda x: x.flip(1).cumsum(1).flip(1) - x,
        -2,
    ),
    Row(
        "CumSum",
        "axis at run time",
        "y = CumSum(x, axis)",
        {**X, "axis": np.array(2)},
        lambda x, _: x.cumsum(2),
        opsets=(14,),
    ),
]


def _by_row(op: str, name: str, x: list[list[float]], ct: list[float], want: Any) -> Exact:
    """Reduced over axis 1, and squeezed."""
    return Exact(
        op,
        name,
        f"y = {op}<keepdims = 0>(x, axes)",
        {"x": np.array(x, np.float64)},
        np.array(ct, np.float64),
        {"x": np.array(want, np.float64)},
        consts={"axes": np.array([1])},
    )


TIED = [[1, 4, 4], [-2, -2, -2], [3, 1, 1]]
EXACT: list[Exact] = [
    _by_row("ReduceMax", "ties", TIED, [2, 3, 5], [[0, 1, 1], [1, 1, 1], [5, 0, 0]]),
    _by_row("ReduceMin", "ties", TIED, [2, 3, 5], [[2, 0, 0], [1, 1, 1], [0, 2.5, 2.5]]),
    *(
        Exact(
            op,
            "ties over all axes",
            f"y = {op}(x)",
            {"x": np.full((2, 1, 2), 7.0)},
            np.full((1, 1, 1), -2.0),
            {"x": np.full((2, 1, 2), -0.5)},
        )
        for op in ("ReduceMax", "ReduceMin")
    ),
    _by_row(
        "ReduceMax", "of infinities", [[-np.inf, -np.inf], [np.inf, 0]], [2, 3], [[1, 1], [3, 0]]
    ),
    _by_row("ReduceL1", "zeros", [[0, -2], [0, 0]], [3, 5], [[0, -3], [0, 0]]),
    _by_row("ReduceL2", "all zeros", [[0, 0], [3, -4]], [7, 10], [[0, 0], [6, -8]]),
    Exact(
        "ReduceL2",
        "zeros, nothing to do",
        "y = ReduceL2<noop_with_empty_axes = 1>(x)",
        {"x": np.array([0.0, -3.0])},
        np.array([5.0, 7.0]),
        {"x": np.array([0.0, -7.0])},
    ),
    _by_row(
        "ReduceProd",
        "no, one and two zeros",
        [[1, 2, -4], [2, 0, 3], [0, 0, 4]],
        [0.5, 3, 7],
        [[-4, -2, 1], [0, 18, 0], [0, 0, 0]],
    ),
    _by_row(
        "ReduceLogSumExp",
        "far out and masked",
        [[1000, 0], [2, -np.inf]],
        [3, 5],
        [[3, 0], [5, 0]],
    ),
]
