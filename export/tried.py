"""What the nodes behind a Softmax, Sigmoid or Tanh do to its values, found by trying them.

There are more ways to write [1 - p, p] than anybody could list: a Gemm, an absolute difference, a
Concat, a Pad. What they have in common is what they compute. So the nodes from the scores before
what closes a head to its output are run on made-up scores, in float64, and the output is held
against them: whether each class rises, or falls, with one score alone, and within which bounds it
stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import ModelError
from . import traits
from .arithmetic import extent
from .emit import all_dims
from .unrounded import Budget, compute

__all__ = ["Closed", "Found", "Routes", "source", "tried"]

Array = NDArray[Any]

# Heads are short, and files may be hostile: nodes, and elements of all together.
_NODES, _TOTAL = 64, 2**26
# Scores of a row, and scores with an own row where one alone is certain.
_MOST, _ALONE, _ALONE_AT_ONCE = 2**16, 64, 1024
# Random rows: by chance no class follows another one's order.
_ROWS = 24
# Of a score: certain, whatever closes it.
_CERTAIN = 40.0
_SLACK = 1e-6
# Classes that keep still at times, each of which is held against every score.
_ODD = 64
# What turns a score into another that says as much.
_TURNS = traits.SAME | traits.RESHAPES | {"Neg"}


@dataclass(frozen=True)
class Closed:
    """A tensor that something closes. before: its scores. alone: whether each of its values is made
    of one score; else of a row of them."""

    before: ir.Value
    alone: bool


Closes = Callable[[ir.Value], Closed | None]


@dataclass(frozen=True)
class Routes:
    """Which one value each class follows: of a row's values, flat, and whether it rises (1) or
    falls (-1) with it."""

    index: tuple[int, ...]
    signs: tuple[int, ...]

    @property
    def as_is(self) -> bool:
        """Whether every class follows its own value, upwards."""
        return self.index == tuple(range(len(self.index))) and min(self.signs) > 0

    @property
    def pair(self) -> int | None:
        """Of two classes that follow one value, one up and one down, the one that rises."""
        if len(self.index) != 2 or self.index[0] != self.index[1] or self.signs[0] == self.signs[1]:
            return None
        return self.signs.index(1)


@dataclass(frozen=True)
class Found:
    """What trying showed.

    closed: the tensors that something closes, which the output is made of. before: the scores of
    all of them, where they are those of one tensor; else None. low, high: the output's bounds.
    total: what each row adds up to; None where rows differ. dense, logs: whether sums with weights,
    or logarithms, were taken on the way. routes: see there; None where some class follows no score
    alone. made, scores: the output [n, K] and the scores [n, P] that it was made of, random rows.
    """

    closed: tuple[ir.Value, ...]
    before: ir.Value | None
    low: float
    high: float
    total: float | None
    dense: bool
    logs: bool
    routes: Routes | None
    made: Array
    scores: Array


def tried(value: ir.Value, closes: Closes) -> Found | None:
    """What a tensor [N, K] is made of, and how; None where it isn't made of what closes heads
    alone, by arithmetic."""
    traced = _traced(value, closes)
    if traced is None:
        return None
    nodes, closed = traced
    cuts = dict.fromkeys(source(c) for c in closed.values())
    if len(closed) == 1 or len(cuts) > 1:
        cuts = dict.fromkeys(c.before for c in closed.values())
    further = _traced(value, lambda v: None, tuple(cuts))
    if further is None:
        return None
    sizes = {v: size for v in cuts if (size := _sizes(v)) is not None}
    if len(sizes) < len(cuts) or any(extent(s[1:]) > _MOST for s in sizes.values()):
        return None
    one = next(iter(closed)) if len(closed) == 1 else None
    follow = None if one is None or closed[one].alone else one
    try:
        made, scores, followed, edges = _run(value, _ordered(further[0]), sizes, follow)
    except (ModelError, ValueError):
        return None
    if not np.isfinite(made).all() or not made.shape[1]:
        return None
    whole, sums = np.concatenate([made, edges]), made.sum(axis=1)
    steady = made.shape[1] > 1 and np.ptp(sums) <= _SLACK * max(1.0, abs(sums[0]))
    single = len(cuts) == 1 and (one is not None or all(c.alone for c in closed.values()))
    return Found(
        closed=tuple(closed),
        before=next(iter(cuts)) if single else None,
        low=float(whole.min()),
        high=float(whole.max()),
        total=float(sums[0]) if steady else None,
        dense=any(n.op_type in traits.CONTRACTS for n in nodes),
        logs=any(n.op_type == "Log" for n in nodes),
        routes=_routes(made, followed) if single else None,
        made=made,
        scores=scores,
    )


def source(closed: Closed) -> ir.Value:
    """The tensor that scores are those of, or their negation, where each is closed by itself."""
    value = closed.before
    for _ in range(_NODES if closed.alone else 0):
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _TURNS:
            break
        if node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value


def _traced(
    value: ir.Value, closes: Closes, stops: Sequence[ir.Value] = ()
) -> tuple[list[ir.Node], dict[ir.Value, Closed]] | None:
    """The nodes between a tensor and what closes heads, or what it is to stop at, and the tensors
    that something closes."""
    nodes: dict[ir.Node, None] = {}
    closed: dict[ir.Value, Closed] = {}
    waiting, seen = [value], {value}
    while waiting:
        at = waiting.pop()
        if at in stops or ir.convenience.get_const_tensor(at) is not None:
            continue
        found = closes(at)
        if found is not None:
            closed[at] = found
            continue
        node = at.producer()
        ours = node is not None and (
            node.domain in ("", "ai.onnx") or node.op_type in traits.QUANTIZES
        )
        if node is None or not ours or len(nodes) == _NODES:
            return None
        nodes[node] = None
        new = [v for v in node.inputs if v is not None and v not in seen]
        seen.update(new)
        waiting += new
    return (list(nodes), closed) if nodes and (closed or stops) else None


def _ordered(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Each behind what it reads."""
    inside, done, order = set(nodes), set[ir.Node](), list[ir.Node]()
    while len(order) < len(nodes):
        ready = [
            n
            for n in nodes
            if n not in done
            and not any(v is not None and v.producer() in inside - done for v in n.inputs)
        ]
        if not ready:
            return []
        order += ready
        done.update(ready)
    return order


