"""Which windows to score when not all are: lattice by lattice, each twice as dense as the last,
and of the last that can be afforded those windows where the map changes most.

A lattice's next is its cells' midpoints (quincunx), then the midpoints of their sides. Half of all
windows so chosen tell more than half of a square lattice's and some more: a network's own strides
make a map's texture alternate from window to window along an axis, and every second row misses it.

Approximate. The drops of the windows in between are interpolated. Where a rough score is much
cheaper than an exact one, it is the rough map that is drilled; the coarse lattice is scored exactly
too, and the difference, which is smooth, is interpolated. Then the strongest windows are scored
exactly, so that what matters most is what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..export.incremental import Reach

__all__ = ["REACH", "SHARE", "check_share", "corrected", "drill", "exact_share"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# Of the windows that are scored. On the bundled photos the map is then as near to the exact one
# as benchmarks/README.md says under "Drill-down".
SHARE = 0.4
# Of rough scores. On the bundled photos the map then has the exact one's texture, and is off by
# what the coarse lattice can tell; half of the margin loses the texture.
REACH = Reach(margin=5, share=0.33)
# The first pass takes every COARSE-th window per axis, if that leaves LEAST of them; a window of
# 16 at a stride of 4 is as far from the next then as it is wide.
COARSE, LEAST = 4, 5
# Of all windows, scored exactly at last where rough scores were taken. It does little for the map
# as a whole, and takes the recall of its top 1% from 0.86 to 0.93.
STRONGEST = 0.03


def check_share(share: float) -> float:
    """A share of the windows. Raises UsageError."""
    if not 0 < share <= 1:
        raise UsageError(f"share {share}; accepted: above 0, at most 1")
    return float(share)


def drill(
    counts: tuple[int, int, int], share: float, score: Callable[[Ints], Floats]
) -> tuple[Floats, Ints]:
    """Values of all windows, some of them scored.

    counts: windows per axis (c, y, x); their order is row-major. share: of the windows that are
    scored; the coarse pass is always scored whole. score: int64 [m], windows -> float64 [T, m].
    Returns float64 [T, n] and the windows scored, int64 [m] in order.
    """
    budget = round(share * int(np.prod(counts)))
    scored = np.zeros(counts, bool)
    wanted = _first(counts)
    values: Floats | None = None
    for reach, following in [*_stages(counts), (0, np.zeros(counts, bool))]:
        which = np.flatnonzero(wanted)
        found = score(which)
        if values is None:
            values = np.zeros((len(found), *counts))
        values.reshape(len(found), -1)[:, which] = found
        scored |= wanted
        left = budget - int(scored.sum())
        if left <= 0 or not following.any():
            break
        wanted = (
            following if left >= following.sum() else _worth(values, scored, following, reach, left)
        )
    assert values is not None
    made = interpolated(values, scored)
    return made.reshape(len(made), -1), np.flatnonzero(scored)


def corrected(
    counts: tuple[int, int, int],
    share: float,
    rough: Callable[[Ints], Floats],
    score: Callable[[Ints], Floats],
) -> tuple[Floats, Ints]:
    """The same from rough scores for a share of the windows, and exact ones for the first lattice
    and for the strongest windows: those of the largest values in any row, with their neighbours'.

    Returns float64 [T, n] and the windows scored exactly, int64 [m] in order.
    """
    values, _ = drill(counts, share, rough)
    exact = _first(counts)
    which = np.flatnonzero(exact)
    found = score(which)
    off = np.zeros((len(values), *counts))
    off.reshape(len(values), -1)[:, which] = found - values[:, which]
    values = values + interpolated(off, exact).reshape(len(values), -1)
    values[:, which] = found
    strongest = _strongest(values.reshape(-1, *counts), exact)
    if len(strongest):
        values[:, strongest] = score(strongest)
    return values, np.union1d(which, strongest)


def exact_share(counts: tuple[int, int, int]) -> float:
    """Of the windows, how many `corrected` scores exactly: at most."""
    return min(1.0, float(_first(counts).mean()) + STRONGEST)


def _strongest(values: Floats, scored: Bools) -> Ints:
    """Windows that weren't scored, of the largest values, each row by its own range: int64 [m]."""
    field = _around(values, 1, np.mean)
    field = field - field.min(axis=(1, 2, 3), keepdims=True)
    span = field.max(axis=(1, 2, 3), keepdims=True)
    strength = np.where(scored, -np.inf, (field / np.where(span > 0, span, 1)).max(axis=0))
    count = min(round(STRONGEST * scored.size), int((~scored).sum()))
    return np.sort(np.argsort(-strength, axis=None, kind="stable")[:count])


def _first(counts: tuple[int, int, int]) -> Bools:
    wanted = np.zeros(counts, bool)
    wanted[np.ix_(np.arange(counts[0]), *_lattice(counts, _coarse(counts)))] = True
    return wanted


