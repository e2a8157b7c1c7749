"""Where a model's evidence lies in a photo, and where its object is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ModelError, UsageError
from ...export.methods import method as method_named
from ...export.preprocess import Preprocess
from ..classifier.intake import as_score
from ..classifier.ready import Ready
from ..direct.explainer import Explainer
from ..masked.scoring import Scorer
from ..photos import images
from ..photos.images import Pixels
from ..runtime import arrays
from .background import Cut
from .objects import Masks, Region, centre, grown, seeded

__all__ = ["CELLS", "Looking", "Seen", "cells"]

# A side of the maps that are clustered.
CELLS = 16
# Without one that is asked for; where a model has no layer for the first, the second.
METHOD, OTHERWISE = "gradcam", "input_x_gradient"
# A region's margin in cells of the map's layer, which is as sharp as evidence gets there.
MARGIN = 0.75

Evidence = NDArray[np.float32]


@dataclass(frozen=True)
class Seen(Cut):
    """With its evidence [h, w]."""

    evidence: Evidence


class Looking:
    """A classifier that explains photos, and finds their objects.

    ready: a plain one. method, layer: as in `BiasFinder`. object: how it is found, of `OBJECTS`;
    masks: where. more: providers and threads. Raises ModelError, UnsupportedNode or UsageError.
    """

    def __init__(
        self, ready: Ready, method: str | None, layer: str | None, object: str,
        masks: Masks | None, preprocess: Preprocess | str | None, batch: int,
        more: dict[str, Any],
    ) -> None:  # fmt: skip
        self.masks, self.object = masks, object
        self.notes: list[str] = []
        self._explainer = self._explaining(ready, method, layer, batch, more)
        self._explainer.fed.needs()
        self._scorer = Scorer(ready, preprocess=preprocess, **more)
        if self._scorer.settled(None) != "probability":
            raise UsageError(
                f"{ready.name} gives a single score that nothing closes; expected a classifier"
            )
        self.hash, self.name = ready.hash, ready.name
        self.method = self._explainer.methods[0]
        self.layers = self._explainer.layers
        self.preprocess = self._explainer.settled(preprocess)
        self.input = self._explainer.input
        self.classes, self.labels = self._explainer.classes, self._explainer.labels
        self.notes += self._explainer.notes
        self.providers = self._explainer.session.providers

    def _explaining(
        self, ready: Ready, name: str | None, layer: str | None, batch: int, more: dict[str, Any]
    ) -> Explainer:
        chosen = method_named(name or METHOD)

        def make(row: Any) -> Explainer:
            drawn: dict[str, Any] = {"layer": layer, "size": "layer"} if row.by == "layer" else {}
            return Explainer(ready, methods=[row.name], batch=batch, **drawn, **more)

        if layer is not None and chosen.by != "layer":
            raise UsageError(f"method '{chosen.name}' is drawn of no layer; layer='{layer}' is")
        if name is not None or layer is not None:
            return make(chosen)
        try:
            return make(chosen)
        except ModelError as err:
            made = make(method_named(OTHERWISE))
            self.notes.append(f"{OTHERWISE} in place of {METHOD}: {err}")
            return made

    def _explained(
        self, tensor: NDArray[Any], target: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], list[Evidence], NDArray[np.int64]]:
        """Probabilities [N, K], the positive evidence of each photo [h, w], and of which class."""
        found = self._explainer(tensor, target)
        chances = self._explainer.probabilities(found.scores)
        if chances is None:
            raise ModelError(f"{self.name}: no class probabilities; expected a classifier")
        maps = found.saliency[self.method]
        return chances, [self._positive(one) for one in maps], np.asarray(found.target)

    def _positive(self, values: NDArray[Any]) -> Evidence:
        """A map of the method as evidence: what speaks for the class."""
        values = np.asarray(values, np.float32)
        if values.ndim == 3:
            last = images.channels_last(values, images.map_layout(values.shape, self.input))
            signed = method_named(self.method).picture == "signed"
            values = last.sum(axis=2) if signed else np.abs(last).max(axis=2)
        return np.asarray(np.maximum(values, 0), np.float32)

    def _region(self, file: Path, pixels: Pixels, evidence: Evidence | None) -> Region | None:
        """evidence: what an object that is seeded is grown from; the others need none."""
        if self.object == "none":
            return None
        if self.masks is not None:
            return self.masks.region(file, self.preprocess, self.input)
        if self.object == "centre":
            return centre((pixels.shape[0], pixels.shape[1]))
        assert evidence is not None
        return seeded(evidence, pixels)

    def _outside(self, evidence: Evidence, region: Region | None) -> float:
        """The share of the evidence outside the object and a margin of what the map can tell."""
        if region is None or not evidence.any():
            return float("nan")
        high, wide = region.shape
        cell = max(high / evidence.shape[0], wide / evidence.shape[1])
        inside = grown(region, MARGIN * cell if cell >= 2 else 0)
        spread = np.asarray(
            Image.fromarray(evidence).resize((wide, high), Image.Resampling.BILINEAR), np.float64
        )
        return float(spread[~inside].sum() / max(spread.sum(), 1e-30))

    def seen(self, file: Path, target: int) -> Seen:
        """A photo again: its pixels, its evidence for a class, its object. Raises ImageError."""
        prepared = images.read(file, self.preprocess, self.input)
        _, evidence, _ = self._explained(prepared.tensor[None], np.array([target]))
        region = self._region(file, prepared.pixels, evidence[0])
        return Seen(prepared.pixels, region, evidence[0])

    def cut(self, file: Path, target: int) -> Cut:
        """A photo again, and its object: nothing is explained that isn't looked at. Raises
        ImageError."""
        if self.object == "seeded":
            return self.seen(file, target)
        pixels = images.read(file, self.preprocess, self.input).pixels
        return Cut(pixels, self._region(file, pixels, None))

    def chances(self, pictures: Sequence[Pixels]) -> NDArray[np.float64]:
        """Probabilities [N, K] of pictures as the model sees them."""
        tensors = [images.to_tensor(one, self.preprocess, self.input) for one in pictures]
        return self._chances(np.stack(tensors))

    def _chances(self, tensor: NDArray[Any]) -> NDArray[np.float64]:
        logits = self._scorer.logits(self._scorer.take(tensor))
        chances = as_score(arrays.to_host(logits), "probability", self._scorer.closing)
        return np.asarray(chances, np.float64)


def cells(evidence: Evidence) -> NDArray[np.float32]:
    """A map for clustering: few cells, with the sum 1, so that its strength doesn't count."""
    small = np.asarray(
        Image.fromarray(evidence).resize((CELLS, CELLS), Image.Resampling.BILINEAR), np.float64
    )
    small = np.maximum(small, 0)
    return np.asarray(small / (small.sum() or 1), np.float32)
