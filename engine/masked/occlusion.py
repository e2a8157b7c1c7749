"""`backlight.Occlusion`: hide one window after another, and see what the score loses.

Zeiler and Fergus 2014, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from ...kernels import BaselineLike, WindowPlan, as_baseline, reduce, sliding
from ..classifier.extras import InputsLike
from ..classifier.intake import Inputs, Score, as_score, finite
from ..classifier.ready import Ready
from ..runtime import arrays
from ..runtime.session import Providers
from .drilldown import check_share, drill
from .incremental import Choice
from .necessity import Necessity, find, margins
from .scoring import Progress, Scorer, no_progress, scorer_for
from .ways import Scores, Ways, check_method

__all__ = ["Occluded", "Occlusion"]


@dataclass(frozen=True)
class Occluded:
    """What hiding windows did to N images.

    heat: as `Occlusion.__call__` returns it, with the classes' axis: [N, T, H, W]. target: int64
    [N, T], the classes. score: float64 [N, T], of the whole image. drops: float64 [N, T, n], by
    window. logits: float32 [N, K], of the whole image. margins: float64 [N, n], how far the
    predicted class stays ahead of the next; below 0 the window changes the prediction.
    top: int64 [N, n], the top class without the window. plan: the windows. choice: how their
    variants were scored. scored: Boolean [N, n], exactly; the drops and margins of windows that
    weren't are approximate, and their top class is -1.
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
    scored: NDArray[np.bool_]


@dataclass(frozen=True)
class _Pass:
    """One image's pass, where the model runs."""

    heat: Any
    drops: Any
    margins: Any
    top: Any
    scored: Any


class Occlusion:
    """Heat maps by hiding windows.

    model: a path, bytes, an onnx.ModelProto, or a Scorer (whose settings then count).
    window, stride: an int, (h, w) or (c, h, w), in pixels of the model's input.
    baseline: what the window shows instead: "mean" (the image's own), "zero" (after centring the
        mean colour), "blur:SIGMA", "noise:SEED", a number, a colour, an image; in the model's
        input space, or in pixels 0..255 RGB with space="pixels".
    overlap: "mean" or "sum" of the drops of the windows over a pixel.
    score: "probability", "logit" (before the closing softmax) or "logprob"; None: the probability,
        but of a single score that nothing closes the score itself.
    edges: "clip" cuts the last windows off at the border; "valid": whole windows only.
    memory: bytes, or such as "2GB"; default: a quarter of what is free. batch: at most so many
        variants per run. preprocess, of, providers, threads, shapes, inputs: see Scorer.
    method: "dense" runs every variant whole. "incremental" computes what each window changes
        alone, exactly up to rounding. "auto" takes that where the cost model says that it clearly
        pays. "drilldown" is approximate: it scores a lattice of the windows, ever denser, then
        where the map changes most and where it is strongest, and interpolates the rest. See
        docs/direct.md.
    share: of the windows that "drilldown" scores; None: image by image, by how much the second
        lattice changes the map.

    With score="logit", overlap="mean" and edges="clip" the map is that of captum.attr.Occlusion.
    Raises ModelError or UsageError.
    """

    @take.accepts(
        window=take.sizes, stride=take.sizes, overlap=take.text, score=take.text, edges=take.text,
        space=take.text, method=take.text, share=take.number,
        of=take.text, preprocess=given_preprocess, providers=take.names, threads=take.whole,
        batch=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready | Scorer,
        *,
        window: int | Sequence[int] = 16,
        stride: int | Sequence[int] = 8,
        baseline: BaselineLike = "mean",
        overlap: Literal["mean", "sum"] = "mean",
        score: Score | None = None,
        edges: Literal["clip", "valid"] = "clip",
        space: Literal["input", "pixels"] = "input",
        preprocess: Preprocess | str | None = None,
        of: str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        memory: str | int | None = None,
        batch: int | None = None,
        method: Literal["auto", "dense", "incremental", "drilldown"] = "auto",
        share: float | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        if overlap not in ("mean", "sum"):
            raise UsageError.unknown("overlap", overlap, ("mean", "sum"))
        check_method(method)
        self.window, self.stride, self.edges = window, stride, edges
        self.overlap, self.method = overlap, method
        self.baseline = as_baseline(baseline, space)
        self.scorer = scorer_for(
            model, score, of=of, preprocess=preprocess, providers=providers, threads=threads,
            memory=memory, batch=batch, shapes=shapes, inputs=inputs,
        )  # fmt: skip
        self.score = self.scorer.settled(score)
        self._plans: dict[tuple[int, int, int], WindowPlan] = {}
        self.share = check_share(share)
        self._ways = Ways(self.scorer, method, self.share)
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
        logits, wanted = self.scorer.clean(taken, target, classes)
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
        logits, wanted = self.scorer.clean(taken, target, classes)
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
            choice=self._ways(self._plan_of(taken), 0).choice,
            scored=np.stack([p.scored for p in passes]),
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

    def _passes(
        self, taken: Inputs, logits: Any, wanted: NDArray[np.int64], progress: Progress
    ) -> Iterator[_Pass]:
        """Image by image: drops, and the map they make."""
        plan = self._plan_of(taken)
        way = self._ways(plan, len(taken))
        for index in range(len(taken)):
            image = self.scorer.planar(taken.images[index])
            base = self.scorer.baseline(image, self.baseline)
            scores = way.scores(image, taken.row(index), base)
            yield self._pass(scores, logits[index], wanted[index], plan, progress)

    def _pass(
        self, scores: Scores, logits: Any, wanted: NDArray[np.int64], plan: WindowPlan,
        progress: Progress,
    ) -> _Pass:  # fmt: skip
        """One image. logits: [K], of the whole image. wanted: its classes."""
        xp, closing = self.scorer.xp, self.scorer.closing
        chosen = xp.asarray(wanted)
        clean = as_score(logits[None], self.score, closing, xp)[0, chosen]
        drops = xp.empty((len(chosen), len(plan)), np.float64)
        margin = xp.empty(len(plan), np.float64)
        top = xp.full(len(plan), -1, np.int64)
        scored = np.zeros(len(plan), bool)

        def see(some: NDArray[np.int64] | None) -> NDArray[np.float64]:
            for which, found in scores(some):
                finite(found, xp, "a window hidden")
                score = as_score(found, self.score, closing, xp)[:, chosen]
                drops[:, which] = (clean - score).T
                margin[which] = margins(found, logits, xp)
                top[which] = found.argmax(axis=1)
                scored[which] = True
                progress(len(found))
            made = xp.concatenate([drops, -margin[None]])  # high: the window matters
            return np.asarray(arrays.to_host(made if some is None else made[:, some]), np.float64)

        if self.method == "drilldown" and plan.counts is not None:
            made, _ = drill(plan.counts, self.share, see)
            drops, margin = xp.asarray(made[:-1]), xp.asarray(-made[-1])
            progress(int((~scored).sum()))
        else:
            see(None)
        heat = reduce(drops, plan, overlap=self.overlap, backend=self.scorer.backend)
        return _Pass(heat, drops, margin, top, scored)
