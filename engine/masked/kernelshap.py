"""`backlight.KernelShap`: the Shapley values of superpixels, exact for few, sampled for many.

Lundberg and Lee 2017, "A Unified Approach to Interpreting Model Predictions".
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
from .tables import Regression, shap_regression

__all__ = ["KernelShap"]


class KernelShap(Attribution):
    """Shapley values of an image's superpixels (Lundberg and Lee 2017): what each adds to a class's
    score, on average over all orders in which they may be uncovered. They sum to f(image) - f(all
    hidden).

    model: a path, bytes, an onnx.ModelProto, or a Scorer (whose settings then count).
    masks: variants of an image. None: every subset of up to 12 segments, whose values are exact,
        else 2 S + 2048 of them.
    Everything else: see Lime.

        shap = backlight.KernelShap("model.onnx", segments="grid:3x4")
        found = shap.measure(x)                           # .values[0] [1, 12], .exact[0], .gap …

    Weighted least squares under the Shapley kernel, through both ends; no features are dropped.
    Raises ModelError or UsageError.
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
        masks: int | None = None,
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
        return shap_regression(segments, self.masks, self.seed)
