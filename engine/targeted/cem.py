"""`backlight.Cem`: what is missing from a photo for another class, and what of it is enough.

Dhurandhar et al. 2018, "Explanations based on the Missing: Towards Contrastive Explanations with
Pertinent Negatives". On photos their pixels are noise, so there it is superpixels, or blur, that
are added and left out, as in Luss et al. 2021, "Leveraging Latent Features for Local Explanations".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ...kernels import Baseline, BaselineLike, as_baseline
from ..classifier.extras import InputsLike
from ..classifier.intake import Inputs
from ..classifier.ready import Reading, Ready
from ..inside.objective import Objective, Pixelwise
from ..masked.scoring import Progress, Scorer, no_progress
from ..masked.superpixels import SuperpixelsLike, as_superpixels, picture_of
from ..runtime import arrays
from ..runtime.session import Providers
from .fista import Found, Search, search
from .spaces import Gains, Lattice, Patches, Space, pixelwise

__all__ = ["KINDS", "SPACES", "Cem", "Contrastive", "Pertinent"]

KINDS = ("negative", "positive")
SPACES = ("auto", "pixels", "superpixels", "blur")
# What a negative adds at most, as a gain on what is there.
MOST = 3.0
# Pictures up to this size in one channel are digits, of which every pixel counts.
DIGITS = 64
# Of a photo: points of the lattice along a side, and sides to the blur's sigma.
POINTS, SIDES = 14, 16
SUPERPIXELS = "slic:50"
# A pixel that differs by half a grey level looks the same.
SEEN = 0.5 / 255

_WHOLE = np.float32(255)
_HALF = np.float32(127.5)


@dataclass(frozen=True)
class Pertinent:
    """One kind of explanation of N photos.

    kind: "negative": the least that, added to the photo, makes it another class; "positive": the
        least of the photo that has its class alone.
    images: [N, ...] as the model takes them: the photo with the addition, or what was kept of it on
        the baseline. delta: images minus the photo (negative) or minus the baseline (positive).
    reached: Boolean [N], whether the class is another one (negative) or the same (positive), by the
        model itself.
    after: int64 [N], the class of `images`; logits: float32 [N, K], their scores.
    l1, l2: float64 [N], norms of delta, black to white being 1. share: float64 [N], of the pixels
        that changed (negative) or were kept (positive), in part or whole. amount: float64 [N], l1
        by the photo's own distance from the baseline.
    map: float32 [N, H, W], what was searched, where it lies: on pixels delta, summed over channels;
        else the gain of each pixel (1: all of it, or as much again).
    c: float64 [N], the hinge's weight; steps: int64 [N], how many were taken.
    """

    kind: str
    images: Any
    delta: Any
    reached: NDArray[np.bool_]
    after: NDArray[np.int64]
    logits: NDArray[np.float32]
    l1: NDArray[np.float64]
    l2: NDArray[np.float64]
    share: NDArray[np.float64]
    amount: NDArray[np.float64]
    map: NDArray[np.float32]
    c: NDArray[np.float64]
    steps: NDArray[np.int64]


@dataclass(frozen=True)
class Contrastive:
    """What a Cem says of N photos. target: int64 [N], the class explained. top: int64 [N], the
    model's class. logits: float32 [N, K], of the photos. negative, positive: None where it wasn't
    asked for."""

    target: NDArray[np.int64]
    top: NDArray[np.int64]
    logits: NDArray[np.float32]
    negative: Pertinent | None
    positive: Pertinent | None


class Cem(Reading):
    """Pertinent negatives and positives of images, the images of a call all at once (CEM,
    Dhurandhar et al. 2018).

    model: a path, bytes or an onnx.ModelProto: a classifier of two classes or more, with one float
        image input.
    kinds: "negative", "positive", or both.
    on: what is changed: "pixels"; "superpixels", each by a gain of its own on what tells it from
        the baseline; "blur", the same with gains on a coarse lattice, smooth in between; "auto":
        pixels of digits (one channel, up to 64 x 64), else blur.
    segments: how superpixels are cut, see `backlight.Lime`: "slic:50" unless told otherwise,
        "grid:7x9" (which needs no further library), a map of one's own …
    baseline: the picture that says nothing, see Occlusion; None: black for pixels, else the
        photo's own blur. Added is what leads away from it. space: of numbers in it.
    most: how many times as much again a negative may add of what tells a superpixel from the
        baseline; 3 unless told otherwise.
    c, kappa, beta, rate, rounds, steps, patience: see `fista.Search`; norms in units of black to
        white.
    preprocess, of, providers, threads, shapes, inputs: see Occlusion.

        cem = backlight.Cem("digits.onnx")
        found = cem(x)                                # x: [N, ...] as the model takes it
        found.negative.after, found.negative.share    # the class with the addition, and its size

    There is no autoencoder (gamma is 0, the default of the authors' own code). Raises ModelError,
    UnsupportedNode or UsageError.
    """

    @take.accepts(
        kinds=take.names, on=take.text, space=take.text, most=take.number, c=take.number,
        kappa=take.number, beta=take.number, rate=take.number, rounds=take.whole,
        steps=take.whole, patience=take.whole, preprocess=given_preprocess, of=take.text,
        providers=take.names, threads=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready,
        *,
        kinds: str | Sequence[str] = KINDS,
        on: Literal["auto", "pixels", "superpixels", "blur"] = "auto",
        segments: SuperpixelsLike | None = None,
        baseline: BaselineLike | None = None,
        space: Literal["input", "pixels"] = "input",
        most: float | None = None,
        c: float = Search.c,
        kappa: float = Search.kappa,
        beta: float = Search.beta,
        rate: float = Search.rate,
        rounds: int = Search.rounds,
        steps: int = Search.steps,
        patience: int = Search.patience,
        preprocess: Preprocess | str | None = None,
        of: str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        self.kinds = (kinds,) if isinstance(kinds, str) else tuple(dict.fromkeys(kinds))
        wrong = next((k for k in self.kinds if k not in KINDS), None)
        if wrong is not None or not self.kinds:
            raise UsageError.unknown("kind", wrong or "", KINDS)
        if on not in SPACES:
            raise UsageError.unknown("on", on, SPACES)
        if most is not None and not 0 < most < float("inf"):
            raise UsageError(f"most {most}; expected more than 0")
        if segments is not None and on not in ("auto", "superpixels"):
            raise UsageError(f"segments with on='{on}'; accepted: 'superpixels'")
        self.search = Search(c, rounds, kappa, beta, steps, rate, patience)
        ready = Ready.of(model, shapes, inputs)
        self.scorer = Scorer(
            ready, of=of, preprocess=preprocess, providers=providers, threads=threads
        )
        self.objective = Objective(ready, of, "margin", providers=providers, threads=threads)
        super().__init__(ready, self.objective.fed)
        self.classes = self.scorer.classes
        record = self.settled(preprocess)
        self.scorer.preprocess = self.record = record
        self.xp: Any = arrays.cupy() if self.objective.on_cuda else np
        self.pixels = Pixelwise(record, self.input, self.xp)
        assert record.size is not None
        self.size = record.size
        small = self.input.channels == 1 and max(self.size) <= DIGITS
        guess = "superpixels" if segments is not None else "pixels" if small else "blur"
        self.on = guess if on == "auto" else on
        self.segments = as_superpixels(SUPERPIXELS if segments is None else segments)
        if most is not None and (self.on == "pixels" or "negative" not in self.kinds):
            raise UsageError(f"most {most:g} is of negatives on blur or superpixels")
        self.most = MOST if most is None else most
        self.baseline = self._baseline(baseline, space)
        self.notes = list(dict.fromkeys([*self.scorer.notes, *self.objective.notes]))

    @property
    def work(self) -> int:
        """The steps of an image, at most: what `progress` is told of."""
        return len(self.kinds) * self.search.rounds * self.search.steps

    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        *,
        progress: Progress = no_progress,
    ) -> Contrastive:
        """Explain a batch. inputs: [N, ...] in the input's shape and dtype, in NumPy, CuPy or
        DLPack memory. target: None (each image's top class), one class, or N of them.
        progress: told of steps done.

        Images come back where the inputs live. Raises ImageError, or UsageError for a class or a
        map of segments that doesn't fit.
        """
        taken = self.scorer.take(inputs)
        logits, wanted = self.scorer.clean(taken, target, None)
        logits, chosen = arrays.to_host(logits), wanted[:, 0]
        if logits.shape[1] < 2:
            raise UsageError("a model with a single score has no other class to tell it from")
        x = self.xp.asarray(arrays.to_host(taken.images))
        photo = self._unit(x)
        base = self._bases(taken, x)
        parts = self._parts(taken, photo.shape[2:])
        found: dict[str, Pertinent] = {}
        for kind in self.kinds:
            space = self._space(kind, photo, base, parts)
            ways = self._searched(kind, space, chosen, progress)
            start = photo if kind == "negative" else base
            found[kind] = self._pertinent(kind, space, ways, start, photo - base, chosen, taken)
        return Contrastive(
            chosen, logits.argmax(axis=1).astype(np.int64), np.asarray(logits, np.float32),
            found.get("negative"), found.get("positive"),
        )  # fmt: skip

    @property
    def baseline_name(self) -> str:
        """The picture that says nothing, for people."""
        return _named(self.baseline)

    def _baseline(self, given: BaselineLike | None, space: Any) -> Baseline:
        found = as_baseline("zero" if given is None else given, space)  # checks the space, too
        if given is not None:
            return found
        if self.on == "pixels":
            return as_baseline(0.0, "pixels")
        return as_baseline(f"blur:{max(min(self.size) / SIDES, 0.5):.3g}")

    def _unit(self, x: Any) -> Any:
        """The model's input as black 0 to white 1, [N, C, H, W]."""
        return (self.pixels.from_input(x) + _HALF) / _WHOLE

    def _input(self, u: Any) -> Any:
        return self.pixels.to_input(u * _WHOLE - _HALF)

    def _bases(self, taken: Inputs, x: Any) -> Any:
        """Each image's baseline, in units, within black and white."""
        made = []
        for image in taken.images:
            planar = self.scorer.planar(image)
            base = arrays.to_host(self.scorer.baseline(planar, self.baseline))
            if base.ndim == 1:
                at = -1 if self.scorer.layout == "nhwc" else 0
                base = np.expand_dims(base, [a for a in range(3) if a != at % 3])
            made.append(np.broadcast_to(base, planar.shape).reshape(image.shape))
        return self.xp.clip(self._unit(self.xp.asarray(np.stack(made).astype(x.dtype))), 0, 1)

    def _parts(self, taken: Inputs, size: tuple[int, int]) -> Patches | Lattice | None:
        """What has a gain of its own."""
        if self.on == "pixels":
            return None
        if self.on == "blur":
            return Lattice(size, POINTS, self.xp)
        pictures = [
            picture_of(arrays.to_host(image), self.input.layout, self.record)
            for image in taken.images
        ]
        cut = [self.segments.cut(p, at, len(pictures)) for at, p in enumerate(pictures)]
        return Patches(np.stack(cut), self.xp)

    def _space(self, kind: str, photo: Any, base: Any, parts: Any) -> Space:
        if parts is None:
            return pixelwise(photo, base, kind, self.xp)
        return Gains.of(photo, base, kind, parts, self.most, self.xp)

    def _searched(
        self, kind: str, space: Space, target: NDArray[np.int64], progress: Progress
    ) -> Found:
        sign = np.float32(1 if kind == "negative" else -1)
        given = self._given(target)

        def evaluate(rows: NDArray[np.int64], d: Any) -> tuple[Any, Any]:
            x = self._input(space.picture(rows, d))
            margin, by_x = self.objective(x, given[rows])
            by = self.pixels.gradient(by_x) * _WHOLE
            return sign * margin, sign * space.gradient(rows, d, by)

        return search(space.start, space.low, space.high, evaluate, self.search, progress, self.xp)

    def _given(self, target: NDArray[np.int64]) -> Any:
        """What the walk is told of the class: one-hot."""
        dims = self.objective.dims
        count = dims[0] or self.scorer.classes or int(target.max()) + 1
        rows = np.zeros((len(target), count, *[1] * (len(dims) - 1)), np.float32)
        rows[np.arange(len(target)), target] = 1
        return self.xp.asarray(rows)

    def _pertinent(
        self, kind: str, space: Space, ways: Found, start: Any, apart: Any,
        target: NDArray[np.int64], taken: Inputs,
    ) -> Pertinent:  # fmt: skip
        rows = np.arange(len(target))
        made = space.picture(rows, ways.d)
        images = self._input(made)
        # By the model itself, not by the margin that was descended.
        again = replace(taken, images=self.scorer.xp.asarray(arrays.to_host(images)))
        logits = arrays.to_host(self.scorer.logits(again))
        after = logits.argmax(axis=1).astype(np.int64)
        same = after == target
        delta = arrays.to_host(made - start).astype(np.float64)
        flat = np.abs(delta).reshape(len(rows), -1)
        whole = np.abs(arrays.to_host(apart).astype(np.float64)).reshape(len(rows), -1).sum(axis=1)
        return Pertinent(
            kind=kind,
            images=taken.home(images),
            delta=taken.home(images - self._input(start)),
            reached=ways.reached & (same if kind == "positive" else ~same),
            after=after,
            logits=np.asarray(logits, np.float32),
            l1=flat.sum(axis=1),
            l2=np.sqrt((flat * flat).sum(axis=1)),
            share=(np.abs(delta).max(axis=1) > SEEN).mean(axis=(1, 2)),
            amount=flat.sum(axis=1) / np.where(whole > 0, whole, 1),
            map=np.asarray(arrays.to_host(space.map(ways.d)), np.float32),
            c=ways.c,
            steps=ways.steps,
        )


def _named(baseline: Baseline) -> str:
    if baseline.kind == "blur":
        return f"blur:{baseline.sigma:g}"
    if not isinstance(baseline.value, (int, float)):
        return baseline.kind if baseline.value is None else f"own {baseline.kind}"
    black = baseline.space == "pixels" and baseline.value == 0
    return "black" if black else f"{baseline.value:g}"
