"""A classifier readied for masked variants: class scores before their closing softmax, in batches
that fit a memory budget. Occlusion and RISE both stand on it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError, UsageError
from ...export import scores as class_scores
from ...export.graph import ModelLike, load
from ...export.lone import is_lone
from ...export.preprocess import Preprocess, looked_up
from ...export.seed import class_count
from ...export.sizes import Shapes
from ...export.store import weight_bytes
from ...kernels import BaselineLike, InputSpace, Plan, apply, as_baseline, get_backend, resolve
from ..classifier.extras import InputsLike
from ..classifier.fed import Fed
from ..classifier.intake import (
    SCORES,
    Inputs,
    Score,
    as_score,
    check_images,
    class_targets,
    finite,
)
from ..classifier.ready import Ready, Standing
from ..classifier.scores import has_none
from ..runtime import arrays
from ..runtime.budget import Footprint, parse_memory
from ..runtime.session import Providers, Session
from .room import Room
from .widened import widened

__all__ = ["Progress", "Scorer", "input_space", "no_progress", "scorer_for"]

# Of variants done (since the last call), called after each batch.
Progress = Callable[[int], None]


def no_progress(done: int) -> None:
    """Tells nobody."""


class Scorer(Standing):
    """The class scores of images and of their masked variants.

    model: a path, bytes or an onnx.ModelProto: a classifier, or a file that `backlight export`
        wrote (its saliency is left out).
    of: the tensor that holds the class scores, or what closes them ("name:as-is": itself); None:
        what a closing Softmax or Sigmoid reads. One logit behind a Sigmoid is two classes.
    preprocess: how pixels become inputs, for baselines in pixels: a preset's name or a record;
        None: what the model says.
    memory: bytes (or "2GB") that a run may take; None: a quarter of what is free at the call.
    batch: at most so many rows per run. providers, threads: see Session.
    shapes: of inputs whose shape the model leaves open, by name. inputs: what is fed beside every
        image, by name (see `backlight.Explainer`).

    Raises ModelError or UsageError.
    """

    def __init__(
        self,
        model: ModelLike | Ready,
        *,
        of: str | None = None,
        preprocess: Preprocess | str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        memory: str | int | None = None,
        batch: int | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise UsageError(f"batch {batch}; expected 1 or more")
        budget = None if memory is None else parse_memory(memory)
        own_preprocess = looked_up(preprocess)
        ready = Ready.of(model, shapes, inputs)
        self._given = ready.given if ready.as_given else ready.read
        # Weakly, as it holds the weights, of which the runtime has its own copy.
        self._ready: Callable[[], Ready | None] = weakref.ref(ready)
        loaded = load(ready.loaded)
        image, scores, self.closing, found = class_scores.leave_scores(loaded, of)
        # A layer that was named: it has channels instead of classes.
        self.layer = found.raw.name if found.output is None and of is not None else None
        self.classes = class_count(scores)
        if scores.shape is not None and any(d != 1 for d in list(scores.shape)[2:]):
            raise ModelError(f"class scores '{scores.name}' have positions; expected [N, classes]")
        self.output = str(scores.name)
        if self.output.startswith("backlight/"):
            self._given, self._ready = loaded.clone(), lambda: None  # the file has no such tensor
        self.weight_bytes = weight_bytes(loaded)
        super().__init__(ready, Fed.of(loaded.graph, image))
        self._lone = is_lone(image)
        self._widened = widened(loaded, image)
        if self._widened:
            self._given, self._ready = loaded.clone(), lambda: None
        providers, placed = ready.placed(providers)
        self.session = Session(loaded, providers, threads)
        self.notes = [*found.notes, *placed, *self.session.notes]
        self.threads = threads
        self.backend = self._backend()
        self.xp: Any = self.backend.xp
        size = 4 if self._widened else self.input.dtype.itemsize
        footprint = Footprint(loaded, self.input.name, size, self.session.compiled.slack)
        gpu = self.xp if self.on_cuda else None
        self.room = Room(footprint, budget, batch, self.input.batch, gpu)
        self._preprocess = own_preprocess or super().preprocess

    def _backend(self) -> Any:
        """Where masks are made: on the GPU if the model runs there and CuPy does."""
        if self.session.provider != "cuda":
            return get_backend("auto")
        try:
            return get_backend("cuda")
        except UsageError as err:
            self.notes.append(f"masks are made on the CPU and copied: {err}")
            return get_backend("auto")

    @property
    def source(self) -> ModelLike:
        """The model, for further graphs of it: loaded, while whoever readied it keeps that; else
        what it was made of, which is read again."""
        ready = self._ready()
        return self._given if ready is None else ready.loaded

    @property
    def on_cuda(self) -> bool:
        """Whether images, variants and scores stay in the memory of a GPU."""
        return bool(self.backend.name == "cuda")

    @property
    def preprocess(self) -> Preprocess | None:
        """What was given, else how the model's metadata wants its images, or None."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, record: Preprocess) -> None:
        self._preprocess = record

    @cached_property
    def _space(self) -> InputSpace | None:
        return None if self.preprocess is None else input_space(self.preprocess)

    @property
    def layout(self) -> Literal["nchw", "nhwc"]:
        """As the kernels name it; an image without channels is one with a single channel."""
        return "nhwc" if self.input.layout == "nhwc" else "nchw"

    def plan_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """One image's shape, in the input's layout -> (C, H, W)."""
        if self.input.layout == "nhw":
            return 1, shape[0], shape[1]
        c, h, w = shape if self.layout == "nchw" else (shape[2], shape[0], shape[1])
        return c, h, w

    def own_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) where the model fixes it."""
        h, w = self.input.size
        c = self.input.channels
        return None if h is None or w is None or c is None else (c, h, w)

    def rows(self, shape: tuple[int, ...]) -> int:
        """Variants per run for images of this shape. Raises UsageError: a budget too small."""
        return self.room.rows(shape)

    def take(self, inputs: Any) -> Inputs:
        """A call's inputs, checked: [N, ...] in NumPy, CuPy or DLPack memory, or a mapping from
        input names. Raises ImageError."""
        x, beside, back = self.fed.taken(inputs, self._lone, self._check)
        feeds = {name: self._here(values) for name, values in beside.items()}
        x = x.astype(np.float32) if self._widened else x
        from_gpu = arrays.is_cuda(x)

        def home(result: Any) -> Any:
            there = arrays.cupy().asarray(result) if from_gpu else arrays.to_host(result)
            return back(there)

        return Inputs(self._here(x), feeds, home, self.fed.whole)

    def _check(self, x: Any) -> None:
        check_images(x, self.input)

    def settled(self, score: Score | None) -> Score:
        """What is measured: what was asked for; None: the probability, but the score itself where
        it has none, and of a layer, whose channels are no classes; which is noted. Raises
        UsageError for a layer's probability."""
        if self.layer is not None and self.closing is None:
            if score not in (None, "logit"):
                raise UsageError(
                    f"score '{score}' of '{self.layer}': a layer's channels are no classes, and "
                    "have no probability; accepted: 'logit', the activation itself"
                )
            note = (
                f"'{self.layer}' is a layer: what is measured is the activation of a channel "
                "itself, no probability"
            )
            if note not in self.notes:
                self.notes.append(note)
            return "logit"
        if score is not None or not has_none(self.classes, self.closing):
            return score or "probability"
        what = "a single score that nothing closes"
        if self.closing is not None:
            what = "made of probabilities and holds none"
        note = f"'{self.output}' is {what}: measuring it as it is"
        if note not in self.notes:
            self.notes.append(note)
        return "logit"

    def _here(self, x: Any) -> Any:
        """An array where the model runs."""
        return self.xp.ascontiguousarray(self.xp.asarray(x if self.on_cuda else arrays.to_host(x)))

    def baseline(self, image: Any, given: BaselineLike) -> Any:
        """What stands where `image` is hidden, as the kernels read it. Raises UsageError."""
        spec = as_baseline(given)
        if self.input.layout == "nhw" and getattr(spec.value, "ndim", 0) == 2:
            axis = -1 if spec.space == "pixels" else 0
            spec = replace(spec, value=np.expand_dims(np.asarray(spec.value), axis))
        return resolve(spec, image, layout=self.layout, space=self._space, xp=self.xp)

    def planar(self, image: Any) -> Any:
        """One image as the kernels read it: with a channel axis."""
        return image[None] if self.input.layout == "nhw" else image

    def clean(self, inputs: Inputs, target: Any, classes: Any) -> tuple[Any, NDArray[np.int64]]:
        """Class scores of whole images, and the classes to explain of each, int64 [N, T]: see
        `class_targets`. Raises ImageError for scores that are none, or UsageError."""
        logits = finite(self.logits(inputs), self.xp)
        top = arrays.to_host(logits.argmax(axis=1)).astype(np.int64)
        return logits, class_targets(target, classes, top, int(logits.shape[1]))

    def logits(self, inputs: Inputs) -> Any:
        """Class scores of whole images, float32 [N, K]."""
        feeds = {self.input.name: inputs.images, **inputs.others}
        step = self.rows(tuple(inputs.images.shape[1:]))
        parts = [self._run(part, count) for part, count in self.fed.runs(feeds, step)]
        return self.xp.concatenate(parts)

    def variants(
        self, image: Any, others: Mapping[str, Any], plan: Plan, base: Any
    ) -> Iterator[tuple[slice, Any]]:
        """Class scores float32 [n, K] of a plan's variants, a batch at a time, in order.

        image: planar. others: the image's row [1, ...] of each further input. base: resolved.
        One buffer serves all batches: the kernel writes it, the runtime reads it.
        """
        xp = self.xp
        shape = image.shape[1:] if self.input.layout == "nhw" else image.shape
        fixed = self.input.batch
        step = self.rows(tuple(shape)) if fixed else min(self.rows(tuple(shape)), len(plan))
        # A fixed batch is run whole: the rows that the last slice leaves keep older variants.
        buffer = xp.zeros((step, *shape), image.dtype)
        target = buffer.reshape(step, *image.shape)
        wide = {
            k: v if k in self.fed.whole else xp.repeat(v, step, axis=0) for k, v in others.items()
        }
        for start in range(0, len(plan), step):
            stop = min(start + step, len(plan))
            n = stop - start
            apply(
                image, plan, base, target[:n], start, stop,
                layout=self.layout, backend=self.backend,
            )  # fmt: skip
            used = step if fixed else n
            feeds = {self.input.name: buffer[:used], **wide}
            if used < step:
                feeds |= {k: v[:used] for k, v in wide.items() if k not in self.fed.whole}
            yield slice(start, stop), self._run(feeds, n)

    def measured(
        self, image: Any, others: Mapping[str, Any], plan: Plan, base: Any, score: Score,
        classes: NDArray[np.int64], hidden: str, progress: Progress = no_progress,
    ) -> NDArray[np.float64]:  # fmt: skip
        """`score` of some classes, [T], of each of a plan's variants: float64 [n, T], in host
        memory. Arguments: see `variants`. hidden: what they lack, for the message. Raises
        ImageError for scores that are none."""
        chosen = self.xp.asarray(classes)
        made = np.empty((len(plan), len(classes)), np.float64)
        for which, found in self.variants(image, others, plan, base):
            finite(found, self.xp, hidden)
            kept = as_score(found, score, self.closing, self.xp)[:, chosen]
            made[which] = arrays.to_host(kept)
            progress(len(found))
        return made

    def probabilities(self, scores: Any) -> NDArray[np.float32] | None:
        """The probabilities [N, K] that class scores [N, K] give. None where there are none to be
        had: of a single score that nothing closes, and of a layer, whose channels compete for
        nothing."""
        if self.layer is not None and self.closing is None:
            return None
        try:
            found = as_score(arrays.to_host(scores), "probability", self.closing)
        except UsageError:
            return None
        return np.asarray(found, np.float32)

    def _run(self, feeds: dict[str, Any], count: int) -> Any:
        """Scores [count, K] of one run, where the model runs."""
        if self.on_cuda:
            found = arrays.run_on_cuda(self.session, feeds, [self.output])[self.output]
        else:
            found = self.session.run(feeds, [self.output])[self.output]
        rows = len(feeds[self.input.name])
        if len(found) != rows:
            raise ModelError(
                f"class scores '{self.output}' have {len(found)} rows for {rows} images; "
                "expected [N, classes], or name a tensor with --of"
            )
        flat = found[:count].reshape(count, -1)
        if found.ndim > 1 and flat.shape[1] != found.shape[1]:
            raise ModelError(f"class scores '{self.output}' have positions; expected [N, classes]")
        return flat.astype(np.float32)


def scorer_for(
    model: ModelLike | Ready | Scorer,
    score: str | None,
    *,
    of: str | None,
    preprocess: Preprocess | str | None,
    providers: Providers,
    threads: int | None,
    memory: str | int | None,
    batch: int | None,
    shapes: Shapes | None = None,
    inputs: InputsLike | None = None,
) -> Scorer:
    """The scorer of a heat map's constructor: the one given, whose settings then count, or a new
    one. score: checked, see intake.Score. Raises UsageError or ModelError."""
    if score is not None and score not in SCORES:
        raise UsageError.unknown("score", score, SCORES)
    if isinstance(model, Scorer):
        return model
    return Scorer(
        model, of=of, preprocess=preprocess, providers=providers, threads=threads,
        memory=memory, batch=batch, shapes=shapes, inputs=inputs,
    )  # fmt: skip


def input_space(preprocess: Preprocess) -> InputSpace:
    """How the kernels bring a baseline in pixels into the model's input space."""
    order: Literal["rgb", "bgr"] = "bgr" if preprocess.color == "BGR" else "rgb"
    return InputSpace(preprocess.scale, preprocess.mean, preprocess.std, order)
