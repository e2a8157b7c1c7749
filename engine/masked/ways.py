"""How the variants of an image's windows are scored: whole or on boxes, by the method asked for and
what the cost model says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...kernels import WindowPlan
from .drilldown import TYPICAL
from .incremental import Choice, Chooser, Incremental
from .scoring import Scorer

__all__ = ["METHODS", "Scores", "Way", "Ways", "check_method"]

Ints = NDArray[np.int64]

# Scores of some windows' variants, or of all: (which, float32 [n, K]) in any order, each variant
# once. which: a slice or an index array.
Scores = Callable[[Ints | None], Iterator[tuple[Any, Any]]]

METHODS = ("auto", "dense", "incremental", "drilldown")
# Who asks for "drilldown" wants speed, not what dense would cost at most: boxes pay on one photo.
WASTE = 0.2


def check_method(method: str) -> None:
    """Raises UsageError."""
    if method not in METHODS:
        raise UsageError.unknown("method", method, METHODS)


@dataclass(frozen=True)
class Way:
    """How a plan's variants are scored. boxes: on boxes; None: whole. choice: for people."""

    scorer: Scorer
    plan: WindowPlan
    choice: Choice
    boxes: Incremental | None

    def scores(self, image: Any, others: Mapping[str, Any], base: Any) -> Scores:
        """What scores an image's variants. See Scorer.variants for the arguments."""
        if self.boxes is not None:
            boxes, taps = self.boxes, self.boxes.start(image, base)
            return lambda some: boxes.scores(taps, some)

        def whole(some: Ints | None) -> Iterator[tuple[Any, Any]]:
            picked = self.plan if some is None else self.plan.select(some)
            for at, logits in self.scorer.variants(image, others, picked, base):
                yield (at if some is None else some[at]), logits

        return whole


class Ways:
    """Chooses a Way, plan by plan. share: of the windows that "drilldown" scores."""

    def __init__(self, scorer: Scorer, method: str, share: float | None) -> None:
        drilled = method == "drilldown"
        self._scorer = scorer
        self._chooser = Chooser(scorer, "auto", WASTE) if drilled else Chooser(scorer, method)
        self._share = (TYPICAL if share is None else share) if drilled else 1.0

    def __call__(self, plan: WindowPlan, images: int) -> Way:
        """How the windows of so many more images are scored. Raises as Chooser."""
        share = 1.0 if plan.counts is None else self._share
        return Way(self._scorer, plan, *self._chooser(plan, images, share))