def _stages(counts: tuple[int, int, int]) -> Iterator[tuple[int, Bools]]:
    """Windows to score after the first lattice, stage by stage: [c, y, x]; and how far around one
    of them the map's change counts, in windows."""
    seen, step = _first(counts), _coarse(counts)
    while step > 1:
        before = _lattice(counts, step)
        step //= 2
        finer = _lattice(counts, step)
        middle = [np.setdiff1d(new, old) for new, old in zip(finer, before, strict=True)]
        for ys, xs in (middle, finer):
            stage = np.zeros(counts, bool)
            stage[np.ix_(np.arange(counts[0]), ys, xs)] = True
            stage &= ~seen
            seen |= stage
            yield 2 * step, stage


def interpolated(values: Floats, scored: Bools) -> Floats:
    """Windows that weren't scored, from those that were: [T, c, y, x]. From lattice to finer
    lattice, keeping what is known: midpoints of cells bilinearly; midpoints of sides as the mean
    of what both axes say."""
    counts = (scored.shape[0], scored.shape[1], scored.shape[2])
    step = _coarse(counts)
    at = _lattice(counts, step)
    field = values[:, :, at[0]][:, :, :, at[1]]
    while step > 1:
        step //= 2
        finer = _lattice(counts, step)
        known = scored[:, finer[0]][:, :, finer[1]]
        given = values[:, :, finer[0]][:, :, :, finer[1]]
        field = _between(_between(field, at[0], finer[0], 2), at[1], finer[1], 3)
        new = [~np.isin(fine, old) for fine, old in zip(finer, at, strict=True)]
        field = np.where(known & np.logical_and.outer(*new), given, field)
        field = np.where(known, given, _across(field, finer, new))
        at = finer
    return field


def _across(field: Floats, at: tuple[Ints, Ints], new: list[Bools]) -> Floats:
    """Midpoints of sides: the mean of their value, which is the side's, and of what the midpoints
    of the two cells beside them say. new: per axis, what the lattice before hadn't."""
    made = field.copy()
    for axis in (0, 1):
        fresh, place = new[axis], at[axis]
        inner = 1 + np.flatnonzero(~fresh[1:-1] & fresh[:-2] & fresh[2:])
        side = (..., inner[:, None], np.flatnonzero(new[1 - axis]))
        share = (place[inner] - place[inner - 1]) / (place[inner + 1] - place[inner - 1])
        source, target = (np.swapaxes(f, 2, 3) if axis else f for f in (field, made))
        low, high = (source[..., (inner + d)[:, None], side[2]] for d in (-1, 1))
        beside = low * (1 - share[:, None]) + high * share[:, None]
        target[side] = (source[side] + beside) / 2
    return made


def _coarse(counts: tuple[int, int, int]) -> int:
    """The first lattice's spacing, in windows: a power of two."""
    step = COARSE
    while step > 1 and min(len(axis) for axis in _lattice(counts, step)) < LEAST:
        step //= 2
    return step


def _lattice(counts: tuple[int, int, int], step: int) -> tuple[Ints, Ints]:
    """Every step-th window along y and x, and the last."""
    y, x = (np.unique(np.append(np.arange(0, n, step), n - 1)) for n in counts[1:])
    return y, x


def _between(values: Floats, at: Ints, wanted: Ints, axis: int) -> Floats:
    """Linear interpolation along an axis, from positions to positions."""
    if len(at) == 1:
        return np.repeat(values, len(wanted), axis=axis)
    low = np.clip(np.searchsorted(at, wanted, side="right") - 1, 0, len(at) - 2)
    share = (wanted - at[low]) / (at[low + 1] - at[low])
    shape = [1] * values.ndim
    shape[axis] = len(wanted)
    weight = share.reshape(shape)
    left, right = values.take(low, axis=axis), values.take(low + 1, axis=axis)
    return np.asarray(left * (1 - weight) + right * weight)


def _worth(values: Floats, scored: Bools, candidates: Bools, reach: int, count: int) -> Bools:
    """The `count` candidates around which the map changes most."""
    field = interpolated(values, scored)
    span = np.ptp(field.reshape(len(field), -1), axis=1)
    field = field / np.where(span > 0, span, 1)[:, None, None, None]
    change = (_around(field, reach, np.max) - _around(field, reach, np.min)).max(axis=0)
    order = np.argsort(np.where(candidates, -change, np.inf), axis=None, kind="stable")
    chosen = np.zeros(scored.shape, bool)
    chosen.reshape(-1)[order[:count]] = True
    return chosen


def _around(field: Floats, reach: int, pick: Callable[..., Floats]) -> Floats:
    """The largest (smallest, mean) value within `reach` windows along y and x."""
    for axis in (2, 3):
        pads = [(0, 0)] * 4
        pads[axis] = (reach, reach)
        padded = np.pad(field, pads, mode="edge")
        views = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        field = pick(views, axis=-1)
    return field
