"""Operators that are max(x, 0), or min(max(x, 0), 6), alone or one behind the other.

    Relu(x)   Clip(x, 0)   Max(x, 0)   LeakyRelu, PRelu, ThresholdedRelu of 0
    Min(Max(x, 0), 6)   Max(Min(x, 6), 0)   Min(Relu(x), 6)   Clip(Relu(x), , 6)   ...

in either order of operands, with zeros as a number, a map of them, or made to x's shape in the run,
and between any two of these nodes QuantizeLinear and DequantizeLinear, Casts from float to float
(mixed precision) and other shapes of the same numbers. What other operators spell together: see
`spelled.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .. import traits
from ..emit import EMITTED
from .op import constant, first_input
from .roots import is_norm

__all__ = ["Clamp", "clamp", "is_clipped", "is_gate", "readers_of", "rectifies", "uniform"]

# What makes no other number of one that is the same everywhere, of its first input.
_REPEATS = traits.SAME | traits.RESHAPES | {"Expand", "Slice", "Tile", "Transpose"}
# Of one operand.
_KEEPS_SIGN = (traits.REDUCES & traits.KEEPS_SIGN) | _REPEATS
_BETWEEN = traits.QUANTIZES | traits.RESHAPES | {"Dropout", "Identity", "Transpose"}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
# Longer chains are no one's spelling of a rectifier.
_DEPTH = 12


@dataclass(frozen=True)
class Clamp:
    """A node that holds back what is below `low` or above `high` (None: nothing), element by
    element: of its input number `index`, all others being constants or made of that one."""

    node: ir.Node
    index: int
    low: float | None = None
    high: float | None = None

    @property
    def x(self) -> ir.Value:
        """What is held back."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value


def uniform(value: ir.Value | None, depth: int = _DEPTH) -> float | None:
    """The number that all elements of a tensor are, as far as the graph says; else None."""
    if value is None or depth == 0:
        return None
    known = constant(value)
    if known is not None:
        if known.size == 0 or known.dtype.kind not in "biufV":  # V: bfloat16 and the like
            return None
        first = known.reshape(-1)[0]
        return float(first) if bool((known == first).all()) else None
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    if node.op_type in _REPEATS:
        return uniform(node.inputs[0], depth - 1)
    if node.op_type == "ConstantOfShape":
        filled = node.attributes.get_tensor("value")
        return 0.0 if filled is None else float(filled.numpy().reshape(-1)[0])
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    number, scale, *zeros = (uniform(v, depth - 1) for v in node.inputs[:3])
    zero = zeros[0] if zeros else 0.0
    if number is None or scale is None or zero is None or scale == 0:
        return None
    if node.op_type == "DequantizeLinear":
        return (number - zero) * scale
    return float(np.rint(number / scale)) + zero


def clamp(node: ir.Node | None) -> Clamp | None:
    """What one node holds back; None for one that does anything else."""
    if node is None or node.domain not in ("", "ai.onnx") or not node.outputs:
        return None
    find = _KINDS.get(node.op_type)
    return None if find is None else find(node)


def _relu(node: ir.Node) -> Clamp | None:
    return Clamp(node, 0, low=0.0)


def _clip(node: ir.Node) -> Clamp | None:
    bounds: list[float | None] = []
    for index in (1, 2):
        given = node.inputs[index] if index < len(node.inputs) else None
        bounds.append(None if given is None else uniform(given))
        if given is not None and bounds[-1] is None:  # computed in the run
            return None
    return Clamp(node, 0, *bounds)


def _extremum(node: ir.Node) -> Clamp | None:
    """Max or Min of one tensor and constants."""
    numbers = [uniform(v) for v in node.inputs]
    tensors = [i for i, number in enumerate(numbers) if number is None]
    known = [number for number in numbers if number is not None]
    if len(tensors) != 1 or not known:
        return None
    if node.op_type == "Max":
        return Clamp(node, tensors[0], low=max(known))
    return Clamp(node, tensors[0], high=min(known))


def _sloped(node: ir.Node) -> Clamp | None:
    if node.op_type == "PRelu":
        slope = uniform(node.inputs[1])
    else:
        slope = node.attributes.get_float("alpha", 0.01 if node.op_type == "LeakyRelu" else 1.0)
    return Clamp(node, 0, low=0.0) if slope == 0 else None


