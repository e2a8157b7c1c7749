"""What Score-CAM and Ablation-CAM share: a layer's channels, each weighted by what the model says
without it or with it alone, and no gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, UsageError
from ...export.drawing import SIZES
from ...export.enlarge import interpolation
from ...export.graph import ModelLike
from ...export.parted import parted
from ...export.preprocess import Preprocess
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.intake import Inputs, Score, as_score
from ..classifier.ready import Ready
from ..runtime import arrays
from ..runtime.session import Providers, Session
from .scoring import Progress, Scorer, no_progress, scorer_for

__all__ = ["Activations", "ChannelCam", "Weighted"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weighted:
    """What weighing a layer's channels says of N images.

    heat: float32 [N, T, H, W], or at the layer's own size [N, T, h, w]. weights: float64 [N, T, k],
    of the channels. target: int64 [N, T]. score: float64 [N, T], of the whole image. logits:
    float32 [N, K]. layer: its name. runs: int64 [N], of the model, or of what follows the layer; 0
    where a closed form told. dead: int64 [N], channels that are the same at every place.
    """

    heat: Any
    weights: Floats
    target: NDArray[np.int64]
    score: Floats
    logits: NDArray[np.float32]
    layer: str
    runs: NDArray[np.int64]
    dead: NDArray[np.int64]


@dataclass(frozen=True)
class Activations:
    """A layer of one image. maps: float32 [k, h, w]. reads: what the rest of the model reads, the
    layer as it lies first, [1, ...] each."""

    maps: NDArray[np.float32]
    reads: tuple[NDArray[Any], ...]


class ChannelCam(ABC):
    """A class activation map of weighted channels. See ScoreCam and AblationCam."""

    # Whether the rest of the model is run alone.
    _rest_alone = False

    def __init__(
        self, model: ModelLike | Ready | Scorer, *, layer: str | None, size: str, signed: bool,
        score: Score | None, preprocess: Preprocess | str | None, of: str | None,
        providers: Providers, threads: int | None, memory: str | int | None, batch: int | None,
        shapes: Shapes | None, inputs: InputsLike | None,
    ) -> None:  # fmt: skip
        if size not in SIZES:
            raise UsageError.unknown("size", size, SIZES)
        self.size, self.signed = size, signed
        # At hand until the layer is found, so that the model is read and loaded once.
        ready = model if isinstance(model, Scorer) else Ready.of(model, shapes, inputs)
        self.scorer = scorer_for(
            ready, score, of=of, preprocess=preprocess, providers=providers, threads=threads,
            memory=memory, batch=batch,
        )  # fmt: skip
        self.score = self.scorer.settled(score)
        self.parts = parted(self.scorer.source, self.scorer.output, layer, rest=self._rest_alone)
        self.layer, self.reason = self.parts.layer, self.parts.reason
        self._session = self._compiled(self.parts.front)

    def _compiled(self, model: Any) -> Session:
        return Session(model, self.scorer.session.providers, self.scorer.threads)

    @abstractmethod
    def _weights(
        self, taken: Inputs, index: int, found: Activations, logits: NDArray[np.float32],
        classes: NDArray[np.int64], progress: Progress,
    ) -> tuple[Floats, int]:  # fmt: skip
        """The channels' weights of one image, [T, k], and the runs that it took."""

    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        *,
        classes: Any = None,
        progress: Progress = no_progress,
    ) -> Any:
        """The layer's channels, added up by their weights.

        inputs: [N, ...] in the input's shape and dtype, in NumPy, CuPy or DLPack memory; or a
        mapping from input names. target: None (each image's top class), one class, or N of them.
        classes: several classes, or "all", at the price of one. progress: told of runs done.

        Returns float32 [N, H, W], or [N, T, H, W] with `classes`, in the layer's own units; of the
        image's size, or of the layer's with size "layer"; 0 or more unless signed. It lives where
        the inputs live. Raises ImageError or UsageError.
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
    ) -> Weighted:
        """As a call, with the channels' weights. See Weighted."""
        scorer = self.scorer
        taken = scorer.take(inputs)
        logits, wanted = scorer.clean(taken, target, classes)
        host = arrays.to_host(logits)
        clean = as_score(host, self.score, scorer.closing)
        heat, weights, runs, dead = [], [], [], []
        for index in range(len(taken)):
            found = self._activations(taken, index)
            chosen = wanted[index]
            weight, ran = self._weights(taken, index, found, host[index], chosen, progress)
            shape = scorer.plan_shape(taken.images.shape[1:])
            heat.append(self._map(weight, found.maps, shape[1:]))
            weights.append(weight)
            runs.append(ran)
            flat = found.maps.reshape(len(found.maps), -1)
            dead.append(int((flat.min(axis=1) == flat.max(axis=1)).sum()))
        return Weighted(
            heat=taken.home(np.stack(heat)),
            weights=np.stack(weights),
            target=wanted,
            score=np.take_along_axis(clean, wanted, axis=1),
            logits=host,
            layer=self.layer,
            runs=np.array(runs, np.int64),
            dead=np.array(dead, np.int64),
        )

    def _activations(self, taken: Inputs, index: int) -> Activations:
        feeds = {self.scorer.input.name: taken.images[index : index + 1], **taken.row(index)}
        host = {name: arrays.to_host(value) for name, value in feeds.items()}
        found = self._run_front(host)
        maps = found[self.parts.maps][0].astype(np.float32)
        if not np.isfinite(maps).all():
            raise ImageError(f"'{self.layer}' of image {index} is NaN or infinite: no map of it")
        reads = tuple(found[name] if name in found else host[name] for name in self.parts.reads)
        return Activations(maps, reads)

    def _map(
        self, weights: Floats, maps: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """[T, H, W], or [T, h, w] at the layer's size."""
        made = np.einsum("tk,khw->thw", weights, maps.astype(np.float64))
        if not self.signed:
            made = np.maximum(made, 0)
        if self.size == "input":
            down, across = (interpolation(n, m) for n, m in zip(maps.shape[1:], size, strict=True))
            made = down.astype(np.float64) @ made @ across.T.astype(np.float64)
        return np.asarray(made, np.float32)

    def _run_front(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """One image; a batch that the model fixes is filled up."""
        wanted = {i.name for i in self._session.inputs}
        given, count = next(iter(self.scorer.fed.runs(feeds)))
        there = {k: np.ascontiguousarray(v) for k, v in given.items() if k in wanted}
        return {name: value[:count] for name, value in self._session.run(there).items()}
