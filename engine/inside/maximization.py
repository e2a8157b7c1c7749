"""Images that maximise classes or channels (Simonyan et al. 2014, Mahendran and Vedaldi 2016).

made = backlight.maximize("model.onnx", [933])         # a class
made = backlight.maximize("model.onnx", [5], "fire3")  # a channel of a layer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.ready import Ready
from ..runtime import arrays
from ..runtime.session import Providers
from .descent import Schedule, descend
from .objective import Objective
from .priors import Priors
from .synthesis import STEPS, Each, Synthesis
from .taps import Taps
from .zoom import Move

__all__ = ["Maximizer", "Maximum", "maximize"]

STARTS = ("noise", "grey")
UNITS = ("mean", "centre")


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


class Maximizer(Synthesis):
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
        steps: int = STEPS,
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
