"""Which tokens of a layer reach the scores: behind the last attention it is the class token alone.

A tensor behind a layer of tokens holds what patches say in one of two ways, or in both: still
apart, a token each along one axis, or mixed into anything. Adding, norms and dense layers keep
tokens apart; attention, pooling and the like mix them; picking the class token loses those that
are apart, and keeps what is mixed into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from . import traits
from .backward import path
from .emit import dim_of
from .rules.op import constant, is_fixed
from .tokens import Grid

__all__ = ["Flow", "rows_read"]

# A value and how it holds the patches: the axis they are apart on, MIXED, or as the rows of
# [N T, D] or [T N, D], which dense layers are fed.
MIXED, ROWS, ROWS_FIRST = -1, -2, -3
State = tuple[ir.Value, int]

_POINTWISE = traits.ELEMENTWISE | traits.QUANTIZES | {"Expand"}
_CONTRACTIONS = traits.CONTRACTS | {"MatMulInteger", "QLinearMatMul"}


@dataclass(frozen=True)
class _Step:
    """A node and the ways through it: which state of an input becomes which of an output."""

    node: ir.Node
    ways: tuple[tuple[State, State], ...]


class Flow:
    """The ways of a layer's patches to the scores. tokens: [.., T, ..], T at `axis`."""

    def __init__(self, of: ir.Value, tokens: ir.Value, axis: int, grid: Grid) -> None:
        self.start: State = (tokens, axis)
        steps: list[_Step] = []
        known: dict[ir.Value, set[int]] = {tokens: {axis}}
        for node in path([of], [tokens])[0]:
            ways = [
                ((value, at), made)
                for value in dict.fromkeys(node.inputs)
                if value is not None
                for at in sorted(known.get(value, ()))
                for made in _through(node, (value, at), grid)
            ]
            for _, (value, at) in ways:
                known.setdefault(value, set()).add(at)
            steps.append(_Step(node, tuple(ways)))
        goals = {(of, at) for at in known.get(of, ())}
        needed = set(goals)
        kept: list[_Step] = []
        for step in reversed(steps):
            ways = [(have, made) for have, made in step.ways if made in needed]
            if ways:
                needed.update(have for have, _ in ways)
                kept.append(_Step(step.node, tuple(ways)))
        self._steps = kept[::-1]
        self._goals = goals

    @property
    def arrives(self) -> bool:
        """Whether any patch reaches the scores."""
        return bool(self._goals)

    def until_mixed(self) -> Iterator[State]:
        """The tensors that all ways go through with the patches apart, up to the first layer that
        multiplies them by weights or by each other."""
        last: dict[State, int] = dict.fromkeys(self._goals, len(self._steps))
        for at, step in enumerate(self._steps):
            for have, _ in step.ways:
                last[have] = max(last.get(have, 0), at)
        live = {self.start}
        if self.arrives:
            yield self.start
        for at, step in enumerate(self._steps):
            if step.node.op_type in _CONTRACTIONS:
                return
            live.update(made for _, made in step.ways)
            live = {s for s in live if last.get(s, -1) > at}
            if len(live) == 1:
                (only,) = live
                if only[1] == MIXED:
                    return
                yield only


def rows_read(of: ir.Value, tokens: ir.Value, axis: int, grid: Grid, count: int) -> list[int]:
    """Which of `count` tokens the scores are read from: the class token's row, and the distillation
    token's, where a model picks them; patches, or all, where it pools."""
    picked: set[int] = set()
    apart: dict[ir.Value, int] = {tokens: axis}
    for node in path([of], [tokens])[0]:
        for value in dict.fromkeys(node.inputs):
            if value not in apart:
                continue
            here = apart[value]
            found = _picked(node, value, here, count)
            if found is not None:
                picked.update(i % count for i in found)
                continue
            for made, at in _through(node, (value, here), grid):
                if at == MIXED:
                    return list(range(count))
                apart[made] = at
    return sorted(picked) or list(range(count))


def _through(node: ir.Node, have: State, grid: Grid) -> list[State]:
    """What becomes of a state in a node's outputs."""
    value, axis = have
    outputs = list(node.outputs)
    if axis == MIXED or value.shape is None:
        return [(made, MIXED) for made in outputs]
    if axis in (ROWS, ROWS_FIRST):
        return [(made, _behind_rows(node, value, axis, made)) for made in outputs]
    picked = _picked(node, value, axis)
    if picked is not None:
        size, extra = dim_of(value.shape, axis), grid.extra(value, axis)
        if all(_in_front(i, size, extra) for i in picked):
            return []
    return [
        (made, at) for made in outputs if (at := _axis_behind(node, value, axis, made)) is not None
    ]


def _in_front(index: int, size: int | str | None, extra: int | None) -> bool:
    """Whether a token isn't one of a patch. Of an unknown number of tokens the first isn't."""
    if index < 0 and isinstance(size, int):
        index += size
    return 0 <= index < (1 if extra is None else extra)


