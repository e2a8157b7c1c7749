"""`backlight.BiasFinder`: is it the snow? Whether a class is told by its object or by what is
around.

Where the evidence lies (Ribeiro et al. 2016: a husky on snow is a wolf), what the model says when
the background is exchanged, blurred or alone, and clusters of like maps (SpRAy, Lapuschkin et al.
2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import ImageError, UsageError
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.intake import sound_rows
from ..classifier.ready import Ready
from ..photos.passes import listing_of
from ..photos.rows import RowStore
from ..photos.stream import Group, Skipped, found_files, groups
from ..runtime.session import Providers
from .biasfigures import report_of
from .biasreport import BiasReport, Measured, Tested
from .biastests import kinds, tested, to_test
from .looking import CELLS, Looking, cells
from .naming import classes_named
from .objects import OBJECTS, Masks, known

__all__ = ["BiasFinder"]

# Photos of a class that are tested.
TESTS = 24

Progress = Callable[[str, int, int], None]


def _silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


class BiasFinder(Looking):
    """Which classes of a model go by the background, on photos of a set (after Ribeiro et al. 2016
    and SpRAy, Lapuschkin et al. 2019).

        finder = backlight.BiasFinder("model.onnx", masks="masks/")
        report = finder("photos/")      # .classes, the most suspicious first; .suspects

    model: a path, bytes or an onnx.ModelProto: a classifier.
    masks: a folder with a mask for each photo (white: the object), of the photo's size and name.
    object: how the object is found without: "centre" (the default: the ellipse in the middle is
        assumed), "seeded" (grown from the evidence; needs scikit-image) or "none".
    method: whose positive values are the evidence, as `backlight methods` lists them; None:
        gradcam, and input_x_gradient for a model that has no layer for it. layer: of class
        activation maps.
    tests: photos of a class whose background is exchanged, blurred and alone; 0: none; None: 24,
        and none without objects. exchanges:
        backgrounds that each of them gets, of photos of other classes.
    clusters: of a class's maps; None: as many as their similarities suggest.
    labels: class names, in place of the model's own.
    preprocess, providers, threads, batch, shapes, inputs: as in `backlight.Explainer`.

    Raises ModelError, UnsupportedNode, UsageError, or ImageError for a folder without masks.
    """

    @take.accepts(
        masks=take.path, object=take.text, method=take.text, layer=take.text, tests=take.whole,
        exchanges=take.whole, clusters=take.whole, preprocess=given_preprocess,
        providers=take.names, threads=take.whole, batch=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready,
        *,
        masks: str | Path | None = None,
        object: str | None = None,
        method: str | None = None,
        layer: str | None = None,
        tests: int | None = None,
        exchanges: int = 2,
        clusters: int | None = None,
        labels: Sequence[str] | None = None,
        preprocess: Preprocess | str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        batch: int = 8,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        for name, number, least in (
            ("tests", tests or 0, 0), ("exchanges", exchanges, 1), ("batch", batch, 1),
            ("clusters", 1 if clusters is None else clusters, 1),
        ):  # fmt: skip
            if number < least:
                raise UsageError(f"{name} {number}; expected {least} or more")
        wanted = object or ("centre" if masks is None else "masks")
        folder = None if masks is None else Masks(masks)
        placed = known(wanted, masks)
        super().__init__(
            Ready.of(model, shapes, inputs).plain(), method, layer, placed, folder, preprocess,
            batch, {"providers": providers, "threads": threads},
        )  # fmt: skip
        if tests and wanted == "none":
            raise UsageError(f"tests {tests}: object 'none' leaves no background to exchange")
        self.tests = 0 if wanted == "none" else TESTS if tests is None else tests
        self.exchanges, self.clusters, self._batch = exchanges, clusters, batch
        if self.tests and self.input.channels not in (None, 1, 3):
            raise UsageError(
                f"{self.name} takes {self.input.channels} bands, and backgrounds are exchanged "
                "between pictures in grey or colour; tests=0 (--tests 0) leaves that out"
            )
        if labels is not None:
            if self.classes not in (None, len(labels)):
                raise UsageError(f"{len(labels)} labels; the model has {self.classes} classes")
            self.labels = list(labels)

    @take.accepts(photos=take.paths, every=take.number)
    def __call__(
        self,
        photos: str | Path | Sequence[str | Path],
        *,
        state: str | Path | None = None,
        every: float = 5.0,
        progress: Progress = _silent,
    ) -> BiasReport:
        """The report on these photos, in folders of their classes or in any order.

        photos: a folder, of images anywhere under it; or files and folders. Where they lie in two
        or more folders that are named as classes are (or, of a model that names none, in as many as
        it has classes), a photo's class is its folder's; else it is the predicted one.
        state: a folder to keep the run in: one that was killed goes on from there. every: seconds
        from one time that it is kept to the next. progress: called with what is done ("explaining",
        "testing": photos), how many, and of how many.

        Photos that can't be read, or whose mask is missing, empty or of another size, are skipped
        and listed. Raises ImageError where none is left, UsageError for more clusters than a class
        has photos, OutputError for the state of a run with other arguments.
        """
        given = [photos] if isinstance(photos, (str, Path)) else list(photos)
        files, skipped = found_files(given)
        if not files:
            raise skipped[0].error if skipped else ImageError("no photos given; expected a folder")
        if self.clusters is not None and self.clusters > len(files):
            raise UsageError(
                f"clusters {self.clusters}: the set has {_photos(len(files))}; expected at most "
                "that"
            )
        if self.masks is not None:
            self._refuse_no_masks(files)
        named = classes_named(given, files, self.labels, self.classes, self._predicted)
        asked = {
            "model": self.hash, "files": listing_of(files), "method": self.method,
            "layers": list(self.layers), "object": self.object,
            "masks": None if self.masks is None else listing_of(self.masks.files),
            "preprocess": self.preprocess.to_json(), "batch": self._batch,
            "classes": [int(c) for c in named.number],
        }  # fmt: skip
        first = None if state is None else Path(state) / "explained"
        second = None if state is None else Path(state) / "tested"
        measured, resumed = self._measured(
            files, named.number, skipped, asked, first, every, progress
        )
        asked |= {"tests": self.tests, "exchanges": self.exchanges}
        tested = self._tested(files, measured, asked, second, every, progress)
        return report_of(self, files, named, measured, tested, skipped, resumed)

    def _refuse_no_masks(self, files: Sequence[Path]) -> None:
        assert self.masks is not None
        first: ImageError | None = None
        for file in files:
            try:
                self.masks.of(file)
                return
            except ImageError as err:
                first = first or err
        raise first or ImageError(f"{self.masks.folder}: no masks")

    def _predicted(self, files: Sequence[Path]) -> list[int]:
        """The top classes of those that can be read."""
        found: list[int] = []
        for group in groups(files, self.preprocess, self.input, self._batch):
            if len(group.index):
                found += self._chances(group.tensor).argmax(axis=1).tolist()
        return found

    def _measured(
        self, files: list[Path], classes: NDArray[np.int64], skipped: list[Skipped],
        asked: dict[str, Any], state: Path | None, every: float, progress: Progress,
    ) -> tuple[Measured, int]:  # fmt: skip
        """Every photo's scores, and where its evidence lies."""
        store = RowStore(
            state,
            asked,
            {
                "target": (np.int64, ()), "top": (np.int64, ()), "chance": (np.float32, ()),
                "top_chance": (np.float32, ()), "outside": (np.float32, ()),
                "area": (np.float32, ()), "cells": (np.float32, (CELLS, CELLS)),
            },
            every,
        )  # fmt: skip
        start = store.restore(skipped, len(files))
        progress("explaining", start, len(files))
        reading = groups(files, self.preprocess, self.input, self._batch, start=start)
        for group in reading:
            skipped += group.skipped
            rows = self._rows(files, group, classes, skipped)
            store.add(rows, group.stop, skipped, last=group.stop == len(files))
            progress("explaining", group.stop, len(files))
        held = store.arrays()
        if not len(held["index"]):
            store.remove()
            raise skipped[-1].error
        largest = int(np.unique(held["target"], return_counts=True)[1].max())
        if self.clusters is not None and self.clusters > largest:
            store.remove()
            raise UsageError(
                f"clusters {self.clusters}: the largest class has {_photos(largest)}; expected at "
                "most that"
            )
        return Measured(**held), start

    def _rows(
        self, files: Sequence[Path], group: Group, classes: NDArray[np.int64],
        skipped: list[Skipped],
    ) -> dict[str, NDArray[Any]]:  # fmt: skip
        if not len(group.index):
            return {}
        chances, evidence, targets = self._explained(group.tensor, classes[group.index])
        rows: dict[str, list[Any]] = {}
        for at, index in enumerate(group.index.tolist()):
            if not (sound_rows(chances[at : at + 1])[0] and np.isfinite(evidence[at]).all()):
                why = f"{files[index]}: the model's scores or maps of it are NaN or infinite"
                skipped.append(Skipped(str(files[index]), ImageError(why)))
                continue
            try:
                region = self._region(files[index], group.pixels[at], evidence[at])
            except ImageError as err:
                skipped.append(Skipped(str(files[index]), err))
                continue
            target, top = int(targets[at]), int(chances[at].argmax())
            told = {
                "index": index, "target": target, "top": top, "chance": chances[at, target],
                "top_chance": chances[at, top], "outside": self._outside(evidence[at], region),
                "area": np.nan if region is None else region.mean(), "cells": cells(evidence[at]),
            }  # fmt: skip
            for name, value in told.items():
                rows.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in rows.items()}

    def _tested(
        self, files: Sequence[Path], measured: Measured, asked: dict[str, Any],
        state: Path | None, every: float, progress: Progress,
    ) -> Tested:  # fmt: skip
        """Photos of each class with their background exchanged, blurred and alone."""
        todo = list(to_test(measured, self.tests, self.exchanges))
        store = RowStore(state, asked, kinds(len(measured.present), self.exchanges), every)
        start = store.restore([], len(todo))
        for at in range(start, len(todo)):
            row, donors = todo[at]
            progress("testing", at, len(todo))
            try:
                told = tested(self, files, measured, row, donors)
            except ImageError:  # gone since it was read: there are others
                told = None
            rows = {} if told is None else {"index": np.array([at])}
            rows |= {n: np.array([v]) for n, v in (told or {}).items()}
            store.add(rows, at + 1, [], last=at + 1 == len(todo))
        progress("testing", len(todo), len(todo))
        held = store.arrays()
        del held["index"]
        return Tested(**held)

    def about(self) -> dict[str, Any]:
        """How the report was made, for JSON."""
        return {
            "method": self.method,
            "layers": list(self.layers),
            "object": self.object,
            "object_is": OBJECTS[self.object],
            "masks": None if self.masks is None else str(self.masks.folder),
            "tests": self.tests,
            "exchanges": self.exchanges,
        }


def _photos(number: int) -> str:
    return "1 photo" if number == 1 else f"{number} photos"
