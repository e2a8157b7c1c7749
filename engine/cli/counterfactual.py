"""`backlight counterfactual`: which parts of a photo would have to be another for another class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import ImageError, UsageError
from .console import percent
from .layers import results_in
from .masked import Of, Photos
from .options import (
    PHOTOS,
    Bands,
    Batch,
    Extra,
    Force,
    Json,
    Labels,
    Model,
    OutputDir,
    PreprocessOption,
    Provider,
    Shape,
    Threads,
    chosen_labels,
    counted,
    inputs_of,
    model_path,
    named,
    photo_paths,
    preprocess_of,
    shapes_of,
    shown_bands,
)
from .photos import PhotoJob, found_photos, preprocess_told, results_of

if TYPE_CHECKING:
    from ...export.preprocess import Preprocess
    from ..photos.images import Pixels
    from ..photos.outputs import OutputFolder
    from ..targeted.counterfactual import Counterfactual
    from ..targeted.search import Changes, Seen

# Pairs of a picture, in rows of so many, and their sizes.
SHOWN, ROW, CUT, SIDE = 10, 5, 84, 330

Target = Annotated[
    str | None,
    typer.Option(
        "--class", "--target-class", metavar="Q",
        help="The other class: a number, or a name from the labels. [what most --distractors are]",
    ),
]  # fmt: skip
Distractors = Annotated[
    list[str] | None,
    typer.Option(
        "--distractors",
        metavar="FOLDER",
        help="Pictures of Q; repeatable. [the bundled photos and those given]",
    ),
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer", "-l", metavar="L", help="A tensor or node with rows and columns. [the last]"
    ),
]
SearchOption = Annotated[
    str,
    typer.Option(
        "--search",
        metavar="HOW",
        help="sort: exact, where the head is a mean over places; greedy; auto.",
    ),
]
Edits = Annotated[
    int | None, typer.Option("--edits", metavar="N", help="Cells exchanged, at most. [all]")
]
PairsOption = Annotated[
    int, typer.Option("--pairs", metavar="N", help="Tried for a greedy exchange, at most.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("counterfactual")(counterfactual)


def counterfactual(
    image: Photos = None,
    target_class: Target = None,
    distractors: Distractors = None,
    output: OutputDir = Path("counterfactual"),
    model: Model = None,
    layer: LayerOption = None,
    search: SearchOption = "auto",
    edits: Edits = None,
    pairs: PairsOption = 2500,
    of: Of = None,
    preprocess: PreprocessOption = None,
    bands: Bands = None,
    labels: Labels = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    shape: Shape = None,
    input_: Extra = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Which cells of a photo, replaced by which of a picture of Q, make it Q (Goyal et al. 2019).

    For each photo a picture of the pairs with the score after each, and summary.json. Where no
    exchange makes it Q, that is said.
    """
    if target_class is None and not distractors:
        raise UsageError(
            "no class given; --class Q (a number, or a name from the labels), or --distractors "
            "FOLDER with pictures of one"
        )
    photos = found_photos("counterfactual", image, output, ("{}.png",), force, json)
    job = _opened(
        photos, model_path(model), layer, search, edits, pairs, of, preprocess, labels, provider,
        threads, batch, shape, input_, bands,
    )  # fmt: skip
    given = None if target_class is None else _number(target_class, job)
    job.choose(given, distractors, batch)
    with results_in(output, results_of(photos, ("{}.png",)), force) as folder:
        each = job.most
        with photos.progress("exchanging", each) as step:
            for group in photos.groups(job.preprocess, job.change.input, batch):
                for row, index in enumerate(group.index.tolist()):
                    file, name = photos.files[index], photos.names[index]
                    try:
                        seen = job.change.look(group.tensor[row : row + 1])[0]
                    except ImageError as err:
                        photos.refuse(file, str(err).replace("image 0", "it"))
                        step.advance(each)
                        continue
                    shown = Shown(file, group.pixels[row], seen)
                    done = job.one(folder, name, shown, step.advance)
                    step.advance(max(each - done, 0))
        line = ""
        if photos.entries:
            line = f"{counted(len(photos.entries))} -> {folder.path}/"
        note = shown_bands(job.preprocess, job.change.input.channels)
        photos.finish(folder, job.about(), line, count=False, note=note)


