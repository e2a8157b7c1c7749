"""Dimensions of which nothing is known, and that needn't be equal: those of different inputs."""

from __future__ import annotations

import onnx_ir as ir

from . import traits
from .emit import dim_of
from .rules.op import constant

__all__ = ["Apart"]

# Operators that broadcast their operands against each other.
_BROADCASTING = traits.ELEMENTWISE - traits.UNARY | {"MatMul", "PRelu"}


class Apart:
    """Which axes of an operand may be 1 where another operand's isn't.

    A model of one input has none: two unknown sizes on its ways are taken to be equal, as they
    are where a network adds what it has computed on two branches. Sizes that come from different
    inputs needn't be.
    """

    def __init__(self, graph: ir.Graph) -> None:
        inputs = [v for v in graph.inputs if not v.is_initializer() and v.shape is not None]
        unknown = [v for v in inputs if any(dim_of(v.shape, i) is None for i in _axes(v))]  # type: ignore[arg-type]
        self._several = len(unknown) > 1
        self._inputs: dict[ir.Value, frozenset[ir.Value]] = {}

    def axes(self, node: ir.Node, primal: ir.Value) -> tuple[int, ...]:
        """The axes of one of a node's operands that may have been broadcast: nothing is known of
        them, and the other operand's may be longer."""
        if not self._several or node.op_type not in _BROADCASTING or node.domain != "":
            return ()
        if primal.shape is None:
            return ()
        rank = len(primal.shape)
        found: set[int] = set()
        mine: frozenset[ir.Value] | None = None
        for other in node.inputs:
            if (
                other is None
                or other is primal
                or other.shape is None
                or constant(other) is not None
            ):
                continue
            behind = len(other.shape) - rank
            open_ = [
                axis
                for axis in range(max(0, -behind), rank)
                if dim_of(primal.shape, axis) is None and dim_of(other.shape, axis + behind) != 1
            ]
            if open_:
                mine = self._reached(primal) if mine is None else mine
                found.update(open_ if self._reached(other) != mine else ())
        return tuple(sorted(found))

    def _reached(self, value: ir.Value) -> frozenset[ir.Value]:
        """The inputs that a tensor is computed from."""
        waiting = [value]
        while waiting:
            at = waiting[-1]
            node = at.producer()
            if node is None:
                own = at.is_graph_input() and not at.is_initializer()
                self._inputs[at] = frozenset((at,) if own else ())
            if at in self._inputs:
                waiting.pop()
                continue
            assert node is not None
            sources = [v for v in node.inputs if v is not None]
            left = [v for v in sources if v not in self._inputs]
            if left:
                waiting += left
                continue
            self._inputs[at] = frozenset().union(*(self._inputs[v] for v in sources))
        return self._inputs[value]


def _axes(value: ir.Value) -> range:
    return range(len(value.shape or ()))
