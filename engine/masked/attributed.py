"""What LIME and KernelSHAP share: images cut into segments, a table of which are kept, the scores
of its rows, and one product with the table's constant matrix for all classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.sizes import Shapes
from ...kernels import Baseline, BaselineLike, as_baseline, segments
from ..classifier.extras import InputsLike
from ..classifier.intake import Inputs, Score, as_score
from ..classifier.ready import Ready
from ..runtime import arrays
from ..runtime.session import Providers
from .scoring import Progress, Scorer, no_progress, scorer_for
from .superpixels import Superpixels, SuperpixelsLike, as_superpixels, picture_of
from .tables import Fit, Regression

__all__ = ["OWN_MEAN", "Attributed", "Attribution"]

# What hides a segment, by default: its own mean colour.
OWN_MEAN = "segment"
# Tables kept: numbers of segments differ from photo to photo.
KEPT = 8

Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Attributed:
    """What switching segments says of N images.

    heat: float32 [N, T, H, W], each pixel its segment's value. values: for each image float64
    [T, S], what a segment adds to the class's score. intercept: float64 [N, T], the linear model
    where all are hidden. labels: for each image int32 [H, W], 0..S-1.
    target: int64 [N, T]. score: float64 [N, T], of the whole image. logits: float32 [N, K].
    r2: float64 [N, T], of the local linear fit; NaN where hiding changes nothing at all. gap:
    float64 [N, T], by how much the values' sum misses what hiding all segments costs. masks: int64
    [N], variants run. exact: Boolean [N], whether those were all there are.
    """

    heat: Any
    values: tuple[NDArray[np.float64], ...]
    intercept: NDArray[np.float64]
    labels: tuple[Labels, ...]
    target: NDArray[np.int64]
    score: NDArray[np.float64]
    logits: NDArray[np.float32]
    r2: NDArray[np.float64]
    gap: NDArray[np.float64]
    masks: NDArray[np.int64]
    exact: NDArray[np.bool_]


class Attribution(ABC):
    """A linear model of a class's score by which segments are kept. See Lime and KernelShap."""

    def __init__(
        self, model: ModelLike | Ready | Scorer, *, segments: SuperpixelsLike, masks: int | None,
        seed: int, baseline: BaselineLike, score: Score | None,
        space: Literal["input", "pixels"], preprocess: Preprocess | str | None, of: str | None,
        providers: Providers, threads: int | None, memory: str | int | None, batch: int | None,
        shapes: Shapes | None, inputs: InputsLike | None,
    ) -> None:  # fmt: skip
        if masks is not None and masks < 2:
            raise UsageError(f"{masks} masks; accepted: 2 or more")
        if seed < 0:
            raise UsageError(f"seed {seed}; accepted: 0 or more")
        self.segments: Superpixels = as_superpixels(segments)
        self.masks, self.seed = masks, seed
        own = isinstance(baseline, str) and baseline == OWN_MEAN
        found = _baseline("zero" if own else baseline, space)  # checks the space in any case
        self.baseline: Baseline | None = None if own else found
        self.scorer = scorer_for(
            model, score, of=of, preprocess=preprocess, providers=providers, threads=threads,
            memory=memory, batch=batch, shapes=shapes, inputs=inputs,
        )  # fmt: skip
        self.score = self.scorer.settled(score)
        self._regressions: OrderedDict[int, Regression] = OrderedDict()

    @abstractmethod
    def _made(self, segments: int) -> Regression:
        """The table for so many segments. Raises UsageError."""

    def regression(self, segments: int) -> Regression:
        """The table for so many segments, and its matrix; the same every time."""
        if segments not in self._regressions:
            self._regressions[segments] = self._made(segments)
        self._regressions.move_to_end(segments)
        while len(self._regressions) > KEPT:
            self._regressions.popitem(last=False)
        return self._regressions[segments]

    def cut(self, inputs: Any) -> tuple[Labels, ...]:
        """The segments of each image, int32 [H, W], 0..S-1. Raises ImageError, UsageError."""
        return self._cut(self.scorer.take(inputs))

    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        *,
        classes: Any = None,
        progress: Progress = no_progress,
    ) -> Any:
        """What each pixel's segment adds to the class's score.

        inputs: [N, ...] in the input's shape and dtype, in NumPy, CuPy or DLPack memory; or a
        mapping from input names. target: None (each image's top class), one class, or N of them.
        classes: several classes, or "all", at the price of one. progress: told of masks done.

        Returns float32 [N, H, W], or [N, T, H, W] with `classes`, in units of the score (of a
        probability 0 to 1); positive: showing the segment raises it. It lives where the inputs
        live. Raises ImageError, for an image that is one segment too, or UsageError.
        """
        found = self.measure(inputs, target, classes=classes, progress=progress)
        return found.heat if classes is not None else found.heat[:, 0]

    def measure(
        self,
        inputs: Any,
        target: Any = None,
        *,
        classes: Any = None,
        progress: Progress = no_progress,
    ) -> Attributed:
        """As a call, with the values themselves and how well they fit. See Attributed."""
        taken = self.scorer.take(inputs)
        logits, wanted = self.scorer.clean(taken, target, classes)
        labels = self._cut(taken)  # before the first run: what is wrong with them is said at once
        clean = as_score(logits, self.score, self.scorer.closing, self.scorer.xp)
        score = np.take_along_axis(arrays.to_host(clean), wanted, axis=1)
        found = [
            self._one(taken, i, labels[i], wanted[i], score[i], progress) for i in range(len(taken))
        ]
        fits = [fit for fit, _, _ in found]
        painted = [
            fit.values.T.astype(np.float32)[:, one] for fit, one in zip(fits, labels, strict=True)
        ]
        return Attributed(
            heat=taken.home(np.stack(painted)),
            values=tuple(np.ascontiguousarray(f.values.T) for f in fits),
            intercept=np.stack([f.intercept for f in fits]),
            labels=labels,
            target=wanted,
            score=score,
            logits=arrays.to_host(logits),
            r2=np.stack([f.r2 for f in fits]),
            gap=np.stack([f.gap for f in fits]),
            masks=np.array([masks for _, masks, _ in found], np.int64),
            exact=np.array([exact for _, _, exact in found], bool),
        )

    def _cut(self, taken: Inputs) -> tuple[Labels, ...]:
        layout = self.scorer.input.layout
        count = len(taken)
        return tuple(
            self.segments.cut(
                picture_of(arrays.to_host(image), layout, self.scorer.preprocess), index, count
            )
            for index, image in enumerate(taken.images)
        )

    def _one(
        self, taken: Inputs, index: int, labels: Labels, classes: NDArray[np.int64],
        clean: NDArray[np.floating], progress: Progress,
    ) -> tuple[Fit, int, bool]:  # fmt: skip
        """One image: the rows of its table through the model, then the matrix. clean [T]: the whole
        image's scores. The fit, how many rows there were, and whether those are all subsets."""
        scorer = self.scorer
        regression = self.regression(int(labels.max()) + 1)
        shape = scorer.plan_shape(taken.images.shape[1:])
        image = scorer.planar(taken.images[index])
        if self.baseline is None:
            base = scorer.xp.asarray(segment_means(arrays.to_host(image), labels, scorer.layout))
        else:
            base = scorer.baseline(image, self.baseline)
        seen = shown(arrays.to_host(image), arrays.to_host(base), labels, scorer.layout)
        run, group = distinct(regression.table, seen)
        made = np.empty((len(run) + 1, len(classes)), np.float64)
        made[0] = clean
        if len(run):
            plan = segments(shape, labels, regression.table[run])
            made[1:] = scorer.measured(
                image, taken.row(index), plan, base, self.score, classes, "segments hidden",
                progress,
            )  # fmt: skip
        progress(len(regression.table) - len(run))
        return regression.fit(made[group]), len(regression.table), regression.exact


