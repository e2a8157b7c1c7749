"""A model that scores photos, as its commands tell of it: classes and probabilities for people and
for the summary, what hides a part of a photo, and the sheet of one photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from .console import percent
from .options import (
    chosen_labels,
    chosen_preprocess,
    class_asked,
    class_entry,
    inputs_of,
    model_path,
    named,
    shapes_of,
    shown_bands,
)
from .photos import PhotoJob, preprocess_told, seen_as

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ...export.preprocess import Preprocess
    from ..classifier.ready import Ready
    from ..masked.scoring import Scorer
    from ..photos.images import Prepared
    from ..photos.outputs import OutputFolder
    from ..pictures.panel import Cell

__all__ = [
    "RESULTS",
    "SHOWN",
    "Scored",
    "baseline_given",
    "flat",
    "refuse_names",
    "refuse_words",
    "score_given",
]

# Of each photo, by masked images: the panel, and the maps.
RESULTS = ("{}.png", "{}.npy")

# Classes that get a picture and a line of their own; the maps of all are in the .npy file.
SHOWN = 3


def refuse_words(preprocess: str | None, labels: str | None) -> None:
    """Raise UsageError for words of --preprocess and --labels that nothing is known by: before a
    model is loaded."""
    from ...export.preprocess import parse
    from ..classifier.labels import load_labels

    if preprocess is not None:
        parse(preprocess)
    if labels is not None:
        load_labels(labels)


def refuse_names(
    ready: Ready, labels: str | None, classes: Sequence[str] | None, contrast: str | None = None
) -> Ready:
    """Raise UsageError for class names that neither --labels nor the model's file knows: before the
    model is loaded, which is only read so far. It is given back."""
    from ... import written
    from ..classifier.labels import class_number, load_labels, of_model, rival_number

    # The number of classes, not known yet, adds a background, or "not X" to the X of one logit.
    given = [*(classes or ()), *([] if contrast is None else [contrast])]
    if any(c.casefold() == "background" or c.casefold().startswith("not ") for c in given):
        return ready
    words = ("top1", "all")
    asked = [c for c in classes or () if c not in words and written.whole(c) is None]
    rival = None if contrast is None or written.whole(contrast) is not None else contrast
    if not asked and rival in (None, "second", "input"):
        return ready
    if labels is not None:
        names: list[str] | None = load_labels(labels)
    else:
        names = of_model(ready.metadata, ready.source, None)
    for name in asked:
        class_number(name, names)
    if rival is not None:
        rival_number(rival, names)
    return ready


def baseline_given(given: str, space: str) -> Any:
    """What --baseline and --baseline-space say; None: a picture, to be read as the photos are."""
    from ...kernels import as_baseline
    from .masked import array_of, refuse_missing

    if space not in ("input", "pixels"):
        raise UsageError.unknown("--baseline-space", space, ("input", "pixels"))
    file = Path(given)
    if not file.is_file():
        refuse_missing("--baseline", file)
        try:
            made = as_baseline(given, space)  # type: ignore[arg-type]
        except UsageError as err:
            raise UsageError(f"--{err}, or a file") from None
        if space == "pixels" and made.kind in ("mean", "blur", "noise"):
            raise UsageError(f"--baseline-space pixels: --baseline {given} is the photo's own")
        return made
    if file.suffix.lower() == ".npy":
        return as_baseline(array_of(file), space)  # type: ignore[arg-type]
    if space == "pixels":
        raise UsageError(f"--baseline-space pixels: {file} is read as the photo is")
    return None


def score_given(score: str | None) -> None:
    """Refuse a --score that nothing is known by."""
    from ..classifier.intake import SCORES

    if score is not None and score not in SCORES:
        raise UsageError.unknown("--score", score, SCORES)


@dataclass
class Scored:
    """A model's scorer with what --preprocess and --labels say of it. path: as it was given. notes:
    on that, for when nothing is amiss: a mistake has one line on stderr."""

    path: str
    scorer: Scorer
    preprocess: Preprocess
    labels: Sequence[str] | None
    notes: tuple[str | None, ...] = ()

    @classmethod
    def opened(
        cls, model: str | None, *, preprocess: str | None, labels: str | None,
        of: str | None, provider: list[str] | None, threads: int | None, memory: str | None,
        batch: int | None, shape: list[str] | None, extra: list[str] | None, bands: str | None,
        classes: Sequence[str] | None = None,
    ) -> Scored:  # fmt: skip
        """Load the model and settle how it wants its images. Words that nothing is known by are
        refused before; so are names of classes."""
        from ..classifier.ready import Ready
        from ..masked.scoring import Scorer
        from ..photos import images

        path = model_path(model)
        refuse_words(preprocess, labels)
        ready = Ready(path, shapes_of(shape), inputs_of(extra))
        scorer = Scorer(
            refuse_names(ready, labels, classes), of=of, providers=provider or None,
            threads=threads, memory=memory, batch=batch,
        )  # fmt: skip
        scorer.fed.needs()
        record, assumed = chosen_preprocess(
            preprocess, scorer.preprocess, path, scorer.input.dtype, scorer.input.channels, bands
        )
        record = images.fitted(record, scorer.input)
        scorer.preprocess = record
        own = None if scorer.layer is not None else scorer.labels
        names, hint = chosen_labels(labels, own, scorer.classes, of)
        return cls(path, scorer, record, names, (*scorer.notes, assumed, hint))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the model will see."""
        assert self.preprocess.size is not None
        return (self.scorer.input.channels or 3, *self.preprocess.size)

    def name(self, number: int) -> str:
        """A class for people."""
        if self.scorer.layer is not None and self.labels is None:
            return f"channel {number} of {self.scorer.layer}"
        return named(number, self.labels)

    def classes(self, given: Sequence[str] | None) -> list[int] | str:
        """What --target-class says: numbers (-1: the top class), or "all"."""
        wanted = list(given or ["top1"])
        if "all" in wanted:
            if len(wanted) > 1:
                raise UsageError("--target-class all goes alone")
            return "all"
        known = self.scorer.classes
        return list(dict.fromkeys(class_asked(w, self.labels, known) for w in wanted))

    def baseline(self, given: str, space: str) -> Any:
        """What --baseline says: a name or numbers as they are, a file as a Baseline."""
        from ...kernels import as_baseline
        from ..photos import images

        made = baseline_given(given, space)
        if made is not None:
            return made
        shown = images.read(Path(given), self.preprocess, self.scorer.input)
        return as_baseline(self.scorer.planar(shown.tensor))

    def rehearse(self, baseline: Any) -> None:
        """Raise now what the first photo would: a budget or a baseline that doesn't fit."""
        shape = self.scorer.input.shape(self.shape[1:])
        self.scorer.rows(shape)
        blank = self.scorer.xp.zeros(shape, self.scorer.input.dtype)
        self.scorer.baseline(self.scorer.planar(blank), baseline)

    def probabilities(self, logits: NDArray[Any]) -> Any:
        """Scores [K] before the closing operator -> probabilities [K], or None: of a layer too,
        whose channels compete for nothing."""
        from ..classifier.intake import as_score

        if self.scorer.layer is not None and self.scorer.closing is None:
            return None
        try:
            return as_score(logits[None], "probability", self.scorer.closing)[0]
        except UsageError:
            return None

    def measured(self, score: str) -> str:
        """What a map is of, for people. score: see Scorer.settled."""
        plain = self.scorer.layer is not None and self.scorer.closing is None
        return "activation of the channel" if plain else f"{score} of the class"

    def top(self, chances: Any) -> list[dict[str, Any]]:
        """The five likeliest classes, for the summary."""
        return [self.chance(int(c), chances) for c in chances.argsort()[::-1][:5]]

    def chance(self, number: int, chances: Any) -> dict[str, Any]:
        """A class, for the summary."""
        return class_entry(number, self.labels, chances)

    def titled(self, number: int, chances: Any) -> str:
        """A class and its probability, for people."""
        chance = "" if chances is None else f", {percent(chances[number])}"
        return self.name(number) + chance

    def finish(
        self, photos: PhotoJob, folder: OutputFolder, seconds: float, settings: dict[str, Any]
    ) -> None:
        """The summary and the last line of a run on masked images."""
        spec, session = self.scorer.input, self.scorer.session
        about = {
            "model": self.path,
            **settings,
            "preprocess": preprocess_told(self.preprocess),
            "providers": session.providers,
            "variants_per_run": self.scorer.rows(spec.shape(self.shape[1:])),
        }
        line = photos.timed(seconds, 1, session.provider, folder)
        note = shown_bands(self.preprocess, spec.channels)
        photos.finish(folder, about, line, count=False, note=note)

    def cell(self, prepared: Prepared) -> Cell:
        """The crop that the model saw."""
        from ..pictures.panel import Cell

        shape = prepared.pixels.shape
        return Cell(prepared.pixels, "photo", seen_as(shape, self.preprocess, self.scorer.input))

    def drawn(self, heading: str, detail: str, cells: Sequence[Cell]) -> Image.Image:
        """The sheet of one photo."""
        from ..pictures.panel import panel

        return panel(heading, f"{self.scorer.name}: {detail}", cells)

    def lines(
        self, file: Path, classes: Sequence[dict[str, Any]], rest: str,
        figure: Callable[[dict[str, Any]], str] = lambda _: "",
    ) -> list[str]:  # fmt: skip
        """A photo's lines on the terminal, one for each class that has a picture; `rest` of what is
        to be said ends the first. figure: of a class of the summary, in a few letters."""
        lines: list[str] = []
        for told in classes[:SHOWN]:
            chance = "" if told["probability"] is None else percent(told["probability"])
            name, end = ("", "") if lines else (file.name, rest)
            note = "" if told["note"] is None else f"  {told['note']}"
            shown = f"{name:<20} {self.name(told['class']):<30} {chance:>7}{figure(told)}"
            lines.append(f"{shown}{end}{note}".rstrip())
        more = len(classes) - SHOWN
        return lines if more < 1 else [*lines, f"{'':<20} and {more} more in summary.json"]


def flat(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map [H, W]; of a map with channels their sum."""
    return heat if heat.ndim == 2 else heat.sum(axis=0)
