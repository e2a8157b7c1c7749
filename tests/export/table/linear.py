"""Dense layers: Gemm's transposes and its C, MatMul's ranks, Einsum's equations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..harness import Exact, Row

try:
    import torch
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

GEMM = (7, 9, 11, 13)
SCALED = "alpha = 0.5, beta = 2.0"


def _transposed(a: int, b: int) -> Row:
    """a' [2, 3] times b' [3, 4]."""
    return Row(
        "Gemm",
        f"transA {a} transB {b}",
        f"y = Gemm<transA = {a}, transB = {b}, {SCALED}>(a, b, c)",
        {"a": (3, 2) if a else (2, 3), "b": (4, 3) if b else (3, 4), "c": (2, 4)},
        lambda m, n, c: 0.5 * (m.T if a else m) @ (n.T if b else n) + 2 * c,
        opsets=GEMM,
    )


def _added(name: str, shape: tuple[int, ...]) -> Row:
    return Row(
        "Gemm",
        f"C {name}",
        f"y = Gemm<{SCALED}>(a, b, c)",
        {"a": (2, 3), "b": (3, 4), "c": shape},
        lambda a, b, c: 0.5 * a @ b + 2 * c,
        opsets=(7, 13),
    )


def _matmul(name: str, a: tuple[int, ...], b: tuple[int, ...], **more: Any) -> Row:
    more.setdefault("opsets", (7, 9, 13))
    return Row("MatMul", name, "y = MatMul(a, b)", {"a": a, "b": b}, lambda m, n: m @ n, **more)


def _einsum(equation: str, *shapes: tuple[int, ...], name: str = "", **more: Any) -> Row:
    names = "abc"[: len(shapes)]
    return Row(
        "Einsum",
        name or equation,
        f'y = Einsum<equation = "{equation}">({", ".join(names)})',
        dict(zip(names, shapes, strict=True)),
        lambda *operands: torch.einsum(equation, *operands),
        opsets=(12, 28) if equation == "ij,jk->ik" else (12,),
        **more,
    )


ROWS: list[Row] = [
    *(_transposed(a, b) for a in (0, 1) for b in (0, 1)),
    _added("a row", (4,)),
    _added("a row of rank 2", (1, 4)),
    _added("a column", (2, 1)),
    _added("one number", (1,)),
    _added("one number of rank 2", (1, 1)),
    _added("a scalar", ()),
    Row(
        "Gemm",
        "no C",
        "y = Gemm<alpha = 0.5>(a, b)",
        {"a": (2, 3), "b": (3, 4)},
        lambda a, b: 0.5 * a @ b,
        opsets=(11, 13),
    ),
    Row(
        "Gemm",
        "plain, dynamic",
        "y = Gemm<transB = 1>(a, b, c)",
        {"a": (2, 3), "b": (4, 3), "c": (4,)},
        lambda a, b, c: a @ b.T + c,
        opsets=(13,),
        dims={"a": ("N", 3), "b": ("K", "D"), "c": ("K",)},
    ),
    Row(
        "Gemm",
        "C of named dimensions that are 1",
        "y = Gemm(a, b, c)",
        {"a": (2, 3), "b": (3, 4), "c": (1, 4)},
        lambda a, b, c: a @ b + c,
        opsets=(13,),
        dims={"a": ("N", 3), "c": ("M", 4)},
    ),
    _matmul("matrices", (2, 3), (3, 4)),
    _matmul("two vectors", (3,), (3,)),
    _matmul("a vector and a matrix", (3,), (3, 2)),
    _matmul("a matrix and a vector", (2, 3), (3,)),
    _matmul("a vector and a batch", (3,), (2, 3, 2)),
    _matmul("a batch and a vector", (2, 2, 3), (3,)),
    _matmul("a batch", (2, 2, 3), (2, 3, 2)),
    _matmul("a batch of rank 4 and a vector", (2, 1, 2, 3), (3,)),
    _matmul("a batch and a matrix", (2, 2, 3), (3, 2)),
    _matmul("a matrix and a batch", (2, 3), (2, 3, 2)),
    _matmul("batches that broadcast", (2, 1, 2, 3), (2, 3, 1)),
    _matmul("dynamic", (2, 2, 3), (3, 2), opsets=(13,), dims={"a": ("N", "T", 3)}),
    _matmul(
        "named batches that are 1",
        (1, 2, 3),
        (2, 3, 2),
        opsets=(13,),
        dims={"a": ("M", "T", 3), "b": ("N", 3, "K")},
    ),
    _matmul("a vector and a named batch", (3,), (2, 3, 2), opsets=(13,), dims={"b": ("N", 3, "K")}),
    _einsum("ij->ji", (2, 3)),
    _einsum("ij", (2, 3)),
    _einsum("ij->", (2, 3)),
    _einsum("ijk->ki", (2, 3, 2)),
    _einsum("ijk->j", (2, 3, 2), name="reduced, dynamic", dims={"a": ("I", "J", "K")}),
    _einsum("i,i->", (3,), (3,)),
    _einsum(",ij->ij", (), (2, 3)),
    _einsum("i,j->ij", (2,), (3,)),
    _einsum("ij,jk->ik", (2, 3), (3, 2)),
    _einsum(" ij , jk ", (2, 3), (3, 2), name="spaces and no arrow"),
    _einsum("ab,cA->cb", (2, 3), (2, 2), name="indices summed alone"),
    _einsum("bij,bkj->bik", (2, 2, 3), (2, 2, 3)),
    _einsum(
        "bij,bkj->bik",
        (2, 2, 3),
        (2, 2, 3),
        name="dynamic",
        dims={"a": ("N", "I", "D"), "b": ("N", "K", "D")},
    ),
    _einsum("ij,jk->ik", (2, 3), (1, 4), name="an index that broadcasts"),
    _einsum(
        "ij,jk->ik",
        (2, 3),
        (1, 4),
        name="a named index that broadcasts",
        dims={"a": ("I", "J"), "b": ("L", "K")},
    ),
    _einsum("...ij,...jk->...ik", (2, 2, 3), (2, 3, 2)),
    _einsum("...ij,...jk->...ik", (2, 1, 2, 3), (1, 3, 3, 2), name="ellipses that broadcast"),
    _einsum(
        "...ij,...jk->...ik",
        (1, 2, 3),
        (3, 3, 2),
        name="named ellipses that broadcast",
        dims={"a": ("M", 2, 3), "b": ("N", 3, 2)},
    ),
    _einsum("i...j,i...", (3, 2, 2), (3, 2), name="ellipses and no arrow"),
    _einsum("i...->...", (3, 2, 2)),
    _einsum("...,...->...", (2, 3), (2, 3)),
    _einsum("ii->i", (3, 3)),
    _einsum("ii", (3, 3), name="trace"),
    _einsum("ii->", (3, 3), name="trace, dynamic", dims={"a": ("N", "N")}),
    _einsum("iji,j->ij", (3, 2, 3), (2,)),
    _einsum(
        "iji,kj->k", (2, 3, 2), (2, 3), name="a diagonal, dynamic", dims={"a": ("I", "J", "I")}
    ),
    _einsum("iii->i", (2, 2, 2)),
    _einsum("ij,jk,kl->il", (2, 3), (3, 2), (2, 2)),
    _einsum("i,j,k->kij", (2,), (3,), (2,)),
    _einsum("bi,bj,ij->b", (2, 3), (2, 2), (3, 2)),
    _einsum("...i,...j,ij->...", (2, 3), (2, 2), (3, 2), name="three with ellipses"),
]

EXACT: list[Exact] = [
    Exact(
        "Einsum",
        "beside a diagonal all is 0",
        'y = Einsum<equation = "ii->i">(x)',
        # An infinity beside the diagonal doesn't matter, nor does one in its cotangent.
        {"x": np.array([[1.0, np.inf], [3.0, 4.0]])},
        np.array([2.0, np.inf]),
        {"x": np.array([[2.0, 0.0], [0.0, np.inf]])},
    ),
]
