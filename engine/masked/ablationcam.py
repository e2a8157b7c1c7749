"""`backlight.AblationCam`: a layer's channels, weighted by what the score loses without each.

Desai and Ramaswamy 2020, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via
Gradient-free Localization".
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...export.graph import ModelLike
from ...export.parted import AT
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.intake import Inputs, Score, as_score, finite
from ..classifier.ready import Ready
from ..runtime.session import Providers
from .cams import Activations, ChannelCam, Floats
from .scoring import Progress, Scorer

__all__ = ["AblationCam"]


class AblationCam(ChannelCam):
    """Ablation-CAM (Desai and Ramaswamy 2020): a channel's weight is the share of the class's score
    that goes with it, (f - f without it) / |f|, where "without" sets all of the channel to 0.

    Only what follows the layer is run, once a channel; where that is a global average pool and one
    linear layer, the scores without a channel are known in closed form, and nothing is run.

    model: a path, bytes, an onnx.ModelProto, or a Scorer (whose settings then count).
    layer, size, signed: see ScoreCam. score: "probability" (None), "logit" or "logprob": the
        denominator is the score's absolute value, so that a negative one turns no sign.
    of, providers, threads, memory, batch, shapes, inputs: see Occlusion.
    Raises ModelError, UnsupportedNode (a rest that can't be run alone) or UsageError.
    """

    _rest_alone = True

    @take.accepts(
        layer=take.text, size=take.text, signed=take.flag, score=take.text,
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
        score: Score | None = None,
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
            model, layer=layer, size=size, signed=signed, score=score, preprocess=preprocess,
            of=of, providers=providers, threads=threads, memory=memory, batch=batch, shapes=shapes,
            inputs=inputs,
        )  # fmt: skip
        rest = self.parts.rest
        self._rest = None if rest is None else self._compiled(rest)

    @property
    def closed(self) -> bool:
        """Whether the scores without a channel are known without running anything."""
        return self.parts.head is not None

    def _weights(
        self, taken: Inputs, index: int, found: Activations, logits: NDArray[np.float32],
        classes: NDArray[np.int64], progress: Progress,
    ) -> tuple[Floats, int]:  # fmt: skip
        closing = self.scorer.closing
        clean = as_score(logits[None], self.score, closing)[0, classes]
        if self.parts.head is not None:
            means = found.maps.mean(axis=(1, 2), dtype=np.float64)
            without = logits.astype(np.float64) - (self.parts.head * means).T
            ran = 0
        else:
            without = self._run(taken, index, found, progress)
            ran = len(without)
        left = as_score(without, self.score, closing)[:, classes]
        size = np.where(clean == 0, 1, np.abs(clean))
        return ((clean - left) / size).T, ran

    def _run(
        self, taken: Inputs, index: int, found: Activations, progress: Progress
    ) -> NDArray[np.float32]:
        """The scores without each channel, [k, K], by what follows the layer."""
        assert self._rest is not None
        count = len(found.maps)
        fixed = self.scorer.fed.batch
        step = fixed or self.scorer.rows(tuple(taken.images.shape[1:]))
        layer, *beside = found.reads
        parts = []
        for start in range(0, count, step):
            some = np.arange(start, min(start + step, count))
            rows = fixed or len(some)
            block = np.repeat(layer, rows, axis=0)
            turned = np.moveaxis(block, self.parts.channel_axis, 1)
            turned[np.arange(len(some)), some] = 0
            feeds = {f"{AT}0": np.ascontiguousarray(block)}
            feeds |= {f"{AT}{i + 1}": np.repeat(v, rows, axis=0) for i, v in enumerate(beside)}
            (scores,) = self._rest.run(feeds).values()
            parts.append(scores[: len(some)].reshape(len(some), -1).astype(np.float32))
            progress(len(some))
        return np.asarray(finite(np.concatenate(parts), hidden="a channel removed"))
