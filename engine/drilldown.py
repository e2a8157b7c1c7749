"""Which windows to score when not all are: a coarse lattice first, then where the map changes most.

Approximate. The drops of the windows in between are interpolated. Where a rough score is much
cheaper than an exact one, it is the rough map that is drilled; the coarse lattice is scored exactly
too, and the difference, which is smooth, is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..export.incremental import Reach

__all__ = ["REACH", "SHARE", "check_share", "coarse_share", "corrected", "drill"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# Of the windows that are scored. On the bundled photos the map is then as near to the exact one
# as benchmarks/README.md says under "Drill-down".
SHARE = 0.6
# Of rough scores. On the bundled photos the map then has the exact one's texture, and is off by
# what the coarse lattice can tell; half of the margin loses the texture.
REACH = Reach(margin=5, share=0.33)
# The first pass takes every COARSE-th window per axis, if that leaves LEAST of them; a window of
# 16 at a stride of 4 is as far from the next then as it is wide.
COARSE, LEAST = 4, 5
# Of what the coarse pass leaves, spent on windows halfway between its own; the rest on all others.
HALFWAY = 0.8


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
    step = _coarse(counts)
    scored = np.zeros(counts, bool)
    wanted = _first(counts)
    values: Floats | None = None
    while True:
        which = np.flatnonzero(wanted)
        found = score(which)
        if values is None:
            values = np.zeros((len(found), *counts))
        values.reshape(len(found), -1)[:, which] = found
        scored |= wanted
        left = budget - int(scored.sum())
        if step == 1 or left <= 0:
            break
        step //= 2
        spend = left if step == 1 else round(HALFWAY * left)
        wanted = _worth(values, scored, step, spend)
    made = interpolated(values, scored)
    return made.reshape(len(made), -1), np.flatnonzero(scored)


def corrected(
    counts: tuple[int, int, int],
    share: float,
    rough: Callable[[Ints], Floats],
    score: Callable[[Ints], Floats],
) -> tuple[Floats, Ints]:
    """The same from rough scores for a share of the windows, and exact ones for the first lattice.

    Returns float64 [T, n] and the windows scored exactly, int64 [m] in order.
    """
    values, _ = drill(counts, share, rough)
    exact = _first(counts)
    which = np.flatnonzero(exact)
    off = np.zeros((len(values), *counts))
    off.reshape(len(values), -1)[:, which] = score(which) - values[:, which]
    return values + interpolated(off, exact).reshape(len(values), -1), which


def coarse_share(counts: tuple[int, int, int]) -> float:
    """The first lattice's share of the windows."""
    return float(_first(counts).mean())


def _first(counts: tuple[int, int, int]) -> Bools:
    wanted = np.zeros(counts, bool)
    wanted[np.ix_(np.arange(counts[0]), *_lattice(counts, _coarse(counts)))] = True
    return wanted


def interpolated(values: Floats, scored: Bools) -> Floats:
    """Windows that weren't scored, from those that were: [T, c, y, x]. From lattice to finer
    lattice, bilinearly, keeping what is known."""
    counts = (scored.shape[0], scored.shape[1], scored.shape[2])
    step = _coarse(counts)
    ys, xs = _lattice(counts, step)
    field = values[:, :, ys][:, :, :, xs]
    while step > 1:
        step //= 2
        finer_y, finer_x = _lattice(counts, step)
        field = _between(_between(field, ys, finer_y, 2), xs, finer_x, 3)
        ys, xs = finer_y, finer_x
        known = scored[:, ys][:, :, xs]
        field = np.where(known, values[:, :, ys][:, :, :, xs], field)
    return field


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


def _worth(values: Floats, scored: Bools, step: int, count: int) -> Bools:
    """The `count` windows of the next lattice around which the map changes most."""
    counts = (scored.shape[0], scored.shape[1], scored.shape[2])
    field = interpolated(values, scored)
    span = np.ptp(field.reshape(len(field), -1), axis=1)
    field = field / np.where(span > 0, span, 1)[:, None, None, None]
    reach = 2 * step
    change = (_widest(field, reach, np.max) - _widest(field, reach, np.min)).max(axis=0)
    candidates = np.zeros(counts, bool)
    candidates[np.ix_(np.arange(counts[0]), *_lattice(counts, step))] = True
    candidates &= ~scored
    order = np.argsort(np.where(candidates, -change, np.inf), axis=None, kind="stable")
    chosen = np.zeros(counts, bool)
    chosen.reshape(-1)[order[: min(count, int(candidates.sum()))]] = True
    return chosen


def _widest(field: Floats, reach: int, pick: Callable[..., Floats]) -> Floats:
    """The largest (smallest) value within `reach` windows along y and x."""
    for axis in (2, 3):
        pads = [(0, 0)] * 4
        pads[axis] = (reach, reach)
        padded = np.pad(field, pads, mode="edge")
        views = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        field = pick(views, axis=-1)
    return field
