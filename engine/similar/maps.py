"""Vectors laid out in the plane: principal components, then t-SNE or UMAP; pictures on a grid.

van der Maaten and Hinton 2008; Poličar, Stražar and Zupan 2019 (openTSNE); McInnes 2018 (UMAP).
"""

from __future__ import annotations

import importlib
import io
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ..photos.archives import arrays_in, expect

__all__ = ["METHODS", "Layout", "Map", "Principal", "project"]

METHODS = ("tsne", "umap", "pca")
COMPONENTS = 50
PERPLEXITY = 30.0
FEWEST = 4
# openTSNE's own advice for points that join a map: few neighbours, or they are drawn together.
_JOINING = 5.0


@dataclass(frozen=True)
class Principal:
    """Principal components. mean: [D]; axes: [P, D]; explained: the fraction of the variance."""

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    explained: float

    @classmethod
    def of(cls, vectors: NDArray[Any], count: int) -> Principal:
        """The first `count` components of [N, D] (or as many as there are)."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        scatter = np.zeros((vectors.shape[1],) * 2)
        for at in range(0, len(vectors), 8192):  # in float64 without a second copy of the set
            centred = vectors[at : at + 8192] - mean
            scatter += centred.T @ centred
        values, axes = np.linalg.eigh(scatter)
        count = min(count, *vectors.shape)
        axes = axes[:, ::-1][:, :count].T
        # An axis and its opposite are the same: the largest entry is made positive.
        largest = np.abs(axes).argmax(axis=1)
        axes = axes * np.sign(axes[np.arange(count), largest])[:, None]
        total = float(values.clip(0).sum())
        part = float(values[::-1][:count].clip(0).sum()) / total if total > 0 else 1.0
        return cls(mean.astype(np.float32), axes.astype(np.float32), part)

    def __call__(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        """[N, D] -> [N, P]."""
        return np.asarray((vectors - self.mean) @ self.axes.T, np.float32)


@dataclass(frozen=True)
class Layout:
    """How a map was made: what makes it again. perplexity: of t-SNE; neighbors: of UMAP."""

    method: str
    seed: int
    components: int
    explained: float
    perplexity: float | None = None
    neighbors: int | None = None

    def __str__(self) -> str:
        share = f"{100 * self.explained:.0f} % of the variance"
        if self.method == "pca":
            return f"the first two principal components ({share})"
        how = (
            f"t-SNE, perplexity {self.perplexity:g}"
            if self.method == "tsne"
            else f"UMAP, {self.neighbors} neighbours"
        )
        return f"{self.components} principal components ({share}), then {how}, seed {self.seed}"


@dataclass(frozen=True)
class Map:
    """Points in the plane and what places more among them.

    points: float64 [N, 2]. reduced: float32 [N, P], what they were laid out by.
    """

    layout: Layout
    points: NDArray[np.float64]
    reduced: NDArray[np.float32]
    principal: Principal

    def place(self, vectors: NDArray[Any]) -> NDArray[np.float64]:
        """Places for vectors [M, D] of the same kind, float64 [M, 2]; the map stays as it is.

        Raises UsageError for a UMAP map, and for vectors of another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.principal.mean):
            raise UsageError(
                f"vectors are {list(vectors.shape)}; expected [M, {len(self.principal.mean)}]"
            )
        if self.layout.method == "umap":
            raise UsageError("a UMAP map takes no new points; accepted: tsne, pca")
        reduced = self.principal(vectors)
        if self.layout.method == "pca":
            return np.asarray(reduced[:, :2], np.float64)
        if not len(vectors):
            return np.empty((0, 2))
        assert self.layout.perplexity is not None
        tsne = _module("openTSNE")
        with _quiet():
            affinities = _affinities(tsne, self.reduced, self.layout.perplexity, self.layout.seed)
            there = tsne.TSNEEmbedding(
                self.points.copy(), affinities, random_state=self.layout.seed, n_jobs=1
            )
            few = min(_JOINING, self.layout.perplexity)
            return np.array(there.transform(reduced, perplexity=few))

    def joined(self, vectors: NDArray[Any]) -> Map:
        """The map with more vectors placed in it, after the points that are there."""
        points = np.concatenate([self.points, self.place(vectors)])
        reduced = np.concatenate([self.reduced, self.principal(vectors)])
        return Map(self.layout, points, reduced, self.principal)

    def to_bytes(self) -> bytes:
        """As an .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            points=self.points,
            reduced=self.reduced,
            mean=self.principal.mean,
            axes=self.principal.axes,
            layout=np.array(json.dumps(asdict(self.layout))),
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, file: Path) -> Map:
        """Read what `to_bytes` wrote. Raises UsageError."""
        try:
            held = arrays_in(file, ("points", "reduced", "mean", "axes", "layout"))
            if held["layout"].dtype.kind != "U" or held["layout"].shape != ():
                raise ValueError("its layout is no text")
            count, width = len(np.atleast_1d(held["points"])), held["mean"].size
            parts = held["axes"].shape[0] if held["axes"].ndim else 0
            expect("points", held["points"], np.float64, (count, 2))
            expect("reduced", held["reduced"], np.float32, (count, parts))
            expect("mean", held["mean"], np.float32, (width,))
            expect("axes", held["axes"], np.float32, (parts, width))
            if not all(np.isfinite(held[n]).all() for n in ("points", "reduced", "mean", "axes")):
                raise ValueError("it has NaN or infinite values")
            layout = _checked(json.loads(str(held["layout"])), count)
            principal = Principal(held["mean"], held["axes"], layout.explained)
            return cls(layout, held["points"], held["reduced"], principal)
        except FileNotFoundError:
            raise UsageError(f"{file}: no such file; expected what 'backlight map' wrote") from None
        except (OSError, ValueError, RecursionError) as err:
            raise UsageError(f"{file}: not a map that 'backlight map' wrote: {err}") from err


def _checked(said: Any, count: int) -> Layout:
    """A layout as a map of `count` points can have it. Raises ValueError."""
    if not isinstance(said, dict) or set(said) != {f.name for f in fields(Layout)}:
        raise ValueError("its layout is none")
    layout = Layout(**said)
    method, near = layout.method, layout.neighbors
    whole = [layout.seed, layout.components, *([] if near is None else [near])]
    ok = (
        method in METHODS
        and count >= FEWEST
        and all(isinstance(n, int) and not isinstance(n, bool) for n in whole)
        and 0 <= layout.seed < 2**32
        and layout.components >= 1
        and _is_number(layout.explained)
        # What was chosen is written to three digits.
        and (layout.perplexity is None) == (method != "tsne")
        and (near is None) == (method != "umap")
        and (near is None or 1 <= near < count)
    )
    if not ok or (
        layout.perplexity is not None
        and not (_is_number(layout.perplexity) and 0.99 <= layout.perplexity <= count / 3)
    ):
        raise ValueError("its layout has values that no map has")
    return layout


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def project(
    vectors: NDArray[Any],
    method: str = "tsne",
    *,
    perplexity: float | None = None,
    seed: int = 0,
    components: int = COMPONENTS,
    threads: int = 1,
) -> Map:
    """Lay out vectors [N, D] in the plane, N >= 4.

    method: "tsne", "umap" or "pca". perplexity: of t-SNE, about the number of neighbours that
    count, at most (N - 1) / 3; None: 30, or what the number of points allows. components: kept of
    the vectors before. threads: with more than 1, the same seed need not give the same map.
    Raises UsageError.
    """
    count = len(vectors)
    if method not in METHODS:
        raise UsageError.unknown("method", method, METHODS)
    if vectors.ndim != 2 or count < FEWEST:
        raise UsageError(f"a map needs {FEWEST} pictures or more; there are {count}")
    if perplexity is not None and method != "tsne":
        raise UsageError(f"perplexity {perplexity:g} is of tsne; {method} has none")
    if components < 2:
        raise UsageError(f"components {components}; expected 2 or more")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed}; expected 0 to {2**32 - 1}")
    if not np.isfinite(vectors).all():
        raise UsageError("the vectors have NaN or infinite values")
    principal = Principal.of(vectors, 2 if method == "pca" else components)
    reduced = principal(vectors)
    kept = reduced.shape[1]
    if method == "pca":
        layout = Layout(method, seed, kept, principal.explained)
        flat = np.zeros((count, 2))
        flat[:, :kept] = reduced
        return Map(layout, flat, reduced, principal)
    start = _start(reduced, seed)
    if method == "umap":
        near = min(15, count - 1)
        layout = Layout(method, seed, kept, principal.explained, neighbors=near)
        return Map(layout, _umap(reduced, start, near, seed), reduced, principal)
    most = (count - 1) / 3
    if perplexity is not None and not 1 <= perplexity <= most:
        raise UsageError(
            f"perplexity {perplexity:g} with {count} pictures; expected 1 to {most:.4g}"
        )
    chosen = min(PERPLEXITY, most) if perplexity is None else perplexity
    layout = Layout(method, seed, kept, principal.explained, perplexity=round(chosen, 3))
    points = _tsne(reduced, start, chosen, seed, threads)
    return Map(layout, points, reduced, principal)


def _start(reduced: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """The first two components, small; told apart by noise where vectors are equal."""
    points = np.zeros((len(reduced), 2))
    points[:, : reduced.shape[1]] = reduced[:, :2]
    spread = points[:, 0].std()
    points = points / spread * 1e-4 if spread > 0 else points
    return points + np.random.default_rng(seed).normal(0, 1e-6, points.shape)


def _tsne(
    reduced: NDArray[np.float32],
    start: NDArray[np.float64],
    perplexity: float,
    seed: int,
    threads: int,
) -> NDArray[np.float64]:
    """t-SNE by openTSNE: early exaggeration, then 500 steps."""
    tsne = _module("openTSNE")
    with _quiet():
        affinities = _affinities(tsne, reduced, perplexity, seed, threads)
        made = tsne.TSNE(perplexity=perplexity, random_state=seed, n_jobs=threads)
        return np.array(made.fit(affinities=affinities, initialization=start))


def _affinities(
    tsne: Any, reduced: NDArray[np.float32], perplexity: float, seed: int, threads: int = 1
) -> Any:
    return tsne.affinity.PerplexityBasedNN(
        # Exact neighbours for small sets: they are as quick and need no seed.
        reduced,
        perplexity=perplexity,
        method="exact" if len(reduced) <= 5000 else "annoy",
        random_state=seed,
        n_jobs=threads,
    )


def _umap(
    reduced: NDArray[np.float32], start: NDArray[np.float64], near: int, seed: int
) -> NDArray[np.float64]:
    umap = _module("umap")
    with _quiet():
        # UMAP starts from positions of about 10.
        made = umap.UMAP(n_neighbors=near, random_state=seed, n_jobs=1, init=start * 1e4)
        return np.asarray(made.fit_transform(reduced), np.float64)


def _module(name: str) -> Any:
    try:
        if name == "openTSNE":
            importlib.import_module("openTSNE.affinity")
        return importlib.import_module(name)
    except ImportError as err:
        package, extra = ("umap-learn", "umap") if name == "umap" else (name, "maps")
        raise UsageError(f"{package} is not installed; pip install 'backlight[{extra}]'") from err


@contextmanager
def _quiet() -> Iterator[None]:
    """Their warnings tell of things that were settled above: seeds, threads, small sets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
