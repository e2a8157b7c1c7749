"""Roots that are norms: of sums of squares, or of other powers.

A norm is 0 where all that it is made of is 0. There its root's slope is infinite and each square's
0, and 0 times that is no number, which a channel that is dead, or the same everywhere (`std`),
would give its whole row. The gradient taken there is 0, the norm's smallest subgradient, as
ReduceL2, LpNormalization and LpPool have it, and PyTorch's own `norm` and `std`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .. import traits
from .op import constant, is_fixed

__all__ = ["is_norm"]

# Exporters put few nodes between the squares and the root.
_DEPTH = 12
_ADDS = frozenset({"Add", "Concat", "Mean", "Sum"})
_PASSES = (
    traits.SAME
    | traits.RESHAPES
    | traits.MOVES - {"Concat", "Pad"}
    | frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"})
)


def is_norm(value: ir.Value | None, depth: int = _DEPTH) -> bool:
    """Whether a root's operand is a sum, or a mean, of powers above 1: of what is 0 with a slope of
    0 where what it is made of is 0, as far as the graph says. Parts of it may be scaled by numbers
    and sizes, not shifted."""
    node = None if value is None else value.producer()
    if node is None or depth == 0 or node.domain not in ("", "ai.onnx"):
        return False
    given = node.inputs
    if node.op_type == "ReduceSumSquare":
        return True
    if node.op_type == "Pow":
        power = _number(given[1])
        return power is not None and power > 1
    if node.op_type == "Mul" and given[0] is given[1]:
        return True
    if node.op_type in ("Mul", "Div"):
        if is_fixed(given[1], sizes=True):
            return is_norm(given[0], depth - 1)
        if node.op_type == "Div" or not is_norm(given[1], depth - 1):
            return False
        # A product of two: where one is 0, its slope is 0, and so is what the other's comes to.
        return is_fixed(given[0], sizes=True) or is_norm(given[0], depth - 1)
    if node.op_type in _ADDS:
        return all(is_norm(v, depth - 1) for v in given)
    return node.op_type in _PASSES and is_norm(given[0], depth - 1)


def _number(value: ir.Value | None) -> float | None:
    known = None if value is None else constant(value)
    if known is None or known.size != 1:
        return None
    return float(np.asarray(known, np.float64).reshape(-1)[0])