def _picked(
    node: ir.Node, value: ir.Value, axis: int, count: int | None = None
) -> list[int] | None:
    """The tokens that a node takes out of `count`; None for a node that takes no such choice, or
    one that nobody can tell."""
    if value is not node.inputs[0] or value.shape is None:
        return None
    rank = len(value.shape)
    size = dim_of(value.shape, axis) if count is None else count
    if node.op_type == "Gather":
        indices = constant(node.inputs[1])
        if node.attributes.get_int("axis", 0) % rank != axis or indices is None:
            return None
        return [int(i) for i in indices.reshape(-1)]
    if node.op_type == "Slice":
        parts = [constant(v) for v in (*node.inputs[1:5], *[None] * 4)[:4]]
        starts, ends, axes, steps = parts
        if starts is None or ends is None:
            return None
        on = list(range(len(starts))) if axes is None else [int(a) % rank for a in axes]
        if axis not in on:
            return None
        at = on.index(axis)
        step = 1 if steps is None else int(steps[at])
        start, end = int(starts[at]), int(ends[at])
        if isinstance(size, int):
            return list(range(size))[slice(start, end, step)]
        return list(range(start, end, step)) if 0 <= start < end < 2**16 and step > 0 else None
    return None


def _axis_behind(node: ir.Node, value: ir.Value, axis: int, made: ir.Value) -> int | None:
    """The axis that tokens are apart on behind a node; MIXED, or None where they end."""
    assert value.shape is not None
    rank, op = len(value.shape), node.op_type
    if made.shape is None:
        return MIXED
    width, attributes = len(made.shape), node.attributes
    first = value is node.inputs[0]
    if op in _POINTWISE:
        at = width - rank + axis
        return at if at >= 0 else MIXED
    if op == "Concat":
        return axis
    if op == "Transpose":
        return list(attributes.get_ints("perm", range(rank)[::-1])).index(axis)
    if op in ("Softmax", "LogSoftmax"):
        return MIXED if attributes.get_int("axis", -1) % rank == axis else axis
    if op in ("LayerNormalization", "RMSNormalization"):
        return axis if first and attributes.get_int("axis", -1) % rank > axis else MIXED
    if op == "LpNormalization":
        return MIXED if attributes.get_int("axis", -1) % rank == axis else axis
    if op.startswith("Reduce"):
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if axes is None:
            return MIXED
        over = {int(a) % rank for a in axes.reshape(-1)}
        if axis in over:
            return MIXED
        gone = 0 if attributes.get_int("keepdims", 1) else sum(a < axis for a in over)
        return axis - gone
    if op == "Gather" and first:
        along = attributes.get_int("axis", 0) % rank
        grown = width - rank
        return MIXED if along == axis and grown < 0 else axis + grown * (along < axis)
    if op in ("Slice", "Split", "Pad"):
        return axis if first else MIXED
    if op in ("Squeeze", "Unsqueeze"):
        return _squeezed(node, axis, rank, width)
    if op == "MatMul":
        others = [v for v in node.inputs[:2] if v is not value]
        fixed = len(others) == 1 and is_fixed(others[0])
        contracted = rank - 1 if first else rank - 2
        return axis if fixed and axis != contracted else MIXED
    if op == "Reshape" and first:
        return _reshaped(value, axis, made)
    return MIXED


def _behind_rows(node: ir.Node, value: ir.Value, axis: int, made: ir.Value) -> int:
    """The same for tokens as the rows of a matrix."""
    first = value is node.inputs[0]
    if node.op_type in _POINTWISE:
        return axis
    if node.op_type in ("LayerNormalization", "MatMul", "Gemm") and first:
        turned = node.attributes.get_int("transA", 0)
        return axis if is_fixed(node.inputs[1]) and not turned else MIXED
    if node.op_type == "Gemm":  # as what it adds
        return axis if len(node.inputs) > 2 and value is node.inputs[2] else MIXED
    shapes = value.shape, made.shape
    if node.op_type == "Reshape" and first and shapes[0] is not None and shapes[1] is not None:
        kept = len(shapes[1]) == 3 and dim_of(shapes[0], 1) == dim_of(shapes[1], 2)
        return (1 if axis == ROWS else 0) if kept else MIXED
    return MIXED


def _squeezed(node: ir.Node, axis: int, rank: int, width: int) -> int:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        return MIXED
    if node.op_type == "Squeeze":
        gone = {int(a) % rank for a in axes.reshape(-1)}
        return MIXED if axis in gone else axis - sum(a < axis for a in gone)
    new = {int(a) % width for a in axes.reshape(-1)}
    return [a for a in range(width) if a not in new][axis]


def _reshaped(value: ir.Value, axis: int, made: ir.Value) -> int:
    """Where a Reshape leaves the axes up to the tokens' as they were."""
    assert value.shape is not None and made.shape is not None
    if len(value.shape) == 3 and len(made.shape) == 2 and axis < 2:
        width = dim_of(value.shape, 2)
        whole = isinstance(width, int) and width == dim_of(made.shape, 1)
        return (ROWS if axis == 1 else ROWS_FIRST) if whole else MIXED
    if len(made.shape) <= axis:
        return MIXED
    had = [dim_of(value.shape, a) for a in range(axis + 1)]
    got = [dim_of(made.shape, a) for a in range(axis + 1)]
    tokens = had[axis]
    # The batch may be called otherwise.
    pairs = zip(had, got, strict=True)
    same = all(h == g or not (isinstance(h, int) or isinstance(g, int)) for h, g in pairs)
    return axis if same and tokens == got[axis] and tokens is not None else MIXED
