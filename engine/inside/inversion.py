"""Images from representations: inversion (Mahendran and Vedaldi 2015) and maximization.

    made = backlight.invert("model.onnx", x, "fire3")      # x: [N, ...] as the model takes it
    made.images[0, 0], made.errors[0, 0]                   # of image 0, from the first start

Both descend on a layer's loss plus the priors of natural images (`Priors`); the gradient is the
export's own backward pass. The loop runs where the runtime does: NumPy, or CuPy with CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import ImageError, UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.receptive import receptive_fields
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.ready import Ready
from ..photos import images
from ..runtime import arrays
from ..runtime.session import Providers
from .descent import Schedule, Waves, descend, noise
from .objective import Objective, Pixelwise
from .priors import Priors
from .taps import Taps
from .zoom import Move

__all__ = ["Inversion", "Inverter", "Maximizer", "Maximum", "invert", "maximize"]

INVERT_STEPS, MAXIMIZE_STEPS = 200, 200
# Images of one layer at once, each with its own memory.
MOST_STARTS = 100_000
STARTS = ("noise", "grey")
UNITS = ("mean", "centre")
# Between the colours of photos (Olah et al. 2017's matrix, the mean of its three, about).
COLOURS = 0.9
Each = Callable[[int], None]


@dataclass(frozen=True)
class Inversion:
    """Images whose representation is near to given ones.

    layer: the tensor's full name. images: [N, starts, ...], as the model takes them, within the
    valid range of pixels. errors: float64 [N, starts], |phi(x) - phi0|**2 / |phi0|**2 at the end.
    losses: float64 [N, starts, steps], that error with jitter, weighted, plus the priors, before
    each step.
    """

    layer: str
    images: NDArray[Any]
    errors: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def best(self) -> NDArray[np.int64]:
        """Each image's start with the least error, [N]."""
        return np.asarray(self.errors.argmin(axis=1), np.int64)


@dataclass(frozen=True)
class Maximum:
    """Images that maximise units of a layer.

    layer: the tensor's full name. channels: [M], the classes or channels. images:
    [M, starts, ...], as the model takes them. values: float64 [M, starts], what was maximised, at
    the end. losses: float64 [M, starts, steps], minus that, with jitter, before each step.
    """

    layer: str
    channels: NDArray[np.int64]
    images: NDArray[Any]
    values: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def best(self) -> NDArray[np.int64]:
        """Each channel's start with the largest value, [M]."""
        return np.asarray(self.values.argmax(axis=1), np.int64)


class _Maker:
    """What both methods share: the objective, the pixels, the starts."""

    def __init__(
        self,
        objective: Objective,
        taps: Taps,
        preprocess: Preprocess | str | None,
        priors: Priors | None,
        schedule: Schedule,
        starts: int,
        seed: int,
    ) -> None:
        if starts < 1:
            raise UsageError(f"starts {starts}; expected 1 or more")
        if starts > MOST_STARTS:
            raise UsageError(f"starts {starts}; expected at most {MOST_STARTS}")
        if seed < 0:
            raise UsageError(f"seed {seed}; expected 0 or more")
        self.objective, self.taps = objective, taps
        self.layer = objective.layer
        self.preprocess = taps.settled(preprocess)
        self.priors, self.schedule = priors or Priors(), schedule
        self.starts, self.seed = starts, seed
        self.xp: Any = arrays.cupy() if objective.on_cuda else np
        self.spec = objective.input
        self.pixels = Pixelwise(self.preprocess, self.spec, self.xp)
        assert self.preprocess.size is not None
        self.size = self.preprocess.size
        fields = receptive_fields(taps.model, [self.layer], self.size)
        self.field = fields.get(self.layer)
        decay = self._decay()
        self.waves = Waves(*self.size, decay, COLOURS * decay, self.xp)
        self.notes = [*objective.notes, *objective.session.notes]

    def starting(self, count: int, start: str, size: float) -> Any:
        """[count * starts, C, H, W]: the same starts for every image or channel."""
        shape = (self.starts, self.spec.channels or 3, *self.size)
        if start == "grey":
            # A trace of noise: on a flat image max-pools tie and ReLUs stand at their kinks.
            size = 1.0
        z = noise(shape, self.seed, size, self.waves, self.xp)
        return self.xp.concatenate([z] * count)

    def result(self, z: Any, count: int) -> NDArray[Any]:
        x = arrays.to_host(self.pixels.to_input(z))
        return x.reshape(count, self.starts, *x.shape[1:])

    def _decay(self) -> float:
        """How much photos' spectrum leads: a layer that sees few pixels says all about the finest
        waves, one that sees the whole image little: 0.2 for 3 x 3 pixels, 1 from 256 on."""
        seen = min(max(self.field.size), max(self.size)) if self.field else max(self.size)
        return float(np.clip(np.log2(max(seen, 1)) / 8, 0, 1))

    def jump(self) -> float:
        """The layer's stride in pixels; where it has none (class scores, tokens), a thirty-second
        of the image's side."""
        if self.field is None or self.field.jump is None:
            return min(self.size) / 32
        return float(min(max(self.field.jump), min(self.size) / 4))


