"""The search for swaps: a sort, or greedily, and the model's own head to tell when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...export.placewise import Placewise
from ..classifier.intake import as_score
from .cells import Grid, Head
from .edits import Pairs, Swap, greedy, sort

__all__ = ["Changes", "Search", "Seen"]

# Lists of swaps that the head tells about at once.
AT_ONCE = 16

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Seen:
    """One picture as the model sees it. x: as it takes it, [...]; scores: float32 [K], before what
    closes them; values: of the layer, [...]; adds: what each cell adds to the classes, before the
    matrix, [cells, k]; None where the head is no mean over places."""

    x: NDArray[Any]
    scores: NDArray[np.float32]
    values: NDArray[Any]
    adds: NDArray[np.float64] | None

    @property
    def top(self) -> int:
        """The class on top."""
        return int(self.scores.argmax())


@dataclass(frozen=True)
class Changes:
    """What makes a photo another class.

    source: the class that it is taken for; target: the other one. distractor: which of those given
    the cells are from; -1 where nothing had to change. grid: rows and columns of the layer.
    swaps: int64 [E, 4], in order: row and column in the photo, row and column in the distractor.
    scores: float32 [E + 1, K], before what closes them: of the photo, and after each swap, by the
    model's own head. done: whether the last of them has the target on top; note: why not.
    search: "sort" or "greedy". tried: pictures scored by the head, or by its closed form.
    """

    source: int
    target: int
    distractor: int
    grid: tuple[int, int]
    swaps: NDArray[np.int64]
    scores: NDArray[np.float32]
    done: bool
    note: str | None
    search: str
    tried: int


class Search:
    """Over the cells of pictures of one size.

    head: what scores a layer's values. adds: what each place adds, where that is known; closing: of
    the scores, see `scores.closing`. grid: the cells. edits: swaps at most; None: all cells. pairs:
    rated at most for a greedy swap.
    """

    def __init__(
        self, head: Head, adds: Placewise | None, closing: str | None, grid: Grid,
        edits: int | None, pairs: int,
    ) -> None:  # fmt: skip
        self.head, self.adds, self.closing, self.grid = head, adds, closing, grid
        self.edits, self.pairs = edits, pairs

    def rates(self, logits: NDArray[Any], target: int) -> NDArray[np.float64]:
        """The log-probability of the target, [N]."""
        return np.asarray(as_score(logits, "logprob", self.closing)[:, target])

    def sorted(self, photo: Seen, other: Seen, at: int, target: int, step: Progress) -> Changes:
        """By the sort, until the head says that the target is on top."""
        assert photo.adds is not None and other.adds is not None
        source = photo.top
        order = sort(*(self._margin(one.adds, source, target) for one in (photo, other)))
        most = min(len(order), self.edits or len(order))
        scores = [photo.scores]
        done = False
        for start in range(0, most, AT_ONCE):
            tries = [order[:count] for count in range(start + 1, min(start + AT_ONCE, most) + 1)]
            for logits in self._with(photo, other, tries):
                scores.append(logits)
                step(1)
                if done := int(logits.argmax()) == target:
                    break
            if done:
                break
        swaps = order[: len(scores) - 1]
        note = None if done else self._short(len(swaps))
        return self._made(photo, at, target, swaps, scores, done, note, "sort", len(swaps))

    def greedy(self, photo: Seen, other: Seen, at: int, target: int, step: Progress) -> Changes:
        """The best swap, and again, until the head says that the target is on top."""
        tried = 0

        def rate(done: list[Swap], pairs: Pairs) -> NDArray[np.float64]:
            nonlocal tried
            tried += len(pairs)
            return self._rate(photo, other, target, done, pairs)

        most = min(len(self.grid), self.edits or len(self.grid))
        now = float(self.rates(photo.scores[None], target)[0])
        swaps: list[Swap] = []
        scores = [photo.scores]
        done = False
        for swap, _ in greedy(len(self.grid), len(self.grid), rate, now, self.pairs):
            swaps.append(swap)
            scores.append(self._with(photo, other, [swaps])[0])
            step(1)
            done = int(scores[-1].argmax()) == target
            if done or len(swaps) == most:
                break
        stuck = len(swaps) < most
        note = None if done else "no swap raises it any more" if stuck else self._short(len(swaps))
        return self._made(photo, at, target, swaps, scores, done, note, "greedy", tried)

    def _rate(
        self, photo: Seen, other: Seen, target: int, done: list[Swap], pairs: Pairs
    ) -> NDArray[np.float64]:
        """The log-probability of the target with swaps done and, each alone, pairs besides; -1
        among the distractor's cells is the average of those not used."""
        left = [j for j in range(len(self.grid)) if all(j != swap[1] for swap in done)]
        if photo.adds is not None and other.adds is not None:
            mine, theirs = self._by_class(photo.adds), self._by_class(other.adds)
            theirs = np.concatenate([theirs, theirs[left].mean(axis=0, keepdims=True)])
            now = photo.scores + sum((theirs[j] - mine[i] for i, j in done), np.zeros(1)) / len(
                self.grid
            )
            logits = now + (theirs[pairs[:, 1]] - mine[pairs[:, 0]]) / len(self.grid)
            return self.rates(logits, target)
        mine, theirs = (self.grid.cells(one.values[None])[0] for one in (photo, other))
        average = theirs[left].mean(axis=0, keepdims=True, dtype=np.float64).astype(theirs.dtype)
        theirs = np.concatenate([theirs, average])
        for i, j in done:
            mine[i] = theirs[j]
        return np.concatenate(
            [
                self.rates(self.head(self.grid.values(batch, photo.values), photo.x), target)
                for batch in _exchanged(mine, theirs, pairs)
            ]
        )

    def _with(
        self, photo: Seen, other: Seen, tries: Sequence[Sequence[Swap]]
    ) -> NDArray[np.float32]:
        """Scores by the head with each of several lists of swaps, [n, K]."""
        mine, theirs = (self.grid.cells(one.values[None])[0] for one in (photo, other))
        batch = np.repeat(mine[None], len(tries), axis=0)
        for row, swaps in enumerate(tries):
            for i, j in swaps:
                batch[row, i] = theirs[j]
        return self.head(self.grid.values(batch, photo.values), photo.x)

    def _by_class(self, adds: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each cell adds to each class, [cells, K]."""
        weight = None if self.adds is None else self.adds.weight
        return adds if weight is None else adds @ weight.T

    def _margin(self, adds: Any, source: int, target: int) -> NDArray[np.float64]:
        """What each cell adds to the target less the source, [cells]."""
        weight = None if self.adds is None else self.adds.weight
        if weight is None:
            return np.asarray(adds[:, target] - adds[:, source])
        return np.asarray(adds @ (weight[target] - weight[source]))

    @staticmethod
    def _short(count: int) -> str:
        return f"not by {count} {'swap' if count == 1 else 'swaps'}"

    def _made(
        self, photo: Seen, at: int, target: int, swaps: Sequence[Swap],
        scores: Sequence[NDArray[np.float32]], done: bool, note: str | None, search: str,
        tried: int,
    ) -> Changes:  # fmt: skip
        rows = [(*self.grid.place(i), *self.grid.place(j)) for i, j in swaps]
        return Changes(
            photo.top, target, at, (self.grid.rows, self.grid.columns),
            np.array(rows, np.int64).reshape(-1, 4), np.stack(scores), done, note, search, tried,
        )  # fmt: skip


def _exchanged(mine: NDArray[Any], theirs: NDArray[Any], pairs: Pairs) -> Iterator[NDArray[Any]]:
    """Batches of cells, one with each pair exchanged: [b, cells, channels]."""
    for at in range(0, len(pairs), 64):
        part = pairs[at : at + 64]
        batch = np.repeat(mine[None], len(part), axis=0)
        batch[np.arange(len(part)), part[:, 0]] = theirs[part[:, 1]]
        yield batch
