"""Part patterns of a layer's filters: where in the map each part is, and which parts of the layer
above it moves with.

Zhang, Cao, Shi, Wu, Zhu: Interpreting CNN knowledge via an explanatory graph (AAAI 2018). A
filter's map, rectified, is a density of positions; each of its patterns is a Gaussian in it, around
the place where the patterns above it (its parents) expect it in that photo; a constant density
takes what no pattern explains. EM finds means and deviations, layer by layer from the top.

What differs from their code: means are in closed form; a parent counts by how little its distance
to the part varies; patterns of one filter that end on the same place become one. Their photos are
cropped to the object. Here it may be anywhere: a filter's patterns start in the frame, of all that
the patterns above offer, in which its maps agree best over the photos, and above the topmost layer
stand the places where its own filters are strongest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .frames import Fitted, Floats, frames_of, peaks
from .patterns import FilterMaps, Settings

__all__ = ["Fitted", "Settings", "fit"]


def fit(
    maps: NDArray[np.float16],
    settings: Settings,
    above: Fitted | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Fitted:
    """The patterns of a layer's filters. maps: [N, C, h, w], rectified here. above: those of the
    layer above; None for the topmost. progress: called after each filter."""
    values = [_scaled(maps[:, channel]) for channel in range(maps.shape[1])]
    heard = [at for at, one in enumerate(values) if one.any()]  # the others are silent
    top = above is None
    if above is None:
        above = peaks([values[at] for at in heard], maps.shape[2:])
    frames = frames_of([values[at] for at in heard], above) if heard else []
    found: list[Fitted] = []
    for at, one in enumerate(values):
        if at in heard:
            made = FilterMaps(one, settings, above, frames[heard.index(at)]).fitted()
            made.filter[:] = at
            found.append(made)
        progress()
    if not found:
        found = [FilterMaps(values[0], settings, above, []).nothing()]
    result = _joined(found)
    if top:
        none = (len(result), 0)
        result.parents = np.zeros(none, np.int64)
        result.offset, result.residual = np.zeros((*none, 2)), np.zeros(none)
    return result


def _scaled(maps: NDArray[np.float16]) -> Floats:
    """A filter's maps [N, h, w], rectified, 1 where they are strong."""
    values: Floats = np.maximum(maps.astype(np.float64), 0)
    top = values.max(axis=(1, 2))
    scale = np.percentile(top, 90) or top.max() or 1.0
    scaled: Floats = np.minimum(values / scale, 1)
    return scaled


def _joined(found: list[Fitted]) -> Fitted:
    wide = max(one.parents.shape[1] for one in found)
    for one in found:
        more = wide - one.parents.shape[1]
        one.parents = np.pad(one.parents, ((0, 0), (0, more)), constant_values=-1)
        one.offset = np.pad(one.offset, ((0, 0), (0, more), (0, 0)))
        one.residual = np.pad(one.residual, ((0, 0), (0, more)))

    def along(name: str, axis: int) -> NDArray[np.float64]:
        return np.concatenate([getattr(one, name) for one in found], axis=axis)

    of_patterns = ("mean", "deviation", "share", "offset", "residual", "average")
    return Fitted(
        filter=np.concatenate([one.filter for one in found]),
        position=along("position", 1), score=along("score", 1),
        unit=np.concatenate([one.unit for one in found], axis=1),
        parents=np.concatenate([one.parents for one in found]),
        **{name: along(name, 0) for name in of_patterns},
    )  # fmt: skip
