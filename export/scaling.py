"""Keeps cotangents within float16's range: a power of two per image, undone at the end.

The three rules are linear in the cotangent, or at least homogeneous for a positive factor (deconv
and guided rectify it). So a cotangent may be multiplied by 2^-k on the way, as long as the k are
added up and the end is multiplied by 2^k; a power of two costs no precision. k is measured in the
run, not guessed: where every path of the backward pass goes through one tensor (a cut: between
residual blocks, fire modules, plain layers), its largest absolute value is brought to 1..2, image
by image, once in `EVERY` contractions. From there float16 has a factor of 30000 up, and of 16000
down before it loses bits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import nullcontext

import onnx_ir as ir

from . import traits
from .emit import Emitter, dim_of

__all__ = ["Scaling", "cuts"]

# Nodes that sum products, and so change a cotangent's size.
_CONTRACTIONS = traits.CONTRACTS
EVERY = 2
# One step's limits: 2^k itself is a normal float16, or float32 for a cotangent from outside.
STEP, STEP_OUTSIDE = 14.0, 120.0
TINY = 2.0**-120


def cuts(
    nodes: Sequence[ir.Node],
    leads: Collection[ir.Value],
    of: Collection[ir.Value],
) -> set[ir.Value]:
    """The tensors that every way through `nodes` (in graph order) to `of` goes through.

    leads: the tensors on the way. Found by sweeping: between two nodes, one tensor alone is made
    already and still needed.
    """
    last = {v: len(nodes) for v in of}
    for at, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and value in leads and value not in of:
                last[value] = at
    made = {v for n in nodes for v in n.outputs}
    live = {v for v in last if v not in made}
    found: set[ir.Value] = set()
    for at, node in enumerate(nodes):
        live.update(v for v in node.outputs if last.get(v, -1) > at)
        live = {v for v in live if last[v] > at}
        if len(live) == 1:
            found |= live
    return found


class Scaling:
    """The scale of one backward walk: `at` each cut on the way, `undone` at its ends.

    batch: the dimension 0 of the images; a tensor that has it is scaled row by row, any other by
    its largest value of all. measured: whether the seed itself must be measured; a one-hot one
    is at 1 already.
    """

    def __init__(self, e: Emitter, batch: int | str | None, measured: bool) -> None:
        self._e = e
        self._batch = batch
        self._since = EVERY if measured else 0
        self._cuts: set[ir.Value] = set()
        self._exponent: ir.Value | None = None
        self._arrived: dict[ir.Value, ir.Value | None] = {}

    def begin(
        self,
        nodes: Sequence[ir.Node],
        leads: Collection[ir.Value],
        of: Collection[ir.Value],
        wrt: Collection[ir.Value],
    ) -> None:
        """The way that the walk is going to take."""
        self._cuts = cuts(nodes, leads, of)
        if any(self._rows(v) == 1 for v in wrt):
            self._batch = None  # what is undone by row must have rows

    def arrive(self, primal: ir.Value) -> None:
        """A cotangent has arrived for a primal, in the scale of now."""
        self._arrived.setdefault(primal, self._exponent)

    def passed(self, node: ir.Node) -> None:
        """The walk has passed a node."""
        self._since += node.op_type in _CONTRACTIONS

    def at(self, primal: ir.Value, ct: ir.Value) -> ir.Value:
        """The cotangent of a primal, scaled anew where it is a cut and time for it."""
        if primal not in self._cuts or self._since < EVERY or ct.shape is None:
            return ct
        self._since = 0
        e = self._e
        # A cotangent from outside is scaled before it is narrowed.
        given = ct.is_graph_input()
        step = STEP_OUTSIDE if given and ct.dtype == ir.DataType.FLOAT else STEP
        with e.scope("scale"), e.in_float32() if given else nullcontext():
            rows = self._rows(ct)
            size = e.Abs(ct)
            if rows == 1:  # one scale for all images: not one of an image that is not finite
                most = e.const(float(ir.DataType.FLOAT16.max), size.dtype)
                size = e.Where(e.LessOrEqual(size, most), size, 0.0, _dtype=ct.dtype)
            flat = e.Reshape(size, [1 if rows == 1 else 0, -1], _shape=[rows, None])
            top = e.ReduceMax(flat, [1], keepdims=0, _shape=[rows])
            with e.in_float32():
                size = e.Max(e.cast(top, ir.DataType.FLOAT), TINY)
                power = e.Clip(e.Floor(e.Mul(e.Log(size), 1 / math.log(2))), -step, step)
                factor = self._across(e.Pow(2.0, e.Neg(power), _dtype=ir.DataType.FLOAT), ct)
                before = self._exponent
                self._exponent = power if before is None else e.Add(before, power)
            return e.Mul(ct, e.cast(factor, ct.dtype), _shape=ct.shape)

    def undone(self, primal: ir.Value, ct: ir.Value) -> ir.Value:
        """What has arrived for a primal, at its true size, in float32."""
        e, exponent = self._e, self._arrived.get(primal)
        with e.scope("scale"), e.in_float32():
            wide = e.cast(ct, ir.DataType.FLOAT)
            if exponent is None:
                return wide
            factor = e.Pow(2.0, exponent, _dtype=ir.DataType.FLOAT)
            return e.Mul(wide, self._across(factor, ct), _shape=ct.shape)

    def _rows(self, ct: ir.Value) -> int | str:
        """How many scales a tensor gets: one per image, where its first dimension is the batch."""
        if ct.shape is None or len(ct.shape) == 0:
            return 1
        first = dim_of(ct.shape, 0)
        return first if isinstance(first, str) and first == self._batch else 1

    def _across(self, factor: ir.Value, ct: ir.Value) -> ir.Value:
        """[rows] -> [rows, 1, ...], to multiply with the tensor; [1] -> [] for a number."""
        rank = 1 if ct.shape is None else len(ct.shape)
        if rank == 0:
            return self._e.Squeeze(factor, [0], _shape=[])
        if rank == 1:
            return factor
        assert factor.shape is not None
        ones = [1] * (rank - 1)
        return self._e.Unsqueeze(
            factor, list(range(1, rank)), _shape=[dim_of(factor.shape, 0), *ones]
        )
