"""What `occlude` and `rise` share: options, the photos one by one, files and summaries; and what
`explain` tells the methods that run the model on masked images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import ImageError, UsageError
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
    from ..masked.methods import Masking
    from ..masked.scoring import Progress, Scorer
    from ..photos.images import Prepared
    from ..photos.outputs import OutputFolder
    from ..pictures.panel import Cell

# Classes that get a picture and a line of their own; the maps of all are in the .npy file.
SHOWN = 3

Photos = Annotated[
    list[str] | None,
    typer.Argument(metavar="IMAGE…", help="Images and folders. [default: bundled photos]"),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target-class",
        metavar="C",
        help="top1, a class number or name; repeatable, at the price of one; or all. [top1]",
    ),
]
ScoreOption = Annotated[
    str | None,
    typer.Option(
        "--score",
        metavar="S",
        help="probability, logit or logprob. [probability; logit where a single score has none]",
    ),
]
BaselineOption = Annotated[
    str,
    typer.Option(
        "--baseline",
        metavar="B",
        help="What hides: mean, zero, blur:SIGMA, noise:SEED, a number, a colour such as "
        "124,116,104, a picture or an .npy file.",
    ),
]
SpaceOption = Annotated[
    str,
    typer.Option(
        "--baseline-space",
        metavar="HOW",
        help="Numbers and .npy files are in the model's input, or in pixels (0..255, RGB).",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="M", help="For a run, such as 2GB. [a quarter of the free]"),
]
MostRows = Annotated[
    int | None, typer.Option("--batch", metavar="N", help="At most N variants per run.")
]
Of = Annotated[
    str | None,
    typer.Option(
        "--of",
        metavar="T",
        help="Tensor to explain; T:as-is: not before its Softmax. [class scores]",
    ),
]


@dataclass
class Job:
    """A command on some photos with one model."""

    path: str
    scorer: Scorer
    preprocess: Preprocess
    labels: Sequence[str] | None
    photos: PhotoJob

    def say_new(self) -> None:
        """Say what the scorer has noted since."""
        self.photos.note(*self.scorer.notes)

    def fed(self, prepared: Prepared) -> Any:
        """What a call takes for a photo."""
        return prepared.tensor[None]

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

        if space not in ("input", "pixels"):
            raise UsageError.unknown("--baseline-space", space, ("input", "pixels"))
        file = Path(given)
        if not file.is_file():
            try:
                return as_baseline(given, space)  # type: ignore[arg-type]
            except UsageError as err:
                raise UsageError(f"--{err}, or a file") from None
        if file.suffix.lower() == ".npy":
            return as_baseline(_array_in(file), space)  # type: ignore[arg-type]
        shown = images.read(file, self.preprocess, self.scorer.input)
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


def _array_in(file: Path) -> NDArray[Any]:
    """The array of an .npy file. Raises UsageError."""
    from ..photos.arrays import array_in

    try:
        return array_in(file)
    except (OSError, ValueError) as err:
        raise UsageError(f"{file}: no .npy file that can be read: {err}") from err


def open_job(
    photos: PhotoJob,
    model: str | None,
    preprocess: str | None,
    labels: str | None,
    of: str | None,
    provider: list[str] | None,
    threads: int | None,
    memory: str | None,
    batch: int | None,
    shape: list[str] | None = None,
    extra: list[str] | None = None,
    bands: str | None = None,
) -> Job:
    """Load the model and settle how it wants its images; notes are said."""
    from ..masked.scoring import Scorer
    from ..photos import images

    path = model_path(model)
    scorer = Scorer(
        path,
        of=of,
        providers=provider or None,
        threads=threads,
        memory=memory,
        batch=batch,
        shapes=shapes_of(shape),
        inputs=inputs_of(extra),
    )
    scorer.fed.needs()
    record, assumed = chosen_preprocess(
        preprocess, scorer.preprocess, path, scorer.input.dtype, scorer.input.channels, bands
    )
    record = images.fitted(record, scorer.input)
    scorer.preprocess = record
    own = None if scorer.layer is not None else scorer.labels
    names, hint = chosen_labels(labels, own, scorer.classes, of)
    photos.note(*scorer.notes, assumed, hint)
    return Job(path, scorer, record, names, photos)


# Of each photo.
RESULTS = ("{}.png", "{}.npy")

# One photo: (job, file, output name, as the model sees it, progress) -> its entry and its lines.
One = Callable[["Job", Path, str, "Prepared", "Progress"], tuple[dict[str, Any], list[str]]]


def run_job(
    job: Job, output: Path, force: bool,
    each: int, title: str, settings: dict[str, Any], one: Callable[[OutputFolder], One],
) -> None:  # fmt: skip
    """Go through the photos; a bad one doesn't stop the others. each: variants per photo."""
    photos = job.photos
    with photos.results(output, RESULTS, force, job.path) as folder:
        do = one(folder)
        start = time.perf_counter()
        with photos.progress(title, each) as step:
            for group in photos.groups(job.preprocess, job.scorer.input, 1):
                for row, index in enumerate(group.index.tolist()):
                    file, name = photos.files[index], photos.names[index]
                    try:
                        entry, lines = do(job, file, name, group.prepared(row), step.advance)
                    except ImageError as err:
                        photos.refuse(file, err)
                        continue
                    photos.add(entry, *lines)
        provider = job.scorer.session.provider
        line = photos.timed(time.perf_counter() - start, 1, provider, folder)
        note = shown_bands(job.preprocess, job.scorer.input.channels)
        photos.finish(folder, _about(job, settings), line, count=False, note=note)


