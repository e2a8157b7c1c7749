"""Which classes a call explains, and which it tells them from: as asked, else by the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ..classifier.intake import out_of_range
from ..runtime import arrays
from .described import Described

__all__ = ["Classes"]

# How a contrast is called, and what -1 stands for.
RIVAL = "contrast: class", "the best class but the target"


@dataclass(frozen=True)
class Classes:
    """Of the rows of a call. said: what is known of the model."""

    said: Described

    def choose(
        self, scores: Any, target: Any, contrast: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The classes that a call would explain, and those that it would tell them from, int64 [N];
        None without a contrast. scores: what classes are ranked by."""
        rows = self.rows(scores)
        wanted = self.targets(target, len(rows))
        against = self.contrasts(contrast, len(rows))
        self.within(rows, wanted, against)
        chosen = np.where(wanted < 0, np.asarray(self.top(np, rows)), wanted).astype(np.int64)
        return chosen, self.told_from(rows, chosen, against)

    def targets(self, target: Any, count: int) -> NDArray[np.int64]:
        """The classes asked for, int64 [N], -1 for a row's top one. Raises UsageError."""
        if target is not None and not self.said.takes_target:
            raise UsageError(
                f"this file explains class {self.said.baked} only; "
                "export it with --target-class input to choose at run time"
            )
        if not self.said.takes_target:
            # "top1" or the number that was baked in
            number = int(self.said.baked) if self.said.baked.isdecimal() else -1
            return np.full(count, number, np.int64)
        return self._classes_of(target, count, "target")

    def contrasts(self, contrast: Any, count: int) -> NDArray[np.int64] | None:
        """The classes to tell from, int64 [N], -1 for the best but the target; None of a graph that
        takes none. Raises UsageError."""
        if "contrast" not in self.said.ours:
            if contrast is not None:
                raise UsageError(
                    "this takes no contrast; contrastcam does, and contrast='input' gives one to "
                    "the other methods"
                )
            return None
        return self._classes_of(contrast, count, "contrast")

    def within(
        self, scores: Any, wanted: NDArray[np.int64], against: NDArray[np.int64] | None
    ) -> None:
        """Raise UsageError for classes that the scores [N, K] haven't got, which a file may leave
        for the run to tell."""
        known = self.said.classes or (scores.shape[1] if scores.ndim > 1 else 1)
        if wanted.max(initial=-1) >= known:
            raise out_of_range(int(wanted.max()), known)
        if against is not None and against.max(initial=-1) >= known:
            raise out_of_range(int(against.max()), known, *RIVAL)

    def unsure(self, xp: Any, ranking: Any, wanted: Any, chosen: Any, against: Any) -> bool:
        """Whether a file may have taken another class than `chosen`: it ranks by scores that only
        it sees, and of several probabilities that round to the same it knows the largest."""
        if self.said.ranked is not None or ranking.ndim != 2 or ranking.shape[1] < 2:
            return False
        rows = xp.asarray(ranking)
        on_top = (rows == rows.max(axis=1, keepdims=True)).sum(axis=1) > 1
        unsure = bool((on_top & (xp.asarray(wanted) < 0)).any())
        if against is None or unsure:
            return unsure
        others = rows.astype(np.float64)
        others[xp.arange(len(others)), chosen] = -np.inf
        second = (others == others.max(axis=1, keepdims=True)).sum(axis=1) > 1
        return bool((second & (xp.asarray(against) < 0)).any())

    def told_from(self, scores: Any, chosen: Any, against: Any) -> Any:
        """The classes that the targets are told from, where the call or the file has a contrast."""
        given = against
        if given is None:
            held = self.said.contrast
            if not held:
                return None
            given = np.full(len(chosen), int(held) if held.isdecimal() else -1, np.int64)
        rows = arrays.to_host(scores).reshape(len(chosen), -1).astype(np.float64)
        if rows.shape[1] < 2:
            return np.asarray(given)
        rows[np.arange(len(rows)), arrays.to_host(chosen)] = -np.inf
        return np.where(np.asarray(given) < 0, rows.argmax(axis=1), given)

    def rows(self, scores: Any) -> Any:
        """The scores as [N, K] where the model has them as [K] or [N, 1, …, K]."""
        classes = self.said.classes
        if classes is None or classes < 2:
            return scores
        if scores.ndim == 1 and len(scores) == classes and self.said.whole:
            return scores.reshape(1, -1)
        if scores.ndim > 2 and scores.shape[1] == 1 and scores[0].size == classes:
            return scores.reshape(len(scores), -1)
        return scores

    def top(self, xp: Any, scores: Any) -> Any:
        """The top class of each row, as the graph finds it: ties to the first."""
        if self.said.classes == 2 and (scores.ndim == 1 or scores[0].size == 1):  # one Sigmoid
            reading, flat = self.said, scores.reshape(len(scores))
            if reading.closing == "LogSoftmax":
                flat = xp.exp(flat / xp.asarray(reading.by, flat.dtype))
            if reading.closing == "Odds":
                return (flat * xp.asarray(reading.by, flat.dtype) > 0).astype(np.int64)
            return (flat > xp.asarray(0.5 * reading.scale, flat.dtype)).astype(np.int64)
        return _top(xp, scores)

    def _classes_of(self, given: Any, count: int, what: str) -> NDArray[np.int64]:
        """Classes, one or N of them, as int64 [N]. Raises UsageError."""
        values = np.asarray(-1 if given is None else arrays.to_host(arrays.taken(given)[0]))
        if values.dtype.kind not in "iu" or values.shape not in ((), (count,)):
            raise UsageError(
                f"{what} is {values.dtype} {list(values.shape)}; "
                f"expected a class number or {count} of them"
            )
        wanted = np.broadcast_to(values, (count,)).astype(np.int64)
        known = self.said.classes
        said = RIVAL if what == "contrast" else ()
        if wanted.min(initial=0) < -1:
            raise out_of_range(int(wanted.min()), known, *said)
        if known is not None and wanted.max(initial=-1) >= known:
            raise out_of_range(int(wanted.max()), known, *said)
        return wanted


def _top(xp: Any, scores: Any) -> Any:
    """The top class of each row, as the graph finds it: ties to the first."""
    if scores.ndim == 1:
        return xp.zeros(len(scores), np.int64)
    flat = scores.reshape(*scores.shape[:2], -1).sum(axis=2) if scores.ndim > 2 else scores
    return flat.argmax(axis=1)
