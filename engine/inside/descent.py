"""Images made by gradient descent: Adam in a basis of waves, with a step schedule and jitter.

Plain descent on pixels fills an image with the finest waves, which photos have least of. Here a
step is scaled wave by wave as photos' amplitudes fall, by 1 / frequency (Olah et al. 2017, "Feature
Visualization"), so that large shapes and colours come first. The cosine basis (DCT-II) needs no
wrapping around at the border, and as two small matrices it costs about as much as a thin layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RunError, UsageError
from ..runtime import arrays

__all__ = ["HALF", "Schedule", "Waves", "descend", "noise"]

# Pixel units run from -HALF to HALF.
HALF = np.float32(127.5)
_MEAN, _SQUARE = 0.9, 0.99


# Days of work, and as many losses as memory takes.
MOST_STEPS = 10_000_000


@dataclass(frozen=True)
class Schedule:
    """How the steps go.

    steps: their number. rate: of the first step, in pixel units; it falls as a half cosine to 0.
    still: the last part of the steps, 0..1, that goes without jitter.
    """

    steps: int
    rate: float = 4.0
    still: float = 0.4

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"steps {self.steps}; expected 1 or more")
        if self.steps > MOST_STEPS:
            raise UsageError(f"steps {self.steps}; expected at most {MOST_STEPS}")
        if not 0 < self.rate <= 255:
            raise UsageError(f"rate {self.rate}; expected more than 0, at most 255")
        if not 0 <= self.still <= 1:
            raise UsageError(f"still {self.still}; expected 0 to 1")

    def rates(self) -> NDArray[np.float32]:
        """The rate of each step."""
        at = np.arange(self.steps) / self.steps
        return np.asarray(self.rate * 0.5 * (1 + np.cos(np.pi * at)), np.float32)

    def moves(self, step: int) -> bool:
        """Whether a step has jitter."""
        return step < (1 - self.still) * self.steps


def _cosines(size: int) -> NDArray[np.float32]:
    """The orthonormal DCT-II: [frequency, place]."""
    frequency, place = np.arange(size)[:, None], np.arange(size)[None]
    basis = np.cos(np.pi * frequency * (2 * place + 1) / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return np.asarray(basis, np.float32)


class Waves:
    """A symmetric operator that scales each wave of an image by 1 / frequency ** decay, and turns
    white noise into noise whose channels correlate as given; its mean square is kept.

    correlation: about 0.9 between the colours of photos, in whatever order they come.
    """

    def __init__(self, height: int, width: int, decay: float, correlation: float, xp: Any) -> None:
        rows, columns = np.arange(height) / (2 * height), np.arange(width) / (2 * width)
        frequency = np.hypot(rows[:, None], columns[None])
        scale = np.maximum(frequency, 0.5 / max(height, width)) ** -decay
        scale /= np.sqrt((scale * scale).mean())
        self._scale = xp.asarray(scale.astype(np.float32))
        self._correlation = correlation
        self._down, self._across = xp.asarray(_cosines(height)), xp.asarray(_cosines(width))

    def __call__(self, z: Any) -> Any:
        """z: float32 [N, C, H, W], and so is the result."""
        waves = (self._down @ z @ self._across.T) * self._scale
        # The root of (1 - r) I + r 11': one factor along grey, another across it.
        depth, r = z.shape[1], self._correlation
        across, along = np.sqrt(1 - r), np.sqrt(1 + (depth - 1) * r)
        grey = waves.mean(axis=1, keepdims=True)
        waves = np.float32(across) * (waves - grey) + np.float32(along) * grey
        return self._down.T @ waves @ self._across


def noise(shape: tuple[int, ...], seed: int, size: float, waves: Waves, xp: Any) -> Any:
    """Starts with photos' spectrum, of root mean square `size`; row i hangs on seed and i alone."""
    rows = [np.random.default_rng([seed, i]).standard_normal(shape[1:]) for i in range(shape[0])]
    white = xp.asarray(np.stack(rows).astype(np.float32) * np.float32(size))
    return xp.clip(waves(white), -HALF, HALF)


def descend(
    z: Any,
    evaluate: Callable[[Any, bool], tuple[Any, Any]],
    schedule: Schedule,
    waves: Waves,
    each: Callable[[int], None] | None = None,
) -> tuple[Any, NDArray[np.float64]]:
    """Descend from z, [N, C, H, W] in pixel units; values stay within -HALF..HALF.

    evaluate: z and whether jitter is wanted -> the loss, [N], and its gradient by z.
    each: called after every step with its number. Returns the last z and the losses before each
    step, [N, steps]. Raises RunError where a loss is no number.
    """
    mean, square = 0.0 * z, 0.0 * z
    losses = []
    for step, rate in enumerate(schedule.rates()):
        loss, gradient = evaluate(z, schedule.moves(step))
        losses.append(arrays.to_host(loss).astype(np.float64))
        if not np.isfinite(losses[-1]).all():
            raise RunError(f"the loss at step {step} is no finite number; a smaller rate may help")
        gradient = waves(gradient)
        mean += (1 - _MEAN) * (gradient - mean)
        square += (1 - _SQUARE) * (gradient * gradient - square)
        size = (square / np.float32(1 - _SQUARE ** (step + 1))) ** 0.5
        # The floor is relative: gradients of a mean over pixels are small numbers.
        size += np.float32(1e-8) * size.max() + np.float32(1e-30)
        move = mean * (rate / np.float32(1 - _MEAN ** (step + 1))) / size
        z = (z - waves(move)).clip(-HALF, HALF)
        if each is not None:
            each(step)
    return z, np.stack(losses, axis=1)
