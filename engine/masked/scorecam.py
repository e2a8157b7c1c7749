"""`backlight.ScoreCam`: a layer's channels, weighted by the score of the image masked with each.

Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks".
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ...kernels import BaselineLike, as_baseline, maps
from ..classifier.extras import InputsLike
from ..classifier.intake import Inputs, Score
from ..classifier.ready import Ready
from ..runtime.session import Providers
from .cams import Activations, ChannelCam, Floats
from .scoring import Progress, Scorer

__all__ = ["ScoreCam"]


class ScoreCam(ChannelCam):
    """Score-CAM (Wang et al. 2020): each channel of a layer, enlarged to the image and stretched to
    0..1, masks it; the class's scores of all these images, through a softmax over channels, weight
    the channels.

    model: a path, bytes, an onnx.ModelProto, or a Scorer (whose settings then count).
    layer: a tensor or node with rows and columns; None: the last before the head, as of gradcam.
    size: of the map: "input" or "layer". signed: leave out the closing Relu.
    baseline: what a masked pixel fades to, "zero" (in the model's input space), see Occlusion.
    score: "probability" (None; its softmax over channels is nearly uniform), "logit" (nearly one
        channel alone) or "logprob".
    space, preprocess, of, providers, threads, memory, batch, shapes, inputs: see Occlusion.

    A score of the baseline, which the paper takes off, cancels in the softmax. A channel that is
    the same everywhere masks all of the image; these share one run.
    Raises ModelError or UsageError.
    """

    @take.accepts(
        layer=take.text, size=take.text, signed=take.flag, score=take.text, space=take.text,
        of=take.text, preprocess=given_preprocess, providers=take.names, threads=take.whole,
        batch=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready | Scorer,
        *,
        layer: str | None = None,
        size: Literal["input", "layer"] = "input",
        signed: bool = False,
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
        self.baseline = as_baseline(baseline, space)
        super().__init__(
            model, layer=layer, size=size, signed=signed, score=score, preprocess=preprocess,
            of=of, providers=providers, threads=threads, memory=memory, batch=batch, shapes=shapes,
            inputs=inputs,
        )  # fmt: skip

    def _weights(
        self, taken: Inputs, index: int, found: Activations, logits: NDArray[np.float32],
        classes: NDArray[np.int64], progress: Progress,
    ) -> tuple[Floats, int]:  # fmt: skip
        scorer = self.scorer
        plan = maps(scorer.plan_shape(taken.images.shape[1:]), found.maps, stretch=True)
        alive = plan.maps.any(axis=(1, 2))
        # Of those that keep nothing one stands for all.
        dead = np.flatnonzero(~alive)[:1]
        ran = np.concatenate([dead, np.flatnonzero(alive)])
        image = scorer.planar(taken.images[index])
        base = scorer.baseline(image, self.baseline)
        scores = np.empty((len(plan), len(classes)), np.float64)
        scores[ran] = scorer.measured(
            image, taken.row(index), plan.select(ran), base, self.score, classes,
            "all but a channel's places hidden", progress,
        )  # fmt: skip
        scores[~alive] = scores[dead]
        power = np.exp(scores - scores.max(axis=0))
        return (power / power.sum(axis=0)).T, len(ran)
