"""Whether two samples differ: Welch's t-test, two-sided, without a library.

SciPy has the same (`scipy.stats.ttest_ind(..., equal_var=False)`, which the tests hold this to) and
weighs 140 MB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["two_sided", "welch"]

_STEPS, _CLOSE, _TINY = 300, 1e-15, 1e-300
# Two samples whose spread is rounding alone have none: as a part of their size.
_ROUNDING = 1e-12


def welch(a: Sequence[float] | NDArray[Any], b: Sequence[float] | NDArray[Any]) -> float | None:
    """The two-sided p-value of a difference in mean (Welch 1947): of samples with spreads of
    their own. None where one of them has fewer than two values. Of two samples without any spread:
    1 where they are equal, else 0."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(x) < 2 or len(y) < 2:
        return None
    apart = float(x.mean() - y.mean())
    u, v = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    size = max(abs(float(x.mean())), abs(float(y.mean())))
    if math.sqrt(u + v) <= _ROUNDING * size:
        return 1.0 if abs(apart) <= _ROUNDING * size else 0.0
    freedom = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    return two_sided(apart / math.sqrt(u + v), freedom)


def two_sided(t: float, freedom: float) -> float:
    """The chance of a |t| as large or larger, by Student's distribution: the regularised
    incomplete beta function I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t**2)."""
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), by its continued fraction (NIST Handbook of Mathematical Functions, 8.17.22),
    from the side on which that converges."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta(1.0 - x, b, a)
    front = math.exp(
        a * math.log(x)
        + b * math.log1p(-x)
        + math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
    ) / a  # fmt: skip
    # Lentz's evaluation, from the front.
    c, d = 1.0, 1.0 / (_away(1.0 - (a + b) * x / (a + 1)))
    value = d
    for m in range(1, _STEPS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away(1.0 + term * d)
            c = _away(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < _CLOSE:
            break
    return front * value


def _away(value: float) -> float:
    """A denominator that isn't 0."""
    return value if abs(value) > _TINY else _TINY
