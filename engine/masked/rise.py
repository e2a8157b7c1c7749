"""`backlight.Rise`: random masks, weighted by the score that survives them.

Petsiuk, Das and Saenko 2018, "RISE: Randomized Input Sampling for Explanation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ...kernels import Accumulator, BaselineLike, GridPlan, as_baseline, rise
from ..classifier.extras import InputsLike
from ..classifier.intake import Inputs, Score, as_score, finite
from ..classifier.ready import Ready
from ..runtime import arrays
from ..runtime.session import Providers
from .scoring import Progress, Scorer, no_progress, scorer_for

__all__ = ["Rise", "Risen"]

# Masks between two looks at whether the map still changes.
LOOK_EVERY = 200
# The masks are shared out to so many maps, whose spread is the error of their mean; two say it
# roughly, and serve where many classes would fill the memory.
GROUPS, FEW_GROUPS, MANY_CLASSES = 8, 2, 10


@dataclass(frozen=True)
class Risen:
    """What random masks say of N images.

    heat: [N, T, H, W]. target: int64 [N, T]. score: float64 [N, T], of the whole image. logits:
    float32 [N, K], of the whole image. masks: int64 [N], those used. change: float64 [N], the
    map's standard error as a fraction of its range, largest over the classes. spread: float64
    [N, T], how far the score moves from mask to mask: where it doesn't, the map shows the masks.
    """

    heat: Any
    target: NDArray[np.int64]
    score: NDArray[np.float64]
    logits: NDArray[np.float32]
    masks: NDArray[np.int64]
    change: NDArray[np.float64]
    spread: NDArray[np.float64]


class Rise:
    """Heat maps from random masks.

    model: a path, bytes, an onnx.ModelProto, or a Scorer (whose settings then count).
    masks: at most so many; the same for every image, and for the same seed.
    cells, probability: of the masks' grids, see kernels.rise.
    tolerance: stop when the map no longer changes: its standard error (root mean square over the
        pixels, apart from what all share) is at most this fraction of its range, 0.05 for
        instance. It is judged by eight groups of the masks, every 200 masks or so: half the
        error takes four times the masks. None: use all masks.
    baseline, space, score, preprocess, of, providers, threads, memory, batch: see Occlusion.

    Raises ModelError or UsageError.
    """

    @take.accepts(
        masks=take.whole, cells=take.sizes, probability=take.number, seed=take.whole,
        tolerance=take.number, score=take.text, space=take.text,
        of=take.text, preprocess=given_preprocess, providers=take.names, threads=take.whole,
        batch=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready | Scorer,
        *,
        masks: int = 4000,
        cells: int | Sequence[int] = 7,
        probability: float = 0.5,
        seed: int = 0,
        tolerance: float | None = None,
        baseline: BaselineLike = "zero",
        score: Score | None = None,
        space: Literal["input", "pixels"] = "input",
        preprocess: Preprocess | str | None = None,
        of: str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        memory: str | int | None = None,
        batch: int | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        if tolerance is not None and not 0 < tolerance < 1:
            raise UsageError(f"tolerance {tolerance}; accepted: between 0 and 1")
        self.masks, self.cells, self.probability = masks, cells, probability
        self.seed, self.tolerance = seed, tolerance
        self.baseline = as_baseline(baseline, space)
        self.scorer = scorer_for(
            model, score, of=of, preprocess=preprocess, providers=providers, threads=threads,
            memory=memory, batch=batch, shapes=shapes, inputs=inputs,
        )  # fmt: skip
        self.score = self.scorer.settled(score)
        self._plans: dict[tuple[int, int, int], GridPlan] = {}
        # What is wrong with the masks is said before any image comes.
        self.plan(self.scorer.own_shape() or (1, 4096, 4096))
        if self.scorer.own_shape() is None:
            self._plans.clear()

    def plan(self, shape: tuple[int, int, int]) -> GridPlan:
        """The masks for images of shape (C, H, W). Raises UsageError."""
        if shape not in self._plans:
            self._plans[shape] = rise(
                shape, self.masks, cells=self.cells, probability=self.probability, seed=self.seed
            )
        return self._plans[shape]

    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        *,
        classes: Any = None,
        progress: Progress = no_progress,
    ) -> Any:
        """The class's mean score where a pixel is kept: float32 [N, H, W], or [N, T, H, W] with
        `classes`. Arguments, errors and where the map lives: see Occlusion.__call__."""
        found = self.measure(inputs, target, classes=classes, progress=progress)
        return found.heat if classes is not None else found.heat[:, 0]

    def measure(
        self,
        inputs: Any,
        target: Any = None,
        *,
        classes: Any = None,
        progress: Progress = no_progress,
    ) -> Risen:
        """As a call, with how far the maps have settled. See Risen."""
        scorer, xp = self.scorer, self.scorer.xp
        taken = scorer.take(inputs)
        logits, wanted = scorer.clean(taken, target, classes)
        clean = arrays.to_host(as_score(logits, self.score, scorer.closing, xp))
        found = [self._one(taken, index, wanted[index], progress) for index in range(len(taken))]
        return Risen(
            heat=taken.home(xp.stack([heat for heat, _, _, _ in found])),
            target=wanted,
            score=np.take_along_axis(clean, wanted, axis=1),
            logits=arrays.to_host(logits),
            masks=np.array([count for _, count, _, _ in found], np.int64),
            change=np.array([change for _, _, change, _ in found], np.float64),
            spread=np.array([spread for _, _, _, spread in found], np.float64),
        )

    def _one(
        self, taken: Inputs, index: int, classes: NDArray[np.int64], progress: Progress
    ) -> tuple[Any, int, float, NDArray[np.float64]]:
        """One image: the map [T, H, W], the masks used, how much it still changes, and how far the
        scores [T] move."""
        scorer, xp = self.scorer, self.scorer.xp
        plan = self.plan(scorer.plan_shape(taken.images.shape[1:]))
        image = scorer.planar(taken.images[index])
        base = scorer.baseline(image, self.baseline)
        chosen = xp.asarray(classes)
        count = GROUPS if len(classes) <= MANY_CLASSES else FEW_GROUPS
        groups = [Accumulator(plan, len(classes), backend=scorer.backend) for _ in range(count)]
        looked, done = 0, 0
        low, high = xp.full(len(classes), np.inf), xp.full(len(classes), -np.inf)
        runs = enumerate(scorer.variants(image, taken.row(index), plan, base))
        for turn, (which, found) in runs:
            finite(found, xp, "parts hidden")
            values = as_score(found, self.score, scorer.closing, xp)[:, chosen].T
            low = xp.minimum(low, values.min(axis=1))
            high = xp.maximum(high, values.max(axis=1))
            cuts = [len(found) * k // count for k in range(count + 1)]
            for k in range(count):
                # Turned by one each run, so that the longer shares go to all groups.
                group = groups[(k + turn) % count]
                group.add(values[:, cuts[k] : cuts[k + 1]], which.start + cuts[k])
            done = which.stop
            progress(len(found))
            if self.tolerance is not None and done - looked >= LOOK_EVERY and done < len(plan):
                looked = done
                if _joined(groups, xp)[1] <= self.tolerance:
                    progress(len(plan) - done)
                    break
        heat, change = _joined(groups, xp)
        return heat, done, change, np.asarray(arrays.to_host(high - low), np.float64)


def _joined(groups: Sequence[Accumulator], xp: Any) -> tuple[Any, float]:
    """The map of all groups of masks, and its standard error as a fraction of its range.

    Independent means h_i of c_i masks each: the error of their mean h is
    sqrt(sum(c_i (h_i - h)^2) / (sum(c_i) (groups - 1))).
    """
    filled = [(g.count, g.heat()) for g in groups if g.count]
    total = sum(count for count, _ in filled)
    heat = sum(count / total * h for count, h in filled).astype(np.float32)
    if len(filled) < 2:
        return heat, float("inf")
    # What all pixels share says nothing of where the class is seen, and is the noisiest part.
    spread = sum(count / total * (h - heat).var(axis=(1, 2)) for count, h in filled)
    error = xp.sqrt(spread / (len(filled) - 1))
    span = heat.max(axis=(1, 2)) - heat.min(axis=(1, 2))
    # A constant map has nothing left to settle.
    change = xp.where(span > 0, error / xp.maximum(span, np.float32(1e-30)), 0)
    return heat, float(change.max())
