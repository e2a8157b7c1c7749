"""Which cells of one picture, replaced by which of another, change the class: Goyal et al. 2019,
"Counterfactual Visual Explanations", on arrays.

A cell is a place of a layer; a swap is a pair (cell of the photo, cell of the distractor).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pairs", "Swap", "greedy", "sort"]

Swap = tuple[int, int]
# int64 [P, 2]: cells of the photo and of the distractor.
Pairs = NDArray[np.int64]
# For pairs, each on top of the swaps so far: how much the photo is of the class then, [P].
Rate = Callable[[list[Swap], Pairs], NDArray[np.float64]]


def sort(photo: NDArray[Any], distractor: NDArray[Any]) -> list[Swap]:
    """All swaps, the best first, where what a cell adds to the margin between the two classes is
    known: [n] of the photo's cells and [m] of the distractor's.

    The cell that speaks most against goes, the one that speaks most for comes. No other swaps, as
    few, raise the margin by more: a sum of differences is largest with the largest less the
    smallest. Ties go to the first cell.
    """
    goes = np.argsort(photo, kind="stable")
    comes = np.argsort(-np.asarray(distractor), kind="stable")
    return [(int(i), int(j)) for i, j in zip(goes, comes, strict=False)]


def greedy(
    cells: int, others: int, rate: Rate, now: float, most: int
) -> Iterator[tuple[Swap, float]]:
    """One swap after another, each the best of all that are left, and the rate with it; ends where
    none raises it. A cell that was replaced, or used, is out.

    rate: how much the photo is of the class with swaps. now: without any. most: pairs to rate for
    a swap, at most: where there are more, those that look best when one of the two is exchanged for
    the average.
    """
    done: list[Swap] = []
    while len(done) < min(cells, others):
        free = [i for i in range(cells) if all(i != s[0] for s in done)]
        left = [j for j in range(others) if all(j != s[1] for s in done)]
        pairs = _candidates(free, left, done, rate, most)
        rates = rate(done, pairs)
        at = int(rates.argmax())
        if not rates[at] > now:
            return
        now = float(rates[at])
        done.append((int(pairs[at, 0]), int(pairs[at, 1])))
        yield done[-1], now


def fewest(cells: int, others: int) -> int:
    """The pairs that a swap takes at least, where not all can be rated."""
    return cells + others + 1


def _candidates(free: list[int], left: list[int], done: list[Swap], rate: Rate, most: int) -> Pairs:
    if len(free) * len(left) <= most:
        return np.array([(i, j) for i in free for j in left], np.int64)
    # In a linear head, a pair's gain is the sum of two: what goes, and what comes. The average of
    # what is left (-1) stands for the other one.
    going = rate(done, np.array([(i, -1) for i in free], np.int64))
    worst = free[int(going.argmax())]
    coming = rate(done, np.array([(worst, j) for j in left], np.int64))
    guess = going[:, None] + coming[None, :]
    count = max(most - len(free) - len(left), 1)
    best = np.argsort(-guess, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(best, guess.shape)
    found = np.stack([np.asarray(free)[rows], np.asarray(left)[columns]], axis=1)
    return np.asarray(found, np.int64)
