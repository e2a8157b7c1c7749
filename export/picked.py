"""Walks from a few of many places: what picks them, moved in front of what works place by place.

A class token is one of 197 tokens, taken by a Gather behind the last block. Walked as it stands,
the block's matrices are multiplied with 196 rows of zeros. What works row by row gives the same for
the row alone, f(x)[0] = f(x[0]): so the walk goes through copies of these nodes that read the row
picked from what they read, and from there on through the model's own. The scores stay what they
are: they are computed as before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from . import traits
from .clone import copy_of
from .emit import Emitter, all_dims
from .rowwise import operand_axes, resized
from .rules.op import constant, first_input

__all__ = ["through_few"]

# Of at least so many places one is taken.
MANY = 4
# What is behind a pick is run once more too: so many products of matrices at most.
BEHIND = 4


@dataclass(frozen=True)
class _Pick:
    """A node that takes places `start` to `stop` along an axis of its first input. drops: whether
    the axis, of one place, is left out."""

    node: ir.Node
    axis: int
    start: int
    stop: int
    drops: bool

    @property
    def source(self) -> ir.Value:
        source = self.node.inputs[0]
        assert source is not None
        return source


@dataclass(frozen=True)
class _Region:
    """Nodes that work place by place, in graph order, in front of picks from one tensor. axes: of
    every tensor that is wanted at places `start` to `stop` alone, the axis along which."""

    picks: list[_Pick]
    nodes: list[ir.Node]
    axes: dict[ir.Value, int]
    start: int
    stop: int


def through_few(
    e: Emitter, of: ir.Value, wrt: Sequence[ir.Value], nodes: Sequence[ir.Node]
) -> ir.Value:
    """A tensor equal to `of`, [N, ...], from which a walk to `wrt` goes through few places where
    few are picked; `of` itself where none are, or nothing is saved. nodes: those between."""
    picks: dict[tuple[ir.Value, int], list[_Pick]] = {}
    for node in nodes:
        pick = _pick(node)
        if pick is not None and node.outputs[0] not in wrt and pick.source not in wrt:
            picks.setdefault((pick.source, pick.axis), []).append(pick)
    made: dict[ir.Value, ir.Value] = {}
    for together in picks.values():
        region = _region(together, nodes, wrt)
        behind = _behind([p.node.outputs[0] for p in together], nodes)
        if _saves(region) and _repeats(behind, wrt):
            made |= _moved(e, region)
    if not made:
        return of
    for node in _behind(made, nodes):
        if node.outputs[0] in made:
            continue
        inputs = [None if v is None else made.get(v, v) for v in node.inputs]
        for value, copy in zip(node.outputs, copy_of(e, node, inputs), strict=True):
            copy.shape = value.shape
            made[value] = copy
    return made.get(of, of)


def _behind(values: Collection[ir.Value], nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes that read any of the values, or what is made of them."""
    reached, found = set(values), []
    for node in nodes:
        if any(v in reached for v in node.inputs):
            found.append(node)
            reached.update(node.outputs)
    return found


def _contractions(nodes: Sequence[ir.Node]) -> int:
    return sum(n.op_type in traits.CONTRACTS for n in nodes)


def _repeats(behind: Sequence[ir.Node], wrt: Collection[ir.Value]) -> bool:
    """Whether what is behind a pick may be run twice: not much, and no end of the walk."""
    graphs = any(a.type == ir.AttributeType.GRAPH for n in behind for a in n.attributes.values())
    ends = any(v in wrt for n in behind for v in n.outputs)
    return not graphs and not ends and _contractions(behind) <= BEHIND


def _saves(region: _Region) -> bool:
    size = all_dims(region.picks[0].source.shape)[region.picks[0].axis]
    few = isinstance(size, int) and MANY * (region.stop - region.start) <= size
    return few and _contractions(region.nodes) > 0


