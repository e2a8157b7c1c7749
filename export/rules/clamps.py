"""What is max(x, 0), or min(max(x, 0), 6), however an exporter spells it.

    Relu(x)   Clip(x, 0)   Max(x, 0)   Where(x > 0, x, 0)   Where(x <= 0, 0, x)   x * Cast(x > 0)
    LeakyRelu, PRelu, ThresholdedRelu of 0          (x + Abs(x)) / 2          x - Min(x, 0)
    x[x < 0] = 0: ScatterND(x, Transpose(NonZero(x < 0)), 0)
    Min(Max(x, 0), 6)   Max(Min(x, 6), 0)   Min(Relu(x), 6)   Clip(Relu(x), , 6)   ...

in either order of operands, with zeros as a number, a map of them, or made to x's shape in the run,
and with QuantizeLinear and DequantizeLinear between any two of these nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .. import traits
from ..emit import EMITTED
from .op import constant

__all__ = ["Clamp", "clamp", "is_clipped", "rectifies", "uniform"]

_ABOVE = frozenset(("Greater", "GreaterOrEqual"))
_BELOW = frozenset(("Less", "LessOrEqual"))
# What makes no other number of one that is the same everywhere, of its first input.
_REPEATS = traits.SAME | traits.RESHAPES | {"Expand", "Slice", "Tile", "Transpose"}
# Not a Cast: a whole number's bounds are others.
_BETWEEN = traits.QUANTIZES | {"Dropout", "Identity"}
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


def _where(node: ir.Node) -> Clamp | None:
    """Where(x > c, x, c) and its mirror images."""
    tested = _tested(node.inputs[0])
    if tested is None:
        return None
    value, bound, above = tested
    for index, other in ((1, 2), (2, 1)):
        if not _same(node.inputs[index], value) or uniform(node.inputs[other]) != bound:
            continue
        # x stays above the bound: where the test holds, or where it doesn't.
        stays_above = above == (index == 1)
        return Clamp(node, index, bound) if stays_above else Clamp(node, index, high=bound)
    return None


def _gated(node: ir.Node) -> Clamp | None:
    """x * [x > 0], the test as a number."""
    for index, other in ((0, 1), (1, 0)):
        tested = _as_number(node.inputs[other])
        if tested is None:
            continue
        value, bound, above = tested
        if bound == 0 and _same(node.inputs[index], value):
            return Clamp(node, index, low=0.0) if above else Clamp(node, index, high=0.0)
    return None


def _doubled(node: ir.Node) -> Clamp | None:
    """x + |x|: twice max(x, 0)."""
    for index, other in ((0, 1), (1, 0)):
        value = node.inputs[other]
        made = None if value is None else value.producer()
        absolute = made is not None and made.op_type == "Abs" and made.domain == ""
        if absolute and _same(made.inputs[0], node.inputs[index]):  # type: ignore[union-attr]
            return Clamp(node, index, low=0.0)
    return None


def _without_negative(node: ir.Node) -> Clamp | None:
    """x - min(x, 0)."""
    value = node.inputs[1]
    lesser = None if value is None else clamp(value.producer())
    if lesser is None or lesser.low is not None or lesser.high != 0:
        return None
    return Clamp(node, 0, low=0.0) if _same(lesser.x, node.inputs[0]) else None


def _assigned(node: ir.Node) -> Clamp | None:
    """x[x < c] = c, by the places where the test holds."""
    if node.attributes.get_string("reduction", "none") != "none":
        return None
    places = None if node.inputs[1] is None else node.inputs[1].producer()
    while places is not None and places.op_type in ("Identity", "Cast") and places.inputs[0]:
        places = places.inputs[0].producer()
    if places is None or places.op_type != "Transpose" or places.inputs[0] is None:
        return None
    turned = tuple(places.attributes.get_ints("perm", (1, 0))) == (1, 0)
    found = places.inputs[0].producer()
    if not turned or found is None or found.op_type != "NonZero" or found.domain:
        return None
    tested = _tested(found.inputs[0])
    if tested is None or not _same(node.inputs[0], tested[0]):
        return None
    _, bound, above = tested
    if uniform(node.inputs[2]) != bound:
        return None
    return Clamp(node, 0, high=bound) if above else Clamp(node, 0, low=bound)


def _sloped(node: ir.Node) -> Clamp | None:
    if node.op_type == "PRelu":
        slope = uniform(node.inputs[1])
    else:
        slope = node.attributes.get_float("alpha", 0.01 if node.op_type == "LeakyRelu" else 1.0)
    return Clamp(node, 0, low=0.0) if slope == 0 else None


_KINDS = {
    "Add": _doubled,
    "Clip": _clip,
    "LeakyRelu": _sloped,
    "Max": _extremum,
    "Min": _extremum,
    "Mul": _gated,
    "PRelu": _sloped,
    "Relu": _relu,
    "ScatterND": _assigned,
    "Sub": _without_negative,
    "ThresholdedRelu": _sloped,
    "Where": _where,
}


def _tested(value: ir.Value | None) -> tuple[ir.Value, float, bool] | None:
    """A condition that compares a tensor with a number: (tensor, number, whether it says above)."""
    flipped = False
    for _ in range(_DEPTH):
        node = None if value is None else value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in ("Not", "Identity", "Cast", "Expand"):
            flipped ^= node.op_type == "Not"
            value = node.inputs[0]
            continue
        if node.op_type not in _ABOVE | _BELOW:
            return None
        above = node.op_type in _ABOVE
        for index, other in ((0, 1), (1, 0)):
            tensor, bound = node.inputs[index], uniform(node.inputs[other])
            if tensor is not None and bound is not None:
                return tensor, bound, above ^ flipped ^ (index == 1)
        return None
    return None


def _as_number(value: ir.Value | None) -> tuple[ir.Value, float, bool] | None:
    """The same of a condition as 1 and 0: by a Cast, or by a Where between the two."""
    for _ in range(_DEPTH):
        node = None if value is None else value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Where":
            found = _tested(node.inputs[0])
            ends = uniform(node.inputs[1]), uniform(node.inputs[2])
            if found is None or ends not in ((1, 0), (0, 1)):
                return None
            return found[0], found[1], found[2] == (ends == (1, 0))
        if node.op_type in ("Cast", "CastLike"):
            source = node.inputs[0]
            if source is not None and source.dtype == ir.DataType.BOOL:
                return _tested(source)
            value = source
        elif node.op_type in _BETWEEN:
            value = node.inputs[0]
        else:
            return None
    return None


def _same(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether two values are one tensor: quantizers write a DequantizeLinear per reader."""
    if a is None or b is None:
        return False
    if a is b:
        return True
    first, second = a.producer(), b.producer()
    for node, other in ((first, b), (second, a)):
        if node is not None and node.op_type == "Identity":
            return _same(node.inputs[0], other)
    if first is None or second is None or first.op_type != second.op_type:
        return False
    if first.op_type not in ("DequantizeLinear", "QuantizeLinear"):
        return False
    pairs = zip(first.inputs[1:], second.inputs[1:], strict=False)
    alike = all(p is q or (uniform(p) is not None and uniform(p) == uniform(q)) for p, q in pairs)
    return alike and _same(first.inputs[0], second.inputs[0])