def _baseline(given: BaselineLike, space: Literal["input", "pixels"]) -> Baseline:
    try:
        return as_baseline(given, space)
    except UsageError as err:
        raise UsageError(str(err).replace("accepted: ", "accepted: 'segment', ", 1)) from None


def segment_means(image: NDArray[Any], labels: Labels, layout: str) -> NDArray[Any]:
    """An image with each segment in its mean colour; bytes rounded half up.

    image: [C, H, W], or [H, W, C] where the layout is "nhwc". Returns the same shape and dtype.
    """
    planes = np.moveaxis(image, -1, 0) if layout == "nhwc" else image
    flat = labels.reshape(-1)
    counts = np.bincount(flat)
    made = np.empty(planes.shape, np.float64)
    for plane, out in zip(planes, made, strict=True):
        sums = np.bincount(flat, weights=plane.reshape(-1).astype(np.float64))
        out[...] = (sums / counts)[labels]
    if image.dtype == np.uint8:
        made = np.floor(made + 0.5)
    back = np.moveaxis(made, 0, -1) if layout == "nhwc" else made
    return np.ascontiguousarray(back.astype(image.dtype))


def shown(
    image: NDArray[Any], base: NDArray[Any], labels: Labels, layout: str
) -> NDArray[np.bool_]:
    """Which segments look any different when they are hidden, bool [S]: not one of a single colour,
    behind its mean. image: [C, H, W] or [H, W, C]; base: of its shape, or a colour."""
    axis = -1 if layout == "nhwc" else 0
    if base.ndim == 1 and layout != "nhwc":
        base = base[:, None, None]
    other = (image != base).any(axis=axis)
    return np.asarray(np.bincount(labels.reshape(-1), weights=other.reshape(-1)) > 0)


def distinct(
    table: NDArray[np.uint8], shown: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows that need a run, and which score each row has: 0 the whole image's, 1 and up those
    of the runs. Rows that show the same run once; those that hide nothing that shows, not at all.
    """
    _, first, label = np.unique(table[:, shown], axis=0, return_index=True, return_inverse=True)
    label = label.reshape(-1)
    order = np.argsort(first, kind="stable")  # row 0 keeps all: its group comes first
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return first[order][1:].astype(np.int64), place[label]
