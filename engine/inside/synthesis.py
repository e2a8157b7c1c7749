"""What inversion and maximization share: images that descend on a layer's loss.

Both add the priors of natural images (`Priors`) to it; the gradient is the export's own backward
pass. The loop runs where the runtime does: NumPy, or CuPy with CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...export.preprocess import Preprocess
from ...export.receptive import receptive_fields
from ..runtime import arrays
from .descent import Schedule, Waves, noise
from .objective import Objective, Pixelwise
from .priors import Priors
from .taps import Taps

__all__ = ["STEPS", "Each", "Synthesis"]

STEPS = 200
# Images of one layer at once, each with its own memory.
MOST_STARTS = 100_000
# Between the colours of photos (Olah et al. 2017's matrix, the mean of its three, about).
COLOURS = 0.9
Each = Callable[[int], None]


class Synthesis:
    """Makes images: the objective, the pixels, the starts."""

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
        """[count, starts, ...], as the model takes them."""
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
