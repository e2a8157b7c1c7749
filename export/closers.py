"""What closes a head: one Softmax, LogSoftmax or Sigmoid, or what writes it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from . import traits
from .rules.op import Op, constant, first_input
from .tried import Closed, Routes

__all__ = [
    "INSIDE",
    "LAYOUT",
    "SMALL",
    "UNBOUND",
    "Reading",
    "barely_clips",
    "bounds_of",
    "closed",
    "closes",
    "closes_itself",
    "own_sum",
    "scalar",
    "within_ones",
    "written",
]

# What only renames, reshapes or casts; all but the first input are shapes, axes and scales.
LAYOUT = traits.SAME | traits.RESHAPES | traits.QUANTIZES | {"Expand", "Transpose"}
# A bound or an addend up to here keeps a logarithm finite, and changes no probability.
SMALL = 1e-3
# So many tensors before one are looked at.
_NEAR = 32
_CLOSERS = frozenset("HardSigmoid LogSoftmax Sigmoid Softmax".split())
# What is inside of a Softmax, a Sigmoid or the like written out, each value by itself.
INSIDE = frozenset("Erf Exp Softplus Softsign Tanh".split())
# What of it says nothing of a probability alone: it has no bound.
UNBOUND = frozenset("Exp Pow Softplus".split())


@dataclass(frozen=True)
class Reading:
    """A tensor of probabilities: of its values v, or exp(v / by) where `log`, the part 1 / scale;
    the Sigmoid of v / by where `odds`, too.

    kind: "Softmax", where one operator made the rows of it; "Sigmoid", where one operator gave
        each class its own probability; "Mixture": what several made together, or what was divided
        by its own sum; "Share" and "Score": see the module.
    before: the best tensor before it that ranks the classes alike. logits: whether that is free
        of any bound; else it is a probability itself.
    alone: whether the probabilities follow from `before` and `kind`; else from the tensor alone
        (some classes of it were left out, or it was clipped).
    odds: whether the logarithm is that of p / (1 - p), not of p.
    by: a logarithm's factor: -1 for -log p, 1.44 for log2 p; below 0 the least value is the top.
    each: whether every class has its own probability, so that one class alone is one of two.
    behind: the nodes after the one that closes it that move or pick classes, in order.
    axis: of the classes in `before`, where the operator that closes it says so.
    routes: which value of `before` each class rises or falls with, where that isn't its own;
        nothing is `behind` then.
    ranks: whether the top class of `before`, by the routes, is the tensor's own.
    """

    kind: str
    before: ir.Value
    logits: bool = True
    log: bool = False
    odds: bool = False
    by: float = 1.0
    scale: float = 1.0
    alone: bool = True
    each: bool = False
    closer: ir.Node | None = None
    behind: tuple[ir.Node, ...] = ()
    axis: int | None = None
    routes: Routes | None = None
    ranks: bool = True

    @property
    def pair(self) -> int | None:
        """Of two classes p and 1 - p that one value makes, the column of p; None of all else."""
        return None if self.routes is None else self.routes.pair


def closes(value: ir.Value) -> Closed | None:
    """What a tensor is closed by, for `tried`; what is inside of a closing operator, too."""
    node = value.producer()
    source = None if node is None else first_input(node)
    if node is None or source is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in INSIDE or (_clips(node) and _is_first(source)):
        return Closed(source, alone=True)
    power = node.inputs[1] if node.op_type == "Pow" else None
    if power is not None and (scalar(source) or 0) > 0 and _is_first(power):
        return Closed(power, alone=True)
    return closes_itself(value)


def closes_itself(value: ir.Value) -> Closed | None:
    """As `closes`, by an operator that closes a head alone, or what writes it out."""
    node = value.producer()
    source = None if node is None else first_input(node)
    if node is None or source is None or node.domain not in ("", "ai.onnx"):
        return None
    found = closed(node, source)
    if found is None and node.op_type in ("Div", "Reciprocal"):
        found = written(node, source)
    return None if found is None else Closed(found.before, found.each)


def _clips(node: ir.Node) -> bool:
    """Whether a node keeps scores within bounds, as a Sigmoid of straight lines does."""
    low, high = bounds_of(node) if node.op_type == "Clip" else (None, None)
    return low is not None and high is not None and bool(np.isfinite([low, high]).all())


def _is_first(source: ir.Value) -> bool:
    """Whether nothing closed the head before, up to its last layer."""
    waiting, seen = [source], {source}
    while waiting:
        before = waiting.pop().producer()
        if before is None or before.op_type in traits.CONTRACTS or len(seen) > _NEAR:
            continue
        if before.op_type in INSIDE | _CLOSERS:
            return False
        new = [v for v in before.inputs if v is not None and v not in seen]
        seen.update(new)
        waiting += new
    return True


def within_ones(value: ir.Value) -> ir.Node | None:
    """What a head ends in that holds each score between -1 and 1."""
    for _ in range(_NEAR):
        node = value.producer()
        source = None if node is None else first_input(node)
        if node is None or node.domain not in ("", "ai.onnx") or source is None:
            return None
        if node.op_type not in LAYOUT:
            return node if node.op_type in ("Erf", "Softsign", "Tanh") else None
        value = source
    return None


def bounds_of(node: ir.Node) -> tuple[float | None, float | None]:
    """A Clip's bounds; None for what isn't constant."""
    op = Op(node, ())
    low, high = (
        scalar(op.input(i)) if op.input(i) is not None else end
        for i, end in ((1, -np.inf), (2, np.inf))
    )
    return low, high


def barely_clips(bounds: tuple[float | None, float | None], found: Reading) -> bool:
    """Whether a Clip's bounds only keep probabilities off 0 and 1."""
    low, high = bounds
    if low is None or high is None:
        return False
    if found.log:
        low, high = sorted((low / found.by, high / found.by))
        low_enough = low <= float(np.log(SMALL))
        return low_enough and high >= (-float(np.log(SMALL)) if found.odds else -SMALL)
    return low <= SMALL * found.scale and high >= (1 - SMALL) * found.scale


