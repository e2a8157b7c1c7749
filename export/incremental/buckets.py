"""Which windows go together: boxes of one size per tensor, in batches that caches can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cost import FLOAT_BYTES, Machine, Term, terms
from .intervals import Extent, Ints
from .local import channels
from .trace import Read, Trace

# Sizes that are told apart per axis. Merging looks at all pairs of their pairs.
CLASSES = 20
_Floats = NDArray[np.float64]


class _Cost:
    """Seconds of one variant for box sizes: int64 [u, E] along y and along x -> float64 [u]."""

    def __init__(self, found: list[Term], place: dict[Extent, int]) -> None:
        seconds: dict[tuple[object, ...], float] = {}
        for term in found:
            key = (place[term.extent], *term.sides)
            seconds[key] = seconds.get(key, 0.0) + term.seconds
        keys = list(seconds)
        self.at = np.array([key[0] for key in keys], np.int64)
        self.factor = [np.array([key[1 + a][0] for key in keys]) for a in (0, 1)]  # type: ignore
        self.add = [np.array([key[1 + a][1] for key in keys]) for a in (0, 1)]  # type: ignore
        self.seconds = np.array([seconds[key] for key in keys])

    def sides(self, axis: int, lengths: Ints) -> _Floats:
        """Sides of what is read and made: [u, terms]."""
        return np.asarray(lengths[:, self.at] * self.factor[axis] + self.add[axis], np.float64)

    def __call__(self, ys: Ints, xs: Ints) -> _Floats:
        return np.asarray((self.sides(0, ys) * self.sides(1, xs)) @ self.seconds)


@dataclass(frozen=True)
class Buckets:
    """batches: by bucket, int64 arrays of windows. patch_bytes: of the largest patch tensor."""

    batches: tuple[tuple[Ints, ...], ...]
    patch_bytes: int


def buckets(trace: Trace, machine: Machine, most: int | None = None) -> Buckets:
    """Windows whose boxes get one size, each bucket in batches.

    A bucket's boxes have one size per tensor, the largest of its windows'. Starting from windows
    with (nearly) equal sizes everywhere, the two buckets whose union saves most are merged, again
    and again, while larger boxes cost less than another batch. most: windows in a batch.
    """
    seen: set[Read] = set()
    found = [t for node in trace.local for t in terms(trace, node, seen, machine)]
    extents = list(dict.fromkeys(trace.extents.values()))
    place = {extent: i for i, extent in enumerate(extents)}
    cost = _Cost(found, place)
    lengths = np.stack([e.lengths for e in extents], axis=2)  # [2, n, E]
    classes = [_classes(lengths[axis], cost, axis, lengths[1 - axis]) for axis in (0, 1)]
    _, inverse = np.unique(np.stack(classes), axis=1, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    edges = np.flatnonzero(np.diff(inverse.reshape(-1)[order])) + 1
    groups = np.split(order, edges)
    fixed = machine.node * max(len(trace.local), 1)
    result, largest = [], 0.0
    for group in _merge(groups, lengths, cost, fixed):
        ys, xs = lengths[:, group].max(axis=1)
        each = _largest(seen, place, ys, xs)
        limit = min(max(1, int(machine.batch // each)), len(group), most or len(group))
        result.append(tuple(np.array_split(group, -(-len(group) // limit))))
        largest = max(largest, each * limit)
    return Buckets(tuple(result), int(largest))


def _largest(seen: set[Read], place: dict[Extent, int], ys: Ints, xs: Ints) -> float:
    """Bytes of the largest patch of a variant."""
    largest = 1.0
    for read in seen:
        at = place[read.target]
        area = Term(read.target, read.stencil, 1.0).areas(np.array([ys[at], xs[at]]))
        largest = max(largest, FLOAT_BYTES * float(area) * channels(read.source))
    return largest


def _classes(lengths: Ints, cost: _Cost, axis: int, others: Ints) -> Ints:
    """A class per window, int64 [n], by sizes along one axis: int64 [n, E].

    Where there are more than CLASSES, those are merged whose union costs least, with the other
    axis at its mean.
    """
    signatures, inverse = np.unique(lengths, axis=0, return_inverse=True)
    label = inverse.reshape(-1)
    if len(signatures) > 4 * CLASSES:  # neighbours in sorted order, so that pairs stay few
        coarse = np.arange(len(signatures)) * 4 * CLASSES // len(signatures)
        label = coarse[label]
        edges = np.flatnonzero(np.diff(coarse, prepend=-1))
        signatures = np.maximum.reduceat(signatures, edges, axis=0)
    counts = np.bincount(label).astype(np.float64)
    weights = cost.sides(1 - axis, others).mean(axis=0) * cost.seconds
    names = np.arange(len(signatures))
    alive: list[int] = names.tolist()
    while len(alive) > CLASSES:
        own = cost.sides(axis, signatures[alive]) @ weights * counts[alive]
        best: tuple[float, int, int] = (np.inf, 0, 0)
        for i, a in enumerate(alive[:-1]):
            rest = alive[i + 1 :]
            union = cost.sides(axis, np.maximum(signatures[rest], signatures[a])) @ weights
            loss = union * (counts[rest] + counts[a]) - own[i + 1 :] - own[i]
            j = int(np.argmin(loss))
            best = min(best, (float(loss[j]), a, rest[j]))
        _, kept, gone = best
        signatures[kept] = np.maximum(signatures[kept], signatures[gone])
        counts[kept] += counts[gone]
        names[names == gone] = kept
        alive.remove(gone)
    return np.asarray(names[label], np.int64)


def _merge(
    groups: list[Ints],
    lengths: Ints,
    cost: Callable[[Ints, Ints], _Floats],
    fixed: float,
) -> list[Ints]:
    """Groups of windows, merged while that saves time; lengths: int64 [2, n, E]."""
    ys, xs = (np.stack([lengths[axis, g].max(axis=0) for g in groups]) for axis in (0, 1))
    counts = np.array([len(g) for g in groups], np.float64)
    own = cost(ys, xs)
    alive = np.ones(len(groups), bool)

    def savings(i: int) -> _Floats:
        union = cost(np.maximum(ys, ys[i]), np.maximum(xs, xs[i]))
        saved = fixed + counts * own + counts[i] * own[i] - (counts + counts[i]) * union
        return np.where(alive & (np.arange(len(groups)) != i), saved, -np.inf)

    saving = np.stack([savings(i) for i in range(len(groups))])
    while True:
        i, j = (int(v) for v in np.unravel_index(np.argmax(saving), saving.shape))
        if saving[i, j] <= 0:
            return [groups[k] for k in np.flatnonzero(alive)]
        # Sorted: neighbours in the image stay neighbours, and read the same clean rows.
        groups[i] = np.sort(np.concatenate([groups[i], groups[j]]))
        ys[i], xs[i] = np.maximum(ys[i], ys[j]), np.maximum(xs[i], xs[j])
        counts[i] += counts[j]
        own[i] = cost(ys[i : i + 1], xs[i : i + 1])[0]
        alive[j] = False
        saving[j, :] = saving[:, j] = -np.inf
        saving[i] = savings(i)
        saving[:, i] = saving[i]
