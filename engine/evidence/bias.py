"""`backlight.BiasFinder`: is it the snow? Whether a class is told by its object or by what is
around.

Where the evidence lies (Ribeiro et al. 2016: a husky on snow is a wolf), what the model says when
the background is exchanged, blurred or alone, and clusters of like maps (SpRAy, Lapuschkin et al.
2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ... import arguments as take
from ...errors import ImageError, ModelError, UsageError
from ...export.graph import ModelLike
from ...export.methods import method as method_named
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.intake import as_score, sound_rows
from ..classifier.ready import Ready
from ..direct.explainer import Explainer
from ..masked.scoring import Scorer
from ..photos import images
from ..photos.images import Pixels
from ..photos.passes import listing_of
from ..photos.rows import RowStore
from ..photos.stream import Group, Skipped, found_files, groups
from ..runtime import arrays
from ..runtime.session import Providers
from .background import Cut
from .biasfigures import report_of
from .biasreport import BiasReport, Measured, Tested
from .biastests import kinds, tested, to_test
from .naming import classes_named
from .objects import OBJECTS, Masks, Region, centre, grown, known, seeded

__all__ = ["BiasFinder", "Seen"]

# A side of the maps that are clustered.
CELLS = 16
# Without one that is asked for; where a model has no layer for the first, the second.
METHOD, OTHERWISE = "gradcam", "input_x_gradient"
# A region's margin in cells of the map's layer, which is as sharp as evidence gets there.
MARGIN = 0.75

Progress = Callable[[str, int, int], None]
Evidence = NDArray[np.float32]


def _silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Seen(Cut):
    """With its evidence [h, w]."""

    evidence: Evidence


class BiasFinder:
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
    tests: photos of a class whose background is exchanged, blurred and alone; 0: none. exchanges:
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
        tests: int = 24,
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
            ("tests", tests, 0), ("exchanges", exchanges, 1), ("batch", batch, 1),
            ("clusters", 1 if clusters is None else clusters, 1),
        ):  # fmt: skip
            if number < least:
                raise UsageError(f"{name} {number}; expected {least} or more")
        self.masks = None if masks is None else Masks(masks)
        wanted = object or ("centre" if masks is None else "masks")
        self.object = known(wanted, masks)
        self.tests = tests if wanted != "none" else 0
        self.exchanges, self.clusters, self._batch = exchanges, clusters, batch
        ready = Ready.of(model, shapes, inputs).plain()
        more = {"providers": providers, "threads": threads}
        self.notes: list[str] = []
        self._explainer = self._explaining(ready, method, layer, batch, more)
        self._explainer.fed.needs()
        self._scorer = Scorer(ready, preprocess=preprocess, **more)  # type: ignore[arg-type]
        if self._scorer.settled(None) != "probability":
            raise UsageError(
                f"{ready.name} gives a single score that nothing closes; expected a classifier"
            )
        self.hash, self.name = ready.hash, ready.name
        self.method = self._explainer.methods[0]
        self.layers = self._explainer.layers
        self.preprocess = self._explainer.settled(preprocess)
        self.input = self._explainer.input
        if self.tests and self.input.channels not in (None, 1, 3):
            raise UsageError(
                f"{ready.name} takes {self.input.channels} bands, and backgrounds are exchanged "
                "between pictures in grey or colour; tests=0 (--tests 0) leaves that out"
            )
        self.classes = self._explainer.classes
        self.labels = list(labels) if labels is not None else self._explainer.labels
        if labels is not None and self.classes not in (None, len(labels)):
            raise UsageError(f"{len(labels)} labels; the model has {self.classes} classes")
        self.notes += [*self._explainer.notes]
        self.providers = self._explainer.session.providers

    def _explaining(
        self, ready: Ready, name: str | None, layer: str | None, batch: int, more: dict[str, Any]
    ) -> Explainer:
        chosen = method_named(name or METHOD)

        def make(row: Any) -> Explainer:
            drawn: dict[str, Any] = {"layer": layer, "size": "layer"} if row.by == "layer" else {}
            return Explainer(ready, methods=[row.name], batch=batch, **drawn, **more)

        if layer is not None and chosen.by != "layer":
            raise UsageError(f"method '{chosen.name}' is drawn of no layer; layer='{layer}' is")
        if name is not None or layer is not None:
            return make(chosen)
        try:
            return make(chosen)
        except ModelError as err:
            made = make(method_named(OTHERWISE))
            self.notes.append(f"{OTHERWISE} in place of {METHOD}: {err}")
            return made

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
                "area": np.nan if region is None else region.mean(), "cells": _cells(evidence[at]),
            }  # fmt: skip
            for name, value in told.items():
                rows.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in rows.items()}

    def _explained(
        self, tensor: NDArray[Any], target: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], list[Evidence], NDArray[np.int64]]:
        """Probabilities [N, K], the positive evidence of each photo [h, w], and of which class."""
        found = self._explainer(tensor, target)
        chances = self._explainer.probabilities(found.scores)
        if chances is None:
            raise ModelError(f"{self.name}: no class probabilities; expected a classifier")
        maps = found.saliency[self.method]
        return chances, [self._positive(one) for one in maps], np.asarray(found.target)

    def _positive(self, values: NDArray[Any]) -> Evidence:
        """A map of the method as evidence: what speaks for the class."""
        values = np.asarray(values, np.float32)
        if values.ndim == 3:
            last = images.channels_last(values, images.map_layout(values.shape, self.input))
            signed = method_named(self.method).picture == "signed"
            values = last.sum(axis=2) if signed else np.abs(last).max(axis=2)
        return np.asarray(np.maximum(values, 0), np.float32)

    def _region(self, file: Path, pixels: Pixels, evidence: Evidence | None) -> Region | None:
        """evidence: what an object that is seeded is grown from; the others need none."""
        if self.object == "none":
            return None
        if self.masks is not None:
            return self.masks.region(file, self.preprocess, self.input)
        if self.object == "centre":
            return centre((pixels.shape[0], pixels.shape[1]))
        assert evidence is not None
        return seeded(evidence, pixels)

    def _outside(self, evidence: Evidence, region: Region | None) -> float:
        """The share of the evidence outside the object and a margin of what the map can tell."""
        if region is None or not evidence.any():
            return float("nan")
        high, wide = region.shape
        cell = max(high / evidence.shape[0], wide / evidence.shape[1])
        inside = grown(region, MARGIN * cell if cell >= 2 else 0)
        spread = np.asarray(
            Image.fromarray(evidence).resize((wide, high), Image.Resampling.BILINEAR), np.float64
        )
        return float(spread[~inside].sum() / max(spread.sum(), 1e-30))

    def seen(self, file: Path, target: int) -> Seen:
        """A photo again: its pixels, its evidence for a class, its object. Raises ImageError."""
        prepared = images.read(file, self.preprocess, self.input)
        _, evidence, _ = self._explained(prepared.tensor[None], np.array([target]))
        region = self._region(file, prepared.pixels, evidence[0])
        return Seen(prepared.pixels, region, evidence[0])

    def cut(self, file: Path, target: int) -> Cut:
        """A photo again, and its object: nothing is explained that isn't looked at. Raises
        ImageError."""
        if self.object == "seeded":
            return self.seen(file, target)
        pixels = images.read(file, self.preprocess, self.input).pixels
        return Cut(pixels, self._region(file, pixels, None))

    def chances(self, pictures: Sequence[Pixels]) -> NDArray[np.float64]:
        """Probabilities [N, K] of pictures as the model sees them."""
        tensors = [images.to_tensor(one, self.preprocess, self.input) for one in pictures]
        return self._chances(np.stack(tensors))

    def _chances(self, tensor: NDArray[Any]) -> NDArray[np.float64]:
        logits = self._scorer.logits(self._scorer.take(tensor))
        chances = as_score(arrays.to_host(logits), "probability", self._scorer.closing)
        return np.asarray(chances, np.float64)

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


def _cells(evidence: Evidence) -> NDArray[np.float32]:
    """A map for clustering: few cells, with the sum 1, so that its strength doesn't count."""
    small = np.asarray(
        Image.fromarray(evidence).resize((CELLS, CELLS), Image.Resampling.BILINEAR), np.float64
    )
    small = np.maximum(small, 0)
    return np.asarray(small / (small.sum() or 1), np.float32)
