"""Exact nearest neighbours: in blocks with NumPy, or by faiss's flat search for large sets.

Both give the same answer. A float32 matrix product finds candidates; what it can get wrong is
bounded, so candidates are taken beyond the k-th by that bound, and their distances are computed
anew in float64, from differences.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import UsageError

__all__ = ["METRICS", "SEARCHES", "Index", "Nearest", "neighbors"]

METRICS = ("l2", "cosine")
SEARCHES = ("auto", "numpy", "faiss")
# Above this many numbers, faiss is asked where it is installed.
FAISS_FROM = 20_000_000
_BLOCK = 1 << 22  # numbers of a block: 16 MB of float32
_MARGIN = 16
# From here on both multiply matrices, and NumPy's BLAS is the faster one (0.85 s against 2.3 s for
# 64 queries in 100,000 x 512, two AVX-512 cores).
_FEW = 20
_UNIT = 2.0**-24  # float32's unit roundoff


@dataclass(frozen=True)
class Nearest:
    """The k nearest rows of Q queries, nearest first; of equal distances the first row first.

    indices: int64 [Q, k]. distances: float64 [Q, k], Euclidean or 1 - cosine.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]


@take.accepts(k=take.number, metric=take.text, method=take.text)
def neighbors(
    vectors: NDArray[Any],
    queries: NDArray[Any],
    k: int = 8,
    *,
    metric: str = "l2",
    method: str = "auto",
) -> Nearest:
    """The k rows of `vectors` [N, D] nearest to each of `queries` [Q, D]: exact.

    metric: "l2" or "cosine" (1 - cosine; 1 where a vector is 0). method: "numpy", "faiss", or
    "auto": faiss where it is installed, the set is large and the queries are few. See Index for
    repeated searches.
    Raises UsageError for k out of range, for shapes that do not fit, and for absent faiss.
    """
    return Index(vectors, metric, method).search(queries, k)


def _numbers(name: str, given: Any) -> NDArray[Any]:
    try:
        found = np.asarray(given)
    except ValueError:  # rows of different lengths
        raise UsageError(f"{name} have rows of different lengths; expected [N, D]") from None
    if found.dtype.kind not in "iufb" and found.ndim == 2:
        raise UsageError(f"{name} are {found.dtype}; expected numbers")
    return found


