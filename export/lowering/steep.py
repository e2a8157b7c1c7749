"""Where a cotangent may be infinite: behind roots, quotients and logarithms of what may be 0.

A gate that multiplies lets 0 x inf through as NaN; one that chooses holds it back.
"""

from __future__ import annotations

import onnx_ir as ir

from .. import traits
from ..emit import EMITTED
from ..rules.clamps import uniform

__all__ = ["steep_behind"]

# No head is longer; behind more, cotangents are taken for finite.
_MOST = 256
_STEEP = frozenset("GlobalLpPool Log LpNormalization LpPool ReduceL2 ReduceLogSum Sqrt".split())
# Never 0, or as far from it as they are made of.
_POSITIVE = frozenset("Exp Sigmoid Softmax Softplus".split())


def steep_behind(y: ir.Value) -> bool:
    """Whether the cotangent of y may be infinite where y is finite: whether y goes into something
    steep on a way without another gate, which holds that back."""
    waiting, seen = [y], {y}
    while waiting and len(seen) < _MOST:
        value = waiting.pop()
        for use in value.uses():
            node = use.node
            if EMITTED in node.meta or node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type in traits.NO_GRADIENT:
                continue
            if _is_steep(node, use.idx):
                return True
            if node.op_type in traits.RECTIFIES - traits.LEAKS or node.op_type == "Clip":
                continue
            new = [v for v in node.outputs if v not in seen]
            seen.update(new)
            waiting += new
    return False


def _is_steep(node: ir.Node, index: int) -> bool:
    """Whether a node's derivative by one of its inputs may be infinite."""
    if node.op_type == "Pow":
        power = uniform(node.inputs[1])
        steep = index == 0 and (power is None or power < 1)
    elif node.op_type in ("Div", "Reciprocal"):
        steep = index == (node.op_type == "Div") and uniform(node.inputs[index]) is None
    else:
        steep = node.op_type in _STEEP
    return steep and not _kept_from_0(node.inputs[index])


def _kept_from_0(value: ir.Value | None) -> bool:
    """Whether something small was added, or a bound above 0 set."""
    node = None if value is None else value.producer()
    if node is None or node.op_type in _POSITIVE:
        return node is not None
    if node.op_type not in ("Add", "Clip", "Max"):
        return node.op_type == "Sqrt" and _kept_from_0(node.inputs[0])
    return any((uniform(v) or 0) > 0 for v in node.inputs[: 2 if node.op_type == "Clip" else None])
