"""How many variants of an image a method averages over, and which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..arguments import number
from ..errors import UsageError, hint

if TYPE_CHECKING:
    from .methods import Method

__all__ = ["BASELINES", "Sampling", "sampled"]

BASELINES = ("black", "grey", "white", "mean", "input")
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Sampling:
    """How many variants, and which.

    samples: of noise; noise: its standard deviation by the image's own range (max - min).
    steps: of the way from the baseline, Gauss-Legendre. baseline: a number in the model's input
    space, "black", "grey", "white", "mean" (pixels, by the preprocessing), or "input": the graph's
    input `baseline`.
    held: where the variants are run. "graph": in the file that says the scores; "parts": in a graph
    of their own, which is fed some steps or noise and the classes, none of them -1; "elsewhere":
    not in this one, which says instead by how much the score rises from the baseline.
    """

    samples: int = 16
    noise: float = 0.15
    steps: int = 16
    baseline: str | float = 0.0
    held: Literal["graph", "parts", "elsewhere"] = "graph"

    def __post_init__(self) -> None:
        for what, value in (("samples", self.samples), ("steps", self.steps)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096:
                raise UsageError(f"{what} {value}; expected 1 to 4096")
        if isinstance(self.noise, bool) or not isinstance(self.noise, (int, float)):
            raise UsageError(f"noise {self.noise!r}; expected a number, 0 to 10")
        if not 0 <= self.noise <= 10:
            raise UsageError(f"noise {self.noise}; expected 0 to 10, by the image's own range")
        if isinstance(self.baseline, str) and self.baseline not in BASELINES:
            raise UsageError(
                f"baseline '{self.baseline}'; accepted: {', '.join(BASELINES)}, or a finite number "
                "in the model's input space" + hint(self.baseline, BASELINES)
            )
        if isinstance(self.baseline, float) and not np.isfinite(self.baseline):
            raise UsageError(f"baseline {self.baseline}; expected a finite number")
        if not isinstance(self.baseline, str):
            number("baseline", self.baseline)

    def nodes(self) -> tuple[Array, Array]:
        """Places on the way, 0..1, and their weights, which sum to 1 (Gauss-Legendre)."""
        at, weights = np.polynomial.legendre.leggauss(self.steps)
        return (at + 1) / 2, weights / 2


# What each setting is of: the kinds of variants, as a method's row says.
_OF = {
    "samples": ("noise", "noise around the image: smoothgrad, squaregrad, vargrad"),
    "noise": ("noise", "noise around the image: smoothgrad, squaregrad, vargrad"),
    "steps": ("path", "a way to the image: integrated_gradients"),
    "baseline": ("path", "a way to the image: integrated_gradients"),
}


def sampled(methods: Iterable[Method], **asked: Any) -> Sampling | None:
    """What a caller asks for of these methods; None where nothing. Raises UsageError, also for what
    none of those that vary the image takes."""
    kinds = {row.varies for row in methods}
    given = {key: value for key, value in asked.items() if value is not None}
    for key, value in given.items():
        kind, what = _OF[key]
        if any(kinds) and kind not in kinds:
            raise UsageError(f"{key} {value} is of methods that take {what}")
    return Sampling(**given) if given else None
