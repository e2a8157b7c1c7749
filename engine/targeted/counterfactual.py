"""`backlight.Counterfactual`: which cells of a photo, replaced by which of a picture of another
class, make it that class (Goyal et al. 2019, "Counterfactual Visual Explanations").

    change = backlight.Counterfactual("model.onnx")
    found = change(x, distractors, target=17)[0]
    found.swaps            # [[row, column, row, column], ...]: of the photo, of the distractor
    found.scores.argmax(1) # the class before, and after each swap

The model runs once per picture; what is tried runs through its head alone. Where the scores are a
mean over places, the swaps are a sort, and no others, as few, raise the margin by more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import ImageError, UsageError
from ...export import choose, scores
from ...export.graph import ModelLike, load
from ...export.layer import named_layer
from ...export.placewise import Placewise, placewise
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ...export.tail import spatial_layer, tail
from ..classifier.extras import InputsLike
from ..classifier.intake import check_images, finite, out_of_range
from ..classifier.ready import Reading, Ready
from ..classifier.scored import Scored
from ..runtime.session import Providers
from .cells import Grid, Head
from .edits import fewest
from .regions import boxes
from .search import Changes, Progress, Search, Seen

__all__ = ["Changes", "Counterfactual", "Seen"]

SEARCHES = ("auto", "sort", "greedy")
PAIRS = 2500
# Distractors that are tried by sort: those surest of their class.
HELD = 20


class Counterfactual(Reading):
    """Finds the cells to exchange (Goyal et al. 2019).

    model: a path, bytes or an onnx.ModelProto. layer: a tensor or node with rows and columns that
    every way to the score goes through; None: the last one before the head.
    search: "sort" where the scores are a mean over places (pooled and linear heads, maps of
        classes), exact for the margin to the photo's own class; "greedy": the swap that raises the
        target's log-probability most, one after another; "auto": the first where it can
        be; and where a third class comes between, the second too, and the fewer cells of the two.
    edits: swaps at most; None: all cells. pairs: of a greedy swap, those scored at most (2500): all
        where there are no more, else the best by what each of the two changes alone.
    of: the tensor that holds the scores. preprocess, providers, threads, shapes, inputs: as
    in `backlight.Explainer`. batch: pictures per run.

    Raises ModelError, or UsageError for a layer that can't be exchanged in parts.
    """

    @take.accepts(
        layer=take.text, search=take.text, edits=take.whole, pairs=take.whole, of=take.text,
        preprocess=given_preprocess, providers=take.names, threads=take.whole, batch=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready,
        layer: str | None = None,
        *,
        search: str = "auto",
        edits: int | None = None,
        pairs: int | None = None,
        of: str | None = None,
        preprocess: Preprocess | str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        batch: int = 8,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        if search not in SEARCHES:
            raise UsageError.unknown("search", search, SEARCHES)
        for name, value in (("edits", edits), ("pairs", pairs), ("batch", batch)):
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}; expected 1 or more")
        if search == "sort" and pairs is not None:
            raise UsageError("pairs are tried by search 'greedy' and 'auto'; 'sort' rates all")
        ready = Ready.of(model, shapes, inputs)
        ready.image.needs()  # before a part of it does, whose image is a layer
        found = spatial_layer(ready.loaded, layer, of)
        self.layer, self.reason = found.name, found.reason
        self._layer = found
        self.head = Head(tail(ready.loaded, self.layer, of), ready, providers, threads)
        self.adds = _adds(ready, self.layer, of)
        if search == "sort" and self.adds is None:
            raise UsageError(
                f"search 'sort' needs scores that are a mean over places of '{self.layer}'; the "
                "head behind it is another: accepted: greedy"
            )
        self._auto = search == "auto"
        self.search = search if search != "auto" else "greedy" if self.adds is None else "sort"
        names = [self.layer, *([] if self.adds is None else [self.adds.tensor])]
        self.scored = Scored(ready, names, of=of, providers=providers, threads=threads)
        super().__init__(ready, self.scored.fed)
        self.classes = self.scored.classes
        if self.classes == 1:
            raise UsageError(
                f"'{self.scored.scores}' has one class: nothing to change to; expected two or more"
            )
        self.edits, self.batch = edits, batch
        self.pairs = PAIRS if pairs is None else pairs
        self.notes = list(self.scored.notes)
        if layer is None:
            self.notes.insert(0, f"layer '{self.layer}': {self.reason}")
        self._loaded = ready.loaded
        self._given = preprocess

    def look(self, x: NDArray[Any]) -> list[Seen]:
        """Pictures [N, ...] as the model takes them. Raises ImageError for scores that are no
        numbers."""
        seen: list[Seen] = []
        for at in range(0, len(x), self.batch):
            part = x[at : at + self.batch]
            logits, values = self.scored(part)
            finite(logits)
            grid = Grid.of(self._layer, values[self.layer].shape)
            self._refuse_grid(grid)
            adds: Sequence[Any] = [None] * len(part)
            if self.adds is not None:
                map_ = values[self.adds.tensor]
                same = Grid(self.adds.channel_axis, grid.rows, grid.columns)
                own = grid if self.adds.tensor == self.layer else same
                adds = list(own.cells(map_).astype(np.float64))
            for row in range(len(part)):
                seen.append(Seen(part[row], logits[row], values[self.layer][row], adds[row]))
        return seen

    def __call__(
        self,
        inputs: NDArray[Any],
        distractors: NDArray[Any],
        target: int | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[Changes]:
        """What makes each of the photos the target class.

        inputs: the photos, [N, ...] in the input's shape and dtype, in NumPy's memory.
        distractors: [M, ...], pictures that the model takes for the target; others among them are
        passed over. target: None: the class that most of the distractors have on top.
        progress: told of each swap found.

        Returns the cells exchanged, and the scores after each, of one photo after another. Raises
        ImageError for what doesn't fit, UsageError where no distractor is of the class.
        """
        for batch in (inputs, distractors):
            check_images(batch, self.input)
        others = self.look(distractors)
        wanted = self.target(target, others)
        fit = [at for at, one in enumerate(others) if one.top == wanted]
        if not fit:
            tops = ", ".join(map(str, sorted({one.top for one in others})[:5]))
            raise UsageError(
                f"no distractor is of class {wanted}: the model takes them for {tops}; expected "
                "one at least that it takes for the class"
            )
        chosen = [others[at] for at in fit]
        made = [self.change(one, chosen, wanted, progress) for one in self.look(inputs)]
        return [m if m.distractor < 0 else replace(m, distractor=fit[m.distractor]) for m in made]

    def target(self, given: int | None, others: Sequence[Seen]) -> int:
        """The class that was asked for, or the commonest on top of distractors. UsageError."""
        known = len(others[0].scores) if others else self.classes
        if given is None:
            return int(np.bincount([one.top for one in others]).argmax())
        number = take.whole("target", given)
        if number < 0 or (known is not None and number >= known):
            raise out_of_range(number, known)
        return number

    def change(
        self, photo: Seen, others: Sequence[Seen], target: int, progress: Progress | None = None
    ) -> Changes:
        """What makes one photo the target. others: distractors, all of that class. By sort, the one
        that needs the fewest swaps; by greedy search, the one that is surest of its class."""
        step = progress or (lambda _: None)
        grid = self.grid(photo)
        if photo.top == target:
            none = np.zeros((0, 4), np.int64)
            return Changes(
                photo.top, target, -1, (grid.rows, grid.columns), none, photo.scores[None], True,
                "is of that class already", self.search, 0,
            )  # fmt: skip
        if any(one.values.shape != photo.values.shape for one in others):
            raise ImageError("a distractor has another size than the photo; expected the same")
        search = Search(self.head, self.adds, self.scored.closing, grid, self.edits, self.pairs)
        sure = np.array([search.rates(one.scores[None], target)[0] for one in others])
        order = np.argsort(-sure, kind="stable")[:HELD].tolist()
        if self.search == "greedy":
            return search.greedy(photo, others[order[0]], order[0], target, step)
        found = [search.sorted(photo, others[at], at, target, step) for at in order]

        def cost(made: Changes) -> tuple[bool, int, float]:
            return not made.done, len(made.swaps), -float(search.rates(made.scores[-1:], target)[0])

        best = min(found, key=cost)
        if self._auto and _third(best):
            # The sort knows of two classes: with a third one between, fewer cells may do.
            at = best.distractor
            best = min(best, search.greedy(photo, others[at], at, target, step), key=cost)
        return best

    def grid(self, photo: Seen) -> Grid:
        """The cells of a picture."""
        return Grid.of(self._layer, (1, *photo.values.shape))

    def boxes(self, photo: Seen, size: tuple[int, int]) -> NDArray[np.float64]:
        """Where a picture's cells are, see `regions.boxes`. size: its height and width."""
        return boxes(self._loaded, self.layer, self.grid(photo), size)

    def _refuse_grid(self, grid: Grid) -> None:
        if len(grid) < 2:
            raise UsageError(
                f"layer '{self.layer}' has one cell for pictures of this size; expected a layer "
                "with rows and columns"
            )
        many, least = len(grid) ** 2, fewest(len(grid), len(grid))
        if self.search == "greedy" and many > self.pairs and self.pairs < least:
            raise UsageError(
                f"pairs {self.pairs}; for the {grid.rows} x {grid.columns} cells of "
                f"'{self.layer}' expected {least} or more"
            )


def _third(made: Changes) -> bool:
    """Whether on the way a third class was on top of both."""
    between = made.scores[1:-1] if made.done else made.scores[1:]
    return bool((between[:, made.target] > between[:, made.source]).any())


def _adds(ready: Ready, layer: str, of: str | None) -> Placewise | None:
    """What each place of a layer adds to the scores, where that is known."""
    loaded = load(ready.loaded)
    _, found, _, _ = scores.leave_scores(loaded, of)
    image = choose.image_input(loaded.graph)
    return placewise(found, named_layer(loaded.graph, layer, [found], image.wrt))
