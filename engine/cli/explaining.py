"""The photos of `explain`, batch by batch: what is written of each, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from .asking import contrast_class
from .console import lasted, percent
from .options import class_entry, named, refuse_class
from .photos import PhotoJob, preprocess_told, seen_as

if TYPE_CHECKING:
    from ...export.preprocess import Preprocess
    from ..masked.scoring import Progress
    from ..masked.together import Together
    from ..photos.images import Prepared
    from ..photos.outputs import OutputFolder
    from ..photos.stream import Group

# Of each photo, where a method switches its segments.
SEGMENT_FILE = "{}-segments.npy"
NOT_FINITE = "the model's scores of it are NaN or infinite: there is nothing to explain"

ALREADY = (
    "the scores are probabilities by their values, and the graph doesn't say of what: they are "
    "shown as they are, and the gradient is theirs; --of names a tensor before them"
)


@dataclass
class Run:
    """The photos of a command. target: a class, or -1 for the top one of each; against: the class
    of a contrast."""

    job: PhotoJob
    explainer: Together
    preprocess: Preprocess
    labels: Sequence[str] | None
    wrt: str | None = None
    target: int = -1
    against: int | None = None

    def rival_of(self, given: str | None) -> int | None:
        """The class of --contrast. Raises UsageError for one that the model doesn't have."""
        number = contrast_class(given, self.labels)
        if number is None:
            return None
        refuse_class(number, self.explainer.classes, "--contrast")
        if number == self.target >= 0:
            from ...export.combinations import told_from_itself

            raise told_from_itself(given, self.by_logit)
        return number

    @property
    def by_logit(self) -> bool:
        """Whether a contrast is the difference of two scores, which of one class is 0."""
        return self.explainer.contrast_form == "logit"

    def name(self, number: int) -> str:
        if self.explainer.layer is not None and self.labels is None:
            return f"channel {number} of {self.explainer.layer}"
        return named(number, self.labels)

    def all(self, folder: OutputFolder, batch: int) -> None:
        """Decode, explain and write; the next images are decoded while one batch runs."""
        from ..photos import images

        self.preprocess = images.fitted(self.preprocess, self.explainer.input)
        self.explainer.prepare(self.preprocess)
        with self.job.progress("explaining", self.explainer.work) as step:
            for group in self.job.groups(self.preprocess, self.explainer.input, batch):
                if len(group.index):
                    self._batch(group, folder, step.advance)

    def _batch(self, group: Group, folder: OutputFolder, progress: Progress) -> None:
        from ..classifier.intake import sound_rows

        target = None if self.target < 0 else self.target
        start = time.perf_counter()
        result = self.explainer(group.tensor, target, self.against, progress)
        self._refuse_flat(result.maps)
        run = len(group.index)
        ms = 1000 * (time.perf_counter() - start) / run  # of an image, as far as it can be told
        # The channels of a layer compete for nothing.
        layer = self.explainer.layer is not None
        chances = None if layer else self.explainer.probabilities(result.scores)
        if chances is not None:
            self._note_probabilities(result.scores)
        finite = sound_rows(result.scores.reshape(run, -1))
        for row, index in enumerate(group.index.tolist()):
            file, name = self.job.files[index], self.job.names[index]
            if not finite[row] or row in result.refused:
                self.job.refuse(file, result.refused[row] if finite[row] else NOT_FINITE)
                continue
            chance = None if chances is None else chances[row]
            maps = {method: values[row] for method, values in result.maps.items()}
            entry = self._entry(file, name, int(result.target[row]), chance, ms)
            entry["images_in_run"] = run
            entry["no_gradient"] = [method for method, values in maps.items() if not values.any()]
            for method in (m for m, values in maps.items() if not abs(values).max() < float("inf")):
                self.job.note(f"{file.name}: the {method} map has NaN or infinite values")
            if result.contrast is not None:
                entry["contrast"] = int(result.contrast[row])
                entry["contrast_name"] = self.name(entry["contrast"])
            if result.gap is not None:
                entry["gap"] = round(float(result.gap[row]), 6)
            if (labels := result.labels[row]) is not None:
                entry["segments"] = SEGMENT_FILE.format(name)
                folder.array(entry["segments"], labels)
            entry |= result.facts[row]
            self._write(folder, name, entry, group.prepared(row), maps, result.says[row])
            said = dict.fromkeys(f"  {m}: {line}" for m, line in result.says[row].items())
            self.job.add(entry, self.line(entry), *said)

    def _refuse_flat(self, maps: Mapping[str, Any]) -> None:
        """Raise UsageError for gradients by a tensor that has no rows and columns."""
        for values in maps.values():
            if not 3 <= values.ndim <= 4:
                shown = ",".join(["N", *map(str, values.shape[1:])])
                raise UsageError(
                    f"--wrt {self.wrt}: a tensor of [{shown}] has no picture; expected rows and "
                    "columns ('backlight export --wrt' takes any)"
                )

    def _note_probabilities(self, scores: Any) -> None:
        """Say once that scores are probabilities where their values tell and the graph doesn't."""
        from ..classifier.scores import is_distribution

        if self.explainer.closing is not None or ALREADY in self.job.notes:
            return
        if scores.ndim == 2 and is_distribution(scores).any():
            self.job.note(ALREADY)

    def _entry(self, file: Path, name: str, target: int, chances: Any, ms: float) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "file": str(file),
            **class_entry(target, self.labels, chances),
            "ms": round(ms, 3),
            "panel": f"{name}.png",
            "maps": {method: map_file(name, method) for method in self.explainer.methods},
        }
        if chances is not None:
            entry["top"] = [
                class_entry(int(c), self.labels, chances) for c in chances.argsort()[::-1][:5]
            ]
        return entry

    def _write(
        self, folder: OutputFolder, name: str, entry: dict[str, Any], prepared: Prepared,
        maps: dict[str, Any], says: dict[str, str],
    ) -> None:  # fmt: skip
        from ..pictures import panel as pictures
        from ..pictures import reading

        color = self.preprocess.color
        seen = seen_as(prepared.pixels.shape, self.preprocess, self.explainer.input)
        cells = [pictures.Cell(prepared.pixels, "photo", seen)]
        asked = reading.Asked(
            self.explainer.input,
            color,
            self.explainer.layers,
            entry.get("contrast_name"),
            self.explainer.contrasted,
            says,
            self.preprocess.bands,
            entry.get("contrast") == entry["class"],
        )
        for method, values in maps.items():
            folder.array(entry["maps"][method], values)
            cells.append(reading.cell(method, values, prepared.pixels, asked))
        heading = Path(entry["file"]).name + ": " + self.question(entry)
        folder.picture(entry["panel"], pictures.panel(heading, self.detail(entry), cells))

    def question(self, entry: dict[str, Any]) -> str:
        """What an image's maps answer."""
        name = self.name(entry["class"])
        if self.against is None:
            return f"why {name}?"
        if entry["contrast"] == entry["class"]:
            return f"why not {name} with certainty?"
        return f"why {name}, rather than {entry['contrast_name']}?"

    def detail(self, entry: dict[str, Any]) -> str:
        """What the model says of the image, in a line."""
        if entry["probability"] is None:
            return self.explainer.name
        text = f"{self.explainer.name}: {percent(entry['probability'])}"
        top = entry["top"][0]
        if top["class"] == entry["class"]:
            rest = [t for t in entry["top"][1:3] if t["probability"] >= 0.01]
        else:
            rest = [top]
        others = ", ".join(f"{self.name(t['class'])} {percent(t['probability'])}" for t in rest)
        return (
            text
            + (f"; then {others}" if rest and top["class"] == entry["class"] else "")
            + (f"; its top class is {others}" if top["class"] != entry["class"] else "")
        )

    def line(self, entry: dict[str, Any]) -> str:
        """An image's line on the terminal."""
        chance = "" if entry["probability"] is None else percent(entry["probability"])
        # A run has one time for all its images: it is no image's own.
        alone = entry["images_in_run"] == 1
        took = f" {lasted(entry['ms']):>11}" if alone else ""
        from ..pictures import reading

        empty: dict[str, list[str]] = {}
        for method in entry["no_gradient"]:
            empty.setdefault(reading.empty(method, self.explainer.layers), []).append(method)
        if entry.get("contrast") == entry["class"]:
            what = "their difference is 0 everywhere" if self.by_logit else reading.DOUBT
            took += f"  the contrast is the class itself: {what}"
        return (
            f"{Path(entry['file']).name:<24} {self.name(entry['class']):<36} {chance:>7}{took}"
            + "".join(f"  {why}: {', '.join(names)} all 0" for why, names in empty.items())
        )

    def about(self, model: str) -> dict[str, Any]:
        """What summary.json says of the run."""
        from ...export.methods import RULES
        from ..pictures.panel import caption_of
        from ..pictures.reading import base

        layout, channels = self.explainer.input.layout, self.explainer.input.channels
        return {
            "model": model,
            "methods": list(self.explainer.methods),
            "rules": [m for m in self.explainer.methods if m in RULES],
            **self.explainer.settings,
            "target_class": "top1" if self.target < 0 else self.target,
            "preprocess": preprocess_told(self.preprocess),
            "providers": self.explainer.session.providers,
            "ms": "of an image: its run's time by the number of images in it",
            "pictures": {
                m: caption_of(base(m)[0].name, layout, False, channels, self.preprocess.bands)
                for m in self.explainer.methods
            },
        }


def map_file(name: str, rule: str) -> str:
    return f"{name}-{rule}.npy"
