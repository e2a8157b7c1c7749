"""`backlight.Lime`: superpixels switched off at random, and a linear model of the score nearby.

Ribeiro, Singh and Guestrin 2016, "Why Should I Trust You?"; kernel and ridge as in their code.
"""

from __future__ import annotations

from typing import Literal

from ... import arguments as take
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ...kernels import BaselineLike
from ..classifier.extras import InputsLike
from ..classifier.intake import Score
from ..classifier.ready import Ready
from ..runtime.session import Providers
from .attributed import OWN_MEAN, Attribution
from .scoring import Scorer
from .superpixels import SuperpixelsLike
from .tables import Regression, lime_regression

__all__ = ["Lime"]


class Lime(Attribution):
    """LIME on images (Ribeiro et al. 2016): the weight of each superpixel in a local linear model
    of a class's score.

    model: a path, bytes, an onnx.ModelProto, or a Scorer (whose settings then count).
    segments: "slic" or "slic:COUNT" (50 or so), "quickshift" or "quickshift:KERNEL" (4 pixels, as
        lime), "felzenszwalb" or "felzenszwalb:SCALE" (100): by scikit-image, the extra `segments`;
        "grid:7", "grid:7x9"; or a map of one's own, whole numbers [H, W] or, one an image,
        [N, H, W]. Whatever numbers it holds, segments are counted 0..S-1.
    masks: variants of an image, 1000; every subset of the segments once where there are no more.
        Each random row comes with its opposite.
    seed: of the rows: the same seed, the same map.
    baseline: what a segment is hidden by: "segment" (its own mean colour), or what Occlusion takes:
        a number, a colour, "blur:SIGMA", "mean" (of the whole image) … space: of numbers.
    score: "probability", "logit" or "logprob"; None: the probability, but of a single score that
        nothing closes the score itself.
    preprocess, of, providers, threads, memory, batch, shapes, inputs: see Occlusion. Superpixels
        are cut in the pixels that `preprocess`, or the model's metadata, tells the input from;
        without either in the input's own range.

        lime = backlight.Lime("model.onnx", segments="slic:80")
        heat = lime(x)                                    # [N, H, W]
        found = lime.measure(x, classes=[281, 285])       # .values[0] [2, S], .r2 [N, 2] …

    The fit: rows weighted by sqrt(exp(-d^2 / 0.25^2)), d their cosine distance to all ones; ridge
    regression, lambda 1. Raises ModelError or UsageError.
    """

    @take.accepts(
        masks=take.whole, seed=take.whole, score=take.text, space=take.text,
        of=take.text, preprocess=given_preprocess, providers=take.names, threads=take.whole,
        batch=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready | Scorer,
        *,
        segments: SuperpixelsLike = "slic",
        masks: int = 1000,
        seed: int = 0,
        baseline: BaselineLike = OWN_MEAN,
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
        super().__init__(
            model, segments=segments, masks=masks, seed=seed, baseline=baseline, score=score,
            space=space, preprocess=preprocess, of=of, providers=providers, threads=threads,
            memory=memory, batch=batch, shapes=shapes, inputs=inputs,
        )  # fmt: skip

    def _made(self, segments: int) -> Regression:
        assert self.masks is not None
        return lime_regression(segments, self.masks, self.seed)
