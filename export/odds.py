"""The logarithm of odds, log(p / (1 - p)): what a Sigmoid undoes, and how exporters write it."""

from __future__ import annotations

import onnx_ir as ir

from .closers import scalar
from .rules.op import first_input

__all__ = ["held_within", "odds"]

_BELOW = frozenset("Less LessOrEqual".split())
_COMPARES = _BELOW | {"Greater", "GreaterOrEqual"}


def odds(node: ir.Node) -> ir.Value | None:
    """The p that a node makes log(p / (1 - p)) of, or log(p) - log(1 - p), or None."""
    p = rest = None
    if node.op_type == "Log":
        inner = _made(first_input(node), "Div")
        p, rest = (None, None) if inner is None else inner.inputs[:2]
    elif node.op_type == "Sub":
        logs = [_made(v, "Log") for v in node.inputs[:2]]
        p, rest = (None if n is None else first_input(n) for n in logs)
    return p if p is not None and _is_rest(rest, p) else None


def _made(value: ir.Value | None, kind: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    ours = node is not None and node.domain in ("", "ai.onnx") and node.op_type == kind
    return node if ours else None


def _is_rest(value: ir.Value | None, p: ir.Value) -> bool:
    """Whether a value is 1 - p."""
    taken = _made(value, "Sub")
    if taken is not None:
        return scalar(taken.inputs[0]) == 1 and taken.inputs[1] is p
    added = _made(value, "Add")
    for one, other in () if added is None else (added.inputs, added.inputs[::-1]):
        negated = _made(other, "Neg")
        if scalar(one) == 1 and negated is not None and negated.inputs[0] is p:
            return True
    return False


def held_within(node: ir.Node) -> tuple[ir.Value, float, bool] | None:
    """Of a Where that keeps a value on one side of a number, as PyTorch's logit has it: the value,
    the number, and whether that is the highest."""
    if node.op_type != "Where" or len(node.inputs) != 3:
        return None
    cond, yes, no = node.inputs
    compare = None if cond is None else cond.producer()
    numbers = (scalar(yes), scalar(no))
    if compare is None or compare.op_type not in _COMPARES or None not in numbers:
        return None
    number = numbers[0] if numbers[1] is None else numbers[1]
    value = no if numbers[1] is None else yes
    if number is None or value is None:
        return None
    turned = compare.inputs[1] is value
    other = compare.inputs[0 if turned else 1]
    if not (turned or compare.inputs[0] is value) or scalar(other) != number:
        return None
    # Whether the value is below the number where the condition holds.
    below = (compare.op_type in _BELOW) != turned
    return value, number, below == (value is yes)
