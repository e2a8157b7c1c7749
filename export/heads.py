"""What closes a classifier's head: which tensor an output's probabilities are made of, and how.

Read from the graph alone, backwards from a tensor: a Softmax, LogSoftmax or Sigmoid (written out
too), the mean, sum or product of several, logarithms, scalings and clippings of them, classes
picked out of them, and what only renames, reshapes or casts on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from . import traits
from .emit import dim_of
from .rules.op import Op, constant

__all__ = ["Reading", "read"]

# What only renames, reshapes or casts; all but the first input are shapes, axes and scales.
LAYOUT = traits.SAME | traits.RESHAPES | traits.QUANTIZES | {"Expand", "Transpose"}
# What picks some of the classes, by numbers that the file holds.
PICKING = frozenset("Slice Gather Split".split())
# A graph is read back so many nodes deep: heads are short, and files may be hostile.
_DEEPEST = 48
# A bound or an addend up to here keeps a logarithm finite, and changes no probability.
_SMALL = 1e-3


@dataclass(frozen=True)
class Reading:
    """A tensor of probabilities: of its values v, or exp(v) where `log`, the part 1 / scale.

    kind: "Softmax", where one operator made the rows of it; "Sigmoid", where one operator gave
        each class its own probability; "Mixture": what several made together, or what was divided
        by its own sum.
    before: the best tensor before it that ranks the classes alike. logits: whether that is free
        of any bound; else it is a probability itself.
    alone: whether the probabilities follow from `before` and `kind`; else from the tensor alone
        (some classes of it were left out, or it was clipped).
    each: whether every class has its own probability, so that one class alone is one of two.
    behind: the nodes after the one that closes it that move or pick classes, in order.
    axis: of the classes in `before`, where the operator that closes it says so.
    pair: of two classes p and 1 - p that one Sigmoid gives, the column of p; None of all else.
    """

    kind: str
    before: ir.Value
    logits: bool = True
    log: bool = False
    scale: float = 1.0
    alone: bool = True
    each: bool = False
    closer: ir.Node | None = None
    behind: tuple[ir.Node, ...] = ()
    axis: int | None = None
    pair: int | None = None


def read(value: ir.Value) -> Reading | None:
    """How a tensor's probabilities are made; None where it isn't known to hold any."""
    found = _Reader().read(value, _DEEPEST)
    return None if found is not None and _over_images(found) else found


def _over_images(found: Reading) -> bool:
    """Whether a Softmax goes over the images of a batch: over a first axis that stays first."""
    shape = found.before.shape
    if found.axis != 0 or shape is None or all(dim_of(shape, i) == 1 for i in range(1, len(shape))):
        return False
    moved = next((n for n in found.behind if n.op_type not in ("Identity", "Cast")), None)
    perm = () if moved is None else moved.attributes.get_ints("perm", ())
    turned = moved is not None and moved.op_type == "Transpose" and (not perm or perm[0] != 0)
    return not turned


class _Reader:
    """One walk back: a tensor that several paths lead to is read once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Reading | None] = {}

    def read(self, value: ir.Value | None, deep: int) -> Reading | None:
        node = None if value is None else value.producer()
        if value is None or node is None or deep == 0:
            return None
        if value not in self._known:
            self._known[value] = self._of(node, value, deep - 1)
        return self._known[value]

    def _of(self, node: ir.Node, value: ir.Value, deep: int) -> Reading | None:
        kind = node.op_type
        if node.domain == "com.microsoft" and kind in ("QLinearSoftmax", "QLinearSigmoid"):
            name = kind.removeprefix("QLinear")
            return Reading(name, value, closer=node, each=name == "Sigmoid")
        source = node.inputs[0] if node.inputs else None
        if node.domain not in ("", "ai.onnx") or source is None:
            return None
        closed = _closed(node, source)
        if closed is not None:
            return closed
        if kind in LAYOUT:
            found = self.read(source, deep)
            return None if found is None else replace(found, behind=(*found.behind, node))
        if kind in PICKING:
            found = self.read(source, deep)
            if found is None or found.pair is not None:
                return None
            return replace(found, alone=found.kind == "Sigmoid" and found.alone,
                           behind=(*found.behind, node))  # fmt: skip
        if kind in ("Log", "Exp", "Clip", "Sqrt", "Pow", "Reciprocal"):
            return self._unary(node, source, value, deep)
        if kind == "Concat":
            pair = self._pair(node, deep)
            if pair is not None:
                return pair
        if kind in ("Mul", "Div", "Add", "Sub"):
            scaled = self._scaled(node, value, deep)
            if scaled is not None:
                return scaled
        if kind == "Div":
            return self._normalised(node, source, value, deep)
        if kind in ("ReduceMean", "ReduceSum"):
            return self._reduced(node, source, value, deep)
        if kind in ("Add", "Sum", "Mean", "Mul", "Max", "Min", "Concat"):
            return self._several(node, value, deep)
        return None

    def _unary(self, node: ir.Node, source: ir.Value, value: ir.Value, deep: int) -> Reading | None:
        kind = node.op_type
        if kind == "Reciprocal":  # 1 / (1 + exp(-z))
            return _written_sigmoid(source)
        found = self.read(source, deep)
        if found is None:
            return None
        if kind == "Log" and not found.log:
            # Of what is a probability itself, the logarithm is the better score: unbounded.
            made = replace(found, log=True)
            return made if found.logits else replace(made, before=value, behind=())
        if kind == "Exp" and found.log:
            return replace(found, log=False)
        if kind == "Clip":
            return replace(found, alone=found.alone and _barely_clips(node, found))
        power = 0.5 if kind == "Sqrt" else _scalar(node.inputs[1] if kind == "Pow" else None)
        if power is not None and power > 0 and not found.log and kind in ("Sqrt", "Pow"):
            return replace(
                found, kind="Mixture", scale=found.scale**power, alone=False, each=False, pair=None
            )
        return None

    def _scaled(self, node: ir.Node, value: ir.Value, deep: int) -> Reading | None:
        """What a number multiplies, divides or is added to."""
        a, b = node.inputs[0], node.inputs[1]
        kind = node.op_type
        number, moving = _scalar(b), a
        if number is None and kind in ("Mul", "Add"):
            number, moving = _scalar(a), b
        if number is None:
            return _written_sigmoid(b) if kind == "Div" and _scalar(a) == 1 else None
        found = self.read(moving, deep)
        if found is None:
            return None
        if kind in ("Add", "Sub"):
            return found if abs(number) <= _SMALL * found.scale and not found.log else None
        if number <= 0 or found.log:
            return None
        factor = number if kind == "Mul" else 1 / number
        made = replace(found, scale=found.scale * factor)
        return made if found.logits else replace(made, before=value, behind=())

    def _normalised(
        self, node: ir.Node, source: ir.Value, value: ir.Value, deep: int
    ) -> Reading | None:
        """What is divided by its own sum: a Softmax written out, or other weights."""
        if not _own_sum(node.inputs[1], source):
            return None
        made = source.producer()
        if made is not None and made.op_type == "Exp" and made.inputs[0] is not None:
            found = self.read(made.inputs[0], deep)
            if found is None or not found.log:
                scores = _unshifted(made.inputs[0])
                return Reading("Softmax", scores, closer=node)
        found = self.read(source, deep)
        if found is not None and not found.log:
            made_of = replace(found, kind="Mixture", scale=1.0, alone=False, each=False, pair=None)
            return made_of if found.logits else replace(made_of, before=value, behind=())
        negative = made is None or not (
            made.op_type in traits.NEVER_NEGATIVE
            or (made.op_type == "Mul" and made.inputs[0] is made.inputs[1])
            or (made.op_type == "Pow" and (_scalar(made.inputs[1]) or 1) % 2 == 0)
        )
        return None if negative else Reading("Mixture", source, alone=False, closer=node)

    def _reduced(
        self, node: ir.Node, source: ir.Value, value: ir.Value, deep: int
    ) -> Reading | None:
        """The mean or sum over members that were stacked, or over positions."""
        found = self.read(source, deep)
        if found is None:
            return None
        made = replace(
            found, kind="Mixture", before=value, logits=False, alone=False, behind=(), pair=None
        )
        if node.op_type == "ReduceMean":
            return made
        axes = _axes(node)
        if found.log or source.shape is None or axes is None:
            return None
        rank = len(source.shape)
        dims = [dim_of(source.shape, a % rank) for a in axes if -rank <= a < rank]
        if len(dims) != len(axes) or not all(isinstance(d, int) for d in dims):
            return None
        count = float(np.prod([d for d in dims if isinstance(d, int)]))
        return replace(made, scale=found.scale * count)

    def _pair(self, node: ir.Node, deep: int) -> Reading | None:
        """p and 1 - p beside each other, in either order, of one Sigmoid's p."""
        axis = node.attributes.get_int("axis", 0)
        shapes = [v.shape for v in node.inputs if v is not None]
        if len(node.inputs) != 2 or any(s is None or not -len(s) <= axis < len(s) for s in shapes):
            return None
        if any(s is None or dim_of(s, axis % len(s)) != 1 or axis % len(s) == 0 for s in shapes):
            return None
        for column in (1, 0):
            own, other = node.inputs[column], node.inputs[1 - column]
            found = self.read(own, deep)
            if found is None or found.kind != "Sigmoid" or found.log or not found.alone:
                continue
            if found.scale == 1 and found.pair is None and self._rest(found, own, other, deep):
                return replace(found, pair=column, behind=())
        return None

    def _rest(
        self, found: Reading, own: ir.Value | None, other: ir.Value | None, deep: int
    ) -> bool:
        """Whether `other` is 1 - p, of p in `own`: written so, or the Sigmoid of -z."""
        own = _core(own)
        rest = _core(other)
        made = None if rest is None else rest.producer()
        if made is None:
            return False
        a, b = (made.inputs[0], made.inputs[1]) if len(made.inputs) == 2 else (None, None)
        if made.op_type == "Sub":
            return _scalar(a) == 1 and _core(b) is own
        if made.op_type == "Add":
            pairs = ((a, b), (b, a))
            return any(_scalar(x) == 1 and _core(_negated(_core(y))) is own for x, y in pairs)
        of = self.read(other, deep)
        if of is None or of.kind != "Sigmoid" or of.log or of.scale != 1:
            return False
        z, minus = _core(found.before), _core(of.before)
        # Class 1 is the one that isn't the negation: of two Sigmoids either may be p.
        return _core(_negated(minus)) is z and z is not None

    def _several(self, node: ir.Node, value: ir.Value, deep: int) -> Reading | None:
        """The members of an ensemble, or heads beside each other."""
        parts = [self.read(v, deep) for v in node.inputs]
        known = [p for p in parts if p is not None]
        if len(known) < len(parts) or len({p.log for p in known}) > 1:
            return None
        if len(known) == 1:  # a Sum or Concat of one
            return known[0]
        scales = [p.scale for p in known]
        kind, log = node.op_type, known[0].log
        if kind in ("Max", "Min", "Concat"):
            if len(set(scales)) > 1:
                return None
            scale = scales[0]
        elif kind == "Mean":
            scale = float(np.exp(np.mean(np.log(scales))) if log else np.mean(scales))
        elif kind in ("Add", "Sum"):
            scale = float(np.prod(scales) if log else np.sum(scales))
        else:
            if log:
                return None
            scale = float(np.prod(scales))
        each = all(p.each for p in known) and kind != "Concat"
        return Reading("Mixture", value, logits=False, log=log, scale=scale, alone=False, each=each)


