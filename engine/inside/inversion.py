"""Images from representations: inversion (Mahendran and Vedaldi 2015).

made = backlight.invert("model.onnx", x, "fire3")      # x: [N, ...] as the model takes it
made.images[0, 0], made.errors[0, 0]                   # of image 0, from the first start
"""

from __future__ import annotations

from collections.abc import Sequence
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
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.ready import Ready
from ..photos import images
from ..runtime import arrays
from ..runtime.session import Providers
from .descent import Schedule, descend
from .objective import Objective
from .priors import Priors
from .synthesis import STEPS, Each, Synthesis
from .taps import Taps

__all__ = ["Inversion", "Inverter", "invert"]


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


class Inverter(Synthesis):
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
        steps: int = STEPS,
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
