"""Necessity: the fewest windows whose hiding changes what a model predicts, found greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels import WindowPlan, apply
from ..runtime import arrays
from .scoring import Scorer

__all__ = ["Necessity", "find", "margins"]


@dataclass(frozen=True)
class Necessity:
    """What must be hidden for one image's predicted class to change.

    predicted: the class of the whole image. strongest: the window (index into the plan) after
    which the next class is closest; after_strongest: the top class without it.
    windows: the smallest set found, indices into the plan, in the order found; boxes: int32
    [k, 6], half open (c0, c1, y0, y1, x0, x1). changes: whether hiding them changes the class;
    False: not even the `limit` windows tried did. after: the top class then; logits: float32 [K].
    share: of the image that they hide, 0..1. hidden: the image without them, in the input's
    layout.
    """

    predicted: int
    strongest: int
    after_strongest: int
    windows: tuple[int, ...]
    boxes: NDArray[np.int32]
    changes: bool
    after: int
    logits: NDArray[np.float32]
    share: float
    hidden: NDArray[Any]

    @property
    def strongest_changes(self) -> bool:
        """Whether hiding the strongest window alone is enough."""
        return self.changes and len(self.windows) == 1


def margins(logits: Any, clean: Any, xp: Any = np) -> Any:
    """How far the class that an image predicts is ahead of the next, by variant.

    logits: [n, K], of variants. clean: [K], of the image. Returns float64 [n]. A single score is
    ahead while it keeps its sign.
    """
    values = logits.astype(np.float64)
    if values.shape[1] == 1:
        return values[:, 0] * xp.sign(clean[0])
    predicted = int(clean.argmax())
    own = values[:, predicted].copy()
    values[:, predicted] = -np.inf
    return own - values.max(axis=1)


def find(
    scorer: Scorer,
    image: Any,
    others: Mapping[str, Any],
    plan: WindowPlan,
    base: Any,
    clean: NDArray[np.float32],
    alone: NDArray[np.float64],
    limit: int,
    candidates: int,
) -> Necessity:
    """The smallest set of windows found. alone: float64 [n], the margin after each window alone.

    Forward: add the candidate that leaves the smallest margin, until it is negative. Backward:
    take back, in the order they came, whatever the change doesn't need.
    """
    search = _Search(scorer, image, others, plan, base, scorer.xp.asarray(clean))
    order = np.argsort(alone, kind="stable")
    pool = [int(k) for k in order[:candidates]]
    strongest = pool[0]
    chosen: list[int] = []
    margin = np.inf
    while margin >= 0 and len(chosen) < min(limit, len(plan)):
        left = [k for k in pool if k not in chosen]
        if not left:
            break
        # The first step is known: the windows alone.
        found = alone[left] if not chosen else search.adding(chosen, left)
        best = int(found.argmin())
        if chosen and found[best] >= margin:
            break  # nothing left that brings the next class closer
        chosen.append(left[best])
        margin = float(found[best])
    if margin < 0:
        chosen = search.pruned(chosen)
    hidden = search.hide(chosen)
    logits = search.logits([chosen])[0]
    after = search.logits([[strongest]])[0]
    boxes = plan.boxes[chosen]
    return Necessity(
        predicted=int(clean.argmax()),
        strongest=strongest,
        after_strongest=int(after.argmax()),
        windows=tuple(chosen),
        boxes=boxes,
        changes=bool(margins(logits[None], clean)[0] < 0),
        after=int(logits.argmax()),
        logits=logits,
        share=_share(boxes, plan.shape),
        hidden=arrays.to_host(hidden[0] if scorer.input.layout == "nhw" else hidden),
    )


def _share(boxes: NDArray[np.int32], shape: Sequence[int]) -> float:
    covered = np.zeros(shape, bool)
    for c0, c1, y0, y1, x0, x1 in boxes:
        covered[c0:c1, y0:y1, x0:x1] = True
    return float(covered.mean())


@dataclass(frozen=True)
class _Search:
    scorer: Scorer
    image: Any
    others: Mapping[str, Any]
    plan: WindowPlan
    base: Any
    clean: Any

    def hide(self, windows: Sequence[int]) -> Any:
        """The image with all of these hidden. The baseline is the whole image's."""
        image = self.image
        for k in windows:
            image = self._apply(image, self.plan.select([k]))[0]
        return image

    def _apply(self, image: Any, plan: WindowPlan) -> Any:
        scorer = self.scorer
        return apply(image, plan, self.base, layout=scorer.layout, backend=scorer.backend)

    def adding(self, windows: Sequence[int], more: Sequence[int]) -> NDArray[np.float64]:
        """Margins with `windows` and one of `more` hidden, float64 [len(more)]."""
        scorer = self.scorer
        image, plan = self.hide(windows), self.plan.select(more)
        found = [
            margins(logits, self.clean, scorer.xp)
            for _, logits in scorer.variants(image, self.others, plan, self.base)
        ]
        return np.concatenate([arrays.to_host(f) for f in found])

    def logits(self, sets: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Class scores with each set hidden, float32 [len(sets), K]."""
        # The last window of a set is the variant, the others are in the image already.
        rows = []
        for windows in sets:
            image, plan = self.hide(windows[:-1]), self.plan.select(list(windows[-1:]))
            found = self.scorer.variants(image, self.others, plan, self.base)
            rows += [arrays.to_host(logits) for _, logits in found]
        return np.concatenate(rows)

    def pruned(self, windows: Sequence[int]) -> list[int]:
        """The set without the windows that the change doesn't need. The earliest go first: the
        later ones were chosen to complete them, and may do without."""
        kept = list(windows)
        for k in list(windows):
            rest = [w for w in kept if w != k]
            if rest and margins(self.logits([rest]), arrays.to_host(self.clean))[0] < 0:
                kept = rest
        return kept