def _core(value: ir.Value | None) -> ir.Value | None:
    """A tensor before what only renames, reshapes or casts it."""
    for _ in range(_DEEPEST):
        node = None if value is None else value.producer()
        if node is None or node.op_type not in LAYOUT or node.domain not in ("", "ai.onnx"):
            return value
        value = node.inputs[0]
    return value


def _negated(value: ir.Value | None) -> ir.Value | None:
    """x where a value is -x; else None."""
    node = None if value is None else value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Neg":
        return node.inputs[0]
    if node.op_type == "Mul":
        for number, other in (node.inputs, node.inputs[::-1]):
            if _scalar(number) == -1:
                return other
    if node.op_type == "Sub" and _scalar(node.inputs[0]) == 0:
        return node.inputs[1]
    return None


def _closed(node: ir.Node, source: ir.Value) -> Reading | None:
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
    if kind == "Sub" and _log_sum(node.inputs[1], source):
        return Reading("Softmax", _unshifted(source), log=True, closer=node)
    return None


def _written_sigmoid(value: ir.Value | None) -> Reading | None:
    """1 / value, where value is 1 + exp(-z)."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Add":
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        exp = None if other is None else other.producer()
        neg = None if exp is None or exp.inputs[0] is None else exp.inputs[0].producer()
        if (
            _scalar(one) == 1
            and exp is not None
            and exp.op_type == "Exp"
            and neg is not None
            and neg.op_type == "Neg"
            and neg.inputs[0] is not None
        ):
            return Reading("Sigmoid", neg.inputs[0], closer=node, each=True)
    return None


def _unshifted(value: ir.Value) -> ir.Value:
    """Scores without the largest subtracted, which changes no Softmax."""
    node = value.producer()
    if node is not None and node.op_type == "Sub" and node.inputs[0] is not None:
        largest = _behind(node.inputs[1], lambda n: n.op_type == "ReduceMax")
        if largest is not None and largest.inputs[0] is node.inputs[0]:
            return node.inputs[0]
    return value


def _own_sum(value: ir.Value | None, of: ir.Value) -> bool:
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
            abs(_scalar(v) or 0) <= _SMALL for v in node.inputs[1:2]
        )
        if node.op_type not in LAYOUT and not (small and len(node.inputs) > 1):
            return None
        value = node.inputs[0]
    return None


def _scalar(value: ir.Value | None) -> float | None:
    """A constant of one element as a number."""
    array = constant(value)
    if array is None or array.size != 1 or array.dtype.kind not in "fiu":
        return None
    number = float(array.reshape(()))
    return number if np.isfinite(number) else None


def _axes(node: ir.Node) -> Sequence[int] | None:
    """The axes of a reduction; None where they aren't constant."""
    given = node.attributes.get_ints("axes", ())
    if given or len(node.inputs) < 2:
        return given or None
    array = constant(node.inputs[1])
    return None if array is None else [int(a) for a in array.reshape(-1)]


def _barely_clips(node: ir.Node, found: Reading) -> bool:
    """Whether a Clip's bounds only keep probabilities off 0 and 1."""
    op = Op(node, ())
    low, high = (
        _scalar(op.input(i)) if op.input(i) is not None else end
        for i, end in ((1, -np.inf), (2, np.inf))
    )
    if low is None or high is None:
        return False
    if found.log:
        return high >= -_SMALL and low <= np.log(_SMALL)
    return low <= _SMALL * found.scale and high >= (1 - _SMALL) * found.scale
