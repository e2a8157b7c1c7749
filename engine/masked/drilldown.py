"""Which windows to score when not all are: lattice by lattice, each twice as dense as the last,
of the last that can be afforded those windows where the map changes most, and then the strongest.

A lattice's next is its cells' midpoints (quincunx), then the midpoints of their sides. Half of all
windows so chosen tell more than half of a square lattice's and some more: a network's own strides
make a map's texture alternate from window to window along an axis, and every second row misses it.

Approximate by interpolation alone: what is scored is exact, what lies in between is interpolated.
How many a map needs is told by what the second lattice changes in the map of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ..pictures.likeness import ssim

__all__ = ["TYPICAL", "check_share", "drill"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# The first pass takes every COARSE-th window per axis, if that leaves LEAST of them; a window of
# 16 at a stride of 4 is as far from the next then as it is wide.
COARSE, LEAST = 4, 5
# Of all windows, scored last, the strongest. They do little for the map as a whole, and take the
# recall of its top 1% from 0.91 to 0.95.
STRONGEST = 0.03
# The share of the windows that lattices get, where none was given: so many times 1 - SSIM of the
# maps of the first and of the second lattice. The bundled photos' maps on three networks are then
# at an SSIM of 0.88 to 0.99, each network's at 0.9 or more (benchmarks/README.md, "Drill-down").
NEED = 2.2
# At most: the whole quincunx, which gives 0.96 or more. And what it comes to, for planning.
MOST, TYPICAL = 0.5, 0.3
# Rows of values that are asked how many windows they need: those of the widest range.
ASKED = 16


def check_share(share: float | None) -> float | None:
    """A share of the windows, or None. Raises UsageError."""
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"share {share}; accepted: above 0, at most 1")
    return None if share is None else float(share)


def drill(
    counts: tuple[int, int, int], share: float | None, score: Callable[[Ints], Floats]
) -> tuple[Floats, Ints]:
    """Values of all windows, some of them scored.

    counts: windows per axis (c, y, x); their order is row-major. share: of the windows that are
    scored; the coarse pass is always scored whole. None: by what the second lattice changes.
    score: int64 [m], windows -> float64 [T, m]; high: the window matters.
    Returns float64 [T, n] and the windows scored, int64 [m] in order.
    """
    total = int(np.prod(counts))
    scored = np.zeros(counts, bool)
    values = np.zeros((0, *counts))

    def see(wanted: Bools) -> None:
        nonlocal values
        which = np.flatnonzero(wanted)
        found = score(which)
        if not len(values):
            values = np.zeros((len(found), *counts))
        values.reshape(len(values), -1)[:, which] = found
        scored[wanted] = True

    see(_first(counts))
    stages = list(_stages(counts))
    if share is None and stages:
        before = interpolated(values, scored)
        see(stages.pop(0)[1])
        needed = _needed(before, interpolated(values, scored))
        share = max(needed, float(scored.mean())) + STRONGEST
    budget = total if share is None else round(share * total)
    lattices = budget - round(STRONGEST * total)
    for reach, stage in stages:
        left = lattices - int(scored.sum())
        if left <= 0:
            break
        whole = left >= stage.sum()
        see(stage if whole else _worth(values, scored, stage, reach, left))
    made = interpolated(values, scored)
    if budget > scored.sum() and not scored.all():
        see(_strongest(made, scored, budget - int(scored.sum())))
        made[:, scored] = values[:, scored]
    return made.reshape(len(made), -1), np.flatnonzero(scored)


def _needed(before: Floats, after: Floats) -> float:
    """The share of the windows that lattices get, of maps that one changed so: [T, c, y, x]."""
    low = after.min(axis=(1, 2, 3), keepdims=True)  # SSIM depends on where zero is
    before, after = before - low, after - low
    wide = np.argsort(-after.max(axis=(1, 2, 3)), kind="stable")[:ASKED]
    pairs = ((before[t, c], after[t, c]) for t in wide for c in range(after.shape[1]))
    change = 1 - float(np.mean([ssim(old, new) for old, new in pairs]))
    return min(MOST, NEED * change)  # MOST, where it isn't a number


def _strongest(values: Floats, scored: Bools, count: int) -> Bools:
    """So many windows that weren't scored, of the largest values, each row by its own range, with
    their neighbours'."""
    field = _around(values, 1, np.mean)
    field = field - field.min(axis=(1, 2, 3), keepdims=True)
    span = field.max(axis=(1, 2, 3), keepdims=True)
    strength = (field / np.where(span > 0, span, 1)).max(axis=0)
    return _largest(strength, ~scored, count)


def _largest(values: Floats, candidates: Bools, count: int) -> Bools:
    """The first `count` candidates by their values, [c, y, x]; what isn't a number is first."""
    values = np.where(np.isnan(values), np.inf, values)
    order = np.argsort(np.where(candidates, -values, np.inf), axis=None, kind="stable")
    chosen = np.zeros(values.shape, bool)
    chosen.reshape(-1)[order[: min(count, int(candidates.sum()))]] = True
    return chosen


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
    return _largest(change, candidates, count)


def _around(field: Floats, reach: int, pick: Callable[..., Floats]) -> Floats:
    """The largest (smallest, mean) value within `reach` windows along y and x."""
    for axis in (2, 3):
        pads = [(0, 0)] * 4
        pads[axis] = (reach, reach)
        padded = np.pad(field, pads, mode="edge")
        views = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        field = pick(views, axis=-1)
    return field
