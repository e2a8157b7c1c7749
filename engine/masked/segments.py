"""`backlight.Segments`: class scores with superpixels switched off, what LIME and SHAP regress on.

Ribeiro et al. 2016 (LIME); Lundberg and Lee 2017 (SHAP). The segmentation and the regression are
the caller's; what is slow, thousands of masked variants through the model, is done here.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import arguments as take
from ...errors import UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ...kernels import BaselineLike, as_baseline, paint, segments
from ..classifier.extras import InputsLike
from ..classifier.intake import Score
from ..classifier.ready import Ready
from ..runtime.session import Providers
from .scoring import Progress, Scorer, no_progress, scorer_for

__all__ = ["Segments"]


class Segments:
    """Scores of images with segments switched off, by a 0/1 table.

    model: a path, bytes, an onnx.ModelProto, or a Scorer (whose settings then count).
    baseline, space, score, preprocess, of, providers, threads, memory, batch: see Occlusion.

        switch = backlight.Segments(model, baseline="mean")
        table = np.random.default_rng(0).integers(0, 2, (1000, labels.max() + 1))
        scores = switch(x[None], labels, table)[0]                    # [1000]
        design = np.c_[table, np.ones(len(table))]
        weights = np.linalg.lstsq(design, scores)[0][:-1]             # LIME, unweighted
        heat = switch.paint(weights, labels)                          # [H, W]

    Raises ModelError or UsageError.
    """

    @take.accepts(
        score=take.text, space=take.text,
        of=take.text, preprocess=given_preprocess, providers=take.names, threads=take.whole,
        batch=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready | Scorer,
        *,
        baseline: BaselineLike = "mean",
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
        self.baseline = as_baseline(baseline, space)
        self.scorer = scorer_for(
            model, score, of=of, preprocess=preprocess, providers=providers, threads=threads,
            memory=memory, batch=batch, shapes=shapes, inputs=inputs,
        )  # fmt: skip
        self.score = self.scorer.settled(score)

    def __call__(
        self,
        inputs: Any,
        labels: ArrayLike,
        table: ArrayLike,
        target: Any = None,
        *,
        classes: Any = None,
        progress: Progress = no_progress,
    ) -> NDArray[np.float64]:
        """The class's score of every row of the table, image by image.

        inputs, target, classes: see Occlusion.__call__. labels: integers [H, W] 0..S-1, one map for
        all images (also as [1, H, W]), or [N, H, W]. table: 0/1 [n, S], 1 = kept, 0 = replaced by
        the baseline. Returns float64 [N, n], or [N, T, n] with `classes`, in host memory. Raises
        ImageError, or UsageError for a map or a table that doesn't fit.
        """
        scorer = self.scorer
        taken = scorer.take(inputs)
        maps = np.asarray(labels)
        shape = scorer.plan_shape(taken.images.shape[1:])
        if maps.ndim == 3 and len(maps) not in (1, len(taken)):
            raise UsageError(
                f"{len(maps)} segment maps; accepted: 1, or {len(taken)}, one an image"
            )
        # Every map is checked before the first run.
        plans = [segments(shape, one, table) for one in (maps if maps.ndim == 3 else [maps])]
        _, wanted = scorer.clean(taken, target, classes)
        result = np.empty((len(taken), wanted.shape[1], len(plans[0])), np.float64)
        for index in range(len(taken)):
            image = scorer.planar(taken.images[index])
            base = scorer.baseline(image, self.baseline)
            plan = plans[index % len(plans)]
            found = scorer.measured(
                image, taken.row(index), plan, base, self.score, wanted[index], "segments hidden",
                progress,
            )  # fmt: skip
            result[index] = found.T
        return result if classes is not None else result[:, 0]

    def paint(self, values: ArrayLike, labels: ArrayLike) -> NDArray[np.float32]:
        """A value per segment, [S] or [K, S], as a map: float32 [H, W] or [K, H, W].

        labels: integers [H, W], 0..S-1. Raises UsageError where the two don't fit.
        """
        given, label = np.asarray(values, np.float64), np.asarray(labels)
        if given.ndim not in (1, 2) or label.ndim != 2 or given.shape[-1] == 0:
            raise UsageError(
                f"values {list(given.shape)} and labels {list(label.shape)}; "
                "accepted: [S] or [K,S], and [H,W]"
            )
        plan = segments((1, *label.shape), label, np.ones((1, given.shape[-1]), np.uint8))
        found: NDArray[np.float32] = paint(given, plan)
        return found