def _region(picks: list[_Pick], nodes: Sequence[ir.Node], wrt: Collection[ir.Value]) -> _Region:
    """What works place by place in front of picks from one tensor, as far back as gradients flow
    through it to nothing but these picks."""
    axes: dict[ir.Value, int | None] = {picks[0].source: picks[0].axis}  # None: wanted whole
    inside = {p.node for p in picks}
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in nodes:
        for value in {v for v in node.inputs if v is not None}:
            readers.setdefault(value, []).append(node)
    found: list[ir.Node] = []
    for node in reversed(nodes):
        made = node.outputs[0]
        axis = axes.get(made)
        if axis is None or made in wrt or any(v.uses() for v in node.outputs[1:]):
            continue
        wanted = operand_axes(node, axis)
        if wanted is None or any(reader not in inside for reader in readers.get(made, ())):
            continue
        pairs = [(v, a) for v, a in zip(node.inputs, wanted, strict=True) if v is not None]
        alike = dict(pairs)
        if any(alike[v] != a or axes.get(v, a) != a for v, a in pairs):
            continue
        found.append(node)
        inside.add(node)
        axes |= alike
    few = {v: a for v, a in axes.items() if a is not None}
    return _Region(picks, found[::-1], few, min(p.start for p in picks), max(p.stop for p in picks))


def _moved(e: Emitter, region: _Region) -> dict[ir.Value, ir.Value]:
    """What the picks take, made of the picked places alone."""
    few: dict[ir.Value, ir.Value] = {}
    start, stop = region.start, region.stop

    def short(value: ir.Value, axis: int) -> ir.Shape:
        dims = all_dims(value.shape)
        dims[axis] = stop - start
        return ir.Shape(dims)

    def one(value: ir.Value) -> ir.Value:
        if value not in few:
            axis = region.axes[value]
            few[value] = e.Slice(value, [start], [stop], [axis], _shape=short(value, axis))
        return few[value]

    for node in region.nodes:
        value = node.outputs[0]
        wanted = operand_axes(node, region.axes[value])
        assert wanted is not None
        pairs = zip(node.inputs, wanted, strict=True)
        inputs = [v if v is None or a is None else one(v) for v, a in pairs]
        shape = short(value, region.axes[value])
        copy = copy_of(e, node, resized(e, node, inputs, shape))[0]
        copy.shape = shape
        few[value] = copy
    made = {}
    for pick in region.picks:
        value, taken = pick.node.outputs[0], one(pick.source)
        if (pick.start, pick.stop) != (start, stop):
            dims = all_dims(taken.shape)
            dims[pick.axis] = pick.stop - pick.start
            begin, end = [pick.start - start], [pick.stop - start]
            taken = e.Slice(taken, begin, end, [pick.axis], _shape=dims)
        if pick.drops:
            taken = e.Squeeze(taken, [pick.axis], _shape=value.shape)
        made[value] = taken
    return made


def _pick(node: ir.Node) -> _Pick | None:
    """A Gather or Slice of places next to each other; None for any other node."""
    source = first_input(node)
    if node.domain not in ("", "ai.onnx") or source is None or source.shape is None:
        return None
    dims = all_dims(source.shape)
    if node.op_type == "Gather":
        index = constant(node.inputs[1])
        if index is None or index.ndim > 1 or not index.size or index.dtype.kind not in "iu":
            return None
        axis, size = _sized(dims, node.attributes.get_int("axis", 0))
        places = np.where(index < 0, index + size, index).reshape(-1)
        if (np.diff(places) != 1).any() or places[0] < 0 or places[-1] >= size:
            return None
        return _Pick(node, axis, int(places[0]), int(places[-1]) + 1, index.ndim == 0)
    if node.op_type == "Slice":
        told = [constant(v) if v is not None else None for v in node.inputs[1:]]
        if len(told) < 3 or any(v is None or v.size != 1 or v.dtype.kind not in "iu" for v in told):
            return None
        first, last, at, *step = (int(v.reshape(-1)[0]) for v in told if v is not None)
        axis, size = _sized(dims, at)
        start, stop, _ = slice(first, last).indices(size)
        return _Pick(node, axis, start, stop, False) if step in ([], [1]) and start < stop else None
    return None


def _sized(dims: Sequence[object], axis: int) -> tuple[int, int]:
    """An axis from the front, and how many places it has: 0 where that isn't known."""
    size = dims[axis] if -len(dims) <= axis < len(dims) else 0
    return axis % max(len(dims), 1), size if isinstance(size, int) else 0
