"""Tables of segments switched on and off, and the one matrix that fits a linear model to each.

The weights of the rows depend on the table alone, so the whole regression is a constant matrix
[S, n]: all classes of an image, and all images with as many segments, are one product with it.

Ribeiro et al. 2016 (LIME); Lundberg and Lee 2017 (KernelSHAP); Shapley 1953.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb, lgamma

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError

__all__ = ["EXACT", "Fit", "Regression", "lime_regression", "shap_regression"]

Floats = NDArray[np.float64]
Table = NDArray[np.uint8]

# Segments whose every subset is run: 4096 rows, exact Shapley values.
EXACT = 12
# The kernel's width and the ridge of the authors' code (lime 0.2).
WIDTH, RIDGE = 0.25, 1.0
# Of a table as float64, half a gigabyte.
MOST_CELLS = 2**26


@dataclass(frozen=True)
class Fit:
    """A linear model of scores near an image.

    values: [S, T], what each segment adds. intercept: [T], where all are hidden. r2: [T], how much
    of the rows' weighted variance it explains; NaN where the rows don't differ. gap: [T], by how
    much the values' sum misses what hiding all segments costs.
    """

    values: Floats
    intercept: Floats
    r2: Floats
    gap: Floats


@dataclass(frozen=True, eq=False)
class Regression:
    """A table and what solves it.

    table: uint8 [n, S], 1 = kept; row 0 keeps all, row 1 nothing. weights: float64 [n], of the
    rows. matrix: float64 [S, n], values = matrix @ (scores - their row 0). anchored: the line goes
    through row 1, and by the values' sum through row 0; else the intercept is fitted. exact: every
    subset is a row.
    """

    table: Table
    weights: Floats
    matrix: Floats
    anchored: bool
    exact: bool

    def fit(self, scores: Floats) -> Fit:
        """Of scores float64 [n, T], one a row and class."""
        # The matrix gives nothing for what all rows share; so rounding gives nothing either.
        rise = scores - scores[0]
        values = self.matrix @ rise
        table = self.table.astype(np.float64)
        total = self.weights.sum() or 1.0  # both ends alone have no weight
        mean = self.weights @ rise / total
        if self.anchored:
            intercept = rise[1].copy()
        else:
            intercept = mean - (self.weights @ table / total) @ values
        left = self.weights @ (rise - intercept - table @ values) ** 2
        spread = self.weights @ (rise - mean) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = np.where(spread > 0, 1 - left / spread, np.nan)
        return Fit(values, intercept + scores[0], r2, values.sum(axis=0) + rise[1])


def lime_regression(segments: int, rows: int, seed: int) -> Regression:
    """LIME's: rows of fair coins, weighted by exp(-d^2 / w^2)^(1/2), d a row's cosine distance to
    all ones, w = 0.25; ridge regression with an intercept, lambda = 1.

    Each row comes with its opposite (antithetic), which halves the variance. Every subset once,
    where there are no more than `rows` of them. Raises UsageError.
    """
    _check(segments, rows)
    if 2**segments <= rows:
        table, exact = _every(segments), True
    else:
        half = np.random.default_rng(seed).random((-(-rows // 2), segments)) < 0.5
        half[0] = True
        table = np.stack([half, ~half], axis=1).reshape(-1, segments)[:rows].astype(np.uint8)
        exact = False
    # Of a row without a one the cosine is 0: as far away as can be.
    distance = 1 - np.sqrt(table.sum(axis=1) / segments)
    weights = np.sqrt(np.exp(-((distance / WIDTH) ** 2)))
    centred = table - weights @ table / weights.sum()
    weighted = centred.T * weights
    matrix = np.linalg.solve(weighted @ centred + RIDGE * np.eye(segments), weighted)
    return Regression(table, weights, matrix, anchored=False, exact=exact)


def shap_regression(segments: int, rows: int | None, seed: int) -> Regression:
    """KernelSHAP's: weighted least squares under the Shapley kernel, through both ends.

    rows: None: every subset of up to 12 segments, which gives exact Shapley values, else
    2 S + 2048. Sizes whose subsets all fit are enumerated, from both ends; of the others pairs of a
    subset and its complement are drawn. Raises UsageError.
    """
    every = segments <= EXACT and (rows is None or 2**segments <= rows)
    count = 2 * segments + 2048 if rows is None else rows
    _check(segments, 2**segments if every else count)
    if every:
        table = _every(segments)
        sizes = table.sum(axis=1).astype(np.int64)
        weights = _kernel(segments)[sizes]
        return Regression(table, weights, _shapley(table, sizes), anchored=True, exact=True)
    table, weights = _sampled(segments, count, np.random.default_rng(seed))
    return Regression(table, weights, _constrained(table, weights), anchored=True, exact=False)


def _check(segments: int, rows: int) -> None:
    if rows < 2:
        raise UsageError(f"{rows} masks; accepted: 2 or more")
    if rows * segments > MOST_CELLS:
        raise UsageError(
            f"{rows} masks of {segments} segments; accepted: at most {MOST_CELLS // segments}"
        )


def _every(segments: int) -> Table:
    """All subsets, [2^S, S]; all ones, then none, then the others."""
    number = np.arange(2**segments)
    number = np.concatenate([number[-1:], number[:-1]])
    table: Table = (number[:, None] >> np.arange(segments) & 1).astype(np.uint8)
    return table


def _kernel(segments: int) -> Floats:
    """The Shapley kernel's weight of one subset, by its size 0..S; 0 for both ends, which the
    line goes through."""
    weights = np.zeros(segments + 1)
    for size in range(1, segments):
        weights[size] = (segments - 1) / (comb(segments, size) * size * (segments - size))
    return weights


def _shapley(table: Table, sizes: NDArray[np.int64]) -> Floats:
    """Shapley values as a matrix over all subsets: each subset's score counts, for a segment in
    it, (s - 1)! (S - s)! / S!, and for one that isn't, -s! (S - s - 1)! / S!."""
    segments = table.shape[1]

    def orders(before: NDArray[np.int64], after: NDArray[np.int64]) -> Floats:
        terms = [lgamma(b + 1) + lgamma(a + 1) for b, a in zip(before, after, strict=True)]
        return np.exp(np.array(terms) - lgamma(segments + 1))

    inside = orders(np.maximum(sizes - 1, 0), segments - sizes)
    outside = orders(sizes, np.maximum(segments - sizes - 1, 0))
    return np.where(table == 1, inside[:, None], -outside[:, None]).T


