"""What closes a classifier's head: which tensor an output's probabilities are made of, and how.

Read from the graph, backwards from a tensor: a Softmax, LogSoftmax or Sigmoid (written out too),
the mean, sum or product of several, logarithms, scalings and clippings of them, classes picked out
of them, and what only renames, reshapes or casts on the way. What else a head does to probabilities
is found by trying it (`tried.py`).

What is shown as a probability is what the model says:
- what one Softmax or Sigmoid makes, moved or not, and what several make together, as long as it
  stays within 0..1 (by the graph, or tried): as it is, whether or not it adds up to 1;
- its exponential, where it is the logarithm of that, to whatever base, or less than 0 (-log p);
- its Sigmoid, where it is log(p / (1 - p));
- rows that always add up to a number above 1 (per cent, a sum of members): divided by that;
- what is made of Softmaxes and may go beyond 1 (a vector of class weights): as it is where a row
  stays within 0..1, else its parts of the row's sum ("Share");
- what is made of probabilities and may be negative (the difference of two), and what ends in a Tanh
  or the like, twice a Sigmoid less 1: no probability at all ("Score");
- all else: rows that happen to be a distribution as they are, other rows through a Softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from . import traits
from .closers import (
    LAYOUT,
    SMALL,
    Reading,
    barely_clips,
    bounds_of,
    closed,
    closes,
    closes_itself,
    own_sum,
    scalar,
    within_ones,
    written,
)
from .emit import dim_of
from .judged import count_of, in_order, judged, of_one
from .odds import held_within, odds
from .rules.op import constant, first_input
from .tried import Closed, source, tried

__all__ = ["Reading", "read"]

# What picks some of the classes, by numbers that the file holds.
PICKING = frozenset("Slice Gather Split".split())
# A graph is read back so many nodes deep: heads are short, and files may be hostile.
_DEEPEST = 48
# How often what a head does is tried, per head: for each tensor that nothing else is known of.
_TRIES = 8


def read(value: ir.Value) -> Reading | None:
    """How a tensor's probabilities are made; None where it isn't known to hold any."""
    found = _Reader(value).read(value, _DEEPEST)
    if found is None and (end := within_ones(value)) is not None:
        return Reading("Score", value, logits=False, alone=False, closer=end)
    if found is None or _over_images(found):
        return None
    if found.scale < 1 and not (found.each and count_of(value) == 1):
        # Within 0..1 as it is.
        return replace(found, scale=1.0, alone=False)
    if found.kind == "Softmax" and found.alone and _in_groups(found, value):
        return replace(found, alone=False)
    if found.kind == "Softmax" and found.alone and found.routes is None and count_of(value) == 2:
        return of_one(value, found) or found
    return found


def _in_groups(found: Reading, value: ir.Value) -> bool:
    """Whether a Softmax was taken over groups of classes, each by itself."""
    shape, row = found.before.shape, count_of(value)
    if shape is None or found.axis is None or row is None:
        return False
    over = dim_of(shape, found.axis) if found.axis < len(shape) else None
    return isinstance(over, int) and over != row and count_of(found.before) == row


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

    def __init__(self, last: ir.Value) -> None:
        self._known: dict[ir.Value, Reading | None] = {}
        self._last, self._tries = last, _TRIES

    def read(self, value: ir.Value | None, deep: int) -> Reading | None:
        node = None if value is None else value.producer()
        if value is None or node is None or deep == 0:
            return None
        if value not in self._known:
            found = self._of(node, value, deep - 1)
            self._known[value] = self._tried(value) if found is None else found
        return self._known[value]

    def _tried(self, value: ir.Value) -> Reading | None:
        """What trying says of a tensor that nothing else is known of."""
        if not self._tries or (value.shape is not None and len(value.shape) < 2):
            return None
        self._tries -= 1
        for by in (closes, closes_itself):
            found = tried(value, by)
            if found is None:
                continue
            made = judged(value, found, value is self._last) or in_order(value, found)
            if made is not None:
                return made
        return None

    def _of(self, node: ir.Node, value: ir.Value, deep: int) -> Reading | None:
        kind = node.op_type
        if node.domain == "com.microsoft" and kind in ("QLinearSoftmax", "QLinearSigmoid"):
            name = kind.removeprefix("QLinear")
            return Reading(name, value, closer=node, each=name == "Sigmoid")
        source = first_input(node)
        if node.domain not in ("", "ai.onnx") or source is None:
            return None
        found = closed(node, source)
        if found is not None:
            return found
        if kind in LAYOUT:
            found = self.read(source, deep)
            return None if found is None else replace(found, behind=(*found.behind, node))
        if kind in PICKING:
            found = self.read(source, deep)
            if found is None or found.routes is not None:
                return None
            return replace(found, alone=found.kind == "Sigmoid" and found.alone,
                           behind=(*found.behind, node))  # fmt: skip
        if kind in ("Log", "Sub") and (p := odds(node)) is not None:
            found = self.read(p, deep)
            if found is not None:
                return None if found.log or found.scale != 1 else _logarithm(found, value, True)
        if kind == "Where":
            return self._held_within(node, deep)
        if kind in ("Log", "Exp", "Clip", "Sqrt", "Pow", "Reciprocal"):
            return self._unary(node, source, value, deep)
        if kind in ("Mul", "Div", "Add", "Sub", "Neg"):
            scaled = self._scaled(node, value, deep)
            if scaled is not None:
                return scaled
        if kind == "LpNormalization" and node.attributes.get_int("p", 2) == 1:
            return self._normalised(node, source, value, deep)
        if kind == "Div":
            return self._normalised(node, source, value, deep)
        if kind in ("ReduceMean", "ReduceSum"):
            return self._reduced(node, source, value, deep)
        if kind in ("Add", "Sum", "Mean", "Mul", "Max", "Min", "Concat"):
            return self._several(node, value, deep)
        return None

    def _unary(self, node: ir.Node, source: ir.Value, value: ir.Value, deep: int) -> Reading | None:
        kind = node.op_type
        if kind == "Reciprocal":
            return written(node, source)
        found = self.read(source, deep)
        if found is None:
            unit = kind == "Clip" and bounds_of(node) == (0, 1)
            each = count_of(value) != 1  # a regression within 0..1 is no two classes
            return Reading("Mixture", source, alone=False, each=each, closer=node) if unit else None
        if kind == "Log" and not found.log:
            return _logarithm(found, value, False)
        if kind == "Exp" and found.log and found.by == 1 and not found.odds:
            return replace(found, log=False)
        if kind == "Clip":
            return replace(found, alone=found.alone and barely_clips(bounds_of(node), found))
        power = 0.5 if kind == "Sqrt" else scalar(node.inputs[1] if kind == "Pow" else None)
        if power is not None and power > 0 and not found.log and kind in ("Sqrt", "Pow"):
            return replace(_mixture(found), scale=found.scale**power)
        return None

    def _held_within(self, node: ir.Node, deep: int) -> Reading | None:
        """A Clip at one end, written as a Where."""
        held = held_within(node)
        found = None if held is None else self.read(held[0], deep)
        if held is None or found is None:
            return None
        _, number, highest = held
        ends = (-np.inf, number) if highest else (number, np.inf)
        return replace(found, alone=found.alone and barely_clips(ends, found))

    def _scaled(self, node: ir.Node, value: ir.Value, deep: int) -> Reading | None:
        """What a number multiplies, divides or is added to."""
        kind = node.op_type
        if kind == "Neg":
            return _by(self.read(node.inputs[0], deep), -1.0)
        a, b = node.inputs[0], node.inputs[1]
        number, moving = scalar(b), a
        if number is None and kind in ("Mul", "Add"):
            number, moving = scalar(a), b
        if kind == "Sub" and scalar(a) == 0:
            return _by(self.read(b, deep), -1.0)
        if number is None:
            return written(node, a) if kind == "Div" and a is not None and scalar(a) == 1 else None
        found = self.read(moving, deep)
        if found is None:
            return None
        if kind in ("Add", "Sub"):
            return found if abs(number) <= SMALL * found.scale and not found.log else None
        if number == 0:
            return None
        factor = number if kind == "Mul" else 1 / number
        if found.log or number < 0:
            return _by(found, factor)
        made = replace(found, scale=found.scale * factor)
        return made if found.logits else replace(made, before=value, behind=())

    def _normalised(
        self, node: ir.Node, source: ir.Value, value: ir.Value, deep: int
    ) -> Reading | None:
        """What is divided by its own sum: a Softmax written out, or other weights."""
        if node.op_type == "Div" and not own_sum(node.inputs[1], source):
            return None
        made = source.producer()
        if made is not None and made.op_type == "Exp" and made.inputs[0] is not None:
            found = self.read(made.inputs[0], deep)
            if found is None or not found.log or found.odds or found.by != 1:
                return written(node, source)
        found = self.read(source, deep)
        if found is not None and not found.log:
            made_of = replace(_mixture(found), scale=1.0)
            return made_of if found.logits else replace(made_of, before=value, behind=())
        negative = made is None or not (
            made.op_type in traits.NEVER_NEGATIVE
            or (made.op_type == "Mul" and made.inputs[0] is made.inputs[1])
            or (made.op_type == "Pow" and (scalar(made.inputs[1]) or 1) % 2 == 0)
        )
        return None if negative else Reading("Mixture", source, alone=False, closer=node)

    def _reduced(
        self, node: ir.Node, source: ir.Value, value: ir.Value, deep: int
    ) -> Reading | None:
        """The mean or sum over members that were stacked, or over positions."""
        found = self.read(source, deep)
        if found is None or found.by != 1:
            return None
        made = replace(
            found, kind="Mixture", before=value, logits=False, alone=False, behind=(), routes=None
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

    def _several(self, node: ir.Node, value: ir.Value, deep: int) -> Reading | None:
        """The members of an ensemble, or heads beside each other."""
        parts = [self.read(v, deep) for v in node.inputs]
        known = [p for p in parts if p is not None]
        if len(known) < len(parts) or len({(p.log, p.odds) for p in known}) > 1:
            return None
        if len(known) == 1:  # a Sum or Concat of one
            return known[0]
        if any(p.by != 1 for p in known):
            return None
        scales = [p.scale for p in known]
        kind, log, of_odds = node.op_type, known[0].log, known[0].odds
        if kind in ("Max", "Min", "Concat"):
            if len(set(scales)) > 1:
                return None
            scale = scales[0]
        elif kind == "Mean":
            scale = float(np.exp(np.mean(np.log(scales))) if log else np.mean(scales))
        elif kind in ("Add", "Sum"):
            if of_odds:
                return None
            scale = float(np.prod(scales) if log else np.sum(scales))
        else:
            if log:
                return None
            scale = float(np.prod(scales))
        if known[0].logits and len({source(Closed(p.before, p.each)) for p in known}) == 1:
            # Of one row of scores, perhaps each class of one alone.
            again = self._tried(value)
            if again is not None and again.logits:
                return again
        each = all(p.each for p in known) and kind != "Concat"
        return Reading("Mixture", value, logits=False, log=log, odds=of_odds, scale=scale,
                       alone=False, each=each)  # fmt: skip


def _logarithm(found: Reading, value: ir.Value, of_odds: bool) -> Reading:
    """A logarithm of probabilities, or of odds; of what is a probability itself it is the better
    score: unbounded."""
    made = replace(found, log=True, odds=of_odds)
    return made if found.logits else replace(made, before=value, behind=())


def _by(found: Reading | None, factor: float) -> Reading | None:
    """A logarithm to another base, or less than 0."""
    return replace(found, by=found.by * factor) if found is not None and found.log else None


def _mixture(found: Reading) -> Reading:
    """What is still made of the same scores, but no longer follows from them alone."""
    return replace(found, kind="Mixture", alone=False, each=False, routes=None)


def _axes(node: ir.Node) -> Sequence[int] | None:
    """The axes of a reduction; None where they aren't constant."""
    given = node.attributes.get_ints("axes", ())
    if given or len(node.inputs) < 2:
        return given or None
    array = constant(node.inputs[1])
    return None if array is None else [int(a) for a in array.reshape(-1)]
