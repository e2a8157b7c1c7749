"""Dense layers."""

from __future__ import annotations

from ..harness import Exact, Row

ROWS: list[Row] = [
    Row(
        "Gemm",
        "transB",
        "y = Gemm<transB=1, alpha=0.5>(a, b)",
        {"a": (2, 3), "b": (4, 3)},
        torch=lambda a, b: 0.5 * a @ b.T,
        wrt=["a"],
        opsets=(7, 9, 11, 13),
    ),
]
EXACT: list[Exact] = []
