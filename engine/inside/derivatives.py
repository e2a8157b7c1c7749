"""Derivatives of a class score along directions in a layer, as `export.directional` writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...export.directional import DERIVATIVES, DIRECTIONS, directional_graph
from ..classifier.fed import Fed
from ..classifier.ready import Ready
from ..runtime.session import Providers, Session, default_lowering

__all__ = ["LayerDerivatives"]


class LayerDerivatives:
    """One layer of a model. of: the tensor that holds the scores. pooled: whether a direction is
    one of channels, the same at every position. Raises what `directional_graph` does."""

    def __init__(
        self, ready: Ready, name: str, of: str | None, pooled: bool,
        providers: Providers, threads: int | None,
    ) -> None:  # fmt: skip
        made = directional_graph(
            ready.loaded, name, of=of, pooled=pooled, lowering=default_lowering(providers)
        )
        self.name, self.axes, self.notes = made.layer, made.axes, made.notes
        beside = ("target", DIRECTIONS)
        self.fed = ready.feeding(Fed.of(made.model.graph, made.input, beside))
        self.fed.needs()
        self.session = Session(made.model, providers, threads)

    def rows(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """A layer's values [N, ...] as what its vectors are fitted to, [N, D]."""
        wide = values.astype(np.float32)
        if self.axes:
            wide = wide.mean(axis=self.axes)
        return np.ascontiguousarray(wide.reshape(len(wide), -1))

    def __call__(
        self, x: NDArray[Any], target: NDArray[np.int64], directions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[N, T] of images x [N, ...], their classes int64 [N], and directions [T, D]."""
        parts = []
        for feeds, count in self.fed.runs({self.fed.name: x, "target": target}):
            host = {k: np.ascontiguousarray(v) for k, v in feeds.items()}
            found = self.session.run(host | {DIRECTIONS: directions}, [DERIVATIVES])[DERIVATIVES]
            parts.append(np.asarray(found[:count], np.float32))
        return np.concatenate(parts)