def _about(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    """What summary.json says of the run."""
    return {
        "model": job.path,
        **settings,
        "preprocess": preprocess_told(job.preprocess),
        "providers": job.scorer.session.providers,
        "variants_per_run": job.scorer.rows(job.scorer.input.shape(job.shape[1:])),
    }


def masking(
    segments: str | None, hide: str | None, masks: int | None, seed: int | None, score: str | None,
    layer: Sequence[str] | None, fuse: bool, size: str, signed: bool,
) -> Masking:  # fmt: skip
    """What explain's options tell the engine's methods. Raises UsageError."""
    from ..masked.methods import Masking

    return Masking(
        segments=None if segments is None else segments_given(segments),
        masks=masks,
        seed=seed,
        hide=None if hide is None else _hidden_by(hide),
        score=score,  # type: ignore[arg-type]
        layer=tuple(layer or ()),
        fuse=fuse,
        size=size,
        signed=signed,
    )


def _hidden_by(given: str) -> Any:
    """--hide: a name or numbers. Raises UsageError."""
    from ...kernels import as_baseline
    from ..masked.attributed import OWN_MEAN

    if given == OWN_MEAN:
        return given
    try:
        return as_baseline(given)
    except UsageError:
        raise UsageError(
            f"--hide '{given}'; accepted: '{OWN_MEAN}' (its own mean colour), 'mean', 'zero', "
            "'blur:SIGMA', 'noise:SEED', a number, a colour"
        ) from None


def segments_given(given: str) -> Any:
    """--segments: a name as it is, a file's map. Raises UsageError."""
    from ..masked.superpixels import as_superpixels
    from ..photos.images import label_map

    file = Path(given)
    if not file.is_file():
        try:
            return as_superpixels(given)
        except UsageError as err:
            raise UsageError(f"--{err}, or a file of one") from None
    if file.suffix.lower() == ".npy":
        return as_superpixels(_array_in(file), given)
    return as_superpixels(label_map(file), given)


def numbers(given: str, option: str) -> int | tuple[int, ...]:
    """`16`, `16,24` or `3,16,24` (x as well as commas). Raises UsageError."""
    try:
        parts = tuple(int(part) for part in given.lower().replace("x", ",").split(","))
    except ValueError:
        parts = ()
    if not 1 <= len(parts) <= 3:
        raise UsageError(f"{option} '{given}'; accepted: such as 16, 16x24 or 3x16x24")
    return parts[0] if len(parts) == 1 else parts


def photo_cell(job: Job, prepared: Prepared) -> Cell:
    """The crop that the model saw."""
    from ..pictures.panel import Cell

    shape = prepared.pixels.shape
    return Cell(prepared.pixels, "photo", seen_as(shape, job.preprocess, job.scorer.input))


def drawn(job: Job, heading: str, detail: str, cells: Sequence[Cell]) -> Image.Image:
    """The sheet of one photo."""
    from ..pictures.panel import panel

    return panel(heading, f"{job.scorer.name}: {detail}", cells)


def told_lines(
    job: Job,
    file: Path,
    classes: Sequence[dict[str, Any]],
    rest: str,
    figure: Callable[[dict[str, Any]], str] = lambda _: "",
) -> list[str]:
    """A photo's lines on the terminal, one for each class that has a picture; `rest` of what is
    to be said ends the first. figure: of a class of the summary, in a few letters."""
    lines: list[str] = []
    for told in classes[:SHOWN]:
        chance = "" if told["probability"] is None else percent(told["probability"])
        name, end = ("", "") if lines else (file.name, rest)
        note = "" if told["note"] is None else f"  {told['note']}"
        shown = f"{name:<20} {job.name(told['class']):<30} {chance:>7}{figure(told)}"
        lines.append(f"{shown}{end}{note}".rstrip())
    more = len(classes) - SHOWN
    return lines if more < 1 else [*lines, f"{'':<20} and {more} more in summary.json"]


def flat(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map [H, W]; of a map with channels their sum."""
    return heat if heat.ndim == 2 else heat.sum(axis=0)
