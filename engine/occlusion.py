"""`backlight.Occlusion`: hide one window after another, and see what the score loses.

Zeiler and Fergus 2014, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..export.graph import ModelLike
from ..export.preprocess import Preprocess
from ..kernels import BaselineLike, WindowPlan, as_baseline, reduce, sliding
from . import arrays
from .incremental import Choice, Chooser
from .intake import SCORES, Inputs, Score, as_score, class_targets
from .necessity import Necessity, find, margins
from .scoring import Progress, Scorer, no_progress
from .session import Providers

__all__ = ["Occluded", "Occlusion"]

METHODS = ("auto", "dense", "incremental")


@dataclass(frozen=True)
class Occluded:
    """What hiding windows did to N images.

    heat: as `Occlusion.__call__` returns it, with the classes' axis: [N, T, H, W]. target: int64
    [N, T], the classes. score: float64 [N, T], of the whole image. drops: float64 [N, T, n], by
    window. logits: float32 [N, K], of the whole image. margins: float64 [N, n], how far the
    predicted class stays ahead of the next; below 0 the window changes the prediction.
    top: int64 [N, n], the top class without the window. plan: the windows. choice: how their
    variants were scored.
    """

    heat: Any
    target: NDArray[np.int64]
    score: NDArray[np.float64]
    drops: NDArray[np.float64]
    logits: NDArray[np.float32]
    margins: NDArray[np.float64]
    top: NDArray[np.int64]
    plan: WindowPlan
    choice: Choice


@dataclass(frozen=True)
class _Pass:
    """One image's pass, where the model runs."""

    heat: Any
    drops: Any
    margins: Any
    top: Any