class Inverter(_Maker):
    """Inverts representations at one layer. Arguments as in `invert`."""

    @take.accepts(
        layer=take.text, steps=take.whole, starts=take.whole, seed=take.whole, fidelity=take.number,
        jitter=take.whole, preprocess=given_preprocess, providers=take.names, threads=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready,
        layer: str,
        *,
        steps: int = INVERT_STEPS,
        starts: int = 1,
        seed: int = 0,
        fidelity: float = 100.0,
        priors: Priors | None = None,
        jitter: int | None = None,
        preprocess: Preprocess | str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        if not 0 < fidelity < float("inf"):
            raise UsageError(f"fidelity {fidelity}; expected more than 0")
        ready = Ready.of(model, shapes, inputs)
        taps = Taps(ready, [layer], providers=providers, threads=threads)
        objective = Objective(ready, layer, "distance", providers=providers, threads=threads)
        schedule = Schedule(steps)
        super().__init__(objective, taps, preprocess, priors, schedule, starts, seed)
        self.fidelity = fidelity
        # A quarter of the stride: enough against patterns of single pixels, too little to blur
        # what the layer places exactly.
        self.jitter = int(self.jump() // 4) if jitter is None else jitter
        if not 0 <= self.jitter < min(self.size):
            raise UsageError(f"jitter {self.jitter}; expected 0 to {min(self.size) - 1}")

    @property
    def blank(self) -> str:
        """What is wrong with an image that has nothing to invert."""
        return f"'{self.layer}' is all 0, or no finite number,"

    def invertible(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of x, [N, ...] as the model takes it, have a representation to invert: [N]."""
        return _sound(_norms(self.taps(x)[self.layer]))

    def __call__(self, x: NDArray[Any], each: Each | None = None) -> Inversion:
        """Invert the representations of x, [N, ...] as the model takes it. Raises ImageError for
        what doesn't fit, UsageError where a layer is 0 for an image."""
        xp, count = self.xp, len(x)
        if count == 0:
            raise ImageError("no image; expected a batch of 1 or more")
        wanted = self.taps(x)[self.layer]
        norms = _norms(wanted)
        sound = _sound(norms)
        if not sound.all():
            at = int(np.argmin(sound))
            raise UsageError(f"{self.blank} for image {at}: there is nothing to invert")
        phi = xp.asarray(np.repeat(wanted, self.starts, axis=0))
        scale = xp.asarray((2 / np.repeat(norms, self.starts)).astype(np.float32))
        rng = np.random.default_rng([self.seed, 1 << 31])
        z = self.starting(count, "noise", 15.0)

        def evaluate(z: Any, moves: bool) -> tuple[Any, Any]:
            down, across = rng.integers(-self.jitter, self.jitter + 1, 2) if moves else (0, 0)
            shifted = xp.roll(z, (down, across), (2, 3))
            loss, by_x = self.objective(self.pixels.to_input(shifted), phi)
            by_z = xp.roll(self.pixels.gradient(by_x), (-down, -across), (2, 3))
            prior, by_prior = self.priors(z)
            weight = scale * np.float32(self.fidelity)
            return loss * weight + prior, by_z * weight[:, None, None, None] + by_prior

        z, losses = descend(z, evaluate, self.schedule, self.waves, each)
        made = self.result(z, count)
        # By the model itself, not by the loss that was descended.
        found = self.taps(made.reshape(-1, *made.shape[2:]))[self.layer]
        gap = (found.astype(np.float64) - np.repeat(wanted, self.starts, axis=0)) ** 2
        errors = gap.reshape(count, self.starts, -1).sum(axis=2) / norms[:, None]
        return Inversion(self.layer, made, errors, losses.reshape(count, self.starts, -1))


class Maximizer(_Maker):
    """Maximises classes or channels. Arguments as in `maximize`."""

    @take.accepts(
        layer=take.text, unit=take.text, start=take.text, steps=take.whole, starts=take.whole,
        seed=take.whole, drive=take.number, jitter=take.number, zoom=take.number,
        preprocess=given_preprocess, providers=take.names, threads=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready,
        layer: str | None = None,
        *,
        unit: str = "mean",
        start: str = "noise",
        steps: int = MAXIMIZE_STEPS,
        starts: int = 1,
        seed: int = 0,
        drive: float = 15.0,
        priors: Priors | None = None,
        jitter: float | None = None,
        zoom: float = 0.15,
        preprocess: Preprocess | str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        for name, value, accepted in (("unit", unit, UNITS), ("start", start, STARTS)):
            if value not in accepted:
                raise UsageError.unknown(name, value, accepted)
        if not 0 < drive < float("inf"):
            raise UsageError(f"drive {drive}; expected more than 0")
        if not 0 <= zoom < 1:
            raise UsageError(f"zoom {zoom}; expected 0 to below 1")
        ready = Ready.of(model, shapes, inputs)
        objective = Objective(ready, layer, "product", providers=providers, threads=threads)
        taps = Taps(ready, [objective.layer], providers=providers, threads=threads)
        schedule = Schedule(steps, rate=6.0, still=0.1)
        super().__init__(objective, taps, preprocess, priors, schedule, starts, seed)
        self.unit, self.start, self.drive, self.zoom = unit, start, drive, zoom
        self.jitter = self.jump() if jitter is None else jitter
        if not 0 <= self.jitter < min(self.size):
            raise UsageError(f"jitter {self.jitter}; expected 0 to {min(self.size) - 1}")
        shape = (1, *self.spec.shape(self.size))
        self.dims: tuple[int, ...] = taps(np.zeros(shape, self.spec.dtype))[self.layer].shape[1:]
        if layer is None:  # classes as they are asked for, however the file lays them out
            self.dims = tuple(
                d or self.dims[0] if at == 0 else d or 1 for at, d in enumerate(objective.dims)
            )
        # The channels of a map are where the image's are.
        self.axis = len(self.dims) - 1 if layer is not None and self.spec.layout == "nhwc" else 0

    @property
    def channels(self) -> int:
        """The number of channels (or classes) of the layer."""
        return int(self.dims[self.axis])

    def seeds(self, channels: Sequence[int]) -> NDArray[np.float32]:
        """The weights of the layer's units in what is maximised, [M, ...] shaped like the layer."""
        wrong = [c for c in channels if not 0 <= c < self.channels]
        if wrong:
            raise UsageError(
                f"channel {wrong[0]} is out of range; '{self.layer}' has 0 to {self.channels - 1}"
            )
        seeds = np.zeros((len(channels), *self.dims), np.float32)
        for row, channel in enumerate(channels):
            unit = np.moveaxis(seeds[row], self.axis, 0)[channel, ...]
            if self.unit == "mean":
                unit[...] = 1 / max(unit.size, 1)
            else:
                unit[tuple(d // 2 for d in unit.shape)] = 1
        return seeds

    def __call__(self, channels: Sequence[int], each: Each | None = None) -> Maximum:
        """Maximise each of the channels. Raises UsageError for one out of range."""
        if not len(channels):
            raise UsageError("no class or channel given; expected one or more numbers")
        xp, count = self.xp, len(channels)
        given = xp.asarray(np.repeat(self.seeds(channels), self.starts, axis=0))
        rng = np.random.default_rng([self.seed, 1 << 31])
        z = self.starting(count, self.start, 15.0)

        def evaluate(z: Any, moves: bool) -> tuple[Any, Any]:
            jitter, zoom = (self.jitter, self.zoom) if moves else (0.0, 0.0)
            move = Move(*self.size, jitter, zoom, rng, xp)
            loss, by_x = self.objective(self.pixels.to_input(move(z)), given)
            by_z = move.adjoint(self.pixels.gradient(by_x))
            # Scores have no scale of their own: the gradient is brought to that of a prior
            # (its mean over pixels, a step of V), and `drive` weighs the two.
            size = xp.abs(by_z).sum(axis=(1, 2, 3), keepdims=True)
            _, by_prior = self.priors(z)
            unit = np.float32(self.drive / self.priors.step)
            return loss, by_z * unit / (size + np.float32(1e-30)) + by_prior

        z, losses = descend(z, evaluate, self.schedule, self.waves, each)
        made = self.result(z, count)
        at_last, _ = self.objective(xp.asarray(made.reshape(-1, *made.shape[2:])), given)
        values = -arrays.to_host(at_last).astype(np.float64)
        return Maximum(
            self.layer,
            np.asarray(channels, np.int64),
            made,
            values.reshape(count, self.starts),
            losses.reshape(count, self.starts, -1),
        )


def invert(model: ModelLike, x: Any, layer: str, **options: Any) -> Inversion:
    """Images whose representation at a layer is nearest to that of x (Mahendran, Vedaldi 2015).

    model: a path, bytes or an onnx.ModelProto with one float image input. x: [N, ...] as the model
    takes it, or an image file, or several. layer: a tensor or a node by name.
    Options: steps; starts: from how many random images; seed; fidelity: the weight of the error
    |phi(x) - phi0|**2 / |phi0|**2 against the priors; priors: a `Priors`; jitter: pixels, default
    a quarter of the layer's stride; preprocess: a preset's name or a record, default the model's
    own; providers, threads, shapes, inputs: as in `backlight.Explainer`.

    Raises ModelError, UnsupportedNode, UsageError for an unknown layer, ImageError.
    """
    inverter = Inverter(model, layer, **options)
    return inverter(_images(inverter, x))


def maximize(
    model: ModelLike,
    channels: int | Sequence[int],
    layer: str | None = None,
    **options: Any,
) -> Maximum:
    """Images that maximise classes, or channels of a layer (Simonyan et al. 2014, Mahendran and
    Vedaldi 2016).

    channels: class or channel numbers. layer: a tensor or a node by name; default: the class
    scores before a closing Softmax.
    Options: unit: "mean" of a channel over the image, or its "centre" unit; start: "noise" or
    "grey"; drive: the weight of what is maximised against the priors; jitter, zoom: of the random
    shifts in pixels and of the random zoom; steps, starts, seed, priors, preprocess, providers,
    threads, shapes, inputs: as in `invert`.

    Raises ModelError, UnsupportedNode, UsageError.
    """
    wanted = list(take.several("channels", channels))
    return Maximizer(model, layer, **options)(wanted)


def _norms(values: NDArray[Any]) -> NDArray[np.float64]:
    """|phi|^2 of each image, [N, ...] -> float64 [N]."""
    return np.asarray((values.reshape(len(values), -1).astype(np.float64) ** 2).sum(axis=1))


def _sound(norms: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((norms > 0) & np.isfinite(norms))


def _images(inverter: Inverter, x: Any) -> NDArray[Any]:
    if isinstance(x, (str, Path)):
        x = [x]
    if isinstance(x, Sequence) and all(isinstance(p, (str, Path)) for p in x):
        if not x:
            raise ImageError("no image; expected a batch of 1 or more")
        spec, record = inverter.taps.input, inverter.preprocess
        return np.stack([images.read(p, record, spec).tensor for p in x])
    return arrays.to_host(arrays.taken(x)[0])
