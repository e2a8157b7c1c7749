"""How far two explanations of the same images are apart: cosine, SSIM, overlap of the top 1%.

Cosine is of the whole signed gradient. SSIM and the overlap are of the map that people look at,
[H, W], the largest absolute value over channels (Simonyan et al. 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..photos import images
from ..pictures.likeness import cosine, ssim, top_overlap

if TYPE_CHECKING:
    from ..direct.explainer import Explainer

__all__ = ["Drift", "between", "explained"]

Map = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Drift:
    """One image under one rule: 1 everywhere means that nothing changed."""

    image: str
    rule: str
    cosine: float
    ssim: float
    top: float


def between(got: Map, want: Map, layout: str, image: str, rule: str) -> Drift:
    """The drift of one image's gradient from another, both in the input's layout without a
    batch."""
    mine, theirs = _shown(got, layout), _shown(want, layout)
    return Drift(image, rule, cosine(got, want), ssim(mine, theirs), top_overlap(mine, theirs))


def _shown(values: Map, layout: str) -> Map:
    """What people look at, [H, W]; a class activation map is that already."""
    if values.ndim == 2:
        return np.abs(values)
    return np.asarray(np.abs(images.channels_last(values, layout)).max(axis=-1))


def explained(
    candidate: Explainer,
    reference: Explainer,
    batch: NDArray[Any],
    names: Sequence[str],
    *,
    target: Any = None,
    baked: bool = False,
) -> list[Drift]:
    """Explain images [N, ...] with both and compare the maps, image by image, rule by rule.

    target: one class or N of them; default: each image's top class under the reference, for both.
    The class that it is told from, where the file takes one, is the reference's for both likewise.
    baked: the two files have their class in them and take none.
    Raises UsageError for a class out of range.
    """
    layout = reference.input.layout
    wanted = None if target is None else np.broadcast_to(target, (len(names),))
    found: list[Drift] = []
    for at, name in enumerate(names):
        x = batch[at : at + 1]
        want = reference(x, None if wanted is None else wanted[at : at + 1])
        got = candidate(
            x.astype(candidate.input.dtype),
            None if baked else want.target,
            contrast=want.contrast if candidate.contrasts else None,
        )
        for rule in candidate.methods:
            mine, theirs = (np.asarray(e.saliency[rule])[0] for e in (got, want))
            found.append(between(mine, theirs, layout, name, rule))
    return found