@dataclass(frozen=True)
class Shown:
    """A picture, as it is shown and as the model sees it."""

    file: Path
    pixels: Pixels
    seen: Seen


@dataclass
class Job:
    """The command on some photos. others: the distractors; target: the other class."""

    path: str
    change: Counterfactual
    preprocess: Preprocess
    labels: Sequence[str] | None
    photos: PhotoJob
    others: tuple[Shown, ...] = ()
    target: int = -1

    def name(self, number: int) -> str:
        """A class for people."""
        return named(number, self.labels)

    def choose(self, given: int | None, folders: Sequence[str] | None, batch: int) -> None:
        """Look through the distractors for those of the class; the others are passed over, which is
        said of those that were given. Raises UsageError where none is left."""
        from ..photos.stream import Skipped, found_files, groups
        from ..targeted.counterfactual import HELD

        own = folders is None
        paths: list[str | Path] = (
            [*self.photos.files, PHOTOS] if own else list(photo_paths(folders))
        )
        files, missing = found_files(paths)
        if missing and not own:
            raise missing[0].error
        seen: list[Shown] = []
        tops: dict[int, int] = {}
        for group in groups(files, self.preprocess, self.change.input, batch):
            if not own:
                self.photos.skipped += group.skipped
            for row, index in enumerate(group.index.tolist()):
                try:
                    one = self.change.look(group.tensor[row : row + 1])[0]
                except ImageError as err:
                    if not own:
                        why = ImageError(f"{files[index]}: {err}")
                        self.photos.skipped.append(Skipped(str(files[index]), why))
                    continue
                tops[one.top] = tops.get(one.top, 0) + 1
                if given is None or one.top == given:
                    seen.append(Shown(files[index], group.pixels[row], one))
                elif not own:
                    why = ImageError(
                        f"{files[index]}: taken for {self.name(one.top)}: no distractor, as it is "
                        f"not of {self.name(given)}"
                    )
                    self.photos.skipped.append(Skipped(str(files[index]), why))
            # As many as are tried, those surest of their class.
            if given is not None and len(seen) > 2 * HELD:
                seen = self._surest(seen, given, HELD)
        target = given
        if target is None:
            if not tops:
                raise self.photos.skipped[-1].error
            target = max(tops, key=lambda c: tops[c])
            self.photos.note(f"--class: {self.name(target)}, what most of the distractors are")
        kept = [one for one in seen if one.seen.top == target]
        if not kept:
            found = ", ".join(self.name(c) for c in sorted(tops, key=lambda c: -tops[c])[:3])
            where = "among the bundled photos and those given" if own else "among the distractors"
            more = "" if not found else f", which the model takes for {found}"
            hint = "; --distractors FOLDER gives some" if own else "; expected one at least"
            raise UsageError(f"no picture of {self.name(target)} {where}{more}{hint}")
        self.target = target
        self.others = tuple(self._surest(kept, target, HELD))

    def _surest(self, seen: Sequence[Shown], target: int, most: int) -> list[Shown]:
        return sorted(seen, key=lambda one: -self._chance(one.seen.scores, target))[:most]

    def _chance(self, scores: Any, number: int) -> float:
        chances = self.change.scored.probabilities(scores[None])
        return float(scores[number] if chances is None else chances[0, number])

    @property
    def most(self) -> int:
        """Swaps of a photo, at most."""
        cells = len(self.change.grid(self.others[0].seen))
        return min(self.change.edits or cells, cells)

    def one(
        self, folder: OutputFolder, name: str, photo: Shown, progress: Callable[[int], None]
    ) -> int:
        """One photo: searched, written, and told in a line. The number of swaps."""
        file = photo.file
        others = [one for one in self.others if one.file != file] or list(self.others)
        seen = [one.seen for one in others]
        # Several distractors are several searches: only one can be followed.
        told = progress if len(seen) == 1 or self.change.search == "greedy" else None
        made = self.change.change(photo.seen, seen, self.target, told)
        other = None if made.distractor < 0 else others[made.distractor]
        entry = self._entry(made, photo, other, f"{name}.png")
        if other is not None:
            folder.picture(entry["panel"], _picture(self, made, photo, other))
        cells = made.grid[0] * made.grid[1]
        if other is None:
            what = made.note or ""
        else:
            ending = entry["after"]["probability"]
            chance = "" if ending is None else f", {percent(ending)}"
            what = f"{len(made.swaps)} of {cells} cells of {other.file.name}{chance}"
            what += "" if made.note is None else f"  {made.note}"
        line = f"{file.name:<20} {self.name(made.source)} -> {self.name(made.target)}  {what}"
        self.photos.add(entry, line)
        return len(made.swaps) if told is not None else 0

    def _entry(
        self, made: Changes, photo: Shown, other: Shown | None, panel: str
    ) -> dict[str, Any]:
        steps = [self._told(scores, made) for scores in made.scores]
        size = photo.pixels.shape[:2]
        boxes = self.change.boxes(photo.seen, size).round(2).tolist()
        columns = made.grid[1]
        return {
            "file": str(photo.file),
            "panel": None if other is None else panel,
            "class": made.source,
            "name": self._label(made.source),
            "target_class": made.target,
            "target_name": self._label(made.target),
            "distractor": None if other is None else str(other.file),
            "search": made.search,
            "grid": list(made.grid),
            "changed": made.done and other is not None,
            "note": made.note,
            "tried": made.tried,
            "before": steps[0],
            "after": steps[-1],
            "edits": [
                {
                    "cell": [y, x],
                    "distractor_cell": [v, u],
                    "box": boxes[y * columns + x],
                    "distractor_box": boxes[v * columns + u],
                    **told,
                }
                for (y, x, v, u), told in zip(made.swaps.tolist(), steps[1:], strict=True)
            ],
        }

    def _told(self, scores: Any, made: Changes) -> dict[str, Any]:
        chances = self.change.scored.probabilities(scores[None])
        return {
            "top": int(scores.argmax()),
            "score": float(scores[made.target]),
            "probability": None if chances is None else round(float(chances[0, made.target]), 6),
            "source_probability": (
                None if chances is None else round(float(chances[0, made.source]), 6)
            ),
        }

    def _label(self, number: int) -> str | None:
        return None if self.labels is None else self.labels[number]

    def about(self) -> dict[str, Any]:
        """What summary.json says of the run."""
        return {
            "model": self.path,
            "layer": self.change.layer,
            "target_class": self.target,
            "search": self.change.search,
            "distractors": [str(one.file) for one in self.others],
            "preprocess": preprocess_told(self.preprocess),
            "providers": self.change.head.session.providers,
            "boxes": "top, left, bottom, right in pixels of the photo as the model sees it",
        }