class Occlusion:
    """Heat maps by hiding windows.

    model: a path, bytes, an onnx.ModelProto, or a Scorer (whose settings then count).
    window, stride: an int, (h, w) or (c, h, w), in pixels of the model's input.
    baseline: what the window shows instead: "mean" (the image's own), "zero" (after centring the
        mean colour), "blur:SIGMA", "noise:SEED", a number, a colour, an image; in the model's
        input space, or in pixels 0..255 RGB with space="pixels".
    overlap: "mean" or "sum" of the drops of the windows over a pixel.
    score: "probability", "logit" (before the closing softmax) or "logprob".
    edges: "clip" cuts the last windows off at the border; "valid": whole windows only.
    memory: bytes, or such as "2GB"; default: a quarter of what is free. batch: at most so many
        variants per run. preprocess, of, providers, threads: see Scorer.
    method: "dense" runs every variant whole. "incremental" computes what each window changes
        alone, exactly up to rounding. "auto" takes that where the cost model says that it clearly
        pays; `chosen` says what was taken. See docs/occlusion.md.

    With score="logit", overlap="mean" and edges="clip" the map is that of captum.attr.Occlusion.
    Raises ModelError or UsageError.
    """

    def __init__(
        self,
        model: ModelLike | Scorer,
        *,
        window: int | Sequence[int] = 16,
        stride: int | Sequence[int] = 8,
        baseline: BaselineLike = "mean",
        overlap: Literal["mean", "sum"] = "mean",
        score: Score = "probability",
        edges: Literal["clip", "valid"] = "clip",
        space: Literal["input", "pixels"] = "input",
        preprocess: Preprocess | str | None = None,
        of: str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        memory: str | int | None = None,
        batch: int | None = None,
        method: Literal["auto", "dense", "incremental"] = "auto",
    ) -> None:
        if score not in SCORES:
            raise UsageError(f"score '{score}'; accepted: {', '.join(SCORES)}")
        if overlap not in ("mean", "sum"):
            raise UsageError(f"overlap '{overlap}'; accepted: mean, sum")
        if method not in METHODS:
            raise UsageError(f"method '{method}'; accepted: {', '.join(METHODS)}")
        self.window, self.stride, self.edges = window, stride, edges
        self.overlap, self.score, self.method = overlap, score, method
        self.baseline = as_baseline(baseline, space)
        self.scorer = (
            model
            if isinstance(model, Scorer)
            else Scorer(
                model, of=of, preprocess=preprocess, providers=providers, threads=threads,
                memory=memory, batch=batch,
            )
        )  # fmt: skip
        self._plans: dict[tuple[int, int, int], WindowPlan] = {}
        self._choose = Chooser(self.scorer, method)
        fixed = self.scorer.own_shape()
        if fixed is not None:
            self.plan(fixed)

    def plan(self, shape: tuple[int, int, int]) -> WindowPlan:
        """The windows over an image of shape (C, H, W). Raises UsageError."""
        if shape not in self._plans:
            self._plans[shape] = sliding(shape, self.window, self.stride, edges=self.edges)
        return self._plans[shape]

    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        *,
        classes: Any = None,
        progress: Progress = no_progress,
    ) -> Any:
        """How much the score of a class falls where the image is hidden.

        inputs: [N, ...] in the input's shape and dtype, in NumPy, CuPy or DLPack memory; or a
        mapping from input names. target: None (each image's top class), one class, or N of them.
        classes: several classes, or "all", at the price of one.

        Returns float32 [N, H, W], or [N, T, H, W] with `classes`; windows given as (c, h, w) add
        an axis of C channels before H, whatever the input's layout. Positive: hiding it costs
        score. It lives where the inputs live.
        Raises ImageError or UsageError.
        """
        taken = self.scorer.take(inputs)
        logits = self.scorer.logits(taken)
        wanted = self._targets(target, classes, logits)
        heat = self.scorer.xp.stack([p.heat for p in self._passes(taken, logits, wanted, progress)])
        return taken.home(heat if classes is not None else heat[:, 0])

    def measure(
        self,
        inputs: Any,
        target: Any = None,
        *,
        classes: Any = None,
        progress: Progress = no_progress,
    ) -> Occluded:
        """As a call, with all that was measured on the way. See Occluded."""
        taken = self.scorer.take(inputs)
        logits = self.scorer.logits(taken)
        wanted = self._targets(target, classes, logits)
        passes = list(self._passes(taken, logits, wanted, progress))
        clean = as_score(logits, self.score, self.scorer.closing, self.scorer.xp)
        host = arrays.to_host
        return Occluded(
            heat=taken.home(self.scorer.xp.stack([p.heat for p in passes])),
            target=wanted,
            score=np.take_along_axis(host(clean), wanted, axis=1),
            drops=np.stack([host(p.drops) for p in passes]),
            logits=host(logits),
            margins=np.stack([host(p.margins) for p in passes]),
            top=np.stack([host(p.top) for p in passes]),
            plan=self._plan_of(taken),
            choice=self._choose(self._plan_of(taken), 0)[0],
        )

    def necessity(
        self,
        inputs: Any,
        *,
        measured: Occluded | None = None,
        limit: int = 16,
        candidates: int = 32,
    ) -> list[Necessity]:
        """What must be hidden for the predicted class to change, image by image.

        The set is found greedily: at each step the window whose hiding brings the next class
        closest, out of the `candidates` strongest; then every window that isn't needed is taken
        back. limit: the most windows hidden. measured: of the same inputs, if it is there.
        Raises ImageError, or UsageError where the model has no predicted class.
        """
        if limit < 1 or candidates < 1:
            raise UsageError(f"limit {limit}, candidates {candidates}; accepted: 1 or more")
        result = self.measure(inputs) if measured is None else measured
        if result.logits.shape[1] < 2 and self.scorer.closing != "Sigmoid":
            raise UsageError("a model with a single score predicts no class that could change")
        taken = self.scorer.take(inputs)
        if len(taken) != len(result.logits):
            raise UsageError(f"{len(taken)} images, but measured for {len(result.logits)}")
        found = []
        for index in range(len(taken)):
            image = self.scorer.planar(taken.images[index])
            base = self.scorer.baseline(image, self.baseline)
            found.append(
                find(
                    self.scorer,
                    image,
                    taken.row(index),
                    result.plan,
                    base,
                    result.logits[index],
                    result.margins[index],
                    limit,
                    candidates,
                )
            )
        return found

    def _plan_of(self, taken: Inputs) -> WindowPlan:
        return self.plan(self.scorer.plan_shape(taken.images.shape[1:]))

    def _targets(self, target: Any, classes: Any, logits: Any) -> NDArray[np.int64]:
        top = arrays.to_host(logits.argmax(axis=1)).astype(np.int64)
        return class_targets(target, classes, top, int(logits.shape[1]))

    def _passes(
        self, taken: Inputs, logits: Any, wanted: NDArray[np.int64], progress: Progress
    ) -> Iterator[_Pass]:
        """Image by image: drops, and the map they make."""
        xp, closing = self.scorer.xp, self.scorer.closing
        plan = self._plan_of(taken)
        self._choose(plan, len(taken))
        clean = as_score(logits, self.score, closing, xp)
        for index in range(len(taken)):
            image = self.scorer.planar(taken.images[index])
            base = self.scorer.baseline(image, self.baseline)
            chosen = xp.asarray(wanted[index])
            drops = xp.empty((len(chosen), len(plan)), np.float64)
            margin = xp.empty(len(plan), np.float64)
            top = xp.empty(len(plan), np.int64)
            for which, found in self._scored(image, taken.row(index), plan, base):
                score = as_score(found, self.score, closing, xp)[:, chosen]
                drops[:, which] = (clean[index, chosen] - score).T
                margin[which] = margins(found, logits[index], xp)
                top[which] = found.argmax(axis=1)
                progress(len(found))
            heat = reduce(drops, plan, overlap=self.overlap, backend=self.scorer.backend)
            yield _Pass(heat, drops, margin, top)

    def _scored(
        self, image: Any, others: Mapping[str, Any], plan: WindowPlan, base: Any
    ) -> Iterator[tuple[Any, Any]]:
        """Class scores of a plan's variants: (which, float32 [n, K]) in any order, each variant
        once. which: a slice or an index array. Every method of scoring comes in here."""
        _, boxes = self._choose(plan, 0)
        if boxes is None:
            return self.scorer.variants(image, others, plan, base)
        return boxes.scores(boxes.start(image, base))