_KINDS = {
    "Clip": _clip,
    "LeakyRelu": _sloped,
    "Max": _extremum,
    "Min": _extremum,
    "PRelu": _sloped,
    "Relu": _relu,
    "ThresholdedRelu": _sloped,
}


def _passes(node: ir.Node) -> bool:
    """Whether each number that a node gives is one of its first input's."""
    if node.op_type in ("Cast", "CastLike"):  # a whole number's bounds are others
        source = node.inputs[0]
        return source is not None and {source.dtype, node.outputs[0].dtype} <= {*_FLOATS}
    return node.op_type in _BETWEEN


def _before(value: ir.Value) -> ir.Value:
    """What a value was before the nodes that only pass it on."""
    for _ in range(_DEPTH):
        node = value.producer()
        source = None if node is None else first_input(node)
        if node is None or source is None or not _passes(node):
            break
        value = source
    return value


def _readers(value: ir.Value, depth: int = _DEPTH) -> Iterator[ir.Node]:
    """The model's nodes that compute with a value, behind those that only pass it on."""
    for use in value.uses():
        if EMITTED in use.node.meta:
            continue
        if use.idx == 0 and depth and _passes(use.node):
            yield from _readers(use.node.outputs[0], depth - 1)
        else:
            yield use.node


def readers_of(value: ir.Value) -> list[ir.Node]:
    """Those that a cotangent comes from."""
    return [n for n in _readers(value) if n.op_type not in traits.COMPARES | {"Shape"}]


def _chain(found: Clamp) -> list[Clamp]:
    """A clamp with those right before and right behind it, in order."""
    chain = [found]
    while len(chain) < _DEPTH:
        earlier = clamp(_before(chain[0].x).producer())
        if earlier is None:
            break
        chain.insert(0, earlier)
    while len(chain) < 2 * _DEPTH:
        made = chain[-1].node.outputs[0]
        readers = readers_of(made)
        later = clamp(readers[0]) if len(readers) == 1 else None
        if later is None or made.is_graph_output():
            break
        chain.append(later)
    return chain


def rectifies(node: ir.Node) -> bool:
    """Whether a node is a rectifier or part of one: what is below 0 is held back, here or right
    before or behind it, and what is above some bound may be.

    Not where exporters write HardSigmoid: Clip(x + 3, 0, 6) / 6 is a gate, as is
    Clip(0.2 x + 0.5, 0, 1). Nor where only a quotient is kept off 0: max(|x|, 0).
    """
    found = clamp(node)
    if found is None:
        return False
    chain = _chain(found)
    lows = [c.low for c in chain if c.low is not None]
    highs = [c.high for c in chain if c.high is not None]
    if not highs and _is_guard(chain[0]):
        return False
    # max(relu(x), 1e-6) has a rectifier inside; the bound above 0 is none.
    if not lows or (max(lows) != 0 and found.low != 0) or min(highs, default=1.0) <= 0:
        return False
    return not is_gate(chain[0].x, chain[-1].node.outputs[0], min(highs, default=None))


def _is_guard(first: Clamp) -> bool:
    """Whether a bound of 0, the only one, holds back nothing: below a norm, or what else is never
    negative and no rectifier's. It is what is left of a small one, by which a quotient is kept off
    0: F.normalize's 1e-12 is 0 in half."""
    before = _before(first.x)
    node = before.producer()
    for _ in range(_DEPTH):
        if node is None or node.op_type not in _KEEPS_SIGN or node.inputs[0] is None:
            break
        node = node.inputs[0].producer()
    if node is None or first.node.op_type == "Relu":
        return False
    return node.op_type in traits.NEVER_NEGATIVE - traits.RECTIFIES or is_norm(before)


def is_gate(x: ir.Value, y: ir.Value, high: float | None) -> bool:
    """Whether y, which is x between 0 and a bound, is part of a HardSigmoid that is written out."""
    before = _before(x).producer()
    if before is None or before.op_type != "Add" or high not in (1.0, 6.0):
        return False
    added = [uniform(v) for v in before.inputs]
    if high == 1.0:
        scaled = [None if v is None else v.producer() for v in before.inputs]
        return 0.5 in added and any(n is not None and n.op_type in ("Div", "Mul") for n in scaled)
    readers = _readers(y)
    return 3.0 in added and any(n.op_type in ("Div", "Mul") for n in readers)


def is_clipped(node: ir.Node) -> bool:
    """Whether a node is a Clip, the operator, that is no rectifier."""
    return node.op_type == "Clip" and node.domain in ("", "ai.onnx") and not rectifies(node)
