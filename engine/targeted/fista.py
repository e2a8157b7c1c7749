"""Least changes that a classifier's margin asks for: FISTA with a search for the hinge's weight.

    minimise  c max(0, kappa + h(d)) + beta |d|_1 + |d|_2^2   for low <= d <= high

h is the target's margin for a pertinent negative (the class has to go) and minus it for a pertinent
positive (the class has to stay). Dhurandhar et al. 2018, "Explanations based on the Missing". Every
row of a batch is a problem of its own: what one does leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RunError, UsageError
from ..runtime import arrays

__all__ = ["Found", "Search", "search"]

# The first guess of the weight is multiplied by this until it suffices.
_TIMES = 10.0
# Falls of the loss below this share of it are none.
_LEAST = 1e-4
# A weight of 10 that grows tenfold in each is near the end of float32 by then.
MOST_ROUNDS = 36
# Of a round; and of what weighs one thing against another, in float32 together with scores.
MOST_STEPS, MOST = 1_000_000, 1e6

# (rows, d of those) -> the hinge's h, float [n], and its gradient by d.
Evaluate = Callable[[NDArray[np.int64], Any], tuple[Any, Any]]
Each = Callable[[int], None]


@dataclass(frozen=True)
class Search:
    """How a search goes.

    c: the first weight of the hinge; rounds: how many weights are tried, each row its own: halfway
    between the largest that failed and the least that sufficed, ten times as much where none did.
    kappa: by how much the class has to be ahead, or behind. beta: of the L1 norm.
    steps: of a round. rate: the first step, as the most that the hinge moves a variable by; it
    falls as sqrt(1 - k / steps). patience: a row's round ends after so many steps that better
    nothing.
    """

    c: float = 10.0
    rounds: int = 3
    kappa: float = 0.0
    beta: float = 0.1
    steps: int = 200
    rate: float = 0.1
    patience: int = 40

    def __post_init__(self) -> None:
        for name in ("c", "rate"):
            if not 0 < getattr(self, name) <= MOST:
                raise UsageError(
                    f"{name} {getattr(self, name)}; expected more than 0, at most {MOST:g}"
                )
        for name in ("kappa", "beta"):
            if not 0 <= getattr(self, name) <= MOST:
                raise UsageError(
                    f"{name} {getattr(self, name)}; expected 0 or more, at most {MOST:g}"
                )
        for name in ("rounds", "steps", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}; expected 1 or more")
        if self.steps > MOST_STEPS:
            raise UsageError(f"steps {self.steps}; expected at most {MOST_STEPS}")
        if self.rounds > MOST_ROUNDS:
            raise UsageError(
                f"rounds {self.rounds}; expected at most {MOST_ROUNDS}: a weight may grow tenfold "
                "in each"
            )


@dataclass(frozen=True)
class Found:
    """The least change of each row that does it. d: [N, ...]; where none does, the last one tried.
    reached: Boolean [N], whether it does. c: float64 [N], the weight that it was found with.
    steps: int64 [N], how many were taken."""

    d: Any
    reached: NDArray[np.bool_]
    c: NDArray[np.float64]
    steps: NDArray[np.int64]


def search(
    start: Any, low: Any, high: Any, evaluate: Evaluate, how: Search, each: Each | None = None,
    xp: Any = np,
) -> Found:  # fmt: skip
    """Search from `start`, [N, ...], in the box low <= d <= high, which holds 0. each: told how
    many steps of a row are done, or not needed. Raises RunError for a margin that is no number."""
    count = len(start)
    lower, upper = np.zeros(count), np.full(count, np.inf)
    weight = np.full(count, how.c)
    best, norm = start.copy(), np.full(count, np.inf)
    used, taken = np.zeros(count), np.zeros(count, np.int64)
    for _ in range(how.rounds):
        before = norm.copy()
        made = _Round(start, low, high, evaluate, how, weight, best, norm, xp)
        taken += made.run(each)
        used = np.where(norm < before, weight, used)
        did = made.reached
        if how.rounds == 1:
            break
        upper = np.where(did, np.minimum(upper, weight), upper)
        lower = np.where(did, lower, np.maximum(lower, weight))
        middle = (lower + np.where(np.isfinite(upper), upper, 0)) / 2
        weight = np.where(np.isfinite(upper), middle, weight * _TIMES)
    reached = np.isfinite(norm)
    return Found(best, reached, np.where(reached, used, weight), taken)


class _Round:
    """One weight for each row. best, norm: filled in where a row does better."""

    def __init__(
        self, start: Any, low: Any, high: Any, evaluate: Evaluate, how: Search,
        weight: NDArray[np.float64], best: Any, norm: NDArray[np.float64], xp: Any,
    ) -> None:  # fmt: skip
        self.low, self.high, self.evaluate, self.how, self.xp = low, high, evaluate, how, xp
        self.best, self.norm = best, norm
        self.d, self.y = start.copy(), start.copy()
        self.weight = weight
        count = len(start)
        self.reached = np.zeros(count, bool)
        self.loss = np.full(count, np.inf)
        self.idle = np.zeros(count, np.int64)

    def run(self, each: Each | None) -> NDArray[np.int64]:
        """The steps that each row took."""
        how, taken = self.how, np.zeros(len(self.d), np.int64)
        rows = np.arange(len(self.d))
        for step in range(how.steps):
            taken[rows] += 1
            rate = how.rate * (1 - step / how.steps) ** 0.5
            self._step(rows, rate, step / (step + 3))
            going = rows[self.idle[rows] < how.patience]
            if each is not None:
                each(len(rows) + (len(rows) - len(going)) * (how.steps - step - 1))
            rows = going
            if not len(rows):
                break
        # The last point, which no gradient is needed of any more.
        every = np.arange(len(self.d))
        self._judge(every, self.d, self._asked(every, self.d)[0])
        return taken

    def _step(self, rows: NDArray[np.int64], rate: float, momentum: float) -> None:
        xp, how = self.xp, self.how
        y, d = self.y[rows], self.d[rows]
        h, by = self._asked(rows, y)
        self._judge(rows, y, h)
        wide = (len(rows), *[1] * (y.ndim - 1))
        pull = np.where(how.kappa + h > 0, self.weight[rows], 0.0)
        by = by * xp.asarray(pull.reshape(wide), np.float32)
        # The scale of scores is the network's own: at most `rate` at once.
        largest = xp.abs(by).reshape(len(rows), -1).max(axis=1).reshape(wide)
        size = (rate / xp.maximum(largest, 1)).astype(np.float32)
        new = self._nearest(rows, y - size * (by + 2 * y), size * np.float32(how.beta))
        self.d[rows] = new
        moved = new + np.float32(momentum) * (new - d)
        self.y[rows] = xp.clip(moved, self.low[rows], self.high[rows])

    def _nearest(self, rows: NDArray[np.int64], d: Any, threshold: Any) -> Any:
        """The proximal step: towards 0 by the threshold, and into the box, which holds 0."""
        xp = self.xp
        shrunk = xp.sign(d) * xp.maximum(xp.abs(d) - threshold, 0)
        return xp.clip(shrunk, self.low[rows], self.high[rows])

    def _asked(self, rows: NDArray[np.int64], d: Any) -> tuple[NDArray[np.float64], Any]:
        h, by = self.evaluate(rows, d)
        held = arrays.to_host(h).astype(np.float64)
        if not np.isfinite(held).all():
            raise RunError("the class's margin is no finite number; a smaller rate may help")
        return held, by

    def _judge(self, rows: NDArray[np.int64], d: Any, h: NDArray[np.float64]) -> None:
        """Keep what does it with the least change, and see whether the rows get anywhere."""
        flat = d.reshape(len(rows), -1)
        norms = self.how.beta * self.xp.abs(flat).sum(axis=1) + (flat * flat).sum(axis=1)
        size = arrays.to_host(norms).astype(np.float64)
        hinge = np.maximum(self.how.kappa + h, 0)
        loss = self.weight[rows] * hinge + size
        does = (hinge <= 0) & (h < 0)
        self.reached[rows] |= does
        better = does & (size < self.norm[rows])
        gained = better & ~(size > (1 - _LEAST) * self.norm[rows])
        self.best[rows[better]] = d[better]
        self.norm[rows[better]] = size[better]
        fell = loss < (1 - _LEAST) * self.loss[rows]
        self.loss[rows] = np.where(fell, loss, self.loss[rows])
        self.idle[rows] = np.where(fell | gained, 0, self.idle[rows] + 1)
