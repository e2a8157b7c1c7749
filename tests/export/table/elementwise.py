"""Arithmetic, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from ..harness import Array, Exact, Row, distinct, positive, signed

try:
    import torch
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

SAME = {"a": (2, 3), "b": (2, 3)}
BROAD = {"a": (2, 1, 3), "b": (4, 1)}


MEAN = "its Mean adds in place, into the first input's shape"


def _binary(
    op: str, function: object, opsets: tuple[int, ...], sample: object = signed
) -> list[Row]:
    rows = []
    wrong = MEAN if op == "Mean" else ""
    for name, shapes in (
        ("equal shapes", SAME),
        ("broadcast", BROAD),
        ("a scalar", {"a": (2, 3), "b": ()}),
        ("a lower rank first", {"a": (3,), "b": (2, 3)}),
    ):
        rows.append(
            Row(
                op,
                name,
                f"y = {op}(a, b)",
                shapes,
                torch=function,
                opsets=opsets,
                sample=sample,
                no_reference=wrong if name != "equal shapes" else "",
            )
        )
    rows.append(
        Row(
            op,
            "named dimensions that are 1",
            f"y = {op}(a, b)",
            {"a": (1, 3), "b": (2, 3)},
            torch=function,
            opsets=opsets[-1:],
            sample=sample,
            dims={"a": ("M", 3), "b": ("N", 3)},
            no_reference=wrong,
        )
    )
    return rows


def _inside(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    return rng.uniform(-0.9, 0.9, tuple(shape))


def _beyond(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    return rng.uniform(1.2, 3, tuple(shape))


def _beyond_or_below(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Of both signs, away from 0."""
    return rng.uniform(0.7, 3, tuple(shape)) * rng.choice((-1, 1), tuple(shape))


def _unary(
    op: str, function: object, opsets: tuple[int, ...], sample: object = signed
) -> list[Row]:
    return [
        Row(op, "plain", f"y = {op}(x)", {"x": (2, 3, 2)}, function, opsets=opsets, sample=sample),
        Row(
            op,
            "dynamic",
            f"y = {op}(x)",
            {"x": (2, 3)},
            function,
            opsets=opsets[-1:],
            sample=sample,
            dims={"x": ("N", "M")},
        ),
    ]


ROWS: list[Row] = [
    *_binary("Add", lambda a, b: a + b, (7, 13, 14, 21)),
    *_binary("Sub", lambda a, b: a - b, (7, 13, 14, 21)),
    *_binary("Mul", lambda a, b: a * b, (7, 13, 14, 21)),
    *_binary("Div", lambda a, b: a / b, (7, 13, 14, 21)),
    *_binary("Pow", lambda a, b: a**b, (7, 12, 13, 15, 21), positive),
    Row(
        "Pow",
        "constant exponent 3",
        "y = Pow(x, p)",
        {"x": (2, 3)},
        lambda x: x**3,
        consts={"p": np.array(3.0)},
        opsets=(15, 20),
    ),
    Row(
        "Pow",
        "integer exponent",
        "y = Pow(x, p)",
        {"x": (2, 3)},
        lambda x: x**2,
        consts={"p": np.array(2, np.int64)},
        opsets=(15, 20),
    ),
    Row(
        "Pow",
        "constant exponents of many kinds",
        "y = Pow(x, p)",
        {"x": (2, 4)},
        lambda x: x ** torch.tensor([0.0, 1.0, 0.5, -2.0], dtype=torch.float64),
        consts={"p": np.array([0.0, 1.0, 0.5, -2.0])},
        sample=positive,
        opsets=(15,),
    ),
    *_binary("Max", lambda a, b: torch.maximum(a, b), (8, 12, 13, 21), distinct),
    *_binary("Min", lambda a, b: torch.minimum(a, b), (8, 12, 13, 21), distinct),
    *_binary("Sum", lambda a, b: a + b, (8, 13, 21)),
    *_binary("Mean", lambda a, b: (a + b) / 2, (8, 13, 21)),
    *[
        Row(
            op,
            "three inputs",
            f"y = {op}(a, b, c)",
            {"a": (2, 3), "b": (3,), "c": (2, 3)},
            lambda *x, f=function: f(x),
            opsets=(8, 13),
            sample=distinct,
            no_reference=MEAN if op == "Mean" else "",
        )
        for op, function in (
            ("Max", lambda x: reduce(torch.maximum, x)),
            ("Min", lambda x: reduce(torch.minimum, x)),
            ("Sum", sum),
            ("Mean", lambda x: sum(x) / 3),
        )
    ],
    *[
        Row(op, "one input", f"y = {op}(x)", {"x": (2, 3)}, lambda x: x * 1, opsets=(7, 13))
        for op in ("Max", "Min", "Sum", "Mean")
    ],
    *[
        Row(
            "Mod",
            name,
            "y = Mod<fmod = 1>(a, b)",
            shapes,
            torch=lambda a, b: torch.fmod(a, b),
            opsets=(10, 13, 28),
            sample=_beyond_or_below,
        )
        for name, shapes in (("plain", SAME), ("broadcast", BROAD))
    ],
    *_unary("Neg", lambda x: -x, (7, 13)),
    *_unary("Abs", lambda x: x.abs(), (7, 13)),
    *_unary("Sqrt", lambda x: x.sqrt(), (7, 13), positive),
    *_unary("Reciprocal", lambda x: 1 / x, (7, 13), positive),
    *_unary("Exp", lambda x: x.exp(), (7, 13)),
    *_unary("Log", lambda x: x.log(), (7, 13), positive),
    *_unary("Sin", lambda x: x.sin(), (7, 22)),
    *_unary("Cos", lambda x: x.cos(), (7, 22)),
    *_unary("Tan", lambda x: x.tan(), (7, 22)),
    *_unary("Atan", lambda x: x.atan(), (7, 22)),
    *_unary("Asin", lambda x: x.asin(), (7, 22), _inside),
    *_unary("Acos", lambda x: x.acos(), (7, 22), _inside),
    *_unary("Asinh", lambda x: x.asinh(), (9, 22)),
    *_unary("Acosh", lambda x: x.acosh(), (9, 22), _beyond),
    *_unary("Atanh", lambda x: x.atanh(), (9, 22), _inside),
    *_unary("Sinh", lambda x: x.sinh(), (9, 22)),
    *_unary("Cosh", lambda x: x.cosh(), (9, 22)),
]

ONE = np.array([1.0, 1.0])
EXACT: list[Exact] = [
    Exact(
        op,
        "ties share evenly",
        f"y = {op}(a, b)",
        {"a": np.array([1.0, 2.0]), "b": np.array([1.0, 5.0])},
        np.array([3.0, -4.0]),
        want,
    )
    for op, want in (
        ("Max", {"a": np.array([1.5, 0.0]), "b": np.array([1.5, -4.0])}),
        ("Min", {"a": np.array([1.5, -4.0]), "b": np.array([1.5, 0.0])}),
    )
] + [
    Exact("Abs", "at 0", "y = Abs(x)", {"x": np.zeros(2)}, ONE, {"x": np.zeros(2)}),
    Exact(
        "Pow",
        "squares at 0",
        "y = Pow(x, p)",
        {"x": np.zeros(2)},
        ONE,
        {"x": np.zeros(2)},
        consts={"p": np.array(2.0)},
    ),
    Exact(
        "Pow",
        "to the 0 at 0",
        "y = Pow(x, p)",
        {"x": np.zeros(2), "p": np.array([0.0, 1.0])},
        ONE,
        {"x": np.array([0.0, 1.0])},
    ),
]