def _opened(
    photos: PhotoJob, path: str, layer: str | None, search: str, edits: int | None, pairs: int,
    of: str | None, preprocess: str | None, labels: str | None, provider: list[str] | None,
    threads: int | None, batch: int, shape: list[str] | None, extra: list[str] | None,
    bands: str | None,
) -> Job:  # fmt: skip
    from ..classifier.ready import Ready
    from ..photos import images
    from ..targeted.counterfactual import Counterfactual

    ready = Ready.of(path, shapes_of(shape), inputs_of(extra))
    record, assumed = preprocess_of(ready, preprocess, bands)
    change = Counterfactual(
        ready, layer, search=search, edits=edits, pairs=pairs, of=of, preprocess=record,
        providers=provider or None, threads=threads, batch=batch,
    )  # fmt: skip
    names, hint = chosen_labels(labels, change.labels, change.classes, of)
    photos.note(*change.notes, assumed, hint)
    return Job(path, change, images.fitted(record, change.input), names, photos)


def _number(given: str, job: Job) -> int:
    """What --class says. Raises UsageError."""
    from ..classifier.labels import class_number

    try:
        number = class_number(given, job.labels, "a class")
        if number < 0:
            raise UsageError(f"--target-class '{given}'; accepted: a class number or name")
        return job.change.target(number, ())
    except UsageError as err:
        raise UsageError(str(err).replace("--target-class", "--class")) from None