class Index:
    """Rows that are searched more than once. vectors: [N, D], float32 or uint8, not copied.

    metric, method: see `neighbors`. Raises UsageError.
    """

    def __init__(self, vectors: NDArray[Any], metric: str = "l2", method: str = "auto") -> None:
        if metric not in METRICS:
            raise UsageError.unknown("metric", metric, METRICS)
        if method not in SEARCHES:
            raise UsageError.unknown("method", method, SEARCHES)
        vectors = _numbers("vectors", vectors)
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise UsageError(f"vectors are {list(vectors.shape)}; expected [N, D]")
        self._rows = vectors if vectors.dtype == np.uint8 else _float32(vectors)
        self.metric = metric
        large = vectors.size >= FAISS_FROM and vectors.dtype != np.uint8
        self._faiss = _faiss(method == "faiss") if method == "faiss" or large else None
        if method == "numpy":
            self._faiss = None
        self._auto = method == "auto"
        self.method = "numpy" if self._faiss is None else "faiss"

    def search(self, queries: NDArray[Any], k: int) -> Nearest:
        """The k nearest rows to each of `queries` [Q, D]. Raises UsageError, for NaN too."""
        count, width = self._rows.shape
        if not 1 <= k <= count or int(k) != k:
            raise UsageError(f"k {k}; the set has {count}: expected 1 to {count}")
        queries = _numbers("queries", queries)
        if queries.ndim != 2 or queries.shape[1] != width:
            raise UsageError(f"queries are {list(queries.shape)}; expected [Q, {width}]")
        asked = _float32(queries)
        with np.errstate(over="ignore"):
            lengths = np.einsum("qd,qd->q", asked, asked)
        if not (np.isfinite(lengths).all() and np.isfinite(self._longest)):
            raise UsageError(
                "a vector or query has NaN or infinite values, or is too long for float32"
            )
        if self._faiss is None or (self._auto and len(asked) >= _FEW):
            return self._by_numpy(asked, k)
        return self._by_faiss(asked, k)

    @cached_property
    def _squares(self) -> NDArray[np.float32]:
        """|x|^2 of each row."""
        parts = [np.einsum("nd,nd->n", b, b) for _, b in self._blocks(1)]
        return np.concatenate(parts)

    @cached_property
    def _scale(self) -> NDArray[np.float32]:
        """1 / |x| of each row, 0 for a row of zeros."""
        return _inverse(self._squares)

    @cached_property
    def _normed(self) -> NDArray[np.float32]:
        """What faiss searches: rows of length 1 for the cosine, the rows themselves for L2."""
        if self.metric == "l2":
            return _float32(self._rows)
        return self._rows * self._scale[:, None]

    def _blocks(self, queries: int) -> Any:
        """Rows in float32, so many that neither they nor their products take much memory."""
        count, width = self._rows.shape
        step = max(_BLOCK // max(width, queries), 1)
        for at in range(0, count, step):
            yield at, _float32(self._rows[at : at + step])

    def _by_numpy(self, queries: NDArray[np.float32], k: int) -> Nearest:
        """Candidates block by block, then exact distances of those."""
        if not len(queries):
            return Nearest(np.empty((0, k), np.int64), np.empty((0, k)))
        slack = self._slack(queries)
        lengths = np.einsum("qd,qd->q", queries, queries)
        found: list[list[NDArray[np.int64]]] = [[] for _ in queries]
        near: list[list[NDArray[np.float32]]] = [[] for _ in queries]
        for at, block in self._blocks(len(queries)):
            here = slice(at, at + len(block))
            # One query: a matrix-vector product reads the block once.
            one = len(queries) == 1
            products = (block @ queries[0])[None] if one else queries @ block.T
            if self.metric == "l2":
                # |q|^2 is the same for all rows; it is left in for the bound's sake.
                scores = self._squares[here] - 2 * products + lengths[:, None]
            else:
                scores = -products * self._scale[here] * _inverse(lengths)[:, None]
            kth = min(k, len(block)) - 1
            for row, score in enumerate(scores):
                limit = np.partition(score, kth)[kth] + slack[row]
                chosen = np.flatnonzero(score <= limit)
                found[row].append(chosen + at)
                near[row].append(score[chosen])
        indices, distances = [], []
        for row, query in enumerate(queries):
            candidates, scores = np.concatenate(found[row]), np.concatenate(near[row])
            limit = np.partition(scores, k - 1)[k - 1] + slack[row]
            best, exact = self._exact(query, candidates[scores <= limit], k)
            indices.append(best)
            distances.append(exact)
        return Nearest(np.stack(indices), np.stack(distances))

    def _by_faiss(self, queries: NDArray[np.float32], k: int) -> Nearest:
        """faiss's candidates; where they end within the bound of the k-th, NumPy decides."""
        assert self._faiss is not None
        count = len(self._rows)
        more = min(k + _MARGIN, count)
        asked, kind = queries, self._faiss.METRIC_L2
        if self.metric == "cosine":
            lengths = np.einsum("qd,qd->q", queries, queries)
            asked = queries * _inverse(lengths)[:, None]
            kind = self._faiss.METRIC_INNER_PRODUCT
        scores, found = self._faiss.knn(_float32(asked), self._normed, more, metric=kind)
        scores = scores if self.metric == "l2" else -scores
        slack = self._slack(queries)
        sure = (more == count) | (scores[:, -1] - scores[:, k - 1] > slack)
        indices = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float64)
        for row in np.flatnonzero(sure):
            indices[row], distances[row] = self._exact(queries[row], np.sort(found[row]), k)
        if not sure.all():
            rest = self._by_numpy(queries[~sure], k)
            indices[~sure], distances[~sure] = rest.indices, rest.distances
        return Nearest(indices, distances)

    def _slack(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Twice what a float32 score can be off by: sums of D products, each rounded, and the
        three terms around them (Higham 2002, section 3.1)."""
        width = self._rows.shape[1]
        if self.metric == "cosine":
            return np.full(len(queries), 4 * (width + 8) * _UNIT, np.float32)
        reach = np.sqrt(np.einsum("qd,qd->q", queries, queries)) + self._longest
        return np.asarray(2 * (width + 8) * _UNIT * reach**2, np.float32)

    @cached_property
    def _longest(self) -> float:
        return float(np.sqrt(self._squares.max()))

    def _exact(
        self, query: NDArray[np.float32], candidates: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k nearest of the candidates (in ascending order), in float64."""
        rows, wanted = self._rows[candidates].astype(np.float64), query.astype(np.float64)
        if self.metric == "l2":
            distances = np.sqrt(((rows - wanted) ** 2).sum(axis=1))
        else:
            lengths = np.sqrt((rows**2).sum(axis=1) * (wanted**2).sum())
            with np.errstate(divide="ignore", invalid="ignore"):
                cosine = np.where(lengths > 0, rows @ wanted / lengths, 0.0)
            # Rounding would otherwise tell equal rows apart, and put 1 + 2e-16 below zero.
            distances = np.maximum(np.round(1 - cosine, 12), 0.0)
        order = np.argsort(distances, kind="stable")[:k]
        return candidates[order], distances[order]


def _float32(x: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(x, np.float32)


def _inverse(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / sqrt, 0 for 0."""
    roots = np.sqrt(squares)
    return np.divide(1, roots, out=np.zeros_like(roots), where=roots > 0)


def _faiss(needed: bool) -> Any:
    """The module faiss, None where it is absent and not needed. Raises UsageError."""
    try:
        return importlib.import_module("faiss")
    except ImportError as err:
        if needed:
            raise UsageError("faiss is not installed; pip install 'backlight[maps]'") from err
        return None
