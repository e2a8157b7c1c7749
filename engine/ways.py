"""How the variants of an image's windows are scored: whole, on boxes, or roughly on boxes that are
cut; by the method asked for and what the cost model says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..kernels import WindowPlan
from .drilldown import REACH, exact_share
from .incremental import Choice, Chooser, Incremental
from .scoring import Scorer

__all__ = ["METHODS", "Scores", "Way", "Ways", "check_method"]

Ints = NDArray[np.int64]

# Scores of some windows' variants, or of all: (which, float32 [n, K]) in any order, each variant
# once. which: a slice or an index array.
Scores = Callable[[Ints | None], Iterator[tuple[Any, Any]]]

METHODS = ("auto", "dense", "incremental", "drilldown")
# "drilldown" scores roughly where that is estimated to be so many times as fast as exactly: below,
# the exact scores that rough ones need beside them cost more than is won.
ROUGHLY = 1.8


def check_method(method: str) -> None:
    """Raises UsageError."""
    if method not in METHODS:
        raise UsageError(f"method '{method}'; accepted: {', '.join(METHODS)}")


@dataclass(frozen=True)
class Way:
    """How a plan's variants are scored. boxes: exactly, on boxes; None: whole. rough: on boxes that
    are cut, or None. choice: for people."""

    scorer: Scorer
    plan: WindowPlan
    choice: Choice
    boxes: Incremental | None
    rough: Incremental | None

    def exactly(self, image: Any, others: Mapping[str, Any], base: Any) -> Scores:
        """What scores an image's variants. See Scorer.variants for the arguments."""
        if self.boxes is not None:
            return _on(self.boxes, image, base)

        def whole(some: Ints | None) -> Iterator[tuple[Any, Any]]:
            picked = self.plan if some is None else self.plan.select(some)
            for at, logits in self.scorer.variants(image, others, picked, base):
                yield (at if some is None else some[at]), logits

        return whole

    def roughly(self, image: Any, base: Any) -> Scores | None:
        """The same on boxes that are cut, where that pays."""
        return None if self.rough is None else _on(self.rough, image, base)


class Ways:
    """Chooses a Way, plan by plan. share: of the windows that "drilldown" scores."""

    def __init__(self, scorer: Scorer, method: str, share: float) -> None:
        drilled = method == "drilldown"
        self._scorer, self._share = scorer, share
        self.exact = Chooser(scorer, "auto" if drilled else method)
        self.rough = Chooser(scorer, "auto", REACH) if drilled else None

    def __call__(self, plan: WindowPlan, images: int) -> Way:
        """How the windows of so many more images are scored. Raises as Chooser."""
        if self.rough is None or plan.counts is None or self._share == 1:
            return Way(self._scorer, plan, *self.exact(plan, images), None)
        near, rough = self.rough(plan, images, self._share)
        share = self._share if rough is None else exact_share(plan.counts)
        choice, boxes = self.exact(plan, images, share)
        if rough is None or (near.speedup or 0) < ROUGHLY * (choice.speedup or 1):
            return Way(self._scorer, plan, choice, boxes, None)
        return Way(self._scorer, plan, near, boxes, rough)


def _on(boxes: Incremental, image: Any, base: Any) -> Scores:
    """Scores on boxes."""
    taps = boxes.start(image, base)
    return lambda some: boxes.scores(taps, some)