def _picture(job: Job, made: Changes, photo: Shown, other: Shown) -> Any:
    """The two pictures with their cells, what it would be in pixels, and the pairs."""
    from PIL import Image

    from ..pictures.panel import PAPER, Cell, panel
    from ..pictures.regions import marked, pasted

    boxes = job.change.boxes(photo.seen, photo.pixels.shape[:2])
    columns = made.grid[1]
    mine = boxes[made.swaps[:, 0] * columns + made.swaps[:, 1]]
    theirs = boxes[made.swaps[:, 2] * columns + made.swaps[:, 3]]
    after = _said(job, made, len(made.swaps))
    cells = [
        Cell(
            marked(photo.pixels, mine, SIDE), f"photo: {_said(job, made, 0, made.source)}",
            "the cells that are replaced, in order",
        ),
        Cell(
            marked(other.pixels, theirs, SIDE), other.file.name,
            f"taken for {job.name(made.target)}; the cells that come in their place",
        ),
        Cell(
            pasted(photo.pixels, list(mine), other.pixels, list(theirs)), f"then: {after}",
            "the same parts pasted, for the eye: the model's layer was changed, not the pixels",
        ),
    ]  # fmt: skip
    cells[2] = replace(cells[2], pixels=marked(cells[2].pixels, mine[:0], SIDE))
    height, width = made.grid
    how = "sorted by what each cell adds to the margin" if made.search == "sort" else "greedily"
    exchanged = "1 cell" if len(made.swaps) == 1 else f"{len(made.swaps)} cells"
    detail = f"{job.change.name}, {job.change.layer}: {exchanged} of {height} x {width}, {how}" + (
        "" if made.note is None else f"; {made.note}"
    )
    heading = f"{photo.file.name}: what would make it {job.name(made.target)}?"
    above = panel(heading, detail, cells)
    below = _pairs(job, made, photo, other, mine, theirs)
    sheet = Image.new("RGB", (max(above.width, below.width), above.height + below.height), PAPER)
    sheet.paste(above, (0, 0))
    sheet.paste(below, (0, above.height))
    return sheet


def _said(job: Job, made: Changes, at: int, number: int | None = None) -> str:
    """A class and its probability after so many swaps."""
    number = made.target if number is None else number
    chances = job.change.scored.probabilities(made.scores[at][None])
    if chances is None:
        return f"{job.name(number)}, {float(made.scores[at][number]):.3g}"
    return f"{job.name(number)}, {percent(float(chances[0, number]))}"


def _pairs(job: Job, made: Changes, photo: Shown, other: Shown, mine: Any, theirs: Any) -> Any:
    """The pairs in order, each with the score after it: of many some, the first and the last."""
    import numpy as np

    from ..pictures.grid import Tile, sheet, tiled
    from ..pictures.regions import cut_out

    count = len(made.swaps)
    gap = np.full((CUT, 2, 3), 255, np.uint8)
    tiles = []
    for at in np.unique(np.linspace(0, count - 1, min(count, SHOWN)).round().astype(int)).tolist():
        pair = [cut_out(photo.pixels, mine[at], CUT), gap, cut_out(other.pixels, theirs[at], CUT)]
        chances = job.change.scored.probabilities(made.scores[at + 1][None])
        score = (
            f"{float(made.scores[at + 1][made.target]):.3g}"
            if chances is None
            else f"{100 * float(chances[0, made.target]):.2g} %"
        )
        tiles.append(Tile(np.concatenate(pair, axis=1), f"{at + 1}: {score}"))
    note = f"Each pair: the cell that goes, the cell that comes; {job.name(made.target)} after it."
    if count > SHOWN:
        note += f" {SHOWN} of {count}; all are in summary.json."
    rows = tiled(tiles, ROW)
    return sheet("The exchanges", [], rows, 2 * CUT + 14, note)