def _sizes(value: ir.Value) -> tuple[int, ...] | None:
    """A tensor's shape: 1 where a dimension is open, and 0 where the first one is."""
    dims = all_dims(value.shape)
    if not dims or any(isinstance(d, int) and d < 1 for d in dims):
        return None
    first, *rest = dims
    return (first if isinstance(first, int) else 0, *(d if isinstance(d, int) else 1 for d in rest))


def _run(
    value: ir.Value, nodes: Sequence[ir.Node], sizes: Mapping[ir.Value, tuple[int, ...]],
    follow: ir.Value | None,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """A tensor [n, K] of random scores; those scores [n, P]; what it may follow, [n, P], `follow`
    or the scores; and the tensor [m, K] where scores are certain: none of them, all, or one."""
    rng = np.random.default_rng(0)
    count = sum(extent(s[1:]) for s in sizes.values())
    batch = min(s[0] for s in sizes.values())
    most = _ALONE if batch else _ALONE_AT_ONCE
    alone = range(count) if count <= most else rng.choice(count, most, replace=False)
    states = [*[None] * _ROWS, *map(int, alone), -1, -2]
    budget, opset = Budget(_TOTAL), 18
    if nodes and nodes[0].graph is not None:
        opset = nodes[0].graph.opset_imports.get("", opset)
    parts: list[list[Array]] = [[], [], []]
    for group in [[s] for s in states] if batch else [states]:
        feeds = {
            v: np.concatenate([_filled(s, v, sizes, rng) for s in group]).reshape(
                -1 if not batch else size[0], *size[1:]
            )
            for v, size in sizes.items()
        }
        known: dict[ir.Value, Array] = dict(feeds)
        compute(nodes, known, opset, budget)
        found = known.get(value)
        if found is None or found.ndim < 1 or len(found) < len(group):
            raise ValueError("no rows")
        flat = found.reshape(len(found), -1)[: len(group)]
        if flat.shape[1] != max(found.shape[1:], default=1):
            raise ValueError("positions")
        scores = np.concatenate([_rows(f, len(group)) for f in feeds.values()], axis=1)
        followed = scores if follow is None else _rows(known[follow], len(group))
        for part, rows in zip(parts, (flat, scores, followed), strict=True):
            part.append(rows)
    made, scores, followed = (np.concatenate(p).astype(np.float64) for p in parts)
    edges = made[_ROWS:]
    return made[:_ROWS], scores[:_ROWS], followed[:_ROWS], edges[np.isfinite(edges).all(axis=1)]


def _rows(array: Array, count: int) -> Array:
    if len(array) < count:
        raise ValueError("no rows")
    return array.reshape(len(array), -1)[:count]


def _filled(
    state: int | None, value: ir.Value, sizes: Mapping[ir.Value, tuple[int, ...]],
    rng: np.random.Generator,
) -> Array:  # fmt: skip
    """A row of one tensor's scores, or its batch of them: random (None), all certain not (-1), all
    certain (-2), or one of them alone."""
    shape = (sizes[value][0] or 1, *sizes[value][1:])
    if state is None:
        return rng.standard_normal(shape) * 2
    if state < 0:
        return np.full(shape, _CERTAIN if state == -2 else -_CERTAIN)
    flat = np.full((shape[0], extent(shape[1:])), -_CERTAIN)
    start = 0
    for other, size in sizes.items():
        if other is value:
            break
        start += extent(size[1:])
    # At another tensor's turn this one is certain of something as well.
    flat[:, (state - start) % flat.shape[1]] = _CERTAIN
    return flat.reshape(shape)


def _routes(made: Array, rows: Array) -> Routes | None:
    """The one value of a row that each class of it follows, upwards if any."""
    if rows.shape[1] * made.shape[1] > 2**24:
        return None
    order = np.argsort(rows, axis=0, kind="stable")
    known: dict[bytes, int] = {}
    for at in range(rows.shape[1] - 1, -1, -1):
        known[order[:, at].tobytes()] = at
    found: list[tuple[int, int]] = []
    odd = 0
    for column in made.T:
        up, down = (known.get(np.argsort(c, kind="stable").tobytes()) for c in (column, -column))
        if np.unique(column).size < len(column) or (up is None and down is None):
            odd += 1
            followed = _follows(column, order) if odd <= _ODD else None
        elif up is not None:
            followed = (up, 1)
        else:
            followed = None if down is None else (down, -1)
        if followed is None:
            return None
        found.append(followed)
    return Routes(tuple(at for at, _ in found), tuple(sign for _, sign in found))


def _follows(column: Array, order: Array) -> tuple[int, int] | None:
    """The value that a class follows where it keeps still at times, as behind a Clip."""
    if np.unique(np.round(column, 12)).size * 3 < len(column):
        return None
    steps = np.diff(column[order], axis=0)
    for sign in (1, -1):
        fits = np.flatnonzero((sign * steps >= -1e-12).all(axis=0))
        if fits.size:
            return int(fits[0]), sign
    return None