def _sampled(segments: int, rows: int, random: np.random.Generator) -> tuple[Table, Floats]:
    """`rows` subsets, both ends among them, and their weights."""
    sizes = np.arange(1, segments)
    mass = (segments - 1) / (sizes * (segments - sizes))
    mass = mass / mass.sum()
    found: dict[bytes, int] = {}
    table: list[Table] = []
    weights: list[float] = []

    def add(row: Table, weight: float) -> None:
        found[row.tobytes()] = len(table)
        table.append(row)
        weights.append(weight)

    add(np.ones(segments, np.uint8), 0.0)
    add(np.zeros(segments, np.uint8), 0.0)
    left = mass.copy()
    for size in range(1, segments // 2 + 1):
        both = {size, segments - size}
        share = sum(left[s - 1] for s in both)
        subsets = len(both) * comb(segments, size)
        room = rows - len(table)
        if room * share < subsets * left.sum() * (1 - 1e-9) or room < subsets:
            break
        for row in _of_size(segments, size):
            add(row, share / subsets)
            if len(both) == 2:
                add((1 - row).astype(np.uint8), share / subsets)
        for s in both:
            left[s - 1] = 0.0
    first, rest = len(table), float(left.sum())
    if rest > 0:
        tries = 4 * (rows - first)
        drawn = random.choice(sizes, size=max(tries, 1), p=left / rest)
        for size in drawn:
            if len(table) >= rows:
                break
            row = np.zeros(segments, np.uint8)
            row[random.permutation(segments)[:size]] = 1
            for one in (row, (1 - row).astype(np.uint8)):
                at = found.get(one.tobytes())
                if at is not None:
                    weights[at] += 1.0
                elif len(table) < rows:
                    add(one, 1.0)
    made = np.array(weights)
    if first < len(made):
        made[first:] *= rest / made[first:].sum()
    return np.stack(table), made


def _of_size(segments: int, size: int) -> Iterator[Table]:
    for chosen in combinations(range(segments), size):
        row = np.zeros(segments, np.uint8)
        row[list(chosen)] = 1
        yield row


def _constrained(table: Table, weights: Floats) -> Floats:
    """The matrix [S, n] of weighted least squares through rows 0 and 1: values that sum to the rise
    between the two, written as an equal share of it and what sums to 0."""
    rows, segments = table.shape
    # An orthonormal basis of what sums to 0 (Helmert's).
    basis = np.zeros((segments, segments - 1))
    for k in range(1, segments):
        basis[:k, k - 1] = 1
        basis[k, k - 1] = -k
        basis[:, k - 1] /= np.sqrt(k * (k + 1))
    design = table.astype(np.float64)
    shares = design.sum(axis=1) / segments
    reduced = design @ basis
    weighted = reduced.T * weights
    # Fewer rows than segments leave some directions open: they get nothing.
    inverse = np.linalg.pinv(weighted @ reduced, rcond=1e-10, hermitian=True)
    solve = basis @ (inverse @ weighted)
    # Residuals are y - y1 - shares (y0 - y1).
    matrix = solve.copy()
    matrix[:, 0] -= solve @ shares
    matrix[:, 1] -= solve @ (1 - shares)
    matrix[:, 0] += 1 / segments
    matrix[:, 1] -= 1 / segments
    assert matrix.shape == (segments, rows)
    return matrix