def _before(found: Clamp) -> ir.Value:
    """What a clamp reads, before the nodes that only pass it on."""
    value = found.x
    for _ in range(_DEPTH):
        node = value.producer()
        source = node.inputs[0] if node is not None and node.inputs else None
        if node is None or source is None or node.op_type not in _BETWEEN:
            break
        value = source
    return value


def _readers(value: ir.Value, depth: int = _DEPTH) -> Iterator[ir.Node]:
    """The model's nodes that compute with a value, behind those that only pass it on."""
    for use in value.uses():
        if EMITTED in use.node.meta:
            continue
        if use.node.op_type in _BETWEEN and use.idx == 0 and depth:
            yield from _readers(use.node.outputs[0], depth - 1)
        else:
            yield use.node


def _chain(found: Clamp) -> list[Clamp]:
    """A clamp with those right before and right behind it, in order."""
    chain = [found]
    while len(chain) < _DEPTH:
        earlier = clamp(_before(chain[0]).producer())
        if earlier is None:
            break
        chain.insert(0, earlier)
    while len(chain) < 2 * _DEPTH:
        made = chain[-1].node.outputs[0]
        readers = [n for n in _readers(made) if n.op_type not in _ABOVE | _BELOW | {"Shape"}]
        later = clamp(readers[0]) if len(readers) == 1 else None
        if later is None or later.node.op_type == "Add" or made.is_graph_output():
            break
        chain.append(later)
    return chain


def rectifies(node: ir.Node) -> bool:
    """Whether a node is a rectifier or part of one: what is below 0 is held back, here or right
    before or behind it, and what is above some bound may be.

    Not where exporters write HardSigmoid: Clip(x + 3, 0, 6) / 6 is a gate, as is
    Clip(0.2 x + 0.5, 0, 1).
    """
    found = clamp(node)
    if found is None:
        return False
    chain = _chain(found)
    lows = [c.low for c in chain if c.low is not None]
    highs = [c.high for c in chain if c.high is not None]
    if not lows or max(lows) != 0 or min(highs, default=1.0) <= 0:
        return False
    return not _is_hard_sigmoid(chain, min(highs, default=None))


def _is_hard_sigmoid(chain: list[Clamp], high: float | None) -> bool:
    before = _before(chain[0]).producer()
    if before is None or before.op_type != "Add" or high not in (1.0, 6.0):
        return False
    added = [uniform(v) for v in before.inputs]
    if high == 1.0:
        scaled = [None if v is None else v.producer() for v in before.inputs]
        return 0.5 in added and any(n is not None and n.op_type in ("Div", "Mul") for n in scaled)
    readers = _readers(chain[-1].node.outputs[0])
    return 3.0 in added and any(n.op_type in ("Div", "Mul") for n in readers)


def is_clipped(node: ir.Node) -> bool:
    """Whether a node is a Clip, the operator, that is no rectifier."""
    if node.op_type != "Clip" or node.domain not in ("", "ai.onnx") or rectifies(node):
        return False
    # x - Clip(x, , 0) rectifies, and this is a part of it.
    return not any(
        use.idx == 1 and use.node.op_type == "Sub" and rectifies(use.node)
        for use in node.outputs[0].uses()
    )