def closed(node: ir.Node, source: ir.Value) -> Reading | None:
    """What Softmax, LogSoftmax or Sigmoid makes, or their logarithm written out."""
    kind = node.op_type
    if kind in ("Softmax", "LogSoftmax"):
        axis = node.attributes.get_int("axis", -1)
        shape = source.shape
        if shape is not None and -len(shape) <= axis < len(shape):
            axis %= len(shape)
        return Reading(
            "Softmax", source, log=kind == "LogSoftmax", closer=node,
            axis=axis if axis >= 0 else None,
        )  # fmt: skip
    if kind == "Sigmoid":
        return Reading("Sigmoid", source, closer=node, each=True)
    if kind == "HardSigmoid":
        return Reading("Mixture", source, closer=node, each=True, alone=False)
    if kind == "Sub" and _log_sum(node.inputs[1], source):
        return Reading("Softmax", _unshifted(source), log=True, closer=node)
    return None


def written(node: ir.Node, source: ir.Value) -> Reading | None:
    """A Softmax or Sigmoid that a Div or Reciprocal writes out."""
    if node.op_type == "Reciprocal":
        return _written_sigmoid(source)
    if scalar(source) == 1:
        return _written_sigmoid(node.inputs[1])
    made = source.producer()
    if made is None or made.op_type != "Exp" or made.inputs[0] is None:
        return None
    if node.op_type == "Div" and not own_sum(node.inputs[1], source):
        return None
    return Reading("Softmax", _unshifted(made.inputs[0]), closer=node)


def _written_sigmoid(value: ir.Value | None) -> Reading | None:
    """1 / value, where value is 1 + exp(-z)."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Add":
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        exp = None if other is None else other.producer()
        power = None if exp is None or exp.op_type != "Exp" else first_input(exp)
        neg = None if power is None else power.producer()
        score = None if neg is None or neg.op_type != "Neg" else first_input(neg)
        if scalar(one) == 1 and score is not None:
            return Reading("Sigmoid", score, closer=node, each=True)
    return None


def _unshifted(value: ir.Value) -> ir.Value:
    """Scores without the largest subtracted, which changes no Softmax."""
    node = value.producer()
    if node is not None and node.op_type == "Sub" and node.inputs[0] is not None:
        largest = _behind(node.inputs[1], lambda n: n.op_type == "ReduceMax")
        if largest is not None and largest.inputs[0] is node.inputs[0]:
            return node.inputs[0]
    return value


def own_sum(value: ir.Value | None, of: ir.Value) -> bool:
    """Whether a value is the sum of `of` over an axis, kept away from 0 perhaps."""
    made = _behind(value, lambda n: n.op_type in ("ReduceSum", "ReduceL1"))
    return made is not None and made.inputs[0] is of


def _log_sum(value: ir.Value | None, of: ir.Value) -> bool:
    """Whether a value is log(sum(exp(of)))."""
    whole = _behind(value, lambda n: n.op_type in ("ReduceLogSumExp", "Log"))
    if whole is None or whole.op_type == "ReduceLogSumExp":
        return whole is not None and whole.inputs[0] is of
    total = _behind(whole.inputs[0], lambda n: n.op_type == "ReduceSum")
    exp = None if total is None or total.inputs[0] is None else total.inputs[0].producer()
    return exp is not None and exp.op_type == "Exp" and exp.inputs[0] is of


def _behind(value: ir.Value | None, wanted: Callable[[ir.Node], bool]) -> ir.Node | None:
    """The wanted node that makes a value, through what keeps it or only adds a small number."""
    for _ in range(8):
        node = None if value is None else value.producer()
        if node is None or wanted(node):
            return node
        small = node.op_type in ("Add", "Max", "Clip") and all(
            abs(scalar(v) or 0) <= SMALL for v in node.inputs[1:2]
        )
        if node.op_type not in LAYOUT and not (small and len(node.inputs) > 1):
            return None
        value = first_input(node)
    return None


def scalar(value: ir.Value | None) -> float | None:
    """A constant of one element as a number."""
    array = constant(value)
    if array is None or array.size != 1 or array.dtype.kind not in "fiu":
        return None
    number = float(array.reshape(()))
    return number if np.isfinite(number) else None
